"""Masks: the class of every pixel. They are read from files and decoded to class indices.

    classes = read_classes("mine")                    # mine/classes.csv, or the one beside mine; None without one
    decode_mask(read_mask("mine/a.png"), classes)     # uint8 (H, W), 255 where void

A raw mask holds what its file holds: ids, palette indices or RGB colours. A decoded mask holds class indices, which
count the scored classes from 0. Everything here raises InputError, one line that names the file.
"""
import csv
import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from data import InputError
from data.images import convert, load_image, printable

VOID = 255  # pixels that are never scored, in every decoded mask
NO_CLASS = 254  # marks, while a mask is decoded, a value that belongs to no class
VOID_NAMES = ("void", "ignore", "unlabelled", "unlabeled")
BLACK_AND_WHITE = {0: (0, 0, 0), 255: (255, 255, 255)}
CSV_EXAMPLE = "a classes.csv in the folder, as in: id,name,r,g,b / 0,road,128,64,128 / 1,car,64,0,128 / 2,void,0,0,0"


class Classes(NamedTuple):
    """What the values of raw masks mean. All three go by raw id; the dicts are in ascending order.

    names: the scored classes. colors: of the scored and the void classes; empty where only ids can be decoded.
    void_ids: the classes that are never scored.
    """
    names: dict[int, str]
    colors: dict[int, tuple[int, int, int]]
    void_ids: set[int]


def palette(count: int) -> list[tuple[int, int, int]]:
    """`count` distinct colours, PASCAL VOC's: the bits of the id spread over the high bits of r, g and b."""
    return [tuple(sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3))
            for i in range(count)]


def scored_classes(classes: Classes | list[str] | None) -> tuple[list[str], list[tuple[int, int, int]], list[int]]:
    """Names, colours and raw ids of the scored classes, in order. Colours that are not given are made up.

    Where the classes are labels' names, or None, colours and ids are empty.
    """
    if not isinstance(classes, Classes):
        return classes or [], [], []
    spare = palette(256)
    colors = [classes.colors.get(id, spare[id]) for id in classes.names]
    return list(classes.names.values()), colors, list(classes.names)


# ------------------------------------------------------------------------------------------------ what the classes are

def read_classes(folder) -> Classes | None:
    """Read the classes.csv (id, name, r, g, b; the colours may be left out) of a folder or of its parent.

    A class named void, ignore or unlabelled is never scored. Returns None where there is no such file. Raises
    InputError that names the file and the row.
    """
    folder = os.path.abspath(folder)
    paths = [os.path.join(place, "classes.csv") for place in (folder, os.path.dirname(folder))]
    path = next(filter(os.path.isfile, paths), None)
    if path is None:
        return None
    try:
        if os.path.getsize(path) > 1 << 20:
            raise ValueError("larger than a megabyte")
        with open(path, encoding="utf-8-sig", newline="") as file:
            return parse_classes([[cell.strip() for cell in row] for row in csv.reader(file) if any(row)])
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{printable(path)}: {printable(str(error))}; it should look like {CSV_EXAMPLE}") from error


def parse_classes(rows: list[list[str]]) -> Classes:
    """The classes that the rows of a classes.csv name. Raises ValueError that says what is wrong."""
    names, colors, void_ids = {}, {}, set()
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
    return Classes(dict(sorted(names.items())), dict(sorted(colors.items())), void_ids)


def infer_classes(presence: np.ndarray, paths: list[str]) -> tuple[Classes, str]:
    """Work out the classes of masks that have no classes.csv, from the values found in them.

    presence: bool (N, 256), whether mask i holds a value. paths: the N masks' files. Returns the classes and one line
    that says what was understood. Raises InputError where the values do not tell.
    """
    values = np.flatnonzero(presence.any(0)).tolist()
    if len(values) < 2:
        raise InputError(f"{printable(os.path.dirname(paths[0]))}: all masks hold the one value {values}; nothing to "
                         "learn")
    if len(values) == 2 and values[0] == 0:
        colors = BLACK_AND_WHITE if values[1] == 255 else {}
        return (Classes({0: "background", values[1]: "foreground"}, colors, set()),
                f"masks: 0/{values[1]} binary, read as background/foreground")
    ids = [value for value in values if value != VOID]
    if ids[-1] >= 64:
        worst = paths[int(np.argmax(presence[:, ids[-1]]))]
        listed = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise InputError(f"{printable(worst)}: value {ids[-1]} among {len(values)} different ones ({listed}) is no "
                         "plain class id; save masks as PNG (never JPEG), or say what the values mean by "
                         f"{CSV_EXAMPLE}")
    void = {VOID} & set(values)
    return (Classes({id: f"class {id}" for id in range(ids[-1] + 1)}, {}, void),
            f"masks: ids 0 to {ids[-1]}{', 255 void' if void else ''}, named by their numbers (no classes.csv)")


# ------------------------------------------------------------------------------------------------------------- reading

def read_mask(path, colors=None) -> np.ndarray:
    """Read a raw mask, upright: uint8 (H, W) ids or palette indices, or (H, W, 3) RGB. Raises InputError.

    colors: the classes' colours by raw id, or None while no classes are known; see `by_palette`.
    """
    return raw_values(load_image(path), colors, path)


def raw_values(image: Image.Image, colors, path) -> np.ndarray:
    """The raw mask that an image holds; see `read_mask`."""
    image = by_palette(image, colors)
    if image.mode in ("LA", "La", "PA"):
        image = image.getchannel(0)
    elif len(image.getbands()) > 1:
        image = convert(image, "RGB", path)
    values = np.asarray(image)
    if values.dtype.kind in "biu" and 0 <= values.min() and values.max() <= 255:
        return values.astype(np.uint8)
    raise InputError(f"{printable(path)}: a mask holds ids from 0 to 255, this one ({image.mode}) goes from "
                     f"{values.min():g} to {values.max():g}; save it as 8-bit PNG")


def by_palette(image: Image.Image, colors) -> Image.Image:
    """Turn a palette image into RGB if all the colours that it shows are classes' colours; leave any other as it is.

    Programs that reduce colours (for GIF, always) number them in any order, so their indices are no ids. PASCAL VOC's
    palette is an exception: label tools write it whatever the classes are. While no classes are known (`colors` None),
    a palette of black and white alone becomes grey, 0 and 255.
    """
    if image.mode != "P":
        return image
    table = np.array(image.getpalette(), np.uint8).reshape(-1, 3).tolist()
    if colors is None:
        return image.convert("L") if [255] * 3 in table and all(row in ([0] * 3, [255] * 3) for row in table) else image
    shown = {index: tuple(table[index]) if index < len(table) else None for _, index in image.getcolors(256)}
    usual = palette(256)
    if all(color == usual[index] for index, color in shown.items()) or not set(shown.values()) <= set(colors.values()):
        return image
    return image.convert("RGB")


# ------------------------------------------------------------------------------------------------------------ decoding

def as_ids(raw: np.ndarray, path) -> np.ndarray:
    """A raw mask as ids, uint8 (H, W), also where grey was saved as RGB. Raises InputError where it has colours."""
    if raw.ndim == 2:
        return raw
    if (raw[..., :1] != raw[..., 1:]).any():
        raise InputError(f"{printable(path)}: a colour mask; say what its colours mean by {CSV_EXAMPLE}")
    return raw[..., 0]


@lru_cache(maxsize=8)
def _table(entries: tuple[tuple[int, int], ...], length: int) -> np.ndarray:
    """uint8 (length,): from id or packed colour to class index, NO_CLASS elsewhere."""
    table = np.full(length, NO_CLASS, np.uint8)
    for value, index in entries:
        table[value] = index
    return table


def look_up(raw: np.ndarray, classes: Classes, path="mask") -> tuple[np.ndarray, np.ndarray]:
    """Class indices of a raw mask, and the values that were looked up, (H, W) each.

    Class indices are uint8: VOID where void, NO_CLASS where the value belongs to no class. The values are uint8 ids, or
    colours as uint32 0xrrggbb where the mask is RGB and the classes have colours. Raises InputError where the mask has
    colours and the classes have none.
    """
    index = {id: i for i, id in enumerate(classes.names)} | {id: VOID for id in classes.void_ids}
    raw = raw if classes.colors else as_ids(raw, path)
    if raw.ndim == 3:
        raw = raw.astype(np.uint32)
        raw = raw[..., 0] << 16 | raw[..., 1] << 8 | raw[..., 2]
        entries = tuple((r << 16 | g << 8 | b, index[id]) for id, (r, g, b) in classes.colors.items())
        return _table(entries, 1 << 24)[raw], raw
    return _table(tuple(index.items()), 256)[raw], raw


def decode_mask(raw: np.ndarray, classes: Classes, path="mask") -> np.ndarray:
    """Class indices of a raw mask, uint8 (H, W), VOID where void.

    Raises InputError that names `path` and the values that belong to no class.
    """
    ids, raw = look_up(raw, classes, path)
    unknown = ids == NO_CLASS
    if unknown.any():
        values = np.unique(raw[unknown])
        listed = ", ".join(str(v) if raw.dtype == np.uint8 else str((v >> 16, v >> 8 & 255, v & 255))
                           for v in values[:5].tolist()) + (", ..." if len(values) > 5 else "")
        raise InputError(f"{printable(path)}: no class has the value {listed}; correct the mask or add a row to "
                         "classes.csv")
    return ids
