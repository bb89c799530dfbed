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
from evaluation.counts import ROW, bootstrap_samples, colorization_known

METRICS = {  # the first of each chooses the worst images
    "segmentation": ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"),
    "classification": ("accuracy",),
    "colorization": ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio", "colorfulness_credit"),
}


@dataclass
class Truth:
    """The truth of one task."""
    task: str
    names: list  # as they are shown: without folders where that stays unique, for a class's folder is the answer
    images: list  # paths
    targets: list  # masks (H, W) with 255 void, labels, or images (H, W, 3)
    classes: list
    colors: list
    index: dict  # finds an image by its name, its last part, or either in lower case, where that is unique
    missing: str  # "zero" or "refuse"
    samples: np.ndarray  # (1000, N): how often each image is in each bootstrap sample, the same ones for everybody
    raw: Classes | None  # how masks are read
    known: list  # colorization's: counts.colorization_known of each image
    rubric: dict | None = None

    @property
    def metrics(self):
        """The metrics that are shown; the first ranks. Of two classes the second is what is looked for."""
        binary = self.task == "segmentation" and len(self.classes) == 2
        return ("foreground_iou",) * binary + METRICS[self.task]

    def row(self, index, prediction):
        """The counts (counts.py) of a prediction, or None, for an image."""
        return ROW[self.task](self.targets[index], prediction, len(self.classes), self.known[index])

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
    """Read the truth of a task from a folder that holds one split. Raises InputError."""
    split, classes, colors, raw, targets = read_truth(args.truth, args.task)
    names = [nfc(name) for name in split.names]
    stems = [name.rpartition("/")[2] for name in names]
    counts = Counter(stems)
    index = {stem: i for i, stem in enumerate(stems) if counts[stem] == 1} | {name: i for i, name in enumerate(names)}
    lower = Counter(map(str.casefold, index))
    index |= {name.casefold(): i for name, i in index.items() if lower[name.casefold()] == 1}
    shown = [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]
    telling = [name for name in shown if "/" in name]
    if args.task == "classification" and telling:
        print(f"{len(telling)} true images share their names, and so a prediction must name the class's folder, as "
              f"{printable(telling[0])}: whoever has seen these names knows the answers. Give each image its own name.")
    known = [colorization_known(target) if args.task == "colorization" else None for target in targets]
    return Truth(args.task, shown, split.images, targets, classes, colors, index, args.missing,
                 bootstrap_samples(len(split), args.seed), raw, known)


def read_truth(folder, task):
    """(split, classes, their colours, how masks are read, decoded targets) of a folder that holds one split."""
    root, raw, classes, colors = os.path.abspath(folder), None, [], []
    if task == "classification":
        splits, classes = folders.find_classification(root, [])
    else:
        splits = (folders.find_segmentation if task == "segmentation" else folders.find_images)(root, [])
    if "train" not in splits or len(splits) > 1:
        raise InputError(f"--truth {printable(folder)}: it holds splits; give one: "
                         f"{printable(os.path.join(folder, list(splits)[-1]))}")
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
        # SSIM's window has 11 pixels.
        if small := [path for path, target in zip(split.images, targets) if min(target.shape[:2]) < 11]:
            raise InputError(f"{printable(small[0])}: less than 11 pixels high or wide, too small to be scored; remove "
                             "it")
    return split, classes, colors, raw, targets
