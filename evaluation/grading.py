"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*

downloads.py says whose submission is what. Each is read in a process of its own (limits.py, submissions.py,
predictions.py) and scored (scoring.py, counts.py) against the truth (truth.py) for points (rubrics.py). feedback.py
makes the pages.
"""
import contextlib
import hashlib
import json
import math
import os
import re
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data import InputError, cache
from data.images import first_few, printable
from evaluation.downloads import add_roster, find_submissions
from evaluation.feedback import BY_CLASS, count_troubles, feedback_page, grades_page
from evaluation.limits import LIMITS, Exceeded, run_each
from evaluation.rubrics import BASELINES, count_points, default_rubric, read_rubric
from evaluation.scoring import grade_baseline, grade_submission
from evaluation.submissions import is_checkpoint
from evaluation.truth import METRICS, open_truth
from training.settings import not_negative, setup
from utils import write_atomically, write_csv


def run_all(truth, function, jobs, device=None):
    """limits.run_each with the limits that this truth asks for. With a device the jobs are checkpoints to be run there.

    A forked process cannot use a GPU, so there a new one is started, and a GPU's memory has room for one.
    """
    seconds = LIMITS["time"] + len(truth.names) * LIMITS["time an image of a network" if device else "time an image"]
    pixels = max(math.prod(np.shape(target)[:2]) for target in truth.targets)
    memory = LIMITS["memory"] + LIMITS["memory a pixel"] * pixels
    how = (1, "spawn") if device and device.type != "cpu" else (cache.usable_cores(), cache.START_METHOD)
    return run_each(partial(function, truth), jobs, seconds, memory, *how)


def grade_all(truth, known, nothing, device, dtype):
    """Yield (source, grade) as submissions are done. known: source -> grade of before or {}; nothing: that of nothing.

    What the system killed, with no limit exceeded, has the status "not graded".
    """
    digest = truth.digest()
    jobs = [(source, before.get("content"), digest, device, dtype) for source, before in known.items()]
    networks = [job for job in jobs if is_checkpoint(job[0])]
    files = [job for job in jobs if job not in networks]
    with tqdm(total=len(jobs), unit="submission", disable=None) as bar:
        for some_jobs, place in ((files, None), (networks, device)):
            for (source, *_), grade in run_all(truth, grade_submission, some_jobs, place):
                bar.update()
                if grade is None:
                    text = "this computer ended the process that read it, likely for want of memory"
                    grade = unread(nothing, "not graded", text)
                elif isinstance(grade, Exceeded):
                    grade = unread(nothing, "refused", str(grade), grade.limit)
                yield source, known[source] if "unchanged" in grade else grade


def unread(nothing, status, text, limit=""):
    """The grade of a submission that was not read to its end."""
    return nothing | {"status": status, "reason": limit, "troubles": nothing["troubles"] | {"refused": [text]},
                      "trouble counts": nothing["trouble counts"] | {"refused": 1}}


def give_points(truth, grade):
    """Add the rubric's points to a grade."""
    nothing = not grade["given"] or grade["status"] in ("refused", "not graded")
    points = {metric: 0 if nothing else value for metric, value in count_points(truth.rubric, grade["metrics"]).items()}
    return grade | {"points": float(sum(points.values())), "points by metric": points}


def grade_baselines(truth, args):
    """Settle the rubric; returns the grades of what needs no network, by name."""
    truth.rubric = read_rubric(args.rubric, truth) if args.rubric else None
    record, content = Path(args.out) / "graded" / "~baselines.json", truth.digest()
    before = read_record(record)
    if before.get("content") != content:
        before = {"content": content, "grades": dict(run_all(truth, grade_baseline, BASELINES[truth.task]))}
        if reason := next((each or "too little memory" for each in before["grades"].values()
                           if not isinstance(each, dict)), None):
            raise InputError(f"--truth {printable(args.truth)}: it cannot be scored on this computer: {reason}")
        write_atomically(record, json.dumps(before), durable=False)
    grades = {name: before["grades"][name] for name in BASELINES[truth.task]}
    truth.rubric = truth.rubric or default_rubric(truth, [
        grade["metrics"] for name, grade in grades.items() if name != "nothing"])
    return {name: give_points(truth, grade) for name, grade in grades.items()}


def read_record(path):
    """What an earlier call left in `graded`, {} where there is nothing."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text("utf-8"))
    return {}


def plain_name(name):
    """What a feedback page's file is called: ASCII, and the same whoever else is graded and however they do."""
    if re.fullmatch("[a-z0-9_][a-z0-9_.-]{,59}", name):
        return name
    plain = re.sub("[^a-z0-9]+", "_", name.lower())[:40].strip("_") or "submission"
    return f"{plain}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def make_rows(truth, grades):
    """Name -> grade: the rows of grades.csv, ranked."""
    main = truth.metrics[0]
    results = {name: (-each["points"], -each["metrics"][main]) for name, each in grades.items()}
    order = sorted(grades, key=lambda name: (results[name], name))
    better, twins, rows = sorted(results.values()), defaultdict(list), []
    for name in order:
        twins[grades[name]["digest"]].append(name)
    for name in order:
        each = grades[name]
        twin = [other for other in twins[each["digest"]] if each["digest"] and other != name]
        text = "; ".join(f"{trouble}: {first_few(lines)}" for trouble, lines in each["troubles"].items() if lines)
        rows.append({"rank": better.index(results[name]) + 1, "submission": name, "status": each["status"],
                     "reason": each["reason"], "points": round(each["points"], 3),
                     **{key: round(value, 6) for key, value in each["metrics"].items()},
                     **dict(zip((f"{main} low", f"{main} high"), each["intervals"][main])),
                     **{f"{BY_CLASS[truth.task]} {key}": value for key, value in zip(truth.classes, each["by class"])},
                     "given": each["given"], **each["trouble counts"], "equal to the truth": each["equal"],
                     "void": round(each["void"], 6), "seconds": each.get("seconds", ""),
                     "identical to": ", ".join(twin), "problems": text,
                     "feedback": f"{plain_name(name)}.html"})
    return rows


def write_tables(out, truth, grades, baselines, students):
    """grades.csv and grades.html of all that is graded so far; returns the rows."""
    cells = {each.name: each.cells for each in students}
    rows = [row | cells[row["submission"]] for row in make_rows(truth, grades)]
    # A spreadsheet takes text for a formula that begins, in its row or after what it may split at, with these.
    quoted = [{key: re.sub(r"(^|[;\t\r\n])(?=[=+\-@\t\r])", r"\1'", value) if isinstance(value, str) else value
               for key, value in row.items()} for row in rows]
    write_csv(out / "grades.csv", quoted, encoding="utf-8-sig")  # as spreadsheets want it
    write_atomically(out / "grades.html", grades_page(truth, rows, grades, baselines), durable=False)
    return rows


def grade(args):
    """Score a class's submissions against the truth: grades.csv, grades.html and a feedback page for each."""
    torch.set_num_threads(1)  # before anything is computed: a forked process would wait for threads that it lacks
    device, dtype = setup(args)
    truth, out = open_truth(args), Path(args.out)
    students = find_submissions(check_paths(args))
    if args.roster:
        students = add_roster(args.roster, students)
    for folder in ("feedback", "graded"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    baselines = grade_baselines(truth, args)
    nothing = baselines["nothing"]
    absent = give_points(truth, unread(nothing, "not handed in", "nothing was handed in"))
    grades = {each.name: absent for each in students if not each.source}
    names = {each.source: each.name for each in students if each.source}
    records = {source: out / "graded" / f"{plain_name(name)}.json" for source, name in names.items()}
    known = {source: read_record(record) for source, record in records.items()}
    rows = write_tables(out, truth, grades, baselines, students)
    for source, each in grade_all(truth, known, nothing, device, dtype):
        name = names[source]
        grades[name] = give_points(truth, each)
        if "content" in each:
            write_atomically(records[source], json.dumps(each), durable=False)
        page = feedback_page(truth, name, grades[name])
        write_atomically(out / "feedback" / f"{plain_name(name)}.html", page, durable=False)
        rows = write_tables(out, truth, grades, baselines, students)
    main = truth.metrics[0]
    for row in rows:
        notes = [f"({count_troubles(row)})"] * bool(count_troubles(row)) + [f"= {row['identical to']}"] * bool(
            row["identical to"])
        print(f"{row['rank']:>3} {row['points']:6.2f}  {main} {row[main]:.4f}  {row['status']:<10}",
              row["submission"], *notes, sep="  ")
    print(f"{len(rows)} submissions graded: {out / 'grades.html'}, grades.csv and feedback/ beside it")
    if missed := [name for name, each in grades.items() if each["status"] == "not graded"]:
        raise InputError(f"not graded for want of memory on this computer: {first_few(missed)}; end other programs, "
                         "then give the same command")


def check_paths(args):
    """The submissions' paths, each once. Raises InputError where one is not there, or where --out lies in one."""
    paths, out = list(dict.fromkeys(os.path.normpath(path) for path in args.submissions)), Path(args.out)
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{printable(path)}: no such submission")
    for path in (args.truth, *paths):  # there the grades would be data, or a submission, at the next call
        if out.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(f"--out {printable(out)}: it lies in {printable(path)}; give the grades a folder of their "
                             "own")
    return paths


def add_grade_arguments(sub):
    sub.add_argument("task", choices=tuple(METRICS))
    sub.add_argument("submissions", nargs="+", metavar="SUBMISSION",
                     help="a folder, zip, CSV or checkpoint, or a bulk download of Moodle or Canvas")
    sub.add_argument("--truth", required=True, help="the folder of one split, as for training")
    sub.add_argument("--rubric", help='a JSON file: {"metric": [[value, points], ...]} (default: from the truth)')
    sub.add_argument("--roster", help="a CSV with the columns name,id: who handed in nothing has a row, too")
    sub.add_argument("--missing", choices=("zero", "refuse"), default="zero", help="what a missing image is worth")
    sub.add_argument("--seed", type=not_negative(int), default=0, help="of the bootstrap samples")
    sub.add_argument("--out", required=True, help="the folder to write to")
