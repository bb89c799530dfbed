"""Whose submission is what: the bulk downloads of Moodle and Canvas, and a roster of the class."""
import csv
import os
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from data import InputError
from data.cache import usable_cores
from data.images import nfc, printable
from evaluation.limits import LIMITS, run_each
from evaluation.submissions import list_place

MOODLE = re.compile(r"(?P<name>[^/]+?)_(?P<id>\d+)_assignsubmission_(?P<kind>file|onlinetext)_?/?(?P<file>.*)", re.S)
CANVAS = re.compile(r"(?P<name>[^/_]+)(?P<late>_LATE)?_(?P<id>[1-9]\d*)_[1-9]\d*_(?P<file>[^/]+)", re.S)
LATER_ATTEMPT = re.compile(r"(.*)-(\d+)(\.[^.]*|)", re.S)  # Canvas writes work-1.zip for the second


class Submission(NamedTuple):
    """One row of the grades."""
    source: str | tuple | None  # what submissions.list_entries takes; None: nothing was handed in
    name: str
    cells: dict  # what grades.csv says besides: id, late, attempt, earlier attempts, and the roster's columns


def find_submissions(paths):
    """The submissions that the command line names. A bulk download, a folder or zip, is one for each student.

    Beside other paths its students are called by its name, too: else one student's zip could pass for the others' work.
    """
    places = [path for path in paths if os.path.isdir(path) or path.lower().endswith(".zip")]
    downloads = dict(run_each(list_download, places, LIMITS["time"], LIMITS["memory"], usable_cores()))
    bases, found = [os.path.basename(path) for path in paths], []
    for path, base in zip(paths, bases):
        shown = printable(base if bases.count(base) == 1 else path)
        if isinstance(names := downloads.get(path), list) and names:
            prefix = f"{shown}/" if len(paths) > 1 else ""
            found += [each._replace(name=prefix + each.name) for each in split_download(path, names)]
        elif moodle := MOODLE.fullmatch(base):
            found.append(Submission(path, printable(moodle["name"]), {"id": moodle["id"]}))
        else:
            found.append(Submission(path, shown, {}))
    times = Counter(each.name for each in found)
    return [each if times[each.name] == 1 else
            each._replace(name=f"{each.name} {each.cells.get('id') or printable(each.source)}") for each in found]


def of_student(name):
    return MOODLE.fullmatch(name) or CANVAS.fullmatch(name)


def list_download(path):
    """The names of the files in a bulk download; none for any other folder or zip."""
    try:
        names = [name for name, *_ in list_place(path) if not name.startswith((".", "__MACOSX"))]
    except (zipfile.BadZipFile, OSError, ValueError):  # then it is one submission, which will be refused
        return []
    return names if all(map(of_student, names)) else []


def split_download(path, names):
    """A Submission for each student. Of files that differ in Canvas's number of the attempt the latest counts."""
    students = defaultdict(lambda: defaultdict(dict))  # (name, id) -> file -> attempt -> (name in the download, match)
    for name in sorted(names):
        match = of_student(name)
        if match.re is MOODLE and match["kind"] != "file":
            continue  # a text typed into the page
        file, attempt = match["file"], 1
        if match.re is CANVAS and (later := LATER_ATTEMPT.fullmatch(file)):
            file, attempt = later[1] + later[3], int(later[2]) + 1
        students[nfc(match["name"]), match["id"]][file][attempt] = name, match
    for (name, id), files in students.items():
        taken = [attempts[max(attempts)] for attempts in files.values()]
        earlier = [match["file"] for attempts in files.values() for number, (_, match) in attempts.items()
                   if number < max(attempts)]
        # Where there is a single file "work-1.zip", the number may be the student's own.
        attempt = max((max(attempts) for attempts in files.values() if len(attempts) > 1), default=1)
        late = any(match.re is CANVAS and match["late"] for _, match in taken)
        yield Submission((path, tuple((entry, match["file"]) for entry, match in taken)), printable(name), {
            "id": id, "late": "yes" if late else "", "attempt": attempt,
            "earlier attempts": ", ".join(map(printable, earlier))})


def add_roster(path, submissions):
    """Submissions with the columns of a roster, a CSV with name,id and any others, found by id, else by the name.

    Whoever of the roster handed in nothing comes with source None. Raises InputError.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"--roster {printable(path)}: it is no CSV in UTF-8; save it anew") from error
    rows = [{(key or "").strip().lower(): value.strip() for key, value in row.items() if isinstance(value, str)}
            for row in csv.DictReader(lines)]
    if not rows or not {"name", "id"} <= rows[0].keys():
        raise InputError(f"--roster {printable(path)}: its first line must hold name,id")
    left, students = list(submissions), []
    for row in rows:
        name, id = row.get("name", ""), row.get("id", "")
        same = [each for each in left if id and each.cells.get("id") == id] or [
            each for each in left if letters(each.name) in rotations(name)]
        if same:
            left.remove(same[0])
        each = same[0] if same else Submission(None, printable(f"{name} {id}"), {})
        students.append(each._replace(cells=each.cells | {f"roster {key}": value for key, value in row.items()}))
    return students + left


def letters(name):
    return "".join(filter(str.isalpha, nfc(os.path.splitext(name)[0]).casefold()))


def rotations(name):
    """A name's letters in all orders of first and last names: Canvas writes lastnamefirstname."""
    words = re.findall(r"\w+", nfc(name).casefold())
    return {letters("".join(words[i:] + words[:i])) for i in range(len(words))}
