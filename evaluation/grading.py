"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*

Whose submission is what stands in downloads.py. Each is read in a process of its own (limits.py, submissions.py,
predictions.py) and held against the truth (truth.py, scoring.py) by counts (counts.py), which a rubric turns into
points (rubrics.py). The pages are feedback.py's.
"""
import contextlib
import hashlib
import json
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
from evaluation.downloads import find_submissions, match_roster, read_roster
from evaluation.feedback import BY_CLASS, count_troubles, feedback_page, grades_page
from evaluation.limits import LIMITS, Exceeded, run_each
from evaluation.rubrics import BASELINES, count_points, default_rubric, read_rubric
from evaluation.scoring import grade_baseline, grade_submission, know_colors
from evaluation.submissions import is_checkpoint
from evaluation.truth import METRICS, open_truth
from training.settings import not_negative, setup
from utils import write_atomically, write_csv


def give_points(truth, grade):
    """Add the rubric's points to a grade. Too much colour, which costs points, is not made good by leaving images
    out."""
    nothing = not grade["given"] or grade["status"] in ("refused", "not graded")
    whole, alone = (count_points(truth.rubric, grade[key]) for key in ("metrics", "alone"))
    points = {metric: 0.0 if nothing else min(whole[metric], alone[metric]) for metric in truth.rubric}
    return grade | {"points": sum(points.values()), "points by metric": points}


def run_all(truth, function, jobs, device=None):
    """limits.run_each with the limits that this truth asks for. With a device the jobs are checkpoints to be run there.

    A forked process cannot use a GPU, so there a new one is started, and a GPU's memory has room for one.
    """
    each = LIMITS["time an image" if device is None else "time an image of a network"]
    seconds = LIMITS["time"] + each * len(truth.names)
    memory = LIMITS["memory"] + LIMITS["memory a pixel"] * truth.largest
    on_gpu = device is not None and device.type != "cpu"
    return run_each(function, jobs, seconds, memory, 1 if on_gpu else cache.usable_cores(),
                    "spawn" if on_gpu else cache.START_METHOD)


def grade_all(function, truth, known, nothing, device):
    """Yield (source, grade) as submissions are done. known: source -> grade of before or {}; nothing: that of nothing.

    What the system killed, with no limit exceeded, has the status "not graded".
    """
    jobs = [(source, before.get("content")) for source, before in known.items()]
    networks = [job for job in jobs if is_checkpoint(job[0])]
    files = [job for job in jobs if job not in networks]
    with tqdm(total=len(jobs), unit="submission", disable=None) as bar:
        for some_jobs, place in ((files, None), (networks, device)):
            for (source, _), grade in run_all(truth, function, some_jobs, place):
                bar.update()
                if grade is None:
                    text = "this computer ended the process that read it, likely for want of memory"
                    grade = refusal(nothing, text, "not graded", "")
                elif isinstance(grade, Exceeded):
                    grade = refusal(nothing, str(grade), "refused", grade.limit)
                yield source, known[source] if "unchanged" in grade else grade


def refusal(nothing, text, status, limit):
    """The grade of a submission that was not read to its end."""
    return nothing | {"status": status, "reason": limit, "troubles": nothing["troubles"] | {"refused": [text]},
                      "trouble counts": nothing["trouble counts"] | {"refused": 1}}


def plain_name(name):
    """What a feedback page's file is called: ASCII, and the same whoever else is graded and however they do."""
    if re.fullmatch("[a-z0-9_][a-z0-9_.-]{,59}", name):
        return name
    plain = re.sub("[^a-z0-9]+", "_", name.lower())[:40].strip("_") or "submission"
    return f"{plain}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def csv_row(row):
    """A spreadsheet takes text for a formula that begins, in its row or after what it may split at, with these."""
    return {key: re.sub(r"(^|[;\t\r\n])(?=[=+\-@\t\r])", r"\1'", value) if isinstance(value, str) else value
            for key, value in row.items()}


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
    rows = make_rows(truth, grades)
    known = {}
    for row, each in students:
        name = each.name if each else printable(f"{row['name']} {row['id']}")
        known[name] = {} if each is None or isinstance(each.source, str) and not each.id else {
            "id": each.id, "late": each.late, "attempt": each.attempt, "earlier attempts": each.superseded}
        known[name] |= {f"roster {key}": value for key, value in (row or {}).items()}
    rows = [row | known[row["submission"]] for row in rows]
    write_csv(out / "grades.csv", map(csv_row, rows), encoding="utf-8-sig")  # as spreadsheets want it
    write_atomically(out / "grades.html", grades_page(truth, rows, grades, baselines), durable=False)
    return rows


def prepare(truth, digest, args):
    """Settle the rubric; returns the grades of what needs no network, by name."""
    def all_of(function, jobs):
        results = {}
        for job, result in run_all(truth, partial(function, truth), jobs):
            if result is None or isinstance(result, Exceeded):
                raise InputError(f"--truth {printable(args.truth)}: it cannot be scored on this computer: "
                                 f"{result or 'too little memory'}")
            results[job if isinstance(job, str) else job[0]] = result
        return results

    truth.rubric = read_rubric(args.rubric, truth) if args.rubric else None
    record = Path(args.out) / "graded" / "~baselines.json"
    before = read_record(record)
    if before.get("content") != digest:
        size, count = 16, len(truth.names)
        if truth.task == "colorization":
            parts = all_of(know_colors, [
                list(range(start, min(start + size, count))) for start in range(0, count, size)])
            truth.known = np.concatenate([parts[start] for start in sorted(parts)])
        before = {"content": digest, "known": truth.known if truth.known is None else truth.known.tolist(),
                  "baselines": all_of(grade_baseline, BASELINES[truth.task])}
        write_atomically(record, json.dumps(before), durable=False)
    truth.known = before["known"]
    baselines = {name: before["baselines"][name] for name in BASELINES[truth.task]}
    truth.rubric = truth.rubric or default_rubric(truth, {
        name: grade["metrics"] for name, grade in baselines.items() if name != "nothing"})
    return {name: give_points(truth, grade) for name, grade in baselines.items()}


def read_record(path):
    """What an earlier call left in `graded`, {} where there is nothing."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text("utf-8"))
    return {}


def grade(args):
    """Score a class's submissions against the truth: grades.csv, grades.html and a feedback page for each."""
    torch.set_num_threads(1)  # before anything is computed: a forked process would wait for threads that it lacks
    device, dtype = setup(args)
    truth, out = open_truth(args), Path(args.out)
    roster = read_roster(args.roster) if args.roster else []
    submissions = find_submissions(check_paths(args))
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    (out / "graded").mkdir(exist_ok=True)
    names = {each.source: each.name for each in submissions}
    records = {source: out / "graded" / f"{plain_name(name)}.json" for source, name in names.items()}
    known, digest = {source: read_record(record) for source, record in records.items()}, truth.digest()
    baselines = prepare(truth, digest, args)
    students = match_roster(roster, submissions)
    grades = {}
    for row, submission in students:
        if submission is None:
            nothing = refusal(baselines["nothing"], "nothing was handed in", "not handed in", "")
            grades[printable(f"{row['name']} {row['id']}")] = give_points(truth, nothing)
    for source, each in grade_all(partial(grade_submission, truth, digest, device, dtype), truth, known,
                                  baselines["nothing"], device):
        name = names[source]
        grades[name] = give_points(truth, each)
        if "content" in each:
            write_atomically(records[source], json.dumps(each), durable=False)
        page = feedback_page(truth, name, grades[name])
        write_atomically(out / "feedback" / f"{plain_name(name)}.html", page, durable=False)
        rows = write_tables(out, truth, grades, baselines, students)
    print_rows(truth, rows)
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


def print_rows(truth, rows):
    main = truth.metrics[0]
    for row in rows:
        troubles = count_troubles(row)
        print(f"{row['rank']:>3} {row['points']:6.2f}  {main} {row[main]:.4f}  {row['status']:<10}  {row['submission']}"
              + (f"  ({troubles})" if troubles else "") + (f"  = {row['identical to']}" if row["identical to"] else ""))


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
