"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*"""
import glob
import hashlib
import itertools
import json
import math
import os
import re
import string
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import InputError
from data.cache import usable_cores
from data.images import first_few, printable
from data.scenes import write_scenes
from evaluation.counts import BY_CLASS
from evaluation.downloads import add_roster, find_submissions
from evaluation.limits import LIMITS, Exceeded, run_each
from evaluation.pages import feedback_page, grades_page
from evaluation.scoring import grade_job
from evaluation.submissions import is_network
from evaluation.truth import BASELINES, default_rubric, open_truth, read_rubric
from training.checkpoint import lock_folder
from utils import write_atomically, write_csv


def grade_all(truth, sources, out):
    """Yield (name, grade or limits.Exceeded). sources: name -> source, None for a baseline."""
    jobs = [(name, source, out / "graded" / f"{plain_name(name)}{'' if source else '~'}.json")
            for name, source in sources.items()]
    pixels = max(math.prod(np.shape(target)[:2]) for target in truth.targets)
    memory = LIMITS["memory"] + LIMITS["memory a pixel"] * pixels

    def seconds(job):
        each = LIMITS["time an image of a network" if is_network(job[1]) else "time an image"]
        return LIMITS["time"] + each * len(truth.names)

    for (name, _, record), grade in run_each(partial(grade_job, truth), jobs, seconds, memory, usable_cores()):
        if not isinstance(grade, Exceeded):
            write_atomically(record, json.dumps(grade), durable=False)
        yield name, grade


def give_points(truth, grade):
    """Add the rubric's points to a grade."""
    worthless = not grade["given"] or grade["status"] == "refused"
    points = {metric: 0.0 if worthless else float(np.interp(grade["metrics"][metric], *np.transpose(steps)))
              for metric, steps in truth.rubric.items()}
    return grade | {"points": sum(points.values()), "points by metric": points}


def grade_baselines(truth, args, out):
    """Set the rubric; returns the grades of the baselines, by name."""
    truth.rubric = read_rubric(args.rubric, truth) if args.rubric else None
    names = BASELINES[truth.task]
    grades = dict(grade_all(truth, dict.fromkeys(names), out))
    failed = [grade for grade in grades.values() if isinstance(grade, Exceeded)]
    if failed:
        raise InputError(f"--truth {printable(args.truth)}: {failed[0]}")
    truth.rubric = truth.rubric or default_rubric(truth, [grades[name]["metrics"] for name in names[1:]])
    return {name: give_points(truth, grades[name]) for name in names}


def plain_name(name):
    """The name of a feedback page's file: ASCII, and independent of all other submissions."""
    if re.fullmatch("[a-z0-9_][a-z0-9_.-]{,59}", name):
        return name
    plain = re.sub("[^a-z0-9]+", "_", name.lower())[:40].strip("_") or "submission"
    return f"{plain}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write_tables(args, truth, grades, baselines, students):
    """Write grades.csv and grades.html with all grades so far; returns the rows, ranked."""
    out, main, kind = Path(args.out), truth.metrics[0], BY_CLASS[truth.task]
    cells = {each.name: each.cells for each in students}
    order = sorted((-each["points"], -each["metrics"][main], name) for name, each in grades.items())
    results, rows = [result[:2] for result in order], []
    times = Counter(grades[name]["digest"] for *_, name in order)
    alike = [digest for digest, count in times.items() if digest and count > 1]
    groups = {digest: string.ascii_uppercase[i % 26] * (i // 26 + 1) for i, digest in enumerate(alike)}
    for *result, name in order:
        each = grades[name]
        text = "; ".join(f"{trouble}: {first_few(lines)}" for trouble, lines in each["troubles"].items() if lines)
        rows.append({"rank": results.index(tuple(result)) + 1, "submission": name, "status": each["status"],
                     "reason": each["reason"], "points": round(each["points"], 3),
                     **{key: round(value, 6) for key, value in each["metrics"].items()},
                     **{f"{kind} {key}": value for key, value in zip(truth.classes, each["by class"])},
                     "given": each["given"], **{trouble: len(lines) for trouble, lines in each["troubles"].items()},
                     "void": round(each["void"], 6), "seconds": each.get("seconds", ""),
                     "group": groups.get(each["digest"], ""), "problems": text, "feedback": f"{plain_name(name)}.html",
                     **cells[name]})
    # Spreadsheets take text that begins with =, +, - or @ for a formula, also after a separator: ' prevents this.
    quoted = [{key: re.sub(r"(^|[;\t\r\n])(?=[=+\-@\t\r])", r"\1'", value) if isinstance(value, str) else value
               for key, value in row.items()} for row in rows]
    write_csv(out / "grades.csv", quoted, encoding="utf-8-sig")  # spreadsheets need the BOM
    if args.system:
        write_csv(out / f"{args.system}.csv", import_rows(args, quoted, main))
    write_atomically(out / "grades.html", grades_page(args, truth, rows, baselines), durable=False)
    return rows


def import_rows(args, rows, main):
    """Yield the rows for Moodle's grading worksheet or Canvas's gradebook, for the students whose id is known."""
    # A roster may hold another system's ids: then it would give points to wrong students.
    equal = [row["id"] == row["roster id"] for row in rows if row.get("id") and row.get("roster id")]
    same = all(equal) and (equal or not any(row.get("id") for row in rows))
    for row in rows:
        id = row.get("id") or same and row.get("roster id")
        if id and args.system == "moodle":
            yield {"Identifier": f"Participant {id}", "Full name": row["submission"], "Grade": row["points"],
                   "Last modified (grade)": "-", "Feedback comments": f"{row['status']}, {main} {row[main]:.3f}"}
        elif id:
            yield {"Student": row["submission"], "ID": id, "SIS User ID": "", "SIS Login ID": "", "Section": "",
                   args.title or args.task: row["points"]}


def put_aside(out, students):
    """Rename the tables of an earlier call, and remove the pages of submissions that are gone."""
    number = next(n for n in itertools.count(1) if not any(out.glob(f"*.{n}.*")))
    for path in filter(Path.exists, map(out.joinpath, ("grades.csv", "grades.html", "moodle.csv", "canvas.csv"))):
        path.rename(path.with_suffix(f".{number}{path.suffix}"))
    kept = {out / "feedback" / f"{plain_name(each.name)}.html" for each in students if each.source}
    for path in {*(out / "feedback").glob("*.html")} - kept:
        path.unlink()


def find_students(args, truth):
    """The submissions on the command line, and all others on the roster. Raises InputError."""
    words = ([word] if os.path.lexists(word) else sorted(glob.glob(word)) or [word] for word in args.submissions)
    paths = list(dict.fromkeys(map(os.path.normpath, itertools.chain.from_iterable(words))))
    for path in (truth, *paths):  # the next call would read grades in it as data or as a submission
        if not os.path.lexists(path):
            raise InputError(f"{printable(path)}: no such file or folder")
        if Path(args.out).resolve().is_relative_to(Path(path).resolve()):
            raise InputError(f"--out {args.out} lies in {printable(path)}; give the grades a folder of their own")
    students = find_submissions(paths)
    if args.roster:
        students = add_roster(args.roster, students)
    unknown = [each.name for each in students if each.source
               and not (each.cells.get("id") or each.cells.get("roster id"))]
    if args.system and unknown:
        raise InputError(f"--for {args.system}: {unknown[0]} has no id; grade downloads alone, or give a --roster")
    return students


def grade(args):
    """Score a class's submissions against the truth: grades.csv, grades.html and a feedback page for each."""
    torch.set_num_threads(1)  # must be first: forked processes would wait for threads that they do not have
    out, folder = Path(args.out), args.truth
    if folder == "scenes":
        write_scenes(out / "scenes", args.task, ["test"])
        folder = out / "scenes/test"
    truth, students = open_truth(folder, args.task), find_students(args, folder)
    for name in ("feedback", "graded"):
        (out / name).mkdir(parents=True, exist_ok=True)
    args.lock = lock_folder(out)
    baselines = grade_baselines(truth, args, out)
    nothing = baselines["nothing"]
    absent = give_points(truth, nothing | {"status": "not handed in"})
    grades = {each.name: absent for each in students if not each.source}
    sources = {each.name: each.source for each in students if each.source}
    put_aside(out, students)
    next_tables = 0  # seconds; the tables of many submissions take longer than one grade
    try:
        for name, each in tqdm(grade_all(truth, sources, out), total=len(sources), unit="submission", disable=None):
            if isinstance(each, Exceeded):
                troubles = nothing["troubles"] | {"refused": [str(each)]}
                each = nothing | {"status": "refused", "reason": each.limit, "troubles": troubles}
            grades[name] = give_points(truth, each)
            page = feedback_page(args, truth, baselines, name, grades[name])
            write_atomically(out / "feedback" / f"{plain_name(name)}.html", page, durable=False)
            if time.monotonic() > next_tables:
                write_tables(args, truth, grades, baselines, students)
                next_tables = time.monotonic() + 3
    finally:
        rows = write_tables(args, truth, grades, baselines, students)
    for row in rows:
        print("{rank:>4} {points:8.3f} {:8.4f}  {status:<18}  {submission}".format(row[truth.metrics[0]], **row))
    print(f"{len(grades)} submissions graded: {out / 'grades.html'}, grades.csv and feedback/ beside it")
