"""The named data sets and anyone's own folders, all brought to one form: decoded uint8 arrays at the training size.

    data = open_data("camvid", "segmentation", size=(96, 128))
    data.splits["train"].images[:16]     # uint8 (16, 3, 96, 128)
    data.splits["train"].targets[:16]    # uint8 (16, 96, 128), 255 where void

`open_data` finds a data set's files (or draws them), holds out the splits that are missing, decodes every image once
into the cache under `<data_dir>/cache/`, and maps it into memory ever after. `check_data` does the same, and reports
every problem in place of the first.
"""
import os
import re
from dataclasses import dataclass, field

from data import InputError, scenes
from data.cache import Split, cache_key, read_cache, write_cache
from data.download import fetch_camvid, find_torchvision
from data.folders import (
    FOLDER_LAYOUTS,
    SPLITS,
    find_classification,
    find_images,
    find_segmentation,
    hold_out,
    settle_size,
)
from data.images import printable, stop
from data.masks import Classes, read_classes
from data.samples import Scenes, Source

MAX_SIDE = 8192  # of the training size
# name -> the tasks it serves, and its usual size. VOC's images are about 500x375, upright or lying: a square distorts
# both alike. Pets at 224 is ImageNet's size; Cityscapes at a quarter of 1024x2048 trains on one small GPU.
NAMED = {
    "scenes": (("segmentation", "classification", "colorization"), scenes.SIZE),
    "camvid": (("segmentation", "colorization"), (360, 480)),
    "voc": (("segmentation", "colorization"), (256, 256)),
    "pets": (("segmentation", "classification", "colorization"), (224, 224)),
    "cityscapes": (("segmentation", "colorization"), (256, 512)),
    "cifar10": (("classification", "colorization"), (32, 32)),
}
SCENE_CLASSES = Classes(dict(enumerate(scenes.CLASSES)), dict(enumerate((*scenes.COLORS, (0, 0, 0)))), {11})  # CamVid's


@dataclass
class DataSet:
    """A data set in the one form that everything else works on; see `open_data`.

    classes, colors, ids: of the scored classes, in the order of their indices; ids are what masks' files call them.
    notes: lines for the user. assignment: {split: names} where the splits were made here. scale: of the size, as shares
    of the images' own, where `open_data` was given one.
    """
    name: str
    task: str
    size: tuple[int, int]
    classes: list[str]
    colors: list[tuple[int, int, int]]
    ids: list[int]
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)
    assignment: dict[str, list[str]] | None = None
    scale: tuple[float, float] = (1.0, 1.0)


def open_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data", seed: int = 0,
              splits=SPLITS, scale=None) -> DataSet:
    """Open a data set at a size, decoding it into the cache at the first call.

    data: "scenes", another named set, or a folder. task: "segmentation", "classification" or "colorization". size:
    (height, width), by default the data set's own. seed: draws the scenes, and the splits that are made here. splits:
    those needed. scale: without a size, the commonest image's own size times this. Raises InputError, one line that
    names the file and the remedy, where the data are not in order.
    """
    source = find_source(data, task, size, data_dir, seed, scale=scale)
    for split in splits:
        if split not in source.splits:
            raise InputError(f"{printable(source.root)}: no {split} split; a folder for {task} holds "
                             f"{FOLDER_LAYOUTS[task]}")
    metadata, opened = decode_source(source, task, data_dir, seed)
    return DataSet(source.name, task, source.size, metadata["classes"], list(map(tuple, metadata["colors"])),
                   metadata["ids"], {split: opened[split] for split in splits}, source.notes, source.assignment,
                   source.scale)


def check_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data",
               seed: int = 0, scale=None) -> tuple[list[str], list[str]]:
    """Open a data set as `open_data` does, for --dry-run: (lines that describe it, problems).

    It does not stop at the first problem. With problems nothing is kept; without, training then finds the cache.
    """
    problems = []
    try:
        source = find_source(data, task, size, data_dir, seed, problems.append, scale)
        metadata, _ = decode_source(source, task, data_dir, seed, problems)
    except InputError as error:
        return [], [*problems, str(error)]
    lines = [f"{source.name}: {task} at {source.size[0]}x{source.size[1]} (height x width)", *source.notes]
    lines += [f"{split}: {len(samples)} images" for split, samples in source.splits.items()]
    lines += [f"{count} x {fact}" for fact, count in metadata["facts"]]
    for index, name in enumerate(metadata["classes"]):
        if task == "segmentation":
            pixels = metadata["pixels"]
            total = sum(counts[index] for counts in pixels.values())
            told = ", ".join(f"{split} {counts[index] / max(1, sum(counts)):.2%}" for split, counts in pixels.items())
            lines.append(f"class {index} {printable(name)}: {total:,} pixels ({told})")
        elif data != "scenes":
            told = ", ".join(f"{split} {samples.targets.count(index)}" for split, samples in source.splits.items())
            lines.append(f"class {index} {printable(name)}: {told}")
    return lines, problems


def decode_source(source: Source, task: str, data_dir: str, seed: int, problems=None) -> tuple[dict, dict[str, Split]]:
    """A data set's metadata and splits, from the cache, which is filled if need be; see `write_cache` for `problems`.
    """
    found, source.notes = source.notes, []  # those of decoding are kept with the cache
    height, width = source.size
    folder = os.path.join(os.path.abspath(data_dir), "cache",
                          f"{source.name}-{task}-{height}x{width}-{cache_key(source, task, seed)}")
    metadata, splits = read_cache(folder, task) or (write_cache(source, task, folder, problems), {})
    if not splits and not problems:
        metadata, splits = read_cache(folder, task)
    source.notes = found + metadata["notes"]
    return metadata, splits


# ------------------------------------------------------------------------------------------ finding any data set

def find_source(data: str, task: str, size, data_dir: str, seed: int, on_error=stop, scale=None) -> Source:
    """Find a named data set or a folder and its splits, and hold out those that are missing. Nothing is decoded yet."""
    if task not in FOLDER_LAYOUTS:
        raise InputError(f"{printable(str(task))}: no such task; choose one of {', '.join(FOLDER_LAYOUTS)}")
    least = 11 if task == "colorization" else 1  # SSIM's window
    if size is not None and not all(least <= side <= MAX_SIDE for side in size):
        raise InputError(f"--size {' '.join(map(str, size))}: height and width must lie between {least} and {MAX_SIDE}")
    source = name_source(data, task, size, data_dir)
    if data == "scenes":
        source.splits = {split: Scenes(task, split, source.size, seed) for split in SPLITS}
        source.classes = {"segmentation": SCENE_CLASSES, "classification": list(scenes.SCENE_TYPES)}.get(task)
        return source
    find_splits(source, data, task, on_error)
    hold_out(source, seed)
    if scale:  # the images' own size, not the one usual for a named set
        source.size = size and tuple(size)
    if scale or not source.size:
        settle_size(source, scale)
    if not (least <= min(source.size) and max(source.size) <= MAX_SIDE):
        wrong, remedy = ("too small", "larger") if min(source.size) < least else ("too large", "smaller")
        raise InputError("{}: its images are of {}x{}, {}; give a {} --size".format(
            printable(source.root), *source.size, wrong, remedy))
    if task == "segmentation" and max(source.scale) < 0.5:
        source.notes.append("small things shrink with the images, to {:.0%} of their height and {:.0%} of their width; "
                            "--tile 256 256 trains on crops of images at their own size".format(*source.scale))
    for samples in source.splits.values():
        samples.size, samples.classes = source.size, source.classes
    return source


def name_source(data: str, task: str, size, data_dir: str) -> Source:
    """A source without splits: the name, root and size of a named data set or a folder."""
    if data in NAMED:
        tasks, usual = NAMED[data]
        if task not in tasks:
            able = ", ".join(name for name, (tasks, _) in NAMED.items() if task in tasks)
            raise InputError(f"--data {data}: it has no targets for {task}; choose {able} or a folder")
        return Source(data, os.path.abspath(os.path.join(data_dir, data)), tuple(size or usual))
    if not os.path.isdir(data):
        raise InputError(f"{printable(data)}: no such folder; give a folder or one of {', '.join(NAMED)}")
    root = os.path.abspath(data)
    return Source(re.sub(r"[^\w.-]+", "_", os.path.basename(root)) or "folder", root, size and tuple(size))


def find_splits(source: Source, data: str, task: str, on_error) -> None:
    """Find the samples of a data set that comes as files, and its classes."""
    if data == "camvid" and not os.path.isdir(source.root):
        fetch_camvid(source.root, SCENE_CLASSES)
    if data in NAMED and data != "camvid":
        source.splits, source.classes = find_torchvision(data, source.root, task)
    elif task == "classification":
        source.splits, source.classes = find_classification(source.root, source.notes, on_error)
    elif task == "segmentation":
        source.splits = find_segmentation(source.root, source.notes, on_error)
        source.classes = read_classes(source.root) or (SCENE_CLASSES if data == "camvid" else None)
    else:
        source.splits = find_images(source.root, source.notes, on_error)
    if task == "colorization":  # images alone
        source.classes = None
        for samples in source.splits.values():
            samples.targets = None
