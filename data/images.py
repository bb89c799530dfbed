"""Pictures and masks, read from files: whatever Pillow reads, checked, upright and 8-bit, masks with their classes.

    read_image("a.jpg")                                     # a Pillow image, RGB
    decode_mask(read_mask("a.png"), read_classes("mine"))   # uint8 (H, W), 255 where void

Everything here raises InputError, one line that names the file, where a file is not in order.
"""
import csv
import os
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from data import InputError

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # a picture is used, or refused in one line

VOID = 255
NO_CLASS = 254  # marks, while a mask is decoded, a value that belongs to no class
VOID_NAMES = ("void", "ignore", "unlabelled", "unlabeled")
CSV_EXAMPLE = "a classes.csv in the folder, as in: id,name,r,g,b / 0,road,128,64,128 / 1,car,64,0,128 / 2,void,0,0,0"


def show(path) -> str:
    """A path or name for a message: the message stays on one line whatever the name holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(path))


def some(names) -> str:
    """The first few of many names, for one line."""
    names = list(names)
    return ", ".join(map(show, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def composed(name: str) -> str:
    """A name with its letters and their accents as one character each; a Mac has them apart."""
    return unicodedata.normalize("NFC", name)


# ---------------------------------------------------------------------------------------------------- finding pictures
# Mistakes go to `fail`, one message each: `stop` raises the first, check_data collects them all.

def stop(message: str):
    raise InputError(message)


@lru_cache(maxsize=1)
def _image_suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_picture(name: str) -> bool:
    """Whether a file's suffix is that of a picture."""
    return os.path.splitext(name)[1].lower() in _image_suffixes()


NO_NEWS = ("Thumbs.db", "desktop.ini", "classes.csv")  # files that are no pictures, but not worth a note


def list_images(folder: str, fail=stop, skip=(), notes=None) -> dict[str, str]:
    """All pictures below a folder, sorted: relative path, without suffix where that stays unique -> path.

    Hidden files, the sub-folders named in `skip` and what a Mac adds to a zip are left out; files without a picture's
    suffix too, but with a line in `notes`.
    """
    top, paths, left = os.path.realpath(folder), [], []

    def walk(place: str, relative: str):
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            return fail(f"{show(place)}: {error.strerror}; put the pictures there")
        for entry in entries:
            if entry.name.startswith(".") or entry.name in ("__MACOSX", *skip):
                continue
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(top + os.sep):
                fail(f"{show(entry.path)}: a link that leads out of the folder; put the file itself there")
            elif entry.is_dir(follow_symlinks=False):
                walk(entry.path, f"{relative}{entry.name}/")
            elif is_picture(entry.name) and entry.is_file():
                paths.append((relative + entry.name, entry.path))
            elif entry.name not in NO_NEWS and not is_picture(entry.name):
                left.append(relative + entry.name)

    walk(folder, "")
    if not paths:
        fail(f"{show(folder)}: no pictures in this folder; put them there")
    stems = Counter(os.path.splitext(relative)[0] for relative, _ in paths)
    if notes is not None and left:
        notes.append(f"{show(folder)}: {len(left)} files without a picture's suffix are left out: {some(left)}")
    if notes is not None and (twins := [stem for stem in stems if stems[stem] > 1]):
        notes.append(f"{show(folder)}: {len(twins)} names stand for two pictures, as {show(twins[0])}; if those are "
                     "the same, remove one, or it may be in train and in test")
    return {stem if stems[stem := os.path.splitext(relative)[0]] == 1 else relative: path for relative, path in paths}


# ---------------------------------------------------------------------------------------------- reading single files

def open_image(path) -> Image.Image:
    """Open a picture's header, or raise InputError."""
    if not os.path.isfile(path):  # a pipe or device would block for ever
        what = "a folder; name the pictures in it" if os.path.isdir(path) else "no such file; check the name"
        raise InputError(f"{show(path)}: {what}")
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
    with open_image(path) as image:
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


def read_mask(path, colors=None) -> np.ndarray:
    """Read a mask as it stands, upright: uint8 (H, W) ids or palette indices, or (H, W, 3) RGB. Raises InputError.

    `colors`: the classes', by raw id, or None while no classes are known; see `by_palette`.
    """
    image = by_palette(_load(path), colors)
    if image.mode in ("LA", "La", "PA"):
        image = image.getchannel(0)
    elif len(image.getbands()) > 1:
        image = _convert(image, "RGB", path)
    values = np.asarray(image)
    if values.dtype.kind in "biu" and 0 <= values.min() and values.max() <= 255:
        return values.astype(np.uint8)
    raise InputError(f"{show(path)}: a mask holds ids from 0 to 255, this one ({image.mode}) goes from "
                     f"{values.min():g} to {values.max():g}; save it as 8-bit PNG")


BLACK_AND_WHITE = {0: (0, 0, 0), 255: (255, 255, 255)}


def by_palette(image: Image.Image, colors) -> Image.Image:
    """A palette picture as RGB where all that it shows are the classes' colours; any other picture as it is.

    Programs that reduce colours (GIF always does) number them as they like. PASCAL VOC's palette, which label tools
    write whatever the classes, says nothing. With `colors` None a palette of black and white is read as 0 and 255.
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


def image_size(path) -> tuple[int, int]:
    """(height, width) of a picture when upright, from its header alone. Raises InputError."""
    with open_image(path) as image:
        width, height = image.size
        try:  # asking a PNG for EXIF data that it lacks would decode all of it
            told = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & image.info.keys()
            exif = image.getexif() if image.format != "PNG" or told else {}
            return (width, height) if exif.get(0x0112) in (5, 6, 7, 8) else (height, width)
        except Exception as error:
            raise InputError(f"{show(path)}: damaged EXIF data; save the picture again") from error


# --------------------------------------------------------------------------------------------------- classes of masks

class Classes(NamedTuple):
    """How a raw mask is to be read: `names` and `colors` by raw id, in ascending order.

    `names` holds the scored classes only, `colors` the void ones too (or nothing: then only ids can be decoded).
    A decoded mask counts the scored classes from 0 in this order.
    """
    names: dict[int, str]
    colors: dict[int, tuple[int, int, int]]
    void_ids: set[int]


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


def scored_classes(classes: Classes | list[str] | None) -> tuple[list[str], list[tuple[int, int, int]], list[int]]:
    """The scored classes in order: names and, of masks, colours (made up where none are given) and raw ids."""
    if not isinstance(classes, Classes):
        return classes or [], [], []
    spare = palette(256)
    colors = [classes.colors.get(id, spare[id]) for id in classes.names]
    return list(classes.names.values()), colors, list(classes.names)


def infer_classes(presence: np.ndarray, paths: list[str]) -> tuple[Classes, str]:
    """Work out the classes of masks without a classes.csv from the values found in them.

    presence: bool (N, 256), which values mask i holds; paths: the N masks. Returns the classes and one line that says
    what was understood. Raises InputError where the values leave it open.
    """
    values = np.flatnonzero(presence.any(0)).tolist()
    if len(values) < 2:
        raise InputError(f"{show(os.path.dirname(paths[0]))}: all masks hold the one value {values}; nothing to learn")
    if len(values) == 2 and values[0] == 0:
        colors = BLACK_AND_WHITE if values[1] == 255 else {}
        return (Classes({0: "background", values[1]: "foreground"}, colors, set()),
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


def look_up(raw: np.ndarray, classes: Classes, path="mask") -> tuple[np.ndarray, np.ndarray]:
    """Raw mask, uint8 (H, W) ids or (H, W, 3) RGB -> class indices and the values looked up, (H, W) each.

    Class indices are uint8, VOID where void, NO_CLASS where the value belongs to no class. The values are uint8 ids or
    uint32 colours, 0xrrggbb. RGB is looked up by the classes' colours; where they have none, a grey RGB mask is read as
    ids. Raises InputError where that has colours.
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
    """look_up's class indices, uint8 (H, W), of a mask that has a class everywhere.

    Raises InputError that names `path` and the values that belong to no class.
    """
    ids, raw = look_up(raw, classes, path)
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

    @property
    def masked(self) -> bool:
        """Whether the targets are masks."""
        return bool(self.targets) and isinstance(self.targets[0], str)

    @property
    def files(self) -> list[str]:
        """All the files that the samples are read from."""
        return (self.images if isinstance(self.images, list) else []) + (self.targets if self.masked else [])

    def image(self, i: int) -> np.ndarray:
        """Picture i at the training size, uint8 (3, H, W)."""
        picture, shape = self.images[i], self.size[::-1]
        picture = read_image(picture) if isinstance(picture, str) else Image.fromarray(picture)
        picture = picture if picture.size == shape else picture.resize(shape, Image.Resampling.BILINEAR)
        return np.asarray(picture).transpose(2, 0, 1)

    def target(self, i: int):
        """Target i: a mask at the training size, uint8 (H, W), a label, or None."""
        if not self.masked:
            return None if self.targets is None else self.targets[i]
        return np.asarray(Image.fromarray(self.mask(i)).resize(self.size[::-1], Image.Resampling.NEAREST))

    def mask(self, i: int) -> np.ndarray:
        """Mask i at its own size, uint8 (H, W): its classes, or its raw ids while no classes are known.

        Raises InputError where its size is not its image's, or where it holds what it must not.
        """
        path = self.targets[i]
        raw, size = read_mask(path, self.classes and self.classes.colors), image_size(self.images[i])
        if raw.shape[:2] != size:
            raise InputError(f"{show(path)}: height and width are {raw.shape[:2]}, but {size} for its image "
                             f"{show(self.images[i])}; make them equal")
        return decode_mask(raw, self.classes, path) if self.classes else as_ids(raw, path)

    def take(self, indices: list[int]) -> "Samples":
        images = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        return Samples([self.names[i] for i in indices], images, self.targets and [self.targets[i] for i in indices])

