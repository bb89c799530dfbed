"""The cache: a data set is decoded once, on all cores. Later runs map the decoded arrays into memory.

    <data_dir>/cache/<data set>-<task>-<size>-<key>/
        <split>.images     uint8 (N, C, H, W)
        <split>.targets    masks, uint8 (N, H, W), or labels, int64 (N,); none for colorization
        metadata.json      the samples' names, and the fields in KEPT

The key is a hash of all that the arrays depend on, so a cache is never out of date. You can delete it at any time."""
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import InputError
from data.folders import hold_out
from data.images import common_levels, first_few, printable
from data.masks import VOID, infer_classes, scored_classes
from data.samples import NOTED, DataSet

try:
    import resource
except ImportError:  # Windows
    resource = None

CACHE_VERSION = 8  # part of the caches' names: raise it when the arrays' form or content changes
KEPT = ("notes", "held_out", "classes", "colors", "ids", "levels", "counts")  # of a DataSet, in metadata.json
JOB = 8  # samples that a worker process decodes at a time
# A forked worker has everything imported; elsewhere than on Linux forking is unsafe or impossible.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"


@dataclass
class Split:
    """One split, decoded. `images`: uint8 (N, C, H, W), memory-mapped and read-only. `targets`: uint8 masks (N, H, W)
    with 255 void, int64 labels (N,), or None for colorization. `names`: unique; see images.list_images."""
    images: np.ndarray
    targets: np.ndarray | None
    names: list[str]
    on_gpu: list | None = None  # utils.keep_on_gpu's
    crops: int = 1  # how often an image comes in an epoch of training

    def __len__(self) -> int:
        return len(self.names) * self.crops

    @property
    def digest(self) -> str:
        """A hash of the samples' names: it shows whether a split holds the same images as before."""
        return hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape")).hexdigest()[:16]


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_loaders(split: Split, workers: int, batch_size: int, memory: float = None, files: float = None) -> None:
    """Raise InputError if shared memory (bytes; a container often has 64 MB) or open files are too few for the loaders.
    Each process keeps four batches in /dev/shm, two open files a batch, and some more for its pipes."""
    sample = sum(array[0].nbytes for array in (split.images, split.targets) if array is not None)
    needed = 4 * workers * batch_size * sample
    if memory is None:
        memory = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else math.inf
    if files is None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd")) if resource else math.inf
    if needed > memory or 16 * workers > files:
        raise InputError(f"loader processes need {needed / 1e6:.1f} MB in /dev/shm and {16 * workers} open files; "
                         f"{memory / 1e6:.1f} MB and {files} are free: give --workers 0, or start the container with "
                         "--shm-size 8g and the shell with ulimit -n 4096")


def follow_parent(worker=None) -> None:
    """Set up a worker process: it ends when its parent ends or is killed, and leaves Ctrl-C to the parent."""
    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    np.empty(31 << 20, np.uint8)  # after this glibc keeps freed memory for the next image
    threading.Thread(target=follow, daemon=True).start()


def for_all(data: DataSet, method: str, complain):
    """Yield (split, i, the method's result for sample i) in order, from all cores. `complain` gets InputErrors."""
    jobs = [(split, i, method) for split, samples in data.splits.items() for i in range(len(samples))]
    workers = min(usable_cores(), len(jobs) // JOB) if len(jobs) > 100 else 0  # few jobs are faster in this process
    loader = DataLoader(data, sampler=jobs, batch_size=JOB, num_workers=workers,
                        prefetch_factor=4 if workers else None, worker_init_fn=follow_parent,
                        multiprocessing_context=START_METHOD if workers else None,
                        collate_fn=list,  # leaves the arrays as they are: tensors would need shared memory
                        generator=torch.Generator())  # leaves torch's own random numbers alone
    for split, i, result in tqdm((each for job in loader for each in job), f"preparing {data.name}", len(jobs),
                                 unit="img", disable=None):
        if isinstance(result, InputError):
            complain(result)
        else:
            yield split, i, result


def open_cache(data: DataSet, data_dir: str) -> None:
    """Fill a data set's cache if needed; replace the samples by its `Split`s, and set the fields in KEPT."""
    folder, notes, data.notes = cache_folder(data, data_dir), data.notes, []
    if not read_cache(data, folder):
        write_cache(data, folder)
        if not data.problems and not read_cache(data, folder):  # on Windows a virus scanner may hold the new folder
            raise InputError(f"{printable(folder)}: the cache cannot be read back; run again, or give --data-dir")
    data.notes = notes + data.notes


def cache_folder(data: DataSet, data_dir: str) -> str:
    """The folder of a data set's cache. Its key is a hash of the settings and of the files' names, sizes and times."""
    seed = data.seed if data.missing or data.name == "scenes" else None
    digest = hashlib.sha256(repr((CACHE_VERSION, data.root, data.task, data.size, data.classes, data.masks,
                                  data.levels, data.channels, seed)).encode())
    for split, samples in data.splits.items():
        digest.update(repr((split, samples.names, samples.targets)).encode())
        digest.update(np.array([image for image in samples.images if isinstance(image, np.ndarray)]))
        stats = [(path, (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in samples.files]
        digest.update(repr(stats).encode())
    return os.path.join(os.path.abspath(data_dir), "cache", "{}-{}-{}x{}-{}".format(
        data.name, data.task, *data.size, digest.hexdigest()[:16]))


def read_cache(data: DataSet, folder: str) -> bool:
    """Map a cache's arrays into memory. Returns False if it is absent or damaged."""
    try:
        with open(os.path.join(folder, "metadata.json"), encoding="utf-8") as file:
            metadata = json.load(file)
        splits = {}
        for split, names in metadata["names"].items():
            arrays = [np.memmap(os.path.join(folder, f"{split}.{part}"), kind, "r", shape=(len(names), *shape))
                      for part, (kind, shape) in array_forms(data).items()]
            splits[split] = Split(arrays[0], arrays[1] if arrays[1:] else None, names)
        kept = {key: metadata[key] for key in KEPT} | {"colors": list(map(tuple, metadata["colors"]))}
    except (OSError, ValueError, KeyError):
        return False
    vars(data).update(kept, splits=splits)
    return True


def array_forms(data: DataSet) -> dict[str, tuple]:
    """The type and shape of a sample's image and target."""
    target = {"segmentation": (np.uint8, data.size), "classification": (np.int64, ())}.get(data.task)
    return {"images": (np.uint8, (data.channels, *data.size))} | ({"targets": target} if target else {})


def write_cache(data: DataSet, folder: str) -> None:
    """Decode everything into a temporary folder, then rename that to `folder`. Raises InputError if it fails."""
    parent, name = os.path.split(folder)
    pixels = sum(map(len, data.splits.values())) * data.size[0] * data.size[1]
    needed = pixels * (data.channels + (data.task == "segmentation"))
    try:
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(parent, exist_ok=True)
        if needed > 0.95 * (free := shutil.disk_usage(parent).free):
            raise OSError(f"only {free:,} bytes are free")
        with tempfile.TemporaryDirectory(dir=parent, prefix=f"{name}.", suffix=".tmp") as temporary:
            whole = os.path.join(temporary, "whole")
            os.mkdir(whole)
            decode_into(whole, data)
            if not data.problems:
                with contextlib.suppress(OSError):  # another process was first, with the same arrays
                    os.rename(whole, folder)
    except OSError as error:
        raise InputError(f"{printable(parent)}: the cache needs {needed:,} bytes there ({error.strerror or error}); "
                         "make room, or give another --data-dir or a smaller --size") from error


def decode_into(folder: str, data: DataSet) -> None:
    """Decode all samples into arrays in `folder`, and write its metadata.json."""
    settle(data)
    noted, counts = defaultdict(list), {split: np.zeros(max(256, len(data.classes)), int) for split in data.splits}
    with contextlib.ExitStack() as stack:
        # The files are written, not mapped: on a full disk a write fails, but a mapped page kills the process.
        files = {(split, part): stack.enter_context(open(os.path.join(folder, f"{split}.{part}"), "wb"))
                 for split in data.splits for part in array_forms(data)}
        for split, i, (image, target, facts) in for_all(data, "decode", data.complain):
            files[split, "images"].write(image.tobytes())
            for fact in facts:
                noted[fact].append(data.splits[split].names[i])
            if target is not None:
                files[split, "targets"].write(target.tobytes())
                counts[split] += np.bincount(target.ravel(), minlength=len(counts[split]))
    data.notes += [f"{len(noted[fact])} {NOTED[fact]}: {first_few(noted[fact])}" for fact in NOTED if fact in noted]
    if data.masks:
        data.classes, data.colors, data.ids = scored_classes(data.masks)
    data.counts = {split: each[:len(data.classes)].tolist() for split, each in counts.items()}
    for split, own in data.counts.items():
        counted = zip(data.classes, own, *data.counts.values())
        if lacking := [name for name, count, *others in counted if not count and any(others)]:
            data.notes.append(f"no mask of {split} holds {first_few(lacking)}: its scores say nothing about that")
    names = {split: samples.names for split, samples in data.splits.items()}
    with open(os.path.join(folder, "metadata.json"), "w", encoding="utf-8") as file:
        json.dump({"names": names, **{key: getattr(data, key) for key in KEPT}}, file)


def settle(data: DataSet) -> None:
    """Find out what only the files' content says: the levels of deep images, the classes if there is no classes.csv,
    and the samples to hold out. `decode_into` reports files that cannot be read."""
    images = [image for samples in data.splits.values() for image in samples.images if isinstance(image, str)]
    if not data.levels and (levels := common_levels(images)):
        data.levels = levels
        data.notes.append("images of more than 8 bits: values from {:g} to {:g} become 0 to 255".format(*levels))
    data.held_out, columns = bool(data.missing), range(VOID)
    present = {split: np.zeros((len(samples), 256), bool) for split, samples in data.splits.items()}
    if data.task == "segmentation" and (data.held_out or not data.masks):
        for split, i, values in for_all(data, "mask_values", lambda error: None):
            present[split][i] = values
        if not data.masks and any(map(np.any, present.values())):
            paths = [path for samples in data.splits.values() for path in samples.targets]
            data.masks, note = infer_classes(np.concatenate(list(present.values())), paths)
            data.notes.append(note)
            columns = list(data.masks.names)
    if data.held_out:
        hold_out(data, present["train"][:, columns])
