"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*

How they are read, with the care that strangers' files need, stands in submissions.py.
"""
import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import InputError, cache, sources
from data.images import (
    Classes,
    composed,
    decode_mask,
    infer_classes,
    read_classes,
    read_image,
    scored_classes,
    show,
    some,
    stop,
)
from evaluation import as_batch
from evaluation.colorization import lightness_and_ab, to_images, with_colors
from evaluation.counts import COMPUTE, ROW
from evaluation.pages import SORT, figures, format_interval, page, table
from evaluation.submissions import (
    TROUBLES,
    is_checkpoint,
    list_files,
    read_labels,
    read_pictures,
    run_checkpoint,
)
from training.settings import not_negative, setup
from utils import colorize_mask, write_atomically, write_csv

# ---------------------------------------------------------------------------------------------------------------------
# How a task is scored; what a prediction counts for stands in counts.py

METRICS = {  # the first of each is the main one: it ranks, and it chooses the worst pictures
    "segmentation": ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"),
    "classification": ("accuracy",),
    "colorization": ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio"),
}
PERFECT = {"segmentation": 1, "classification": 1, "colorization": 100}  # the best that the main metric can be
BY_CLASS = {"segmentation": "IoU", "classification": "accuracy", "colorization": None}
WORST = {"segmentation": "Picture, truth and prediction of the three worst.",
         "classification": "The first three mistakes.", "colorization": "Truth and prediction of the three worst."}


def default_rubric(task, classes):
    """Points by the original report's numbers. Chance gets none, but grey pictures get those of their PSNR, which on
    faintly coloured pictures is high: `grades.html` shows it, for a rubric of one's own."""
    return {
        "segmentation": {"miou": [[0, 0], [0.415, 6], [0.512, 10]]},
        "classification": {"accuracy": [[1 / max(len(classes), 1), 0], [0.92, 10]]},
        "colorization": {"psnr": [[20, 0], [26, 6]], "colorfulness_ratio": [[0, 0], [0.8, 4], [1.2, 4], [2, 0]]},
    }[task]


# ---------------------------------------------------------------------------------------------------------------------
# The truth


@dataclass
class Truth:
    """What submissions are held against, decoded once. `index` finds a picture by its name or, if unique, its stem."""
    task: str
    names: list  # as they are shown: without folders where that stays unique, for a class's folder is the answer
    images: list  # paths
    targets: list  # masks (H, W) with 255 void, labels, or pictures (H, W, 3)
    classes: list
    colors: list
    index: dict
    rubric: dict
    missing: str
    samples: np.ndarray  # (1000, N): how often each picture is in each bootstrap sample, the same ones for everybody
    raw: Classes | None = None  # how masks are read


def open_truth(args):
    """Read the truth of a task from a folder that holds one split, and the rubric."""
    root, raw, colors = os.path.abspath(args.truth), None, []
    if not os.path.isdir(root):
        raise InputError(f"--truth {show(args.truth)}: no such folder")
    if inner := [split for split in sources.SPLITS if os.path.isdir(os.path.join(root, split))]:
        raise InputError(f"--truth {show(args.truth)}: it holds splits; give one: "
                         f"{show(os.path.join(args.truth, inner[-1]))}")
    if args.task == "classification":
        splits, classes = sources.find_classification(root, [])
    else:
        find = sources.find_segmentation if args.task == "segmentation" else sources.find_pictures
        splits, classes = find(root, []), []
    split, = splits.values()
    targets = split.targets
    if args.task == "segmentation":
        split.classes = raw = read_classes(root)
        targets = [split.mask(i) for i in range(len(split))]
        if raw is None:
            raw, note = infer_classes(np.stack([np.bincount(mask.ravel(), minlength=256) > 0 for mask in targets]),
                                      split.targets)
            print(note)
            targets = [decode_mask(mask, raw) for mask in targets]
        classes, colors, _ = scored_classes(raw)
    elif args.task == "colorization":
        targets = [np.asarray(read_image(path)) for path in split.images]
        for path, target in zip(split.images, targets):
            if min(target.shape[:2]) < 11:  # SSIM's window
                raise InputError(f"{show(path)}: less than 11 pixels high or wide, too small to be scored; remove it")
    names = [composed(name) for name in split.names]
    stems = [name.rpartition("/")[2] for name in names]
    counts = Counter(stems)
    index = {stem: i for i, stem in enumerate(stems) if counts[stem] == 1}
    index |= {name: i for i, name in enumerate(names)}
    rubric = read_rubric(args.rubric, args.task) if args.rubric else default_rubric(args.task, classes)
    number = len(split)
    samples = np.random.default_rng(args.seed).multinomial(number, np.full(number, 1 / number), 1000).astype(float)
    shown = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]
    return Truth(args.task, shown, split.images, targets, classes, colors, index, rubric, args.missing, samples, raw)


def read_rubric(path, task):
    """{"metric": [[value, points], ...]}, values ascending. Raises InputError."""
    try:
        rubric = json.loads(Path(path).read_text("utf-8"))
        for metric, steps in rubric.items():
            if metric not in METRICS[task]:
                raise ValueError(f"{metric} is none of {', '.join(METRICS[task])}")
            values, points = np.array(steps, float).reshape(-1, 2).T
            pairs = 0 < len(values) == len(steps) and np.isfinite([values, points]).all()
            if not pairs or (np.diff(values) <= 0).any():
                raise ValueError(f"{metric} needs pairs of numbers whose first ones ascend")
            rubric[metric] = np.stack([values, points], 1).tolist()
        if not rubric:
            raise ValueError("it is empty")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"--rubric {show(path)}: {show(str(error))}; it should look like "
                         f"{json.dumps(default_rubric(task, [0] * 10))}") from error
    return rubric


# ---------------------------------------------------------------------------------------------------------------------
# One submission


def grade_files(truth, path):
    """Grade a folder, zip or CSV of predictions, in a worker process."""
    torch.set_num_threads(1)  # the processes are as many as the cores
    read = read_labels if truth.task == "classification" else read_pictures
    return grade_predictions(truth, lambda troubles: read(truth, list_files(path, troubles), troubles))


def grade_predictions(truth, predict):
    """Score the (index, prediction) pairs that predict(troubles) yields: a dict of all that the pages tell."""
    row, compute, main = ROW[truth.task], COMPUTE[truth.task], METRICS[truth.task][0]
    rows, worst, digest, error, troubles = {}, [], hashlib.sha256(), None, {trouble: [] for trouble in TROUBLES}
    try:
        for index, prediction in predict(troubles):
            rows[index] = row(truth.targets[index], prediction, len(truth.classes))
            digest.update(b"%d:" % index + np.ascontiguousarray(prediction).tobytes())
            worst = sorted([*worst, (float(compute(rows[index])[main]), index, prediction)], key=lambda w: w[:2])[:3]
    except Exception as problem:  # whatever is wrong with one submission must not stop the others
        error = show(str(problem)) or type(problem).__name__
        troubles["refused"].append(error)
    absent = [i for i in range(len(truth.names)) if i not in rows]
    troubles["missing"] += [show(truth.names[i]) for i in absent]
    given = len(rows)
    alone = compute(np.sum(list(rows.values()), 0, dtype=float)) if given else None
    rows |= {i: row(truth.targets[i], None, len(truth.classes)) for i in absent}
    rows = np.stack([rows[i] for i in range(len(truth.names))]).astype(float)
    metrics = compute(rows.sum(0))
    resampled = compute(np.tensordot(truth.samples, rows, 1))
    refused = error or absent and truth.missing == "refuse"
    # Too much colour, which costs points, is not made good by leaving pictures out.
    points = {metric: 0.0 if refused or not given else
              min(float(np.interp(found[metric], *np.transpose(steps))) for found in (metrics, alone))
              for metric, steps in truth.rubric.items()}
    return {
        "status": "refused" if refused else "ok" if not absent else "incomplete" if given else "empty",
        "points": sum(points.values()), "points by metric": points, "given": given,
        "metrics": {metric: float(metrics[metric]) for metric in METRICS[truth.task]},
        "intervals": {metric: np.percentile(resampled[metric], (2.5, 97.5)).tolist() if len(rows) >= 5 else [None, None]
                      for metric in METRICS[truth.task]},  # fewer differ too little from sample to sample
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())],
        "troubles": troubles, "digest": digest.hexdigest() if given else None,
        "worst": [draw_worst(truth, *each) for each in worst if each[0] < PERFECT[truth.task]],
    }


def draw_worst(truth, score, index, prediction):
    """(caption, data URI of picture, truth and prediction side by side)"""
    caption, target = f"{show(truth.names[index])}: {METRICS[truth.task][0]} {score:.3f}", truth.targets[index]
    if truth.task == "classification":
        guess = truth.classes[prediction] if prediction >= 0 else "no class"
        caption, pictures = f"{show(truth.names[index])}: {guess}, is {truth.classes[target]}", []
    elif truth.task == "segmentation":
        pictures = [colorize_mask(mask, truth.colors) for mask in (target, prediction)]
    else:
        pictures = [prediction]
    pictures = [read_image(truth.images[index]), *map(Image.fromarray, pictures)]
    width, height = pictures[0].size
    size = (220, max(1, min(440, 220 * height // width)))
    strip = Image.new("RGB", (224 * len(pictures) - 4, size[1]), "white")
    for i, picture in enumerate(pictures):
        strip.paste(picture.resize(size, Image.Resampling.BOX), (224 * i, 0))
    strip.save(buffer := io.BytesIO(), "JPEG", quality=80)
    return caption, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def grade_all(truth, paths, device, dtype):
    """Path -> grade. Files are read in processes of their own, which may die of them; checkpoints run here, in turn."""
    grades, bar = {}, tqdm(total=len(paths), unit="submission", disable=None)

    def work(jobs, processes):
        with ProcessPoolExecutor(processes, get_context(cache.START_METHOD), cache.start_worker, (truth,)) as pool:
            futures = {path: pool.submit(cache.run_job, grade_files, (path,)) for path in jobs}
            for path, future in futures.items():
                try:
                    grades[path] = future.result()
                    bar.update()
                except BrokenProcessPool:
                    pass

    files = [path for path in paths if not is_checkpoint(path)]
    if files:
        work(files, min(len(files), cache.usable_cores()))
    for path in files:
        if path not in grades:  # a process died and took its fellows along: one at a time, to find whose fault it was
            work([path], 1)
    for path in paths:
        if path not in grades:
            grades[path] = grade_predictions(truth, lambda _: (
                run_checkpoint(truth, path, device, dtype) if is_checkpoint(path)
                else stop("the process that read it died")))
            bar.update()
    bar.close()
    return grades


# ---------------------------------------------------------------------------------------------------------------------
# The pages


def full_points(truth):
    return sum(max(points for _, points in steps) for steps in truth.rubric.values())


def count_troubles(row):
    return ", ".join(f"{row[trouble]} {trouble}" for trouble in TROUBLES if row[trouble])


def feedback_page(truth, name, grade):
    """What one student is sent: nothing in it tells of the others."""
    verdict = f"{grade['status']}: {grade['points']:.2f} of {full_points(truth):g} points"
    metrics = [{"metric": metric.replace("_", " "), "score": value,
                "95% interval": format_interval(*grade["intervals"][metric]),
                "points": grade["points by metric"].get(metric)} for metric, value in grade["metrics"].items()]
    by_class = [{"class": name, BY_CLASS[truth.task]: value} for name, value in zip(truth.classes, grade["by class"])]
    lists = [f"<h3>{trouble} ({len(names)})</h3><ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in names[:200])
             + ("<li>...</li>" if len(names) > 200 else "") + "</ul>"
             for trouble, names in grade["troubles"].items() if names]
    return page(name, f"<p><strong>{verdict}</strong>; {grade['given']} of {len(truth.names)} predictions found</p>",
                "<h2>Scores</h2>", table(metrics), "<h2>Classes</h2>" if by_class else "", table(by_class, shaded=True),
                "<h2>What is wrong</h2>" if lists else "", *lists,
                f"<h2>Worst pictures</h2><p>{WORST[truth.task]}</p>" if grade["worst"] else "", figures(grade["worst"]))


def grades_page(truth, rows, grades, baseline):
    """The table of all submissions, their classes, and their worst pictures."""
    main = METRICS[truth.task][0]
    link = lambda row: (row["submission"], f"feedback/{row['feedback']}")  # noqa: E731
    ranked = [{"rank": row["rank"], "submission": link(row), "status": row["status"], "points": row["points"],
               **grades[row["submission"]]["metrics"],
               f"95% of {main}": format_interval(*grades[row["submission"]]["intervals"][main]),
               "what is wrong": count_troubles(row), "identical to": row["identical to"]} for row in rows]
    classes = [{"": link(row)} | dict(zip(truth.classes, grades[row["submission"]]["by class"]))
               for row in rows]
    worst = [f"<h3>{html.escape(row['submission'])}</h3>" + figures(grades[row["submission"]]["worst"])
             for row in rows if grades[row["submission"]]["worst"]]
    rubric = html.escape(json.dumps(truth.rubric))
    return page(f"Grades: {truth.task}",
                f"<p>{len(rows)} submissions, {len(truth.names)} pictures, {full_points(truth):g} points at most. "
                "Intervals hold 95% of 1000 bootstrap samples of the pictures. Click a header to sort. "
                f"Rubric: <code>{rubric}</code></p>",
                table(ranked, "sortable"), "<h2>Grey pictures would score</h2>" if baseline else "",
                table([baseline] if baseline else []),
                f"<h2>{BY_CLASS[truth.task]} by class</h2>" if truth.classes else "",
                table(classes, "sortable", shaded=True) if truth.classes else "",
                f"<h2>Worst pictures</h2><p>{WORST[truth.task]}</p>" if worst else "", *worst,
                f"<script>{SORT}</script>")


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


def grade(args):
    """Score a class's submissions against the truth: grades.csv, grades.html and a feedback page for each."""
    device, dtype = setup(args)
    truth = open_truth(args)
    paths = list(dict.fromkeys(os.path.normpath(path) for path in args.submissions))
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"{show(path)}: no such submission")
    feedback = Path(args.out) / "feedback"
    feedback.mkdir(parents=True, exist_ok=True)
    shown = Counter(os.path.basename(path) for path in paths)
    names = {path: show(base if shown[base := os.path.basename(path)] == 1 else path) for path in paths}
    grades = grade_all(truth, paths, device, dtype)
    grades = {names[path]: grades[path] for path in paths}

    main = METRICS[truth.task][0]
    results = {name: (-each["points"], -each["metrics"][main]) for name, each in grades.items()}
    order = sorted(grades, key=lambda name: (results[name], name))
    better, twins, rows = sorted(results.values()), defaultdict(list), []
    for name in order:
        twins[grades[name]["digest"]].append(name)
    for name in order:
        each = grades[name]
        twin = [other for other in twins[each["digest"]] if each["digest"] and other != name]
        text = "; ".join(f"{trouble}: {some(lines)}" for trouble, lines in each["troubles"].items() if lines)
        rows.append({"rank": better.index(results[name]) + 1, "submission": name, "status": each["status"],
                     "points": round(each["points"], 3),
                     **{key: round(value, 6) for key, value in each["metrics"].items()},
                     **dict(zip((f"{main} low", f"{main} high"), each["intervals"][main])),
                     **{f"{BY_CLASS[truth.task]} {key}": value for key, value in zip(truth.classes, each["by class"])},
                     **{trouble: len(lines) for trouble, lines in each["troubles"].items()},
                     "identical to": ", ".join(twin), "problems": text,
                     "feedback": f"{plain_name(name)}.html"})
        write_atomically(feedback / f"{plain_name(name)}.html", feedback_page(truth, name, each))
    baseline = None
    if truth.task == "colorization":
        baseline = grade_predictions(truth, lambda _: grey_pictures(truth))["metrics"]
    write_csv(Path(args.out) / "grades.csv", map(csv_row, rows), encoding="utf-8-sig")  # as spreadsheets want it
    write_atomically(Path(args.out) / "grades.html", grades_page(truth, rows, grades, baseline))
    for row in rows:
        troubles = count_troubles(row)
        print(f"{row['rank']:>3} {row['points']:6.2f}  {main} {row[main]:.4f}  {row['status']:<10}  {row['submission']}"
              + (f"  ({troubles})" if troubles else "") + (f"  = {row['identical to']}" if row["identical to"] else ""))
    print(f"{len(rows)} submissions graded: {Path(args.out) / 'grades.html'}, grades.csv and feedback/ beside it")


def grey_pictures(truth):
    for index, target in enumerate(truth.targets):
        lightness, _ = lightness_and_ab(as_batch(Image.fromarray(target), target.shape[:2], "cpu"))
        yield index, to_images(with_colors(lightness))[0]


def add_grade_arguments(sub):
    sub.add_argument("task", choices=tuple(METRICS))
    sub.add_argument("submissions", nargs="+", metavar="SUBMISSION", help="a folder, zip, CSV or checkpoint")
    sub.add_argument("--truth", required=True, help="the folder of one split, as for training")
    sub.add_argument("--rubric", help='a JSON file: {"metric": [[value, points], ...]} (default: by the report)')
    sub.add_argument("--missing", choices=("zero", "refuse"), default="zero", help="what a missing picture is worth")
    sub.add_argument("--seed", type=not_negative(int), default=0, help="of the bootstrap samples")
    sub.add_argument("--out", required=True, help="the folder to write to")
