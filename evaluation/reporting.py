"""Make the homework's report anew: plan the runs that it needs, train what is missing, write the pages.

    python evaluate.py report --seeds 1
"""
import contextlib
import functools
import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from data import InputError
from data.sources import open_data
from evaluation.claims import accuracy_claims, best_on_val, cost_claims, pick, score_claims, skip_claims
from evaluation.classification import class_probabilities
from evaluation.colorization import lightness_and_ab, paint, with_colors
from evaluation.counts import segmentation_row
from evaluation.report_figures import curve_figures, prediction_figures
from evaluation.report_pages import make_tables, name_networks, write_report
from evaluation.segmentation import predicted_masks
from models import build_network
from training.checkpoint import load_predictor
from training.folder import fcntl
from training.settings import positive_int, setup
from utils import batches, read_csv, write_atomically

TASKS = {"train_classifier.py": "classification", "train_segmentation.py": "segmentation",
         "train_colorization.py": "colorization"}
GRID = {"optimizer": ("sgd", "adam"), "schedule": ("none", "step", "multistep"), "lr": (1e-4, 1e-3, 1e-2)}


def plan_runs(args, size, seed, labelled, classes):
    """Name -> (training script, settings) of all that is trained for one seed, small enough for two CPU cores."""
    common = {"data": args.data, "size": list(size), "seed": seed, "precision": args.precision}
    narrow, wide = args.width or 16, args.width or 64
    runs = {}
    for cell in itertools.product(*GRID.values()) if labelled else ():
        settings = {"recipe": "report", "epochs": 8, "width": narrow} | dict(zip(GRID, cell))
        runs["-".join(map(str, cell))] = "train_classifier.py", settings
    equal = {"model": "fcn32", "width": width_of_equal_parameters(narrow, classes)}
    networks = {"unet": {"model": "unet", "width": narrow}, "fcn32": {"model": "fcn32", "width": wide},
                "fcn32-equal-width": {"model": "fcn32", "width": narrow}, "fcn32-equal-parameters": equal}
    if narrow == wide:
        del networks["fcn32-equal-width"]
    if seed == 0:  # four times the work, so for one seed
        twice = {"size": [2 * side for side in size]}
        networks |= {"unet-twice": networks["unet"] | twice, "fcn32-twice": equal | twice}
    runs |= {name: ("train_segmentation.py", settings) for name, settings in networks.items()}
    epochs = 8 if args.data == "scenes" else 25
    for name, skips in (("skips", True), ("noskips", False)):
        settings = {"target": "rgb", "skips": skips, "epochs": epochs, "width": narrow}
        runs[name] = "train_colorization.py", settings
    asked = {"epochs": args.epochs} if args.epochs else {}
    return {name: (script, common | settings | asked) for name, (script, settings) in runs.items()}


def width_of_equal_parameters(width, classes):
    """The least width at which FCN-32 has at least as many parameters as a U-Net of this width."""
    def count(**network):
        with torch.device("meta"):  # nothing is allocated
            return sum(p.numel() for p in build_network(network).parameters())

    unet = count(name="unet", in_channels=3, out_channels=classes, width=width)
    return 1 + bisect_left(range(1, 1024), unet, key=lambda width: count(name="fcn32", classes=classes, width=width))


def as_flags(settings):
    """{"size": [96, 128], "skips": False} -> ["--size", "96", "128", "--no-skips"]"""
    words = []
    for key, value in settings.items():
        if isinstance(value, bool):
            words += [] if value else [f"--no-{key}"]
        else:
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def was_made_with(folder, script, settings, open_test):
    """Whether the run in a folder, finished or not, has these settings, and its test images are those of now."""
    try:
        config = json.loads((folder / "config.json").read_text())
        made = all(config["settings"].get(key) == value for key, value in settings.items())
        test = open_test(TASKS[script], settings["seed"], tuple(settings["size"])).splits["test"]
        return made and config["pictures"]["test"] == test.digest
    except (OSError, json.JSONDecodeError, LookupError, TypeError, AttributeError):
        return False


def train_missing(args, plans, open_test):
    """Train each run of `plans`, folder -> (script, settings), that is not finished, going on where one was stopped."""
    missing = {folder: plan for folder, plan in plans.items()
               if not (was_made_with(folder, *plan, open_test) and (folder / "summary.json").exists())}
    print(f"{len(plans) - len(missing)} of {len(plans)} runs are there", flush=True)
    for number, (folder, (script, settings)) in enumerate(missing.items(), 1):
        started = time.monotonic()
        wait_until_free(folder)
        go_on = was_made_with(folder, script, settings, open_test) and (folder / "last.pt").exists()
        train_apart([Path(__file__).parents[1] / script, *as_flags(settings), "--device", args.device, "--data-dir",
                     args.data_dir, "--out", folder, *["--resume"] * go_on])
        print(f"{number}/{len(missing)}  {folder.name}  {time.monotonic() - started:.0f} s", flush=True)


def wait_until_free(folder):
    """A report that was killed may have left a run behind, which holds the folder until its epoch ends."""
    lock = folder / ".lock"
    if fcntl and lock.exists():
        with open(lock, "r+") as file, contextlib.suppress(OSError):  # not all file systems have locks
            fcntl.lockf(file, fcntl.LOCK_EX)


def train_apart(words):
    """Run a training script in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-u", *map(str, words)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own it gets one signal, after which it saves; a Ctrl-C would send a second. Its output is an
    # unbuffered pipe, so that it ends when it reports its epoch, should this process be killed.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        process.communicate()
    except KeyboardInterrupt:
        process.terminate()
        process.communicate()
        print("stopped; the report's own command goes on from here", file=sys.stderr)
        raise
    if process.returncode:
        raise InputError(f"a run failed, its reason is above: {shlex.join(command)}")


def read_run(folder, script, settings):
    """What a finished run left: its summary, and its folder, command, settings, network, machine and history."""
    config = json.loads((folder / "config.json").read_text())
    return json.loads((folder / "summary.json").read_text()) | {
        "folder": folder, "command": ["python", script, *as_flags(settings)],
        **{key: config[key] for key in ("settings", "network", "machine")},
        "history": read_csv(folder / "metrics.csv")}


# ---------------------------------------------------------------------------------------------------------------------
# What the networks make of the test images


def count_images(run, split, device, dtype):
    """segmentation_row of every image, (N, 7, K), kept in the run's folder."""
    path = run["folder"] / "counts.npy"
    if not path.exists():
        predictor = load_predictor(run["folder"], device, dtype)
        rows = [segmentation_row(*pair, len(predictor.metadata["classes"]))
                for masks in predicted_masks(predictor, split) for pair in zip(*(each.cpu().numpy() for each in masks))]
        np.save(buffer := io.BytesIO(), np.stack(rows))
        write_atomically(path, buffer.getbuffer())
    return np.load(path)


@torch.inference_mode()
def recognize(classifier, painters, split, device, dtype):
    """How often a classifier is right on images as they are, in grey, and coloured by networks: name -> share.

    classifier: a run. painters: name -> run. split: of a classification data set.
    """
    classifier = load_predictor(classifier["folder"], device, dtype)
    painters = {name: load_predictor(run["folder"], device, dtype) for name, run in painters.items()}
    hits = Counter()
    for images, labels, _ in batches(split, 64, device):
        rgb = images.float() / 255
        lightness, _ = lightness_and_ab(rgb)
        shown = {"truth": rgb, "grey": with_colors(lightness)} | {
            name: paint(predictor(lightness), lightness, predictor.metadata) for name, predictor in painters.items()}
        for name, image in shown.items():
            hits[name] += int((class_probabilities(classifier, image).argmax(1) == labels).sum())
    return {name: count / len(split) for name, count in hits.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The command


def train_all(args, data, labelled, open_test):
    """Train what is missing. Returns name -> runs, one a seed."""
    asked = [f"-{key}{getattr(args, key)}" for key in ("epochs", "width") if getattr(args, key)]
    folder = Path(args.runs) / "report" / (data.name + "".join(asked))  # smaller runs never count as the report's own
    plans = [(name, folder / f"{name}-s{seed}", *plan) for seed in range(args.seeds)
             for name, plan in plan_runs(args, data.size, seed, labelled, len(data.classes)).items()]
    train_missing(args, {run: (script, settings) for _, run, script, settings in plans}, open_test)
    results = defaultdict(list)
    for name, *plan in plans:
        results[name].append(read_run(*plan))
    return results


def compare_networks(results):
    """The comparisons of task 2: what they are called -> {"U-Net": runs, "FCN-32": runs}."""
    widths = [results[name][0]["settings"]["width"] for name in ("unet", "fcn32")]
    pairs = {"with U-Net {} and FCN-32 {}".format(*widths): ("unet", "fcn32"),
             "at equal width": ("unet", "fcn32-equal-width"),
             "at equal parameters": ("unet", "fcn32-equal-parameters"),
             "at equal parameters and twice the side": ("unet-twice", "fcn32-twice")}
    return {where: dict(zip(("U-Net", "FCN-32"), (results[unet], results[fcn])))
            for where, (unet, fcn) in pairs.items() if fcn in results}


def report(args):
    """Make the report anew: train what is missing, test every claim, and draw all figures and tables."""
    device, dtype = setup(args)
    out = Path(args.out)

    @functools.cache
    def open_test(task, seed, size):
        return open_data(args.data, task, size, args.data_dir, seed, splits=("test",))

    def test_split(task, run):
        return open_test(task, run["seed"], tuple(run["size"])).splits["test"]

    def counts(run):
        return count_images(run, test_split("segmentation", run), device, dtype)

    data, why_no_labels = open_test("segmentation", 0, tuple(args.size) if args.size else None), None
    try:
        open_test("classification", 0, data.size)
    except InputError as error:  # task 1 is left out
        why_no_labels = str(error)
    results = train_all(args, data, not why_no_labels, open_test)
    unet, skips, noskips = (results[name] for name in ("unet", "skips", "noskips"))
    cells = [{key: runs[0]["settings"][key] for key in GRID} | {"val": best_on_val(runs, "accuracy"), "runs": runs}
             for runs in results.values() if runs[0]["task"] == "classification"]
    recognized, chance = [], 0
    for run, *painters in zip(pick(cells)["runs"] if cells else (), skips, noskips):
        split = test_split("classification", run)
        recognized.append(recognize(run, dict(zip(("with skips", "without"), painters)), split, device, dtype))
        chance = np.bincount(split.targets).max() / len(split)  # the most frequent class for all
    pairs = compare_networks(results)
    claims = (accuracy_claims(cells, chance) + cost_claims(pairs) + score_claims(pairs, counts)
              + skip_claims(skips, noskips))
    out.mkdir(parents=True, exist_ok=True)
    split = test_split("segmentation", unet[0])
    figures = prediction_figures(results, split, data, counts(unet[0]), device, dtype, out)
    networks = name_networks(pairs)
    figures |= curve_figures(results, networks, cells, out)
    write_report(args, unet[0], claims, figures, make_tables(results, cells, networks, recognized, why_no_labels))
    for claim in claims:
        print(f"{claim.text}: {claim.verdict}")
    print(f"{out / 'index.html'}, report.md, figures and tables beside it")


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
