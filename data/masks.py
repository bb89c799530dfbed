"""Masks: the class of every pixel. A raw mask holds the file's values: ids, palette indices or RGB colours.

    classes = read_classes("mine")                    # of mine/classes.csv, or of the one beside mine, or None
    decode_mask(read_mask("mine/a.png"), classes)     # uint8 (H, W), 255 where void"""
import csv
import os
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from data import InputError
from data.images import first_few, open_image, printable

VOID = 255  # pixels that are never scored, in every decoded mask
NO_CLASS = 254  # marks values of no class while a mask is decoded
VOID_NAMES = ("void", "ignore", "unlabelled", "unlabeled")
CSV_EXAMPLE = "a classes.csv (UTF-8) in the folder: id,name,r,g,b / 0,road,128,64,128 / 1,car,64,0,128 / 2,void,0,0,0"


class Classes(NamedTuple):
    """The meaning of raw masks' values, by raw id in ascending order."""
    names: dict[int, str]  # of the scored classes; ids with one name are one class
    colors: dict[int, tuple[int, int, int]]  # of scored and void classes; empty if masks hold only ids
    void_ids: set[int]


# --foreground: all that is not 0.
FOREGROUND = Classes({0: "background"} | dict.fromkeys(range(1, 256), "foreground"), {}, set())


def palette(count: int) -> list[tuple[int, int, int]]:
    """The first `count` colours of PASCAL VOC: the bits of the id are spread over the high bits of r, g and b."""
    return [tuple(sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3))
            for i in range(count)]


def scored_classes(classes: Classes) -> tuple[list[str], list[tuple[int, int, int]], list[int]]:
    """Names, colours and raw ids of the scored classes, in order. Missing colours are taken from `palette`."""
    first = {name: id for id, name in reversed(classes.names.items())}
    names, spare = list(dict.fromkeys(classes.names.values())), palette(256)
    ids = [first[name] for name in names]
    return names, [classes.colors.get(id, spare[id]) for id in ids], ids


def read_classes(folder) -> Classes | None:
    """The classes.csv (id, name, r, g, b; colours optional) in a folder or its parent, or None. Raises InputError."""
    folder = os.path.abspath(folder)
    paths = [os.path.join(place, "classes.csv") for place in (folder, os.path.dirname(folder))]
    if not (path := next(filter(os.path.isfile, paths), None)):
        return None
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file.read(1 << 20).splitlines())
            return parse_classes([[cell.strip() for cell in row] for row in rows if any(row)])
    except (OSError, ValueError, IndexError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{printable(path)}: {printable(str(error))}; it should look like {CSV_EXAMPLE}") from error


def write_classes(path, classes: Classes) -> None:
    """Write a classes.csv, which `read_classes` reads."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = ((id, classes.names.get(id, "void"), *color) for id, color in classes.colors.items())
        csv.writer(file, lineterminator="\n").writerows([("id", "name", "r", "g", "b"), *rows])


def parse_classes(rows: list[list[str]]) -> Classes:
    """The classes in the rows of a classes.csv. Raises ValueError that says what is wrong."""
    names, colors, void_ids = {}, {}, set()
    header = [cell.lower() for cell in rows[0]] if rows else []
    if header not in (["id", "name", "r", "g", "b"], ["id", "name"]):
        raise ValueError("the first line must be id,name,r,g,b")
    for number, row in enumerate(rows[1:], 2):
        numbers = [int(cell) for cell in (row[0], *row[2:]) if cell.isdecimal() and int(cell) < 256]
        plain = len(header) == len(row) == len(numbers) + 1 and row[1] and row[1].isprintable()
        if not plain or numbers[0] in {*names, *void_ids}:
            raise ValueError(f"row {number} should hold {','.join(header)}: a new id, a plain name, numbers to 255")
        (id, *color), name = numbers, row[1]
        if name.lower() in VOID_NAMES:
            void_ids.add(id)
        else:
            names[id] = name
        if color:
            colors[id] = tuple(color)
    if len({(color, names.get(id)) for id, color in colors.items()}) > len(set(colors.values())):
        raise ValueError("two classes have the same colour")
    if not 2 <= len(set(names.values())) <= NO_CLASS:
        raise ValueError(f"from 2 to {NO_CLASS} scored classes are possible")
    return Classes(dict(sorted(names.items())), dict(sorted(colors.items())), void_ids)


def infer_classes(presence: np.ndarray, paths: list[str]) -> tuple[Classes, str]:
    """The classes of masks without a classes.csv, and a line that says how they were understood. presence: bool
    (N, 256), which values mask i holds. paths: the masks' files. Raises InputError if the values are not clear."""
    values = np.flatnonzero(presence.any(0)).tolist()
    ids = [value for value in values if value != VOID]
    if len(values) == 2 and values[0] == 0:
        colors = {0: (0, 0, 0), 255: (255, 255, 255)} if values[1] == 255 else {}
        return (Classes({0: "background", values[1]: "foreground"}, colors, set()),
                f"masks: 0/{values[1]} binary, read as background/foreground")
    if len(values) < 2 or ids[-1] >= 64:
        odd = (ids or values)[-1]
        worst = printable(paths[presence[:, odd].argmax()])
        wrong = "is the only one" if len(values) < 2 else "is not a class id"
        raise InputError(f"{worst}: value {odd} {wrong} (in all masks: {first_few(map(str, values))}); "
                         f"save masks as PNG (never JPEG), or say what the values mean by {CSV_EXAMPLE}")
    note = f"masks: ids 0 to {ids[-1]}{', 255 void' if VOID in values else ''}, named by their numbers (no classes.csv)"
    return Classes({id: f"class {id}" for id in range(ids[-1] + 1)}, {}, {VOID} & set(values)), note


def read_mask(path, classes: Classes | None = None) -> np.ndarray:
    """The raw mask in a file: uint8 (H, W) ids or palette indices, or (H, W, 3) RGB. Raises InputError."""
    with open_image(path) as file:
        image = by_palette(ImageOps.exif_transpose(file), classes and classes.colors)
        spread = np.ptp(image.getextrema(), -1) if image.mode in ("RGBA", "LA") else [0]
        if spread[-1] and not any(spread[:-1]):  # only alpha varies
            image = image.getchannel("A").point(lambda alpha: 255 * (alpha > 127))
        elif len(image.getbands()) > 1:
            image = image.convert("L" if image.mode == "LA" else "RGB")
    values = np.asarray(image)
    if classes == FOREGROUND:  # here ids may be above 255
        return np.uint8(values != 0 if values.ndim == 2 else (values != 0).any(2))
    whole = values.dtype.kind in "biu" or (values == values.round()).all()
    if whole and 0 <= values.min() and values.max() <= 255:
        return values.astype(np.uint8)
    raise InputError(f"{printable(path)}: a mask holds ids from 0 to 255, this one ({image.mode}) goes from "
                     f"{values.min():g} to {values.max():g}; save it as 8-bit PNG")


def by_palette(image: Image.Image, colors) -> Image.Image:
    """Turn a palette image into RGB if all colours that it shows are classes' `colors`. If `colors` is None, turn it
    into grey if all are black or white. The reason: programs that reduce colours number them in any order. PASCAL VOC's
    palette is not used: label tools write it with any classes."""
    if image.mode != "P":
        return image
    table = [tuple(color) for color in np.array(image.getpalette(), np.uint8).reshape(-1, 3).tolist()]
    if colors is None:
        return image.convert("L") if (255,) * 3 in table and set(table) <= {(0,) * 3, (255,) * 3} else image
    shown = {index: table[index] if index < len(table) else None for _, index in image.getcolors(256)}
    usual, known = palette(256), set(shown.values()) <= set(colors.values())
    return image.convert("RGB") if known and any(color != usual[index] for index, color in shown.items()) else image


def as_ids(raw: np.ndarray, path) -> np.ndarray:
    """A raw mask as ids, uint8 (H, W), even if grey was saved as RGB. Raises InputError if it has colours."""
    if raw.ndim == 3 and (raw[..., :1] != raw[..., 1:]).any():
        raise InputError(f"{printable(path)}: a colour mask; say what its colours mean by {CSV_EXAMPLE}")
    return raw if raw.ndim == 2 else raw[..., 0]


def look_up(raw: np.ndarray, classes: Classes, path="mask") -> tuple[np.ndarray, np.ndarray]:
    """Class indices of a raw mask, uint8 (H, W), with VOID and NO_CLASS, and the values that were looked up: uint8 ids,
    or uint32 0xrrggbb if mask and classes have colours. Raises InputError if only the mask has colours."""
    order = list(dict.fromkeys(classes.names.values()))
    index = {id: order.index(name) for id, name in classes.names.items()} | dict.fromkeys(classes.void_ids, VOID)
    if raw.ndim == 2 or not classes.colors:
        raw, table = as_ids(raw, path), np.full(256, NO_CLASS, np.uint8)
        table[list(index)] = list(index.values())
        return table[raw], raw
    raw = raw.astype(np.uint32)
    raw = raw[..., 0] << 16 | raw[..., 1] << 8 | raw[..., 2]
    ids = np.full(raw.shape, NO_CLASS, np.uint8)
    for id, (r, g, b) in classes.colors.items():
        ids[raw == (r << 16 | g << 8 | b)] = index[id]
    return ids, raw


def decode_mask(raw: np.ndarray, classes: Classes, path="mask") -> np.ndarray:
    """Class indices of a raw mask, uint8 (H, W), VOID where void. Raises InputError that names values of no class."""
    ids, raw = look_up(raw, classes, path)
    unknown = np.unique(raw[ids == NO_CLASS]).tolist()
    if raw.dtype != np.uint8:
        unknown = [(value >> 16, value >> 8 & 255, value & 255) for value in unknown]
    if unknown:
        raise InputError(f"{printable(path)}: no class has the value {first_few(map(str, unknown))}; correct the mask "
                         "or add a row to classes.csv")
    return ids
