"""What submissions hold, which come from strangers: nothing is run, unpickled or unpacked to disk.

All of it happens in a process with limits, see limits.py. `truth` is truth.py's Truth. Complaints go to `troubles`,
which has a list of lines for each of TROUBLES.
"""
import contextlib
import csv
import hashlib
import io
import itertools
import os
import stat
import warnings
import zipfile
from collections import defaultdict
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from data import InputError, folders
from data.images import nfc, printable, read_image, stop
from data.masks import NO_CLASS, by_palette, look_up
from evaluation.classification import predict_classification
from evaluation.colorization import predict_colorization
from evaluation.limits import LIMITS, Exceeded, is_out_of_memory
from evaluation.segmentation import predict_segmentation
from models import count_gflops
from training.checkpoint import Predictor, for_inference, load_run

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF",
           ".tiff": "TIFF", ".webp": "WEBP"}
SUFFIXES = (*folders.MASK_SUFFIXES, "_pred")
TROUBLES = ("missing", "misnamed", "extra", "wrong size", "unreadable", "out of range", "refused")


def is_checkpoint(path):
    return path.lower().endswith(".pt") or os.path.isfile(os.path.join(path, "best.pt"))


def why_not_plain(path):
    """Why a path is refused that is neither a file nor a folder, or None."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return "a link; hand in the file itself"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a plain file"


def say_why(error, path=""):
    """What a student reads of an error: one sentence, without paths of this computer and without Python's words."""
    if isinstance(error, InputError):
        return printable(str(error).replace(str(path), os.path.basename(path)))
    if isinstance(error, UnidentifiedImageError):
        return "no image that can be read"
    if isinstance(error, zipfile.BadZipFile):
        return "no zip, or a damaged one"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be opened: {error.strerror}"
    return "damaged, or written in an unusual way; write it anew"


def read_plain(path, most=LIMITS["file"]):
    """The bytes of a file, at most one more than `most`. Whatever took its place since it was listed is refused."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            stop("not a plain file")
        return file.read(most + 1)


def content_digest(path):
    """A hash of a submission's name and content, or None where it cannot be read."""
    digest = hashlib.sha256(os.path.basename(path).encode(errors="surrogateescape"))
    if is_checkpoint(path) and os.path.isdir(path):
        path = os.path.join(path, "best.pt")
    try:
        if os.path.isdir(path):
            for name, size, reason, read in itertools.islice(list_entries(path), LIMITS["files"] + 1):
                digest.update(repr((name, size, reason)).encode(errors="surrogateescape"))
                if reason is None and size <= LIMITS["file"]:
                    digest.update(hashlib.sha256(read()).digest())
        elif why_not_plain(path) is None:
            with open(path, "rb") as file:
                for part in iter(partial(file.read, 1 << 20), b""):
                    digest.update(part)
        return digest.hexdigest()
    except (OSError, InputError):
        return None


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
                yield name, os.lstat(full).st_size, why_not_plain(full), partial(read_plain, full)
    elif path.lower().endswith(".zip"):
        yield from list_zip(zipfile.ZipFile(path))
    else:
        yield os.path.basename(path), os.path.getsize(path), None, partial(read_plain, path)


def list_zip(archive):
    """list_entries of an open zip."""
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
                  else f"unpacks to {ratio:.0f} times its size (limit: ratio)"
                  if ratio > LIMITS["ratio"] and entry.file_size > 1 << 20 else None)
        if not entry.is_dir():
            yield name, entry.file_size, reason, partial(read_entry, archive, entry)


def read_entry(archive, entry):
    """A packed file, as long as its entry says; archive.read would unpack all there is, whatever the entry says."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def list_files(path, troubles):
    """Name -> a function that reads the file, for every file of a submission that may be read. Nothing is unpacked."""
    files, total = {}, 0
    for number, (name, size, reason, read) in enumerate(list_entries(path), 1):
        name, total = name[: LIMITS["name"]], total + size
        if number > LIMITS["files"]:
            raise Exceeded("files", f"more than {LIMITS['files']:,} files")
        if total > LIMITS["bytes"]:
            raise Exceeded("bytes", f"more than {LIMITS['bytes'] >> 30} GB")
        reason = reason or (f"larger than {LIMITS['file'] >> 20} MB (limit: file)" if size > LIMITS["file"] else
                            "there twice" if name in files else None)
        if reason:
            troubles["refused"].append(f"{printable(name)}: {reason}")
        elif not any(part[:1] == "." or part == "__MACOSX" for part in name.split("/")):
            files[name] = read
    return files


def find_picture(truth, name):
    """The index of the true picture that a file's name stands for, in whatever folder and with any known suffix."""
    name = nfc(name)
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
        plain = nfc(name).lower()
        meant = max((other for other in absent if other in plain), key=len, default=None)
        kind, hint = ("misnamed", f": meant for {printable(meant)}?") if meant else ("extra", "")
        troubles[kind].append(printable(name) + hint)
    for index, names in sorted(candidates.items()):
        taken = None
        for name in names:  # the first that can be read
            if taken:
                troubles["extra"].append(f"{printable(name)}: {printable(taken)} was taken for that picture")
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
        troubles["wrong size"].append(f"{printable(name)}: {image.height}x{image.width} in place of {height}x{width}")
    except Exception as error:  # on malformed files zipfile and Pillow's decoders raise nearly anything
        if is_out_of_memory(error):
            raise
        troubles["unreadable"].append(f"{printable(name)}: {say_why(error)}")
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
        troubles["out of range"].append(f"{printable(name)}: {wrong.sum()} pixels are of no class (values {listed})")
    return mask


def read_labels(truth, files, troubles):
    """Yield (index, label) in the truth's order from the CSVs with columns name and label; -1: no class."""
    labels, known = {}, {nfc(name): i for i, name in enumerate(truth.classes)}
    most = 10 * len(truth.names) + LIMITS["rows"]
    for file in sorted(files):
        if not file.lower().endswith(".csv"):
            troubles["extra"].append(printable(file))
            continue
        try:
            rows = list(itertools.islice(read_table(files[file]()), most + 1))
        except (InputError, csv.Error) as error:
            troubles["extra"].append(f"{printable(file)}: {say_why(error)}")
            continue
        most -= len(rows)
        if most < 0:
            raise Exceeded("rows", "far more rows than images")
        for name, label in rows:
            index = find_picture(truth, name)
            if index is None or index in labels:
                troubles["extra"].append(printable(name))
                continue
            labels[index] = known.get(nfc(label), -1)
            if labels[index] < 0:
                troubles["out of range"].append(f"{printable(name)}: there is no class {printable(label)}")
    yield from sorted(labels.items())


def read_table(data):
    """Yield (name, label) of each row of a CSV, bytes, whose first line has these columns. Raises InputError."""
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # PowerShell's way to write a file
    lines = io.StringIO(data.decode("utf-16" if wide else "utf-8-sig", errors="replace"), newline=None)
    head = lines.readline(1 << 16)
    lines.seek(0)
    csv.field_size_limit(1 << 16)
    delimiter = max(",;\t", key=head.count)
    if head.count(delimiter) > LIMITS["columns"] or head[-1:] != "\n" and len(head) == 1 << 16:
        raise Exceeded("columns", f"more than {LIMITS['columns']:,} columns, or a first line without end")
    rows = filter(None, csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    columns = [column.strip().lower() for column in next(rows, ())]
    if not {"name", "label"} <= set(columns):
        stop("its first line does not say name,label")
    places = columns.index("name"), columns.index("label")
    for row in rows:
        name, label = (row[i].strip()[: LIMITS["name"]] if i < len(row) else "" for i in places)
        yield name.replace("\\", "/"), label


def run_checkpoint(truth, path, device, dtype):
    """Yield (index, prediction) of one of our checkpoints for every true image, at its own size.

    Where the device fails, for want of its memory perhaps, the CPU goes on: that is not the student's fault.
    """
    for each in (path, os.path.join(path, "best.pt")) if os.path.isdir(path) else (path,):
        if reason := why_not_plain(each):
            stop(reason)
    done = 0
    for place, kind in ((device, dtype), (torch.device("cpu"), torch.float32)):
        model, metadata = load_run(path)
        check_network(truth, metadata)
        try:
            predictor = Predictor(for_inference(model, place, kind), metadata, place, kind)
            for prediction in predict_all(truth, done, predictor):
                yield done, prediction
                done += 1
            return
        except RuntimeError:
            if place.type == "cpu":
                raise


def check_network(truth, metadata):
    """Refuse a network that is for something else than the truth, or that would take too long."""
    if metadata["task"] != truth.task or metadata["classes"] != truth.classes:
        stop(f"a network for {printable(str(metadata['task']))[:50]}, or for other classes than the truth's")
    work = count_gflops(metadata["network"], metadata["size"])
    if work > LIMITS["work"]:
        raise Exceeded("work", f"its network takes {work:.0f} GFLOPs for one image, more than {LIMITS['work']}")


def predict_all(truth, start, predictor):
    """Yield a network's prediction of each true image from `start` on."""
    predict = {"segmentation": predict_segmentation, "classification": predict_classification,
               "colorization": predict_colorization}[truth.task]
    for path in truth.images[start:]:
        prediction = predict(predictor, read_image(path))
        yield truth.classes.index(prediction[0]) if truth.task == "classification" else np.array(prediction)
