"""Which file is whose submission: the bulk downloads of Moodle and Canvas, and a roster of the class."""
import contextlib
import csv
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from data import InputError
from data.cache import usable_cores
from data.images import nfc, printable
from evaluation.limits import LIMITS, run_each
from evaluation.submissions import is_hidden, is_network, list_entries

# The names in a download. Canvas writes work-1.zip for the second attempt; empty groups stand for what Moodle lacks.
MOODLE = re.compile(r"(?P<name>[^/]+?)(?P<late>)_(?P<id>\d+)_assignsubmission_[a-z]+_?/?"
                    r"(?P<file>(?P<stem>.*)(?P<later>)(?P<suffix>))", re.S)
CANVAS = re.compile(r"(?P<name>(?P<anonymous>(?:LATE_)?anon_\w{5})|[^/_]+)(?P<late>_LATE)?"
                    r"(?(anonymous)|_(?P<id>[1-9]\d*))_(?:[1-9]\d*_|(?=(?:text|link)\.html\Z))"
                    r"(?P<file>(?P<stem>[^/]+?)(?:-(?P<later>\d+))?(?P<suffix>\.[^./]*)?)", re.S)
WINDOWS_FILES = "Thumbs.db", "desktop.ini"


class Submission(NamedTuple):
    """One row of the grades."""
    source: str | tuple | None  # see submissions.list_entries; None: nothing was handed in
    name: str
    cells: dict  # more columns of grades.csv: id, late, attempt, earlier attempts, and the roster's columns


def find_submissions(paths):
    """The submissions that the command line names. A bulk download, a folder or zip, holds one for each student. If
    there are other paths, their names begin with its name: one student's zip must not pass for the others' work."""
    places = [path for path in paths if os.path.isdir(path) or path.lower().endswith(".zip")]
    downloads = dict(run_each(list_download, places, lambda _: LIMITS["time"], LIMITS["memory"], usable_cores()))
    bases, found = [os.path.basename(path) for path in paths], []
    for path, base in zip(paths, bases):
        shown = printable(base if bases.count(base) == 1 else path)
        if MOODLE.fullmatch(base):
            raise InputError(f"{printable(path)}: it is one student's part of a download; name the download's folder")
        if isinstance(names := downloads.get(path), list) and names:
            prefix = f"{shown}/" if len(paths) > 1 else ""
            found += [each._replace(name=prefix + each.name) for each in split_download(path, names)]
        else:
            found.append(Submission(path, shown, {}))
    times = Counter(each.name for each in found)
    return [each if times[each.name] == 1 else
            each._replace(name=f"{each.name} {each.cells.get('id') or printable(each.source)}") for each in found]


def of_student(name):
    return CANVAS.fullmatch(name) or MOODLE.fullmatch(name)  # what stands first is not the student's


def list_download(path):
    """The names of the files in a bulk download; an empty list for any other folder or zip."""
    try:
        names = [name for name, *_ in list_entries(path) if of_student(name) or not is_hidden(name, WINDOWS_FILES)]
    except Exception:  # then it is one submission, which will be refused
        return []
    others = [name for name in names if not of_student(name)]
    if 0 < len(others) < len(names) / 2:
        print(f"{printable(path)}: one submission, not a download, because it holds {printable(others[0])}")
    return [] if others else names


def split_download(path, names):
    """Yield a Submission for each student. If files differ only in Canvas's attempt number, the latest counts."""
    students = defaultdict(lambda: defaultdict(dict))  # (name, id) -> file -> attempt -> match
    for match in map(of_student, sorted(names)):
        file = match["stem"] + (match["suffix"] or "")
        name = nfc(match["name"][: LIMITS["name"]])  # to normalize a very long name would take seconds
        students[name, match["id"]][file][int(match["later"] or 0)] = match
    for (name, id), files in students.items():
        # The first attempt has no number. Without one, part-1 and part-2 have their numbers from the student.
        taken = [match for attempts in files.values() for number, match in attempts.items()
                 if number == max(attempts) or 0 not in attempts]
        earlier = [match["file"] for attempts in files.values() for match in attempts.values() if match not in taken]
        latest = max((max(attempts) for attempts in files.values() if 0 in attempts), default=0)
        source = path, tuple((match[0], match["file"]) for match in taken)
        shown = [match[0] for match in taken if not is_hidden(match[0], WINDOWS_FILES)]
        if os.path.isdir(path) and len(shown) == 1 and is_network(file := os.path.join(path, shown[0])):
            source = file
        yield Submission(source, printable(name), {
            "id": id, "late": "yes" if any(match["late"] for match in taken) else "", "attempt": latest + 1,
            "earlier attempts": ", ".join(map(printable, earlier))})


def add_roster(path, submissions):
    """Add the columns of a roster, a CSV with name,id and any others, to the submissions. Students are found by id, or
    else by name. One without a submission has the source None. Raises InputError."""
    left, students, lines, rows = list(submissions), [], [], []
    with contextlib.suppress(UnicodeDecodeError):
        text = Path(path).read_text("utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip(",;\t ")]  # Excel leaves empty rows
    for line in csv.DictReader(lines, delimiter=max(",;\t", key="".join(lines[:1]).count)):
        rows.append({(key or "").strip().lower(): cell.strip() for key, cell in line.items() if isinstance(cell, str)})
    for row in rows:
        name, id = row.get("name", ""), row.get("id", "")
        found = [each for each in left if id and each.cells.get("id") == id][:1]
        if not found and sum(same_name(name, other.get("name", "")) for other in rows) == 1:  # no namesake is listed
            found = [each for each in left if same_name(each.name, name)
                     or same_name(os.path.splitext(each.name)[0], name)]
        each = found[0] if len(found) == 1 else Submission(None, printable(f"{name} {id}"), {})
        left = [other for other in left if other is not each]
        students.append(each._replace(cells=each.cells | {f"roster {key}": value for key, value in row.items()}))
    if not students or not {"roster name", "roster id"} <= students[0].cells.keys():
        raise InputError(f"--roster {printable(path)}: its first line must hold name,id; save it as a CSV in UTF-8")
    return students + left


def same_name(name, other):
    """Whether two names have the same letters and digits, perhaps with the last name first, as Canvas has it."""
    letters, others = ("".join(filter(str.isalnum, nfc(each).casefold())) for each in (name, other))
    return 0 < len(letters) == len(others) and letters in 2 * others
