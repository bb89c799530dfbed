"""What is done with trained networks: scores, drawings, predictions, grades, and the report.

predicting.py    results for anyone's images
segmentation.py, classification.py, colorization.py   score, print, draw and predict, a task each
exporting.py     a network in one file, for use elsewhere
tiles.py         large images, tile by tile
counts.py        rows of counts, from which the scores of any set of images follow
grading.py       a class's submissions (downloads.py), each scored (scoring.py) against the truth (truth.py) for points
                 (rubrics.py)
limits.py        processes with a limit of time and of memory, in which all that strangers handed in is opened
submissions.py   the files of a submission; predictions.py says what they mean
feedback.py      the pages of the grades
reporting.py     the homework's report, made anew: its runs, tables and figures, with the text of report_method.md;
                 claims.py has the claims and their verdicts
pages.py         HTML
"""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from utils import log


def as_batch(image, size, device):
    """A Pillow image -> (1, 3, H, W) float in [0, 1] at a network's size."""
    small = np.array(image.resize(tuple(size)[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / 255


def enlarge(maps, size):
    """Maps (C, h, w) float -> bilinearly at a size (H, W): yields (C, rows, W), from top to bottom.

    The values are F.interpolate's. A very large image's whole would take gigabytes.
    """
    (height, width), source = size, maps.shape[1]
    y = ((torch.arange(height, device=maps.device) + 0.5) * (source / height) - 0.5).clamp(min=0)
    above = y.long()
    below, share = (above + 1).clamp(max=source - 1), (y - above)[:, None]
    rows = max(2**22 // (len(maps) * width), 1)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        lines = torch.lerp(maps[:, above[part]], maps[:, below[part]], share[part])
        yield F.interpolate(lines[None], (lines.shape[1], width), mode="bilinear")[0]


def print_by_class(scores, columns, more=()):
    """A table with a row a class: `scores[key]`, a dict by class, for each key -> title of `columns`, - for None.

    `more`: (name, values) of rows below.
    """
    rows = [(name, [scores[key][name] for key in columns]) for name in scores[next(iter(columns))]]
    width = max(len(name) for name, _ in [("class", ()), *rows, *more]) + 2
    log(f"{'class':<{width}}" + "".join(f"{title:<11}" for title in columns.values()).rstrip())
    for name, values in [*rows, *more]:
        shown = ("-" if value is None else f"{value:.4f}" for value in values)
        log(f"{name:<{width}}" + "".join(f"{value:<11}" for value in shown).rstrip())
