"""Make the homework's report anew: plan the runs that it needs, train what is missing, write the pages.

    python evaluate.py report --seeds 1
"""
import functools
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from data import InputError
from data.sources import open_data
from evaluation.claims import accuracy_claims, cost_claims, pick, score_claims, skip_claims, values
from evaluation.classification import class_probabilities
from evaluation.colorization import lightness_and_ab, paint, with_colors
from evaluation.counts import segmentation_row
from evaluation.report_pages import curve_figures, make_tables, prediction_figures, write_report
from evaluation.segmentation import predicted_masks
from models import build_network
from training.checkpoint import load_predictor
from training.settings import positive_int, setup
from utils import batches, read_csv

TASKS = {"train_classifier.py": "classification", "train_segmentation.py": "segmentation",
         "train_colorization.py": "colorization"}
GRID = {"optimizer": ("sgd", "adam"), "schedule": ("none", "step", "multistep"), "lr": (1e-4, 1e-3, 1e-2)}
PAIRS = {"as they are": ("unet", "fcn32"), "at equal width": ("unet", "fcn32-equal-width"),
         "at equal parameters": ("unet", "fcn32-equal-parameters"),
         "at equal parameters and twice the side": ("unet-twice", "fcn32-twice")}


def plan_runs(args, size, seed, labelled, classes):
    """Name -> (training script, settings) of all that is trained for one seed, small enough for two CPU cores."""
    narrow, wide = args.width or 16, args.width or 64
    runs = {}
    for cell in itertools.product(*GRID.values()) if labelled else ():
        settings = {"recipe": "report", "epochs": 8, "width": narrow} | dict(zip(GRID, cell))
        runs["-".join(map(str, cell))] = "train_classifier.py", settings
    unet, equal = {"model": "unet", "width": narrow}, {"model": "fcn32", "width": equal_width(narrow, classes)}
    networks = {"unet": unet, "fcn32": {"model": "fcn32", "width": wide}, "fcn32-equal-parameters": equal}
    if narrow != wide:
        networks["fcn32-equal-width"] = {"model": "fcn32", "width": narrow}
    if seed == 0:  # four times the work, so for one seed
        twice = {"size": [2 * side for side in size]}
        networks |= {"unet-twice": unet | twice, "fcn32-twice": equal | twice}
    runs |= {name: ("train_segmentation.py", settings) for name, settings in networks.items()}
    colors = {"target": "rgb", "epochs": 8 if args.data == "scenes" else 25, "width": narrow}
    for name, settings in (("skips", colors), ("noskips", colors | {"skips": False})):
        runs[name] = "train_colorization.py", settings
    common = {"data": args.data, "size": list(size), "seed": seed, "precision": args.precision}
    asked = {"epochs": args.epochs} if args.epochs else {}
    return {name: (script, common | settings | asked) for name, (script, settings) in runs.items()}


def equal_width(width, classes):
    """The least width at which FCN-32 has at least as many parameters as a U-Net of this width."""
    def parameters(**network):
        with torch.device("meta"):  # nothing is allocated
            return sum(p.numel() for p in build_network(network).parameters())

    unet = parameters(name="unet", in_channels=3, out_channels=classes, width=width)
    return next(own for own in itertools.count(1) if parameters(name="fcn32", classes=classes, width=own) >= unet)


def as_flags(settings):
    """{"size": [96, 128], "skips": False} -> ["--size", "96", "128", "--no-skips"]"""
    words = []
    for key, value in settings.items():
        parts = value if isinstance(value, list) else [value]
        words += [f"--no-{key}"] if value is False else [f"--{key}", *map(str, parts)]
    return words


def was_made_with(folder, script, settings, open_test):
    """Whether the run in a folder, finished or not, has these settings, and its test images are those of now."""
    try:
        config = json.loads((folder / "config.json").read_text())
        made = all(config["settings"].get(key) == value for key, value in settings.items())
        test = open_test(TASKS[script], settings["seed"], tuple(settings["size"])).splits["test"]
        return made and config["digests"]["test"] == test.digest
    except (OSError, json.JSONDecodeError, LookupError, TypeError, AttributeError):
        return False


def train(*words):
    """Run a training script in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, *map(str, words)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own it gets one signal, after which it saves; a Ctrl-C would send a second.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        print("stopped; the report's own command goes on from here", file=sys.stderr)
        raise
    if code:
        raise InputError(f"a run failed, its reason is above: {shlex.join(command)}")


def train_missing(args, data, labelled, open_test):
    """Train what is missing, and go on where a run was stopped. Returns name -> runs, one a seed."""
    asked = [f"-{key}{getattr(args, key)}" for key in ("epochs", "width") if getattr(args, key)]
    folder = Path(args.runs) / "report" / (data.name + "".join(asked))  # smaller runs never count as the report's own
    plans = [(name, folder / f"{name}-s{seed}", *plan) for seed in range(args.seeds)
             for name, plan in plan_runs(args, data.size, seed, labelled, len(data.classes)).items()]
    ours = {run: was_made_with(run, *plan, open_test) for _, run, *plan in plans}
    missing = [plan for plan in plans if not (ours[plan[1]] and (plan[1] / "summary.json").exists())]
    print(f"{len(plans) - len(missing)} of {len(plans)} runs are there", flush=True)
    for number, (_, run, script, settings) in enumerate(missing, 1):
        print(f"{number}/{len(missing)}  {run.name}", flush=True)
        train(Path(__file__).parents[1] / script, *as_flags(settings), "--device", args.device, "--data-dir",
              args.data_dir, "--out", run, *["--resume"] * (ours[run] and (run / "last.pt").exists()))
    results = defaultdict(list)
    for name, *plan in plans:
        results[name].append(read_run(*plan))
    return results


def read_run(folder, script, settings):
    """What a finished run left: summary.json and more. "val": the scores on val of the epoch that was kept."""
    summary, config = (json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "config"))
    history = read_csv(folder / "metrics.csv")
    val = {key[4:]: float(value) for key, value in history[summary["best_epoch"] - 1].items() if key[:4] == "val_"}
    return config | summary | {"folder": folder, "command": ["python", script, *as_flags(settings)],
                               "history": history, "val": val}


def count_images(run, load, split):
    """An array with a row for each test image, of which the interval of a single seed follows."""
    if run["task"] == "colorization":
        rows = read_csv(run["folder"] / "images.csv")
        return np.array([[float(row[key]) for key in ("sharpness", "true_sharpness")] for row in rows])
    if run["task"] == "segmentation":
        return np.stack([segmentation_row(*pair, len(run["metrics"]["iou"])) for masks in predicted_masks(
            load(run), split) for pair in zip(*(each.cpu().numpy() for each in masks))])


@torch.inference_mode()
def recognize(classifier, skips, noskips, split):
    """How often a classifier is right on images as they are, in grey, and coloured by networks: name -> share."""
    hits = Counter()
    for images, labels, _ in batches(split, 64, classifier.device):
        rgb = images.float() / 255
        lightness, _ = lightness_and_ab(rgb)
        shown = {"truth": rgb, "grey": with_colors(lightness)}
        for name, painter in (("with skips", skips), ("without", noskips)):
            shown[name] = paint(painter(lightness), lightness, painter.metadata)
        for name, image in shown.items():
            hits[name] += int((class_probabilities(classifier, image).argmax(1) == labels).sum())
    return {name: count / len(split) for name, count in hits.items()}


def grid_cells(results):
    """The cells of task 1's grid: the settings, the accuracy on val and the runs of each."""
    return [{key: runs[0]["settings"][key] for key in GRID} | {"val": values(runs, "val", "accuracy"), "runs": runs}
            for runs in results.values() if runs[0]["task"] == "classification"]


def report(args):
    """Make the report anew: train what is missing, test every claim, and draw all figures and tables."""
    device, dtype = setup(args)

    @functools.cache
    def open_test(task, seed, size):
        return open_data(args.data, task, size, args.data_dir, seed, splits=("test",))

    def test_split(run):
        return open_test(run["task"], run["seed"], tuple(run["size"])).splits["test"]

    def load(run):
        return load_predictor(run["folder"], device, dtype)

    data, why_no_labels = open_test("segmentation", 0, tuple(args.size) if args.size else None), ""
    try:
        open_test("classification", 0, data.size)
    except InputError as error:  # task 1 is left out
        why_no_labels = str(error)
    results = train_missing(args, data, not why_no_labels, open_test)
    for run, *_ in results.values():
        run["counts"] = count_images(run, load, test_split(run))
    pairs = {where: {"U-Net": results[unet], "FCN-32": results[fcn]} for where, (unet, fcn) in PAIRS.items()
             if fcn in results}
    painters = {"with skips": results["skips"], "without": results["noskips"]}
    cells, recognized, chance = grid_cells(results), [], 0
    if cells:
        classifiers = pick(cells)["runs"]
        recognized = [recognize(*map(load, runs), test_split(runs[0])) for runs in zip(classifiers, *painters.values())]
        labels = test_split(classifiers[0]).targets
        chance = np.bincount(labels).max() / len(labels)  # the most frequent class for all
    claims = accuracy_claims(cells, chance) + cost_claims(pairs) + score_claims(pairs) + skip_claims(painters)
    networks = {f"{name} {runs[0]['settings']['width']}": runs for where, pair in pairs.items() if "twice" not in where
                for name, runs in pair.items()}
    out, split = Path(args.out), test_split(results["unet"][0])
    out.mkdir(parents=True, exist_ok=True)
    drawn = curve_figures(networks, painters, cells, out) | prediction_figures(results, load, split, data, out)
    tables = make_tables(results, cells, networks, painters, recognized, why_no_labels)
    write_report(args, results["unet"][0], claims, drawn, tables)
    for claim in claims:
        print(f"{claim.text}: {claim.verdict}")
    print(f"{Path(args.out, 'index.html')}, report.md, figures and tables beside it")


def add_report_arguments(sub):
    sub.add_argument("--data", default="scenes", type=os.path.normpath,
                     help="scenes, a named data set, or a folder (default: scenes)")
    sub.add_argument("--data-dir", default="data")
    sub.add_argument("--size", type=positive_int, nargs=2, metavar=("H", "W"), help="default: the data set's own")
    sub.add_argument("--out", default="report", help="the folder to write to (default: report)")
    sub.add_argument("--runs", default="runs", help="where runs are kept, in report/ (default: runs)")
    sub.add_argument("--seeds", type=positive_int, default=3, help="runs of each kind (default: 3)")
    sub.add_argument("--epochs", type=positive_int, help="of every run (default: enough to tell)")
    sub.add_argument("--width", type=positive_int, help="channels of every network's first layer")
