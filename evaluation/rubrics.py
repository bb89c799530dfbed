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


# ---------------------------------------------------- baselines: the predictions of somebody who looks at no image


def predict_baseline(truth, name):
    """Yield (index, prediction) of one of BASELINES for every true image."""
    if name != "nothing" and truth.task == "classification":
        label = int(np.bincount(truth.targets).argmax())
        yield from ((index, label) for index in range(len(truth.targets)))
    elif name != "nothing":
        predict = masks_without_network if truth.task == "segmentation" else colors_without_network
        size = [min(side, LAYOUT[truth.task]) for side in truth.targets[0].shape[:2]]
        yield from enumerate(predict(truth.targets, name, size))


def masks_without_network(targets, name, size):
    """Yield masks of the most frequent class everywhere, or at each place of the one that is most frequent there."""
    def resize(mask, size):
        return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))

    votes, (rows, columns) = np.zeros((256, *size), np.int32), np.ogrid[: size[0], : size[1]]
    for target in targets:
        votes[resize(target, size), rows, columns] += 1
    if name != "usual layout":
        votes = votes.sum((1, 2), keepdims=True)
    votes[VOID] = -1
    best = votes.argmax(0).astype(np.uint8)
    yield from (resize(best, target.shape) for target in targets)


def colors_without_network(targets, name, size):
    """Yield grey, or the true lightness with the mean colour of all truth, or with the median colour at each place."""
    ab = torch.zeros(1, 2, 1, 1)
    if name != "grey":
        ab = torch.cat([color.rgb_to_lab(as_batch(Image.fromarray(target), size, "cpu"))[:, 1:] for target in targets])
        ab = ab.median(0, keepdim=True).values if name == "usual layout" else ab.mean((0, 2, 3), keepdim=True)
    for target in targets:
        lightness = color.rgb_to_lab(as_batch(Image.fromarray(target), target.shape[:2], "cpu"))[:, :1]
        large = torch.nn.functional.interpolate(ab, target.shape[:2], mode="bilinear")
        yield to_images(color.lab_to_rgb(torch.cat([lightness, large], 1)))[0]


# ---------------------------------------------------------------------------------------------------------- rubrics


def default_rubric(truth, baselines):
    """Points that begin at the best of the baselines' metrics. Of masks the report's FCN-32 gets 6 and its U-Net 10, of
    labels its ResNet 10, where that is far enough from the baselines."""
    main = "colorfulness_credit" if truth.task == "colorization" else truth.metrics[0]
    start = min(max(metrics[main] for metrics in baselines), 0.99)

    def beyond(share):  # so much of the way from the baseline to a perfect 1
        return start + share * (1 - start)

    if truth.task == "segmentation":
        return {main: [[start, 0], [max(0.415, beyond(0.25)), 6], [max(0.512, beyond(0.375)), 10]]}
    if truth.task == "classification":
        return {main: [[start, 0], [max(0.92, beyond(0.75)), 10]]}
    # The PSNR of grey images is higher than that of good colours, so it says nothing here.
    nearest = max(min(metrics["delta_e"] for metrics in baselines), 1e-6)
    return {"delta_e": [[0.85 * nearest, 6], [nearest, 0]], main: [[start, 0], [beyond(0.75), 4]]}


def read_rubric(path, truth):
    """A rubric, {"metric": [[value, points], ...]} with values that ascend, from a JSON file. Raises InputError."""
    try:
        rubric = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(rubric, dict) or not rubric:
            raise ValueError("it names no metric")
        return {metric: check_steps(metric, steps, truth) for metric, steps in rubric.items()}
    except (ValueError, RecursionError) as error:
        unreadable = isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError))
        example = json.dumps({truth.metrics[0]: [[0.3, 0], [0.5, 10]]})
        raise InputError(f"--rubric {printable(path)}: {'it is no JSON' if unreadable else printable(str(error))}; it "
                         f"should look like {example}") from error


def check_steps(metric, steps, truth):
    """The pairs of a metric's value and its points, as floats. Raises ValueError, a sentence."""
    if metric not in truth.metrics:
        raise ValueError(f"{metric} is none of {', '.join(truth.metrics)}")
    try:
        pairs = np.array(steps, float)
    except (TypeError, ValueError, OverflowError):
        pairs = np.array(np.nan)
    if pairs.shape[1:] != (2,) or not np.isfinite(pairs).all():
        raise ValueError(f"{metric} needs a list of pairs [value, points] of numbers")
    if pairs.min() < 0:
        raise ValueError(f"{metric} has a negative number")
    if metric not in UNBOUNDED and pairs[:, 0].max() > 1:
        raise ValueError(f"{metric} goes from 0 to 1, and not in percent")
    if (np.diff(pairs[:, 0]) <= 0).any():
        raise ValueError(f"the values of {metric} must ascend")
    return pairs.tolist()


def count_points(rubric, metrics):
    """Metric -> points."""
    return {metric: float(np.interp(metrics[metric], *np.transpose(steps))) for metric, steps in rubric.items()}


def full_points(rubric):
    return sum(max(points for _, points in steps) for steps in rubric.values())
