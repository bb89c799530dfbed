"""Metrics against torchmetrics, SciPy and by hand: void, absent classes, batches of any size."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from conftest import make_masks
from scipy import ndimage
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from data import color, scenes
from data.cache import Split
from data.masks import VOID
from evaluation import print_scores
from evaluation.classification import class_scores
from evaluation.segmentation import score_segmentation
from train_segmentation import segmentation_loss
from training.checkpoint import Predictor
from training.optimization import class_weights
from utils import (FIGURE_COLORS, best_to_worst, boundary_f1, errors_in_red, figure_colors, outline_counts,
                   pixel_counts, segmentation_scores)


def test_class_scores_equal_sklearn():
    """Class 1 is never predicted; class 4 has no images, but is predicted."""
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 4, 99), rng.choice([0, 2, 3, 4], 99)
    scores = class_scores(confusion_matrix(truth, prediction, labels=range(5)), list("abcde"))
    for average, read in ((None, lambda key: [scores[key][name] for name in "abcd"]),
                          ("macro", lambda key: scores[f"macro_{key}"])):
        expected = precision_recall_fscore_support(truth, prediction, labels=range(4), average=average, zero_division=0)
        for key, value in zip(("precision", "recall", "f1"), expected):
            assert read(key) == pytest.approx(value)
    assert [scores[key]["e"] for key in ("precision", "recall", "f1")] == [None] * 3


@pytest.mark.parametrize("balance, expected", [(0, 1), (0.5, 3), (1, 9)])
def test_class_weights(balance, expected):
    """Of 9 and 1 samples: every sample counts the same, then by the root of the share, then every class the same."""
    weights = class_weights(np.array([9, 1]), balance)
    assert float(weights @ torch.tensor([0.9, 0.1])) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(expected)
    assert class_weights(np.array([7, 7, 7]), balance).tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_torchmetrics(seed):
    """Classes 3 and 6 are in neither truth nor prediction, 5 only in the prediction; a tenth of the truth is void."""
    torch.manual_seed(seed)
    truth = torch.tensor([0, 1, 2, 4])[torch.randint(4, (7, 20, 30))]
    guess = torch.tensor([0, 1, 2, 4, 5])[torch.randint(5, truth.shape)]
    prediction = torch.where(torch.rand(truth.shape) < 0.6, truth, guess)
    truth[torch.rand(truth.shape) < 0.1] = VOID
    counts = [pixel_counts(truth[part], prediction[part], 7) for part in (slice(0, 3), slice(3, 4), slice(4, 7))]
    assert torch.cat(counts).shape == (7, 3, 7)
    scores = segmentation_scores(torch.cat(counts).sum(0))

    jaccard = torchmetrics.JaccardIndex("multiclass", num_classes=7, ignore_index=VOID, average="none")
    accuracy = torchmetrics.Accuracy("multiclass", num_classes=7, ignore_index=VOID, average="micro")
    by_class = jaccard(prediction, truth)
    assert np.isnan([scores["iou"][k] for k in (3, 6)]).all()
    for k in (0, 1, 2, 4, 5):
        assert scores["iou"][k] == pytest.approx(float(by_class[k]), abs=1e-6)
    assert scores["miou"] == pytest.approx(float(by_class[[0, 1, 2, 4, 5]].mean()), abs=1e-6)
    assert scores["pixel_accuracy"] == pytest.approx(float(accuracy(prediction, truth)), abs=1e-6)
    for key, metric in (("dice", "F1Score"), ("precision", "Precision"), ("recall", "Recall")):
        expected = getattr(torchmetrics, metric)("multiclass", num_classes=7, ignore_index=VOID, average="none")
        expected = expected(prediction, truth).tolist()
        nothing = (3, 5, 6) if key == "recall" else (3, 6)  # to divide by: 5 is nowhere in the truth
        assert np.isnan([scores[key][k] for k in nothing]).all()
        kept = [k for k in range(7) if k not in nothing]
        assert scores[key][kept] == pytest.approx([expected[k] for k in kept], abs=1e-6)
    share = torch.bincount(truth[truth != VOID], minlength=7) / (truth != VOID).sum()
    assert scores["frequency_weighted_iou"] == pytest.approx(float((share * by_class.nan_to_num()).sum()), abs=1e-6)


def test_a_score_of_nothing_is_a_dash_and_null(capsys):
    """Class b is in the truth and never predicted, class c in neither."""
    images = np.zeros((1, 3, 4, 4), np.uint8)
    split = Split(images, np.arange(16, dtype=np.uint8).reshape(1, 4, 4) // 12, ["x"])
    always_a = torch.nn.Conv2d(3, 3, 1)
    torch.nn.init.zeros_(always_a.weight)
    always_a.bias.data = torch.tensor([1.0, 0.0, 0.0])
    predictor = Predictor(always_a, {"classes": ["a", "b", "c"]}, torch.device("cpu"), torch.float32)
    scores = score_segmentation(predictor, split)
    assert scores["precision"] == {"a": 0.75, "b": None, "c": None} and scores["recall"] == {"a": 1, "b": 0, "c": None}
    assert scores["iou"] == {"a": 0.75, "b": 0, "c": None} and scores["dice"]["a"] == pytest.approx(1.5 / 1.75)
    print_scores(scores)
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:4]] == [
        ["iou", "dice", "precision", "recall"], ["a", "0.7500", "0.8571", "0.7500", "1.0000"],
        ["b", "0.0000", "0.0000", "-", "0.0000"], ["c", "-", "-", "-", "-"]]


def test_nothing_but_void_scores_zero():
    counts = pixel_counts(torch.full((1, 4, 4), VOID), torch.zeros(1, 4, 4, dtype=torch.long), 2)
    assert segmentation_scores(counts[0])["miou"] == 0.0


@pytest.mark.parametrize("classes, shape", [(4, (48, 64)), (11, (360, 480)), (70, (33, 7)), (2, (1, 9))])
def test_outline_counts_equal_scipy(classes, shape):
    """Also for more classes than a word has bits, and pictures smaller than the disc."""
    truth, prediction = make_masks(classes, shape)
    radius = max(1, round(0.0075 * math.hypot(*shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    inner = ndimage.binary_erosion(truth != VOID, np.ones((3, 3)), border_value=1)
    counts = []
    for k in range(classes):
        a, b = (inner & (mask == k) & ndimage.binary_dilation(mask != k, np.ones((3, 3)))
                for mask in (truth, prediction))
        near_a, near_b = (ndimage.binary_dilation(outline, x**2 + y**2 <= radius**2) for outline in (a, b))
        counts.append([(a & near_b).sum(), a.sum(), (b & near_a).sum(), b.sum()])
    assert (outline_counts(truth, prediction, classes).T == counts).all()


def square(left, size=200):
    mask = np.zeros((size, size), np.uint8)
    mask[50:150, left : left + 100] = 1
    return mask


def test_boundary_f1_forgives_what_is_within_the_tolerance():
    """0.75% of the diagonal of 200x200 is 2 pixels; farther off, an edge is lost, though mIoU hardly moves."""
    assert boundary_f1(outline_counts(square(40), square(40), 2)) == 1.0
    assert boundary_f1(outline_counts(square(40), square(42), 2)) == 1.0
    some = boundary_f1(outline_counts(square(40), square(45), 2))
    assert 0.4 < some < 0.7  # the top and bottom edges still meet, the sides do not
    assert boundary_f1(outline_counts(square(40), np.zeros((200, 200), np.uint8), 2)) == 0.0


def test_boundary_f1_leaves_void_out():
    truth = square(40)
    truth[:, 30:75] = VOID
    truth[:, 125:175] = VOID
    assert boundary_f1(outline_counts(truth, square(60), 2)) == 1.0


def test_segmentation_loss_is_weighted_cross_entropy_and_dice():
    logits, weights = torch.randn(2, 5, 6, 7), torch.rand(5) + 0.5
    masks = torch.randint(4, (2, 6, 7))  # class 4 is not there
    masks[0, :2] = VOID
    entropy = F.cross_entropy(logits, masks, weights, ignore_index=VOID)
    assert segmentation_loss(logits, masks, weights, dice=0) == pytest.approx(float(entropy), rel=1e-5)

    rows, truth = logits.softmax(1).movedim(1, -1)[masks != VOID], masks[masks != VOID]
    dice = [(2 * rows[truth == k, k].sum() + 1) / (rows[:, k].sum() + (truth == k).sum() + 1) for k in range(5)]
    expected = entropy + 0.7 * (1 - sum(dice) / 5)
    assert segmentation_loss(logits, masks, weights, dice=0.7) == pytest.approx(float(expected), rel=1e-5)
    assert segmentation_loss(logits, torch.full_like(masks, VOID), weights, dice=1.0).isfinite()


VISION = {  # Machado, Oliveira and Fernandes 2009, at full severity: linear RGB to linear RGB
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]])}


def least_difference(colors, vision):
    """The least CIEDE2000 between any two of these colours and void's black, as seen with this vision."""
    srgb = np.array([*colors, (0, 0, 0)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4) @ VISION[vision].T
    linear = linear.clip(0, 1)
    seen = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = color.rgb_to_lab(torch.tensor(seen.T[None, :, :, None], dtype=torch.float32))
    difference = color.ciede2000(lab.expand(-1, -1, -1, len(seen)), lab.mT.expand(-1, -1, len(seen), -1))[0]
    return float(difference.masked_fill(torch.eye(len(seen), dtype=torch.bool), 99).min())


@pytest.mark.parametrize("vision", VISION)
def test_the_colour_blind_can_tell_classes_of_figures(vision):
    """Any two classes may be neighbours in a figure. Of the data's own colours two look the same to some."""
    assert least_difference(figure_colors(scenes.COLORS), vision) > 17
    assert least_difference(FIGURE_COLORS, vision) > 8
    if vision != "normal":
        assert least_difference(scenes.COLORS, vision) < 5


def test_figure_colors_are_near_the_datas_own():
    assert sorted(figure_colors(scenes.COLORS)) == sorted(FIGURE_COLORS[:11])
    assert figure_colors([(0, 0, 0), (255, 255, 255)]) == [(128, 0, 255), (255, 255, 0)]
    assert figure_colors([(1, 2, 3)] * 25) == [(1, 2, 3)] * 25


def test_what_figures_show():
    assert best_to_worst(np.array([0.3, 0.9, 0.1, 0.5, 0.4])) == {1: "best", 4: "median", 2: "worst"}
    truth, prediction = np.array([[0, 1, VOID]], np.uint8), np.array([[0, 0, 0]], np.uint8)
    assert errors_in_red(truth, prediction).tolist() == [[[255] * 3, [200, 0, 0], [255] * 3]]
