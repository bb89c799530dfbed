"""The batches follow from (seed, epoch) alone, wherever they come from."""
import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

import utils
from data.cache import START_METHOD, Split

CPU = torch.device("cpu")


@pytest.fixture
def split():
    """Images labelled by their own numbers."""
    images = np.random.default_rng(0).integers(0, 255, (23, 3, 4, 5), np.uint8)
    return Split(images, np.arange(23), [str(i) for i in range(23)])


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_in_memory_as_on_disk_and_from_any_step(split, tmp_path, monkeypatch):
    expected = list(utils.batches(split, 5, CPU, seed=3, epoch=2))
    assert len(expected) == 4 and len({int(i) for _, indices, _ in expected for i in indices}) == 20
    for images, indices, draws in expected:
        np.testing.assert_array_equal(images, split.images[indices])
    assert_same(utils.batches(split, 5, CPU, seed=3, epoch=2, workers=2), expected)
    np.save(tmp_path / "images.npy", split.images)
    mapped = dataclasses.replace(split, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    monkeypatch.setattr(utils, "START_METHOD", "spawn")
    assert_same(utils.batches(mapped, 5, CPU, seed=3, epoch=2, workers=1), expected)
    assert_same(utils.batches(split, 5, CPU, seed=3, epoch=2, start=3), expected[3:])
    split.on_gpu = [torch.from_numpy(array) for array in (split.images, split.targets)]  # as keep_on_gpu leaves it
    assert_same(utils.batches(split, 5, CPU, seed=3, epoch=2), expected)


def test_several_crops_of_each_image_in_an_epoch(split):
    split.crops = 3
    seen = [int(i) for _, indices, _ in utils.batches(split, 23, CPU, epoch=0) for i in indices]
    assert sorted(seen) == sorted(3 * list(range(23)))
    draws = torch.cat([draws for *_, draws in utils.batches(split, 23, CPU, epoch=0)])
    assert len(draws.unique(dim=0)) == 69


@pytest.mark.skipif(START_METHOD != "fork", reason="Linux")
def test_loaders_end_with_a_training_that_is_killed_while_they_start():
    """torch's own watch over the parent begins late: loaders whose parent was killed before that stayed for ever."""
    code = """import os, time
import numpy as np, torch
import torch.utils.data._utils.worker as worker
import utils
from data.cache import Split

class Late(worker.ManagerWatchdog):
    def __init__(self):
        time.sleep(1)
        super().__init__()

worker.ManagerWatchdog = Late
chunks = utils.load(Split(np.zeros((2, 1)), None, ["a", "b"]), [np.array([0])], torch.device("cpu"), 2)
os.kill(os.getpid(), 9)"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    process.communicate(timeout=60)  # until all that hold its output have ended
    assert process.returncode == -signal.SIGKILL
