"""Points: what a metric is worth, beginning at what needs no network.

A rubric is {"metric": [[value, points], ...]}: linear between its pairs, level outside them, summed over its metrics.
"""
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import InputError, color
from data.images import printable
from data.masks import VOID
from evaluation import as_batch
from evaluation.colorization import to_images

BASELINES = {"segmentation": ("nothing", "most frequent class", "usual layout"),
             "classification": ("nothing", "most frequent class"),
             "colorization": ("nothing", "grey", "mean colour", "usual layout")}
UNBOUNDED = ("psnr", "delta_e", "colorfulness_ratio", "sharpness_ratio")  # metrics that can be above 1
LAYOUT = {"segmentation": 256, "colorization": 64}  # pixels a side of the usual layout, at most


# ---------------------------------------------------------------------------------------------------------------------
# Baselines: the predictions of somebody who knows the truth's statistics and looks at no image


def predict_baseline(truth, name):
    """Yield (index, prediction) of one of BASELINES for every true image."""
    if name == "nothing":
        return
    if truth.task == "classification":
        label = int(np.bincount(truth.targets).argmax())
        yield from ((index, label) for index in range(len(truth.targets)))
    elif truth.task == "segmentation":
        yield from masks_without_network(truth, name)
    else:
        yield from colors_without_network(truth, name)


def masks_without_network(truth, name):
    """The most frequent class everywhere, or at each place the class that is most frequent there."""
    size = tuple(min(side, LAYOUT["segmentation"]) for side in truth.targets[0].shape)
    votes = np.zeros((256, *size), np.int32) if name == "usual layout" else np.zeros((256, 1, 1), np.int64)
    rows, columns = np.ogrid[: size[0], : size[1]]
    for target in truth.targets:
        if name == "usual layout":
            votes[resize(target, size), rows, columns] += 1
        else:
            votes[:, 0, 0] += np.bincount(target.ravel(), minlength=256)
    votes[VOID] = -1
    best = votes.argmax(0).astype(np.uint8)
    for index, target in enumerate(truth.targets):
        yield index, resize(best, target.shape)


def resize(mask, size):
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def colors_without_network(truth, name):
    """Grey, or the true lightness with the mean colour of all truth, or with the median colour at each place."""
    size, ab = [min(side, LAYOUT["colorization"]) for side in truth.targets[0].shape[:2]], torch.zeros(1, 2, 1, 1)
    if name != "grey":
        small = [color.rgb_to_lab(as_batch(Image.fromarray(target), size, "cpu"))[:, 1:] for target in truth.targets]
        ab = torch.cat(small)
        ab = ab.median(0, keepdim=True).values if name == "usual layout" else ab.mean((0, 2, 3), keepdim=True)
    for index, target in enumerate(truth.targets):
        lightness = color.rgb_to_lab(as_batch(Image.fromarray(target), target.shape[:2], "cpu"))[:, :1]
        large = torch.nn.functional.interpolate(ab, target.shape[:2], mode="bilinear")
        yield index, to_images(color.lab_to_rgb(torch.cat([lightness, large], 1)))[0]


# ---------------------------------------------------------------------------------------------------------------------
# Rubrics


def default_rubric(truth, baselines):
    """Points that begin at the best of the baselines (name -> metrics). Of masks the report's FCN-32 gets 6 and its
    U-Net 10, of labels its ResNet 10, where that is far enough from the baselines."""
    best = {metric: max((metrics[metric] for metrics in baselines.values()), default=0) for metric in truth.metrics}

    def beyond(start, share):  # so much of the way from a baseline to a perfect 1
        return start + share * (1 - start)

    if truth.task == "segmentation":
        start = min(best[truth.metrics[0]], 0.99)
        steps = [[start, 0], [max(0.415, beyond(start, 0.25)), 6], [max(0.512, beyond(start, 0.375)), 10]]
        return {truth.metrics[0]: steps}
    if truth.task == "classification":
        start = min(best["accuracy"], 0.99)
        return {"accuracy": [[start, 0], [max(0.92, beyond(start, 0.75)), 10]]}
    # The PSNR of grey images is higher than that of good colours, so it says nothing here.
    nearest = min(metrics["delta_e"] for metrics in baselines.values())
    start = min(best["colorfulness_credit"], 0.99)
    return {"delta_e": [[0.85 * nearest, 6], [max(nearest, 1e-6), 0]],
            "colorfulness_credit": [[start, 0], [beyond(start, 0.75), 4]]}


def read_rubric(path, truth):
    """A rubric, {"metric": [[value, points], ...]} with values that ascend, from a JSON file. Raises InputError."""
    try:
        rubric = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(rubric, dict) or not rubric:
            raise ValueError("it names no metric")
        for metric, steps in rubric.items():
            check_steps(metric, steps, truth)
    except RecursionError as error:
        raise InputError(f"--rubric {printable(path)}: nested too deeply") from error
    except ValueError as error:
        reason = "it is no JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
        example = json.dumps({truth.metrics[0]: [[0.3, 0], [0.5, 10]]})
        raise InputError(f"--rubric {printable(path)}: {printable(reason)}; it should look like {example}") from error
    return rubric


def check_steps(metric, steps, truth):
    """Raise ValueError, a sentence, unless steps are pairs of a metric's value and its points."""
    def is_number(value):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9  # NaN is not

    if metric not in truth.metrics:
        raise ValueError(f"{metric} is none of {', '.join(truth.metrics)}")
    pairs = isinstance(steps, list) and steps and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_number, pair)) for pair in steps)
    if not pairs:
        raise ValueError(f"{metric} needs a list of pairs [value, points] of numbers")
    values, points = zip(*steps)
    if min(values + points) < 0:
        raise ValueError(f"{metric} has a negative number")
    if metric not in UNBOUNDED and max(values) > 1:
        raise ValueError(f"{metric} goes from 0 to 1, and not in percent")
    if any(first >= second for first, second in zip(values, values[1:])):
        raise ValueError(f"the values of {metric} must ascend")


def count_points(rubric, metrics):
    """Metric -> points."""
    return {metric: float(np.interp(metrics[metric], *np.transpose(steps))) for metric, steps in rubric.items()}


def full_points(rubric):
    return sum(max(points for _, points in steps) for steps in rubric.values())
