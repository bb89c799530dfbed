"""Predictions for anyone's images: which images are meant, what the results are called, and the work on all cores."""
import glob
import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import InputError
from data.images import is_image, list_images, pages, read_image
from evaluation.classification import predict_classification
from evaluation.colorization import predict_colorization
from evaluation.segmentation import predict_segmentation, with_palette
from training.checkpoint import load_predictor
from training.settings import explain, refuse, setup
from utils import read_csv, save_image, write_csv


def predict(args):
    """Write a mask and an overlay, or the colours, for each image, or labels.csv; a bad image stops no other.

    predictions.csv says which image gave which result; those of earlier calls stay.
    """
    predictor, out, problems = load_predictor(args.run, *setup(args)), Path(args.out), []
    if args.probabilities and predictor.metadata["task"] != "segmentation":
        raise InputError("--probabilities is for segmentation; leave it out")
    done = {row["image"]: row for row in read_csv(out / "predictions.csv")}
    taken = {os.path.splitext(row["prediction"])[0]: image for image, row in done.items() if "prediction" in row}
    images = find_inputs(args.images, out.resolve(), problems.append, taken)
    out.mkdir(parents=True, exist_ok=True)
    Image.MAX_IMAGE_PIXELS = 2**30  # one's own images are no attack

    def predict_one(path, name):
        """The image's row of predictions.csv, or what is wrong with it."""
        try:
            image = read_image(path, predictor.metadata.get("levels"), predictor.channels)
            return {"image": path} | predict_image(predictor, image, out, name, args.probabilities)
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            advice = explain(error)
            if advice is None:
                raise
            return advice if isinstance(error, InputError) else f"{path}: {advice}"

    # A thread a core, each with an image of its own: while one decodes or writes, the others calculate.
    cores, good = torch.get_num_threads(), 0
    threads = min(4 if predictor.device.type == "cuda" else 8, cores, len(images)) or 1
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(max(cores // threads, 1),)) as pool:
        results = pool.map(predict_one, images, images.values())
        for result in itertools.chain(problems, tqdm(results, total=len(images), unit="img", disable=None)):
            if isinstance(result, dict):
                done[result["image"]], good = result, good + 1
            else:
                refuse(result)
    write_csv(out / "predictions.csv", done.values())
    if predictor.metadata["task"] == "classification":  # for grading, to which a class's folder may tell images apart
        write_csv(out / "labels.csv", ({"name": "/".join(Path(image).parts[-2:])} | row for image, row in done.items()))
    print(f"{good} of {len(images)} images predicted into {out}")
    return 2 if problems or good < len(images) else 0


def find_inputs(words, out, on_error, taken):
    """{path: name} of the images that words of the command line mean: files, folders, and patterns such as *.jpg.

    Results are called by the name: the path below the folder, or below the part of a pattern before its first *,
    without suffix. What a folder holds in `out` is no input. `taken`: names of earlier results -> their images.
    `on_error` takes the message of a folder without images. Raises InputError where images would lie among the results.
    """
    found, used = {}, set()
    for word in words:
        matches = [] if os.path.lexists(word) else sorted(glob.glob(word, recursive=True))
        top = word if os.path.isdir(word) else os.path.dirname(re.split("[*?[]", word)[0]) or "."
        for match in [match for match in matches if is_image(match) or os.path.isdir(match)] or [word]:
            is_folder = os.path.isdir(match)
            if out == (Path(match) if is_folder else Path(match).parent).resolve():
                raise InputError(f"--out {out}: the images' own folder, where they might be overwritten; give another")
            for path in list_images(match, on_error).values() if is_folder else pages(match):
                if path not in found and not (is_folder and Path(path).resolve().is_relative_to(out)):
                    name = os.path.splitext(os.path.relpath(path, top))[0]
                    numbered = (f"{name}_{number}" for number in itertools.count(2))  # another may be called so
                    found[path] = next(each for each in itertools.chain([name], numbered)
                                       if each not in used and taken.get(each) in (None, path))
                    used.add(found[path])
    return found


def predict_image(predictor, image, out, name, keep_probabilities):
    """Predict one Pillow image and write what comes of it; returns the result's columns of predictions.csv."""
    metadata, path = predictor.metadata, out / f"{name}.png"
    if metadata["task"] == "classification":
        label, probability = predict_classification(predictor, image)
        return {"label": label, "probability": f"{probability:.4f}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    if metadata["task"] == "colorization":
        save_image(predict_colorization(predictor, image), path)
    else:
        probabilities = None
        if keep_probabilities:  # a mapped file: for a very large image they take gigabytes
            shape = len(metadata["classes"]), image.height, image.width
            probabilities = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.float16, shape)
        mask = with_palette(predict_segmentation(predictor, image, probabilities), metadata["colors"], metadata["ids"])
        save_image(mask, path)
        image = image.convert("RGB")
        image.thumbnail((4096, 4096))  # the overlay is only looked at
        overlay = Image.blend(image, mask.resize(image.size).convert("RGB"), 0.5)
        save_image(overlay, path.with_name(f"{path.stem}_overlay.jpg"))
    return {"prediction": path.relative_to(out).as_posix()}
