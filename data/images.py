"""Images, found in folders and read from files: whatever Pillow reads comes out upright, as 8-bit RGB.

Everything here raises InputError, one line that names the file, where a file cannot be used.
"""
import contextlib
import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data import InputError, printable

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # an image is used, or refused in one line

NOT_WORTH_A_NOTE = ("Thumbs.db", "desktop.ini", "classes.csv", "labelmap.txt")  # files that are no images


def first_few(names) -> str:
    """The first five of many names, for one line."""
    names = list(names)
    return ", ".join(map(printable, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def nfc(name: str) -> str:
    """The name in Unicode's form NFC: each accented letter is one character. A Mac writes two."""
    return unicodedata.normalize("NFC", name)


def stop(message: str):
    """Raise a mistake. This is what `on_error` means unless a function that collects the messages is given."""
    raise InputError(message)


class Page(str):
    """The path of a file of several images (TIFF, GIF), and the number of the one that is meant, from 0."""

    def __new__(cls, path, number=0):
        page = super().__new__(cls, path)
        page.number = number
        return page

    def __eq__(self, other):
        return str.__eq__(self, other) and self.number == getattr(other, "number", 0)

    __hash__ = str.__hash__


def pages(path) -> list[str]:
    """The path of a file or, where it holds several images, a Page for each. A damaged file is left to its reader."""
    count = 1
    if path.lower().endswith((".tif", ".tiff", ".gif")):
        with contextlib.suppress(InputError), open_image(path) as image:
            count = image.n_frames
    return [Page(path, number) for number in range(count)] if count > 1 else [path]


def is_image(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix == ".npy" or Image.registered_extensions().get(suffix) in Image.OPEN


def list_images(folder: str, on_error=stop, skip=(), notes=None) -> dict[str, str]:
    """All images in a folder and its sub-folders, sorted, as {name: path}.

    The name is the path relative to the folder, without its suffix where it is unique without; #2 is a file's second
    page. Hidden files and the sub-folders named in `skip` are left out, and, with a line in `notes`, files without an
    image's suffix. Links are followed within the folder. `on_error` takes the message of each mistake.
    """
    top, images, left_out, found = os.path.realpath(folder) + os.sep, [], [], {}

    def unreadable(error: OSError):
        on_error(f"{printable(error.filename)}: {error.strerror}; put the images there")

    def leads_away(path: str) -> bool:
        """Whether it is a link out of the folder, or in a circle."""
        if not os.path.islink(path):
            return False
        target = os.path.realpath(path)
        if not (target + os.sep).startswith(top):
            on_error(f"{printable(path)}: a link that leads out of the folder; put the file itself there")
            return True
        return target in map(os.path.realpath, Path(path).parents)

    for place, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "." and name not in ("__MACOSX", *skip)
                      and not leads_away(os.path.join(place, name))]
        for name in files:
            path = os.path.join(place, name)
            if name[0] == "." or leads_away(path):
                continue
            if is_image(name):
                images.append(os.path.relpath(path, folder).replace(os.sep, "/"))
            elif name not in NOT_WORTH_A_NOTE:
                left_out.append(os.path.relpath(path, folder))
    if not images:
        on_error(f"{printable(folder)}: no images in this folder; put them there")
    if notes is not None and left_out:
        notes.append(f"{printable(folder)}: {len(left_out)} files without an image's suffix are left out: "
                     f"{first_few(sorted(left_out))}")
    stems = Counter(os.path.splitext(name)[0] for name in images)
    for name in sorted(images, key=lambda name: name.split("/")):
        stem, paged = os.path.splitext(name)[0], pages(os.path.join(folder, name))
        stem = stem if stems[stem] == 1 else name
        found |= {f"{stem}#{i}" if len(paged) > 1 else stem: path for i, path in enumerate(paged, 1)}
    return found


@contextlib.contextmanager
def open_image(path):
    """The image of a file, its header alone read, as a context. A .npy holds (H, W) numbers or (H, W, C) bytes.

    Raises InputError that names the file, whatever is wrong with it: here, or when it is decoded inside the context.
    """
    if not os.path.isfile(path):  # a pipe or device would block for ever
        raise InputError(f"{printable(path)}: no such file; check the name")
    try:
        with warnings.catch_warnings():  # between one and two times its limit of pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = read_array(path) if str(path).lower().endswith(".npy") else Image.open(path)
            if isinstance(path, Page):
                image.seek(path.number)
            image.filename = path  # a .npy has none
        with image:
            if min(image.size) < 1 or image.format == "EPS":  # EPS is a program, which Ghostscript would run
                raise ValueError("no pixels, or EPS")
            yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{printable(path)}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first"
                         ) from None
    except Exception as error:  # on malformed files Pillow's decoders raise nearly anything
        raise InputError(f"{printable(path)}: not an image that Pillow reads, or damaged ({type(error).__name__}); "
                         "replace or remove it") from error


def read_array(path) -> Image.Image:
    """The image in a .npy. Whole numbers of any size become int32, others float32."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if math.prod(array.shape[:2]) > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    if array.dtype != np.uint8:
        array = array.astype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, np.int32))
    return Image.fromarray(array)


def read_header(path) -> tuple[tuple[int, int], int]:
    """((height, width) when upright, EXIF's orientation from 1 to 8) of an image. Raises InputError."""
    with open_image(path) as image:
        turn = Image.Image.getexif(image).get(0x0112, 1)  # a PNG's own getexif would decode all of it
        return image.size if turn in (5, 6, 7, 8) else image.size[::-1], turn


def image_size(path) -> tuple[int, int]:
    return read_header(path)[0]


def read_image(path, levels=None, channels=3) -> Image.Image:
    """Read any image that Pillow reads, as 8-bit RGB, upright. Raises InputError. levels, channels: see `to_rgb`."""
    with open_image(path) as image:
        return to_rgb(image, levels, channels)


def to_rgb(image: Image.Image, levels=None, channels=3) -> Image.Image:
    """An image of any mode as 8-bit RGB, upright as its EXIF data say. Transparent pixels turn white.

    With 4 channels it becomes RGBX, whose fourth is anything but transparency. Raises InputError where it has others.
    More than 8 bits are scaled: the values `levels` (low, high), which a data set has in common, become 0 and 255;
    without it, the range of the file's type does.
    """
    if channels != 3 and len(image.getbands()) != channels:
        raise InputError(f"{printable(image.filename)}: it has {len(image.getbands())} "
                         f"channels, and --channels is {channels}; leave the image or the flag out")
    values, image = deep_values(image, channels), ImageOps.exif_transpose(image)
    if values is not None:
        values = np.nan_to_num(values, posinf=0, neginf=0)
        if not levels:
            top = 65535 if image.mode.startswith(("I;16", "RGB")) else values.max()
            levels = 0, next((limit for limit in (1 if image.mode == "F" else 255, 255, 65535) if top <= limit), top)
        values = (values - levels[0]) * (255 / (levels[1] - levels[0]))
        alpha = image.getchannel("A") if image.mode == "RGBA" and channels == 3 else None
        image = Image.fromarray((values.clip(0, 255) + 0.5).astype(np.uint8))
        if alpha:
            image.putalpha(alpha)
    if channels == 4:
        return Image.merge("RGBX", image.split())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def deep_values(image: Image.Image, channels=3) -> np.ndarray | None:
    """The values of an open image of more than 8 bits, float64 (H, W) or (H, W, channels), upright; else None.

    Of 16-bit colours Pillow keeps the upper byte. Read in the other order of bytes, a file gives the lower one.
    """
    if image.mode[0] in "IF":
        return np.asarray(ImageOps.exif_transpose(image), np.float64)
    layout = re.search("RGB[AX]?;16[BLN]", str(getattr(image, "tile", "")))  # what its decoder is told
    if not layout:
        return None
    other = layout[0][:-1] + ("L" if layout[0][-1] == "B" else "B")
    with Image.open(image.filename) as swapped:
        swapped.seek(image.tell())
        swapped.tile = [tile._replace(args=other if isinstance(tile.args, str) else tuple(
            other if part == layout[0] else part for part in tile.args)) for tile in swapped.tile]
        high, low = (np.asarray(ImageOps.exif_transpose(each), np.float64)[..., :channels]
                     for each in (image, swapped))
    return 256 * high + low


def common_levels(paths: list[str], channels=3) -> tuple[float, float] | None:
    """The range of the values of images of more than 8 bits, from some 200 of these images; None without one.

    0.1% of the pixels may lie below it, and 0.1% above: a few odd pixels change nothing.
    """
    values = [np.zeros(0)]
    for path in paths[::max(1, len(paths) // 200)]:
        with contextlib.suppress(InputError), open_image(path) as image:  # reported when the image is decoded
            if (sample := deep_values(image, channels)) is not None:
                values.append(sample[np.isfinite(sample)][::max(1, sample.size // 10_000)])
    values = np.concatenate(values)
    low, high = np.percentile(values, (0.1, 99.9)).tolist() if values.size else (0, 0)
    return (low, max(high, low + 1e-9)) if values.size else None
