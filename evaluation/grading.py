"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*

Each submission is read in a process of its own (limits.py, submissions.py, predictions.py) and held against the
truth (truth.py) by counts (counts.py), which a rubric turns into points (rubrics.py). The pages are feedback.py's.
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
from data.masks import NO_CLASS, VOID
from evaluation.counts import COMPUTE, colorization_known
from evaluation.feedback import BY_CLASS, count_troubles, feedback_page, grades_page
from evaluation.limits import LIMITS, Exceeded, is_out_of_memory, run_each
from evaluation.predictions import match_files, read_images, read_labels, run_checkpoint
from evaluation.rubrics import BASELINES, count_points, default_rubric, predict_baseline, read_rubric
from evaluation.submissions import TROUBLES, content_digest, is_checkpoint, list_files, say_why
from evaluation.truth import METRICS, PERFECT, open_truth
from training.settings import not_negative, setup
from utils import colorize_mask, write_atomically, write_csv

# ---------------------------------------------------------------------------------------------------------------------
# One submission, in a process of its own


def grade_submission(truth, truth_digest, device, dtype, job):
    """Grade a folder, zip, table of labels or checkpoint. job: its path and its last grade's `content`, or None.

    Returns the grade, a dict that JSON can hold, or {"unchanged": True} where the content is still the same.
    """
    path, before = job
    torch.set_num_threads(1)  # the processes are as many as the cores
    content = f"{truth_digest} {content_digest(path)}"
    if content == before:
        return {"unchanged": True}

    def predict(troubles):
        network = is_checkpoint(path)
        if network and not os.path.isdir(path):
            return run_checkpoint(truth, path, device, dtype)
        files = list_files(path, troubles)
        if truth.task == "classification":
            predictions = list(read_labels(truth, files, troubles))
            predicted = bool(predictions)
        else:
            predictions = read_images(truth, files, troubles)
            predicted = bool(match_files(truth, files, defaultdict(list)))
        if predicted or not network:
            return predictions
        for lines in troubles.values():
            lines.clear()  # a run's other files
        return run_checkpoint(truth, path, device, dtype)

    return grade_predictions(truth, predict, path) | {"content": content}


def grade_predictions(truth, predict, path=""):
    """Score the (index, prediction or None) pairs that predict(troubles) yields: a dict of all that the pages tell.

    Of several predictions for one image the worst counts.
    """
    compute, main = COMPUTE[truth.task], METRICS[truth.task][0]
    found, unused, worst, error = {}, set(), [], None
    troubles = {trouble: [] for trouble in TROUBLES}
    try:
        for index, prediction in predict(troubles):
            if prediction is None:
                unused.add(index)
                continue
            row = truth.row(index, prediction)
            score = float(compute(row)[main])
            if index in found and found[index]["score"] <= score:
                continue
            found[index] = {"score": score, "row": row, **compare(truth, index, prediction)}
            worst = [each for each in worst if each[1] != index]
            worst = sorted([*worst, (score, index, prediction)], key=lambda each: each[:2])[:3]
    except Exception as problem:  # whatever is wrong with one submission, the others are still to be graded
        if is_out_of_memory(problem):
            raise
        error = problem
        troubles["refused"].append(say_why(problem, path))
    absent = [i for i in range(len(truth.names)) if i not in found and i not in unused]
    troubles["missing"] += [printable(truth.names[i]) for i in absent]
    rows = {index: each["row"] for index, each in found.items()}
    equal = sum(each["equal"] for each in found.values())
    digest = hashlib.sha256("".join(found[index]["digest"] for index in sorted(found)).encode()).hexdigest()
    return score_rows(truth, rows) | {
        "status": judge(truth, error, len(found), equal, troubles), "reason": getattr(error, "limit", ""),
        "given": len(found), "equal": equal, "void": float(np.mean([each["void"] for each in found.values()] or [0])),
        "troubles": {trouble: lines[:200] for trouble, lines in troubles.items()},
        "trouble counts": {trouble: len(lines) for trouble, lines in troubles.items()},
        "digest": digest if any(each["means something"] for each in found.values()) else None,
        "worst": [draw_worst(truth, *each) for each in worst if each[0] < PERFECT[truth.task]],
    }


def compare(truth, index, prediction):
    """What is known of a prediction beside its score: a digest, whether it is equal to the truth in all that counts,
    whether it names any class, and the share that it leaves void."""
    target = truth.targets[index]
    digest = hashlib.sha256(b"%d:" % index + np.ascontiguousarray(prediction).tobytes()).hexdigest()
    if truth.task == "classification":
        return {"digest": digest, "equal": bool(prediction == target), "means something": prediction >= 0, "void": 0}
    if truth.task == "colorization":
        return {"digest": digest, "equal": np.array_equal(prediction, target), "means something": True, "void": 0}
    scored = target != VOID
    void = np.count_nonzero(scored & (prediction == VOID)) / max(np.count_nonzero(scored), 1)
    return {"digest": digest, "equal": not (scored & (prediction != target)).any(), "void": void,
            "means something": bool((prediction < NO_CLASS).any())}


def judge(truth, error, given, equal, troubles):
    """A submission's status."""
    whole = given == len(truth.names)
    if error or not whole and truth.missing == "refuse":
        return "refused"
    if not given:  # empty is only what is empty
        return next((kind for kind in ("wrong size", "unreadable", "refused", "misnamed") if troubles[kind]), "empty")
    if troubles["ambiguous"]:
        return "ambiguous"
    if not whole:
        return "incomplete"
    return "equal to the truth" if equal == given and truth.task != "classification" else "ok"


def score_rows(truth, rows):
    """The metrics of the images' rows, by index, with intervals; also those of the given images alone."""
    compute = COMPUTE[truth.task]
    all_rows = np.stack([rows[i] if i in rows else truth.row(i, None) for i in range(len(truth.names))]).astype(float)
    metrics = compute(all_rows.sum(0))
    alone = compute(np.sum(list(rows.values()), 0, dtype=float)) if rows else metrics
    resampled = compute(np.tensordot(truth.samples, all_rows, 1))
    few = len(all_rows) < 5  # they differ too little from sample to sample
    return {
        "metrics": {metric: float(metrics[metric]) for metric in truth.metrics},
        "alone": {metric: float(alone[metric]) for metric in truth.metrics},
        "intervals": {metric: [None, None] if few else np.percentile(resampled[metric], (2.5, 97.5)).tolist()
                      for metric in truth.metrics},
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())]}


def give_points(truth, grade):
    """Add the rubric's points to a grade. Too much colour, which costs points, is not made good by leaving images
    out."""
    nothing = not grade["given"] or grade["status"] in ("refused", "not graded")
    whole, alone = (count_points(truth.rubric, grade[key]) for key in ("metrics", "alone"))
    points = {metric: 0.0 if nothing else min(whole[metric], alone[metric]) for metric in truth.rubric}
    return grade | {"points": sum(points.values()), "points by metric": points}


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
    """Grade a prediction that needs no network."""
    torch.set_num_threads(1)
    return grade_predictions(truth, lambda _: predict_baseline(truth, name))


def know_colors(truth, indices):
    """counts.colorization_known of some true images, as a list."""
    torch.set_num_threads(1)
    return [colorization_known(truth.targets[index]).tolist() for index in indices]


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


def grade_all(function, truth, known, nothing, device):
    """Yield (path, grade) as the submissions are done. known: path -> grade of before or {}; nothing: that of nothing.

    What the system killed, with no limit exceeded, has the status "not graded".
    """
    jobs = [(path, before.get("content")) for path, before in known.items()]
    networks = [job for job in jobs if is_checkpoint(job[0])]
    files = [job for job in jobs if job not in networks]
    with tqdm(total=len(jobs), unit="submission", disable=None) as bar:
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
                     **each["trouble counts"], "equal to the truth": each["equal"],
                     "void": round(each["void"], 6), "identical to": ", ".join(twin), "problems": text,
                     "feedback": f"{plain_name(name)}.html"})
    return rows


def write_tables(out, truth, grades, baselines):
    """grades.csv and grades.html of all that is graded so far; returns the rows."""
    rows = make_rows(truth, grades)
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
    paths = list(dict.fromkeys(os.path.normpath(path) for path in args.submissions))
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{printable(path)}: no such submission")
    for path in (args.truth, *paths):  # there the grades would be data, or a submission, at the next call
        if out.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(f"--out {printable(out)}: it lies in {printable(path)}; give the grades a folder of their "
                             "own")
    shown = Counter(os.path.basename(path) for path in paths)
    names = {path: printable(base if shown[base := os.path.basename(path)] == 1 else path) for path in paths}
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    (out / "graded").mkdir(exist_ok=True)
    records = {path: out / "graded" / f"{plain_name(name)}.json" for path, name in names.items()}
    known, digest = {path: read_record(record) for path, record in records.items()}, truth.digest()
    baselines = prepare(truth, digest, args)
    grades = {}
    for path, each in grade_all(partial(grade_submission, truth, digest, device, dtype), truth, known,
                                baselines["nothing"], device):
        name = names[path]
        grades[name] = give_points(truth, each)
        if "content" in each:
            write_atomically(records[path], json.dumps(each), durable=False)
        page = feedback_page(truth, name, grades[name])
        write_atomically(out / "feedback" / f"{plain_name(name)}.html", page, durable=False)
        rows = write_tables(out, truth, grades, baselines)
    print_rows(truth, rows)
    print(f"{len(rows)} submissions graded: {out / 'grades.html'}, grades.csv and feedback/ beside it")
    if missed := [name for name, each in grades.items() if each["status"] == "not graded"]:
        raise InputError(f"not graded for want of memory on this computer: {first_few(missed)}; end other programs, "
                         "then give the same command")


def print_rows(truth, rows):
    main = truth.metrics[0]
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
