"""The named data sets and anyone's own folders, all brought to one form: decoded uint8 arrays at the training size.

    data = open_data("camvid", "segmentation", size=(96, 128))
    data.splits["train"].images[:16]     # uint8 (16, 3, 96, 128)
    data.splits["train"].targets[:16]    # uint8 (16, 96, 128), 255 where void
"""
import os
import re

from data import InputError, scenes
from data.cache import open_cache
from data.folders import (FOLDER_LAYOUTS, SPLITS, find_classification, find_images, find_listed, find_segmentation,
                          settle_size)
from data.images import printable, stop
from data.masks import FOREGROUND, Classes, read_classes
from data.samples import DataSet, Scenes

MAX_SIDE = 8192  # of the training size
# name -> the tasks it serves, and its usual size. VOC's images are about 500x375, upright or lying: a square distorts
# both alike. Pets at 224 is ImageNet's size.
NAMED = {
    "scenes": (("segmentation", "classification", "colorization"), scenes.SIZE),
    "camvid": (("segmentation", "colorization"), (360, 480)),
    "voc": (("segmentation", "colorization"), (256, 256)),
    "pets": (("segmentation", "classification", "colorization"), (224, 224)),
    "cifar10": (("classification", "colorization"), (32, 32)),
}
SCENE_CLASSES = Classes(dict(enumerate(scenes.CLASSES)), dict(enumerate((*scenes.COLORS, (0, 0, 0)))), {11})  # CamVid's


def open_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data", seed: int = 0,
              splits=SPLITS, scale=None, levels=None, foreground=False, whole=False,
              channels=3) -> DataSet:
    """Open a data set at a size: find its files, hold out the splits that are missing, decode it into the cache once.

    data: "scenes", another named set, or a folder. task: "segmentation", "classification" or "colorization". size:
    (height, width), by default the data set's own; with a scale, the commonest image's own times that. seed: draws the
    scenes, and the splits that are made here. splits: those needed. levels: read_image's, by default the images' own.
    foreground: whether all that is not 0 in a mask is one class. whole: whether a folder without splits is the split
    asked for, and nothing is held out. channels: of the images.
    Raises InputError where the data are not in order.
    """
    found = find_source(data, task, size, data_dir, seed, scale=scale, foreground=foreground,
                        channels=channels)
    found.levels = levels and tuple(levels)
    if whole and found.splits.keys() == {"train"}:
        found.splits = {splits[0]: found.splits["train"]}
    for split in splits:
        if split not in (*found.splits, *found.missing):
            raise InputError(f"{printable(found.root)}: no {split} split; a folder for {task} holds "
                             f"{FOLDER_LAYOUTS[task]}")
    open_cache(found, data_dir)
    found.splits = {split: found.splits[split] for split in splits}
    return found


def check_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data",
               seed: int = 0, scale=None, foreground=False, channels=3) -> tuple[list[str], list[str]]:
    """Open a data set as `open_data` does, for --dry-run, but collect all problems: (lines that describe it, problems).
    """
    problems = []
    try:
        found = find_source(data, task, size, data_dir, seed, problems.append, scale, foreground, channels)
        open_cache(found, data_dir, problems)
    except InputError as error:
        return [], [*problems, str(error)]
    lines = [f"{found.name}: {task} at {found.size[0]}x{found.size[1]} (height x width)", *found.notes]
    lines += [f"{split}: {len(samples)} images" for split, samples in found.splits.items()]
    counted = "images" if task == "classification" else "pixels"
    for index, name in enumerate(found.classes):
        total = sum(counts[index] for counts in found.counts.values())
        shares = [f"{split} {counts[index] / max(1, sum(counts)):.2%}" for split, counts in found.counts.items()]
        lines.append(f"class {index} {printable(name)}: {total:,} {counted} ({', '.join(shares)})")
    return lines, problems


def find_source(data: str, task: str, size, data_dir: str, seed: int, on_error=stop, scale=None,
                foreground=False, channels=3) -> DataSet:
    """Find the files of a named data set or a folder. Nothing is held out or decoded yet."""
    tasks, usual = NAMED.get(data, (FOLDER_LAYOUTS, None))
    listed = data.lower().endswith(".csv") and os.path.isfile(data) and task != "classification"
    if (foreground or channels != 3) and data in NAMED:
        flag = "--foreground" if foreground else "--channels"
        raise InputError(f"{flag}: what the files of {data} mean is known; leave it out, or give a folder")
    if task not in tasks:
        raise InputError(f"--data {data}: it has no targets for {task}; choose another, or a folder")
    if not (data in NAMED or os.path.isdir(data) or listed):
        raise InputError(f"{printable(data)}: no such folder; give a folder or one of {', '.join(NAMED)}")
    root = os.path.abspath(os.path.join(data_dir, data) if data in NAMED else data)
    name = re.sub(r"[^\w.-]+", "_", os.path.basename(root)) or "folder"
    own_size = scale and data != "scenes"
    found = DataSet(name, task, size and tuple(size) or (None if own_size else usual), root=root, seed=seed,
                    channels=channels)
    find_splits(found, data, on_error)
    found.masks = FOREGROUND if foreground else found.masks
    if own_size or not found.size:
        settle_size(found, scale)
    least = 11 if task == "colorization" else 1  # SSIM's window
    if not (least <= min(found.size) and max(found.size) <= MAX_SIDE):
        raise InputError("{}: images of --size {} {}; height and width must lie between {} and {}".format(
            printable(root), *found.size, least, MAX_SIDE))
    if task == "segmentation" and max(found.scale) < 0.5:
        found.notes.append("small things shrink with the images, to {:.0%} of their height and {:.0%} of their width; "
                           "--tile 256 256 trains on crops of images at their own size".format(*found.scale))
    return found


def find_splits(found: DataSet, data: str, on_error) -> None:
    """Find the samples of a data set's splits, and its classes as far as files tell them."""
    root, task = found.root, found.task
    if data in NAMED and data != "scenes":
        from data import download  # with torchvision, which takes a second to import
    if data == "camvid" and not os.path.isdir(root):
        download.fetch_camvid(root, SCENE_CLASSES)
    if data == "scenes":
        found.splits = {split: Scenes(split) for split in SPLITS}
        found.classes = list(scenes.SCENE_TYPES) if task == "classification" else []
        found.masks = SCENE_CLASSES
    elif data in NAMED and data != "camvid":
        found.splits, found.classes, found.masks = download.find_torchvision(data, root, task)
    elif task == "classification":
        found.splits, found.classes = find_classification(root, found.notes, on_error)
    elif os.path.isfile(root):
        found.splits, found.masks = find_listed(root, on_error), read_classes(os.path.dirname(root))
    elif task == "segmentation":
        found.splits = find_segmentation(root, found.notes, on_error)
        found.masks = read_classes(root) or (SCENE_CLASSES if data == "camvid" else None)
    else:
        found.splits = find_images(root, found.notes, on_error)
    if task != "segmentation":
        found.masks = None
    if task == "colorization":  # images alone
        for samples in found.splits.values():
            samples.targets = None
