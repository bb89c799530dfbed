"""Tiny data sets, and the scripts run as a user runs them."""
import os
import runpy
import signal
import sys
from pathlib import Path

os.environ.pop("PYTHONUNBUFFERED", None)  # few users have it
os.environ["OMP_NUM_THREADS"] = "1"  # before torch: these networks are too small to share, and bits follow threads

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/benchmarks")]

from data.masks import VOID  # noqa: E402

# A shell's background job ignores Ctrl-C from the start; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded():
    """Random weights and images do not depend on which tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def run(monkeypatch, capfd):
    """run("train_segmentation.py", "--epochs", 1) -> (exit code, standard output, standard error)."""

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
            code = 0
        except SystemExit as exit:
            code = exit.code or 0
        return code, *capfd.readouterr()

    return run


def picture(rng, mask):
    """A noisy RGB picture in which each class has a colour of its own."""
    colors = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
    return Image.fromarray((colors[mask] + rng.integers(-40, 40, (*mask.shape, 3))).clip(0, 255).astype(np.uint8))


def make_street(folder):
    """A segmentation folder: 12 / 4 / 4 pictures of 32x40 in which three classes are easily told apart."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((32, 40), np.uint8)
            row, column = rng.integers(4, 20, 2)
            mask[row:] = 1
            mask[row - 4 : row + 8, column : column + 12] = 2
            picture(rng, mask).save(folder / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(folder / split / "masks" / f"{i}.png")
    return folder


def make_kinds(folder):
    """A classification folder: two classes, 16 / 6 / 6 pictures of 32x32 each; red ones and green ones."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 16), ("val", 6), ("test", 6)):
        for label, name in enumerate(("apple", "lime")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture(rng, np.full((32, 32), label)).save(folder / split / name / f"{i}.png")
    return folder


def make_masks(classes, shape):
    """Truth with a little void and a prediction unlike it, of rectangles, so that there are boundaries."""
    rng = np.random.default_rng(classes)
    blocks = rng.integers(0, classes, (2, shape[0] // 6 + 1, shape[1] // 6 + 1)).astype(np.uint8)
    truth, prediction = blocks.repeat(6, 1).repeat(6, 2)[:, : shape[0], : shape[1]]
    prediction = np.where(rng.random(shape) < 0.05, rng.integers(0, classes, shape), prediction).astype(np.uint8)
    return np.where(rng.random(shape) < 0.01, VOID, truth).astype(np.uint8), prediction


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    return make_street(tmp_path_factory.mktemp("street"))


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    return make_kinds(tmp_path_factory.mktemp("kinds"))
