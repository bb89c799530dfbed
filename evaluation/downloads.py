"""Whose submission is what: the bulk downloads of Moodle and Canvas, and a roster of the class."""
import csv
import os
import re
import zipfile
from collections import Counter
from typing import NamedTuple

from data import InputError
from data.cache import usable_cores
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
    """The submissions that the command line names. A bulk download, a folder or zip, is one for each student.

    Beside other paths its students are called by its name, too: else one student's zip could pass for the others' work.
    """
    names = names_in([path for path in paths if os.path.isdir(path) or path.lower().endswith(".zip")])
    bases = [os.path.basename(path) for path in paths]
    found = []
    for path, base in zip(paths, bases):
        base = base if bases.count(base) == 1 else path
        if names.get(path) and all(map(of_student, names[path])):
            students = by_student(path, names[path])
            found += students if len(paths) == 1 else [
                each._replace(name=f"{printable(base)}/{each.name}") for each in students]
            continue
        moodle = MOODLE.fullmatch(base)
        found.append(Submission(path, printable(moodle["name"] if moodle else base), moodle["id"] if moodle else ""))
    times = Counter(each.name for each in found)
    return [each if times[each.name] == 1 else each._replace(name=f"{each.name} {each.id or printable(each.source)}")
            for each in found]


def of_student(name):
    return MOODLE.fullmatch(name) or CANVAS.fullmatch(name)


def names_in(paths):
    """Path -> the names of the files in a folder or zip, listed in a process with limits."""
    paths = [path for path in paths if not os.path.isdir(path) or all(
        name[:1] == "." or of_student(name) for name in os.listdir(path))]  # a folder's own names tell most
    results = run_each(list_names, paths, LIMITS["time"], LIMITS["memory"], usable_cores())
    return {path: names for path, names in results if isinstance(names, list)}


def list_names(path):
    try:
        return [name for name, *_ in list_place(path) if not name.startswith((".", "__MACOSX"))]
    except (zipfile.BadZipFile, OSError, ValueError):  # then it is one submission, which will be refused
        return []


def by_student(path, names):
    """One Submission a student. Of files that differ in Canvas's number of the attempt the latest count."""
    students = {}
    for name in sorted(names):
        match = of_student(name)
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
