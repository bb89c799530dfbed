"""The claims of the homework's report: the criterion of each, what was compared, and the verdict.

Every criterion says that something is more than a limit, which was fixed before the runs. An interval holds 95%. Over
seeds it is Student's t. With one seed it comes from the test images, or from how exactly the thing can be measured.
"""
import math
import statistics
from dataclasses import dataclass

import numpy as np

from evaluation.counts import bootstrap_samples, segmentation_metrics

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5% of t at 1, 2, ... degrees of freedom
TRAINED = 0.2  # the share of the way from chance to a perfect score below which a network is too little trained
CLAIMS = {  # the figure's name: the claim, its criterion, what is measured, of which, against which, the limit
    "adam": ("Adam beats SGD", "Test accuracy with Adam is more than 0.01 above that with SGD.",
             "accuracy", {"optimizer": ["adam"]}, {"optimizer": ["sgd"]}, 0.01),
    "rate": ("A low learning rate, 1e-4, is best", "Test accuracy with 1e-4 is more than 0.01 above any higher rate's.",
             "accuracy", {"lr": [1e-4]}, {"lr": [1e-3, 1e-2]}, 0.01),
    "schedules": ("Learning rate schedules do not help", "Test accuracy without one is less than 0.01 below that with.",
                  "accuracy", {"schedule": ["none"]}, {"schedule": ["step", "multistep"]}, -0.01),
    "faster": ("FCN-32 is faster", "FCN-32 trains on more than 1.05 times as many images a second as U-Net.",
               "images_per_second", "FCN-32", "U-Net", 1.05),
    "lighter": ("FCN-32 is lighter", "U-Net has more than 1.05 times as many parameters as FCN-32.",
                "parameters", "U-Net", "FCN-32", 1.05),
    "memory": ("U-Nets load the GPU more", "Training U-Net takes more than 1.05 times as much GPU memory as FCN-32.",
               "peak_memory_mb", "U-Net", "FCN-32", 1.05),
    "miou": ("U-Net's mIoU is higher", "U-Net's mIoU on test is more than 0.01 above FCN-32's.",
             "miou", "U-Net", "FCN-32", 0.01),
    "edges": ("U-Net's edges are better", "U-Net's boundary F1 on test is more than 0.01 above FCN-32's.",
              "boundary_f1", "U-Net", "FCN-32", 0.01),
    "detail": ("Skip connections carry the fine detail", "With skips, the test images' sharpness (gradient energy; the "
               "truth's is 1) is more than 0.05 higher.", "sharpness_ratio", "with skips", "without", 0.05),
    "convergence": ("Skip connections speed up convergence", "With skips, the final val loss of the network without is "
                    "reached more than 0.1 of the epochs before the end.", "epochs", "with skips", "without", 0.1)}
LEARNED = {"boundary_f1": "miou", "sharpness_ratio": "ssim"}  # the score that tells whether a network is trained


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


class PerSeed(list):
    """A number a seed, shown as their mean and, where they differ, their standard deviation; None: not measured."""

    @property
    def average(self):
        return None if None in self else statistics.fmean(self)

    @property
    def deviation(self):
        return None if None in self or len(self) < 2 else statistics.stdev(self)

    def __str__(self):
        if None in self:
            return "-"
        unit, suffix = (1e6, " M") if self.average >= 1e5 else (1, "")
        whole = isinstance(self[0], int) and not suffix
        digits = 0 if whole else sum(abs(self.average) / unit < limit for limit in (100, 10, 1))
        spread = f"\u00a0±\u00a0{self.deviation / unit:.{digits}f}" if len(set(self)) > 1 else ""
        return f"{self.average / unit:.{digits}f}{spread}{suffix}"


def values(runs, *keys):
    """What stands in each run under a path of keys; None where nothing does."""
    for key in keys:
        runs = [run and run.get(key) for run in runs]
    return PerSeed(runs)


def pick(cells, **fixed):
    """Of the cells whose settings are among these, the one that is best on val, on average over seeds."""
    allowed = [cell for cell in cells if all(cell[key] in choice for key, choice in fixed.items())]
    return max(allowed, key=lambda cell: cell["val"].average)


def describe(cell):
    return f"{cell['optimizer']}, {cell['schedule']}, {cell['lr']:g}"


def compare(differences, interval, bounds=(-1, 1)):
    """(mean, low, high) of differences, one a seed, within what is possible. `interval` is for a single seed: a
    function that returns (low, high), or a number, by how much it may be off."""
    mean = np.mean(differences)
    if len(differences) > 1:
        quantile = STUDENT[min(len(differences) - 2, len(STUDENT) - 1)]
        interval = quantile * np.std(differences, ddof=1) / math.sqrt(len(differences))
    low, high = interval() if callable(interval) else (mean - interval, mean + interval)
    return mean, max(low, bounds[0]), min(high, bounds[1])


def judge(low, high, limit):
    """The verdict on the claim that something is more than `limit`, of which (low, high) is the interval."""
    return "holds" if low > limit else "fails" if high < limit else "undecided"


def compared(where, sides, found, limit, form="+.3f", untrained=False):
    """A row of a claim's table. sides: name -> PerSeed. found: (mean, low, high) of what must exceed the limit."""
    mean, low, high = map(float, found)
    interval = f" ({low:{form}} to {high:{form}})" if low < high else ""
    times = " times" if form == ".2f" else ""
    return {"compared": where, "values": "; ".join(f"{name}: {value}" for name, value in sides.items()),
            "difference": f"{mean:{form}}{times}{interval}", "mean": mean, "low": low, "high": high,
            "verdict": "too little trained" if untrained else judge(low, high, limit),
            "seeds": len(next(iter(sides.values())))}


def compare_scores(where, pair, score, limit, chance):
    """A row of a claim's table on a score. pair: two names -> runs. chance: the score of a network that saw nothing."""
    sides = {name: values(runs, "metrics", score) for name, runs in pair.items()}
    best = max(values(runs, "metrics", LEARNED.get(score, score)).average for runs in pair.values())
    most = math.inf if score == "sharpness_ratio" else 1
    gain = compare(np.subtract(*sides.values()), lambda: over_images(score, *(runs[0] for runs in pair.values())),
                   (-most, most))
    return compared(where, sides, gain, limit, untrained=best < chance + TRAINED * (1 - chance))


def over_images(score, run, rival):
    """The interval of the difference of a score of two runs: what other test images could change."""
    if score == "accuracy":  # Newcombe 1998, method 10: made of their Wilson intervals
        p, q = run["metrics"], rival["metrics"]
        own, other = (np.abs(np.subtract(each["interval"], each["accuracy"])) for each in (p, q))
        gain = p["accuracy"] - q["accuracy"]
        return gain - math.hypot(own[0], other[1]), gain + math.hypot(own[1], other[0])
    if len(run["counts"]) < 5:  # of which the samples are too few to differ as they should
        return -math.inf, math.inf
    samples = bootstrap_samples(len(run["counts"]), seed=0)  # the same for both
    totals = [np.tensordot(samples, each["counts"], 1) for each in (run, rival)]
    scores = [total[:, 0] / total[:, 1] if score == "sharpness_ratio" else segmentation_metrics(total)[score]
              for total in totals]
    return np.percentile(np.subtract(*scores), (2.5, 97.5))


def epochs_saved(history, rival):
    """The share of its epochs that a network does not need to reach its rival's final val loss; 0: never there."""
    goal = float(rival[-1]["val_loss"])
    reached = next((i for i, row in enumerate(history, 1) if float(row["val_loss"]) <= goal), len(history))
    return 1 - reached / len(history)


def chance_miou(rows):
    """The mIoU of the most frequent class everywhere. rows: segmentation_row of each image."""
    pixels = rows.sum(0)[1]
    return pixels.max() / pixels.sum() / (pixels > 0).sum()


def make_claims(measures, evidence):
    """The claims on these measures. evidence(measure, own, other, limit) -> comparisons and a note."""
    return [Claim(key, text, criterion, *evidence(measure, *sides)) for key, (text, criterion, measure, *sides)
            in CLAIMS.items() if measure in measures]


def accuracy_claims(cells, chance):
    """The claims of task 1. cells: the grid's; none: the data have no labels. chance: the most frequent class's."""
    def evidence(score, own, other, limit):
        if not cells:
            return [], "These data have no labels for whole images."
        best = [pick(cells, **side) for side in (own, other)]
        pair = {describe(cell): cell["runs"] for cell in best}
        highest = max(cell["lr"] for cell in cells)
        edge = " and ".join(cell["optimizer"] for cell in best if cell["lr"] == highest and "optimizer" in own)
        note = f"The best learning rate of {edge} is the grid's highest; a higher one may be better." if edge else ""
        return [compare_scores("best on val", pair, score, limit, chance)], note

    return make_claims(["accuracy"], evidence)


def cost_claims(pairs):
    """The claims of task 2 on cost. pairs: where -> {"U-Net": runs, "FCN-32": runs}."""
    on_gpu = all(run["machine"]["device"].startswith("cuda") for pair in pairs.values() for run in pair["U-Net"])

    def evidence(measure, own, other, limit):
        if measure == "peak_memory_mb" and not on_gpu:
            return [], "There was no GPU."
        rows = []
        for where, pair in pairs.items():
            sides = {name: values(runs, measure) for name, runs in pair.items()}
            if measure in where or None in sides[own] + sides[other]:  # made equal, or not measured
                continue
            ratios = np.divide(sides[own], sides[other])
            found = compare(ratios, 0 if measure == "parameters" else 0.1 * ratios[0], (0, math.inf))
            rows.append(compared(where, sides, found, limit, form=".2f"))
        return rows, "" if rows else "It could not be measured here."

    return make_claims(["images_per_second", "parameters", "peak_memory_mb"], evidence)


def score_claims(pairs):
    """The claims of task 2 on scores. pairs: as in cost_claims; first runs have "counts", segmentation_row an image."""
    chance = chance_miou(next(iter(pairs.values()))["U-Net"][0]["counts"])
    return make_claims(["miou", "boundary_f1"], lambda score, own, other, limit: (
        [compare_scores(*place, score, limit, chance) for place in pairs.items()], ""))


def skip_claims(pair):
    """The claims of task 3. pair: "with skips" and "without" -> runs; first runs have "counts", sharpness an image."""
    def evidence(measure, own, other, limit):
        sharper = compare_scores(where, pair, "sharpness_ratio", limit, chance=0)
        if measure == "sharpness_ratio":
            return [sharper], ""
        saved = PerSeed(epochs_saved(run["history"], rival["history"]) for run, rival in zip(*pair.values()))
        found = compare(saved, 1 / pair[own][0]["epochs"], (0, 1))
        return [compared(where, {"share of the epochs saved": saved}, found, limit,
                         untrained=sharper["verdict"] == "too little trained")], ""

    where = "same width and recipe"
    return make_claims(["sharpness_ratio", "epochs"], evidence)
