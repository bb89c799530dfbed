"""A run's network at work: its scores on any data of its task, and its predictions for your own images."""
import contextlib
import glob
import html
import itertools
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import InputError
from data.images import is_image, list_images, read_image
from data.sources import find_source, open_data
from evaluation import print_scores
from evaluation.classification import predict_classification, score_classification
from evaluation.colorization import predict_colorization, score_colorization
from evaluation.pages import legend, page
from evaluation.segmentation import predict_segmentation, score_segmentation, with_palette
from training.checkpoint import load_predictor, lock_folder
from training.flags import refuse
from training.machine import setup
from training.settings import explain
from utils import colorize_mask, figure_colors, read_csv, save_image, write_atomically, write_csv

SCORE = {"segmentation": score_segmentation, "classification": score_classification,
         "colorization": partial(score_colorization, baselines=True)}
PREDICT = {"segmentation": predict_segmentation, "classification": predict_classification,
           "colorization": predict_colorization}


def score(args):
    """Score a run on a split of its own data, or of other data of the same task and classes."""
    predictor = load_predictor(args.run, *setup(args))
    metadata, task = predictor.metadata, predictor.metadata["task"]
    source, folder = args.data or metadata["data"], Path(args.run) if os.path.isdir(args.run) else Path(args.run).parent
    other = os.path.realpath(source) != os.path.realpath(metadata["data"])
    if other and (folder / "split.json").exists():  # training held images out; its data may lie elsewhere now
        with contextlib.suppress(OSError, ValueError):
            own = json.loads((folder / "split.json").read_text())
            listed = find_source(source, task, tuple(metadata["size"]), args.data_dir).splits
            other = sorted(sum(own.values(), [])) != sorted(sum((each.names for each in listed.values()), []))
    tiled = other and bool(metadata.get("tile"))  # then other images keep their own size
    data = open_data(source, task, None if tiled else tuple(metadata["size"]), args.data_dir,
                     metadata["seed"], splits=(args.split,), own_size=tiled, levels=metadata.get("levels"), whole=other,
                     foreground=metadata.get("foreground", False), channels=predictor.channels)
    split, same = data.splits[args.split], sorted(data.classes) == sorted(metadata["classes"])
    if task == "classification" and same:  # a folder's classes are sorted
        split.targets = np.array([metadata["classes"].index(name) for name in data.classes])[split.targets]
    elif data.classes != metadata["classes"]:
        raise InputError(f"--data {data.name} has other classes than the run: {', '.join(data.classes)[:200]}")
    if data.assignment and not other and split.digest != metadata.get("digests", {}).get(args.split, split.digest):
        raise InputError(f"{metadata['data']} holds other images than when the run was trained, so its split cannot be "
                         "made again (split.json lists it): put the images back, or give another folder with --data")
    print(f"{args.run} on {data.name}/{args.split}: {len(split)} images at {data.size[0]}x{data.size[1]}"
          + ", held out in training" * bool(data.assignment and args.split != "train"))
    print_scores(SCORE[task](predictor, split))


def predict(args):
    """Write a mask and an overlay, or the coloured image, for each image, or labels.csv. A bad image is reported, and
    the others go on. predictions.csv lists images and results, index.html shows them; results of earlier calls stay."""
    predictor, out, problems = load_predictor(args.run, *setup(args)), Path(args.out), []
    metadata, done = predictor.metadata, read_results(out / "predictions.csv")
    taken = {os.path.splitext(row["prediction"])[0]: image for image, row in done.items() if row.get("prediction")}
    images = find_inputs(args.images, out.resolve(), problems.append, taken, notes := [])
    print("".join(f"{note}\n" for note in notes), end="")
    places = {((out / name).parent, Path(path).parent) for path, name in images.items()}  # few, unlike the images
    if metadata["task"] != "classification" and any(here.resolve() == there.resolve() for here, there in places):
        raise InputError(f"--out {out}: the images are there and could be overwritten; give another")
    out.mkdir(parents=True, exist_ok=True)
    Image.MAX_IMAGE_PIXELS = 2**30  # the user's own images are no attack

    def predict_one(path, name):
        """The image's row of predictions.csv, or the error message."""
        try:
            image = read_image(path, metadata.get("levels"), predictor.channels)
            return {"image": path} | predict_image(predictor, image, out, name)
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            if (advice := explain(error)) is None:
                raise
            return advice if isinstance(error, InputError) else f"{path}: {advice}"

    # One thread per core, each with its own image: while one decodes or writes, the others compute.
    cores, good = torch.get_num_threads(), 0
    threads = min(4 if predictor.device.type == "cuda" else 8, cores, len(images)) or 1
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(max(cores // threads, 1),))
    with lock_folder(out), pool:
        results = pool.map(predict_one, images, images.values())
        try:
            for result in itertools.chain(problems, tqdm(results, total=len(images), unit="img", disable=None)):
                if isinstance(result, dict):
                    done[result["image"]], good = result, good + 1
                else:
                    refuse(result)
        finally:  # after Ctrl-C, too: the next call must know its own results
            write_csv(out / "predictions.csv", done.values())
    if metadata["task"] == "classification":  # for grading; a class's folder may be part of the name
        write_csv(out / "labels.csv", ({"name": "/".join(Path(image).parts[-2:])} | row for image, row in done.items()))
    keys = zip(metadata["classes"], figure_colors(metadata["colors"])) if metadata["task"] == "segmentation" else ()
    parts = "<p>", *legend(keys), "</p>", *(result_figure(row, out) for row in done.values())
    write_atomically(out / "index.html", page(f"Predictions of {args.run}", *parts))
    print(f"{good} of {len(images)} images predicted into {out}; index.html shows them")
    return 2 if problems or good < len(images) else 0


def read_results(path):
    """{image: row} of the predictions.csv of earlier calls. Raises InputError."""
    rows = read_csv(path)
    if not all(row.get("image") for row in rows):
        raise InputError(f"{path}: it is not as predict writes it; give another --out")
    return {os.path.abspath(row["image"]): row | {"image": os.path.abspath(row["image"])} for row in rows}


def result_figure(row, out):
    """Of a row of predictions.csv, HTML: the image and what was made of it, which browsers load as one scrolls."""
    files = {}
    if Path(row["image"]).suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):  # all browsers show these
        with contextlib.suppress(ValueError):  # Windows has no relative path between drives
            files["image"] = Path(os.path.relpath(row["image"], out)).as_posix()
    if row.get("prediction"):
        overlay = f"{row['prediction'].removesuffix('.png')}_overlay.jpg"
        files["prediction"] = overlay if (out / overlay).exists() else row["prediction"]
    images = "".join(f'<div><img src="{quote(os.fsencode(file))}" alt="" loading="lazy">{kind}</div>'
                     for kind, file in files.items())
    text = "/".join(Path(row["image"]).parts[-2:])
    text += f": {row['label']} ({float(row['probability'] or 0):.0%})" if row.get("label") else ""
    return f"<figure class=tile>{images}<figcaption>{html.escape(text)}</figcaption></figure>"


def find_inputs(words, out, on_error, taken, notes):
    """{path: name of its result} of the images in `words`: files, folders, and patterns such as *.jpg. The name is the
    path below the folder, or below a pattern's part before the first *, without suffix. taken: names of all results
    -> their images; it grows. Adds to `notes`."""
    found = {}
    for word in words:
        matches = [] if os.path.lexists(word) else sorted(glob.glob(word, recursive=True))
        top = word if os.path.isdir(word) else os.path.dirname(re.split("[*?[]", word)[0]) or "."
        for match in [match for match in matches if is_image(match) or os.path.isdir(match)] or [word]:
            folder = os.path.isdir(match)
            inside = folder and Path(match).resolve() in out.parents  # then earlier results are no images
            for path in map(os.path.abspath, list_images(match, on_error, (), notes).values() if folder else [match]):
                if path not in found and not (inside and Path(path).resolve().is_relative_to(out)):
                    stem = os.path.splitext(os.path.relpath(path, top))[0]
                    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
                    found[path] = next(name for name in names if taken.get(name) == path
                                       or name not in taken and not (out / f"{name}.png").exists())
                    taken[found[path]] = path
    return found


def predict_image(predictor, image, out, name):
    """Predict one Pillow image and write the result; returns its columns of predictions.csv."""
    metadata, path = predictor.metadata, out / f"{name}.png"
    result = PREDICT[metadata["task"]](predictor, image)
    if metadata["task"] == "classification":
        return {"label": result[0], "probability": f"{result[1]:.4f}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    if metadata["task"] == "segmentation":
        save_image(overlay(image, result, metadata["colors"]), path.with_name(f"{path.stem}_overlay.jpg"))
        result = with_palette(result, metadata["colors"], metadata["ids"])
    save_image(result, path)
    return {"prediction": path.relative_to(out).as_posix()}


def overlay(image, mask, colors):
    """A Pillow image, shrunk for viewing, with its classes' colours on it. Of two classes only the second is shown."""
    image = image.convert("RGB")
    image.thumbnail((4096, 4096))
    mask = np.array(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
    result = Image.blend(image, Image.fromarray(colorize_mask(mask, figure_colors(colors))), 0.5)
    if len(colors) == 2:
        result.paste(image, mask=Image.fromarray(mask == 0))
    return result
