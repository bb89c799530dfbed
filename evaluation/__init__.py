"""What is done with trained networks: scores, drawings, predictions, grades, and the report.

predicting.py    results for anyone's images
segmentation.py, classification.py, colorization.py   score, print, draw and predict, a task each
counts.py        rows of counts, from which the scores of any set of images follow
grading.py       a class's submissions, graded; submissions.py reads what was handed in
reporting.py     the homework's report, made anew: its runs; claims.py has the claims and their verdicts,
                 report_figures.py and report_pages.py draw and write
pages.py         HTML
"""
import numpy as np
import torch
from PIL import Image


def as_batch(image, size, device):
    """A Pillow image -> (1, 3, H, W) float in [0, 1] at a network's size."""
    small = np.array(image.resize(tuple(size)[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / 255
