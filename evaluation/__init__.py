"""After training: scores, drawings, predictions, grades, and the report.

segmentation.py, classification.py, colorization.py   score, draw and predict: one file per task
runs.py        the scores of a run, and its predictions for own images
grading.py     a class's submissions (downloads.py), each scored (scoring.py) against the truth (truth.py)
limits.py      processes with limits, in which submissions are opened (submissions.py, predictions.py)
counts.py      rows of counts, whose sums give the scores of any set of images
reporting.py   the homework's report: fills in report_template.md; claims.py makes the verdicts
pages.py       the pages of the grades, with pages.html, pages.css and pages.js"""
import torch
import torch.nn.functional as F

from data.images import resize


def as_batch(image, size, device):
    """A Pillow image -> (1, C, H, W) float in [0, 1] at a network's size."""
    return torch.from_numpy(resize(image, size)).to(device).permute(2, 0, 1)[None].float() / 255


def enlarge(maps, size):
    """Maps (C, h, w) float -> F.interpolate's bilinear values at (H, W). Yields a slice of rows and (C, rows, W), from
    the top down: a very large image as a whole would take gigabytes."""
    (height, width), source = size, maps.shape[1]
    y = ((torch.arange(height, device=maps.device) + 0.5) * (source / height) - 0.5).clamp(min=0)
    above = y.long()
    below, share = (above + 1).clamp(max=source - 1), (y - above)[:, None]
    step = max(2**22 // (len(maps) * width), 1)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        lines = torch.lerp(maps[:, above[rows]], maps[:, below[rows]], share[rows])
        yield rows, F.interpolate(lines[None], (lines.shape[1], width), mode="bilinear")[0]


def print_scores(scores):
    """Print a table of the scores by class, or of the baselines, with - for None; then the other scores."""
    columns = scores.get("baselines") or {key: value for key, value in scores.items() if isinstance(value, dict)}
    names = list(next(iter(columns.values())))
    lines = [["", *columns], *([name, *(column[name] for column in columns.values())] for name in names)]
    for first, *cells in lines:
        cells = ("-" if cell is None else cell if isinstance(cell, str) else f"{cell:.4f}" for cell in cells)
        print(f"{first:<{max(map(len, names)) + 2}}" + "".join(f"{cell:<13}" for cell in cells).rstrip())
    for key, value in scores.items():
        if isinstance(value, float):
            print(f"{key.replace('_', ' ')}: {value:.4f}")
