"""Anyone's own folders: which layouts are understood, which files are samples, and what is held out for val and test.

In every function `on_error` takes the message of each mistake (`stop` raises the first one), and `notes` takes lines
about what is worth knowing and no mistake.
"""
import contextlib
import csv
import os
import re
from collections import Counter
from hashlib import sha256

import numpy as np

from data import InputError
from data.images import first_few, image_size, list_images, nfc, printable, stop
from data.samples import DataSet, Samples

SPLITS = ("train", "val", "test")
# The words of all layouts, in upper or lower case. They name folders (train_masks has two of them; SegNet says
# trainannot), and those of images and masks also begin or end a file's name (x_mask.png).
WORDS = {word: meaning for meaning, words in {
    "train": "train training trainset",
    "val": "val valid validation valset",
    "test": "test testing testset",
    "image": "image images img imgs input inputs jpegimages leftimg8bit",
    "mask": "mask masks label labels gt groundtruth annot annotation annotations segmentation segmentationclass gtfine "
            "labelids",
}.items() for word in words.split()}
AFFIXES = {word: meaning for word, meaning in WORDS.items() if meaning not in SPLITS} | {"l": "mask"}  # CamVid's x_L
SPLIT_WORD = re.compile(r"(?<![a-z])(train|val|test)(ing|id|idation)?_?(set)?(?![a-z])")
FOLDER_LAYOUTS = {
    "segmentation": "{train,val,test}/{images,masks} or {images,masks}, and a mask like its image or with _mask behind",
    "classification": "{train,val,test}/<class>/<images>, or <class>/<images>",
    "colorization": "images, directly or in {train,val,test}",
}


def place(name: str) -> tuple[str | None, str | None, str]:
    """(split, "image" or "mask", the rest of a file's name), as its folders say; None where they say nothing of it.

    Splits are at the top; a class or a town may be called Test.
    """
    split, kind, rest = None, None, []
    *folders, stem = name.split("/")
    for folder in folders:
        words = re.sub("(?<=[a-z])annot$", "_annot", folder.lower())
        meanings = {WORDS.get(word) for word in re.split("[_ -]", words)}
        if None in meanings or rest and meanings & {*SPLITS}:
            rest.append(folder)
            continue
        split = next(iter(meanings & {*SPLITS}), split)
        kind = next(iter(meanings - {*SPLITS}), kind)
    return split, kind, "/".join([*rest, stem])


def bare(name: str) -> tuple[str, bool]:
    """A file's name for pairing: without words for images or masks at its ends, in lower case and Unicode's NFC.

    Also returns whether one of them was a mask's.
    """
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


def find_segmentation(root: str, notes: list[str], on_error=stop) -> dict[str, Samples]:
    """Pair images with masks by name, wherever WORDS finds them. A test split without masks is left out."""
    files, splits = list_images(root, on_error, ("SegmentationObject",), notes), {}
    if os.path.isdir(f"{root}annot"):  # one split of SegNet's layout
        beside = list_images(f"{root}annot", on_error, notes=notes)
        files |= {f"masks/{name}": path for name, path in beside.items()}
    for split, kinds in sort_files(files).items():
        images, masks = kinds.values()
        where = os.path.join(root, split) if os.path.isdir(os.path.join(root, split)) else root
        if images and masks:
            splits[split] = pair(images, masks, where, notes, on_error)
        elif masks:
            on_error(f"{printable(os.path.join(where, 'images'))}: no images for {len(masks)} masks; put them there")
        elif split == "test":
            notes.append(f"{printable(where)}: {len(images)} test images have no masks, so test is held out of train; "
                         "evaluate.py predict labels them")
        else:
            seen = first_few(sorted({os.path.dirname(path) for path in images.values()}))
            raise InputError(f"{printable(os.path.join(where, 'masks'))}: no such folder, but {len(images)} images in "
                             f"{seen}; rename what there is to {FOLDER_LAYOUTS['segmentation']}")
    return splits


def pair(images: dict, masks: dict, where: str, notes: list[str], on_error) -> Samples:
    """The images, {name: path}, that have a mask: one of the same name or of the same `bare` name."""
    left, pairs, single = dict(masks), {}, []
    exact, similar = {nfc(name): name for name in masks}, {bare(name)[0]: name for name in masks}
    for name, path in images.items():
        mask = exact.get(nfc(name)) or similar.get(bare(name)[0])
        if mask in left:
            pairs[name] = left.pop(mask)
        else:
            single.append(path)
    if single:
        others = f", nor of {len(single) - 1} more images" if len(single) > 1 else ""
        on_error(f"{printable(single[0])}: no mask of that name{others}; add it or remove the image")
    if left:
        notes.append(f"{printable(where)}: {len(left)} masks without an image are left out: {first_few(left)}")
    return Samples(list(pairs), [images[name] for name in pairs], list(pairs.values()))


def find_images(root: str, notes: list[str], on_error=stop) -> dict[str, Samples]:
    """All the images of a folder or of its splits, for colorization. Masks are left out."""
    splits = {}
    for split, kinds in sort_files(list_images(root, on_error, ("SegmentationObject",), notes)).items():
        images, masks = kinds.values()
        if masks:
            notes.append(f"{printable(root)}: {len(masks)} masks are left out: {first_few(masks)}")
        if images:
            splits[split] = Samples(list(images), list(images.values()))
    return splits


def find_listed(path: str, on_error=stop) -> dict[str, Samples]:
    """The samples that a CSV lists: image, mask and, in a third column, split; paths are relative to its folder."""
    splits, root = {split: Samples([], [], []) for split in SPLITS}, os.path.dirname(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{printable(path)}: {printable(str(error))}; save it as CSV in UTF-8") from error
    for number, row in enumerate(rows, 1):
        split = WORDS.get(row[2].lower()) if len(row) == 3 else "train"
        if row[0].lower() == "image":  # the columns' names
            continue
        if len(row) in (2, 3) and split in SPLITS and "\0" not in "".join(row):
            splits[split].names.append(row[0])
            splits[split].images.append(os.path.join(root, row[0]))
            splits[split].targets.append(os.path.join(root, row[1]))
        else:
            on_error(f"{printable(path)}: row {number} should look like image.png,mask.png or image.png,mask.png,val")
    return {split: samples for split, samples in splits.items() if samples.names}


def find_classification(root: str, notes: list[str], on_error=stop) -> tuple[dict[str, Samples], list[str]]:
    """The images of {train,val,test}/<class> or <class>, and the classes. Labels count the classes in sorted order.

    Raises InputError where folders look like splits under other names.
    """
    files, found, loose = list_images(root, on_error, notes=notes), {}, []
    tops = sorted({name.split("/")[0] for name in files if "/" in name})
    splits = {top: WORDS[top.lower()] for top in tops if WORDS.get(top.lower()) in SPLITS}
    rests = {top: SPLIT_WORD.sub("", top.lower(), count=1) for top in tops if SPLIT_WORD.search(top.lower())}
    for top in tops:  # toy_train, or test_tube beside train_station, may be classes; seg_train beside seg_test not
        if top.lower() == "dev" or not splits and list(rests.values()).count(rests.get(top)) > 1:
            raise InputError(f"{printable(os.path.join(root, top))}: splits are called train, val and test; rename it, "
                             "with its classes or images right inside")
    for name, path in files.items():
        top, _, rest = name.partition("/") if splits else ("", "", name)
        if "/" not in rest:
            loose.append(name)
        elif not splits or top in splits:
            samples = found.setdefault(splits.get(top, "train"), Samples([], [], []))
            samples.names.append(rest)
            samples.images.append(path)
            samples.targets.append(rest.partition("/")[0])  # numbered below
    if loose:
        notes.append(f"{printable(root)}: {len(loose)} images in no class's folder are left out: {first_few(loose)}")
    classes = sorted({name for samples in found.values() for name in samples.targets})
    if strange := [name for name in classes if not name.isprintable()]:
        raise InputError(f"{printable(os.path.join(root, strange[0]))}: rename this class with plain characters")
    if len(classes) < 2 or "images" in classes:
        raise InputError(f"{printable(root)}: its folders are no classes ({first_few(classes) or 'none'}); a folder "
                         f"for classification holds {FOLDER_LAYOUTS['classification']}, of two classes or more")
    labels = {name: label for label, name in enumerate(classes)}
    for split, samples in found.items():
        for name in sorted(labels.keys() - set(samples.targets)):
            on_error(f"{printable(os.path.join(root, split, name))}: no images of this class, which another split has; "
                     f"add some, or remove {split}, to have it held out of train")
        samples.targets = [labels[name] for name in samples.targets]
    return {split: found[split] for split in SPLITS if split in found}, classes


def hold_out(data: DataSet, present: np.ndarray) -> None:
    """Hold val and test out of train where they are missing: a tenth each, with every class in each where there is
    enough of it. The pages of one file stay together.

    present: bool (N, K), which class is in which mask of train. The choice follows from a hash of (seed, name): it is
    the same on every machine until images are added or removed.
    """
    train, missing, files, groups = data.splits["train"], data.missing, {}, {}
    inner = [split for split in SPLITS if any(f"/{split}/" in f"/{name}" for name in train.names)]
    if len(inner) > 1:
        raise InputError(f"{printable(data.root)}: folders called {' and '.join(sorted(inner))} lie deeper inside and "
                         "would be mixed; put train, val and test at the top, each with what is inside them now")
    for i, image in enumerate(train.images):
        files.setdefault(str(image) if isinstance(image, str) else i, []).append(i)
    files = sorted(files.values(), key=lambda pages: sha256(repr((data.seed, train.names[pages[0]])).encode()).digest())
    has = np.stack([present[pages].any(0) for pages in files])
    for file, pages in enumerate(files):
        groups.setdefault(train.targets[pages[0]] if data.task == "classification" else None, []).append(file)
    chosen = {split: [] for split in ("train", *missing)}
    for group in groups.values():
        count = max(1, round(len(group) / 10))
        if len(group) <= count * len(missing):
            raise InputError(f"{printable(data.root)}: {len(group)} image(s), such as "
                             f"{printable(train.names[files[group[0]][0]])}, are too few to hold "
                             f"{' and '.join(missing)} out of; add images, or folders for them")
        for split in missing:
            chosen[split] += choose(group, count, has)
        chosen["train"] += group
    data.splits |= {split: train.take(sorted(i for file in chosen[split] for i in files[file])) for split in chosen}
    data.notes += [f"no {split} split: {len(data.splits[split])} of {len(train)} images held out of train, seed "
                   f"{data.seed}" for split in missing]
    data.assignment = {split: data.splits[split].names for split in SPLITS}


def choose(group: list[int], count: int, has: np.ndarray) -> list[int]:
    """Take `count` files out of a group, from its beginning, but first one of each class, the rarest class first.

    has: bool (files, K), which classes a file holds. A class is passed over where no other file of the group has it, or
    where a quarter of the group is taken.
    """
    chosen, most = [], max(count, len(group) // 4)
    for k in np.argsort(has[group].sum(0), kind="stable"):
        having = [file for file in group if has[file, k]]
        if len(having) > 1 and len(chosen) < most and not has[chosen, k].any():
            chosen.append(having[0])
            group.remove(having[0])
    rest = group[:max(0, count - len(chosen))]
    del group[:len(rest)]
    return chosen + rest


def settle_size(data: DataSet, scale=None) -> None:
    """Set the training size, where none was given, and `data.scale`, its sides as shares of the images' own.

    The size follows from the commonest of up to 1,000 images: times `scale`, or the longer side at most 512.
    """
    paths = [path for samples in data.splits.values() for path in samples.images]
    sizes = Counter()
    for path in paths[::max(1, len(paths) // 1000)]:
        with contextlib.suppress(InputError):  # reported when the image is decoded
            sizes[image_size(path)] += 1
    if not sizes:
        raise InputError(f"{printable(data.root)}: not one image that can be read; put some there")
    common, count = sizes.most_common(1)[0]
    if not data.size:
        shares = scale or (min(1, 512 / max(common)),) * 2
        data.size = tuple(max(1, round(side * share)) for side, share in zip(common, shares))
        data.notes.append("size {}x{} (height x width), after the commonest image's {}x{}".format(*data.size, *common))
    data.scale = tuple(side / own for side, own in zip(data.size, common))
    if scale and count < sizes.total():
        data.notes.append("{} of {} images looked at are not of {}x{}, and are resized like those".format(
            sizes.total() - count, sizes.total(), *common))
