"""Make the homework's report again: train what is missing, test every claim, write report.md and its figures.

    python evaluate.py report --seeds 1"""
import functools
import itertools
import json
import shlex
import statistics
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import torch

from data import InputError
from data.sources import open_data
from evaluation.claims import make_claims, of_task, pick, shown, values
from evaluation.classification import class_probabilities
from evaluation.colorization import draw_colorization, lightness_and_ab, paint, with_colors
from evaluation.segmentation import draw_segmentation, score_segmentation
from models import build_network
from training.checkpoint import load_predictor
from training.machine import setup
from utils import batches, plot_heat_map, plot_lines, read_csv, write_atomically

SCRIPTS = {"classification": "train_classifier.py", "segmentation": "train_segmentation.py",
         "colorization": "train_colorization.py"}
GRID = {"optimizer": ("sgd", "adam"), "schedule": ("none", "step", "multistep"), "lr": (1e-4, 1e-3, 1e-2)}
# The rows of a task's table: name -> the path of a number in a run.
SEGMENTATION = {
    "mIoU on val": ("val", "miou"), "mIoU on test": ("miou",), "boundary F1": ("boundary_f1",),
    "pixel accuracy": ("pixel_accuracy",), "parameters": ("parameters",), "forward (GFLOPs)": ("gflops_per_image",),
    "training (images/s)": ("images_per_second",), "peak GPU memory (MB)": ("peak_memory_mb",)}
COLORIZATION = {
    "PSNR (dB) on val": ("val", "psnr"), "PSNR (dB) on test": ("psnr",), "SSIM": ("ssim",),
    "CIEDE2000 (lower is better) on val": ("val", "delta_e"), "CIEDE2000 on test": ("delta_e",),
    "sharpness ratio": ("sharpness_ratio",), "colourfulness, relative difference from the truth's": ("colour",)}


def plan_runs(args, size, seed, labelled, classes):
    """Name -> (task, settings) of all runs for one seed, small enough for two CPU cores."""
    narrow, wide = args.width or 16, args.width or 64
    cells = {"-".join(map(str, cell)): {"recipe": "report", "epochs": 8, "width": narrow} | dict(zip(GRID, cell))
             for cell in itertools.product(*GRID.values()) if labelled}
    unet, equal = {"model": "unet", "width": narrow}, {"model": "fcn32", "width": equal_width(narrow, classes)}
    networks = {"unet": unet, "fcn32": {"model": "fcn32", "width": wide}, "fcn32-equal-parameters": equal}
    if narrow != wide:
        networks["fcn32-equal-width"] = {"model": "fcn32", "width": narrow}
    if seed == 0:  # only one seed, as it is four times the work
        twice = {"size": [2 * side for side in size]}
        networks |= {"unet-twice": unet | twice, "fcn32-twice": equal | twice}
    colors = {"target": "rgb", "epochs": 8 if args.data == "scenes" else 25, "width": narrow}
    painters = {"skips": colors, "noskips": colors | {"skips": False}}
    common = {"data": args.data, "size": list(size), "seed": seed, "precision": args.precision}
    asked = {"epochs": args.epochs} if args.epochs else {}
    return {name: (task, common | settings | asked) for task, runs in zip(SCRIPTS, (cells, networks, painters))
            for name, settings in runs.items()}


def equal_width(width, classes):
    """The smallest width at which FCN-32 has at least as many parameters as a U-Net of this width."""
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


def train_missing(args, data, labelled, open_splits):
    """Train what is missing, and resume stopped runs. Returns name -> runs, one per seed."""
    asked = [f"-{key}{getattr(args, key)}" for key in ("epochs", "width") if getattr(args, key)]
    folder = Path("runs/report", data.name + "".join(asked))  # runs with other settings have another folder
    plans = [(name, folder / f"{name}-s{seed}", *plan) for seed in range(args.seeds)
             for name, plan in plan_runs(args, data.size, seed, labelled, len(data.classes)).items()]
    results = defaultdict(list)
    for number, (name, folder, task, settings) in enumerate(plans, 1):
        seen = open_splits(task, settings["seed"], tuple(settings["size"]))
        plan = {"folder": folder, "asked": settings, "command": ["python", SCRIPTS[task], *as_flags(settings)],
                "test": seen.splits["test"], "true": seen.counts["test"],
                "digests": {split: each.digest for split, each in seen.splits.items()}}
        run = read_run(plan)
        if "metrics" not in run:
            print(f"{number}/{len(plans)}  {folder.name}", flush=True)
            resume = ["--resume"] if "settings" in run and (folder / "last.pt").exists() else []
            train(*plan["command"][1:], "--device", args.device, "--data-dir", args.data_dir, "--out", folder, *resume)
            run = read_run(plan)
        results[name].append(run)
    return results


def train(script, *words):
    """Run a training script in a process of its own, so that its peak memory can be measured."""
    command = [sys.executable, *map(str, (Path(__file__).parents[1] / script, *words))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # Ctrl-C reaches it, too: it saves and ends
        if process.wait():
            raise InputError(f"a run failed, its reason is above: {shlex.join(command)}")


def read_run(plan):
    """A plan and all that its run has written, as one dict; only the plan if it had other settings or images."""
    config, summary = (json.loads(path.read_text()) if path.exists() else {}
                       for path in (plan["folder"] / "config.json", plan["folder"] / "summary.json"))
    settings = config.get("settings", {})
    if ({key: settings.get(key) for key in plan["asked"]} != plan["asked"]
            or config["digests"] != plan["digests"]):
        return plan
    if not summary:
        return plan | config
    history = read_csv(plan["folder"] / "metrics.csv")
    val = {key[4:]: float(value) for key, value in history[summary["best_epoch"] - 1].items() if key[:4] == "val_"}
    if not config["machine"]["device"].startswith("cuda"):
        summary["peak_memory_mb"] = None  # it is not a GPU's
    return plan | config | summary | summary["metrics"] | {"history": history, "val": val}


@torch.inference_mode()
def recognition_table(results, load):
    """The accuracy of task 1's best classifier on test images: original, grey, and coloured by task 3's networks."""
    shares = defaultdict(list)
    for run, *painters in zip(results[pick(results)], results["skips"], results["noskips"]):
        classifier, (skips, noskips), hits = load(run), map(load, painters), Counter()
        for images, labels, _ in batches(run["test"], 64, classifier.device):
            rgb = images.float() / 255
            lightness, _ = lightness_and_ab(rgb)
            skipped, plain = (paint(net(lightness), lightness, net.metadata) for net in (skips, noskips))
            for name, image in {"as they are": rgb, "grey": with_colors(lightness), "coloured with skips": skipped,
                                "coloured without": plain}.items():
                hits[name] += int((class_probabilities(classifier, image).argmax(1) == labels).sum())
        for name, count in hits.items():
            shares[name].append(count / len(run["test"]))
    return table([{"test images": name, "task 1's classifier is right": share} for name, share in shares.items()])


def draw(results, load, out):
    """Draw all figures. load(run): its predictor."""
    cells, networks, painters = (of_task(results, task) for task in SCRIPTS)
    if cells:
        grid = [runs[0]["settings"] | {"accuracy on val": statistics.fmean(values(runs, "val", "accuracy"))}
                for runs in cells.values()]
        plot_heat_map(grid, ("optimizer", "schedule"), ("lr",), "accuracy on val", out / "grid.png")
    for file, score, label, sides in (("miou.png", "val_miou", "mIoU on val (higher is better)", networks),
                                      ("convergence.png", "val_loss", "loss on val (lower is better)", painters)):
        lines = {name: [[row[score] for row in run["history"]] for run in runs] for name, runs in sides.items()}
        plot_lines({label: lines}, out / file)
    unet, skips = results["unet"][0], results["skips"][0]
    segmenters = {"FCN-32": load(results["fcn32"][0]), "U-Net": load(unet)}
    scores = score_segmentation(segmenters["U-Net"], unet["test"], outlines=False)["images"]
    draw_segmentation(segmenters, unet["test"], scores, out / "edges.png", columns=3)  # few in a line, for phones
    draw_colorization({"without skips": load(results["noskips"][0]), "with skips": load(skips)}, skips["test"],
                      read_csv(skips["folder"] / "images.csv"), out / "detail.png", columns=2)


def table(rows):
    """Dicts with equal keys -> Markdown; a list holds one number per seed."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)] if rows else []
    return "\n".join(f"| {' | '.join(map(shown, line))} |" for line in lines)


def command_line(words):
    """A command to copy, with one flag per line, as Markdown."""
    flags = "".join((" \\\n    " if word.startswith("--") else " ") + shlex.quote(word) for word in words)
    return f"```\n{flags.strip()}\n```"


def list_scores(columns, paths):
    """The rows of a table. columns: name -> runs; paths: a row's name -> the path of its number in a run."""
    return [{"": label} | {name: values(runs, *path) for name, runs in columns.items()}
            for label, path in paths.items()]


def task_texts(results):
    """Task -> a table of scores and the commands of its runs; for task 1 only the first command."""
    cells, networks, painters = (of_task(results, task) for task in SCRIPTS)
    settings = [{"setting": name, "accuracy on val": values(runs, "val", "accuracy"),
                 "on test": values(runs, "accuracy")} for name, runs in cells.items()]
    by_class = {f"IoU {name}": ("iou", name) for name in results["unet"][0]["iou"]}
    baselines = {name: values(painters["skips"], "baselines", name) for name in ("grey", "mean colour")}
    colored = {name: [run | {"colour": run["colorfulness_ratio"] - 1} for run in runs]
               for name, runs in (painters | baselines).items()}
    tables = settings, list_scores(networks, SEGMENTATION | by_class), list_scores(colored, COLORIZATION)
    trained = [*cells.values()][:1], networks.values(), painters.values()
    return {task: "\n\n".join([table(rows), *(command_line(runs[0]["command"]) for runs in own)])
            for task, rows, own in zip(SCRIPTS, tables, trained)}


def report(args):
    """Make the report again: train what is missing, test every claim, and draw all figures and tables."""
    device, dtype = setup(args)

    @functools.cache
    def open_splits(task, seed, size):
        return open_data(args.data, task, size, args.data_dir, seed)

    def load(run):
        return load_predictor(run["folder"], device, dtype)

    data, left_out = open_splits("segmentation", 0, tuple(args.size) if args.size else None), ""
    try:
        open_splits("classification", 0, data.size)
    except InputError as error:
        left_out = f"Task 1 is left out: {error}"
        print(left_out)
    results = train_missing(args, data, not left_out, open_splits)
    out, claims = Path(args.out), make_claims(results)
    out.mkdir(parents=True, exist_ok=True)
    draw(results, load, out)
    runs = sum(results.values(), [])
    work = sum(3 * run["gflops_per_image"] * run["settings"]["batch_size"] * int(run["history"][-1]["step"])
               for run in runs)  # a backward pass takes twice the work of a forward pass
    texts = results["unet"][0]["machine"] | task_texts(results) | {
        "runs": len(runs), "seconds": round(sum(run["train_seconds"] for run in runs)), "pflops": f"{work / 1e6:.2g}",
        "data": args.data, "size": "{}x{}".format(*data.size), "seeds": ", ".join(map(str, range(args.seeds))),
        "command": command_line(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}
    for claim in claims:
        texts[claim["claim"]] = textwrap.fill(f"Verdict: {claim['verdict']}.", 74) + f"\n\n{table(claim.pop('rows'))}"
    texts["claims"] = table(claims)
    texts |= {"classification": left_out, "grid": "", "recognition": ""} if left_out else {
        "grid": "![Accuracy on val of every setting, the mean over seeds](grid.png)",
        "recognition": recognition_table(results, load)}
    template = Path(__file__).with_name("report_template.md").read_text("utf-8")
    write_atomically(out / "report.md", template.format(**texts))
    for claim in claims:
        print(f"{claim['claim']}: {claim['verdict']}")
    print(f"{out / 'report.md'}, its figures beside it")
