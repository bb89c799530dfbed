"""Predictions for anyone's images: which images are meant, what the results are called, and the work on all cores."""
import contextlib
import glob
import itertools
import math
import os
import re
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
    out, problems, rows = Path(args.out), [], []
    images = find_inputs(args.images, out, problems.append)
    out.mkdir(parents=True, exist_ok=True)
    results = tqdm(predict_each(predictor, images, out, args), total=len(images), unit="img", disable=None)
    for result in itertools.chain(problems, results):
        if isinstance(result, dict):
            rows.append(result)
        else:
            refuse(result)
    if rows:
        write_tables(rows, images, out)
    print(f"{len(rows)} of {len(images)} images predicted into {out}")
    return 2 if problems or len(rows) < len(images) else 0


def write_tables(rows, images, out):
    """predictions.csv and, for grading, labels.csv: class/file names an image where folders share its file's name."""
    write_csv(out / "predictions.csv", rows)
    if "label" in rows[0]:
        times, labels = Counter(map(os.path.basename, {path[:] for path in images})), []  # a file's pages count once
        for row in rows:
            parts = Path(row["image"]).parts[-2:]
            name = "/".join(parts) if times[parts[-1]] > 1 else parts[-1]
            labels.append({"name": name, "label": row["label"], "probability": row["probability"]})
        write_csv(out / "labels.csv", labels)


def find_inputs(words, out, on_error):
    """{path: name} of the images that words of the command line mean: files, folders, and patterns such as *.jpg.

    Results are called by the name: the path below the folder, or below the part of a pattern before its first *,
    without suffix. What the folder `out` holds is no input. `on_error` takes the message of a folder without images.
    Raises InputError where images would lie among the results.
    """
    found, used, out = {}, set(), out.resolve()
    for word in words:
        matches = [word]
        if not os.path.lexists(word):  # a pattern that the shell left alone
            matches = [match for match in sorted(glob.glob(word, recursive=True))
                       if is_image(match) or os.path.isdir(match)]
        top = word if os.path.isdir(word) else os.path.dirname(re.split("[*?[]", word)[0]) or "."
        for match in matches or [word]:
            is_folder = os.path.isdir(match)
            if out == (Path(match).resolve() if is_folder else Path(match).resolve().parent):
                raise InputError(f"--out {out}: the images' own folder, where they might be overwritten; give another")
            for path in list_images(match, on_error).values() if is_folder else pages(match):
                if path not in found and not (is_folder and Path(path).resolve().is_relative_to(out)):
                    name = os.path.splitext(os.path.relpath(path, top))[0]
                    numbered = (f"{name}_{number}" for number in itertools.count(2))  # another may be called so
                    found[path] = next(each for each in itertools.chain([name], numbered) if each not in used)
                    used.add(found[path])
    return found


def predict_each(predictor, images, out, args):
    """Yield for each {path: name}, in order, its row of predictions.csv, or what is wrong with it."""
    one_at_a_time = threading.Lock()

    def predict_one(path, name):
        try:
            with one_at_a_time if math.prod(image_size(path)) > LARGE else contextlib.nullcontext():
                image = read_image(path, predictor.metadata.get("levels"))
                shown = f"{path}#{path.number + 1}" if getattr(path, "number", 0) else path
                return {"image": shown} | predict_image(predictor, image, out, name, args.probabilities)
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            advice = explain(error, args)
            if advice is None:
                raise
            return advice if isinstance(error, InputError) else f"{path}: {advice}"

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
    metadata, path = predictor.metadata, out / f"{name}.png"
    if metadata["task"] == "classification":
        label, probability = predict_classification(predictor, image)
        return {"label": label, "probability": f"{probability:.4f}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    if metadata["task"] == "colorization":
        save_image(predict_colorization(predictor, image), path)
        return {"prediction": path.relative_to(out).as_posix()}
    partial, probabilities = path.with_name(f".{path.stem}.npy.partial"), None
    if keep_probabilities:  # a mapped file: for a very large image they take gigabytes
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
