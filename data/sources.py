"""The named data sets and anyone's own folders, all brought to one form: decoded uint8 arrays at the training size.

`open_data` finds a data set's files (or draws them), holds out the splits that are missing, decodes and resizes every
picture once on all cores, and memory-maps the result under `<data_dir>/cache/` ever after (safe to delete).
`check_data` looks at everything and reports every problem.

    data = open_data("camvid", "segmentation", size=(96, 128))
    data.splits["train"].images[:16]     # uint8 (16, 3, 96, 128)
    data.splits["train"].targets[:16]    # uint8 (16, 96, 128), 255 where void

One file down each: data/cache.py decodes and keeps, data/download.py fetches, data/images.py reads single files.
"""
import contextlib
import hashlib
import itertools
import os
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from data import InputError, scenes
from data.cache import Scenes, Source, Split, cache_key, lazy_split, parallel, read_cache, write_cache
from data.download import fetch_camvid, find_torchvision
from data.images import (
    Classes,
    Samples,
    composed,
    image_size,
    infer_classes,
    is_picture,
    list_images,
    open_image,
    read_classes,
    read_image,
    scored_classes,
    show,
    some,
    stop,
)

SPLITS = ("train", "val", "test")
MAX_SIDE = 8192
SPLIT_WORD = re.compile(r"(?<![a-z])(train|val|dev|test)(ing|id|idation)?_?(set)?(?![a-z])")  # in a folder's name
MASK_SUFFIXES = ("", "_mask", "_label", "_gt", "_L")
MASK_FOLDERS = ("masks", "annotations", "gtFine", "SegmentationClass", "SegmentationObject")  # no pictures to colour
FOLDER_LAYOUTS = {
    "segmentation": "{train,val,test}/{images,masks}, or {train,val,test} and {train,val,test}annot, or images, masks",
    "classification": "{train,val,test}/<class>/<pictures>, or <class>/<pictures>",
    "colorization": "pictures, directly or in {train,val,test}",
}
# name -> the tasks it serves, and its usual size. VOC's pictures are about 500x375, upright or lying: a square distorts
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
    """A data set in the one form that everything else works on; see `open_data`."""
    name: str
    task: str
    size: tuple[int, int]
    classes: list[str]  # the scored ones, in the order of their ids
    colors: list[tuple[int, int, int]]
    ids: list[int]  # what masks call these classes
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)
    assignment: dict[str, list[str]] | None = None  # split -> names, where the split was made here


# ------------------------------------------------------------------------------------------- finding files in folders
# `fail` takes each mistake's message, as in list_images; `notes` what is worth knowing and no mistake.

def split_folders(root: str) -> dict[str, str]:
    """The folders of a data set's splits; the whole as "train" where it has none (hold_out then makes them)."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    found = {split: os.path.join(root, split) for split in SPLITS if split in names}
    meant = [name for name in names if name not in SPLITS and SPLIT_WORD.search(name.lower())]
    plain = [name for name in meant if SPLIT_WORD.fullmatch(name.lower())]
    rest = Counter(SPLIT_WORD.sub("", name.lower(), count=1) for name in meant)
    # toy_train, or test_tube beside train_station, may be classes; seg_train beside seg_test are splits.
    if plain or not found and max(rest.values(), default=0) > 1:
        raise InputError(f"{show(os.path.join(root, (plain or meant)[0]))}: splits are called train, val and test; "
                         "rename it, with its classes or pictures right inside")
    return found or {"train": root}


def find_segmentation(root: str, notes: list[str], fail=stop) -> dict[str, Samples]:
    """Pair images with masks by name, in {train,val,test}/{images,masks}, SegNet's layout, or {images,masks}."""
    splits = {}
    for split, place in split_folders(root).items():
        images, masks = place, f"{place}annot"
        if not os.path.isdir(masks):
            images, masks = os.path.join(place, "images"), os.path.join(place, "masks")
        for folder in (images, masks):
            if not os.path.isdir(folder):
                raise InputError(f"{show(folder)}: no such folder; a folder for segmentation holds "
                                 f"{FOLDER_LAYOUTS['segmentation']}")
        pictures, found, matched = list_images(images, fail, notes=notes), list_images(masks, fail, notes=notes), {}
        found = {composed(name): path for name, path in found.items()}
        for name, path in pictures.items():
            mask = next((key for suffix in MASK_SUFFIXES if (key := composed(name + suffix)) in found), None)
            if mask is None:
                fail(f"{show(path)}: no mask of that name in {show(masks)}; add it or remove the image")
            else:
                matched[name] = found.pop(mask)
        if found:
            notes.append(f"{show(masks)}: {len(found)} masks without an image are left out: {some(found)}")
        splits[split] = Samples(list(matched), [pictures[name] for name in matched], list(matched.values()))
    return splits


def find_classification(root: str, notes: list[str], fail=stop) -> tuple[dict[str, Samples], list[str]]:
    """The pictures of {train,val,test}/<class> or <class>, labelled by the order of the classes' names."""
    places = split_folders(root)
    names = {}
    for split, place in places.items():
        entries = sorted((entry for entry in os.scandir(place) if entry.name[0] != "."), key=lambda entry: entry.name)
        names[split] = [entry.name for entry in entries if entry.is_dir() and entry.name != "__MACOSX"]
        if loose := [entry.name for entry in entries if is_picture(entry.name) and not entry.is_dir()]:
            notes.append(f"{show(place)}: {len(loose)} pictures in no class's folder are left out: {some(loose)}")
    first, classes = next(iter(names.items()))
    if strange := [name for name in classes if not name.isprintable()]:
        raise InputError(f"{show(os.path.join(places[first], strange[0]))}: rename this class with plain characters")
    if len(classes) < 2 or "images" in classes:
        raise InputError(f"{show(places[first])}: its folders are no classes ({some(classes) or 'none'}); a folder for "
                         f"classification holds {FOLDER_LAYOUTS['classification']}, of two classes or more")
    splits = {split: Samples([], [], []) for split in places}
    for split, samples in splits.items():
        for name in sorted(set(names[split]) ^ set(classes)):
            fail(f"{show(os.path.join(root, split, name))}: this class is not in both {first} and {split}; add "
                 f"pictures to the one that lacks it, or remove {split}, to have it held out of train")
        for label, name in enumerate(classes):
            if name not in names[split]:
                continue
            pictures = list_images(os.path.join(places[split], name), fail, notes=notes)
            samples.names += [f"{name}/{stem}" for stem in pictures]
            samples.images += pictures.values()
            samples.targets += [label] * len(pictures)
    return splits, classes


def find_pictures(root: str, notes: list[str], fail=stop) -> dict[str, Samples]:
    """All the pictures of a folder or its splits; masks are left out."""
    splits = {}
    for split, place in split_folders(root).items():
        inner = os.path.join(place, "images")
        pictures = list_images(inner if os.path.isdir(inner) else place, fail, MASK_FOLDERS, notes)
        splits[split] = Samples(list(pictures), list(pictures.values()))
    return splits


def hold_out(source: Source, seed: int) -> None:
    """Hold val and test, where they are missing, out of train: a tenth each, of every class where there are labels.

    Who is held out follows from a hash of (seed, name): the same on every machine, until pictures are added or removed.
    """
    missing, train = [split for split in ("val", "test") if split not in source.splits], source.splits.get("train")
    if not missing or not train:
        return
    folders = {folder for name in train.names for folder in itertools.accumulate(name.split("/")[:-1], os.path.join)}
    inside = sorted({os.path.basename(folder) for folder in folders} & set(SPLITS))
    beside = Counter(os.path.dirname(folder) for folder in folders if os.path.basename(folder) in SPLITS)
    if max(beside.values(), default=0) > 1:
        raise InputError(f"{show(source.root)}: folders called {' and '.join(inside)} lie deeper inside and would be "
                         "mixed; put train, val and test at the top, each with what is inside them now")
    groups, chosen = {}, {split: [] for split in ("train", *missing)}
    for i in sorted(range(len(train)), key=lambda i: hashlib.sha256(repr((seed, train.names[i])).encode()).digest()):
        groups.setdefault(train.targets[i] if train.targets and not train.masked else None, []).append(i)
    for group in groups.values():
        count = max(1, round(len(group) / 10))
        if len(group) <= count * len(missing):
            raise InputError(f"{show(source.root)}: {len(group)} picture(s), such as {show(train.names[group[0]])}, "
                             f"are too few to hold {' and '.join(missing)} out of; add pictures, or folders for them")
        for split in missing:
            chosen[split] += group[:count]
            del group[:count]
        chosen["train"] += group
    source.splits |= {split: train.take(sorted(indices)) for split, indices in chosen.items()}
    source.assignment = {split: source.splits[split].names for split in SPLITS}
    source.notes += [f"no {split} split: {len(chosen[split])} of {len(train)} pictures held out of train, seed {seed}"
                     for split in missing]


def usual_size(source: Source) -> tuple[int, int]:
    """A folder's own training size: the commonest of up to 1,000 pictures', its longer side at most 512."""
    paths = [path for samples in source.splits.values() for path in samples.images]
    sizes = Counter()
    for path in paths[::max(1, len(paths) // 1000)]:
        with contextlib.suppress(InputError):  # reported when the picture is decoded
            sizes[image_size(path)] += 1
    if not sizes:
        raise InputError(f"{show(source.root)}: not one picture that can be read; put some there")
    common = sizes.most_common(1)[0][0]
    scale = min(1, 512 / max(common))
    size = tuple(max(1, round(side * scale)) for side in common)
    source.notes.append("size {}x{} (height x width), after the commonest picture's {}x{}".format(*size, *common))
    return size


# ------------------------------------------------------------------------------------------ finding any data set

def find_source(data: str, task: str, size, data_dir: str, seed: int, fail=stop) -> Source:
    """Find a named data set or a folder and its splits, hold out those that are missing, decode nothing yet."""
    if task not in FOLDER_LAYOUTS:
        raise InputError(f"{show(str(task))}: no such task; choose one of {', '.join(FOLDER_LAYOUTS)}")
    least = 11 if task == "colorization" else 1  # SSIM's window
    if size is not None and not all(least <= side <= MAX_SIDE for side in size):
        raise InputError(f"--size {' '.join(map(str, size))}: height and width must lie between {least} and {MAX_SIDE}")
    if data in NAMED:
        tasks, usual = NAMED[data]
        if task not in tasks:
            able = ", ".join(name for name, (tasks, _) in NAMED.items() if task in tasks)
            raise InputError(f"--data {data}: it has no targets for {task}; choose {able} or a folder")
        source = Source(data, os.path.abspath(os.path.join(data_dir, data)), tuple(size or usual))
    elif os.path.isdir(data):
        root = os.path.abspath(data)
        source = Source(re.sub(r"[^\w.-]+", "_", os.path.basename(root)) or "folder", root, size and tuple(size))
    else:
        raise InputError(f"{show(data)}: no such folder; give a folder or one of {', '.join(NAMED)}")

    if data == "scenes":
        source.splits = {split: Scenes(task, split, source.size, seed) for split in SPLITS}
        source.classes = {"segmentation": SCENE_CLASSES, "classification": list(scenes.SCENE_TYPES)}.get(task)
        return source
    if data == "camvid" and not os.path.isdir(source.root):
        fetch_camvid(source.root, SCENE_CLASSES)
    if data in NAMED and data != "camvid":
        source.splits, source.classes = find_torchvision(data, source.root, task)
    elif task == "classification":
        source.splits, source.classes = find_classification(source.root, source.notes, fail)
    elif task == "segmentation":
        source.splits = find_segmentation(source.root, source.notes, fail)
        source.classes = read_classes(source.root) or (SCENE_CLASSES if data == "camvid" else None)
    else:
        source.splits = find_pictures(source.root, source.notes, fail)
    if task == "colorization":  # pictures alone
        source.classes = None
        for samples in source.splits.values():
            samples.targets = None
    hold_out(source, seed)
    source.size = source.size or usual_size(source)
    if min(source.size) < least:
        raise InputError("{}: its pictures are of {}x{}, too small; give a larger --size".format(
            show(source.root), *source.size))
    for samples in source.splits.values():
        samples.size, samples.classes = source.size, source.classes
    return source


# ------------------------------------------------------------------------------------------------ opening and checking

def settle_classes(source: Source, presence: list[np.ndarray], paths: list[str]) -> None:
    """Where no classes.csv says what the masks hold, the values found in them do; see `infer_classes`."""
    source.classes, note = infer_classes(np.stack(presence), paths)
    source.notes.append(note)
    for samples in source.splits.values():
        samples.classes = source.classes


def _presence(splits, split: str, start: int, end: int) -> list[np.ndarray]:
    """Of each mask: bool (256,), which raw ids it holds."""
    return [np.bincount(splits[split].mask(i).ravel(), minlength=256) > 0 for i in range(start, end)]


def open_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data", seed: int = 0,
              splits=SPLITS) -> DataSet:
    """Open a data set at a size, decoding it into the cache at the first call.

    data: "scenes", another named set, or a folder. task: "segmentation", "classification" or "colorization". size:
    (height, width), by default the data set's own. seed: draws the scenes, and the splits that are made here. splits:
    those needed. Raises InputError, one line that names the file and the remedy, where the data are not in order.
    """
    source = find_source(data, task, size, data_dir, seed)
    known, source.notes = source.notes, []  # what was found; what decoding adds is kept with the cache
    for split in splits:
        if split not in source.splits:
            raise InputError(f"{show(source.root)}: no {split} split; a folder for {task} holds {FOLDER_LAYOUTS[task]}")
    height, width = source.size
    folder = os.path.join(os.path.abspath(data_dir), "cache",
                          f"{source.name}-{task}-{height}x{width}-{cache_key(source, task, seed)}")
    cached = read_cache(folder, task)
    if cached is None:
        if task == "segmentation" and source.classes is None:
            found = [row for _, _, rows in parallel(_presence, source.splits, "looking at masks") for row in rows]
            settle_classes(source, found, [path for samples in source.splits.values() for path in samples.targets])
        try:
            write_cache(source, task, folder)
            cached = read_cache(folder, task)
        except OSError as error:
            source.notes.append(f"no cache in {show(os.path.dirname(folder))} ({show(str(error))}): "
                                "pictures are decoded at each use")
    if cached is not None:
        about, opened = cached
        notes, classes, colors, ids = about["notes"], about["classes"], list(map(tuple, about["colors"])), about["ids"]
    else:
        opened = {split: lazy_split(source.splits[split], task) for split in splits}
        notes, (classes, colors, ids) = source.notes, scored_classes(source.classes)
    return DataSet(source.name, task, source.size, classes, colors, ids, {split: opened[split] for split in splits},
                   known + notes, source.assignment)


def _inspect(splits, split: str, start: int, end: int) -> list[tuple[list[str], str | None, np.ndarray | None]]:
    """Of each sample: facts to be counted, a problem or None, and pixels by class (by raw id while none are known)."""
    samples, found = splits[split], []
    for i in range(start, end):
        facts, problem, counts = [], None, None
        try:
            if isinstance(samples.images, list):
                image = read_image(samples.images[i])
                facts.append(f"picture of {image.height}x{image.width}")
            if samples.masked:
                with open_image(samples.targets[i]) as mask:
                    facts.append(f"mask of mode {mask.mode}")
                counts = np.bincount(samples.mask(i).ravel(), minlength=256)
        except InputError as error:
            problem = str(error)
        found.append((facts, problem, counts))
    return found


def check_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data",
               seed: int = 0) -> tuple[list[str], list[str]]:
    """Look at a whole data set, for --dry-run: (lines that describe it, problems), never stopping at the first problem.

    Arguments as for `open_data`; nothing is written, but that a named set is fetched and the scenes are drawn.
    """
    problems = []
    try:
        source = find_source(data, task, size, data_dir, seed, problems.append)
    except InputError as error:
        return [], [*problems, str(error)]
    facts, presence, paths = Counter(), [], []
    pixels = {split: np.zeros(256, np.int64) for split in source.splits}
    if data == "scenes":
        opened = open_data(data, task, size, data_dir, seed)
        if task == "segmentation":
            pixels = {split: np.bincount(each.targets.ravel(), minlength=256) for split, each in opened.splits.items()}
    else:
        for split, start, results in parallel(_inspect, source.splits, f"checking {source.name}"):
            for i, (seen, problem, counts) in enumerate(results, start):
                facts.update(seen)
                problems += [problem] if problem else []
                if counts is not None:
                    pixels[split] += counts
                    presence.append(counts > 0)
                    paths.append(source.splits[split].targets[i])
    if task == "segmentation" and source.classes is None and paths:
        try:
            settle_classes(source, presence, paths)
            ids = [*source.classes.names, *source.classes.void_ids]
            pixels = {split: counts[ids] for split, counts in pixels.items()}
        except InputError as error:
            problems.append(str(error))
    lines = [f"{source.name}: {task} at {source.size[0]}x{source.size[1]} (height x width)", *source.notes]
    lines += [f"{split}: {len(samples)} pictures" for split, samples in source.splits.items()]
    lines += [f"{count} x {fact}" for fact, count in facts.most_common(12)]
    for index, name in enumerate(scored_classes(source.classes)[0]):
        if task == "segmentation":
            total = sum(counts[index] for counts in pixels.values())
            shares = ", ".join(f"{split} {c[index] / max(1, c.sum()):.2%}" for split, c in pixels.items())
            lines.append(f"class {index} {show(name)}: {total:,} pixels ({shares})")
        elif data != "scenes":
            counted = ", ".join(f"{split} {samples.targets.count(index)}" for split, samples in source.splits.items())
            lines.append(f"class {index} {show(name)}: {counted}")
    return lines, problems
