"""The named data sets and a user's own folders, all in one form: decoded uint8 arrays at the training size.

    data = open_data("camvid", "segmentation", size=(96, 128))
    data.splits["train"].images[:16]     # uint8 (16, 3, 96, 128)
    data.splits["train"].targets[:16]    # uint8 (16, 96, 128), 255 where void"""
import os
import re

import numpy as np

from data import InputError, scenes
from data.cache import open_cache
from data.folders import FOLDER_LAYOUTS, SPLITS, WORDS, find_folder, settle_size
from data.images import printable
from data.masks import FOREGROUND, Classes
from data.samples import DataSet, Scenes

MAX_SIDE = 8192  # of the training size
# name -> its tasks, and its usual size. VOC's images are about 500x375 or 375x500: a square distorts both alike.
NAMED = {
    "scenes": (("segmentation", "classification", "colorization"), scenes.SIZE),
    "camvid": (("segmentation", "colorization"), (360, 480)),
    "voc": (("segmentation", "colorization"), (256, 256)),
    "cifar10": (("classification", "colorization"), (32, 32)),
}
SCENE_CLASSES = Classes(dict(enumerate(scenes.CLASSES)), dict(enumerate((*scenes.COLORS, (0, 0, 0)))), {11})  # CamVid's


def open_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data", seed: int = 0,
              splits=SPLITS, own_size=False, levels=None, foreground=False, whole=False, channels=None) -> DataSet:
    """Open a data set: find its files, hold out missing splits, decode it into the cache if it is not there yet. data:
    "scenes", another named set, or a folder. task: "segmentation", "classification" or "colorization". size: (height,
    width), by default the data set's own or, with own_size, the most common image's. seed: for the scenes and for the
    splits that are made here. splits: those needed. levels: see to_8_bits, by default the images' own. foreground:
    whether all that is not 0 in a mask is one class. whole: whether a folder without splits becomes the one needed
    split; nothing is held out. channels: of the images, by default 3. Raises InputError for faulty data."""
    found = find_source(data, task, size, data_dir, seed, own_size, foreground, channels)
    found.levels = tuple(levels) if levels else None
    if whole and found.splits.keys() == {"train"}:
        found.splits = {splits[0]: found.splits["train"]}
    for split in splits:
        if split not in (*found.splits, *found.missing):
            raise InputError(f"{printable(found.root)}: no {split} split; a folder for {task} holds "
                             f"{FOLDER_LAYOUTS[task]}")
    fill(found, task, data_dir)
    found.splits = {split: found.splits[split] for split in splits}
    return found


def fill(found: DataSet, task: str, data_dir: str) -> None:
    """Decode a data set into its cache. Scenes are drawn once, with masks; other tasks put their targets in place."""
    open_cache(found, data_dir)
    if found.task != task:
        labelled = task == "classification"
        found.task, found.classes, found.colors, found.ids = task, list(scenes.SCENE_TYPES) * labelled, [], []
        for name, split in found.splits.items():
            kinds = scenes.scene_type(np.arange(len(split)))
            split.targets = kinds if labelled else None
            found.counts[name] = np.bincount(kinds).tolist() * labelled


def check_data(*options) -> tuple[list[str], list[str]]:
    """Open a data set with find_source's options, but collect all problems: (lines that describe it, problems)."""
    problems = []
    try:
        found = find_source(*options, problems=problems)
        fill(found, options[1], options[3])
    except InputError as error:
        return [], [*problems, str(error)]
    lines = [f"{found.name}: {found.task} at {found.size[0]}x{found.size[1]} (height x width)", *found.notes]
    lines += [f"{split}: {len(samples)} images" for split, samples in found.splits.items()]
    counted = "images" if found.task == "classification" else "pixels"
    for index, name in enumerate(found.classes):
        total = sum(counts[index] for counts in found.counts.values())
        shares = [f"{split} {counts[index] / max(1, sum(counts)):.2%}" for split, counts in found.counts.items()]
        lines.append(f"class {index} {printable(name)}: {total:,} {counted} ({', '.join(shares)})")
    return lines, problems


def find_source(data: str, task: str, size, data_dir: str, seed: int = 0, own_size=False, foreground=False,
                channels=None, problems=None) -> DataSet:
    """Find the files of a named data set or a folder. Nothing is held out or decoded here."""
    tasks, usual = NAMED.get(data, (FOLDER_LAYOUTS, None))
    listed = data.lower().endswith(".csv") and os.path.isfile(data) and task != "classification"
    if (foreground or channels not in (None, 3)) and data in NAMED:
        flag = "--foreground" if foreground else "--channels"
        raise InputError(f"{flag}: what the files of {data} mean is known; leave it out, or give a folder")
    if task not in tasks:
        raise InputError(f"--data {data}: it has no targets for {task}; choose another, or a folder")
    if not (data in NAMED or os.path.isdir(data) or listed):
        raise InputError(f"{printable(data)}: no such folder; give a folder or one of {', '.join(NAMED)}")
    root = os.path.abspath(os.path.join(data_dir, data) if data in NAMED else data)
    *_, above, last = root.split(os.sep)  # mine/train -> mine-train
    name = re.sub(r"[^\w.-]+", "_", f"{above}-{last}" if last.lower() in WORDS else last) or "folder"
    own_size = own_size and data != "scenes"
    found = DataSet(name, task, size and tuple(size) or (None if own_size else usual), root=root, seed=seed,
                    own_size=own_size, problems=problems, channels=channels or 3)
    (find_named if data in NAMED else find_folder)(found)
    found.masks = None if found.task != "segmentation" else FOREGROUND if foreground else found.masks
    for samples in found.splits.values():
        samples.targets = None if task == "colorization" else samples.targets
    if own_size or not found.size:
        settle_size(found)
    least = 11 if task == "colorization" else 1  # SSIM's window
    if not (least <= min(found.size) and max(found.size) <= MAX_SIDE):
        raise InputError("{}: images of --size {} {}; height and width must lie between {} and {}".format(
            printable(root), *found.size, least, MAX_SIDE))
    return found


def find_named(data: DataSet) -> None:
    """Set the splits of a named data set, and its classes. Downloads it if needed."""
    if data.name == "scenes":
        data.splits, data.masks, data.task = {split: Scenes(split) for split in SPLITS}, SCENE_CLASSES, "segmentation"
        return
    from data import download  # it imports torchvision, which takes a second
    if data.name == "camvid":
        if not os.path.isdir(data.root):
            download.fetch_camvid(data.root, SCENE_CLASSES)
        find_folder(data)
        data.masks = data.masks or SCENE_CLASSES
    else:
        data.splits, data.classes, data.masks = download.find_torchvision(data.name, data.root)
