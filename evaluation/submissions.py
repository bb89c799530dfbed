"""What submissions hold, which come from strangers: nothing is run, unpickled or unpacked to disk.

`truth` is grading.py's Truth. Complaints go to `troubles`, which has a list of lines for each of TROUBLES.
"""
import contextlib
import csv
import io
import math
import os
import stat
import warnings
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data import InputError, sources
from data.images import NO_CLASS, by_palette, composed, look_up, read_image, show, stop
from evaluation.classification import predict_classification
from evaluation.colorization import predict_colorization
from evaluation.segmentation import predict_segmentation
from training.checkpoint import load_predictor

MAX_FILES, MAX_FILE, MAX_BYTES, MAX_RATIO = 10_000, 64 << 20, 2 << 30, 200  # of a submission
MAX_PIXELS = 1 << 21  # of the size at which a checkpoint's network works
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF",
           ".tiff": "TIFF", ".webp": "WEBP"}
SUFFIXES = (*sources.MASK_SUFFIXES, "_pred")
TROUBLES = ("missing", "misnamed", "extra", "wrong size", "unreadable", "out of range", "refused")


def is_checkpoint(path):
    return path.lower().endswith(".pt") or os.path.isfile(os.path.join(path, "best.pt"))


def why_not_plain(path):
    """Why a path is refused that is neither a file nor a folder, or None."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return "a link; hand in the file itself"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a plain file"


def list_entries(path):
    """Yield (name, bytes, why it is refused or None, a function that reads it) of what a folder, zip or file holds."""
    if reason := why_not_plain(path):
        stop(reason)
    if os.path.isdir(path):
        for place, folders, files in os.walk(path):  # follows no links
            folders.sort()
            for file in sorted(files + [folder for folder in folders if os.path.islink(os.path.join(place, folder))]):
                full = os.path.join(place, file)
                name = os.path.relpath(full, path).replace(os.sep, "/")
                yield name, os.lstat(full).st_size, why_not_plain(full), Path(full).read_bytes
    elif path.lower().endswith(".zip"):
        archive = zipfile.ZipFile(path)
        for entry in archive.infolist():
            name = entry.filename
            if not entry.flag_bits & 0x800:
                with contextlib.suppress(UnicodeError):  # a Mac writes UTF-8 and does not say so
                    name = name.encode("cp437").decode()
            name = name.replace("\\", "/")
            ratio = entry.file_size / max(entry.compress_size, 1)
            reason = ("leads out of the archive" if name[:1] == "/" or ".." in name.split("/") or name[1:2] == ":"
                      else "a link; hand in the file itself" if stat.S_ISLNK(entry.external_attr >> 16)
                      else "encrypted" if entry.flag_bits & 1
                      else "packed by an unusual method" if entry.compress_type not in (0, 8)
                      else f"unpacks to {ratio:.0f} times its size" if ratio > MAX_RATIO and entry.file_size > 1 << 20
                      else None)
            if not entry.is_dir():
                yield name, entry.file_size, reason, partial(read_entry, archive, entry)
    else:
        yield os.path.basename(path), os.path.getsize(path), None, Path(path).read_bytes


def read_entry(archive, entry):
    """A packed file, as long as its entry says; archive.read would unpack all there is, whatever the entry says."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def list_files(path, troubles):
    """Name -> a function that reads the file, for every file of a submission that may be read. Nothing is unpacked."""
    files, total = {}, 0
    for number, (name, size, reason, read) in enumerate(list_entries(path), 1):
        total += size
        if number > MAX_FILES or total > MAX_BYTES:
            raise InputError(f"more than {MAX_FILES:,} files or {MAX_BYTES >> 30} GB")
        reason = reason or (f"larger than {MAX_FILE >> 20} MB" if size > MAX_FILE else
                            "there twice" if name in files else None)
        if reason:
            troubles["refused"].append(f"{show(name)}: {reason}")
        elif not any(part[:1] == "." or part == "__MACOSX" for part in name.split("/")):
            files[name] = read
    return files


def find_picture(truth, name):
    """The index of the true picture that a file's name stands for, in whatever folder and with any known suffix."""
    name = composed(name)
    for form in (name, os.path.splitext(name)[0]):
        parts = form.split("/")[-8:]
        for start in range(len(parts)):
            key = "/".join(parts[start:])
            for suffix in SUFFIXES:
                if key.endswith(suffix) and (index := truth.index.get(key.removesuffix(suffix))) is not None:
                    return index
    return None


def read_pictures(truth, files, troubles):
    """Yield (index, mask or colour picture) in the truth's order, of the files that hold one."""
    candidates, extra = defaultdict(list), []
    for name in sorted(files, key=rank_file):
        stem, suffix = os.path.splitext(name)
        index = find_picture(truth, name) if suffix.lower() in FORMATS else None
        if index is not None:
            candidates[index].append(name)
        elif not stem.endswith("_overlay"):  # predict's, to look at
            extra.append(name)
    absent = [name.lower() for i, name in enumerate(truth.names) if i not in candidates]
    for name in extra:
        plain = composed(name).lower()
        meant = max((other for other in absent if other in plain), key=len, default=None)
        kind, hint = ("misnamed", f": meant for {show(meant)}?") if meant else ("extra", "")
        troubles[kind].append(show(name) + hint)
    for index, names in sorted(candidates.items()):
        taken = None
        for name in names:  # the first that can be read
            if taken:
                troubles["extra"].append(f"{show(name)}: {show(taken)} was taken for that picture")
            elif (picture := read_picture(truth, index, name, files[name], troubles)) is not None:
                taken = name
                yield index, picture


def rank_file(name):
    """Of several files of one name those are tried last that may be the data's own pictures."""
    *folders, file = name.lower().split("/")
    stem, kind = os.path.splitext(file)
    plain = not stem.endswith(tuple(suffix.lower() for suffix in SUFFIXES if suffix))
    return (not {"image", "images", "img", "input", "inputs"}.isdisjoint(folders), kind in (".jpg", ".jpeg"), plain,
            name)


def read_picture(truth, index, name, read, troubles):
    """The mask or colour picture that a file holds, or None and a line in `troubles`."""
    height, width = truth.targets[index].shape[:2]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(read()), formats=list(set(FORMATS.values())))
            if sorted(image.size) == [min(height, width), max(height, width)]:  # else nothing of it is decoded
                image = ImageOps.exif_transpose(image)
            if image.size == (width, height):
                return (as_mask(image, truth, name, troubles) if truth.task == "segmentation"
                        else np.array(image.convert("RGB")))
        troubles["wrong size"].append(f"{show(name)}: {image.height}x{image.width} in place of {height}x{width}")
    except Exception as error:  # on malformed files zipfile and Pillow's decoders raise nearly anything
        reason = "no picture" if isinstance(error, UnidentifiedImageError) else show(str(error))[:100]
        troubles["unreadable"].append(f"{show(name)}: {reason or type(error).__name__}")
    return None


def as_mask(image, truth, name, troubles):
    """A mask of ids, palette indices, 0 and 255, or the classes' colours -> class ids, NO_CLASS for all others."""
    image = by_palette(image, truth.raw.colors or (None if len(truth.classes) == 2 else {}))
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0)
    elif image.mode not in ("1", "L", "P", "I", "I;16", "RGB"):
        image = image.convert("RGB")
    mask, values = look_up(np.asarray(image).clip(0, 255).astype(np.uint8), truth.raw)
    if len(truth.classes) == 2 and 0 in truth.raw.names and values.dtype == np.uint8:
        others = np.flatnonzero(np.bincount(values.ravel(), minlength=256)[1:]) + 1
        if others.tolist() in ([1], [255]):  # background and foreground, which many write as 0 and 255
            mask = (values > 0).astype(np.uint8)
    if (wrong := mask == NO_CLASS).any():
        found = np.unique(values[wrong])
        listed = ", ".join(f"{v:06x}" if values.dtype == np.uint32 else str(v) for v in found[:5])
        troubles["out of range"].append(f"{show(name)}: {wrong.sum()} pixels are of no class (values {listed})")
    return mask


def read_labels(truth, files, troubles):
    """Yield (index, label) in the truth's order from the CSVs with columns name and label; -1: no class."""
    labels, known, rows = {}, {composed(name): i for i, name in enumerate(truth.classes)}, 0
    csv.field_size_limit(MAX_FILE)
    for file in sorted(files):
        if not file.lower().endswith(".csv"):
            troubles["extra"].append(show(file))
            continue
        data = files[file]()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # PowerShell's way to write a file
        lines = io.StringIO(data.decode("utf-16" if wide else "utf-8-sig", errors="replace"), newline=None)
        delimiter = max(",;\t", key=lines.readline().count)
        lines.seek(0)
        reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
        reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        if not {"name", "label"} <= set(reader.fieldnames):
            troubles["extra"].append(f"{show(file)}: its first line does not say name,label")
            continue
        for row in reader:
            rows += 1
            if rows > 10 * len(truth.names) + MAX_FILES:
                raise InputError("far more rows than pictures")
            name, label = (row["name"] or "").strip().replace("\\", "/"), (row["label"] or "").strip()
            index = find_picture(truth, name)
            if index is None or index in labels:
                troubles["extra"].append(show(name))
                continue
            labels[index] = known.get(composed(label), -1)
            if labels[index] < 0:
                troubles["out of range"].append(f"{show(name)}: there is no class {show(label)}")
    yield from sorted(labels.items())


def run_checkpoint(truth, path, device, dtype):
    """Yield (index, prediction) of one of our checkpoints for every true picture, at its own size."""
    for each in (path, os.path.join(path, "best.pt")) if os.path.isdir(path) else (path,):
        if reason := why_not_plain(each):
            stop(reason)
    predictor = load_predictor(path, device, dtype)
    checkpoint = predictor.metadata
    if checkpoint["task"] != truth.task or checkpoint["classes"] != truth.classes:
        raise InputError(f"a network for {checkpoint['task']}, or for other classes than the truth's")
    if math.prod(checkpoint["size"]) > MAX_PIXELS:
        raise InputError("its size is {}x{}, too large to be run here".format(*checkpoint["size"]))
    predict = {"segmentation": predict_segmentation, "classification": predict_classification,
               "colorization": predict_colorization}[truth.task]
    for index, picture in enumerate(truth.images):
        prediction = predict(predictor, read_image(picture))
        if truth.task == "classification":
            prediction = truth.classes.index(prediction[0])
        yield index, np.array(prediction)
