"""Images, found in folders and read from files: whatever Pillow reads comes out upright, as 8-bit RGB.

    list_images("mine")    # {"a": "mine/a.jpg", ...}
    read_image("a.jpg")    # a Pillow image, RGB

Everything here raises InputError, one line that names the file, where a file cannot be used.
"""
import os
import unicodedata
import warnings
from collections import Counter
from functools import lru_cache

import numpy as np
from PIL import Image, ImageOps

from data import InputError

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # an image is used, or refused in one line

NOT_WORTH_A_NOTE = ("Thumbs.db", "desktop.ini", "classes.csv")  # files that are no images


def printable(path) -> str:
    """A path or name for a message. The message stays on one line, whatever the name holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(path))


def first_few(names) -> str:
    """The first five of many names, for one line."""
    names = list(names)
    return ", ".join(map(printable, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def nfc(name: str) -> str:
    """The name in Unicode's form NFC: each accented letter is one character. A Mac writes two."""
    return unicodedata.normalize("NFC", name)


# ------------------------------------------------------------------------------------------------------ finding images

def stop(message: str):
    """Raise a mistake. This is what `on_error` means unless a function that collects the messages is given."""
    raise InputError(message)


@lru_cache(maxsize=1)
def _image_suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def is_image(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    return os.path.splitext(name)[1].lower() in _image_suffixes()


def list_images(folder: str, on_error=stop, skip=(), notes=None) -> dict[str, str]:
    """All images in a folder and its sub-folders, sorted, as {name: path}.

    The name is the path relative to the folder, without its suffix where it is unique without. Hidden files and the
    sub-folders named in `skip` are left out, and, with a line in `notes`, files without an image's suffix. `on_error`
    takes the message of each mistake: no images, a folder that cannot be read, a link that leads out of the folder.
    """
    top, images, left_out = os.path.realpath(folder), [], []

    def unreadable(error: OSError):
        on_error(f"{printable(error.filename)}: {error.strerror}; put the images there")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if name[0] != "." and name not in ("__MACOSX", *skip)]
        links_to_folders = [name for name in folders if os.path.islink(os.path.join(place, name))]
        inside = "" if place == folder else os.path.relpath(place, folder).replace(os.sep, "/") + "/"
        for name in (*links_to_folders, *files):
            path = os.path.join(place, name)
            is_link = os.path.islink(path)
            if name[0] == "." or name in skip:
                continue
            if is_link and not os.path.realpath(path).startswith(top + os.sep):
                on_error(f"{printable(path)}: a link that leads out of the folder; put the file itself there")
            elif is_image(name) and (not is_link or os.path.isfile(path)):
                images.append(inside + name)
            elif name not in NOT_WORTH_A_NOTE:
                left_out.append(inside + name)
    if not images:
        on_error(f"{printable(folder)}: no images in this folder; put them there")
    images, left_out = (sorted(names, key=lambda name: name.split("/")) for names in (images, left_out))
    stems = Counter(os.path.splitext(name)[0] for name in images)
    if notes is not None and left_out:
        notes.append(f"{printable(folder)}: {len(left_out)} files without an image's suffix are left out: "
                     f"{first_few(left_out)}")
    if notes is not None and (twins := [stem for stem in stems if stems[stem] > 1]):
        notes.append(f"{printable(folder)}: {len(twins)} names stand for two images, as {printable(twins[0])}; if "
                     "those are the same, remove one, or it may be in train and in test")
    return {stem if stems[stem := os.path.splitext(name)[0]] == 1 else name: os.path.join(folder, name)
            for name in images}


# ---------------------------------------------------------------------------------------------- reading single files

def open_image(path) -> Image.Image:
    """Open an image's header, or raise InputError."""
    if not os.path.isfile(path):  # a pipe or device would block for ever
        what = "a folder; name the images in it" if os.path.isdir(path) else "no such file; check the name"
        raise InputError(f"{printable(path)}: {what}")
    try:
        with warnings.catch_warnings():  # between one and two times its limit of pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{printable(path)}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first"
                         ) from None
    except Exception as error:  # on malformed files Pillow's decoders raise nearly anything
        raise InputError(f"{printable(path)}: not an image that Pillow reads; replace or remove it") from error
    if min(image.size) < 1 or image.format == "EPS":  # EPS is a program, which Ghostscript would run
        raise InputError(f"{printable(path)}: an image without pixels (or EPS); replace or remove it")
    return image


def image_size(path) -> tuple[int, int]:
    """(height, width) of an image when upright, from its header alone. Raises InputError."""
    with open_image(path) as image:
        width, height = image.size
        try:  # asking a PNG for EXIF data that it lacks would decode all of it
            has_exif = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & image.info.keys()
            exif = image.getexif() if image.format != "PNG" or has_exif else {}
            return (width, height) if exif.get(0x0112) in (5, 6, 7, 8) else (height, width)
        except Exception as error:
            raise InputError(f"{printable(path)}: damaged EXIF data; save the image again") from error


def load_image(path) -> Image.Image:
    """Decode an image, in its own mode, and turn it upright as its EXIF data say. Raises InputError."""
    with open_image(path) as image:
        try:
            return ImageOps.exif_transpose(image)  # loads it
        except Exception as error:
            reason = printable(str(error)) or type(error).__name__
            raise InputError(f"{printable(path)}: truncated or damaged ({reason}); replace or remove it") from error


def convert(image: Image.Image, mode: str, path) -> Image.Image:
    """Pillow's `convert`; raises InputError where Pillow cannot."""
    try:
        return image.convert(mode)
    except Exception as error:  # from LAB, for one, there is no way to RGB
        raise InputError(f"{printable(path)}: its mode {image.mode} is of no use here; save it as PNG or JPEG"
                         ) from error


def read_image(path) -> Image.Image:
    """Read any image that Pillow reads, as 8-bit RGB, upright.

    Grey of 16 bits or floats is scaled to 8 bits, transparent pixels turn white, and of an animation the first frame is
    taken. Raises InputError that names a file which is no image, truncated, or larger than Pillow's limit.
    """
    image = load_image(path)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        top = values.max()
        full = next((limit for limit in (1 if image.mode == "F" else 255, 255, 65535) if top <= limit), top)
        full = 65535 if image.mode.startswith("I;16") else full
        image = Image.fromarray((values.clip(0) * (255 / full) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = convert(image, "RGBA", path)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return convert(image, "RGB", path)
