"""Make the homework's report anew: train what is missing, test every claim, write report.md and its figures.

    python evaluate.py report --seeds 1
"""
import functools
import itertools
import json
import shlex
import signal
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from data import InputError
from data.sources import open_data
from evaluation.claims import make_claims, of_task, pick, values
from evaluation.classification import class_probabilities
from evaluation.colorization import lightness_and_ab, paint, to_images, with_colors
from evaluation.counts import COMPUTE, ROW
from evaluation.segmentation import predicted_classes
from models import build_network
from training.checkpoint import load_predictor
from training.settings import setup
from utils import (batches, colorize_mask, new_figure, plot_heat_map, plot_images, read_csv, save_figure,
                   write_atomically)

TASKS = {"train_classifier.py": "classification", "train_segmentation.py": "segmentation",
         "train_colorization.py": "colorization"}
GRID = {"optimizer": ("sgd", "adam"), "schedule": ("none", "step", "multistep"), "lr": (1e-4, 1e-3, 1e-2)}
TABLES = {  # task -> the rows of its table: name -> the path of a number in a run
    "classification": {"accuracy on val": ("val", "accuracy"), "on test": ("accuracy",)},
    "segmentation": {
        "mIoU on val": ("val", "miou"), "mIoU on test": ("miou",), "boundary F1": ("boundary_f1",),
        "pixel accuracy": ("pixel_accuracy",), "parameters": ("parameters",), "forward (GFLOPs)": ("gflops_per_image",),
        "training (images/s)": ("images_per_second",), "peak GPU memory (MB)": ("peak_memory_mb",)},
    "colorization": {
        "PSNR (dB) on val": ("val", "psnr"), "PSNR (dB) on test": ("psnr",), "SSIM": ("ssim",),
        "CIEDE2000 (lower is better) on val": ("val", "delta_e"), "CIEDE2000 on test": ("delta_e",),
        "sharpness ratio": ("sharpness_ratio",), "colourfulness, relative difference from the truth's": ("colour",),
        "task 1's classifier is right": ("recognized",)}}


def plan_runs(args, size, seed, labelled, classes):
    """Name -> (training script, settings) of all that is trained for one seed, small enough for two CPU cores."""
    narrow, wide = args.width or 16, args.width or 64
    classifier, runs = {"recipe": "report", "epochs": 8, "width": narrow}, {}
    for cell in itertools.product(*GRID.values()) if labelled else ():
        runs["-".join(map(str, cell))] = "train_classifier.py", classifier | dict(zip(GRID, cell))
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


def was_made_with(folder, settings, digest):
    """Whether the run in a folder, finished or not, has these settings, and its test images are those of now."""
    try:
        config = json.loads((folder / "config.json").read_text())
        made = all(config["settings"].get(key) == value for key, value in settings.items())
        return made and config["digests"]["test"] == digest
    except (OSError, json.JSONDecodeError, LookupError):
        return False


def train(*words):
    """Run a training script in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, *map(str, words)]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own it gets one signal, after which it saves; a Ctrl-C would send a second.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait()
    finally:
        process.terminate()
        process.wait()
    if code:
        raise InputError(f"a run failed, its reason is above: {shlex.join(command)}")


def train_missing(args, data, labelled, open_test):
    """Train what is missing, and go on where a run was stopped. Returns name -> runs, one a seed."""
    asked = [f"-{key}{getattr(args, key)}" for key in ("epochs", "width") if getattr(args, key)]
    folder = Path("runs/report", data.name + "".join(asked))  # smaller runs never count as the report's own
    plans = [(name, folder / f"{name}-s{seed}", *plan) for seed in range(args.seeds)
             for name, plan in plan_runs(args, data.size, seed, labelled, len(data.classes)).items()]
    splits = [open_test(TASKS[script], settings["seed"], tuple(settings["size"])).splits["test"]
              for _, _, script, settings in plans]
    ours = {run: was_made_with(run, settings, split.digest) for (_, run, _, settings), split in zip(plans, splits)}
    missing = [plan for plan in plans if not (ours[plan[1]] and (plan[1] / "summary.json").exists())]
    print(f"{len(plans) - len(missing)} of {len(plans)} runs are there", flush=True)
    for number, (_, run, script, settings) in enumerate(missing, 1):
        print(f"{number}/{len(missing)}  {run.name}", flush=True)
        train(Path(__file__).parents[1] / script, *as_flags(settings), "--device", args.device, "--data-dir",
              args.data_dir, "--out", run, *["--resume"] * (ours[run] and (run / "last.pt").exists()))
    results = defaultdict(list)
    for (name, *plan), split in zip(plans, splits):
        results[name].append(read_run(*plan) | {"split": split})
    return results


def read_run(folder, script, settings):
    """All that a finished run left, as one dict. "val": the scores on val of the epoch that was kept."""
    summary, config = (json.loads((folder / f"{name}.json").read_text()) for name in ("summary", "config"))
    history = read_csv(folder / "metrics.csv")
    val = {key[4:]: float(value) for key, value in history[summary["best_epoch"] - 1].items() if key[:4] == "val_"}
    run = config | summary | summary["metrics"] | {"folder": folder, "history": history, "val": val}
    if not run["machine"]["device"].startswith("cuda"):
        run["peak_memory_mb"] = None  # not a GPU's
    return run | {"command": ["python", script, *as_flags(settings)]}


@torch.inference_mode()
def count_images(run, predictor):
    """The row of evaluation.counts of each test image (N, ...)."""
    task, rows = run["task"], []
    if task == "colorization":
        scored = [list(row.values())[1:] for row in read_csv(run["folder"] / "images.csv")]
        return np.array([[*map(float, row), 1, 0] for row in scored])  # one image, without a credit for its colours
    for images, targets, _ in batches(run["split"], 32, predictor.device):
        predicted = (predicted_classes(predictor, images) if task == "segmentation"
                     else class_probabilities(predictor, images.float() / 255).argmax(1))
        pairs = zip(targets.cpu().numpy(), predicted.cpu().numpy())
        rows += [ROW[task](*pair, len(predictor.metadata["classes"])) for pair in pairs]
    return np.stack(rows)


@torch.inference_mode()
def recognize(classifier, painters, split):
    """How often a classifier is right on images as they are, in grey, and coloured by `painters`: name -> share."""
    hits = Counter()
    for images, labels, _ in batches(split, 64, classifier.device):
        rgb = images.float() / 255
        lightness, _ = lightness_and_ab(rgb)
        shown = {name: paint(painter(lightness), lightness, painter.metadata) for name, painter in painters.items()}
        for name, image in (shown | {"truth": rgb, "grey": with_colors(lightness)}).items():
            hits[name] += int((class_probabilities(classifier, image).argmax(1) == labels).sum())
    return {name: count / len(split) for name, count in hits.items()}


def color_columns(painters, recognized):
    """The columns of task 3's table: name -> dicts, one a seed. recognized: what `recognize` gives, one a seed."""
    columns = painters | {name: values(painters["skips"], "baselines", name) for name in ("grey", "mean colour")}
    columns["truth"] = [{"ssim": 1.0, "delta_e": 0.0, "sharpness_ratio": 1.0, "colorfulness_ratio": 1.0}
                        for _ in painters["skips"]]
    for name, runs in columns.items():
        for run, shares in itertools.zip_longest(runs, recognized, fillvalue={}):
            run.update(colour=run["colorfulness_ratio"] - 1, recognized=shares.get(name))
    return columns


def compute_table(results):
    """What training cost; a backward pass takes twice as much as a forward one."""
    rows = []
    for task in TASKS.values():
        runs = sum(of_task(results, task).values(), [])
        work = sum(3 * run["gflops_per_image"] * run["settings"]["batch_size"] * int(run["history"][-1]["step"])
                   for run in runs)
        rows.append({"task": task, "runs": len(runs), "training (s)": round(sum(run["train_seconds"] for run in runs)),
                     "PFLOPs": f"{work / 1e6:.3g}"})
    return rows


def draw_scores(results, out):
    """Curves over the epochs, and task 1's grid. Returns key of a claim -> {file: what it shows}."""
    cells, networks, painters = (of_task(results, task) for task in TASKS.values())
    drawn = {}
    if cells:
        grid = [runs[0]["settings"] | {"accuracy on val": values(runs, "val", "accuracy").average}
                for runs in cells.values()]
        plot_heat_map(grid, ("optimizer", "schedule"), ("lr",), "accuracy on val", out / "grid.png")
        drawn["adam"] = {"grid.png": "Accuracy on val (higher is better) of every setting, the mean over seeds"}
    for key, score, label, sides in (("miou", "val_miou", "mIoU on val (higher is better)", networks),
                                     ("convergence", "val_loss", "Loss on val (lower is better)", painters)):
        figure, ((axis,),) = new_figure(1, 1, 4.6, 3.6)
        for (name, runs), marker in zip(sides.items(), "os^vDP"):
            scores = np.array([[float(row[score]) for row in run["history"]] for run in runs])
            epochs = np.arange(1, scores.shape[1] + 1)
            line, = axis.plot(epochs, scores.mean(0), label=name, marker=marker, markersize=3)
            axis.fill_between(epochs, scores.min(0), scores.max(0), color=line.get_color(), alpha=0.2)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        save_figure(figure, out / f"{key}.png")
        drawn[key] = {f"{key}.png": f"{label} over the epochs: {', '.join(sides)}. The line is the mean over seeds, "
                                    "the band goes from the least to the most."}
    return drawn


@torch.inference_mode()
def draw_predictions(results, load, data, out):
    """Three test images and what the networks of the first seed make of them, narrow, for phones.

    load(run): its predictor. Returns key of a claim -> {file: what it shows}.
    """
    split, scores = results["unet"][0]["split"], COMPUTE["segmentation"](results["unet"][0]["counts"])["miou"]
    order, drawn = np.argsort(scores, kind="stable"), {"edges": {}, "detail": {}}
    unet, fcn, skips, noskips = (load(results[name][0]) for name in ("unet", "fcn32", "skips", "noskips"))
    legend = [*zip(data.classes, data.colors), ("void", (0, 0, 0))]
    for kind, i in zip(("median", "best", "worst"), order[[len(order) // 2, -1, 0]]):
        rgb = torch.from_numpy(np.array(split.images[i]))[None].to(unet.device).float() / 255
        lightness, _ = lightness_and_ab(rgb)
        masks = np.asarray(split.targets[i]), *(net(rgb).argmax(1)[0].byte().cpu().numpy() for net in (fcn, unet))
        painted = [paint(net(lightness), lightness, net.metadata) for net in (noskips, skips)]
        truth, grey, *painted = (to_images(each)[0] for each in (rgb, with_colors(lightness), *painted))
        masks = [colorize_mask(mask, data.colors) for mask in masks]
        for key, images, titles, colors in (
                ("edges", [truth, *masks], ("image", "truth", "FCN-32", "U-Net"), legend),
                ("detail", [grey, truth, *painted], ("grey", "truth", "without skips", "with skips"), ())):
            file = f"{key}-{kind}.png"
            plot_images([images[:2], images[2:]], [titles[:2], titles[2:]], out / file, colors)
            drawn[key][file] = (f"The {kind} test image by its mIoU with U-Net, {split.names[i]} ({scores[i]:.3f}): "
                                f"{', '.join(titles)}")
    return drawn


def paragraph(text):
    return textwrap.fill(text, 74, break_long_words=False, break_on_hyphens=False)


def table(rows):
    """Dicts with equal keys -> Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def command_line(words):
    """A command that can be copied, a line a flag, as Markdown."""
    flags = "".join((" \\\n    " if word.startswith("--") else " ") + shlex.quote(word) for word in words)
    return f"```\n{flags.strip()}\n```"


def claim_parts(claims, drawn):
    """A table of all claims, and of each its criterion, then the evidence."""
    yield "## Claims"
    yield table([{key: claim[key] for key in ("claim", "verdict", "difference", "seeds")} for claim in claims])
    for claim in claims:
        yield from (f"### {claim['claim']}", paragraph(f"Criterion: {claim['criterion']}"),
                    paragraph(f"Verdict: {claim['verdict']}."))
        if claim["rows"]:
            yield table(claim["rows"])
        for file, text in drawn.get(claim["key"], {}).items():
            yield from (f"![{text}]({file})", paragraph(text))


def task_parts(results, recognized):
    """Of each task a table of scores, and the commands of its runs."""
    cells, networks, painters = (of_task(results, task) for task in TASKS.values())
    by_class = {f"IoU {name}": ("iou", name) for name in results["unet"][0]["iou"]}
    if cells:
        yield "## Task 1: classification"
        yield table([{"setting": name} | {row: values(runs, *path) for row, path in TABLES["classification"].items()}
                     for name, runs in cells.items()])
        yield command_line(next(iter(cells.values()))[0]["command"])
    for title, columns, rows, shown in (
            ("Task 2: segmentation", networks, TABLES["segmentation"] | by_class, networks),
            ("Task 3: colorization", color_columns(painters, recognized), TABLES["colorization"], painters)):
        yield f"## {title}"
        yield table([{"": row} | {name: values(runs, *path) for name, runs in columns.items()}
                     for row, path in rows.items()])
        yield from (command_line(runs[0]["command"]) for runs in shown.values())


def report(args):
    """Make the report anew: train what is missing, test every claim, and draw all figures and tables."""
    device, dtype = setup(args)

    @functools.cache
    def open_test(task, seed, size):
        return open_data(args.data, task, size, args.data_dir, seed, splits=("test",))

    def load(run):
        return load_predictor(run["folder"], device, dtype)

    data, labelled = open_test("segmentation", 0, tuple(args.size) if args.size else None), True
    try:
        open_test("classification", 0, data.size)
    except InputError as error:
        print(f"task 1 is left out: {error}")
        labelled = False
    results = train_missing(args, data, labelled, open_test)
    for run, *_ in results.values():
        run["counts"] = count_images(run, load(run))
    classifiers = results[pick(results)] if labelled else []
    recognized = [recognize(load(run), {"skips": load(skips), "noskips": load(noskips)}, run["split"])
                  for run, skips, noskips in zip(classifiers, results["skips"], results["noskips"])]
    out, claims = Path(args.out), make_claims(results)
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw_scores(results, out) | draw_predictions(results, load, data, out)
    machine = "{name} ({device}), {cores} cores, {threads} threads; PyTorch {torch}".format(
        **results["unet"][0]["machine"])
    parts = [f"# Classify, segment, colorize: the report on {data.name}",
             paragraph(f"Data: {args.data} at {data.size[0]}x{data.size[1]}. Seeds: "
                       f"{', '.join(map(str, range(args.seeds)))}. Machine: {machine}. Made with:"),
             command_line(["python", Path(sys.argv[0]).name, *sys.argv[1:]]), *claim_parts(claims, drawn),
             *task_parts(results, recognized), "## Compute spent", table(compute_table(results)),
             Path(__file__).with_name("report_method.md").read_text("utf-8")]
    write_atomically(out / "report.md", "\n\n".join(parts))
    for claim in claims:
        print(f"{claim['claim']}: {claim['verdict']}")
    print(f"{out / 'report.md'}, its figures beside it")
