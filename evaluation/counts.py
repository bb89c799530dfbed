"""Scores of any set of images.

*_row makes a row of counts from an image's prediction; *_metrics computes the metrics from sums of rows."""
import numpy as np
import torch

from data import color
from data.masks import NO_CLASS
from evaluation.colorization import MEANS, color_metrics, mean_metrics
from utils import boundary_f1, outline_counts, pixel_counts, segmentation_scores


def segmentation_row(truth, prediction, classes, known=None):
    """Masks (H, W) uint8 -> (7, K): utils.pixel_counts, then utils.outline_counts."""
    if prediction is None:  # a missing prediction has no class anywhere: all pixels and outlines are missed
        prediction = np.full_like(truth, NO_CLASS)
    pixels = pixel_counts(torch.from_numpy(truth)[None], torch.from_numpy(prediction)[None], classes)[0].numpy()
    return np.concatenate([pixels, outline_counts(truth, prediction, classes)])


def segmentation_metrics(row):
    """(7, K) -> segmentation_scores, boundary_f1, the second class's foreground_iou, and the IoU "by class"."""
    scores = segmentation_scores(row[:3])
    iou = scores.pop("iou")
    return scores | {"by class": iou, "boundary_f1": boundary_f1(row[3:]), "foreground_iou": np.nan_to_num(iou[1])}


def classification_row(truth, prediction, classes, known=None):
    """Labels -> (2, K): right and true by class."""
    true = np.arange(classes) == truth
    return np.stack([true & (prediction == truth), true]).astype(int)


def classification_metrics(row):
    """(2, K) -> accuracy and, as "by class", (K,)."""
    right, true = row
    return {"accuracy": right.sum() / true.sum().clip(1), "by class": np.where(true > 0, right / true.clip(1), np.nan)}


LINEAR = color.rgb_to_linear(torch.arange(256) / 255).numpy()  # of each byte: a look-up takes a fifth of the time


def in_rgb_and_lab(image):
    """RGB (H, W, 3) uint8 -> (1, 3, H, W) float: in [0, 1], and in CIELAB."""
    values, linear = (torch.tensor(each).permute(2, 0, 1)[None] for each in (image, LINEAR.take(image)))
    return values / 255, color.linear_to_lab(linear)


def colorization_known(truth):
    """RGB (H, W, 3) uint8 -> its colourfulness and sharpness, and the colour difference of its grey version."""
    true, lab = in_rgb_and_lab(truth)
    difference = color.ciede2000(torch.cat([lab[:, :1], torch.zeros_like(lab[:, 1:])], 1), lab).mean()
    return [float(color.colorfulness(true)), float(color.gradient_energy(true)), float(difference)]


def colorization_row(truth, prediction, classes, known):
    """RGB (H, W, 3) uint8 -> (9,): color_metrics, the truth's colourfulness and sharpness, 1, the colours' credit."""
    own = [0, 0, 100, 0, 0]  # a missing prediction: its delta_e is that of black and white
    if prediction is not None:
        (true, true_lab), (image, lab) = map(in_rgb_and_lab, (truth, prediction))
        own = list(map(float, color_metrics(image, true, lab, true_lab)))
    colorful, sharp, grey_difference = known
    # Colours count if they are nearer to the true ones than grey is. The 1 avoids 0 / 0 where the truth is grey.
    nearer = prediction is not None and own[2] <= grey_difference + 1e-3
    credit = np.interp((own[3] + 1) / (colorful + 1), [0, 0.8, 1.2, 2], [0, 1, 1, 0]) if nearer else 0
    return np.array([*own, colorful, sharp, 1, credit])


def colorization_metrics(row):
    """(9,) -> the means over the images."""
    *sums, images, credit = row
    return mean_metrics(np.array(sums), images) | {"colorfulness_credit": credit / images}


WORST_BY = {"segmentation": "miou", "classification": "accuracy", "colorization": "delta_e"}  # chooses the worst images
METRICS = {"segmentation": ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"),
           "classification": ("accuracy",),
           "colorization": (*MEANS, "colorfulness_credit")}
MEANING = {  # of the metrics that the default rubrics count
    "miou": "the intersection of prediction and truth divided by their union (IoU), the mean over the classes",
    "foreground_iou": "the intersection of predicted and true foreground divided by their union",
    "accuracy": "the share of images whose class is right",
    "delta_e": "the colour difference that the eye sees (CIEDE2000), the mean over the pixels; smaller is better",
    "colorfulness_credit": "the share of images as colourful as the true ones and nearer to them than grey is",
}
BY_CLASS = {"segmentation": "IoU", "classification": "accuracy", "colorization": None}
ROW = {"segmentation": segmentation_row, "classification": classification_row, "colorization": colorization_row}
COMPUTE = {"segmentation": segmentation_metrics, "classification": classification_metrics,
           "colorization": colorization_metrics}
