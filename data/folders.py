"""Anyone's own folders: which layouts are understood, which files are samples, and what is held out for val and test.

In every function `on_error` takes the message of each mistake (`stop` raises the first one), and `notes` takes lines
about what is worth knowing and no mistake.
"""
import contextlib
import hashlib
import itertools
import os
import re
from collections import Counter

from data import InputError
from data.images import first_few, image_size, is_image, list_images, nfc, printable, stop
from data.samples import Samples, Source

SPLITS = ("train", "val", "test")
SPLIT_WORD = re.compile(r"(?<![a-z])(train|val|dev|test)(ing|id|idation)?_?(set)?(?![a-z])")  # in a folder's name
MASK_SUFFIXES = ("", "_mask", "_label", "_gt", "_L")
MASK_FOLDERS = ("masks", "annotations", "gtFine", "SegmentationClass", "SegmentationObject")  # no images to colour
FOLDER_LAYOUTS = {
    "segmentation": "{train,val,test}/{images,masks}, or {train,val,test} and {train,val,test}annot, or images, masks",
    "classification": "{train,val,test}/<class>/<images>, or <class>/<images>",
    "colorization": "images, directly or in {train,val,test}",
}


def split_folders(root: str) -> dict[str, str]:
    """{split: folder} of a data set. The whole is "train" where it has no splits; hold_out then makes them.

    Raises InputError where folders look like splits under other names.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    found = {split: os.path.join(root, split) for split in SPLITS if split in names}
    similar = [name for name in names if name not in SPLITS and SPLIT_WORD.search(name.lower())]
    equal = [name for name in similar if SPLIT_WORD.fullmatch(name.lower())]
    rest = Counter(SPLIT_WORD.sub("", name.lower(), count=1) for name in similar)
    # toy_train, or test_tube beside train_station, may be classes; seg_train beside seg_test are splits.
    if equal or not found and max(rest.values(), default=0) > 1:
        raise InputError(f"{printable(os.path.join(root, (equal or similar)[0]))}: splits are called train, val and "
                         "test; rename it, with its classes or images right inside")
    return found or {"train": root}


# --------------------------------------------------------------------------------------------------- one task's layouts

def find_segmentation(root: str, notes: list[str], on_error=stop) -> dict[str, Samples]:
    """Pair images with masks by name, in {train,val,test}/{images,masks}, SegNet's layout, or {images,masks}."""
    splits = {}
    for split, place in split_folders(root).items():
        images, masks = place, f"{place}annot"
        if not os.path.isdir(masks):
            images, masks = os.path.join(place, "images"), os.path.join(place, "masks")
        for folder in (images, masks):
            if not os.path.isdir(folder):
                raise InputError(f"{printable(folder)}: no such folder; a folder for segmentation holds "
                                 f"{FOLDER_LAYOUTS['segmentation']}")
        splits[split] = pair(images, masks, notes, on_error)
    return splits


def pair(images: str, masks: str, notes: list[str], on_error) -> Samples:
    """The images of one folder with the masks of another. A mask may have its image's name and a usual suffix."""
    found, pairs = list_images(images, on_error, notes=notes), {}
    left = {nfc(name): path for name, path in list_images(masks, on_error, notes=notes).items()}
    for name, path in found.items():
        mask = next((key for suffix in MASK_SUFFIXES if (key := nfc(name + suffix)) in left), None)
        if mask is None:
            on_error(f"{printable(path)}: no mask of that name in {printable(masks)}; add it or remove the image")
        else:
            pairs[name] = left.pop(mask)
    if left:
        notes.append(f"{printable(masks)}: {len(left)} masks without an image are left out: {first_few(left)}")
    return Samples(list(pairs), [found[name] for name in pairs], list(pairs.values()))


def find_classification(root: str, notes: list[str], on_error=stop) -> tuple[dict[str, Samples], list[str]]:
    """The images of {train,val,test}/<class> or <class>, and the classes. Labels count the classes in sorted order."""
    places = split_folders(root)
    names = {}
    for split, place in places.items():
        entries = sorted((entry for entry in os.scandir(place) if entry.name[0] != "."), key=lambda entry: entry.name)
        names[split] = [entry.name for entry in entries if entry.is_dir() and entry.name != "__MACOSX"]
        if loose := [entry.name for entry in entries if is_image(entry.name) and not entry.is_dir()]:
            notes.append(f"{printable(place)}: {len(loose)} images in no class's folder are left out: "
                         f"{first_few(loose)}")
    first, classes = next(iter(names.items()))
    if strange := [name for name in classes if not name.isprintable()]:
        raise InputError(f"{printable(os.path.join(places[first], strange[0]))}: rename this class with plain "
                         "characters")
    if len(classes) < 2 or "images" in classes:
        raise InputError(f"{printable(places[first])}: its folders are no classes ({first_few(classes) or 'none'}); a "
                         f"folder for classification holds {FOLDER_LAYOUTS['classification']}, of two classes or more")
    splits = {split: Samples([], [], []) for split in places}
    for split, samples in splits.items():
        for name in sorted(set(names[split]) ^ set(classes)):
            on_error(f"{printable(os.path.join(root, split, name))}: this class is not in both {first} and {split}; "
                     f"add images to the one that lacks it, or remove {split}, to have it held out of train")
        for label, name in enumerate(classes):
            if name in names[split]:
                found = list_images(os.path.join(places[split], name), on_error, notes=notes)
                samples.names += [f"{name}/{stem}" for stem in found]
                samples.images += found.values()
                samples.targets += [label] * len(found)
    return splits, classes


def find_images(root: str, notes: list[str], on_error=stop) -> dict[str, Samples]:
    """All the images of a folder or of its splits, for colorization. Masks are left out."""
    splits = {}
    for split, place in split_folders(root).items():
        inner = os.path.join(place, "images")
        found = list_images(inner if os.path.isdir(inner) else place, on_error, MASK_FOLDERS, notes)
        splits[split] = Samples(list(found), list(found.values()))
    return splits


# ------------------------------------------------------------------------------------------ splits and size, made here

def hold_out(source: Source, seed: int) -> None:
    """Hold val and test out of train where they are missing: a tenth each, of every class where there are labels.

    The choice follows from a hash of (seed, name): it is the same on every machine until images are added or removed.
    """
    missing, train = [split for split in ("val", "test") if split not in source.splits], source.splits.get("train")
    if not missing or not train:
        return
    refuse_inner_splits(source.root, train.names)
    groups, chosen = {}, {split: [] for split in ("train", *missing)}
    for i in sorted(range(len(train)), key=lambda i: hashlib.sha256(repr((seed, train.names[i])).encode()).digest()):
        groups.setdefault(train.targets[i] if train.targets and not train.masked else None, []).append(i)
    for group in groups.values():
        count = max(1, round(len(group) / 10))
        if len(group) <= count * len(missing):
            raise InputError(f"{printable(source.root)}: {len(group)} image(s), such as "
                             f"{printable(train.names[group[0]])}, are too few to hold {' and '.join(missing)} out "
                             "of; add images, or folders for them")
        for split in missing:
            chosen[split] += group[:count]
            del group[:count]
        chosen["train"] += group
    source.splits |= {split: train.take(sorted(indices)) for split, indices in chosen.items()}
    source.assignment = {split: source.splits[split].names for split in SPLITS}
    source.notes += [f"no {split} split: {len(chosen[split])} of {len(train)} images held out of train, seed {seed}"
                     for split in missing]


def refuse_inner_splits(root: str, names: list[str]) -> None:
    """Raise InputError where train, val or test lie side by side deeper inside: held-out images would be of all three.
    """
    folders = {folder for name in names for folder in itertools.accumulate(name.split("/")[:-1], os.path.join)}
    inside = sorted({os.path.basename(folder) for folder in folders} & set(SPLITS))
    beside = Counter(os.path.dirname(folder) for folder in folders if os.path.basename(folder) in SPLITS)
    if max(beside.values(), default=0) > 1:
        raise InputError(f"{printable(root)}: folders called {' and '.join(inside)} lie deeper inside and would be "
                         "mixed; put train, val and test at the top, each with what is inside them now")


def settle_size(source: Source, scale=None) -> None:
    """Set the training size, where none was given, and `source.scale`, its sides as shares of the images' own.

    The size follows from the commonest of up to 1,000 images: times `scale`, or the longer side at most 512.
    """
    paths = [path for samples in source.splits.values() for path in samples.images]
    sizes = Counter()
    for path in paths[::max(1, len(paths) // 1000)]:
        with contextlib.suppress(InputError):  # reported when the image is decoded
            sizes[image_size(path)] += 1
    if not sizes:
        raise InputError(f"{printable(source.root)}: not one image that can be read; put some there")
    common, count = sizes.most_common(1)[0]
    if not source.size:
        shares = scale or (min(1, 512 / max(common)),) * 2
        source.size = tuple(max(1, round(side * share)) for side, share in zip(common, shares))
        source.notes.append("size {}x{} (height x width), after the commonest image's {}x{}".format(
            *source.size, *common))
    source.scale = tuple(side / own for side, own in zip(source.size, common))
    if scale and count < sizes.total():
        source.notes.append("{} of {} images looked at are not of {}x{}, and are resized like those".format(
            sizes.total() - count, sizes.total(), *common))
