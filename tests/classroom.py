"""What the tests of grading share."""
import io

import numpy as np
from PIL import Image

import evaluate
import utils
from evaluation import grading

COLORS = np.zeros((256, 3), np.uint8)
COLORS[:5] = (128, 128, 128), (200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 0)
NAMES = [f"street{i}" for i in range(6)]


def png(values):
    Image.fromarray(values).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def draw_mask(rng, ids):
    """A few rectangles of each id, so that there are outlines."""
    mask = np.zeros((48, 64), np.uint8)
    for id in [*ids, *ids]:
        y, x = rng.integers(0, 40), rng.integers(0, 56)
        mask[y : y + rng.integers(5, 25), x : x + rng.integers(5, 30)] = id
    return mask


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def grade(task, truth, out, submissions, *flags):
    """Grade in this process; returns the rows of grades.csv by submission."""
    args = evaluate.get_args_parser().parse_args(
        ["grade", task, "--truth", str(truth), "--out", str(out), *flags, *map(str, submissions)])
    grading.grade(args)
    return {row["submission"]: row for row in utils.read_csv(out / "grades.csv")}
