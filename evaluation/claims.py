"""The claims of the homework's report: what is compared for each, and the verdict.

Each criterion, in report_template.md, says that a difference is more than a limit. Intervals are for 95%, by Student's
t over seeds. With one seed there is none: the difference alone decides."""
import math
import statistics
from collections import defaultdict

import numpy as np

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5% of t at 1, 2, ... degrees of freedom
TRAINED = 0.2  # a trained network goes at least this share of the way from chance to a perfect score
CLAIMS = {  # claim: (measure, own side, other side, limit)
    "Adam beats SGD": ("accuracy", {"optimizer": ["adam"]}, {"optimizer": ["sgd"]}, 0.01),
    "A low learning rate, 1e-4, is best": ("accuracy", {"lr": [1e-4]}, {"lr": [1e-3, 1e-2]}, 0.01),
    "Learning rate schedules do not help": ("accuracy", {"schedule": ["none"]}, {"schedule": ["step", "multistep"]},
                                            -0.01),
    "FCN-32 is faster": ("images_per_second", "FCN-32", "U-Net", 1.05),
    "FCN-32 is lighter": ("parameters", "U-Net", "FCN-32", 1.05),
    "U-Nets load the GPU more": ("peak_memory_mb", "U-Net", "FCN-32", 1.05),
    "U-Net's mIoU is higher": ("miou", "U-Net", "FCN-32", 0.01),
    "U-Net's edges are better": ("boundary_f1", "U-Net", "FCN-32", 0.01),
    "Skip connections carry the fine detail": ("sharpness_ratio", "with skips", "without", 0.05),
    "Skip connections speed up convergence": ("epochs", "with skips", "without", 0.1)}
PAIRS = {  # comparison: {side: name of its runs}
    "as they are": {"U-Net": "unet", "FCN-32": "fcn32"},
    "at equal width": {"U-Net": "unet", "FCN-32": "fcn32-equal-width"},
    "at equal parameters": {"U-Net": "unet", "FCN-32": "fcn32-equal-parameters"},
    "at equal parameters and twice the side": {"U-Net": "unet-twice", "FCN-32": "fcn32-twice"},
    "same width and recipe": {"with skips": "skips", "without": "noskips"}}
RATIOS = "images_per_second", "parameters", "peak_memory_mb"  # measures that are compared as a ratio
SCORES = {  # all other measures: lowest and highest difference, and the score that shows whether a network is trained
    "accuracy": (-1, 1, "accuracy"), "miou": (-1, 1, "miou"), "boundary_f1": (-1, 1, "miou"),
    "sharpness_ratio": (-math.inf, math.inf, "ssim"), "epochs": (0, 1, "ssim")}
MISSING = {"accuracy": "no labels for whole images", "peak_memory_mb": "no GPU", "images_per_second": "not measured"}


def values(runs, *keys):
    """The value in each run under a path of keys; None if it is missing."""
    for key in keys:
        runs = [run and run.get(key) for run in runs]
    return runs


def shown(cell):
    """A cell as text. A list holds a number per seed: their mean and, if they differ, standard deviation."""
    if not isinstance(cell, list) or None in cell:
        return "-" if isinstance(cell, list) else str(cell)
    mean = statistics.fmean(cell)
    unit, suffix = (1e6, " M") if mean >= 1e5 else (1, "")
    digits = 0 if isinstance(cell[0], int) and not suffix else sum(abs(mean) / unit < limit for limit in (100, 10, 1))
    spread = f"\u00a0±\u00a0{statistics.stdev(cell) / unit:.{digits}f}" if len(set(cell)) > 1 else ""
    return f"{mean / unit:.{digits}f}{spread}{suffix}"


def of_task(results, task):
    return {name: runs for name, runs in results.items() if runs[0]["task"] == task}


def pick(results, **fixed):
    """Of the classifiers with these settings: the name of the best on val, on average over seeds."""
    cells = of_task(results, "classification")
    allowed = [name for name in cells if all(cells[name][0]["settings"][key] in fixed[key] for key in fixed)]
    return max(allowed, key=lambda name: statistics.fmean(values(cells[name], "val", "accuracy")))


def find_pairs(results, own, other):
    """{comparison: {side: its runs}} of two sides. A side of task 1 is given by its settings."""
    if isinstance(own, dict):
        best = [pick(results, **side) for side in (own, other)] if of_task(results, "classification") else []
        return {"best on val": {name: results[name] for name in best}} if best else {}
    return {where: {side: results[names[side]] for side in (own, other)} for where, names in PAIRS.items()
            if own in names and set(names.values()) <= set(results)}


def make_claims(results):
    """One dict per claim. results: name -> runs, one per seed. A run's "true" are the test images or pixels by class.
    "difference" and "seeds" are those of a claim's first comparison."""
    claims = []
    for claim, (measure, own, other, limit) in CLAIMS.items():
        rows = [compare(where, pair, measure, limit) for where, pair in find_pairs(results, own, other).items()
                if measure not in where  # made equal
                and not any(None in values(runs, measure) for runs in pair.values())]
        first = rows[0] if rows else {"difference": "-", "seeds": "-"}
        claims.append({"claim": claim, "verdict": overall(rows) if rows else f"not tested ({MISSING.get(measure)})",
                       "difference": first["difference"], "seeds": first["seeds"], "rows": rows})
    return claims


def overall(rows):
    """One verdict if all comparisons agree; otherwise each verdict with its comparisons."""
    places = defaultdict(list)
    for row in rows:
        places[row["verdict"]].append(row["compared"])
    return "; ".join(verdict + f" {', '.join(where)}" * (len(places) > 1) for verdict, where in places.items())


def compare(where, pair, measure, limit):
    """A row of a claim's table. pair: {side: its runs, one per seed}; own side first."""
    sides, form, trained = {name: values(runs, measure) for name, runs in pair.items()}, "{:+.3f}", True
    if measure in RATIOS:
        found, least, most, form = np.divide(*sides.values()), 0, math.inf, "{:.2f}"
    else:
        least, most, learned = SCORES[measure]
        guess = chance(learned, next(iter(pair.values()))[0]["true"])
        best = max(statistics.fmean(values(runs, learned)) for runs in pair.values())
        trained = best >= guess + TRAINED * (1 - guess)
        if measure == "epochs":
            found = [epochs_saved(*runs) for runs in zip(*pair.values())]
            sides = {"share of the epochs saved": found}
        else:
            found = np.subtract(*sides.values())
    mean, low, high = confidence(found, least, most)
    interval = f" ({form} to {form})".format(low, high) if low < high else ""
    return {"compared": where, "values": "; ".join(f"{name}: {shown(value)}" for name, value in sides.items()),
            "difference": form.format(mean) + " times" * (measure in RATIOS) + interval,
            "verdict": judge(low, high, limit) if trained else "too little trained", "seeds": len(found)}


def judge(low, high, limit):
    """The verdict on the claim that a value is more than `limit`. (low, high) is the value's interval."""
    return "holds" if low > limit else "fails" if high < limit else "undecided"


def confidence(found, least, most):
    """(mean, low, high) of numbers, one per seed, within (least, most)."""
    mean, half = np.mean(found), 0.0
    if len(found) > 1:
        quantile = STUDENT[min(len(found) - 2, len(STUDENT) - 1)]
        half = quantile * np.std(found, ddof=1) / math.sqrt(len(found))
    return mean, max(mean - half, least), min(mean + half, most)


def chance(score, true):
    """The score of the most frequent class everywhere; SSIM's is about that of flat grey. true: counts by class."""
    if score == "ssim":
        return 0.4
    return max(true) / sum(true) / (np.count_nonzero(true) if score == "miou" else 1)


def epochs_saved(run, rival):
    """The share of its epochs that a network does not need to reach its rival's final val loss; 0: never there."""
    goal = float(rival["history"][-1]["val_loss"])
    losses = [float(row["val_loss"]) for row in run["history"]]
    return 1 - next((i for i, loss in enumerate(losses, 1) if loss <= goal), len(losses)) / len(losses)
