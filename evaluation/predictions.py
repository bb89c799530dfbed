"""What the files of a submission mean: images matched with the truth's by their names and decoded, labels, a network.

`truth` is truth.py's Truth, `files` what submissions.list_files returns, `troubles` lists of lines for a page.
"""
import csv
import io
import itertools
import os
import re
from collections import defaultdict

import numpy as np
import torch
from PIL import Image, ImageOps

from data.images import nfc, printable, read_image, stop
from data.masks import NO_CLASS, by_palette, look_up
from evaluation.classification import predict_classification
from evaluation.colorization import predict_colorization
from evaluation.limits import LIMITS, Exceeded
from evaluation.segmentation import predict_segmentation
from evaluation.submissions import say_why, why_not_plain
from models import count_gflops
from training.checkpoint import load_predictor

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".h5", ".keras", ".onnx", ".pkl", ".npz", ".bin")
NO_NETWORK = "your own network's file cannot be run, only its predictions are graded"
TABLES = (".csv", ".tsv", ".txt")
# What programs, systems and people add to a name.
ADDED = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp)$|[_-](pred|prediction|mask|label|gt|l)$"
                   r"|^(pred|prediction|mask)[_-]| ?\(\d+\)$| (- )?copy$", re.I)
PREDICTED = re.compile(r"(^|[_-])(pred|prediction|mask)([_-]|$)", re.I)
INPUTS = {"image", "images", "img", "imgs", "input", "inputs"}
MOST_CANDIDATES = 10  # files that are looked into for one image


# ---------------------------------------------------------------------------------------------------------------- names


def find_image(truth, name):
    """The index of the true image that a file's name stands for, in whatever folder, or None.

    The name as it is comes first, then without its suffix, then without what was added; each also in any case.
    """
    *folders, form = nfc(name).split("/")[-8:]
    forms = [form, os.path.splitext(form)[0]]
    while (form := ADDED.sub("", forms[-1], 1)) not in ("", forms[-1]) and len(forms) < 8:
        forms.append(form)
    names = ["/".join([*folders[start:], form]) for form in forms for start in range(len(folders) + 1)]
    names += [name.casefold() for name in names]
    return next((truth.index[name] for name in names if name in truth.index), None)


def match_files(truth, files, troubles):
    """Index -> names of the files that may hold its prediction; the others become lines of troubles."""
    candidates, extra = defaultdict(list), []
    for name in sorted(files):
        stem, suffix = os.path.splitext(name)
        index = find_image(truth, name) if suffix.lower() in SUFFIXES else None
        if suffix.lower() in WEIGHTS:
            troubles["extra"].append(f"{printable(name)}: {NO_NETWORK}")
        elif index is not None:
            candidates[index].append(name)
        elif not stem.endswith("_overlay"):  # predict's, to look at
            extra.append(name)
    absent = {name.casefold(): name for i, name in enumerate(truth.names) if i not in candidates}
    for name in extra:
        plain = nfc(name).casefold()
        meant = max((other for other in absent if other in plain), key=len, default=None)
        kind, hint = ("misnamed", f": meant for {printable(absent[meant])}?") if meant else ("extra", "")
        troubles[kind].append(printable(name) + hint)
    return candidates


def rank_file(name):
    """Of several files for one image those are tried last that may be the data's own images."""
    *folders, file = name.lower().split("/")
    stem, kind = os.path.splitext(file)
    return not INPUTS.isdisjoint(folders), kind in (".jpg", ".jpeg"), not PREDICTED.search(stem)


# ---------------------------------------------------------------------------------------------------- masks and colours


def read_images(truth, files, troubles):
    """Yield (index, mask or colour image) in the truth's order; (index, None) where no file of an image can be used.

    Where several files differ and none is likelier than the others, each is yielded: the worst is to count.
    """
    for index, names in sorted(match_files(truth, files, troubles).items()):
        chosen = choose(truth, index, names, files, troubles)
        yield from ((index, prediction) for prediction, _ in chosen.values() or [(None, None)])
        troubles["out of range"] += [f"{printable(name)}: {wrong}" for name, (_, wrong) in chosen.items() if wrong]
        if len(chosen) > 1:
            troubles["ambiguous"].append(f"{' and '.join(map(printable, chosen))} differ, and each may be for "
                                         f"{printable(truth.names[index])}; the worst counts")


def choose(truth, index, names, files, troubles):
    """Name -> (prediction, what is wrong with it or None) of the likeliest of an image's files: those that hold only
    known classes, of the best rank, and that differ."""
    names = sorted(names, key=lambda name: (rank_file(name), name))
    read, best = {}, []
    for name in names[:MOST_CANDIDATES]:
        if best and rank_file(name) > rank_file(best[0]):
            break
        read[name] = read_one(truth, index, name, files[name], troubles)
        if read[name] and not read[name][1]:
            best.append(name)
    usable = [name for name in read if read[name]]
    best = best or [name for name in usable if rank_file(name) == rank_file(usable[0])]
    troubles["extra"] += [f"{printable(name)}: {printable(best[0])} was taken for that image" for name in names
                          if best and name not in best and read.get(name, True)]
    different = {read[name][0].tobytes(): name for name in reversed(best)}  # of equal ones the first
    return {name: read[name] for name in best if name in different.values()}


def read_one(truth, index, name, read, troubles):
    """(mask or colour image, what is wrong with its values or None) of a file, or None and a line in `troubles`."""
    height, width = truth.targets[index].shape[:2]
    try:
        image = Image.open(io.BytesIO(read()), formats=FORMATS)
        kind = image.format
        if sorted(image.size) == sorted((height, width)):  # else nothing of it is decoded
            image = ImageOps.exif_transpose(image)
        if image.size == (width, height):
            return as_mask(image, truth, kind) if truth.task == "segmentation" else (
                np.array(image.convert("RGB")), None)
        troubles["wrong size"].append(f"{printable(name)}: {image.height}x{image.width} in place of {height}x{width}")
    except Exception as error:  # on malformed files zipfile and Pillow's decoders raise nearly anything
        troubles["unreadable"].append(f"{printable(name)}: {say_why(error)}")
    return None


def as_mask(image, truth, kind):
    """An image of ids or of the classes' colours -> class ids (H, W) uint8, NO_CLASS for all other values, and what is
    wrong with it or None."""
    looked_up = [look_up_all(values, truth) for values in possible_values(image, truth)]
    mask, values = min(looked_up, key=lambda pair: np.count_nonzero(pair[0] == NO_CLASS), default=(None, None))
    kept = "JPEG changes values; " if kind == "JPEG" else ""
    advice = f"{kept}save the classes' ids ({', '.join(map(str, list(truth.raw.names)[:12]))}) as an 8-bit PNG"
    if mask is None:
        return np.full(image.size[::-1], NO_CLASS, np.uint8), f"the classes have no colours; {advice}"
    wrong = values[mask == NO_CLASS]
    if not len(wrong):
        return mask, None
    listed = ", ".join(str((value >> 16, value >> 8 & 255, value & 255)) if values.dtype == np.uint32 else f"{value:g}"
                       for value in np.unique(wrong)[:5].tolist())
    return mask, f"{len(wrong)} pixels are of no class (values {listed}); {advice}"


def look_up_all(values, truth):
    """data.masks.look_up also for ids of other types, and for 0 and 255 where there are two classes."""
    if values.ndim == 3:
        return look_up(values, truth.raw)
    ids = np.nan_to_num(values).clip(0, 255).astype(np.uint8)
    mask, _ = look_up(ids, truth.raw)
    mask = np.where(ids == values, mask, NO_CLASS)
    if len(truth.classes) == 2 and 0 in truth.raw.names:
        others = np.unique(values[values != 0])
        if others.tolist() in ([1], [255]):  # background and foreground, which many write as 0 and 255
            mask = (values > 0).astype(np.uint8)
    return mask, values


def possible_values(image, truth):
    """Yield what the values of an image may be: (H, W) ids or uint8 (H, W, 3) colours, the likelier first."""
    image = by_palette(image, truth.raw.colors or (None if len(truth.classes) == 2 else {}))
    if image.mode == "P":
        colors = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        table = np.concatenate([colors, np.zeros((256 - len(colors), 3), np.uint8)])
        shades = table[[index for _, index in image.getcolors(256)]]
        if (shades == shades[:, :1]).all() and len(np.unique(shades[:, 0])) == len(shades) > 1:
            yield table[:, 0][np.asarray(image)]  # greys that are ids: a program may number colours as it likes
    elif image.mode in ("LA", "PA", "La"):
        image = image.getchannel(0)
    elif image.mode not in ("1", "L", "I", "F", "RGB") and image.mode[:2] != "I;":
        image = image.convert("RGB")
    values = np.asarray(image)
    if values.ndim == 2 or truth.raw.colors:
        yield values
    if values.ndim == 3 and (values[..., :1] == values[..., 1:]).all():
        yield values[..., 0]


# --------------------------------------------------------------------------------------------------------------- labels


def read_labels(truth, files, troubles):
    """Yield (index, label) in the truth's order from the tables with columns name and label; -1: no class.

    Labels are the classes' names, in any case where that is unique, or their numbers, from 0 in the order of the names.
    """
    labels, known = {}, {str(i): i for i in range(len(truth.classes))}
    folded = [name.casefold() for name in truth.classes]
    known |= {name: i for i, name in enumerate(folded) if folded.count(name) == 1}
    known |= {nfc(name): i for i, name in enumerate(truth.classes)}
    most = 10 * len(truth.names) + LIMITS["rows"]
    for file in sorted(files):
        if not file.lower().endswith(TABLES):
            hint = f": {NO_NETWORK}" if file.lower().endswith(WEIGHTS) else ""
            troubles["extra"].append(printable(file) + hint)
            continue
        try:
            rows = list(itertools.islice(read_table(files[file]()), most + 1))
        except Exception as error:  # on malformed files zipfile and csv raise nearly anything
            kind = "refused" if isinstance(error, Exceeded) else "extra"
            troubles[kind].append(f"{printable(file)}: {say_why(error)}")
            continue
        most -= len(rows)
        if most < 0:
            raise Exceeded("rows", "far more rows than images")
        for name, label in rows:
            index = find_image(truth, name)
            if index is None or index in labels:
                troubles["extra" if index is None else "repeated"].append(printable(name))
                continue
            label = nfc(label)
            labels[index] = known.get(label, known.get(label.casefold(), -1))
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


# ------------------------------------------------------------------------------------------------------------- networks


def run_checkpoint(truth, path, device, dtype):
    """Yield (index, prediction) of one of our checkpoints for every true image, at its own size.

    Where the device fails, for want of its memory perhaps, the CPU goes on: that is not the student's fault.
    """
    predict = {"segmentation": predict_segmentation, "classification": predict_classification,
               "colorization": predict_colorization}[truth.task]
    if reason := why_not_plain(path) or os.path.isdir(path) and why_not_plain(os.path.join(path, "best.pt")):
        stop(reason)
    done = 0
    for place, kind in ((device, dtype), (torch.device("cpu"), torch.float32)):
        try:
            predictor = load_predictor(path, place, kind)
            metadata = predictor.metadata
            if metadata["task"] != truth.task or metadata["classes"] != truth.classes:
                stop(f"a network for {printable(str(metadata['task']))[:50]}, or for other classes than the truth's")
            work = count_gflops(metadata["network"], metadata["size"])
            if work > LIMITS["work"]:
                raise Exceeded("work", f"its network takes {work:.0f} GFLOPs for one image")
            for image in truth.images[done:]:
                prediction = predict(predictor, read_image(image, metadata.get("levels")))
                yield done, (truth.classes.index(prediction[0]) if truth.task == "classification" else
                             np.array(prediction))
                done += 1
            return
        except RuntimeError:
            if place.type == "cpu":
                raise
