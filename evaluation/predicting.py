"""Predictions for anyone's images: which images are meant, what the results are called, and the work on all cores."""
import contextlib
import glob
import math
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import InputError
from data.images import image_size, is_image, list_images, pages, read_image
from evaluation.classification import predict_classification
from evaluation.colorization import predict_colorization
from evaluation.segmentation import predict_segmentation, with_palette
from training.checkpoint import load_predictor
from training.settings import explain, refuse, setup
from utils import save_image, write_csv

LARGE, LARGEST = 2**26, 2**30  # pixels: of images that are predicted one at a time, and of the largest taken


def predict(args):
    """Write a mask and an overlay, or the colours, for each image, or labels.csv; a bad image stops no other.

    predictions.csv says which image gave which result.
    """
    predictor = load_predictor(args.run, *setup(args))
    if args.probabilities and predictor.metadata["task"] != "segmentation":
        raise InputError("--probabilities is for segmentation; leave it out")
    out, problems = Path(args.out), []
    images = find_inputs(args.images, out, problems.append)
    out.mkdir(parents=True, exist_ok=True)
    for problem in problems:
        refuse(problem)
    rows, failures = [], len(problems)
    for row, problem in tqdm(predict_each(predictor, images, out, args), total=len(images), unit="img", disable=None):
        if problem:
            failures += 1
            refuse(problem)
        else:
            rows.append(row)
    if rows:
        write_csv(out / "predictions.csv", rows)
    if rows and predictor.metadata["task"] == "classification":
        write_csv(out / "labels.csv", labels(rows, images))
    print(f"{len(rows)} of {len(images)} images predicted into {out}")
    return 2 if failures else 0


def labels(rows, images):
    """The rows of labels.csv, as grading reads it: an image is class/file where two folders hold a file of its name."""
    times = Counter(os.path.basename(path) for path in {path[:] for path in images})  # without pages
    paths = [Path(row["image"]) for row in rows]
    return [{"name": f"{path.parent.name}/{path.name}" if times[path.name] > 1 else path.name,
             "label": row["label"], "probability": row["probability"]} for path, row in zip(paths, rows)]


def find_inputs(words, out, on_error):
    """{path: name} of the images that words of the command line mean: files, folders, and patterns such as *.jpg.

    The name is what the results are called in the folder `out`: the path below the folder, or below the part of a
    pattern before its first *, without suffix. What `out` holds is no input. `on_error` takes the message of a folder
    without images. Raises InputError where images would lie among the results.
    """
    found, used, out = {}, set(), out.resolve()
    for word in words:
        top, matches = None, [word]
        if any(sign in word for sign in "*?[") and not os.path.lexists(word):  # the shell left it alone
            matches = [match for match in sorted(glob.glob(word, recursive=True))
                       if is_image(match) or os.path.isdir(match)] or [word]
            top = os.path.dirname(word[: min(word.index(sign) for sign in "*?[" if sign in word)]) or "."
        for match in matches:
            is_folder = os.path.isdir(match)
            if out == (Path(match).resolve() if is_folder else Path(match).resolve().parent):
                raise InputError(f"--out {out}: the images' own folder, where they might be overwritten; give another")
            base = top or (match if is_folder else os.path.dirname(match) or ".")
            for path in list_images(match, on_error).values() if is_folder else pages(match):
                if path not in found and not (is_folder and Path(path).resolve().is_relative_to(out)):
                    found[path] = unused(os.path.splitext(os.path.relpath(path, base))[0], used)
    return found


def unused(name, used):
    """A name that is not in `used` yet: images of two folders may share theirs."""
    number, unique = 1, name
    while unique in used:
        number += 1
        unique = f"{name}_{number}"
    used.add(unique)
    return unique


def predict_each(predictor, images, out, args):
    """Yield for each {path: name}, in order, its row of predictions.csv and None, or None and what is wrong with it."""
    one_at_a_time = threading.Lock()

    def predict_one(path, name):
        try:
            with one_at_a_time if math.prod(image_size(path)) > LARGE else contextlib.nullcontext():
                image = read_image(path, predictor.metadata.get("levels"))
                shown = f"{path}#{path.number + 1}" if getattr(path, "number", 0) else path
                return {"image": shown} | predict_image(predictor, image, out, name, args.probabilities), None
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            advice = explain(error, args)
            if advice is None:
                raise
            return None, advice if isinstance(error, InputError) else f"{path}: {advice}"

    # A thread a core, each with an image of its own: while one decodes or writes, the others calculate.
    cores = torch.get_num_threads()
    threads = max(min(4 if predictor.device.type == "cuda" else min(cores, 8), len(images)), 1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(max(cores // threads, 1),))
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST  # one's own images are no attack
    try:
        yield from pool.map(predict_one, images, images.values())
    finally:
        pool.shutdown(cancel_futures=True)
        Image.MAX_IMAGE_PIXELS = usual


def predict_image(predictor, image, out, name, keep_probabilities=False):
    """Predict one Pillow image and write what comes of it; returns the result's columns of predictions.csv."""
    metadata, probabilities = predictor.metadata, None
    if metadata["task"] == "classification":
        label, probability = predict_classification(predictor, image)
        return {"label": label, "probability": f"{probability:.4f}"}
    path = out / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if metadata["task"] == "colorization":
        save_image(predict_colorization(predictor, image), path)
    else:
        if keep_probabilities:  # a mapped file: for a very large image they take gigabytes
            partial = path.with_name(f".{path.stem}.npy.partial")
            shape = len(metadata["classes"]), image.height, image.width
            probabilities = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
        mask = predict_segmentation(predictor, image, probabilities)
        mask = with_palette(mask, metadata["colors"], metadata["ids"])
        save_image(mask, path)
        if keep_probabilities:
            os.replace(partial, path.with_suffix(".npy"))
        for top in range(0, image.height, 1024):  # in strips, for the sake of very large images
            strip = (0, top, image.width, min(top + 1024, image.height))
            image.paste(Image.blend(image.crop(strip), mask.crop(strip).convert("RGB"), 0.5), strip)
        suffix = "jpg" if max(image.size) <= 65500 else "png"  # libjpeg's limit
        save_image(image, out / f"{name}_overlay.{suffix}")
    return {"prediction": path.relative_to(out).as_posix()}
