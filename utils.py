"""Functions that all scripts share: batches of a data set, scores, plots, files."""
import csv
import io
import itertools
import json
import math
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.augment import DRAWS
from data.cache import START_METHOD, check_loaders, follow_parent
from data.masks import VOID


def batches(split, batch_size, device, seed=0, epoch=None, start=0, workers=0):
    """Yield (images uint8 (B, C, H, W), targets or None, draws (B, DRAWS) float) on the device. With an `epoch`, for
    training: order and draws follow only from (seed, epoch). The first `start` batches and a last one that is not full
    are left out. Without an `epoch`, for scoring: all samples in order."""
    count = len(split)
    if epoch is None:
        order, draws = np.arange(count), np.zeros((count, DRAWS), np.float32)
        fitting = 2**21 // math.prod(split.images.shape[2:])  # 2**21 pixels: scoring takes less memory than training
        batch_size = max(min(batch_size, fitting), 1)
    else:
        order = np.random.default_rng((seed, epoch, 0)).permutation(count)
        draws = np.random.default_rng((seed, epoch, 1)).random((count, DRAWS), np.float32)
    stop = count if epoch is None else count // batch_size * batch_size
    chunks = [np.sort(order[i : i + batch_size]) for i in range(start * batch_size, stop, batch_size)]
    early = device.type != "mps"  # on mps a non-blocking copy may be damaged
    images = [chunk % len(split.names) for chunk in chunks]
    for indices, arrays in zip(chunks, load(split, images, device, workers)):
        yield for_each(lambda array: array.to(device, non_blocking=early), [*arrays, torch.from_numpy(draws[indices])])


def for_each(function, arrays):
    """The function's results for a batch's arrays, and None for None: task 3 has no targets."""
    return [array if array is None else function(array) for array in arrays]


STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def load(split, chunks, device, workers):
    """An iterable of (images, targets), a pair for each array of indices in `chunks`."""
    if resident := keep_on_gpu(split, device):
        places = (torch.from_numpy(chunk).to(device, non_blocking=True) for chunk in chunks)
        return (for_each(lambda array: array[place], resident) for place in places)
    several = {"prefetch_factor": 4, "timeout": 300, "multiprocessing_context": START_METHOD} if workers else {}
    check_loaders(split, workers, max(map(len, chunks), default=0))
    loader = DataLoader(WholeBatches(split), sampler=chunks, batch_size=None, num_workers=workers,
                        pin_memory=device.type == "cuda", worker_init_fn=leave_stopping_to_parent, **several)
    if not (workers and hasattr(signal, "pthread_sigmask")):
        return loader
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # these must not end a new loader process
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


class WholeBatches(torch.utils.data.Dataset):
    """A split whose items are whole batches: an array of indices -> (images, targets)."""

    def __init__(self, split):
        self.split = split

    def __getitem__(self, indices):
        return for_each(lambda array: torch.from_numpy(array[indices]), (self.split.images, self.split.targets))


def leave_stopping_to_parent(worker):
    """Let a loader process ignore Ctrl-C, and end with training or a minute after another signal: steps end first."""
    signal.set_wakeup_fd(-1)  # it is the parent's, which would count this process's signals as its own
    follow_parent()
    if hasattr(signal, "alarm"):
        for number in (each for each in STOPPING[1:] if signal.getsignal(each) != signal.SIG_IGN):
            signal.signal(number, lambda *_: signal.alarm(60))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def keep_on_gpu(split, device):
    """The [images, targets] of a split that fills up to a sixteenth of the GPU's memory; [] for any other."""
    if split.on_gpu is None:
        arrays = split.images, split.targets
        limit = torch.cuda.get_device_properties(device).total_memory / 16 if device.type == "cuda" else 0
        fits = sum(array.nbytes for array in arrays if array is not None) <= limit
        split.on_gpu = for_each(lambda array: torch.from_numpy(np.array(array)).to(device), arrays) if fits else []
    return split.on_gpu


def evenly(total, count):
    """At most `count` indices, spread evenly over range(total)."""
    return np.linspace(0, total - 1, min(total, count)).astype(int)


def shrink(size, multiple=16):
    """About 0.7 of each side of (H, W), for half the work in the first epochs (Howard's progressive resizing, 2018)."""
    return tuple(max(round(side * 0.7 / multiple) * multiple, min(side, multiple)) for side in size)


def write_atomically(path, data, durable=True):
    """Write bytes or text to a new file, then rename it: no reader sees half a file; `durable`: even after a crash."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data.encode(errors="surrogateescape") if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path, data):
    """Write numbers, texts, lists and dicts; other values are written as text."""
    write_atomically(path, json.dumps(data, indent=2, default=str))


def write_csv(path, rows, encoding="utf-8"):
    """Write dicts as a table with a column for each of their keys."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode(encoding, "surrogateescape"))


def read_csv(path):
    """The rows of a table as dicts of strings; an empty list if there is no file."""
    if not Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


# Scores. They are computed from sums of counts over a whole split, never from means of batches.


def pixel_counts(truth, prediction, classes):
    """Masks, integer tensors (B, H, W) -> counts (B, 3, K) int64 by class: pixels right, true and predicted. Pixels
    that are void in the truth are not counted. A prediction of K or more is no class."""
    bins, images = classes + 1, torch.arange(len(truth), dtype=torch.int32, device=truth.device)[:, None, None]
    pairs = (images * bins + truth.clamp(max=classes)) * bins + prediction.clamp(max=classes)  # narrow types are fast
    pairs = torch.bincount(pairs.flatten(), minlength=len(truth) * bins**2).view(-1, bins, bins)[:, :classes]
    return torch.stack([pairs.diagonal(0, 1, 2), pairs.sum(2), pairs.sum(1)[:, :classes]], 1).cpu()


def segmentation_scores(counts):
    """Counts (..., 3, K) -> means (...) and scores by class (..., K). 0/0 is nan, which the mean IoU leaves out."""
    right, true, predicted = np.moveaxis(np.asarray(counts, float), -2, 0)
    union, total = true + predicted - right, true.sum(-1).clip(1)
    shares = {"iou": (right, union), "dice": (2 * right, true + predicted), "precision": (right, predicted),
              "recall": (right, true)}
    by_class = {key: np.where(whole > 0, part / whole.clip(1), np.nan) for key, (part, whole) in shares.items()}
    iou = np.nan_to_num(by_class["iou"])
    return {"miou": iou.sum(-1) / (union > 0).sum(-1).clip(1), "pixel_accuracy": right.sum(-1) / total,
            "frequency_weighted_iou": (true * iou).sum(-1) / total} | by_class


def outline_counts(truth, prediction, classes, tolerance=0.0075):
    """Masks (H, W) uint8 -> boundary pixels by class (4, K): the truth's that are met, all of the truth; the same two
    for the prediction. A pixel is met if the other mask has a boundary pixel of the same class within `tolerance`, a
    share of the diagonal (Csurka et al. 2013). The edges of the image and of void are no boundaries."""
    radius = max(1, round(tolerance * math.hypot(*truth.shape)))
    inner = neighbourhood(np.minimum, truth != VOID)
    outlines = [inner & (neighbourhood(np.maximum, mask) != neighbourhood(np.minimum, mask))
                for mask in (truth, prediction)]
    met = np.zeros((2, *truth.shape), bool)
    for first in range(0, classes, 64):  # up to 64 classes at a time: a pixel has one bit for each
        number = min(classes - first, 64)
        bits = np.zeros(256, np.min_scalar_type((1 << number) - 1))
        bits[first : first + number] = [1 << i for i in range(number)]
        true, predicted = (bits[mask] * outline for mask, outline in zip((truth, prediction), outlines))
        met[0] |= (true & dilate(predicted, radius)) != 0
        met[1] |= (predicted & dilate(true, radius)) != 0
    chosen = truth[met[0]], truth[outlines[0]], prediction[met[1]], prediction[outlines[1]]
    return np.stack([np.bincount(ids, minlength=256)[:classes] for ids in chosen])


def neighbourhood(extreme, image):
    """np.minimum or np.maximum over the 3x3 neighbourhood of each pixel, inside the image (H, W)."""
    image = np.pad(image, 1, mode="edge")
    rows = extreme(extreme(image[:-2], image[1:-1]), image[2:])
    return extreme(extreme(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def dilate(bits, radius):
    """Bitwise OR of `bits` (H, W) over a disc around each pixel, built from its narrow top rows to its wide middle."""
    height, wide, result, reach = len(bits), bits.copy(), np.zeros_like(bits), 0
    for y in range(radius, -1, -1):
        while (reach + 1) ** 2 <= radius**2 - y**2:
            reach += 1
            wide[:, reach:] |= bits[:, :-reach]
            wide[:, :-reach] |= bits[:, reach:]
        rest = max(height - y, 0)
        result[y:] |= wide[:rest]
        result[:rest] |= wide[y:]
    return result


def boundary_f1(counts):
    """Sums of outline_counts (4, K) -> the mean F1 of the classes that are in truth or prediction."""
    met_truth, truth, met_prediction, prediction = counts
    recall, precision = met_truth / truth.clip(1), met_prediction / prediction.clip(1)
    f1 = 2 * precision * recall / (precision + recall).clip(1e-12)
    return f1.sum() / (truth + prediction > 0).sum().clip(1)


def new_figure(rows, columns, width, height):
    """A figure of width x height inches and its axes (rows, columns), without pyplot, whose state belongs to users."""
    from matplotlib.figure import Figure
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def plot_lines(panels, path):
    """A panel for each label: name of a line -> its values (seeds, epochs), as their mean and a band of all."""
    figure, axes = new_figure(1, len(panels), 4.4 * len(panels), 3.6)
    for axis, (label, lines) in zip(axes[0], panels.items()):
        for (name, values), marker in zip(lines.items(), itertools.cycle("os^vDP")):
            values, epochs = np.array(values, float), np.arange(1, len(values[0]) + 1)
            axis.plot(epochs, values.mean(0), label=name, marker=marker, markersize=3)  # markers: one epoch has no line
            axis.fill_between(epochs, values.min(0), values.max(0), alpha=0.2)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    save_figure(figure, path)


def plot_curves(history, path):
    """A panel for the training loss and for each score on val; history: rows of metrics.csv."""
    columns = [key for key in history[0] if key == "train_loss" or key.startswith("val_")]
    better = {key: "lower" if key.endswith(("loss", "delta_e")) else "higher" for key in columns}
    plot_lines({f"{key.replace('_', ' ')} ({better[key]} is better)": {key: [[row[key] for row in history]]}
                for key in columns}, path)


def plot_heat_map(rows, vertical, horizontal, value, path):
    """A heat map of `value` with its numbers, the keys `vertical` down the side and `horizontal` along the bottom."""
    labels = [[", ".join(str(row[key]) for key in keys) for row in rows] for keys in (vertical, horizontal)]
    down, along = (list(dict.fromkeys(each)) for each in labels)
    grid = np.full((len(down), len(along)), np.nan)
    for row, at_side, at_bottom in zip(rows, *labels):
        grid[down.index(at_side), along.index(at_bottom)] = float(row[value])
    names = [", ".join(keys).replace("_", " ") for keys in (horizontal, vertical)]
    plot_matrix(grid, "{:.3f}", down, along, path, title=f"{value.replace('_', ' ')} (★ best)", xlabel=names[0],
                ylabel=names[1], best=np.nanmax(grid))


def plot_matrix(values, form, down, along, path, best=None, **labels):
    """A matrix (len(down), len(along)) as coloured cells, up to 25 columns with numbers; `best` has a star."""
    figure, [[axis]] = new_figure(1, 1, *(0.6 * min(len(names), 25) + 2.5 for names in (along, down)))
    shown = axis.imshow(values, aspect="auto", cmap="Blues")
    for (i, j), value in np.ndenumerate(values) if len(along) <= 25 else ():
        ink, star = "white" if shown.norm(value) > 0.5 else "black", " ★" if value == best else ""
        axis.text(j, i, form.format(value) + star, ha="center", va="center", fontsize=8, color=ink)
    for names, set_ticks in ((along, axis.set_xticks), (down, axis.set_yticks)):
        named = range(0, len(names), -(-len(names) // 60))  # at most 60 names
        set_ticks(named, [names[i] for i in named], rotation=45, ha="right")
    axis.set(**labels)
    save_figure(figure, path)


def plot_images(rows, path, legend=(), columns=4):
    """Rows of images, (label, [(title, (H, W, C) uint8), ...]), in lines of `columns`; legend: (name, (r, g, b))."""
    lines = [("" if start else label, images[start : start + columns])
             for label, images in rows for start in range(0, len(images), columns)]
    height, width = lines[0][1][0][1].shape[:2] if lines else (1, 1)
    columns, number = max((len(images) for _, images in lines), default=1), max(len(lines), 1)
    figure, axes = new_figure(number, columns, 3 * columns, 3 * height / width * number + 0.9)
    for axis in axes.flat:
        axis.axis("off")
    for line, (label, images) in zip(axes, lines):
        line[0].text(-0.03, 0.5, label, rotation=90, ha="right", va="center", transform=line[0].transAxes)
        for axis, (title, image) in zip(line, images):
            axis.imshow(image[..., np.arange(3).clip(max=image.shape[-1] - 1)], interpolation="nearest")
            axis.set_title(title, fontsize=10)
    if not lines:
        axes[0][0].set_title("nothing to show")
    if legend:
        from matplotlib.patches import Patch
        patches = [Patch(facecolor=np.array(color) / 255, edgecolor="grey", label=name) for name, color in legend]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), fontsize=8)
    save_figure(figure, path)


def save_figure(figure, path):
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(False)  # a class may be called "$", which would begin a formula
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack a letter of a class's name
        figure.savefig(buffer, dpi=120)
    write_atomically(path, buffer.getvalue())


def save_image(image, path):
    """Write a Pillow image in the format of its path's suffix."""
    buffer = io.BytesIO()
    # PNG's default level, 6, takes three times as long and makes a photograph only 6% smaller.
    image.save(buffer, {".png": "PNG", ".jpg": "JPEG"}[path.suffix], quality=90, compress_level=1)
    write_atomically(path, buffer.getbuffer(), durable=False)  # an image is easily made again


# The first 11 differ from each other and from black by 18 CIEDE2000 or more, all 24 by 8. This holds for normal vision
# and for deuteranopia and protanopia as Machado et al. (2009) simulate them.
FIGURE_COLORS = [tuple(bytes.fromhex(color)) for color in (
    "8000ff ffff00 55ffff 558055 000055 2a5555 aad4aa aaaa00 2aaaff 800000 80aaaa aa5500 d40080 8080aa ffffaa 80aa80 "
    "0000aa 552a2a ff0055 55d4ff d4d455 2a80ff 2a002a aa0055").split()]


def figure_colors(colors):
    """Classes' colours -> colours for figures, which colour-blind people can tell apart: each class gets the nearest
    free one of as many FIGURE_COLORS. More than 24 classes keep their own."""
    left, chosen = FIGURE_COLORS[: len(colors)], []
    for own in colors if len(colors) <= len(FIGURE_COLORS) else ():
        chosen.append(min(left, key=lambda color: math.dist(color, own)))
        left.remove(chosen[-1])
    return chosen or [tuple(map(int, own)) for own in colors]


def best_to_worst(scores):
    """Scores, higher is better -> {index: "best", "median" or "worst"} of three of them."""
    order = np.argsort(scores, kind="stable")
    return dict(zip(order[[-1, len(order) // 2, 0]].tolist(), ("best", "median", "worst")))


def errors_in_red(truth, prediction):
    """Masks (..., H, W) uint8 -> (..., H, W, 3) uint8, white, and red where the prediction is wrong."""
    return colorize_mask(((prediction != truth) & (truth != VOID)).astype(np.uint8), [(255, 255, 255), (200, 0, 0)])


def colorize_mask(mask, colors):
    """Class indices (..., H, W) uint8 -> (H, W, 3) uint8 in the classes' colours; void is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table[mask]
