"""The report's figures, by the claim that they belong to: key -> (caption, {path: what it shows}).

The images are narrow, for phones; several stand side by side where a screen is wide enough.
"""
import numpy as np
import torch

from evaluation.claims import describe, pick
from evaluation.colorization import lightness_and_ab, paint, to_images, with_colors
from evaluation.counts import segmentation_metrics
from training.checkpoint import load_predictor
from utils import colorize_mask, new_figure, plot_heat_map, plot_images, save_figure

WIDTH = 4.6  # inches


@torch.inference_mode()
def prediction_figures(results, split, data, counts, device, dtype, out):
    """Three test images and what the networks of the first seed make of them. counts: U-Net's count_images."""
    scores = segmentation_metrics(counts)["miou"]
    order = np.argsort(scores, kind="stable")
    chosen = order[[len(order) // 2, -1, 0]]
    images, masks = (np.stack([np.asarray(array[i]) for i in chosen]) for array in (split.images, split.targets))
    rgb = torch.from_numpy(images).to(device).float() / 255
    lightness, _ = lightness_and_ab(rgb)
    shown = {"edges": {"image": to_images(rgb), "truth": colorize_mask(masks, data.colors)},
             "detail": {"grey": to_images(with_colors(lightness)), "truth": to_images(rgb)}}
    for name, title in (("fcn32", "FCN-32"), ("unet", "U-Net"), ("noskips", "without skips"), ("skips", "with skips")):
        predictor = load_predictor(results[name][0]["folder"], device, dtype)
        if predictor.metadata["task"] == "segmentation":
            shown["edges"][title] = colorize_mask(predictor(rgb).argmax(1).byte().cpu().numpy(), data.colors)
        else:
            shown["detail"][title] = to_images(paint(predictor(lightness), lightness, predictor.metadata))
    rule = ("The median, the best and the worst test image by its own mIoU with U-Net: "
            + ", ".join(f"{split.names[i]} ({scores[i]:.3f})" for i in chosen) + ".")
    figures = {}
    for key, columns in shown.items():
        figures[key] = rule, {}
        for kind, row in zip(("median", "best", "worst"), zip(*columns.values())):
            path = out / f"{key}-{kind}.png"
            titles = list(columns)
            plot_images([row[:2], row[2:]], [titles[:2], titles[2:]], path)
            figures[key][1][path] = f"The {kind} test image: {', '.join(columns)}"
    draw_legend([*zip(data.classes, data.colors), ("void", (0, 0, 0))], out / "classes.png")
    figures["edges"][1][out / "classes.png"] = "The colours of the classes"
    return figures


def draw_legend(colors, path):
    """colors: (name, (r, g, b)) of each class."""
    figure, axes = new_figure(1, 1, WIDTH, 0.3 + 0.22 * -(-len(colors) // 3))
    from matplotlib.patches import Patch  # after new_figure, which brings matplotlib in without a notebook's backend

    axes[0][0].axis("off")
    patches = [Patch(facecolor=np.array(color) / 255, edgecolor="grey", label=name) for name, color in colors]
    figure.legend(handles=patches, loc="center", ncols=3, fontsize=9, frameon=False)
    save_figure(figure, path)


def curve_figures(results, networks, cells, out):
    """Scores on val over the epochs, and the grid of task 1. networks: name -> runs."""
    curves = {"miou": ("val_miou", "mIoU on val (higher is better)", networks),
              "convergence": ("val_loss", "Loss on val (lower is better)",
                              {"with skips": results["skips"], "without": results["noskips"]})}
    figures = {}
    if cells:
        for key, setting, sides in (("adam", "optimizer", (["sgd"], ["adam"])),
                                    ("schedules", "schedule", (["none"], ["step", "multistep"]))):
            best = [pick(cells, **{setting: side}) for side in sides]
            curves[key] = ("val_accuracy", "Accuracy on val (higher is better)",
                           {describe(cell): cell["runs"] for cell in best})
        grid = [cell | {"accuracy on val": np.mean(cell["val"])} for cell in cells]
        plot_heat_map(grid, ("optimizer", "schedule"), ("lr",), "accuracy on val", out / "rate.png")
        figures["rate"] = "Mean over seeds.", {out / "rate.png": "Accuracy on val of every setting"}
    for key, (column, label, sides) in curves.items():
        draw_curves(sides, column, label, out / f"{key}.png")
        figures[key] = ("The mean over seeds, and a band from the least to the most.",
                        {out / f"{key}.png": f"{label} over the epochs: {'; '.join(sides)}"})
    return figures


def draw_curves(sides, column, label, path):
    """A column of metrics.csv over the epochs. sides: name -> runs."""
    figure, axes = new_figure(1, 1, WIDTH, 3.2)
    axis = axes[0][0]
    for (name, runs), marker in zip(sides.items(), "os^vD"):
        scores = np.array([[float(row[column]) for row in run["history"]] for run in runs])
        epochs = np.arange(1, scores.shape[1] + 1)
        line, = axis.plot(epochs, scores.mean(0), label=name, marker=marker, markersize=3)
        axis.fill_between(epochs, scores.min(0), scores.max(0), color=line.get_color(), alpha=0.2)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, path)
