"""Images: found in folders, read from files, upright, with 8 bits a value. InputError names a file that is no use."""
import contextlib
import math
import os
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data import InputError, printable

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # our own messages say what is wrong

NOT_WORTH_A_NOTE = ("Thumbs.db", "desktop.ini", "classes.csv")  # files that are no images


def first_few(names) -> str:
    """The first five of many names, for one line."""
    names = list(names)
    return ", ".join(map(printable, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def nfc(name: str) -> str:
    """The name in Unicode's form NFC: each accented letter is one character. A Mac writes two."""
    return unicodedata.normalize("NFC", name)


def stop(message: str):
    """Raise InputError. The default of `on_error`; other functions collect the messages."""
    raise InputError(message)


def is_image(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix == ".npy" or Image.registered_extensions().get(suffix) in Image.OPEN


def list_images(folder: str, on_error=stop, skip=(), notes=None) -> dict[str, str]:
    """All images in a folder and its sub-folders, sorted, as {name: path}. The name is the path relative to the folder,
    without the suffix if it stays unique. Hidden files and the sub-folders in `skip` are left out. Other files are left
    out with a line in `notes`. Links are followed within the folder. `on_error` takes the message of each mistake."""
    top, images, left_out = os.path.realpath(folder) + os.sep, [], []

    def leads_away(path: str) -> bool:
        """Whether a path is a link that leads out of the folder, or in a circle."""
        target = os.path.realpath(path) if os.path.islink(path) else None
        if target and not (target + os.sep).startswith(top):
            on_error(f"{printable(path)}: a link that leads out of the folder; put the file itself there, or list it "
                     "in a pairs.csv")
            return True
        return target in map(os.path.realpath, Path(path).parents if target else ())

    walk = os.walk(folder, onerror=lambda error: on_error(f"{printable(error.filename)}: {error.strerror}"),
                   followlinks=True)
    for place, folders, files in walk:
        folders[:] = [name for name in folders if name[0] != "." and name not in ("__MACOSX", *skip)
                      and not leads_away(path := os.path.join(place, name))
                      and (skip or not os.path.exists(os.path.join(path, "predictions.csv")))]  # predict's results
        for name in files:
            if name[0] != "." and name not in NOT_WORTH_A_NOTE and not leads_away(os.path.join(place, name)):
                (images if is_image(name) else left_out).append(os.path.relpath(os.path.join(place, name), folder))
    note = f"{len(left_out)} files without an image's suffix are left out: {first_few(sorted(left_out))}"
    if not images:
        on_error(f"{printable(folder)}: no images in this folder; put them there" + f" ({note})" * bool(left_out))
    elif notes is not None and left_out:
        notes.append(f"{printable(folder)}: {note}")
    images = sorted((name.replace(os.sep, "/") for name in images), key=lambda name: name.split("/"))
    stems = Counter(os.path.splitext(name)[0] for name in images)
    names = (stem if stems[stem := os.path.splitext(name)[0]] == 1 else name for name in images)
    return dict(zip(names, (os.path.join(folder, name) for name in images)))


@contextlib.contextmanager
def open_image(path):
    """A context with a file's image, of which only the header is read. A .npy holds numbers (H, W), or bytes (H, W, C)
    with up to 4 channels. Raises InputError that names a bad file: here, or when the context's body decodes it."""
    file = os.fspath(path)
    if not os.path.isfile(file):  # a pipe or device would block for ever
        raise InputError(f"{printable(path)}: no such file; check the name")
    try:
        with warnings.catch_warnings():  # up to twice its limit of pixels Pillow only warns
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = read_array(file) if file.lower().endswith(".npy") else Image.open(file)
            image.filename = file  # an image from a .npy has no filename
        with image:
            if image.format in ("TIFF", "GIF") and image.n_frames > 1:
                raise InputError(f"{printable(path)}: it holds {image.n_frames} images; save each in its own file")
            if min(image.size) < 1 or image.format == "EPS":  # EPS is a program, which Ghostscript would run
                raise ValueError("no pixels, or EPS")
            samples, read = getattr(image, "tag_v2", {}).get(ExifTags.Base.SamplesPerPixel, 1), len(image.getbands())
            if samples > read:
                raise InputError(f"{printable(path)}: it has {samples} channels, of which Pillow reads {read}; choose "
                                 "up to 4 and save them as PNG")
            yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{printable(path)}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; scale it down first"
                         ) from None
    except Exception as error:  # on malformed files Pillow's decoders raise nearly anything
        raise InputError(f"{printable(path)}: not an image that Pillow reads, or damaged ({type(error).__name__}); "
                         "replace or remove it; choose up to 4 channels and save them as PNG") from error


def read_array(path) -> Image.Image:
    """The image in a .npy. Integers become int32, except uint8; other numbers become float32."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if math.prod(array.shape[:2]) > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    if array.dtype != np.uint8:
        array = array.astype({"b": np.uint8, "f": np.float32}.get(array.dtype.kind, np.int32))
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def read_header(path) -> tuple[tuple[int, int], int]:
    """((height, width) when upright, EXIF orientation from 1 to 8) of an image."""
    with open_image(path) as image:
        turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # a PNG's own getexif would decode it all
        return image.size if turn in (5, 6, 7, 8) else image.size[::-1], turn


def read_image(path, levels=None, channels=3) -> Image.Image:
    """Read an image as `to_8_bits` gives it. Raises InputError."""
    with open_image(path) as image:
        return to_8_bits(image, levels, channels)


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """An 8-bit image at (height, width), uint8 (H, W, C), channel by channel: Pillow would weigh colours by alpha."""
    return np.dstack([band.resize(size[::-1], Image.Resampling.BILINEAR) for band in image.split()])


def to_8_bits(image, levels=None, channels=3) -> Image.Image:
    """An open image of any mode as 8-bit RGB, upright, on white where it is transparent. If `channels` is not 3: with
    its own channels. Raises InputError if that is another number. More than 8 bits are scaled: the values `levels`
    (low, high), one pair for the data set, become 0 and 255. Without `levels` the range of the file's type is used."""
    count = len(image.getbands())
    if channels not in (3, count):
        raise InputError(f"{printable(image.filename)}: it has {count} channels, and --channels is {channels} for "
                         "this network; make them equal")
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # grey of more than 8 bits
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        if not levels:
            top = 65535 if image.mode.startswith("I;16") else values.max()
            levels = 0, next((limit for limit in (1 if image.mode == "F" else 255, 255, 65535) if top <= limit), top)
        values = ((values - levels[0]) * (255 / (levels[1] - levels[0]))).clip(0, 255)
        image = Image.fromarray((values + 0.5).astype(np.uint8))
    if channels != 3:
        return image.convert("L") if channels == 1 else image  # of a palette or of bits, too
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def common_levels(paths: list[str]) -> tuple[float, float] | None:
    """The range of the values of images of more than 8 bits, from about 200 of them; None if there are none. 0.1% of
    the pixels may lie below it, and 0.1% above: a few odd pixels change nothing."""
    values = [np.zeros(0)]
    for path in paths[::max(1, len(paths) // 200)]:
        with contextlib.suppress(InputError), open_image(path) as image:  # errors are reported at decoding
            if image.mode[0] in "IF":
                sample = np.asarray(image, np.float64)
                values.append(sample[np.isfinite(sample)][::max(1, sample.size // 10_000)])
    values = np.concatenate(values)
    low, high = np.percentile(values, (0.1, 99.9)).tolist() if values.size else (0, 0)
    return (low, max(high, low + 1e-9)) if values.size else None
