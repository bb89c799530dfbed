"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*

Each submission is read in a process of its own (limits.py), by what stands in submissions.py, and held against the
truth (truth.py). What a prediction counts for stands in counts.py, and the pages in feedback.py.
"""
import base64
import contextlib
import hashlib
import io
import json
import math
import os
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import InputError, cache
from data.images import first_few, printable, read_image
from evaluation import as_batch
from evaluation.colorization import lightness_and_ab, to_images, with_colors
from evaluation.counts import COMPUTE, ROW
from evaluation.feedback import BY_CLASS, count_troubles, feedback_page, grades_page
from evaluation.limits import LIMITS, Exceeded, is_out_of_memory, run_each
from evaluation.submissions import (
    TROUBLES,
    content_digest,
    is_checkpoint,
    list_files,
    read_labels,
    read_pictures,
    run_checkpoint,
    say_why,
)
from evaluation.truth import METRICS, PERFECT, open_truth
from training.settings import not_negative, setup
from utils import colorize_mask, write_atomically, write_csv

# ---------------------------------------------------------------------------------------------------------------------
# One submission, in a process of its own


def grade_submission(truth, truth_digest, device, dtype, job):
    """Grade a folder, zip, CSV or checkpoint. job: its path and the `content` of its last grade, or None.

    Returns the grade, a dict that JSON can hold, or {"unchanged": True} where the content is still the same.
    """
    path, before = job
    torch.set_num_threads(1)  # the processes are as many as the cores
    content = f"{truth_digest} {content_digest(path)}"
    if content == before:
        return {"unchanged": True}
    read = read_labels if truth.task == "classification" else read_pictures
    if is_checkpoint(path):
        grade = grade_predictions(truth, lambda _: run_checkpoint(truth, path, device, dtype), path)
    else:
        grade = grade_predictions(truth, lambda troubles: read(truth, list_files(path, troubles), troubles), path)
    return grade | {"content": content}


def grade_predictions(truth, predict, path=""):
    """Score the (index, prediction) pairs that predict(troubles) yields: a dict of all that the pages tell."""
    row, compute, main = ROW[truth.task], COMPUTE[truth.task], METRICS[truth.task][0]
    rows, worst, digest, error, troubles = {}, [], hashlib.sha256(), None, {trouble: [] for trouble in TROUBLES}
    try:
        for index, prediction in predict(troubles):
            rows[index] = row(truth.targets[index], prediction, len(truth.classes))
            digest.update(b"%d:" % index + np.ascontiguousarray(prediction).tobytes())
            worst = sorted([*worst, (float(compute(rows[index])[main]), index, prediction)], key=lambda w: w[:2])[:3]
    except Exception as problem:  # whatever is wrong with one submission, the others are still to be graded
        if is_out_of_memory(problem):
            raise
        error = problem
        troubles["refused"].append(say_why(problem, path))
    absent = [i for i in range(len(truth.names)) if i not in rows]
    troubles["missing"] += [printable(truth.names[i]) for i in absent]
    refused = error or absent and truth.missing == "refuse"
    return count_points(truth, rows, refused) | {
        "status": "refused" if refused else "ok" if not absent else "incomplete" if rows else "empty",
        "reason": getattr(error, "limit", ""), "given": len(rows),
        "troubles": {trouble: lines[:200] for trouble, lines in troubles.items()},
        "trouble counts": {trouble: len(lines) for trouble, lines in troubles.items()},
        "digest": digest.hexdigest() if rows else None,
        "worst": [draw_worst(truth, *each) for each in worst if each[0] < PERFECT[truth.task]],
    }


def count_points(truth, rows, refused):
    """The metrics of a submission from its images' rows, by index, with their intervals and points."""
    row, compute = ROW[truth.task], COMPUTE[truth.task]
    alone = compute(np.sum(list(rows.values()), 0, dtype=float)) if rows else None
    all_rows = [rows[i] if i in rows else row(target, None, len(truth.classes))
                for i, target in enumerate(truth.targets)]
    all_rows = np.stack(all_rows).astype(float)
    metrics = compute(all_rows.sum(0))
    resampled = compute(np.tensordot(truth.samples, all_rows, 1))
    # Too much colour, which costs points, is not made good by leaving images out.
    points = {metric: 0.0 if refused or not rows else
              min(float(np.interp(found[metric], *np.transpose(steps))) for found in (metrics, alone))
              for metric, steps in truth.rubric.items()}
    few = len(all_rows) < 5  # they differ too little from sample to sample
    return {
        "points": sum(points.values()), "points by metric": points,
        "metrics": {metric: float(metrics[metric]) for metric in METRICS[truth.task]},
        "intervals": {metric: [None, None] if few else np.percentile(resampled[metric], (2.5, 97.5)).tolist()
                      for metric in METRICS[truth.task]},
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())]}


def draw_worst(truth, score, index, prediction):
    """(caption, data URI of image, truth and prediction side by side)"""
    caption, target = f"{printable(truth.names[index])}: {METRICS[truth.task][0]} {score:.3f}", truth.targets[index]
    if truth.task == "classification":
        guess = truth.classes[prediction] if prediction >= 0 else "no class"
        caption, images = f"{printable(truth.names[index])}: {guess}, is {truth.classes[target]}", []
    elif truth.task == "segmentation":
        images = [colorize_mask(mask, truth.colors) for mask in (target, prediction)]
    else:
        images = [prediction]
    images = [read_image(truth.images[index]), *map(Image.fromarray, images)]
    width, height = images[0].size
    size = (220, max(1, min(440, 220 * height // width)))
    strip = Image.new("RGB", (224 * len(images) - 4, size[1]), "white")
    for i, image in enumerate(images):
        strip.paste(image.resize(size, Image.Resampling.BOX), (224 * i, 0))
    strip.save(buffer := io.BytesIO(), "JPEG", quality=80)
    return caption, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def grade_baseline(truth, name):
    """Grade what needs no network: nothing at all or, in colorization, grey images."""
    torch.set_num_threads(1)
    return grade_predictions(truth, lambda _: grey_images(truth) if name == "grey" else ())


def grey_images(truth):
    for index, target in enumerate(truth.targets):
        lightness, _ = lightness_and_ab(as_batch(Image.fromarray(target), target.shape[:2], "cpu"))
        yield index, to_images(with_colors(lightness))[0]


# ---------------------------------------------------------------------------------------------------------------------
# All submissions


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


def grade_all(truth, paths, known, nothing, device, dtype):
    """Yield (path, grade) as the submissions are done. known: path -> grade of before; nothing: the grade of nothing.

    What the system killed, with no limit exceeded, has the status "not graded".
    """
    function = partial(grade_submission, truth, truth.digest(), device, dtype)
    jobs = [(path, known[path]["content"] if path in known else None) for path in paths]
    networks = [job for job in jobs if is_checkpoint(job[0])]
    files = [job for job in jobs if job not in networks]
    with tqdm(total=len(paths), unit="submission", disable=None) as bar:
        for some_jobs, place in ((files, None), (networks, device)):
            for (path, _), grade in run_all(truth, function, some_jobs, place):
                bar.update()
                if grade is None:
                    text = "this computer ended the process that read it, likely for want of memory"
                    grade = refusal(nothing, text, "not graded", "")
                elif isinstance(grade, Exceeded):
                    grade = refusal(nothing, str(grade), "refused", grade.limit)
                yield path, known[path] if "unchanged" in grade else grade


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
    main = METRICS[truth.task][0]
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
                     **each["trouble counts"], "identical to": ", ".join(twin), "problems": text,
                     "feedback": f"{plain_name(name)}.html"})
    return rows


def write_tables(out, truth, grades, baselines):
    """grades.csv and grades.html of all that is graded so far; returns the rows."""
    rows = make_rows(truth, grades)
    write_csv(out / "grades.csv", map(csv_row, rows), encoding="utf-8-sig")  # as spreadsheets want it
    write_atomically(out / "grades.html", grades_page(truth, rows, grades, baselines), durable=False)
    return rows


def grade(args):
    """Score a class's submissions against the truth: grades.csv, grades.html and a feedback page for each."""
    torch.set_num_threads(1)  # before anything is computed: a forked process would wait for threads that it lacks
    device, dtype = setup(args)
    truth, out = open_truth(args), Path(args.out)
    paths = list(dict.fromkeys(os.path.normpath(path) for path in args.submissions))
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{printable(path)}: no such submission")
    shown = Counter(os.path.basename(path) for path in paths)
    names = {path: printable(base if shown[base := os.path.basename(path)] == 1 else path) for path in paths}
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    (out / "graded").mkdir(exist_ok=True)
    records = {path: out / "graded" / f"{plain_name(name)}.json" for path, name in names.items()}
    known = {}
    for path, record in records.items():
        with contextlib.suppress(OSError, ValueError):
            known[path] = json.loads(record.read_text("utf-8"))
    baselines = dict(run_all(truth, partial(grade_baseline, truth), BASELINES[truth.task]))
    if failed := [str(result) for result in baselines.values() if not isinstance(result, dict)]:
        raise InputError(f"--truth {printable(args.truth)}: it cannot be scored here: {failed[0]}")
    grades = {}
    for path, each in grade_all(truth, paths, known, baselines["nothing"], device, dtype):
        name = names[path]
        grades[name] = each
        if "content" in each:
            write_atomically(records[path], json.dumps(each), durable=False)
        page = feedback_page(truth, name, each)
        write_atomically(out / "feedback" / f"{plain_name(name)}.html", page, durable=False)
        rows = write_tables(out, truth, grades, baselines)
    print_rows(truth, rows)
    print(f"{len(rows)} submissions graded: {out / 'grades.html'}, grades.csv and feedback/ beside it")
    if missed := [name for name, each in grades.items() if each["status"] == "not graded"]:
        raise InputError(f"not graded for want of memory on this computer: {first_few(missed)}; end other programs, "
                         "then give the same command")


BASELINES = {"segmentation": ("nothing",), "classification": ("nothing",), "colorization": ("nothing", "grey")}


def print_rows(truth, rows):
    main = METRICS[truth.task][0]
    for row in rows:
        troubles = count_troubles(row)
        print(f"{row['rank']:>3} {row['points']:6.2f}  {main} {row[main]:.4f}  {row['status']:<10}  {row['submission']}"
              + (f"  ({troubles})" if troubles else "") + (f"  = {row['identical to']}" if row["identical to"] else ""))


def add_grade_arguments(sub):
    sub.add_argument("task", choices=tuple(METRICS))
    sub.add_argument("submissions", nargs="+", metavar="SUBMISSION", help="a folder, zip, CSV or checkpoint")
    sub.add_argument("--truth", required=True, help="the folder of one split, as for training")
    sub.add_argument("--rubric", help='a JSON file: {"metric": [[value, points], ...]} (default: by the report)')
    sub.add_argument("--missing", choices=("zero", "refuse"), default="zero", help="what a missing image is worth")
    sub.add_argument("--seed", type=not_negative(int), default=0, help="of the bootstrap samples")
    sub.add_argument("--out", required=True, help="the folder to write to")
