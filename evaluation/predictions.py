"""The predictions in a submission's files: images, matched with the truth's by name, or labels.

`truth` is truth.Truth, `files` comes from submissions.list_files, `troubles` are lists of lines for a page."""
import csv
import io
import os
import re
from collections import defaultdict

import numpy as np
from PIL import Image

from data.images import nfc, printable, stop
from data.masks import NO_CLASS, by_palette, look_up
from evaluation.limits import LIMITS
from evaluation.submissions import say_why

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIX = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp)$", re.I)
# Additions to a name by programs, systems and people.
ADDED = re.compile(rf"{SUFFIX.pattern}|[_-](pred|prediction|mask|label|gt|l)$|^(pred|prediction|mask)[_-]"
                   r"| ?\(\d+\)$| (- )?copy$", re.I)
PREDICTED = re.compile(r"(^|[_/-])(pred|prediction|mask)([_-][^/]*)?\.[^/.]*$", re.I)
INPUT = re.compile(r"(^|/)(image|img|input)s?/", re.I)


def find_image(truth, name):
    """The index of the true image with this name, in any folder, or None. The name is tried as it is, then without its
    suffix, then without ADDED; each first in the same case, then in any case."""
    *folders, form = nfc(name).split("/")[-8:]
    forms = [form, os.path.splitext(form)[0]]
    while (form := ADDED.sub("", forms[-1], 1)) not in ("", forms[-1]):
        forms.append(form)
    names = ["/".join([*folders[start:], form]) for form in forms for start in range(len(folders) + 1)]
    return next((truth.index[each] for each in (*names, *map(str.casefold, names)) if each in truth.index), None)


def match_files(truth, files, troubles):
    """{index: names of the files that may hold its prediction}. Other files become lines of troubles."""
    candidates = defaultdict(list)
    for name in sorted(files):
        candidates[find_image(truth, name) if SUFFIX.search(name) else None].append(name)
    absent = [name for i, name in enumerate(truth.names) if i not in candidates]
    for name in candidates.pop(None, ()):
        if not SUFFIX.sub("", name).endswith("_overlay"):  # predict's, to look at
            plain = nfc(name).casefold()
            meant = max((other for other in absent if other.casefold() in plain), key=len, default=None)
            advice = "?" if SUFFIX.search(name) else "? Save it as PNG."
            hint = f": meant for {printable(meant)}{advice}" if meant else ""
            troubles["misnamed" if meant else "extra"].append(printable(name) + hint)
    return candidates


def read_images(truth, files, troubles):
    """Yield (index, mask or colour image) in the truth's order; (index, None) where no file of an image can be used. If
    there are several files for one image, those with only known classes count, and of these the ones that are least
    likely to be the data's own images. If these differ, each is yielded: the caller counts the worst one."""
    for index, names in sorted(match_files(truth, files, troubles).items()):
        found = defaultdict(list)  # rank -> files; the lowest rank counts
        for name in names:
            if read := read_one(truth, index, name, files[name], troubles):
                rank = (bool(read[1]), bool(INPUT.search(name)), name.lower().endswith((".jpg", ".jpeg")),
                        not PREDICTED.search(name))
                found[rank].append((name, *read))
        best = found.pop(min(found)) if found else []
        chosen = {each[1].tobytes(): each for each in reversed(best)}.values()  # one of each content, the first
        troubles["extra"] += [f"{printable(name)}: {printable(best[0][0])} was taken for that image"
                              for others in found.values() for name, *_ in others]
        if len(chosen) > 1:
            shown = " and ".join(sorted(printable(name) for name, *_ in chosen))
            troubles["ambiguous"].append(f"{shown} differ, and each may be for {printable(truth.names[index])}; the "
                                         "worst counts")
        for name, prediction, wrong in chosen:
            if wrong:
                troubles["out of range"].append(f"{printable(name)}: {wrong}")
            yield index, prediction
        if not chosen:
            yield index, None


def read_one(truth, index, name, read, troubles):
    """(mask or colour image, what is wrong with its values or None) of a file. Or None, with a line in `troubles`."""
    height, width = truth.targets[index].shape[:2]
    try:
        image = Image.open(io.BytesIO(read()), formats=FORMATS)
        if image.size == (width, height):  # otherwise it is not decoded
            return as_mask(image, truth) if truth.task == "segmentation" else (np.array(image.convert("RGB")), None)
        troubles["wrong size"].append(f"{printable(name)}: {image.height}x{image.width} in place of {height}x{width}")
    except Exception as error:  # for damaged files zipfile and Pillow raise nearly anything
        troubles["unreadable"].append(f"{printable(name)}: {say_why(error)}")
    return None


def as_mask(image, truth):
    """An image -> (class indices (H, W) uint8, NO_CLASS for values of no class; what is wrong with it, or None)."""
    ids = ", ".join(map(str, list(truth.raw.names)[:12]))
    advice = f"save the classes' ids ({ids}) as an 8-bit PNG; JPEG changes values"
    masks = list(possible_masks(image, truth))
    if not masks:
        stop(f"it holds colours, and the classes have none; {advice}")
    mask, values = min(masks, key=lambda pair: np.count_nonzero(pair[0] == NO_CLASS))
    wrong = values[mask == NO_CLASS]
    listed = ", ".join(str((value >> 16, value >> 8 & 255, value & 255)) if values.dtype == np.uint32 else f"{value:g}"
                       for value in np.unique(wrong)[:5].tolist())
    return mask, f"{len(wrong)} pixels are of no class (values {listed}); {advice}" if len(wrong) else None


def possible_masks(image, truth):
    """Yield (class indices, values), (H, W) each, for each way to read an image's values."""
    image = by_palette(image, truth.raw.colors or (None if len(truth.classes) == 2 else {}))
    values = np.asarray(image)  # a palette image gives its indices
    if image.mode == "P" or values.ndim == 3:
        colors = np.asarray(image.convert("RGB"))
        if truth.raw.colors and image.mode != "P":
            yield look_up(colors, truth.raw)
        # A program may number colours in any order. If a palette's greys are all different, they are the ids.
        distinct = image.mode != "P" or len(np.unique(colors[..., 0])) == len(image.getcolors()) > 1
        if distinct and (colors == colors[..., :1]).all():
            yield look_up_ids(colors[..., 0], truth)
    if values.ndim == 2:
        yield look_up_ids(values, truth)


def look_up_ids(values, truth):
    """data.masks.look_up for ids (H, W) of any type. Of two classes the second may be 1 or 255 in the whole mask."""
    ids = np.nan_to_num(values).clip(0, 255).astype(np.uint8)
    mask = np.where(ids == values, look_up(ids, truth.raw)[0], NO_CLASS)
    if len(truth.classes) == 2 and 0 in truth.raw.names and {*np.unique(values).tolist()} - {0} in ({1}, {255}):
        mask = (values > 0).astype(np.uint8)
    return mask, values


def read_labels(truth, files, troubles):
    """Yield (index, label) in the truth's order from tables with the columns name and label; -1: no class. Labels are
    the classes' names, in any case, or their numbers, from 0 in the order of the names."""
    labels = defaultdict(dict)  # index -> label -> the first file that has it
    known = {text: i for i in range(len(truth.classes)) for text in (str(i), f"{i}.0")}
    known |= {nfc(name).casefold(): i for i, name in enumerate(truth.classes)}
    known |= {nfc(name): i for i, name in enumerate(truth.classes)}
    for file in sorted(files):
        try:
            rows = list(read_table(file, files[file]))
        except Exception as error:  # for damaged files zipfile and csv raise nearly anything
            troubles["extra"].append(f"{printable(file)}: {say_why(error)}")
            continue
        for name, label in rows:
            index = find_image(truth, name)
            if index is None or index in labels:
                troubles["extra" if index is None else "repeated"].append(printable(name))
            if index is None:
                continue
            label = nfc(label)
            number = known.get(label, known.get(label.casefold(), -1))
            labels[index].setdefault(number, file)
            if number < 0:
                troubles["out of range"].append(f"{printable(name)}: there is no class {printable(label)}")
    for index, found in sorted(labels.items()):
        if len(found) > 1:
            files = " and ".join(sorted(map(printable, set(found.values()))))
            troubles["ambiguous"].append(f"{printable(truth.names[index])} has different labels in {files}; the worst "
                                         "counts")
        yield from ((index, label) for label in found)


def read_table(file, read):
    """Yield (name, label) of each row of a table that has these columns. Raises InputError."""
    if not file.lower().endswith((".csv", ".tsv", ".txt")):
        stop("no table of labels")
    lines = read().decode("utf-8-sig", errors="replace").splitlines() or [""]
    table = csv.DictReader(lines, delimiter=max(",;\t", key=lines[0].count), skipinitialspace=True, restval="")
    table.fieldnames = [column.strip().lower() for column in table.fieldnames or ()]
    if not {"name", "label"} <= set(table.fieldnames):
        stop("its first line does not say name,label")
    for row in table:
        name, label = (row[column].strip()[: LIMITS["name"]] for column in ("name", "label"))
        yield name.replace("\\", "/"), label
