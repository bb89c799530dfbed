"""The cache: a data set that was found is decoded once, on all cores, and memory-mapped ever after.

    <data_dir>/cache/<data set>-<task>-<size>-<key>/
        <split>.images.npy     uint8 (N, 3, H, W)
        <split>.targets.npy    masks, uint8 (N, H, W), or labels, int64 (N,); none for colorization
        metadata.json          names, classes, notes, and what was seen of the files

The key is a hash over all that the arrays depend on, so a cache is never out of date. All of it is safe to delete.
"""
import contextlib
import glob
import hashlib
import json
import math
import mmap
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import InputError
from data.folders import hold_out
from data.images import common_levels, first_few, printable, stop
from data.masks import VOID, infer_classes, scored_classes
from data.samples import NOTED, DataSet, Scenes

try:
    import resource
except ImportError:  # Windows: no limit on open files
    resource = None

CACHE_VERSION = 5  # part of the caches' names: raise it when the arrays' form or content changes
TARGETS = {"segmentation": "|u1", "classification": "<i8"}  # types; colorization has no targets
JOB = 8  # samples that a worker process decodes at a time
# A forked worker has everything imported; elsewhere than on Linux forking is unsafe or impossible.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"


@dataclass
class Split:
    """One split, decoded. `images`: uint8 (N, 3, H, W), memory-mapped and read-only.

    `targets`: uint8 masks (N, H, W) with 255 void | int64 labels (N,) | None for colorization. `names`: unique,
    relative to the data set, without suffix where that stays unique.
    """
    images: np.ndarray
    targets: np.ndarray | None
    names: list[str]
    on_gpu: list | None = None  # utils.keep_on_gpu's

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The images and targets of these samples."""
        return self.images[indices], None if self.targets is None else self.targets[indices]

    def __getstate__(self) -> dict:
        """For loader processes that are not forked: a mapped file travels by its name, not as a copy of its bytes."""
        return {key: str(value.filename) if isinstance(getattr(value, "base", None), mmap.mmap) else value
                for key, value in vars(self).items()}

    def __setstate__(self, state: dict) -> None:
        vars(self).update({key: np.load(value, mmap_mode="r") if isinstance(value, str) else value
                           for key, value in state.items()})

    @property
    def digest(self) -> str:
        """Tells whether a split holds the same images as before, by their names."""
        return hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape")).hexdigest()[:16]


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_loaders(split: Split, workers: int, batch_size: int, memory: float = None, files: float = None) -> None:
    """Raise InputError where loader processes would run out of shared memory (bytes) or of open files.

    Each has four batches waiting in /dev/shm, two open files a batch, and some more for its pipes. A container often
    has 64 MB there. A loader without room fails with a dozen tracebacks, or hangs.
    """
    sample = sum(array.nbytes for array in split.read(np.zeros(1, int)) if array is not None)
    needed = 4 * workers * batch_size * sample
    if memory is None:
        memory = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else math.inf
    if files is None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - len(os.listdir("/dev/fd")) if resource else math.inf
    if needed > memory:
        raise InputError(f"loader processes need {needed / 1e6:.1f} MB of shared memory, and /dev/shm has only "
                         f"{memory / 1e6:.1f} MB free: give --workers 0, or start the container with --shm-size 8g")
    if 16 * workers > files:
        raise InputError(f"loader processes need {16 * workers} open files, and only {files} more may be opened: give "
                         "--workers 0, or ulimit -n 4096 before")


def follow_parent(worker=None) -> None:
    """Make a worker process end when its parent ends or is killed. Ctrl-C reaches both; it is left to the parent."""
    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=follow, daemon=True).start()


def for_all(data: DataSet, method: str):
    """Yield (split, i, what a method gives for that sample, or an InputError), in order, with a process on each core.
    """
    jobs = [(split, i, method) for split, samples in data.splits.items() for i in range(len(samples))]
    workers = min(usable_cores(), len(jobs) // JOB) if len(jobs) > 100 else 0  # fewer are not worth a process
    loader = DataLoader(data, sampler=jobs, batch_size=JOB, num_workers=workers,
                      prefetch_factor=4 if workers else None, worker_init_fn=follow_parent,
                      multiprocessing_context=START_METHOD if workers else None,
                      collate_fn=list,  # leaves the arrays as they are: tensors would need shared memory
                      generator=torch.Generator())  # leaves torch's own random numbers alone
    with tqdm(total=len(jobs), unit="img", disable=None, desc=f"preparing {data.name}") as bar:
        for done in loader:
            yield from done
            bar.update(len(done))


def cache_folder(data: DataSet, data_dir: str) -> str:
    """Where a data set's cache is. Its key hashes files with their sizes and times, the code that draws, the rest."""
    drawn = any(isinstance(samples, Scenes) for samples in data.splits.values())
    seed = data.seed if drawn or data.missing else None
    digest = hashlib.sha256(repr((CACHE_VERSION, data.root, data.task, data.size, data.classes, data.masks,
                                  data.levels, seed)).encode())
    for split, samples in data.splits.items():
        digest.update(repr((split, samples.names, samples.targets)).encode())
        if isinstance(samples.images, np.ndarray):
            digest.update(np.ascontiguousarray(samples.images))
        try:
            stats = [(path, (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in samples.files]
        except OSError as error:
            raise InputError(f"{printable(error.filename)}: {error.strerror}; put the file there") from error
        digest.update(repr(stats).encode())
    return os.path.join(os.path.abspath(data_dir), "cache", "{}-{}-{}x{}-{}".format(
        data.name, data.task, *data.size, digest.hexdigest()[:16]))


def write_cache(data: DataSet, folder: str, problems: list[str] | None = None) -> dict:
    """Decode everything into `folder`, which appears when it is whole, in place of a damaged one. Returns its metadata.

    problems: a list that takes the message of every sample that cannot be used. Unless it is empty in the end, nothing
    is kept. Without a list, the first such message is raised as InputError. A full disk and a folder that cannot be
    written are always raised as InputError.
    """
    parent, name = os.path.split(folder)
    pixels = sum(map(len, data.splits.values())) * data.size[0] * data.size[1]
    needed = pixels * (4 if data.task == "segmentation" else 3)
    try:
        for old in glob.glob(os.path.join(glob.escape(parent), "*.tmp")):  # of a process that was killed
            if time.time() - os.path.getmtime(old) > 86400:
                shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(parent, exist_ok=True)
        if needed > 0.95 * (free := shutil.disk_usage(parent).free):
            raise OSError(f"only {free:,} bytes are free")
        with tempfile.TemporaryDirectory(dir=parent, prefix=f"{name}.", suffix=".tmp") as temporary:
            os.mkdir(whole := os.path.join(temporary, "whole"))
            metadata = decode_into(whole, data, stop if problems is None else problems.append)
            try:
                if not problems:
                    os.rename(whole, folder)
            except OSError:  # another process may have been first, with the same arrays
                if not os.path.isdir(folder):
                    raise
            return metadata
    except OSError as error:
        reason = printable(error.strerror or str(error))
        raise InputError(f"{printable(parent)}: the cache needs {needed:,} bytes there ({reason}); make room or give "
                         "another --data-dir") from error
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise InputError(f"preparing {data.name}: a worker process was killed, likely for want of memory; close "
                         "other programs and run it again") from None


def decode_into(folder: str, data: DataSet, on_error) -> dict:
    """Decode all samples into arrays in `folder`, and write its metadata.json, which is returned.

    on_error: takes the message of each mistake.
    """
    found = len(data.notes)
    settle(data, on_error)
    facts, counts = defaultdict(list), {split: 0 for split in data.splits}
    with contextlib.ExitStack() as stack:
        files = open_arrays(folder, data, stack)
        for split, i, sample in for_all(data, "decode"):
            if isinstance(sample, InputError):
                on_error(str(sample))
                continue
            image, target, seen, values = sample
            # Written, not mapped: on a full disk a write fails, but a mapped page kills the process.
            files[split, "images"].write(image.tobytes())
            if data.task in TARGETS:
                files[split, "targets"].write(np.asarray(target, TARGETS[data.task]).tobytes())
            for fact in seen:
                facts[fact].append(data.splits[split].names[i])
            counts[split] += 0 if values is None else values
    data.notes += [f"{len(facts[fact])} {text}: {first_few(facts[fact])}" for fact, text in NOTED.items()
                   if facts[fact]]
    names, colors, ids = scored_classes(data.masks) if data.masks else (data.classes, [], [])
    pixels = {split: values[[*range(len(names)), VOID]].tolist() for split, values in counts.items() if np.any(values)}
    for split, values in pixels.items():
        lacking = [name for k, name in enumerate(names) if not values[k] and any(each[k] for each in pixels.values())]
        if lacking:
            data.notes.append(f"no mask of {split} holds {first_few(lacking)}: its scores say nothing of that")
    counted = sorted(((fact, len(each)) for fact, each in facts.items() if each), key=lambda pair: -pair[1])
    metadata = {"names": {split: samples.names for split, samples in data.splits.items()}, "notes": data.notes[found:],
                "held_out": data.assignment is not None, "classes": names, "colors": colors, "ids": ids,
                "levels": data.levels, "pixels": pixels, "facts": counted[:12]}
    with open(os.path.join(folder, "metadata.json"), "w", encoding="utf-8") as file:
        json.dump(metadata, file)
    return metadata


def settle(data: DataSet, on_error) -> None:
    """Settle what only the files' content tells: the levels of deep images, the classes where no classes.csv names
    them, and which samples are held out. What cannot be read is left for `decode_into` to complain of.
    """
    images = [image for samples in data.splits.values() for image in samples.images if isinstance(image, str)]
    if not data.levels and (levels := common_levels(images)):
        data.levels = levels
        data.notes.append("images of more than 8 bits: values from {:g} to {:g} become 0 to 255".format(*levels))
    missing, masked, columns = data.missing, data.task == "segmentation", slice(VOID)
    present = {split: np.zeros((len(samples), 256 * masked), bool) for split, samples in data.splits.items()}
    if masked and (missing or not data.masks):
        for split, i, values in for_all(data, "mask_values"):
            present[split][i] = values if not isinstance(values, InputError) else False
    if masked and not data.masks and any(map(np.any, present.values())):
        paths = [path for samples in data.splits.values() for path in samples.targets]
        try:
            data.masks, note = infer_classes(np.concatenate(list(present.values())), paths)
            data.notes.append(note)
            columns = list(data.masks.names)
        except InputError as error:
            on_error(str(error))
    if missing:
        hold_out(data, present["train"][:, columns])


def open_arrays(folder: str, data: DataSet, stack: contextlib.ExitStack) -> dict:
    """A file for each array, by (split, "images" | "targets"), with numpy's header, to which the values are written."""
    forms = {"images": ("|u1", (3, *data.size))}
    if data.task in TARGETS:
        forms["targets"] = (TARGETS[data.task], data.size if data.task == "segmentation" else ())
    files = {}
    for split, samples in data.splits.items():
        for part, (kind, shape) in forms.items():
            file = files[split, part] = stack.enter_context(open(os.path.join(folder, f"{split}.{part}.npy"), "wb"))
            np.lib.format.write_array_header_1_0(
                file, {"descr": kind, "fortran_order": False, "shape": (len(samples), *shape)})
    return files


def read_cache(folder: str, task: str) -> tuple[dict, dict[str, Split]] | None:
    """A cache's metadata and its splits, memory-mapped; None where it is absent or damaged."""
    def array(split, part):
        return np.load(os.path.join(folder, f"{split}.{part}.npy"), mmap_mode="r")

    try:
        with open(os.path.join(folder, "metadata.json"), encoding="utf-8") as file:
            metadata = json.load(file)
        return metadata, {split: Split(array(split, "images"),
                                       array(split, "targets") if task in TARGETS else None, names)
                          for split, names in metadata["names"].items()}
    except (OSError, ValueError, KeyError, EOFError):  # EOFError: an array's file is empty
        return None
