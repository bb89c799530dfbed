"""The report's tables, figures and pages. A part of a page is a pair: its kind, an HTML tag, and its content."""
import base64
import html
import io
import itertools
import shlex
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluation.claims import CLAIMS, TRAINED, PerSeed, describe, pick, values
from evaluation.colorization import lightness_and_ab, paint, to_images, with_colors
from evaluation.counts import segmentation_metrics
from evaluation.pages import figures, page, table
from utils import colorize_mask, new_figure, plot_heat_map, plot_images, save_figure, write_atomically, write_csv

TASK2 = {"mIoU on val": ("val", "miou"), "mIoU on test": ("metrics", "miou"), "parameters": ("parameters",),
         "forward (GFLOPs)": ("gflops_per_image",), "training (images/s)": ("images_per_second",),
         "peak memory (MB)": ("peak_memory_mb",), "pixel accuracy": ("metrics", "pixel_accuracy"),
         "frequency weighted IoU": ("metrics", "frequency_weighted_iou"), "boundary F1": ("metrics", "boundary_f1")}
TASK3 = {"PSNR (dB) on val": ("val", "psnr"), "PSNR (dB) on test": ("metrics", "psnr"), "SSIM": ("metrics", "ssim"),
         "CIEDE2000 on val": ("val", "delta_e"), "CIEDE2000 (lower is better)": ("metrics", "delta_e"),
         "sharpness ratio": ("metrics", "sharpness_ratio")}


def score_table(columns, rows):
    """columns: name -> runs. rows: name -> the path of a number in a run."""
    return [{"": row} | {name: values(runs, *path) for name, runs in columns.items()} for row, path in rows.items()]


def accuracy_table(cells):
    """The best learning rate of each optimizer and schedule; without cells there is no table."""
    chosen = [pick(cells, optimizer=[optimizer], schedule=[schedule]) for optimizer, schedule in dict.fromkeys(
        (cell["optimizer"], cell["schedule"]) for cell in cells)]
    return [{"setting": describe(cell), "accuracy on val": cell["val"],
             "on test": values(cell["runs"], "metrics", "accuracy")} for cell in chosen]


def colorization_table(painters, recognized):
    """painters: name -> runs. recognized: a dict a seed, how often task 1's classifier is right; [] without labels."""
    columns = painters | {name: [{"metrics": run["metrics"]["baselines"][name]} for run in painters["with skips"]]
                          for name in ("grey", "mean colour")}
    colorful = {name: values(runs, "metrics", "colorfulness_ratio") for name, runs in columns.items()}
    rows = [*score_table(columns, TASK3), {"": "colourfulness: relative difference from the truth's"} | {
        name: PerSeed(ratio - 1 for ratio in ratios) for name, ratios in colorful.items()}]
    if recognized:
        rows.append({"": f"task 1's classifier is right (on the truth: {values(recognized, 'truth')})"} | {
            name: values(recognized, name) for name in columns})
    return rows


def compute_table(results):
    """What training cost; a backward pass takes twice as much as a forward one."""
    runs, rows = list(itertools.chain(*results.values())), []
    for task in (*dict.fromkeys(run["task"] for run in runs), "all"):
        own = [run for run in runs if task in (run["task"], "all")]
        work = sum(3 * run["gflops_per_image"] * run["settings"]["batch_size"] * int(run["history"][-1]["step"])
                   for run in own)
        rows.append({"task": task, "runs": len(own), "training (s)": round(sum(run["train_seconds"] for run in own)),
                     "PFLOPs": PerSeed([work / 1e6])})
    return rows


def make_tables(results, cells, networks, painters, recognized, why_no_labels):
    """File -> (title, rows, a sentence, the runs whose commands are shown)."""
    iou = {f"IoU {name}": ("metrics", "iou", name) for name in results["unet"][0]["metrics"]["iou"]}
    how = "Trained with the following, seed 0:"
    best = f"The best learning rate of each optimizer and schedule. The first of {len(cells)} settings: {how.lower()}"
    return {
        "task1": ("Task 1: classification", accuracy_table(cells),
                  best if cells else f"Left out: {why_no_labels}", [cell["runs"] for cell in cells[:1]]),
        "task2": ("Task 2: segmentation", score_table(networks, TASK2 | iou), how, networks.values()),
        "task3": ("Task 3: colorization", colorization_table(painters, recognized), how, painters.values()),
        "compute": ("Compute spent", compute_table(results), "PFLOPs: 3 times the forward work of an image, times the "
                    "images seen; smaller images of the first epochs count as whole ones.", [])}


def command_line(words):
    """A command that can be copied, a line a flag."""
    return "".join((" \\\n    " if word.startswith("--") else " ") + shlex.quote(word) for word in words).strip()


def as_markdown(kind, content):
    if kind == "pre":
        return f"```\n{content}\n```"
    if kind == "figure":  # path -> what the image shows
        return "\n\n".join(f"![{text}]({path.name})\n\n{as_markdown('p', text)}" for path, text in content.items())
    if kind == "table":
        lines = [content[0], ["---"] * len(content[0]), *(row.values() for row in content)]
        cells = [["-" if cell is None else html.escape(str(cell), quote=False).replace("|", "\\|") for cell in line]
                 for line in lines]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)
    text = html.escape(content, quote=False)
    if kind == "p":
        return textwrap.fill(text, 74, break_long_words=False, break_on_hyphens=False)
    return f"{'#' * int(kind[1])} {text}"


def as_html(kind, content):
    if kind == "table":
        return table(content)
    if kind != "figure":
        return f"<{kind}>{html.escape(content)}</{kind}>"
    images = []
    for path, text in content.items():
        Image.open(path).convert("RGB").save(webp := io.BytesIO(), "WEBP", quality=85)  # a third of a PNG
        images.append((text, f"data:image/webp;base64,{base64.b64encode(webp.getvalue()).decode()}"))
    return f'<div class="row">{figures(images)}</div>'


def claim_parts(claims, drawn):
    """A table of all claims, and of each its criterion, then the evidence."""
    yield "h2", "Claims"
    yield "table", [{"claim": claim.text, "verdict": claim.verdict} | {
        key: claim.comparisons[0][key] if claim.comparisons else None for key in ("difference", "seeds")}
        for claim in claims]
    yield "p", "The difference is that of a claim's first comparison, with its 95% interval."
    for claim in claims:
        yield "h3", claim.text
        yield "p", f"Criterion: {claim.criterion}"
        yield "p", f"Verdict: {claim.verdict}. {claim.note}"
        yield "table", [{key: row[key] for key in ("compared", "values", "difference", "verdict")}
                        for row in claim.comparisons]
        yield "figure", drawn.get(claim.key)


@torch.inference_mode()
def prediction_figures(results, load, split, data, out):
    """Three test images and what the networks of the first seed make of them. load(run): its predictor.

    Returns key of a claim -> {path: what the image shows}. The images are narrow, for phones.
    """
    scores = segmentation_metrics(results["unet"][0]["counts"])["miou"]
    order, drawn = np.argsort(scores, kind="stable"), {"edges": {}, "detail": {}}
    unet, fcn, skips, noskips = (load(results[name][0]) for name in ("unet", "fcn32", "skips", "noskips"))
    for kind, i in zip(("median", "best", "worst"), order[[len(order) // 2, -1, 0]]):
        rgb = torch.from_numpy(np.array(split.images[i]))[None].to(unet.device).float() / 255
        lightness, _ = lightness_and_ab(rgb)
        masks = np.asarray(split.targets[i]), *(net(rgb).argmax(1)[0].byte().cpu().numpy() for net in (fcn, unet))
        painted = [paint(net(lightness), lightness, net.metadata) for net in (noskips, skips)]
        grey, truth, *painted = (to_images(each)[0] for each in (with_colors(lightness), rgb, *painted))
        for key, images, titles in (
                ("edges", [truth, *(colorize_mask(mask, data.colors) for mask in masks)],
                 ["image", "truth", "FCN-32", "U-Net"]),
                ("detail", [grey, truth, *painted], ["grey", "truth", "without skips", "with skips"])):
            path = out / f"{key}-{kind}.png"
            plot_images([images[:2], images[2:]], [titles[:2], titles[2:]], path)
            drawn[key][path] = (f"The {kind} test image by its mIoU with U-Net, {split.names[i]} ({scores[i]:.3f}): "
                                f"{', '.join(titles)}")
    colors = dict(zip(data.classes, data.colors)) | {"void": (0, 0, 0)}
    legend, axes = new_figure(1, 1, 4.6, 0.3 + 0.22 * -(-len(colors) // 3))
    from matplotlib.patches import Patch  # after new_figure, which brings matplotlib in without a notebook's backend

    axes[0][0].axis("off")
    patches = [Patch(facecolor=np.array(color) / 255, edgecolor="grey", label=name) for name, color in colors.items()]
    legend.legend(handles=patches, loc="center", ncols=3, fontsize=9, frameon=False)
    save_figure(legend, out / "classes.png")
    drawn["edges"][out / "classes.png"] = "The colours of the classes"
    return drawn


def curve_figures(networks, painters, cells, out):
    """Scores on val over the epochs, and the grid of task 1. networks, painters: name -> runs."""
    curves = [("miou", "miou", "mIoU on val (higher is better)", networks),
              ("convergence", "loss", "Loss on val (lower is better)", painters)]
    drawn = {}
    if cells:
        for key in ("adam", "schedules"):
            best = [pick(cells, **side) for side in CLAIMS[key][3:5]]
            curves.append((key, "accuracy", "Accuracy on val (higher is better)",
                           {describe(cell): cell["runs"] for cell in best}))
        grid = [cell | {"accuracy on val": cell["val"].average} for cell in cells]
        plot_heat_map(grid, ("optimizer", "schedule"), ("lr",), "accuracy on val", out / "rate.png")
        drawn["rate"] = {out / "rate.png": "Accuracy on val of every setting, the mean over seeds"}
    for key, score, label, sides in curves:
        figure, ((axis,),) = new_figure(1, 1, 4.6, 3.2)
        for (name, runs), marker in zip(sides.items(), "os^vD"):
            scores = np.array([[float(row[f"val_{score}"]) for row in run["history"]] for run in runs])
            epochs = np.arange(1, scores.shape[1] + 1)
            line, = axis.plot(epochs, scores.mean(0), label=name, marker=marker, markersize=3)
            axis.fill_between(epochs, scores.min(0), scores.max(0), color=line.get_color(), alpha=0.2)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        save_figure(figure, out / f"{key}.png")
        drawn[key] = {out / f"{key}.png": f"{label} over the epochs: {'; '.join(sides)}. The line is the mean over "
                                          "seeds, the band goes from the least to the most."}
    return drawn


def csv_row(row):
    """Means and standard deviations in columns of their own, as numbers."""
    plain = {key or "metric": value.average if isinstance(value, PerSeed) else value for key, value in row.items()}
    return plain | {f"{key} std": value.deviation for key, value in row.items() if isinstance(value, PerSeed)}


def write_report(args, run, claims, drawn, tables):
    """report.md, index.html and the tables' CSV files. run: any of task 2. tables: as from make_tables."""
    out, machine, (height, width) = Path(args.out), run["machine"], run["size"]
    title = f"Classify, segment, colorize: the report on {Path(args.data).name}"
    parts = [("p", f"Data: {args.data} at {height}x{width}. Seeds: {', '.join(map(str, range(args.seeds)))}. Machine: "
                   f"{machine['name']} ({machine['device']}), {machine['cores']} cores, {machine['threads']} threads; "
                   f"PyTorch {machine['torch']}. Made with:"),
             ("pre", command_line(["python", Path(sys.argv[0]).name, *sys.argv[1:]])), *claim_parts(claims, drawn)]
    for file, (heading, rows, text, shown) in tables.items():
        parts += [("h2", heading), ("table", rows), ("p", text)]
        parts += [("pre", command_line(runs[0]["command"])) for runs in shown]
        if rows:
            write_csv(out / f"{file}.csv", map(csv_row, rows))
    prose = Path(__file__).with_name("report_method.md").read_text("utf-8").format(trained=f"{TRAINED:.0%}")
    for text in prose.strip().split("\n\n"):
        parts.append(("h2", text[3:]) if text.startswith("## ") else ("p", " ".join(text.split())))
    parts = [(kind, content) for kind, content in parts if content]
    write_csv(out / "claims.csv", [
        {"claim": claim.text, "criterion": claim.criterion} | row for claim in claims
        for row in claim.comparisons or [{"compared": claim.note, "verdict": "not tested"}]])
    markdown = [as_markdown(*part) for part in [("h1", title), *parts]]
    write_atomically(out / "report.md", "\n\n".join(markdown) + "\n")
    write_atomically(out / "index.html", page(title, *(as_html(*part) for part in parts)))
