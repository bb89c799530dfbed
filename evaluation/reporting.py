"""Make the homework's report anew: train what is missing, test every claim, draw all figures and tables.

    python evaluate.py report --seeds 1
"""
import base64
import contextlib
import functools
import html
import io
import itertools
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import InputError
from data.sources import open_data
from evaluation.colorization import lightness_and_ab, paint, to_images, with_colors
from evaluation.counts import segmentation_metrics, segmentation_row
from evaluation.pages import page, table
from evaluation.segmentation import predicted_masks
from models import build_network, count_gflops
from training.checkpoint import load_predictor
from training.folder import fcntl
from training.settings import positive_int, setup
from utils import colorize_mask, plot_curves, plot_heat_map, plot_images, read_csv, write_atomically, write_csv

# ---------------------------------------------------------------------------------------------------------------------
# The report: the runs that it needs

TASKS = {"train_classifier.py": "classification", "train_segmentation.py": "segmentation",
         "train_colorization.py": "colorization"}
GRID = {"optimizer": ("sgd", "adam"), "schedule": ("none", "step", "multistep"), "lr": (1e-4, 1e-3, 1e-2)}
ORIGINAL = {"accuracy": 0.92, "FCN-32": 0.415, "U-Net": 0.512}  # of the homework's report, on other data than ours

METHOD = """\
Every claim of the homework's report, tested anew. All choices were made on val: the checkpoint of each run, the
learning rates of task 1, the sides of a claim. Test only measures what was chosen. Intervals hold 95%: Student's t over
seeds or, with a single seed, what other test pictures could change (bootstrap; Wilson and Newcombe for accuracies), one
epoch for convergence, 10% for speed and memory; what follows ± is the standard deviation over seeds. A claim is
undecided while chance alone could explain its evidence. The original's own figures stand beside ours but come from
another data set."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5% of t at 1, 2, ... degrees of freedom


def plan_runs(args, size, seed, labelled):
    """Name -> (training script, settings) of all that is trained for one seed, small enough for two CPU cores."""
    common = {"data": args.data, "size": list(size), "seed": seed, "precision": args.precision}
    runs = {}
    for cell in itertools.product(*GRID.values()) if labelled else ():
        settings = {"recipe": "report", "epochs": 8, "width": 16} | dict(zip(GRID, cell))
        runs["-".join(map(str, cell))] = "train_classifier.py", settings
    for model in ("fcn32", "unet"):
        runs[model] = "train_segmentation.py", {"model": model}
    epochs = 8 if args.data == "scenes" else 25
    for name, skips in (("skips", True), ("noskips", False)):
        settings = {"target": "rgb", "skips": skips, "epochs": epochs, "width": 16}
        runs[name] = "train_colorization.py", settings
    return {name: (script, common | settings | asked_for(args)) for name, (script, settings) in runs.items()}


def asked_for(args):
    """The settings that make all runs smaller."""
    return {key: getattr(args, key) for key in ("epochs", "width") if getattr(args, key)}


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
    """Whether the run in a folder, finished or not, has these settings, and its test pictures are those of now."""
    try:
        config = json.loads((folder / "config.json").read_text())
        made = all(config["settings"].get(key) == value for key, value in settings.items())
        return made and config["pictures"]["test"] == open_test(TASKS[script], settings["seed"]).splits["test"].digest
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


def read_run(folder):
    """What a finished run left: its summary, with `folder`, `settings`, `network`, `machine` and `history`."""
    config = json.loads((folder / "config.json").read_text())
    return json.loads((folder / "summary.json").read_text()) | {
        "folder": folder, **{key: config[key] for key in ("settings", "network", "machine")},
        "history": read_csv(folder / "metrics.csv")}


# ---------------------------------------------------------------------------------------------------------------------
# The report: is a difference more than chance? An interval holds 95%: over seeds it is Student's t; a single seed's
# comes from the test pictures, or from how exactly the thing can be measured.


@torch.inference_mode()
def count_pictures(run, split, classes, device, dtype):
    """segmentation_row of every test picture, (N, 7, K), kept in the run's folder."""
    path = run["folder"] / "pictures.npy"
    if not path.exists():
        rows = []
        for truth, prediction in predicted_masks(load_predictor(run["folder"], device, dtype), split):
            pairs = zip(truth.cpu().numpy(), prediction.cpu().numpy())
            rows += [segmentation_row(*pair, len(classes)) for pair in pairs]
        np.save(buffer := io.BytesIO(), np.stack(rows))
        write_atomically(path, buffer.getbuffer())
    return np.load(path)


def bootstrap(rows, rivals, metric):
    """The interval of metric(sum of rows) - metric(sum of rivals) over samples of pictures, the same for both."""
    count = len(rows)
    if count < 5:  # of which the samples are too few to differ as they should
        return -math.inf, math.inf
    samples = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 1000).astype(float)
    differences = metric(np.tensordot(samples, rows, 1)) - metric(np.tensordot(samples, rivals, 1))
    return np.percentile(differences, (2.5, 97.5))


def newcombe_interval(run, rival):
    """The interval of a difference of accuracies, made of their Wilson intervals (Newcombe 1998, method 10)."""
    (p, p_low, p_high), (q, q_low, q_high) = ((each["metrics"]["accuracy"], *each["metrics"]["interval"])
                                              for each in (run, rival))
    return p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)


def compare(differences, interval):
    """(mean, low, high) of differences, one a seed.

    `interval` is for a single seed: a function that returns (low, high), or a number, by how much it may be off.
    """
    mean = np.mean(differences)
    if len(differences) > 1:
        quantile = STUDENT[min(len(differences) - 2, len(STUDENT) - 1)]
        interval = quantile * np.std(differences, ddof=1) / math.sqrt(len(differences))
    low, high = interval() if callable(interval) else (mean - interval, mean + interval)
    return mean, low, high


def log_ratios(runs, rivals, *keys):
    return np.log(np.array(values(runs, *keys), float) / np.array(values(rivals, *keys), float))


def epochs_saved(history, rival):
    """The share of its epochs that a network does not need to get to its rival's final val loss; None: never there."""
    goal = float(rival[-1]["val_loss"])
    reached = next((i for i, row in enumerate(history, 1) if float(row["val_loss"]) <= goal), None)
    return None if reached is None else 1 - reached / len(history)


def head_start(run, rival):
    """epochs_saved by the run, or less than 0 where it is the rival that gets there first."""
    saved = epochs_saved(run["history"], rival["history"])
    return -epochs_saved(rival["history"], run["history"]) if saved is None else saved


# ---------------------------------------------------------------------------------------------------------------------
# The report: tables, whose values may be lists with a number a seed, and claims


class PerSeed(list):
    """A number a seed, shown as their mean and, where they differ, their standard deviation."""

    def __str__(self):
        if None in self:
            return "-"
        mean = np.mean(self)
        digits = 0 if mean >= 1000 or isinstance(self[0], int) else 1 if mean >= 100 else 3
        return f"{mean:.{digits}f}" + (f" ± {np.std(self, ddof=1):.{digits}f}" if len(set(self)) > 1 else "")


def values(runs, *keys):
    """What stands in each run under a path of keys."""
    for key in keys:
        runs = [run[key] for run in runs]
    return PerSeed(runs)


def pick(cells, **fixed):
    """Of the cells whose settings are among these the one that is best on val, on average over seeds."""
    allowed = [cell for cell in cells if all(cell[key] in choice for key, choice in fixed.items())]
    return max(allowed, key=lambda cell: np.mean(cell["val"]))


def describe(cell):
    return f"{cell['optimizer']}, {cell['schedule']}, {cell['lr']:g}"


def make_tables(results, cells):
    """Name -> rows. The original's own figures stand beside ours, as far as it gave them."""
    tables = {"task1": []}
    for optimizer, schedule in itertools.product(GRID["optimizer"], GRID["schedule"]) if cells else ():
        best = pick(cells, optimizer=[optimizer], schedule=[schedule])
        tables["task1"].append({"setting": describe(best), "val": best["val"],
                                "test": values(best["runs"], "metrics", "accuracy")})
    if cells:
        tables["task1"].append({"setting": "original: adam, none, 0.0001", "val": None, "test": ORIGINAL["accuracy"]})
    rows = [("mIoU", ("metrics", "miou")), ("pixel accuracy", ("metrics", "pixel_accuracy")),
            ("frequency weighted IoU", ("metrics", "frequency_weighted_iou")),
            ("boundary F1", ("metrics", "boundary_f1"))]
    rows += [(f"IoU {name}", ("metrics", "iou", name)) for name in results["unet"][0]["metrics"]["iou"]]
    rows += [("parameters", ("parameters",)), ("width", ("settings", "width")),
             ("forward GFLOPs", ("gflops_per_image",)), ("training images/s", ("images_per_second",)),
             ("peak memory MB", ("peak_memory_mb",))]
    nets = {"FCN-32": "fcn32", "U-Net": "unet"}
    tables["task2"] = [{"": name} | {net: values(results[run], *keys) for net, run in nets.items()}
                       for name, keys in rows]
    tables["task2"].insert(1, {"": "mIoU of the original"} | {net: ORIGINAL[net] for net in nets})
    grey, mean = (values(results["skips"], "metrics", "baselines", name) for name in ("grey", "mean colour"))
    painters = {"with skips": values(results["skips"], "metrics"), "without": values(results["noskips"], "metrics"),
                "grey": grey, "mean colour": mean}
    tables["task3"] = [{"": key.replace("_", " ")} | {name: values(found, key) for name, found in painters.items()}
                       for key in ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio")]
    return tables


def claim(text, test, evidence, *comparisons, seeds):
    """A claim with its verdict. It holds if each comparison (difference, low, high) is above 0 beyond noise."""
    verdicts = ["holds" if low > 0 else "fails" if high < 0 else "undecided" for _, low, high in comparisons]
    verdict = "fails" if "fails" in verdicts else "undecided" if "undecided" in verdicts or not verdicts else "holds"
    return {"claim": text, "verdict": verdict, "seeds": seeds, "test": test, "evidence": evidence}


def difference_text(comparison):
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*comparison)


def ratio_text(comparison):
    ratio, low, high = np.exp(comparison)
    return f"{ratio:.2f} times" + (f" ({low:.2f} to {high:.2f})" if low < high else "")


def accuracy_claims(cells):
    """The three claims of task 1; without labels they stay undecided."""
    texts = ("Adam beats SGD", "A low learning rate, 1e-4, is best", "Learning rate schedules do not help")
    if not cells:
        return [claim(text, "Not tested.", "These data have no labels for whole pictures.", seeds=0) for text in texts]
    sides = [({"optimizer": ["adam"]}, {"optimizer": ["sgd"]}), ({"lr": [1e-4]}, {"lr": [1e-3, 1e-2]}),
             ({"schedule": ["step", "multistep"]}, {"schedule": ["none"]})]
    claims = []
    for text, (side, other) in zip(texts, sides):
        best = [pick(cells, **side), pick(cells, **other)]
        runs, rivals = (cell["runs"] for cell in best)
        scores = [values(each, "metrics", "accuracy") for each in (runs, rivals)]
        gain = compare(np.subtract(*scores), lambda: newcombe_interval(runs[0], rivals[0]))
        first, second = (f"{describe(cell)}: {score}" for cell, score in zip(best, scores))
        test = (f"Accuracy on test after {runs[0]['epochs']} epochs; the settings of each side are its best on val. "
                + ("A schedule gains less than 0.01." if "schedule" in side else "The first is higher."))
        kept = (0.01 - gain[0], 0.01 - gain[2], 0.01 - gain[1]) if "schedule" in side else gain
        evidence = f"{first}; {second}; difference {difference_text(gain)}."
        claims.append(claim(text, test, evidence, kept, seeds=len(runs)))
    return claims


def network_claims(results, counts):
    """The six claims of tasks 2 and 3; counts() gives count_pictures of the first U-Net and the first FCN-32."""
    fcn, unet, skips, noskips = (results[name] for name in ("fcn32", "unet", "skips", "noskips"))
    on_gpu = unet[0]["machine"]["device"].startswith("cuda")

    def score_gain(key):
        differences = np.subtract(*(values(runs, "metrics", key) for runs in (unet, fcn)))
        return compare(differences, lambda: bootstrap(*counts(), lambda rows: segmentation_metrics(rows)[key]))

    def resampled_sharpness():
        tables = [read_csv(runs[0]["folder"] / "images.csv") for runs in (skips, noskips)]
        columns = [np.array([[float(row[key]) for key in ("sharpness", "true_sharpness")] for row in table])
                   for table in tables]
        return bootstrap(*columns, lambda total: total[..., 0] / total[..., 1])

    speed = compare(log_ratios(fcn, unet, "images_per_second"), math.log(1.1))
    small, light = (compare(log_ratios(unet, fcn, key), 0.0) for key in ("parameters", "gflops_per_image"))
    memory = compare(log_ratios(unet, fcn, "peak_memory_mb"), math.log(1.1))
    miou, edges = score_gain("miou"), score_gain("boundary_f1")
    sharp = [values(runs, "metrics", "sharpness_ratio") for runs in (skips, noskips)]
    detail = compare(np.subtract(*sharp), resampled_sharpness)
    start = compare([head_start(*pair) for pair in zip(skips, noskips)], 1 / skips[0]["epochs"])
    width = fcn[0]["settings"]["width"]
    equal = unet[0]["network"] | {"width": width}
    weights = sum(p.numel() for p in build_network(equal).parameters()) / 1e6
    gflops = count_gflops(equal, unet[0]["size"])
    widths = (f"U-Net's width is {unet[0]['settings']['width']}, FCN-32's {width}; at {width} U-Net would have "
              f"{weights:.1f} M parameters and {gflops:.1f} GFLOPs.")
    load = (f"A picture takes it {ratio_text(speed)} the GPU time." if on_gpu else
            "There was no GPU: the memory is the whole process's, and GFLOPs are the work for one picture.")
    found = [
        ("FCN-32 is faster and lighter", "It trains on more images a second and has fewer parameters.",
         f"FCN-32 trains {ratio_text(speed)} as fast; U-Net has {ratio_text(small)} its parameters. {widths}",
         speed, small),
        ("U-Net's mIoU is higher", "mIoU on test.", f"U-Net minus FCN-32: {difference_text(miou)}.", miou),
        ("U-Net's edges are better", "Boundary F1 on test.", f"U-Net minus FCN-32: {difference_text(edges)}.", edges),
        ("Skip connections carry the fine detail", "Sharpness (gradient energy) of the test pictures over the truth's.",
         f"With skips {sharp[0]}, without {sharp[1]}; difference {difference_text(detail)}.", detail),
        ("Skip connections speed up convergence", "With skips the final val loss of the network without is reached in "
         "fewer epochs (less than 0: the network without is the faster one).",
         f"Share of the epochs saved: {difference_text(start)}.", start),
        ("U-Nets load the GPU more", "Training has the higher peak of memory and a picture costs more GFLOPs"
         + (" and more time." if on_gpu else "."),
         f"U-Net takes {ratio_text(memory)} the memory and {ratio_text(light)} the GFLOPs. {widths} {load}",
         memory, light, *[speed] * on_gpu)]
    return [claim(*each, seeds=len(unet)) for each in found]


# ---------------------------------------------------------------------------------------------------------------------
# The report: its figures, and its pages, each part of which is a pair of (Markdown, HTML)


@torch.inference_mode()
def draw_predictions(results, data, counts, device, dtype, out):
    """The four networks of the first seed on the same three test pictures: pairs of file name and caption."""
    scores = segmentation_metrics(counts)["miou"]
    order = np.argsort(scores, kind="stable")
    chosen, split = order[[len(order) // 2, -1, 0]], data.splits["test"]
    rule = ("The median, the best and the worst test picture by the picture's own mIoU with U-Net: "
            + ", ".join(f"{split.names[i]} ({scores[i]:.3f})" for i in chosen) + ".")
    images, masks = (np.stack([np.asarray(array[i]) for i in chosen]) for array in (split.images, split.targets))
    rgb = torch.from_numpy(images).to(device).float() / 255
    lightness, _ = lightness_and_ab(rgb)
    rgb_pictures, grey_pictures = to_images(rgb), to_images(with_colors(lightness))
    figures = []
    for name, title in (("fcn32", "Segmentation with FCN-32"), ("unet", "Segmentation with U-Net"),
                        ("skips", "Colorization with skips"), ("noskips", "Colorization without skips")):
        predictor = load_predictor(results[name][0]["folder"], device, dtype)
        metadata = predictor.metadata
        is_segmentation = metadata["task"] == "segmentation"
        output = predictor(rgb if is_segmentation else lightness).float()
        if is_segmentation:
            prediction = output.argmax(1).byte().cpu().numpy()
            columns = rgb_pictures, *(colorize_mask(each, data.colors) for each in (masks, prediction))
        else:
            columns = grey_pictures, rgb_pictures, to_images(paint(output, lightness, metadata))
        file = f"{metadata['task']}-{name}.png"
        plot_images(list(zip(*columns)), [("input", "truth", "prediction")], out / file,
                        legend=list(zip(data.classes, data.colors)) if is_segmentation else ())
        figures.append((file, f"{title}. {rule}"))
    return figures


def draw_curves(results, cells, out):
    """The learning curves, and the grid of task 1: pairs of file name and caption."""
    pairs = {"segmentation": {"FCN-32": results["fcn32"], "U-Net": results["unet"]},
             "colorization": {"with skips": results["skips"], "without": results["noskips"]}}
    if cells:
        pairs["classification"] = {name: pick(cells, optimizer=[name])["runs"] for name in GRID["optimizer"]}
    figures = []
    for task, runs in pairs.items():
        file = f"curves-{task}.png"
        plot_curves({name: its[0]["history"] for name, its in runs.items()}, out / file)
        figures.append((file, f"Learning curves of {task}, seed 0: {' and '.join(runs)}."))
    if cells:
        grid = [cell | {"val_accuracy": np.mean(cell["val"])} for cell in cells]
        plot_heat_map(grid, ("optimizer", "schedule"), ("lr",), "val_accuracy", out / "grid.png")
        figures.append(("grid.png", "Classification: accuracy on val of every setting, mean over seeds."))
    return figures


def block(text, mark="", tag="p"):
    text = html.escape(text, quote=False)
    return mark + text, f"<{tag}>{text}</{tag}>"


def both_tables(rows):
    def line(texts):
        return "| " + " | ".join(html.escape("-" if text is None else str(text), quote=False).replace("|", "\\|")
                                 for text in texts) + " |"
    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *(line(row.values()) for row in rows)]), table(rows)


def figure(path, caption):
    caption, webp = html.escape(caption, quote=False), io.BytesIO()
    Image.open(path).convert("RGB").save(webp, "WEBP", quality=85)  # a page of PNGs would be three times as large
    data = base64.b64encode(webp.getvalue()).decode()
    return (f"![]({path.name})\n\n*{caption}*",
            f'<figure><img src="data:image/webp;base64,{data}" alt=""><figcaption>{caption}</figcaption></figure>')


def csv_rows(rows):
    """Means and standard deviations in columns of their own, as numbers."""
    for row in rows:
        plain = {}
        for key, value in row.items():
            numbers = isinstance(value, PerSeed)
            plain[key or "metric"] = (None if None in value else np.mean(value)) if numbers else value
            if numbers:
                plain[f"{key} std"] = np.std(value, ddof=1) if len(value) > 1 and None not in value else None
        yield plain


def write_report(args, results, tables, claims, figures, why_no_labels):
    """report.md, index.html and the tables' CSV files."""
    out, metadata = Path(args.out), results["unet"][0]
    machine, (height, width) = metadata["machine"], metadata["size"]
    parts = [
        both_tables([{"what": "data", "": f"{args.data} at {height}x{width}"},
                     {"what": "seeds", "": ", ".join(map(str, range(args.seeds)))},
                     {"what": "machine", "": f"{machine['name']} ({machine['device']}, {machine['cores']} cores, "
                                         f"threads: {machine['threads']})"},
                     {"what": "PyTorch", "": machine["torch"]},
                     {"what": "command", "": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])}]),
        block(METHOD), block("Claims", "## ", "h2"),
        both_tables([{key: each[key] for key in ("claim", "verdict", "seeds")} for each in claims])]
    for each in claims:
        parts.append(block(f"{each['claim']}: {each['verdict']}", "### ", "h3"))
        parts.append(block(f"{each['test']} {each['evidence']}"))
    for task, title in (("task1", "Task 1: classification"), ("task2", "Task 2: segmentation"),
                        ("task3", "Task 3: colorization")):
        parts.append(block(title, "## ", "h2"))
        if not tables[task]:
            parts.append(block(f"Left out: {why_no_labels}"))
            continue
        parts.append(both_tables(tables[task]))
        write_csv(out / f"{task}.csv", csv_rows(tables[task]))
    write_csv(out / "claims.csv", claims)
    parts += [block("Figures", "## ", "h2"), *(
        figure(out / file, f"Figure {number}. {caption}") for number, (file, caption) in enumerate(figures, 1))]
    title = f"Classify, segment, colorize: the report on {Path(args.data).name}"
    markdown, pages = zip(*parts)
    write_atomically(out / "report.md", "\n\n".join([f"# {html.escape(title, quote=False)}", *markdown]) + "\n")
    write_atomically(out / "index.html", page(title, *pages))


def report(args):
    """Make the report anew: train what is missing, test every claim, and draw all figures and tables."""
    device, dtype = setup(args)
    out = Path(args.out)
    size = tuple(args.size) if args.size else None

    @functools.cache
    def open_test(task, seed):
        return open_data(args.data, task, size, args.data_dir, seed, splits=("test",))

    data, why_no_labels = open_test("segmentation", 0), None
    size = data.size  # from now on also open_test's
    try:
        open_test("classification", 0)
    except InputError as error:  # task 1 is left out
        why_no_labels = str(error)

    # 1. Runs: folder -> what is trained there
    smaller = "".join(f"-{key}{value}" for key, value in asked_for(args).items())  # never taken for the report's own
    folder = Path(args.runs) / "report" / (data.name + smaller)
    plans = [plan_runs(args, data.size, seed, why_no_labels is None) for seed in range(args.seeds)]
    train_missing(args, {folder / f"{name}-s{seed}": plan for seed in range(args.seeds)
                         for name, plan in plans[seed].items()}, open_test)
    results = {name: [read_run(folder / f"{name}-s{seed}") for seed in range(args.seeds)] for name in plans[0]}
    cells = []
    for name, (script, settings) in plans[0].items():
        if script == "train_classifier.py":
            best = PerSeed(max(float(row["val_accuracy"]) for row in run["history"]) for run in results[name])
            cells.append({key: settings[key] for key in GRID} | {"val": best, "runs": results[name]})

    # 2. Tables, claims and figures
    def counts(name):
        return count_pictures(results[name][0], data.splits["test"], data.classes, device, dtype)

    out.mkdir(parents=True, exist_ok=True)
    tables = make_tables(results, cells)
    claims = accuracy_claims(cells) + network_claims(results, lambda: (counts("unet"), counts("fcn32")))
    figures = draw_predictions(results, data, counts("unet"), device, dtype, out) + draw_curves(results, cells, out)
    write_report(args, results, tables, claims, figures, why_no_labels)
    for each in claims:
        print(f"{each['verdict']:<10} {each['claim']}")
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
