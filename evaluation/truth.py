"""What submissions are held against: the truth, decoded once, the scores of each task, and their points."""
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import InputError, folders
from data.images import nfc, printable, read_image
from data.masks import Classes, decode_mask, infer_classes, read_classes, scored_classes
from evaluation.counts import bootstrap_samples

METRICS = {  # the first of each is the main one: it ranks, and it chooses the worst images
    "segmentation": ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"),
    "classification": ("accuracy",),
    "colorization": ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio"),
}
PERFECT = {"segmentation": 1, "classification": 1, "colorization": 100}  # the best that the main metric can be


@dataclass
class Truth:
    """The truth of one task. `index` finds an image by its name or, if unique, its stem."""
    task: str
    names: list  # as they are shown: without folders where that stays unique, for a class's folder is the answer
    images: list  # paths
    targets: list  # masks (H, W) with 255 void, labels, or images (H, W, 3)
    classes: list
    colors: list
    index: dict
    rubric: dict
    missing: str
    samples: np.ndarray  # (1000, N): how often each image is in each bootstrap sample, the same ones for everybody
    raw: Classes | None = None  # how masks are read

    @property
    def largest(self):
        """The pixels of its largest image."""
        return 0 if self.task == "classification" else max(target.shape[0] * target.shape[1] for target in self.targets)

    def digest(self):
        """A hash of all that a grade depends on, but for the submission."""
        digest = hashlib.sha256(repr((self.task, self.names, self.classes, self.colors, self.raw, self.rubric,
                                      self.missing)).encode(errors="surrogateescape"))
        for array in (*self.targets, self.samples):
            digest.update(np.ascontiguousarray(array))
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def open_truth(args):
    """Read the truth of a task from a folder that holds one split, and the rubric."""
    split, classes, colors, raw, targets = read_truth(args.truth, args.task)
    names = [nfc(name) for name in split.names]
    stems = [name.rpartition("/")[2] for name in names]
    counts = Counter(stems)
    index = {stem: i for i, stem in enumerate(stems) if counts[stem] == 1}
    index |= {name: i for i, name in enumerate(names)}
    rubric = read_rubric(args.rubric, args.task) if args.rubric else default_rubric(args.task, classes)
    shown = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]
    return Truth(args.task, shown, split.images, targets, classes, colors, index, rubric, args.missing,
                 bootstrap_samples(len(split), args.seed), raw)


def read_truth(folder, task):
    """(split, classes, their colours, how masks are read, decoded targets) of a folder that holds one split."""
    root, raw, colors = os.path.abspath(folder), None, []
    if not os.path.isdir(root):
        raise InputError(f"--truth {printable(folder)}: no such folder")
    if inner := [split for split in folders.SPLITS if os.path.isdir(os.path.join(root, split))]:
        raise InputError(f"--truth {printable(folder)}: it holds splits; give one: "
                         f"{printable(os.path.join(folder, inner[-1]))}")
    if task == "classification":
        splits, classes = folders.find_classification(root, [])
    else:
        find = folders.find_segmentation if task == "segmentation" else folders.find_images
        splits, classes = find(root, []), []
    split, = splits.values()
    targets = split.targets
    if task == "segmentation":
        split.classes = raw = read_classes(root)
        targets = [split.mask(i) for i in range(len(split))]
        if raw is None:
            raw, note = infer_classes(np.stack([np.bincount(mask.ravel(), minlength=256) > 0 for mask in targets]),
                                      split.targets)
            print(note)
            targets = [decode_mask(mask, raw) for mask in targets]
        classes, colors, _ = scored_classes(raw)
    elif task == "colorization":
        targets = [np.asarray(read_image(path)) for path in split.images]
        for path, target in zip(split.images, targets):
            if min(target.shape[:2]) < 11:  # SSIM's window
                raise InputError(f"{printable(path)}: less than 11 pixels high or wide, too small to be scored; "
                                 "remove it")
    return split, classes, colors, raw, targets


# ---------------------------------------------------------------------------------------------------------------------
# Points


def default_rubric(task, classes):
    """Points by the original report's numbers. Chance gets none, but grey images get those of their PSNR, which on
    faintly coloured images is high: `grades.html` shows it, for a rubric of one's own."""
    return {
        "segmentation": {"miou": [[0, 0], [0.415, 6], [0.512, 10]]},
        "classification": {"accuracy": [[1 / max(len(classes), 1), 0], [0.92, 10]]},
        "colorization": {"psnr": [[20, 0], [26, 6]], "colorfulness_ratio": [[0, 0], [0.8, 4], [1.2, 4], [2, 0]]},
    }[task]


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
        raise InputError(f"--rubric {printable(path)}: {printable(str(error))}; it should look like "
                         f"{json.dumps(default_rubric(task, [0] * 10))}") from error
    return rubric


def full_points(rubric):
    return sum(max(points for _, points in steps) for steps in rubric.values())
