"""Whose submission is what: the bulk downloads of Moodle and Canvas, and a roster of the class."""
import csv
import os
import re
import zipfile
from typing import NamedTuple

from data import InputError
from data.images import nfc, printable
from evaluation.limits import LIMITS, run_each
from evaluation.submissions import list_place

MOODLE = re.compile(r"(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_(?P<kind>file|onlinetext)_?/?(?P<file>.*)", re.S)
CANVAS = re.compile(r"(?P<name>[^/_]+)(?P<late>_LATE)?_(?P<id>[1-9]\d*)_[1-9]\d*_(?P<file>[^/]+)", re.S)


class Submission(NamedTuple):
    """`source` is what submissions.list_entries takes; the rest are cells of grades.csv, "" where not known."""
    source: str | tuple
    name: str
    id: str = ""
    late: str = ""
    attempt: str = ""
    superseded: str = ""  # earlier attempts, which do not count


def find_submissions(paths):
    """The submissions that the command line names. A bulk download, a folder or zip, must be named alone: else a
    student's own zip could claim to hold the others' work."""
    if len(paths) == 1 and (os.path.isdir(paths[0]) or paths[0].lower().endswith(".zip")):
        names = names_in(paths[0])
        if names and all(MOODLE.fullmatch(name) or CANVAS.fullmatch(name) for name in names):
            return by_student(paths[0], names)
    bases = [os.path.basename(path) for path in paths]
    found = []
    for path, base in zip(paths, bases):
        moodle = MOODLE.fullmatch(base)
        name = moodle["name"] if moodle else base if bases.count(base) == 1 else path
        found.append(Submission(path, printable(name), moodle["id"] if moodle else ""))
    return found if len({each.name for each in found}) == len(found) else [
        each._replace(name=printable(each.source)) for each in found]


def names_in(path):
    """The names of a download's files, listed in a process with limits; [] if it is none."""
    if os.path.isdir(path) and any(name[:1] != "." and not (MOODLE.fullmatch(name) or CANVAS.fullmatch(name))
                                   for name in os.listdir(path)):
        return []
    (_, names), = run_each(list_names, [path], LIMITS["time"], LIMITS["memory"], 1)
    return names if isinstance(names, list) else []


def list_names(path):
    try:
        return [name for name, *_ in list_place(path) if not name.startswith((".", "__MACOSX"))]
    except (zipfile.BadZipFile, OSError, ValueError):  # then it is one submission, which will be refused
        return []


def by_student(path, names):
    """One Submission a student. Of files that differ in Canvas's number of the attempt the latest count."""
    students = {}
    for name in sorted(names):
        match = MOODLE.fullmatch(name) or CANVAS.fullmatch(name)
        if "assignsubmission" in name and match["kind"] != "file":
            continue  # a text typed into the page
        files = students.setdefault((match["name"], match["id"]), {})
        late = "yes" if match.groupdict().get("late") else ""
        base, attempt = match["file"], 1
        if match.re is CANVAS and (numbered := re.fullmatch(r"(.*)-(\d+)(\.[^.]*|)", base, re.S)):
            base, attempt = numbered[1] + numbered[3], int(numbered[2]) + 1
        files.setdefault(base, {})[attempt] = name, match["file"], late
    submissions, shown = [], [nfc(name) for name, _ in students]
    for (name, id), files in students.items():
        latest = {base: max(attempts) for base, attempts in files.items()}
        taken = [files[base][attempt] for base, attempt in latest.items()]
        older = [file for base, attempts in files.items() for attempt, (_, file, _) in attempts.items()
                 if attempt < latest[base]]
        name = nfc(name) if shown.count(nfc(name)) == 1 else f"{name} {id}"
        # Where there is a single file "work-1.zip", the number may be the student's own.
        attempt = max((latest[base] for base in files if len(files[base]) > 1), default=1)
        submissions.append(Submission((path, tuple((entry, file) for entry, file, _ in taken)), printable(name), id,
                                      max(late for *_, late in taken), str(attempt), ", ".join(map(printable, older))))
    return submissions


# ---------------------------------------------------------------------------------------------------------------------
# The roster


def read_roster(path):
    """The rows of a CSV with the columns name and id, any case, and any others, as dicts. Raises InputError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [{(key or "").strip().lower(): (value or "").strip() for key, value in row.items()
                     if isinstance(value, str)} for row in csv.DictReader(file)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--roster {printable(path)}: it is no CSV in UTF-8; save it anew") from error
    if not rows or not {"name", "id"} <= rows[0].keys():
        raise InputError(f"--roster {printable(path)}: its first line must hold name,id")
    return rows


def match_roster(roster, submissions):
    """[(row of the roster or None, Submission or None), ...]: by id, else by the letters of the name."""
    pairs, left = [], list(submissions)
    for row in roster:
        found = next((each for each in left if each.id and each.id == row["id"]), None) or next(
            (each for each in left if letters(each.name) in rotations(row["name"])), None)
        if found:
            left.remove(found)
        pairs.append((row, found))
    return pairs + [(None, each) for each in left]


def letters(name):
    return "".join(filter(str.isalpha, nfc(os.path.splitext(name)[0]).casefold()))


def rotations(name):
    """A name's letters in all orders of first and last names: Canvas writes lastnamefirstname."""
    words = re.findall(r"\w+", nfc(name).casefold())
    return {letters("".join(words[i:] + words[:i])) for i in range(len(words))}
