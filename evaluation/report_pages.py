"""The report's tables and pages. A part of a page is a pair: (Markdown, HTML)."""
import base64
import html
import io
import itertools
import shlex
import sys
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.claims import TRAINED, PerSeed, best_on_val, describe, pick, values
from evaluation.pages import page, table
from utils import write_atomically, write_csv

ORIGINAL = {"accuracy": 0.92, "FCN-32": 0.415, "U-Net": 0.512}  # of the homework's report, on other data than ours
METHOD = (
    "All choices were made on val: the checkpoint of each run, and the settings of each side in task 1. Test measures "
    "what was chosen. What follows ± is the standard deviation over seeds. Intervals hold 95%: Student's t over seeds; "
    "with one seed, what other test images could change (bootstrap; Newcombe for accuracies), one epoch for "
    "convergence, 10% for speed and memory.",
    "Each criterion was fixed before the runs. A claim holds where the whole interval meets its criterion. It fails "
    "where the whole interval misses it. Else it is undecided. It is not tested where the means were not there. "
    f"Networks are too little trained where even the better one has not come {TRAINED:.0%} of the way from chance (the "
    "most frequent class everywhere) to a perfect score; in colorization, from 0 to 1 in SSIM.")
SETTING = (
    "The original, as far as it is known, trained with Adam at a learning rate of 1e-4, in batches of 64, without a "
    "schedule, on data of its own. A fellow student's report of the same course names ResNet-18 and 15 epochs for task "
    "1, 2 to 5 epochs in batches of 4 for FCN-32 and U-Net, and 5 epochs for colorization.",
    "What differs here: the data, and networks and epochs small enough for two CPU cores. Task 1 varies the optimizer, "
    "the schedule and the learning rate of the original's settings. Tasks 2 and 3 have recipes of our own: AdamW, a "
    "linear schedule and augmentation, with Dice loss in task 2 and an L1 loss on RGB in task 3. FCN-32 is also made "
    "equal to U-Net, in width (the channels of the first layer) and in parameters. The pair of equal parameters is "
    "also trained at twice the side, with one seed.",
    "What was hard or unsaid: the criteria and their tolerances are ours. On a CPU the peak of memory is that of the "
    "whole process, PyTorch included, so it says little about a network. Plain grey can have a higher PSNR than "
    "colours, so sharpness, colourfulness and the classifier of task 1 judge them, too.")

# ---------------------------------------------------------------------------------------------------------------------
# Tables, whose values may be PerSeed


def accuracy_table(cells):
    """The best learning rate of each optimizer and schedule; without cells there is no table."""
    rows = []
    for optimizer, schedule in dict.fromkeys((cell["optimizer"], cell["schedule"]) for cell in cells):
        best = pick(cells, optimizer=[optimizer], schedule=[schedule])
        rows.append({"setting": describe(best), "accuracy on val": best["val"],
                     "on test": values(best["runs"], "metrics", "accuracy")})
    original = {"setting": "original: adam, none, 0.0001", "accuracy on val": None, "on test": ORIGINAL["accuracy"]}
    return [*rows, original] if cells else []


def name_networks(pairs):
    """The networks of task 2 that are trained at one size: "U-Net 16", for its width -> runs."""
    size = next(iter(pairs.values()))["U-Net"][0]["size"]
    return {f"{kind} {runs[0]['settings']['width']}": runs for pair in pairs.values() for kind, runs in pair.items()
            if runs[0]["size"] == size}


def segmentation_table(networks):
    """networks: name, which begins with the kind of network -> runs."""
    original = {name: ORIGINAL[name.split()[0]] for name in list(networks)[:2]}
    rows = [("pixel accuracy", ("metrics", "pixel_accuracy")),
            ("frequency weighted IoU", ("metrics", "frequency_weighted_iou")),
            ("boundary F1", ("metrics", "boundary_f1")),
            *((f"IoU {name}", ("metrics", "iou", name)) for name in next(iter(networks.values()))[0]["metrics"]["iou"]),
            ("parameters", ("parameters",)), ("forward (GFLOPs)", ("gflops_per_image",)),
            ("training (images/s)", ("images_per_second",)), ("peak memory (MB)", ("peak_memory_mb",))]
    return [{"": "mIoU on val"} | {name: best_on_val(runs, "miou") for name, runs in networks.items()},
            {"": "mIoU on test"} | {name: values(runs, "metrics", "miou") for name, runs in networks.items()},
            {"": "mIoU of the original"} | {name: original.get(name) for name in networks},
            *({"": row} | {name: values(runs, *keys) for name, runs in networks.items()} for row, keys in rows)]


def colorization_table(skips, noskips, recognized):
    """recognized: for each seed, how often task 1's classifier is right; none without labels."""
    sides = {"with skips": skips, "without": noskips}
    scores = {name: values(runs, "metrics") for name, runs in sides.items()} | {
        name: values(skips, "metrics", "baselines", name) for name in ("grey", "mean colour")}
    on_val = {"PSNR (dB) on val": "psnr", "CIEDE2000 on val": "delta_e"}
    on_test = {"PSNR (dB) on test": "psnr", "SSIM": "ssim", "CIEDE2000 (lower is better)": "delta_e",
               "sharpness ratio": "sharpness_ratio"}
    rows = [{"": label} | {name: best_on_val(sides[name], key) if name in sides else None for name in scores}
            for label, key in on_val.items()]
    rows += [{"": label} | {name: values(found, key) for name, found in scores.items()}
             for label, key in on_test.items()]
    rows.append({"": "colourfulness: relative difference from the truth's"} | {
        name: PerSeed(ratio - 1 for ratio in values(found, "colorfulness_ratio")) for name, found in scores.items()})
    if recognized:
        rows.append({"": f"task 1's classifier is right (on the truth: {values(recognized, 'truth')})"} | {
            name: values(recognized, name) if name in recognized[0] else None for name in scores})
    return rows


def compute_table(results):
    """What training cost; a backward pass takes twice as much as a forward one."""
    rows = {}
    for run in itertools.chain(*results.values()):
        images = int(run["history"][-1]["step"]) * run["settings"]["batch_size"]
        for task in (run["task"], "all"):
            row = rows.setdefault(task, {"task": task, "runs": 0, "training (s)": 0, "PFLOPs": PerSeed([0.0])})
            row["runs"] += 1
            row["training (s)"] += round(run["train_seconds"])
            row["PFLOPs"][0] += 3 * run["gflops_per_image"] * images / 1e6
    return sorted(rows.values(), key=lambda row: row["task"] == "all")


def make_tables(results, cells, networks, recognized, why_no_labels):
    """File -> (title, rows, a sentence, command lines)."""
    painters = results["skips"], results["noskips"]
    how = "Trained with the following, seed 0:"
    return {
        "task1": ("Task 1: classification", accuracy_table(cells), f"Left out: {why_no_labels}" if not cells else
                  f"The best learning rate of each optimizer and schedule. The first of {len(cells)} settings was "
                  "trained with the following, seed 0:", [cell["runs"][0]["command"] for cell in cells[:1]]),
        "task2": ("Task 2: segmentation", segmentation_table(networks), how,
                  [runs[0]["command"] for runs in networks.values()]),
        "task3": ("Task 3: colorization", colorization_table(*painters, recognized), how,
                  [runs[0]["command"] for runs in painters]),
        "compute": ("Compute spent", compute_table(results), "PFLOPs: 3 times the forward work of an image, times the "
                    "images seen; smaller images of the first epochs count as whole ones.", [])}


# ---------------------------------------------------------------------------------------------------------------------
# Parts of a page


def heading(text, level=2):
    text = html.escape(text, quote=False)
    return f"{'#' * level} {text}", f"<h{level}>{text}</h{level}>"


def paragraph(text, tag="p"):
    text = html.escape(text, quote=False)
    return textwrap.fill(text, 74, break_long_words=False, break_on_hyphens=False), f"<{tag}>{text}</{tag}>"


def both_tables(rows):
    def line(texts):
        return "| " + " | ".join(html.escape("-" if text is None else str(text), quote=False).replace("|", "\\|")
                                 for text in texts) + " |"
    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *(line(row.values()) for row in rows)]), table(rows)


def commands(*word_lists):
    """Command lines that can be copied; where possible, none of their lines is longer than 74 characters."""
    texts = []
    for words in word_lists:
        lines = [""]
        for i, word in enumerate(words):
            flag = list(itertools.takewhile(lambda word: not word.startswith("--"), words[i + 1 :]))
            if word.startswith("--") and len(lines[-1]) + len(shlex.join([word, *flag])) > 71:
                lines.append("   ")
            lines[-1] += f" {shlex.quote(word)}"
        texts.append(" \\\n".join(lines).strip())
    text = "\n".join(texts)
    return f"```\n{text}\n```", f"<pre>{html.escape(text)}</pre>"


def figure(caption, paths):
    """Images, path -> what it shows, beside each other as far as there is room."""
    images = []
    for path, alt in paths.items():
        webp = io.BytesIO()
        Image.open(path).convert("RGB").save(webp, "WEBP", quality=85)  # PNGs would make a page three times as large
        data = base64.b64encode(webp.getvalue()).decode()
        images.append(f'<img src="data:image/webp;base64,{data}" alt="{html.escape(alt)}">')
    markdown, caption = paragraph(caption, tag="figcaption")
    return ("\n".join(f"![{alt}]({path.name})" for path, alt in paths.items()) + f"\n\n{markdown}",
            f'<figure class="row">{"".join(images)}{caption}</figure>')


def claim_parts(claim, figures):
    """A claim: its criterion, then the evidence."""
    yield heading(claim.text, 3)
    yield paragraph(f"Criterion: {claim.criterion}")
    yield paragraph(f"Verdict: {claim.verdict}. {claim.note}")
    if claim.comparisons:
        yield both_tables([{"compared": each["compared"], "found": each["values"], "difference": each["difference"],
                            "verdict": each["verdict"]} for each in claim.comparisons])
    if claim.comparisons and claim.key in figures:
        yield figure(*figures[claim.key])


def summary_row(claim):
    """A row of the table of all claims; its number is the first comparison's."""
    first = claim.comparisons[0] if claim.comparisons else {"difference": "-", "seeds": None}
    return {"claim": claim.text, "verdict": claim.verdict, "difference": first["difference"], "seeds": first["seeds"]}


# ---------------------------------------------------------------------------------------------------------------------
# The pages


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


def opening(args, run):
    """What the report is of, and the command that made it."""
    machine, (height, width) = run["machine"], run["size"]
    yield paragraph(f"Data: {args.data} at {height}x{width}. Seeds: {', '.join(map(str, range(args.seeds)))}. Machine: "
                    f"{machine['name']} ({machine['device']}), {machine['cores']} cores, {machine['threads']} threads; "
                    f"PyTorch {machine['torch']}. Made with:")
    yield commands(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def write_report(args, run, claims, figures, tables):
    """report.md, index.html and the tables' CSV files. run: any of task 2. tables: as from make_tables."""
    out = Path(args.out)
    parts = [*opening(args, run), heading("Claims"), both_tables([summary_row(claim) for claim in claims]),
             paragraph("The difference is that of a claim's first comparison, with its 95% interval."),
             *itertools.chain.from_iterable(claim_parts(claim, figures) for claim in claims)]
    for file, (title, rows, text, word_lists) in tables.items():
        parts.append(heading(title))
        if rows:
            parts.append(both_tables(rows))
            write_csv(out / f"{file}.csv", csv_rows(rows))
        parts.append(paragraph(text))
        if word_lists:
            parts.append(commands(*word_lists))
    parts += [heading("How it was measured"), *map(paragraph, METHOD),
              heading("The original, and what differs"), *map(paragraph, SETTING)]
    rows = [{"claim": claim.text, "criterion": claim.criterion} | each for claim in claims
            for each in claim.comparisons or [{"compared": claim.note, "verdict": "not tested"}]]
    write_csv(out / "claims.csv", rows)
    title = f"Classify, segment, colorize: the report on {Path(args.data).name}"
    markdown, pages = zip(*parts)
    write_atomically(out / "report.md", "\n\n".join([f"# {html.escape(title, quote=False)}", *markdown]) + "\n")
    write_atomically(out / "index.html", page(title, *pages))
