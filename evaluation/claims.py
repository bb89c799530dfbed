"""The claims of the homework's report: the criterion of each, what was compared, and the verdict.

Every criterion says that something is more than a number, which was fixed before the runs. An interval holds 95%. Over
seeds it is Student's t. With one seed it comes from the test images, or from how exactly the thing can be measured.
"""
import math
from dataclasses import dataclass

import numpy as np

from evaluation.counts import bootstrap_samples, segmentation_metrics
from utils import read_csv

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5% of t at 1, 2, ... degrees of freedom
TRAINED = 0.2  # the share of the way from chance to a perfect score below which a network is too little trained
ACCURACY_CLAIMS = (  # the figure's name, the claim, its criterion, the two sides, what their difference must exceed
    ("adam", "Adam beats SGD", "Test accuracy with Adam is more than 0.01 above that with SGD.",
     {"optimizer": ["adam"]}, {"optimizer": ["sgd"]}, 0.01),
    ("rate", "A low learning rate, 1e-4, is best",
     "Test accuracy with 1e-4 is more than 0.01 above that with a higher learning rate.",
     {"lr": [1e-4]}, {"lr": [1e-3, 1e-2]}, 0.01),
    ("schedules", "Learning rate schedules do not help",
     "Test accuracy without a schedule is less than 0.01 below that with one.",
     {"schedule": ["none"]}, {"schedule": ["step", "multistep"]}, -0.01))
COST_CLAIMS = (  # the figure's name, the claim, its criterion, the measure, the network that should have more of it
    ("faster", "FCN-32 is faster", "FCN-32 trains on more than 1.05 times as many images a second as U-Net.",
     "images_per_second", "FCN-32"),
    ("lighter", "FCN-32 is lighter", "U-Net has more than 1.05 times as many parameters as FCN-32.",
     "parameters", "U-Net"),
    ("memory", "U-Nets load the GPU more",
     "Training U-Net takes more than 1.05 times as much of the GPU's memory as training FCN-32.",
     "peak_memory_mb", "U-Net"))
SCORE_CLAIMS = (  # the figure's name, the claim, its criterion, the score
    ("miou", "U-Net's mIoU is higher", "U-Net's mIoU on test is more than 0.01 above FCN-32's.", "miou"),
    ("edges", "U-Net's edges are better", "U-Net's boundary F1 on test is more than 0.01 above FCN-32's.",
     "boundary_f1"))


@dataclass
class Claim:
    key: str  # the name of its figure
    text: str
    criterion: str
    comparisons: list  # of dicts that `compared` makes; none: not tested
    note: str = ""

    @property
    def verdict(self):
        """One word where all comparisons agree; otherwise each verdict with the comparisons that led to it."""
        places = {}
        for each in self.comparisons:
            places.setdefault(each["verdict"], []).append(each["compared"])
        if len(places) > 1:
            return "; ".join(f"{verdict} {', '.join(where)}" for verdict, where in places.items())
        return next(iter(places), "not tested")


# ---------------------------------------------------------------------------------------------------------------------
# Numbers over seeds


class PerSeed(list):
    """A number a seed, shown as their mean and, where they differ, their standard deviation."""

    def __str__(self):
        if None in self:
            return "-"
        mean = np.mean(self)
        unit, suffix = (1e6, " M") if mean >= 1e5 else (1, "")
        whole = isinstance(self[0], int) and not suffix
        digits = 0 if whole else sum(abs(mean) / unit < limit for limit in (100, 10, 1))
        spread = f"\u00a0±\u00a0{np.std(self, ddof=1) / unit:.{digits}f}" if len(set(self)) > 1 else ""
        return f"{mean / unit:.{digits}f}{spread}{suffix}"


def values(runs, *keys):
    """What stands in each run under a path of keys."""
    for key in keys:
        runs = [run[key] for run in runs]
    return PerSeed(runs)


def best_on_val(runs, key):
    """The score on val of the epoch whose weights were kept."""
    return PerSeed(float(run["history"][run["best_epoch"] - 1][f"val_{key}"]) for run in runs)


def pick(cells, **fixed):
    """Of the cells whose settings are among these, the one that is best on val, on average over seeds."""
    allowed = [cell for cell in cells if all(cell[key] in choice for key, choice in fixed.items())]
    return max(allowed, key=lambda cell: np.mean(cell["val"]))


def describe(cell):
    return f"{cell['optimizer']}, {cell['schedule']}, {cell['lr']:g}"


# ---------------------------------------------------------------------------------------------------------------------
# Is a difference more than chance?


def compare(differences, interval, bounds=(-1, 1)):
    """(mean, low, high) of differences, one a seed. The interval is cut at the least and the most that is possible.

    `interval` is for a single seed: a function that returns (low, high), or a number, by how much it may be off.
    """
    mean = np.mean(differences)
    if len(differences) > 1:
        quantile = STUDENT[min(len(differences) - 2, len(STUDENT) - 1)]
        interval = quantile * np.std(differences, ddof=1) / math.sqrt(len(differences))
    low, high = interval() if callable(interval) else (mean - interval, mean + interval)
    return mean, max(low, bounds[0]), min(high, bounds[1])


def judge(low, high, limit):
    """The verdict on the claim that something is more than `limit`, of which (low, high) is the interval."""
    return "holds" if low > limit else "fails" if high < limit else "undecided"


def too_little_trained(scores, chance):
    """Whether even the better side, on average over seeds, is near chance. scores: a PerSeed a side."""
    return max(map(np.mean, scores)) < chance + TRAINED * (1 - chance)


def compared(where, sides, measured, limit, form="+.3f", unit="", untrained=False):
    """One comparison, a row of a claim's table. sides: name -> PerSeed. measured: (mean, low, high)."""
    mean, low, high = map(float, measured)
    interval = f" ({low:{form}} to {high:{form}})" if low < high else ""
    return {"compared": where, "values": "; ".join(f"{name}: {value}" for name, value in sides.items()),
            "difference": f"{mean:{form}}{unit}{interval}", "mean": mean, "low": low, "high": high,
            "verdict": "too little trained" if untrained else judge(low, high, limit),
            "seeds": len(next(iter(sides.values())))}


def bootstrap(rows, rivals, metric):
    """The interval of metric(sum of rows) - metric(sum of rivals) over samples of images, the same for both."""
    if len(rows) < 5:  # of which the samples are too few to differ as they should
        return -math.inf, math.inf
    samples = bootstrap_samples(len(rows), seed=0)
    differences = metric(np.tensordot(samples, rows, 1)) - metric(np.tensordot(samples, rivals, 1))
    return np.percentile(differences, (2.5, 97.5))


def newcombe_interval(run, rival):
    """The interval of a difference of accuracies, made of their Wilson intervals (Newcombe 1998, method 10)."""
    (p, p_low, p_high), (q, q_low, q_high) = ((each["metrics"]["accuracy"], *each["metrics"]["interval"])
                                              for each in (run, rival))
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def epochs_saved(history, rival):
    """The share of its epochs that a network does not need to reach its rival's final val loss; 0: never there."""
    goal = float(rival[-1]["val_loss"])
    reached = next((i for i, row in enumerate(history, 1) if float(row["val_loss"]) <= goal), len(history))
    return 1 - reached / len(history)


# ---------------------------------------------------------------------------------------------------------------------
# The claims


def accuracy_claims(cells, chance):
    """The three claims of task 1. cells: the grid's; none: the data have no labels. chance: accuracy without a look."""
    claims = []
    for key, text, criterion, *sides, limit in ACCURACY_CLAIMS:
        criterion += " The other settings of each side are its best on val."
        if not cells:
            claims.append(Claim(key, text, criterion, [], "These data have no labels for whole images."))
            continue
        best = [pick(cells, **side) for side in sides]
        scores = {describe(cell): values(cell["runs"], "metrics", "accuracy") for cell in best}
        (run, *_), (rival, *_) = (cell["runs"] for cell in best)
        gain = compare(np.subtract(*scores.values()), lambda: newcombe_interval(run, rival))
        row = compared("best on val", scores, gain, limit, untrained=too_little_trained(scores.values(), chance))
        highest = max(cell["lr"] for cell in cells)
        edge = [cell["optimizer"] for cell in best if cell["lr"] == highest]
        note = f"The best learning rate of {' and '.join(edge)} is the grid's highest; a higher one may be better."
        claims.append(Claim(key, text, criterion, [row], note if edge and key == "adam" else ""))
    return claims


def cost_claims(pairs):
    """Three claims of task 2. pairs: where -> {"U-Net": runs, "FCN-32": runs}."""
    on_gpu = all(run["machine"]["device"].startswith("cuda") for pair in pairs.values() for run in pair["U-Net"])
    claims = []
    for key, text, criterion, measure, larger in COST_CLAIMS:
        rows, off = [], 0.0 if measure == "parameters" else math.log(1.1)
        for where, pair in pairs.items():
            sides = {name: values(runs, measure) for name, runs in pair.items()}
            own, other = (sides[name] for name in sorted(sides, key=lambda name: name != larger))
            no_gpu = measure == "peak_memory_mb" and not on_gpu
            made_equal = measure == "parameters" and measure in where
            if no_gpu or made_equal or None in own + other:  # None: this machine cannot measure it
                continue
            ratio = np.exp(compare(np.log(np.divide(own, other)), off, (-math.inf, math.inf)))
            rows.append(compared(where, sides, ratio, 1.05, ".2f", " times"))
        reason = "There was no GPU." if key == "memory" and not on_gpu else "It could not be measured here."
        claims.append(Claim(key, text, criterion, rows, "" if rows else reason))
    return claims


def chance_miou(rows):
    """The mIoU of the most frequent class everywhere. rows: segmentation_row of each image."""
    pixels = rows.sum(0)[1]
    return pixels.max() / pixels.sum() / (pixels > 0).sum()


def score_claims(pairs, counts):
    """Two claims of task 2. pairs: as in cost_claims. counts(run): segmentation_row of each test image, (N, 7, K)."""
    claims, chance = [], chance_miou(counts(next(iter(pairs.values()))["U-Net"][0]))
    for key, text, criterion, score in SCORE_CLAIMS:
        rows = []
        for where, pair in pairs.items():
            sides = {name: values(runs, "metrics", score) for name, runs in pair.items()}
            gain = compare(np.subtract(*sides.values()), lambda pair=pair, score=score: bootstrap(
                *(counts(runs[0]) for runs in pair.values()), lambda rows: segmentation_metrics(rows)[score]))
            miou = [values(runs, "metrics", "miou") for runs in pair.values()]
            rows.append(compared(where, sides, gain, 0.01, untrained=too_little_trained(miou, chance)))
        claims.append(Claim(key, text, criterion, rows))
    return claims


def skip_claims(skips, noskips):
    """The two claims of task 3. skips, noskips: runs, one a seed."""
    def resampled_sharpness():
        tables = [read_csv(runs[0]["folder"] / "images.csv") for runs in (skips, noskips)]
        columns = [np.array([[float(row[key]) for key in ("sharpness", "true_sharpness")] for row in table])
                   for table in tables]
        return bootstrap(*columns, lambda total: total[..., 0] / total[..., 1])

    both = {"with skips": skips, "without": noskips}
    untrained = too_little_trained([values(runs, "metrics", "ssim") for runs in both.values()], chance=0)
    sharp = {name: values(runs, "metrics", "sharpness_ratio") for name, runs in both.items()}
    detail = compare(np.subtract(*sharp.values()), resampled_sharpness, (-math.inf, math.inf))
    saved = PerSeed(epochs_saved(*(run["history"] for run in pair)) for pair in zip(skips, noskips))
    earlier = compare(saved, 1 / skips[0]["epochs"], (0, 1))
    where = "same width and recipe"
    return [
        Claim("detail", "Skip connections carry the fine detail",
              "The sharpness of the test images (gradient energy, as a share of the truth's) is more than 0.05 higher "
              "with skips than without.", [compared(where, sharp, detail, 0.05, untrained=untrained)]),
        Claim("convergence", "Skip connections speed up convergence",
              "With skips, the final val loss of the network without is reached more than 0.1 of the epochs before the "
              "end.", [compared(where, {"share of the epochs saved": saved}, earlier, 0.1, ".3f", untrained=untrained)],
              "The network that is better in the end is likely to reach the other's final loss first, too.")]
