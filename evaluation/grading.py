"""Grade a class's submissions against the truth.

    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*

Submissions come from strangers: nothing in them is run, unpickled or unpacked to disk.
"""
import base64
import csv
import hashlib
import html
import io
import json
import math
import os
import re
import stat
import warnings
import zipfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

import utils
from data import InputError, cache, sources
from data.images import (
    NO_CLASS,
    Classes,
    decode_mask,
    infer_classes,
    look_up,
    names_and_colors,
    read_classes,
    read_image,
    show,
    some,
    stop,
)
from evaluate import (
    as_batch,
    lightness_and_ab,
    predict_classification,
    predict_colorization,
    predict_segmentation,
    to_pictures,
    unused,
    with_colors,
)
from evaluation.counts import COMPUTE, ROW
from evaluation.pages import SORT, figures, format_interval, page, table

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
    """Points by the report's numbers. Nothing is given for what takes no work: chance, or a grey picture."""
    return {
        "segmentation": {"miou": [[0, 0], [0.415, 6], [0.512, 10]]},
        "classification": {"accuracy": [[1 / max(len(classes), 1), 0], [0.92, 10]]},
        "colorization": {"psnr": [[20, 0], [26, 6]], "colorfulness_ratio": [[0, 0], [0.8, 4], [1.2, 4], [2, 0]]},
    }[task]


# ---------------------------------------------------------------------------------------------------------------------
# The truth, and submissions, which come from strangers

MAX_FILES, MAX_FILE, MAX_BYTES, MAX_RATIO = 10_000, 64 << 20, 2 << 30, 200  # of a submission
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF",
           ".tiff": "TIFF", ".webp": "WEBP"}
SUFFIXES = (*sources.MASK_SUFFIXES, "_pred")
TROUBLES = ("missing", "misnamed", "extra", "wrong size", "unreadable", "out of range", "refused")


@dataclass
class Truth:
    """What submissions are held against, decoded once. `index` finds a picture by its name or, if unique, its stem."""
    task: str
    names: list
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
        splits, classes = sources.find_classification(root)
    else:
        splits = sources.find_segmentation(root, []) if args.task == "segmentation" else sources.find_pictures(root)
        classes = []
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
        classes, colors = names_and_colors(raw)
    elif args.task == "colorization":
        targets = [np.asarray(read_image(path)) for path in split.images]
    stems = [name.rpartition("/")[2] for name in split.names]
    counts = Counter(stems)
    index = {stem: i for i, stem in enumerate(stems) if counts[stem] == 1}
    index |= {name: i for i, name in enumerate(split.names)}
    rubric = read_rubric(args.rubric, args.task) if args.rubric else default_rubric(args.task, classes)
    number = len(split)
    samples = np.random.default_rng(args.seed).multinomial(number, np.full(number, 1 / number), 1000).astype(float)
    return Truth(args.task, split.names, split.images, targets, classes, colors, index, rubric, args.missing, samples,
                 raw)


def read_rubric(path, task):
    """{"metric": [[value, points], ...]}, values ascending. Raises InputError."""
    try:
        rubric = json.loads(Path(path).read_text("utf-8"))
        for metric, steps in rubric.items():
            if metric not in METRICS[task]:
                raise ValueError(f"{metric} is none of {', '.join(METRICS[task])}")
            values, points = np.array(steps, float).reshape(-1, 2).T
            if len(values) != len(steps) or not np.isfinite([values, points]).all() or (np.diff(values) <= 0).any():
                raise ValueError(f"{metric} needs pairs of numbers whose first ones ascend")
        if not rubric:
            raise ValueError("it is empty")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"--rubric {show(path)}: {show(str(error))}; it should look like "
                         f"{json.dumps(default_rubric(task, [0] * 10))}") from error
    return rubric


def list_entries(path):
    """Yield (name, bytes, why it is refused or None, a function that reads it) of what a folder, zip or file holds."""
    if os.path.isdir(path):
        for place, folders, files in os.walk(path):  # follows no links
            folders.sort()
            for file in sorted(files + [folder for folder in folders if os.path.islink(os.path.join(place, folder))]):
                full = os.path.join(place, file)
                about = os.lstat(full)
                reason = ("a link; hand in the file itself" if stat.S_ISLNK(about.st_mode)
                          else None if stat.S_ISREG(about.st_mode) else "not a plain file")
                yield os.path.relpath(full, path).replace(os.sep, "/"), about.st_size, reason, Path(full).read_bytes
    elif path.lower().endswith(".zip"):
        archive = zipfile.ZipFile(path)
        for entry in archive.infolist():
            name = entry.filename.replace("\\", "/")
            ratio = entry.file_size / max(entry.compress_size, 1)
            reason = ("leads out of the archive" if name[:1] == "/" or ".." in name.split("/") or name[1:2] == ":"
                      else "a link; hand in the file itself" if stat.S_ISLNK(entry.external_attr >> 16)
                      else "encrypted" if entry.flag_bits & 1
                      else "packed by an unusual method" if entry.compress_type not in (0, 8)
                      else f"unpacks to {ratio:.0f} times its size" if ratio > MAX_RATIO and entry.file_size > 1 << 20
                      else None)
            if not entry.is_dir():
                yield name, entry.file_size, reason, partial(archive.read, entry)
    else:
        yield os.path.basename(path), os.path.getsize(path), None, Path(path).read_bytes


def list_files(path, troubles):
    """Name -> a function that reads the file, for every file of a submission that may be read. Nothing is unpacked."""
    files, total = {}, 0
    for number, (name, size, reason, read) in enumerate(list_entries(path), 1):
        total += size
        if number > MAX_FILES or total > MAX_BYTES:
            raise InputError(f"more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GB")
        reason = reason or (f"larger than {MAX_FILE >> 20} MB" if size > MAX_FILE else
                            "there twice" if name in files else None)
        if reason:
            troubles["refused"].append(f"{show(name)}: {reason}")
        elif not any(part[:1] == "." or part == "__MACOSX" for part in name.split("/")):
            files[name] = read
    return files


def find_picture(truth, name):
    """The index of the true picture that a file's name stands for, in whatever folder and with any known suffix."""
    parts = name.split("/")[-8:]
    for start in range(len(parts)):
        key = "/".join(parts[start:])
        for suffix in SUFFIXES:
            if key.endswith(suffix) and (index := truth.index.get(key.removesuffix(suffix))) is not None:
                return index
    return None


def read_pictures(truth, files, troubles):
    """Yield (index, mask or colour picture) in the truth's order, of the files that hold one."""
    pairs, extra = {}, []
    for name in sorted(files, key=lambda name: ("images" in name.split("/"), name)):  # those may be the data's own
        stem, suffix = os.path.splitext(name)
        index = find_picture(truth, stem) if suffix.lower() in FORMATS else None
        if index in pairs:
            troubles["extra"].append(f"{show(name)}: {show(pairs[index])} was taken for that picture")
        elif index is not None:
            pairs[index] = name
        elif not stem.endswith("_overlay"):  # predict's, to look at
            extra.append(name)
    absent = [name.lower() for i, name in enumerate(truth.names) if i not in pairs]
    for name in extra:
        meant = next((other for other in absent if other in name.lower()), None)
        kind, hint = ("misnamed", f": meant for {show(meant)}?") if meant else ("extra", "")
        troubles[kind].append(show(name) + hint)
    for index, name in sorted(pairs.items()):
        height, width = truth.targets[index].shape[:2]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = Image.open(io.BytesIO(files[name]()), formats=list(set(FORMATS.values())))
                if sorted(image.size) == [min(height, width), max(height, width)]:  # else nothing of it is decoded
                    image = ImageOps.exif_transpose(image)
                if image.size == (width, height):
                    picture = (as_mask(image, truth, name, troubles) if truth.task == "segmentation"
                               else np.array(image.convert("RGB")))
        except Exception as error:  # on malformed files zipfile and Pillow's decoders raise nearly anything
            reason = "no picture" if isinstance(error, UnidentifiedImageError) else show(str(error))[:100]
            troubles["unreadable"].append(f"{show(name)}: {reason or type(error).__name__}")
            continue
        if image.size == (width, height):
            yield index, picture
        else:
            troubles["wrong size"].append(f"{show(name)}: {image.height}x{image.width} in place of {height}x{width}")


def as_mask(image, truth, name, troubles):
    """A mask of ids, palette indices, 0 and 255, or the classes' colours -> class ids, NO_CLASS for all others."""
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    elif image.mode not in ("1", "L", "P", "I", "I;16", "RGB"):
        image = image.convert("RGB")
    mask, values = look_up(np.asarray(image).clip(0, 255).astype(np.uint8), truth.raw)
    if len(truth.classes) == 2 and 0 in truth.raw.names and values.dtype == np.uint8:
        others = np.flatnonzero(np.bincount(values.ravel(), minlength=256)[1:]) + 1
        if others.tolist() in ([1], [255]):  # background and foreground, which many write as 0 and 255
            mask = (values > 0).astype(np.uint8)
    if (wrong := mask == NO_CLASS).any():
        found = np.unique(values[wrong])
        listed = ", ".join(f"{v:06x}" if values.dtype == np.uint32 else str(v) for v in found[:5])
        troubles["out of range"].append(f"{show(name)}: {wrong.sum()} pixels are of no class (values {listed})")
    return mask


def read_labels(truth, files, troubles):
    """Yield (index, label) in the truth's order from the first CSV with columns name and label; -1: no class."""
    labels, known = {}, {name: i for i, name in enumerate(truth.classes)}
    for file in sorted(files):
        if not file.lower().endswith(".csv") or labels:
            troubles["extra"].append(show(file))
            continue
        text = files[file]().decode("utf-8-sig", errors="replace")
        reader = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in text.partition("\n")[0] else ",")
        reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        if not {"name", "label"} <= set(reader.fieldnames):
            troubles["extra"].append(f"{show(file)}: its first line does not say name,label")
            continue
        for row in reader:
            name, label = (row["name"] or "").strip().replace("\\", "/"), (row["label"] or "").strip()
            index = find_picture(truth, name)
            index = find_picture(truth, os.path.splitext(name)[0]) if index is None else index
            if index is None or index in labels:
                troubles["extra"].append(show(name))
                continue
            labels[index] = known.get(label, -1)
            if label not in known:
                troubles["out of range"].append(f"{show(name)}: there is no class {show(label)}")
    yield from sorted(labels.items())


def run_checkpoint(truth, path, device, dtype):
    """Yield (index, prediction) of one of our checkpoints for every true picture, at its own size."""
    if os.path.islink(os.path.join(path, "best.pt") if os.path.isdir(path) else path):
        stop("a link; hand in the file itself")
    model, checkpoint = utils.load_for_inference(path, device, dtype)
    if checkpoint["task"] != truth.task or checkpoint["classes"] != truth.classes:
        raise InputError(f"a network for {checkpoint['task']}, or for other classes than the truth's")
    predict = {"segmentation": predict_segmentation, "classification": predict_classification,
               "colorization": predict_colorization}[truth.task]
    autocast = utils.autocast(device, dtype)
    for index, picture in enumerate(truth.images):
        with autocast():
            prediction = predict(model, checkpoint, read_image(picture), device)
        if truth.task == "classification":
            prediction = truth.classes.index(prediction[0])
        yield index, np.array(prediction)


# ---------------------------------------------------------------------------------------------------------------------
# One submission


def is_checkpoint(path):
    return path.lower().endswith(".pt") or os.path.isfile(os.path.join(path, "best.pt"))


def grade_files(truth, path):
    """Grade a folder, zip or CSV of predictions, in a worker process."""
    torch.set_num_threads(1)  # the processes are as many as the cores
    read = read_labels if truth.task == "classification" else read_pictures
    return grade_predictions(truth, lambda troubles: read(truth, list_files(path, troubles), troubles))


def grade_predictions(truth, predict):
    """Score the (index, prediction) pairs that predict(troubles) yields: a dict of all that the pages tell."""
    row, compute, main = ROW[truth.task], COMPUTE[truth.task], METRICS[truth.task][0]
    rows, worst, digest, error, troubles = {}, [], hashlib.sha256(), None, defaultdict(list)
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
    rows |= {i: row(truth.targets[i], None, len(truth.classes)) for i in absent}
    rows = np.stack([rows[i] for i in range(len(truth.names))]).astype(float)
    metrics = compute(rows.sum(0))
    resampled = compute(np.tensordot(truth.samples, rows, 1))
    refused = error or absent and truth.missing == "refuse"
    points = {metric: 0.0 if refused or not given else float(np.interp(metrics[metric], *np.array(steps, float).T))
              for metric, steps in truth.rubric.items()}
    return {
        "status": "refused" if refused else "ok" if not absent else "incomplete" if given else "empty",
        "points": sum(points.values()), "points by metric": points, "given": given,
        "metrics": {metric: float(metrics[metric]) for metric in METRICS[truth.task]},
        "intervals": {metric: np.percentile(resampled[metric], (2.5, 97.5)).tolist() for metric in METRICS[truth.task]},
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())],
        "troubles": dict(troubles), "digest": digest.hexdigest() if given else None,
        "worst": [draw_worst(truth, *each) for each in worst if each[0] < PERFECT[truth.task]],
    }


def draw_worst(truth, score, index, prediction):
    """(caption, data URI of picture, truth and prediction side by side)"""
    caption, target = f"{show(truth.names[index])}: {METRICS[truth.task][0]} {score:.3f}", truth.targets[index]
    if truth.task == "classification":
        guess = truth.classes[prediction] if prediction >= 0 else "no class"
        caption, pictures = f"{show(truth.names[index])}: {guess}, is {truth.classes[target]}", []
    elif truth.task == "segmentation":
        pictures = [utils.colorize_mask(mask, truth.colors) for mask in (target, prediction)]
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
        with ProcessPoolExecutor(processes, get_context(cache.START_METHOD), cache._start_worker, (truth,)) as pool:
            futures = {path: pool.submit(cache._run_job, grade_files, (path,)) for path in jobs}
            for path, future in futures.items():
                try:
                    grades[path] = future.result()
                    bar.update()
                except BrokenProcessPool:
                    pass

    files = [path for path in paths if not is_checkpoint(path)]
    if files:
        work(files, min(len(files), os.cpu_count()))
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
             for trouble in TROUBLES if (names := grade["troubles"].get(trouble))]
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
    classes = [{"submission": link(row)} | dict(zip(truth.classes, grades[row["submission"]]["by class"]))
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
    plain = re.sub("[^a-z0-9]+", "_", name.lower())[:60].strip("_") or "submission"
    return plain if name.isascii() else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def csv_row(row):
    """A spreadsheet takes text that begins with one of these characters for a formula."""
    return {key: "'" + value if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
            for key, value in row.items()}


def grade(args):
    """Score a class's submissions against the truth: grades.csv, grades.html and a feedback page for each."""
    device, dtype = utils.setup(args)
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
    order = sorted(grades, key=lambda name: (-grades[name]["points"], -grades[name]["metrics"][main], name))
    used, twins, rows = set(), defaultdict(list), []
    files = {name: unused(plain_name(name), used) + ".html" for name in sorted(grades)}
    for name in order:
        twins[grades[name]["digest"]].append(name)
    for rank, name in enumerate(order, 1):
        each = grades[name]
        twin = [other for other in twins[each["digest"]] if each["digest"] and other != name]
        found = {trouble: each["troubles"].get(trouble, []) for trouble in TROUBLES}
        text = "; ".join(f"{trouble}: {some(names)}" for trouble, names in found.items() if names)
        rows.append({"rank": rank, "submission": name, "status": each["status"], "points": round(each["points"], 3),
                     **{key: round(value, 6) for key, value in each["metrics"].items()},
                     **dict(zip((f"{main} low", f"{main} high"), each["intervals"][main])),
                     **{f"{BY_CLASS[truth.task]} {key}": value for key, value in zip(truth.classes, each["by class"])},
                     **{trouble: len(names) for trouble, names in found.items()},
                     "identical to": ", ".join(twin), "problems": text, "feedback": files[name]})
        utils.write_atomically(feedback / files[name], feedback_page(truth, name, each))
    baseline = None
    if truth.task == "colorization":
        baseline = grade_predictions(truth, lambda _: grey_pictures(truth))["metrics"]
    utils.write_csv(Path(args.out) / "grades.csv", map(csv_row, rows))
    utils.write_atomically(Path(args.out) / "grades.html", grades_page(truth, rows, grades, baseline))
    for row in rows:
        troubles = count_troubles(row)
        print(f"{row['rank']:>3} {row['points']:6.2f}  {main} {row[main]:.4f}  {row['status']:<10}  {row['submission']}"
              + (f"  ({troubles})" if troubles else "") + (f"  = {row['identical to']}" if row["identical to"] else ""))
    print(f"{len(rows)} submissions graded: {Path(args.out) / 'grades.html'}, grades.csv and feedback/ beside it")


def grey_pictures(truth):
    for index, target in enumerate(truth.targets):
        lightness, _ = lightness_and_ab(as_batch(Image.fromarray(target), target.shape[:2], "cpu"))
        yield index, to_pictures(with_colors(lightness))[0]


def add_grade_arguments(sub):
    sub.add_argument("task", choices=tuple(METRICS))
    sub.add_argument("submissions", nargs="+", metavar="SUBMISSION", help="a folder, zip, CSV or checkpoint")
    sub.add_argument("--truth", required=True, help="the folder of one split, as for training")
    sub.add_argument("--rubric", help='a JSON file: {"metric": [[value, points], ...]} (default: by the report)')
    sub.add_argument("--missing", choices=("zero", "refuse"), default="zero", help="what a missing picture is worth")
    sub.add_argument("--seed", type=utils.not_negative(int), default=0, help="of the bootstrap samples")
    sub.add_argument("--out", required=True, help="the folder to write to")
