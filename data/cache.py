"""The cache: a data set that was found is decoded once, on all cores, and memory-mapped ever after.

    <data_dir>/cache/<data set>-<task>-<size>-<key>/
        <split>.images.npy     uint8 (N, 3, H, W)
        <split>.targets.npy    masks, uint8 (N, H, W), or labels, int64 (N,); none for colorization
        metadata.json          names, classes, notes, and what was seen of the files

The key is a hash over all that the arrays depend on, so a cache is never out of date. All of it is safe to delete.
"""
import contextlib
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
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data import InputError
from data.images import first_few, printable, stop
from data.masks import VOID, infer_classes, look_up, scored_classes
from data.samples import GREY, Decoded, Samples, Scenes, Source

try:
    import resource
except ImportError:  # Windows: no limit on open files
    resource = None

CACHE_VERSION = 4  # part of the caches' names: raise it when the arrays' form or content changes
TARGETS = {"segmentation": "|u1", "classification": "<i8"}  # types; colorization has no targets
JOB = 32  # samples that a worker process decodes at a time
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


# ------------------------------------------------------------------------------------------------- work on all cores

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


class Jobs(Dataset):
    """Item (split, start, end) -> (split, {i: sample i, decoded}, messages about samples that cannot be used)."""

    def __init__(self, splits: dict):
        self.splits = splits

    def __getitem__(self, job):
        split, start, end = job
        decoded, problems = {}, []
        for i in range(start, end):
            try:
                decoded[i] = self.splits[split].decode(i)
            except InputError as error:
                problems.append(str(error))
        return split, decoded, problems


def follow_parent(worker=None) -> None:
    """Make a worker process end when its parent ends or is killed. Ctrl-C reaches both; it is left to the parent."""
    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=follow, daemon=True).start()


def decode_jobs(splits: dict) -> DataLoader:
    """What `Jobs` gives for all samples, in order, from as many worker processes as there are cores."""
    jobs = [(split, start, min(start + JOB, len(samples)))
            for split, samples in splits.items() for start in range(0, len(samples), JOB)]
    workers = min(usable_cores(), len(jobs)) if len(jobs) >= 4 else 0  # fewer jobs are not worth a process
    return DataLoader(Jobs(splits), sampler=jobs, batch_size=None, num_workers=workers,
                      prefetch_factor=4 if workers else None, worker_init_fn=follow_parent,
                      multiprocessing_context=START_METHOD if workers else None,
                      collate_fn=tuple,  # leaves the arrays as they are: tensors would need shared memory
                      generator=torch.Generator())  # leaves torch's own random numbers alone


# ---------------------------------------------------------------------------------------------------------- the cache

def cache_key(source: Source, task: str, seed: int) -> str:
    """A hash over all that the arrays depend on: files with their sizes and times, the code that draws, the rest."""
    drawn = any(isinstance(samples, Scenes) for samples in source.splits.values())
    seed = seed if drawn or source.assignment else None
    digest = hashlib.sha256(repr((CACHE_VERSION, source.root, task, source.size, source.classes, seed)).encode())
    for split, samples in source.splits.items():
        digest.update(repr((split, samples.names, samples.targets)).encode())
        if isinstance(samples.images, np.ndarray):
            digest.update(np.ascontiguousarray(samples.images))
        try:
            stats = [(path, (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in samples.files]
        except OSError as error:
            raise InputError(f"{printable(error.filename)}: {error.strerror}; put the file there") from error
        digest.update(repr(stats).encode())
    return digest.hexdigest()[:16]


@dataclass
class Findings:
    """What is seen of the samples while they are decoded.

    facts: short texts, counted. grey: names of greyscale images. counts: split -> int64 (256,), pixels of each value in
    the masks. examples: value -> path of the first mask that holds it, while no classes are known.
    """
    facts: Counter = field(default_factory=Counter)
    grey: list[str] = field(default_factory=list)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    examples: dict[int, str] = field(default_factory=dict)

    def add(self, split: str, samples: Samples | Scenes, i: int, sample: Decoded) -> None:
        """Take note of sample i of a split."""
        self.facts.update(sample.facts)
        if GREY in sample.facts:
            self.grey.append(samples.names[i])
        if sample.counts is not None:
            self.counts[split] = self.counts.get(split, 0) + sample.counts
            if samples.masked and samples.classes is None:
                for value in np.flatnonzero(sample.counts).tolist():
                    self.examples.setdefault(value, samples.targets[i])


def write_cache(source: Source, task: str, folder: str, problems: list[str] | None = None) -> dict:
    """Decode everything into `folder`, which appears when it is whole, in place of a damaged one. Returns its metadata.

    problems: a list that takes the message of every sample that cannot be used. Unless it is empty in the end, nothing
    is kept. Without a list, the first such message is raised as InputError. A full disk and a folder that cannot be
    written are always raised as InputError.
    """
    parent, name = os.path.split(folder)
    pixels = source.size[0] * source.size[1]
    needed = sum(map(len, source.splits.values())) * pixels * (4 if task == "segmentation" else 3)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(parent, exist_ok=True)
        if needed > 0.95 * (free := shutil.disk_usage(parent).free):
            raise OSError(f"only {free:,} bytes are free")
        with tempfile.TemporaryDirectory(dir=parent, prefix=f"{name}.", suffix=".tmp") as temporary:
            whole = os.path.join(temporary, "whole")
            os.mkdir(whole)
            metadata = decode_into(whole, source, task, stop if problems is None else problems.append)
            if not problems:
                rename_unless_there(whole, folder)
            return metadata
    except OSError as error:
        reason = printable(error.strerror or str(error))
        raise InputError(f"{printable(parent)}: the cache needs {needed:,} bytes there ({reason}); make room or give "
                         "another --data-dir") from error
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise InputError(f"preparing {source.name}: a worker process was killed, likely for want of memory; close "
                         "other programs and run it again") from None


def rename_unless_there(whole: str, folder: str) -> None:
    """Give a finished cache its name. Another process may have been first, with the same arrays: then do nothing."""
    try:
        os.rename(whole, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise


def decode_into(folder: str, source: Source, task: str, on_error) -> dict:
    """Decode all samples into arrays in `folder`, and write its metadata.json, which is returned.

    on_error: takes the message of each mistake.
    """
    findings = Findings()
    with contextlib.ExitStack() as stack:
        files = open_arrays(folder, source, task, stack)
        bar = stack.enter_context(tqdm(total=sum(map(len, source.splits.values())), unit="img", disable=None,
                                       desc=f"preparing {source.name}"))
        for split, decoded, problems in decode_jobs(source.splits):
            for problem in problems:
                on_error(problem)
            for i, sample in decoded.items():
                # Written, not mapped: on a full disk a write fails, but a mapped page kills the process.
                files[split, "images"].write(sample.image.tobytes())
                if task in TARGETS:
                    files[split, "targets"].write(np.asarray(sample.target, TARGETS[task]).tobytes())
                findings.add(split, source.splits[split], i, sample)
            bar.update(len(decoded) + len(problems))
    if findings.examples:
        settle_classes(folder, source, findings, on_error)
    if findings.grey:
        source.notes.append(f"{len(findings.grey)} greyscale images, which teach grey: {first_few(findings.grey)}")
    names, colors, ids = scored_classes(source.classes)
    pixels = {split: [*counts[:len(names)].tolist(), int(counts[VOID])] for split, counts in findings.counts.items()}
    metadata = {"names": {split: samples.names for split, samples in source.splits.items()}, "notes": source.notes,
                "classes": names, "colors": colors, "ids": ids, "pixels": pixels,
                "facts": findings.facts.most_common(12)}
    with open(os.path.join(folder, "metadata.json"), "w", encoding="utf-8") as file:
        json.dump(metadata, file)
    return metadata


def open_arrays(folder: str, source: Source, task: str, stack: contextlib.ExitStack) -> dict:
    """A file for each array, by (split, "images" | "targets"), with numpy's header, to which the values are written."""
    forms = {"images": ("|u1", (3, *source.size))}
    if task in TARGETS:
        forms["targets"] = (TARGETS[task], source.size if task == "segmentation" else ())
    files = {}
    for split, samples in source.splits.items():
        for part, (kind, shape) in forms.items():
            file = files[split, part] = stack.enter_context(open(os.path.join(folder, f"{split}.{part}.npy"), "wb"))
            np.lib.format.write_array_header_1_0(
                file, {"descr": kind, "fortran_order": False, "shape": (len(samples), *shape)})
    return files


def settle_classes(folder: str, source: Source, findings: Findings, on_error) -> None:
    """Where no classes.csv says what the masks hold, the values found in them do: turn those into class indices."""
    presence = np.eye(256, dtype=bool)[list(findings.examples)]
    try:
        source.classes, note = infer_classes(presence, list(findings.examples.values()))
    except InputError as error:
        return on_error(str(error))
    source.notes.append(note)
    table, _ = look_up(np.arange(256, dtype=np.uint8)[None], source.classes)
    for split, counts in findings.counts.items():
        findings.counts[split] = np.bincount(table[0], counts, 256).astype(np.int64)
        with open(os.path.join(folder, f"{split}.targets.npy"), "r+b") as file:
            np.lib.format.read_magic(file), np.lib.format.read_array_header_1_0(file)
            while block := file.read(1 << 24):
                file.seek(-len(block), os.SEEK_CUR)
                file.write(block.translate(table.tobytes()))


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
