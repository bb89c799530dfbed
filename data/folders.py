"""A user's own folders: which layouts are understood, which files are samples, what is held out for val and test."""
import contextlib
import csv
import os
import re
from collections import Counter, defaultdict
from hashlib import sha256

import numpy as np

from data import InputError
from data.images import first_few, list_images, nfc, printable, read_header, stop
from data.masks import read_classes
from data.samples import DataSet, Samples

SPLITS = ("train", "val", "test")
# The words of all layouts, in any case. They name folders (train_masks has two of them; SegNet writes trainannot).
# Words for images and masks also begin or end a file's name (x_mask.png).
WORDS = {word: meaning for meaning, words in {
    "train": "train training trainset",
    "val": "val valid validation valset dev",
    "test": "test tests testing testset",
    "image": "image images img imgs input inputs jpegimages leftimg8bit",
    "mask": "mask masks label labels gt groundtruth annot annotation annotations seg segmentation segmentationclass "
            "gtfine labelids",
}.items() for word in words.split()}
AFFIXES = {word: meaning for word, meaning in WORDS.items() if meaning not in SPLITS} | {"l": "mask"}  # CamVid's x_L
FOLDER_LAYOUTS = {
    "segmentation": "{train,val,test}/{images,masks} or {images,masks}, and a mask like its image or with _mask behind",
    "classification": "{train,val,test}/<class>/<images>, or <class>/<images>, of two classes or more",
    "colorization": "images, directly or in {train,val,test}",
}


def place(name: str, by_class: bool = False) -> tuple[str | None, str | None, str]:
    """(split, "image" or "mask", the rest of a file's name), as its folders say; None if they do not say it. by_class:
    a folder that names no split, or lies in one, is a class, whatever its name."""
    split, kind, rest = None, None, []
    *folders, stem = name.split("/")
    for depth, folder in enumerate(folders, 1):
        words = re.sub("(?<=[a-z])annot$", "_annot", folder.lower())
        meanings = {WORDS.get(word) for word in re.split("[_ -]", re.sub("[_ -]set$", "", words))}
        if None in meanings or by_class and (split and depth == len(folders) or not meanings & {*SPLITS}):
            rest.append(folder)
            continue
        split = next(iter(meanings & {*SPLITS}), split)
        kind = next(iter(meanings - {*SPLITS}), kind)
    return split, kind, "/".join([*rest, stem])


def bare(name: str) -> tuple[str, bool]:
    """(a file's name for pairing, without words for images or masks at its ends; whether one was for a mask)."""
    folder, _, stem = nfc(name).lower().rpartition("/")
    parts, taken = re.split("[_ -]", stem), []
    for end in (-1, 0):
        while len(parts) > 1 and parts[end] in AFFIXES:
            taken.append(AFFIXES[parts.pop(end)])
    return f"{folder}/{'_'.join(parts)}", "mask" in taken


def sort_files(files: dict[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """{split: {"image" or "mask": {name: path}}} of a data set's files, {name: path}, in the order of SPLITS."""
    found = {}
    for name, path in files.items():
        split, kind, rest = place(name)
        kinds = found.setdefault(split or "train", {"image": {}, "mask": {}})
        group = kinds[kind or ("mask" if bare(rest)[1] else "image")]
        group[name if rest in group else rest] = path
    return {split: found[split] for split in SPLITS if split in found}


def find_folder(data: DataSet) -> None:
    """Set the splits of a folder, or of a CSV that lists files, and its classes if they are given."""
    if os.path.isfile(data.root):
        splits, data.masks = find_listed(data), read_classes(os.path.dirname(data.root))
    elif data.task == "classification":
        splits = find_classification(data)
    else:
        splits = find_pairs(data)
        data.masks = read_classes(data.root) if data.task == "segmentation" else None
    data.splits = {split: splits[split] for split in SPLITS if split in splits}


def find_pairs(data: DataSet) -> dict[str, Samples]:
    """The splits of a folder: images and the masks of the same name; for colorization only images."""
    files, splits = list_images(data.root, data.complain, ("SegmentationObject",), data.notes), {}
    if data.task == "segmentation" and os.path.isdir(f"{data.root}annot"):  # one split of SegNet's layout
        beside = list_images(f"{data.root}annot", data.complain, notes=data.notes)
        files |= {f"masks/{name}": path for name, path in beside.items()}
    for split, kinds in sort_files(files).items():
        images, masks = kinds.values()
        where = os.path.join(data.root, split) if os.path.isdir(os.path.join(data.root, split)) else data.root
        if data.task == "colorization":
            data.notes += [f"{printable(where)}: {len(masks)} masks are left out: {first_few(masks)}"] if masks else []
            splits |= {split: Samples(list(images), list(images.values()))} if images else {}
        elif images and masks:
            splits[split] = pair(images, masks, where, data)
        elif split == "test" and images:
            data.notes.append(f"{printable(where)}: {len(images)} test images have no masks, so test is held out of "
                              "train; evaluate.py predict can label them")
        else:
            lacking, there = ("masks", images) if images else ("images", masks)
            seen = first_few(sorted({os.path.dirname(path) for path in there.values()}))
            data.complain(f"{printable(os.path.join(where, lacking))}: no {lacking}, but {len(there)} files in {seen}; "
                          f"rename the folders or files to {FOLDER_LAYOUTS['segmentation']}")
    return splits


def pair(images: dict, masks: dict, where: str, data: DataSet) -> Samples:
    """The images, {name: path}, that have a mask of the same name or of the same `bare` name."""
    left, pairs = dict(masks), {}
    exact, similar = {nfc(name): name for name in masks}, {bare(name)[0]: name for name in masks}
    for name in images:
        mask = exact.get(nfc(name)) or similar.get(bare(name)[0])
        if mask in left:
            pairs[name] = left.pop(mask)
    if single := [path for name, path in images.items() if name not in pairs]:
        others = f", nor of {len(single) - 1} more images" if len(single) > 1 else ""
        report = data.complain if pairs else stop  # nothing more can be found out about an empty split
        report(f"{printable(single[0])}: no mask of that name{others}; add it or remove the image")
    if left:
        data.notes.append(f"{printable(where)}: {len(left)} masks without an image are left out: {first_few(left)}")
    return Samples(list(pairs), [images[name] for name in pairs], list(pairs.values()))


def find_listed(data: DataSet) -> dict[str, Samples]:
    """The samples that a CSV lists: image, mask and, in a third column, split; paths are relative to its folder."""
    splits, listed = defaultdict(list), set()
    try:
        with open(data.root, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{printable(data.root)}: {printable(str(error))}; save it as CSV in UTF-8") from error
    for number, row in enumerate(rows, 1):
        split = WORDS.get(row[2].lower()) if len(row) == 3 else "train"
        files = [os.path.normpath(os.path.join(os.path.dirname(data.root), cell)) for cell in row[:2]]
        if len(row) in (2, 3) and split in SPLITS and all(map(os.path.isfile, files)) and files[0] not in listed:
            splits[split].append((row[0], *files))
            listed.add(files[0])
        elif any(row) and row[0].lower() != "image":  # neither an empty row nor the columns' names
            data.complain(f"{printable(data.root)}: row {number} should look like image.png,mask.png or "
                          "image.png,mask.png,val, with files that exist, and each image once")
    return {split: Samples(*map(list, zip(*found))) for split, found in splits.items()}


def find_classification(data: DataSet) -> dict[str, Samples]:
    """The images of {train,val,test}/<class> or <class>/<images>. Labels count the classes in sorted order."""
    files, loose = list_images(data.root, data.complain, notes=data.notes), []
    splits, places = defaultdict(list), {name: place(name, by_class=True) for name in files}
    divided = any(split for split, _, _ in places.values())
    for name, (split, _, rest) in places.items():
        if "/" in rest and (split or not divided):
            splits[split or "train"].append((rest, files[name], rest.partition("/")[0]))
        else:
            loose.append(name)
    if loose:
        data.notes.append(f"{printable(data.root)}: {len(loose)} images in no class's folder are left out: "
                          f"{first_few(loose)}")
    classes = data.classes = sorted({label for found in splits.values() for *_, label in found})
    if len(classes) < 2 or "images" in classes or not all(map(str.isprintable, classes)):
        raise InputError(f"{printable(data.root)}: its folders are not classes ({first_few(classes) or 'none'}); a "
                         f"folder for classification holds {FOLDER_LAYOUTS['classification']}")
    for split, found in splits.items():
        names, paths, labels = map(list, zip(*found))
        for name in sorted({*classes} - {*labels}):
            data.complain(f"{printable(os.path.join(data.root, split, name))}: no images of this class, which another "
                          f"split has; add some, or remove {split}, to have it held out of train")
        splits[split] = Samples(names, paths, list(map(classes.index, labels)))
    return splits


def hold_out(data: DataSet, present: np.ndarray) -> None:
    """Hold missing val and test splits out of train: a tenth each, with every class if there are enough images. The
    choice follows from a hash of (seed, name). present: bool (N, K), which class is in which mask of train."""
    train, missing, groups = data.splits["train"], data.missing, defaultdict(list)
    for i in sorted(range(len(train)), key=lambda i: sha256(repr((data.seed, train.names[i])).encode()).digest()):
        groups[train.targets[i] if data.task == "classification" else None].append(i)
    chosen = {split: [] for split in ("train", *missing)}
    for group in groups.values():
        count = max(1, round(len(group) / 10))
        if len(group) <= count * len(missing):
            raise InputError(f"{printable(data.root)}: {len(group)} image(s), such as "
                             f"{printable(train.names[group[0]])}, are too few to hold "
                             f"{' and '.join(missing)} out of; add images, or folders for them")
        for split in missing:
            chosen[split] += choose(group, count, present)
        chosen["train"] += group
    data.splits |= {split: train.take(sorted(chosen[split])) for split in chosen}
    data.notes += [f"no {split} split: {len(data.splits[split])} of {len(train)} images held out of train, seed "
                   f"{data.seed}" for split in missing]


def choose(group: list[int], count: int, has: np.ndarray) -> list[int]:
    """Take `count` samples out of a group and return them: first one of each class, the rarest first, if another one of
    the group has it and less than a quarter is taken; then the first ones. has: bool (N, K), which class is where."""
    chosen, most, frequency = [], max(count, len(group) // 4), has[group].sum(0)
    for k in np.argsort(frequency, kind="stable")[np.count_nonzero(frequency == 0):]:
        having = [i for i in group if has[i, k]]
        if len(having) > 1 and len(chosen) < most and not has[chosen, k].any():
            chosen.append(having[0])
            group.remove(having[0])
    while len(chosen) < count:
        chosen.append(group.pop(0))
    return chosen


def settle_size(data: DataSet) -> None:
    """Set the training size, if none was given, to the most common size of up to 1,000 images, and set `own_size`.
    Sides above 512 are shrunk, except with `own_size` or for segmentation above 1024: training then takes crops."""
    paths, sizes = [path for samples in data.splits.values() for path in samples.images], Counter()
    for path in paths[::max(1, len(paths) // 1000)]:
        with contextlib.suppress(InputError):  # reported when the image is decoded
            sizes[read_header(path)[0]] += 1
    if not sizes:
        list(map(read_header, paths[:1]))  # raises, and says why
        raise InputError(f"{printable(data.root)}: no image is left that can be read; add images")
    common, count = sizes.most_common(1)[0]
    if not data.size:
        crops = data.own_size or data.task == "segmentation" and max(common) > 1024
        share = 1 if crops else min(1, 512 / max(common))
        data.size = tuple(max(1, round(side * share)) for side in common)
        data.notes.append("size {}x{} (height x width); most common image: {}x{}".format(*data.size, *common))
    data.own_size = data.size == common
    if data.own_size and count < sizes.total():
        data.notes.append(f"{sizes.total() - count} of {sizes.total()} images looked at have other sizes and are "
                          "resized to this one")
