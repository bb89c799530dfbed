"""The cache: a data set that was found is decoded once on all cores, and memory-mapped ever after.

An array lies in `<data_dir>/cache/<data set>-<task>-<size>-<key>/<split>.images.npy` or `.targets.npy`, with names,
classes and notes in about.json. The key is a hash over all that the arrays depend on, so nothing there is ever out of
date, and all of it is safe to delete.
"""
import contextlib
import hashlib
import json
import mmap
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from data import InputError, scenes, street
from data.download import temporary_name
from data.images import Classes, Samples, scored_classes, show, some

CACHE_VERSION = 3  # part of the caches' names: raise it when the arrays' form or content changes


# ---------------------------------------------------------------------------- a data set before and after it is decoded

class Scenes:
    """The street scenes of one split, as `Samples`, drawn at the training size when asked for."""
    images = targets = None
    files = [scenes.__file__, street.__file__]  # what the drawings depend on

    def __init__(self, task: str, split: str, size: tuple[int, int], seed: int):
        self.task, self.split, self.size, self.seed = task, split, size, seed
        self.names = [f"{split}_{i:04d}" for i in range(scenes.SPLITS[split])]
        self.last = None, None

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, i: int):
        if self.last[0] != i:  # image(i) and target(i) are one drawing
            self.last = i, scenes.draw_scene(self.seed, self.split, i, self.size)
        return self.last[1]

    def image(self, i: int) -> np.ndarray:
        return self.draw(i)[0].transpose(2, 0, 1)

    def target(self, i: int):
        return {"segmentation": self.draw(i)[1], "classification": int(self.draw(i)[2])}.get(self.task)


@dataclass
class Source:
    """A data set found, not yet decoded. `classes`: labels' names | masks' classes, None while only masks can tell."""
    name: str
    root: str
    size: tuple[int, int] | None
    splits: dict[str, Samples | Scenes] = field(default_factory=dict)
    classes: Classes | list[str] | None = None
    notes: list[str] = field(default_factory=list)
    assignment: dict[str, list[str]] | None = None


@dataclass
class Split:
    """One split, decoded. `images`: uint8 (N, 3, H, W), memory-mapped and read-only (or a `LazyArray`).

    `targets`: uint8 masks (N, H, W) with 255 void | int64 labels (N,) | None for colorization. `names`: unique,
    relative to the data set, without suffix where that stays unique.
    """
    images: np.ndarray
    targets: np.ndarray | None
    names: list[str]
    on_gpu: list | None = None  # utils.keep_on_gpu's

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict:
        """For loader processes that are not forked: a mapped file travels by its name, not as a copy of its bytes."""
        return {key: str(value.filename) if isinstance(getattr(value, "base", None), mmap.mmap) else value
                for key, value in vars(self).items()}

    def __setstate__(self, state: dict) -> None:
        vars(self).update({key: np.load(value, mmap_mode="r") if isinstance(value, str) else value
                           for key, value in state.items()})

    @property
    def digest(self) -> str:
        """Tells whether a split holds the same pictures as before, by their names."""
        return hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape")).hexdigest()[:16]


class LazyArray:
    """Stands in for an array where the cache has no room: get(i) decodes element i at every access, to the same bytes.

    Has `len`, `shape`, `dtype`, and `x[i]` for an integer, a slice or an array of integers.
    """
    dtype = np.dtype(np.uint8)

    def __init__(self, get, shape: tuple[int, ...]):
        self.get, self.shape = get, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> np.ndarray:
        if isinstance(index, (int, np.integer)):
            return self.get(range(len(self))[index])
        indices = range(len(self))[index] if isinstance(index, slice) else np.asarray(index, np.int64)
        return np.stack([self[i] for i in indices]) if len(indices) else np.empty((0, *self.shape[1:]), np.uint8)


# ------------------------------------------------------------------------------------------------- work on all cores

# A forked worker has everything imported; elsewhere than on Linux forking is unsafe or impossible.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_state = None  # what this worker process works on: sent once a worker, not once a job


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(state) -> None:
    global _state
    _state = state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def follow_parent():  # a parent that was killed stops nobody
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def run_job(function, job):
    return function(_state, *job)


def _in_order(pool, function, jobs, ahead: int):
    """Yield the jobs' results; at most `ahead` are made before they are asked for, or a slow disk would fill memory."""
    pending = deque()
    for job in jobs:
        pending.append(pool.submit(run_job, function, job))
        if len(pending) == ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def parallel(function, splits: dict, label: str):
    """Yield (split, start, function(splits, split, start, end)) for runs of samples, in order, made on all cores."""
    jobs = [(split, start, min(start + 32, len(samples)))
            for split, samples in splits.items() for start in range(0, len(samples), 32)]
    pool, results = None, (function(splits, *job) for job in jobs)
    if len(jobs) >= 4:  # fewer are not worth a process
        context = multiprocessing.get_context(START_METHOD)
        workers = min(usable_cores(), len(jobs))
        pool = ProcessPoolExecutor(workers, context, start_worker, (splits,))
        results = _in_order(pool, function, jobs, ahead=4 * workers)
    try:
        with tqdm(total=sum(map(len, splits.values())), unit="img", desc=label, disable=None) as bar:
            for (split, start, end), result in zip(jobs, results):
                bar.update(end - start)
                yield split, start, result
    except BrokenProcessPool:
        raise InputError(f"{label}: a worker process was killed, likely for want of memory; close other programs and "
                         "run it again") from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _decode(splits, split: str, start: int, end: int):
    """Images uint8 (n, 3, H, W), targets (n, ...) or None, and bool (n,), whether the picture is grey."""
    samples = splits[split]
    images, targets = zip(*((samples.image(i), samples.target(i)) for i in range(start, end)))
    images = np.stack(images)
    grey = np.ptp(images, axis=1).max((1, 2)) <= 2
    return images, None if targets[0] is None else np.stack(targets), grey


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
            raise InputError(f"{show(error.filename)}: {error.strerror}; put the file there") from error
        digest.update(repr(stats).encode())
    return digest.hexdigest()[:16]


def write_cache(source: Source, task: str, folder: str) -> None:
    """Decode everything into `folder`, which appears when it is whole, in place of a damaged one.

    Raises OSError where it cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pixels = source.size[0] * source.size[1]
    needed = sum(map(len, source.splits.values())) * pixels * (4 if task == "segmentation" else 3)
    temporary = temporary_name(folder)
    free = shutil.disk_usage(os.path.dirname(folder)).free
    if needed > 0.95 * free:
        raise OSError(f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    kinds = {"images": ("|u1", (3, *source.size))}
    if task != "colorization":
        kinds["targets"] = ("|u1", source.size) if task == "segmentation" else ("<i8", ())
    grey, names = [], {split: samples.names for split, samples in source.splits.items()}
    os.mkdir(temporary)
    try:
        with contextlib.ExitStack() as stack:
            files = {(split, part): stack.enter_context(open(os.path.join(temporary, f"{split}.{part}.npy"), "wb"))
                     for split in names for part in kinds}
            for (split, part), file in files.items():
                kind, shape = kinds[part]
                np.lib.format.write_array_header_1_0(
                    file, {"descr": kind, "fortran_order": False, "shape": (len(names[split]), *shape)})
            for split, start, (*parts, is_grey) in parallel(_decode, source.splits, f"preparing {source.name}"):
                for part, values in zip(kinds, parts):
                    # Written, not mapped: on a full disk a write fails, but a mapped page kills the process.
                    files[split, part].write(values.astype(kinds[part][0]).tobytes())
                grey += [names[split][start + i] for i in np.flatnonzero(is_grey)]
        if task == "colorization" and grey:
            source.notes.append(f"{len(grey)} greyscale pictures, which teach grey: {some(grey)}")
        about = {"notes": source.notes, "names": names}
        about |= zip(("classes", "colors", "ids"), scored_classes(source.classes))
        with open(os.path.join(temporary, "about.json"), "w", encoding="utf-8") as file:
            json.dump(about, file)
        os.rename(temporary, folder)
    except OSError:
        if not os.path.isdir(folder):  # else another process was first, with the same arrays
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_cache(folder: str, task: str) -> tuple[dict, dict[str, Split]] | None:
    """A cache's about.json and its splits, memory-mapped; None where it is absent or damaged."""
    def array(split, part):
        return np.load(os.path.join(folder, f"{split}.{part}.npy"), mmap_mode="r")

    try:
        with open(os.path.join(folder, "about.json"), encoding="utf-8") as file:
            about = json.load(file)
        return about, {split: Split(array(split, "images"), None if task == "colorization" else array(split, "targets"),
                                    names) for split, names in about["names"].items()}
    except (OSError, ValueError, KeyError, EOFError):  # EOFError: an array's file is empty
        return None


def lazy_split(samples: Samples | Scenes, task: str) -> Split:
    """A split that decodes as it is read."""
    targets = None
    if task == "segmentation":
        targets = LazyArray(samples.target, (len(samples), *samples.size))
    elif task == "classification":
        targets = np.array([samples.target(i) for i in range(len(samples))], np.int64)
    return Split(LazyArray(samples.image, (len(samples), 3, *samples.size)), targets, samples.names)

