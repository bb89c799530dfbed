"""The truth, decoded once; baselines, which need no network; the rubric.

A rubric is {"metric": [[value, points], ...]}: linear between its pairs, constant outside them, summed over metrics."""
import hashlib
import itertools
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import InputError, color
from data.folders import find_folder
from data.images import nfc, printable, read_image
from data.masks import VOID, Classes, decode_mask, infer_classes, scored_classes
from data.samples import DataSet
from evaluation.colorization import to_images
from evaluation.counts import METRICS, ROW, colorization_known, in_rgb_and_lab

BASELINES = {"segmentation": ("nothing", "most frequent class", "usual layout"),
             "classification": ("nothing", "most frequent class"),
             "colorization": ("nothing", "grey", "mean colour", "usual layout")}
STEPS = {  # of the default rubric: (value, share of the way from the baselines to 1, points); the larger value counts
    "segmentation": ((0.415, 0.25, 6), (0.512, 0.375, 10)),  # the original's FCN-32 and U-Net
    "classification": ((0.92, 0.75, 10),), "colorization": ((0, 0.75, 4),)}
UNBOUNDED = ("psnr", "delta_e", "colorfulness_ratio", "sharpness_ratio")  # metrics that can be above 1


@dataclass
class Truth:
    """The truth of one task."""
    task: str
    names: list  # for the pages: without folders where that stays unique, as a class's folder is the answer
    images: list  # paths
    targets: list  # masks (H, W) with 255 void, labels, or images (H, W, 3)
    classes: list
    colors: list
    index: dict  # an image's name, its last part, or either in lower case, if unique -> the image's index
    raw: Classes | None  # how masks are read
    known: list  # for colorization: counts.colorization_known of each image
    digest: str  # a hash of all that scores depend on, except the submission
    rubric: dict | None = None

    @property
    def metrics(self):
        """The metrics of the pages; the first one ranks. Of two classes the second is the foreground."""
        binary = self.task == "segmentation" and len(self.classes) == 2
        return ("foreground_iou",) * binary + METRICS[self.task]

    @property
    def full_points(self):
        return sum(max(points for _, points in steps) for steps in self.rubric.values())

    def row(self, index, prediction):
        """The row (counts.py) of an image for a prediction, or for None, a missing one."""
        return ROW[self.task](self.targets[index], prediction, len(self.classes), self.known[index])


def open_truth(folder, task):
    """Read the truth of a task from a folder that holds one split. Raises InputError."""
    data, split, targets = read_truth(folder, task)
    names = [nfc(name) for name in split.names]
    stems = [name.rpartition("/")[2] for name in names]
    counts = Counter(stems)
    shown = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]
    index = {name: i for some in (shown, names) for i, name in enumerate(some)}
    lower = Counter(map(str.casefold, index))
    index |= {name.casefold(): i for name, i in index.items() if lower[name.casefold()] == 1}
    telling = [name for name in shown if "/" in name]
    if task == "classification" and telling:
        print(f"{len(telling)} true images share their names, so a prediction must name the class's folder, as "
              f"{printable(telling[0])}: whoever has seen these names knows the answers. Give each image its own name.")
    known = [colorization_known(target) if task == "colorization" else None for target in targets]
    digest = hashlib.sha256(repr((task, shown, data.classes, data.colors, data.masks)).encode(errors="surrogateescape"))
    sources = (path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    for content in itertools.chain(targets, map(read_image, split.images if task != "colorization" else ()), sources):
        digest.update(content if isinstance(content, bytes) else np.ascontiguousarray(content))
    return Truth(task, shown, split.images, targets, data.classes, data.colors, index, data.masks, known,
                 digest.hexdigest())


def read_truth(folder, task):
    """(data set, its one split, decoded targets) of a folder that holds one split."""
    data = DataSet("truth", task, None, root=os.path.abspath(folder))
    find_folder(data)
    print("".join(f"{note}\n" for note in data.notes), end="")
    if data.splits.keys() != {"train"}:
        raise InputError(f"--truth {printable(folder)}: it holds splits; give one: "
                         f"{printable(os.path.join(folder, list(data.splits)[-1]))}")
    split = data.splits["train"]
    targets = split.targets
    if task == "segmentation":
        targets = [split.read_mask(i, data.masks)[0] for i in range(len(split))]
        if data.masks is None:
            present = np.stack([np.bincount(mask.ravel(), minlength=256) > 0 for mask in targets])
            data.masks, note = infer_classes(present, split.targets)
            print(note)
            targets = [decode_mask(mask, data.masks) for mask in targets]
        data.classes, data.colors, _ = scored_classes(data.masks)
    elif task == "colorization":
        targets = [np.asarray(read_image(path)) for path in split.images]
        small = [path for path, target in zip(split.images, targets) if min(target.shape[:2]) < 11]
        if small:  # SSIM's window has 11 pixels
            raise InputError(f"{printable(small[0])}: less than 11 pixels high or wide, too small to be scored")
    return data, split, targets


def predict_baseline(truth, name):
    """One of BASELINES: a prediction for every true image, made without a network; or no prediction."""
    if name == "nothing":
        return []
    if truth.task == "classification":
        return [int(np.bincount(truth.targets).argmax())] * len(truth.targets)
    return (masks_without_network if truth.task == "segmentation" else colors_without_network)(truth.targets, name)


def resize(values, size, how=Image.Resampling.NEAREST):
    return np.asarray(Image.fromarray(values).resize(size[::-1], how))


def masks_without_network(targets, name):
    """Yield masks of the most frequent class of all pixels, or of the most frequent class at each place."""
    size = [min(side, 256) for side in targets[0].shape]
    small = np.stack([resize(target, size) for target in targets])
    votes = np.stack([(small == id).sum(0) for id in range(np.max(small, where=small != VOID, initial=0) + 1)])
    best = (votes if name == "usual layout" else votes.sum((1, 2), keepdims=True)).argmax(0).astype(np.uint8)
    yield from (resize(best, target.shape) for target in targets)


def colors_without_network(targets, name):
    """Yield the true lightness with grey, the mean colour of all truth, or the median colour at each place."""
    ab = torch.zeros(1, 2, 1, 1)
    if name != "grey":
        size = [min(side, 64) for side in targets[0].shape[:2]]
        small = [resize(target, size, Image.Resampling.BILINEAR) for target in targets]
        ab = torch.cat([in_rgb_and_lab(image)[1][:, 1:] for image in small])
        ab = ab.median(0, keepdim=True).values if name == "usual layout" else ab.mean((0, 2, 3), keepdim=True)
    for target in targets:
        large = torch.nn.functional.interpolate(ab, target.shape[:2], mode="bilinear")
        yield to_images(color.lab_to_rgb(torch.cat([in_rgb_and_lab(target)[1][:, :1], large], 1)))[0]


def default_rubric(truth, baselines):
    """A rubric that begins with 0 points at the best baseline's metric and continues by STEPS."""
    main = "colorfulness_credit" if truth.task == "colorization" else truth.metrics[0]
    start = min(max(metrics[main] for metrics in baselines), 0.99)
    steps = [[max(value, start + share * (1 - start)), points] for value, share, points in STEPS[truth.task]]
    if truth.task != "colorization":
        return {main: [[start, 0], *steps]}
    # PSNR is not used: grey images have a higher one than good colours.
    nearest = max(min(metrics["delta_e"] for metrics in baselines), 1e-6)
    return {"delta_e": [[0.85 * nearest, 6], [nearest, 0]], main: [[start, 0], *steps]}


def read_rubric(path, truth):
    """A rubric, {"metric": [[value, points], ...]} with values that ascend, from a JSON file. Raises InputError."""
    metric, rubric = "it", {}
    try:
        for metric, steps in json.loads(Path(path).read_text("utf-8-sig")).items():
            pairs = np.array(steps, float)
            if not (metric in truth.metrics and pairs.shape[1:] == (2,) and 0 <= pairs.min() <= pairs.max() < np.inf
                    and (metric in UNBOUNDED or pairs[:, 0].max() <= 1) and (np.diff(pairs[:, 0]) > 0).all()):
                raise ValueError("no steps of one of the metrics")
            rubric[metric] = pairs.tolist()
        if not rubric:
            raise ValueError("no metric")
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"--rubric {printable(path)}: {printable(metric)} is wrong; a rubric looks like "
                         f'{{"{truth.metrics[0]}": [[0.3, 0], [0.5, 10]]}}: for any of {", ".join(truth.metrics)} '
                         "pairs [value, points] with ascending values, nothing negative, and no percent") from error
    return rubric
