"""What submissions are held against: the truth, decoded once, and the metrics of each task."""
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import InputError, folders
from data.images import nfc, printable, read_image
from data.masks import Classes, decode_mask, infer_classes, read_classes, scored_classes
from evaluation.counts import ROW, bootstrap_samples

METRICS = {  # the first of each chooses the worst images
    "segmentation": ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"),
    "classification": ("accuracy",),
    "colorization": ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio", "colorfulness_credit"),
}
PERFECT = {"segmentation": 1, "classification": 1, "colorization": 100}  # the best that METRICS' first can be


@dataclass
class Truth:
    """The truth of one task. `index` finds an image by its name or, if unique, its stem; `folded` by either in lower
    case, where that is unique."""
    task: str
    names: list  # as they are shown: without folders where that stays unique, for a class's folder is the answer
    images: list  # paths
    targets: list  # masks (H, W) with 255 void, labels, or images (H, W, 3)
    classes: list
    colors: list
    index: dict
    folded: dict
    missing: str
    samples: np.ndarray  # (1000, N): how often each image is in each bootstrap sample, the same ones for everybody
    raw: Classes | None = None  # how masks are read
    known: np.ndarray | None = None  # (N, 3), colorization's: counts.colorization_known of each image
    rubric: dict | None = None

    @property
    def metrics(self):
        """The metrics that are shown; the first ranks. Of two classes the second is what is looked for."""
        binary = self.task == "segmentation" and len(self.classes) == 2
        return ("foreground_iou",) * binary + METRICS[self.task]

    @property
    def largest(self):
        """The pixels of its largest image."""
        return 0 if self.task == "classification" else max(target.shape[0] * target.shape[1] for target in self.targets)

    def row(self, index, prediction):
        """The counts (counts.py) of a prediction, or None, for an image."""
        known = None if self.known is None else self.known[index]
        return ROW[self.task](self.targets[index], prediction, len(self.classes), known)

    def digest(self):
        """A hash of all that scores depend on, but for the submission."""
        digest = hashlib.sha256(repr((self.task, self.names, self.classes, self.colors, self.raw, self.missing)).encode(
            errors="surrogateescape"))
        for array in (*self.targets, self.samples):
            digest.update(np.ascontiguousarray(array))
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def open_truth(args):
    """Read the truth of a task from a folder that holds one split."""
    split, classes, colors, raw, targets = read_truth(args.truth, args.task)
    names = [nfc(name) for name in split.names]
    stems = [name.rpartition("/")[2] for name in names]
    counts = Counter(stems)
    index = {stem: i for i, stem in enumerate(stems) if counts[stem] == 1}
    index |= {name: i for i, name in enumerate(names)}
    lower = Counter(name.casefold() for name in index)
    folded = {name.casefold(): i for name, i in index.items() if lower[name.casefold()] == 1}
    shown = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]
    telling = [name for name in shown if "/" in name]
    if args.task == "classification" and telling:
        print(f"{len(telling)} true images share their names, and so a prediction must name the class's folder, as "
              f"{printable(telling[0])}: whoever has seen these names knows the answers. Give each image its own name.")
    return Truth(args.task, shown, split.images, targets, classes, colors, index, folded, args.missing,
                 bootstrap_samples(len(split), args.seed), raw)


def read_truth(folder, task):
    """(split, classes, their colours, how masks are read, decoded targets) of a folder that holds one split."""
    root, raw, colors = os.path.abspath(folder), None, []
    if not os.path.isdir(root):
        raise InputError(f"--truth {printable(folder)}: no such folder")
    if task == "classification":
        splits, classes = folders.find_classification(root, [])
    else:
        find = folders.find_segmentation if task == "segmentation" else folders.find_images
        splits, classes = find(root, []), []
    if "train" not in splits or len(splits) > 1:
        raise InputError(f"--truth {printable(folder)}: it holds splits; give the folder of one: {', '.join(splits)}")
    split, = splits.values()
    targets = split.targets
    if task == "segmentation":
        raw = read_classes(root)
        targets = [split.read_mask(i, raw)[0] for i in range(len(split))]
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
