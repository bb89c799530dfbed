"""Scores that can be summed over any set of pictures, those of a bootstrap sample too.

A picture's prediction becomes a row of counts, and the metrics follow from the sum of rows. All of it works on arrays
with leading axes.
"""
import math

import numpy as np
from PIL import Image

from data import color
from data.images import NO_CLASS, VOID
from evaluate import as_batch, color_metrics


def segmentation_row(truth, prediction, classes):
    """Masks (H, W) -> (7, K): pixels by class that are right, true, predicted, then BoundaryF1's four counts."""
    if prediction is None:  # a missing picture has no class anywhere: all its pixels and outlines are missed
        prediction = np.full_like(truth, NO_CLASS)
    pairs = np.bincount((truth.astype(np.uint16) << 8 | prediction).ravel(), minlength=1 << 16)
    confusion = pairs.reshape(256, 256)[:classes]  # without void, but with the pixels predicted as no class
    return np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)[:classes],
                     *outline_counts(truth, prediction, classes)])


def outline_counts(truth, prediction, classes, tolerance=0.0075):
    """utils.BoundaryF1, equal to the pixel but for all classes at once: each pixel is a word with a bit a class."""
    radius = max(1, round(tolerance * math.hypot(*truth.shape)))
    inner = neighbourhood(np.minimum, truth != VOID)
    outlines = [inner & (neighbourhood(np.maximum, mask) != neighbourhood(np.minimum, mask))
                for mask in (truth, prediction)]
    met = np.zeros((2, *truth.shape), bool)
    for first in range(0, classes, 64):
        number = min(classes - first, 64)
        bits = np.zeros(256, np.min_scalar_type((1 << number) - 1))
        bits[first : first + number] = [1 << i for i in range(number)]
        true, predicted = (bits[mask] * outline for mask, outline in zip((truth, prediction), outlines))
        met[0] |= (true & dilate(predicted, radius)) != 0
        met[1] |= (predicted & dilate(true, radius)) != 0
    chosen = truth[met[0]], truth[outlines[0]], prediction[met[1]], prediction[outlines[1]]
    return [np.bincount(ids, minlength=256)[:classes] for ids in chosen]


def neighbourhood(extreme, picture):
    """np.minimum or np.maximum over each pixel's 3x3 neighbourhood, as far as that lies in the picture."""
    for _ in range(2):
        result = picture.copy()
        extreme(result[1:], picture[:-1], out=result[1:])
        extreme(result[:-1], picture[1:], out=result[:-1])
        picture = result.T
    return picture


def dilate(bits, radius):
    """OR over a disc around each pixel, built from its narrow top rows to its wide middle one."""
    height, wide, result, reach = len(bits), bits.copy(), np.zeros_like(bits), 0
    for y in range(radius, -1, -1):
        while (reach + 1) ** 2 <= radius**2 - y**2:
            reach += 1
            wide[:, reach:] |= bits[:, :-reach]
            wide[:, :-reach] |= bits[:, reach:]
        rest = max(height - y, 0)
        result[y:] |= wide[:rest]
        result[:rest] |= wide[y:]
    return result


def segmentation_metrics(rows):
    """(..., 7, K) -> what utils.ConfusionMatrix and BoundaryF1 compute, (...) each. nan: a class nowhere seen."""
    right, true, predicted, met_true, outline_true, met_predicted, outline_predicted = np.moveaxis(rows, -2, 0)
    union, total = true + predicted - right, true.sum(-1).clip(1)
    iou = right / union.clip(1)
    recall, precision = met_true / outline_true.clip(1), met_predicted / outline_predicted.clip(1)
    f1 = 2 * precision * recall / (precision + recall).clip(1e-12)
    outlined = outline_true + outline_predicted > 0
    return {"miou": iou.sum(-1) / (union > 0).sum(-1).clip(1), "pixel_accuracy": right.sum(-1) / total,
            "frequency_weighted_iou": (true * iou).sum(-1) / total,
            "boundary_f1": (f1 * outlined).sum(-1) / outlined.sum(-1).clip(1),
            "by class": np.where(union > 0, iou, np.nan)}


def classification_row(truth, prediction, classes):
    """Labels -> (2, K): right and true by class."""
    true = np.arange(classes) == truth
    return np.stack([true & (prediction == truth), true]).astype(int)


def classification_metrics(rows):
    right, true = np.moveaxis(rows, -2, 0)
    return {"accuracy": right.sum(-1) / true.sum(-1).clip(1),
            "by class": np.where(true > 0, right / true.clip(1), np.nan)}


def colorization_row(truth, prediction, classes):
    """RGB (H, W, 3) uint8 -> (8,): the picture's metrics, colourfulness and sharpness of the truth, and 1."""
    true = as_batch(Image.fromarray(truth), truth.shape[:2], "cpu")
    own = [0, 0, 100, 0, 0]  # a missing picture: the delta_e of black and white
    if prediction is not None:
        own = color_metrics(as_batch(Image.fromarray(prediction), truth.shape[:2], "cpu"), true).values()
    return np.array([*map(float, own), float(color.colorfulness(true)), float(color.gradient_energy(true)), 1])


def colorization_metrics(rows):
    psnr, ssim, delta_e, colorful, sharp, true_colorful, true_sharp, number = np.moveaxis(rows, -1, 0)
    return {"psnr": psnr / number, "ssim": ssim / number, "delta_e": delta_e / number,
            "colorfulness_ratio": colorful / true_colorful.clip(1e-9), "sharpness_ratio": sharp / true_sharp.clip(1e-9)}


ROW = {"segmentation": segmentation_row, "classification": classification_row, "colorization": colorization_row}
COMPUTE = {"segmentation": segmentation_metrics, "classification": classification_metrics,
           "colorization": colorization_metrics}
