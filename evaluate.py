"""Score a run, predict on anyone's pictures, grade a class's submissions, make the report anew.

    python evaluate.py score runs/segmentation/unet-scenes
    python evaluate.py predict runs/segmentation/unet-scenes street.jpg --out predictions
    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*
    python evaluate.py report --seeds 1
"""
import argparse
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

import utils
from data import InputError, color
from data.images import read_image
from data.sources import NAMED, open_data

# ---------------------------------------------------------------------------------------------------------------------
# Segmentation


@torch.inference_mode()
def score_segmentation(model, about, split, device, autocast, outlines=True):
    """Scores on a split: miou, pixel_accuracy, frequency_weighted_iou, boundary_f1, and iou, a dict by class.

    model: (B, 3, H, W) float, normalized -> logits (B, K, H, W). Without `outlines` no boundary_f1, which takes time.
    """
    model.eval()
    classes = about["classes"]
    confusion, counts = utils.ConfusionMatrix(len(classes)), []
    for images, masks, _ in utils.batches(split, 32, device):
        with autocast():
            prediction = model(utils.normalize(images.float() / 255)).argmax(1)
        confusion.update(masks, prediction)
        if outlines:
            pairs = zip(masks.cpu().numpy(), prediction.byte().cpu().numpy())
            counts += [utils.outline_counts(*pair, len(classes)) for pair in pairs]
    scores = confusion.compute()
    scores["iou"] = dict(zip(classes, scores["iou"]))
    if outlines:
        scores["boundary_f1"] = float(utils.boundary_f1(sum(utils.gather(counts))))
    return scores


def print_segmentation(scores):
    """A row a class, then the means."""
    width = max(map(len, ("class", *scores["iou"]))) + 2
    print(f"{'class':<{width}}IoU")
    for name, iou in scores["iou"].items():
        print(f"{name:<{width}}{'-' if iou is None else format(iou, '.4f')}")
    for key in ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"):
        print(f"{key.replace('_', ' ')}: {scores[key]:.4f}")


@torch.inference_mode()
def draw_segmentation(model, about, split, device, autocast, path):
    """Image, truth and prediction side by side for six pictures spread evenly over a split."""
    chosen, colors = utils.evenly(len(split), 6), about["colors"]
    images, truth = np.asarray(split.images[chosen]), np.asarray(split.targets[chosen])
    with autocast():
        prediction = model(utils.normalize(torch.from_numpy(images).to(device).float() / 255)).argmax(1)
    prediction = prediction.byte().cpu().numpy()
    rows = [(image.transpose(1, 2, 0), utils.colorize_mask(t, colors), utils.colorize_mask(p, colors))
            for image, t, p in zip(images, truth, prediction)]
    utils.plot_rows(rows, ("image", "truth", "prediction"), path, legend=list(zip(about["classes"], colors)))


def as_batch(image, size, device):
    """A PIL picture -> (1, 3, H, W) float in [0, 1] at the network's size."""
    small = np.array(image.resize(tuple(size)[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float() / 255


@torch.inference_mode()
def predict_segmentation(model, checkpoint, image, device):
    """A PIL picture of any size -> class ids (H, W) uint8 at its own size."""
    scores = model(utils.normalize(as_batch(image, checkpoint["size"], device)))[0].float()
    mask = torch.zeros(image.height, image.width, dtype=torch.uint8, device=device)
    best = torch.full(mask.shape, -torch.inf, device=device)
    # Scores, not ids, are enlarged: outlines come out smooth instead of in steps. One class at a time: those of a
    # very large picture would not fit in memory together.
    for k, score in enumerate(scores):
        score = F.interpolate(score[None, None], mask.shape, mode="bilinear")[0, 0]
        mask.masked_fill_(score > best, k)
        torch.maximum(score, best, out=best)
    return mask.cpu().numpy()


def with_palette(mask, colors, ids):
    """Classes (H, W) uint8 as a palette picture: a viewer shows their `colors`, and its bytes are their `ids`, those of
    the masks that the network was trained with."""
    bytes_, palette = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    bytes_[: len(ids)], palette[ids] = ids, colors
    picture = Image.frombytes("P", mask.shape[::-1], bytes_[mask].tobytes())
    picture.putpalette(palette.tobytes())
    return picture


# ---------------------------------------------------------------------------------------------------------------------
# Classification


def class_probabilities(model, images, mirror):
    """RGB pictures (B, 3, H, W) float in [0, 1] -> probabilities (B, K) float.

    With `mirror` the mean over each picture and its mirror image, for a network that was trained on both: Krizhevsky,
    Sutskever, Hinton 2012 average ten such views.
    """
    images = utils.normalize(images)
    views = (images, images.flip(3)) if mirror else (images,)
    return sum(model(view).float().softmax(1) for view in views) / len(views)


@torch.inference_mode()
def score_classification(model, about, split, device, autocast):
    """accuracy with its 95% interval, top5, per_class, and what draw_classification needs: confusion (K, K), and
    probabilities (N, K)."""
    model.eval()
    classes, probabilities, labels = about["classes"], [], []
    for images, targets, _ in utils.batches(split, 256, device):
        with autocast():
            probabilities.append(class_probabilities(model, images.float() / 255, about["mirror"]).cpu())
        labels.append(targets.cpu())
    probabilities, labels = torch.cat(utils.gather(probabilities)), torch.cat(utils.gather(labels))
    confusion = utils.ConfusionMatrix(len(classes))
    confusion.update(labels, probabilities.argmax(1))
    hits, counts = confusion.counts.diag(), confusion.counts.sum(1)
    top5 = probabilities.topk(min(5, len(classes))).indices == labels[:, None]
    return {
        "accuracy": float(hits.sum() / counts.sum()),
        "interval": utils.wilson_interval(int(hits.sum()), int(counts.sum())),
        "top5": float(top5.any(1).float().mean()),
        "per_class": {name: float(h / c) if c else None for name, h, c in zip(classes, hits, counts)},
        "confusion": confusion.counts.numpy(), "probabilities": probabilities.numpy(),
    }


def print_classification(scores):
    """A row a class, then the accuracy over all pictures."""
    width = max(map(len, ("class", *scores["per_class"]))) + 2
    print(f"{'class':<{width}}accuracy")
    for name, accuracy in scores["per_class"].items():
        print(f"{name:<{width}}{'-' if accuracy is None else format(accuracy, '.4f')}")
    low, high = scores["interval"]
    print(f"accuracy: {scores['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})")
    if len(scores["per_class"]) > 5:
        print(f"top-5 accuracy: {scores['top5']:.4f}")


def draw_classification(scores, split, classes, folder):
    """confusion.png, and mistakes.png: the twelve pictures on which the network was surest and wrong."""
    utils.plot_confusion(scores["confusion"], classes, folder / "confusion.png")
    prediction, truth = scores["probabilities"].argmax(1), np.asarray(split.targets)
    sureness = np.where(prediction != truth, scores["probabilities"].max(1), 0)
    worst = [i for i in np.argsort(-sureness)[:12] if sureness[i]]
    pictures = [np.asarray(split.images[i]).transpose(1, 2, 0) for i in worst]
    captions = [f"{classes[prediction[i]]} {sureness[i]:.0%}\nis {classes[truth[i]]}" for i in worst]
    utils.plot_gallery(pictures, captions, folder / "mistakes.png")


@torch.inference_mode()
def predict_classification(model, checkpoint, image, device):
    """A PIL picture of any size -> its class's name and probability."""
    picture = as_batch(image, checkpoint["size"], device)
    probability, index = class_probabilities(model, picture, checkpoint["mirror"])[0].max(0)
    return checkpoint["classes"][int(index)], float(probability)


# ---------------------------------------------------------------------------------------------------------------------
# Colorization


AB_UNIT = 25  # few colours of a photograph lie farther from grey, so targets are about -1 to 1


def lightness_and_ab(rgb):
    """RGB (B, 3, H, W) float in [0, 1] -> the network's input (B, 1, H, W) and ab / AB_UNIT (B, 2, H, W)."""
    lab = color.rgb_to_lab(rgb)
    return (lab[:, :1] / 50 - 1).contiguous(memory_format=torch.channels_last), lab[:, 1:] / AB_UNIT


def paint(output, lightness, about):
    """A network's output and its input -> the coloured picture (B, 3, H, W) float in [0, 1].

    `about` says what the output means: the picture's logits, its ab (times a gain, because a network that minimizes a
    distance predicts averages, and averages are pale), or classes of ab, of which the annealed mean is taken.
    """
    output = output.float()
    if about["target"] == "rgb":
        return output.sigmoid()  # with a clamp bright skies, which overshoot, have coloured specks
    if about["centers"] is not None:
        ab = color.decode_ab(output, torch.tensor(about["centers"], device=output.device))
    else:
        ab = output * (AB_UNIT * about["gain"])
    return with_colors(lightness, ab)


def with_colors(lightness, ab=None):
    """The network's input (B, 1, H, W) and ab (B, 2, H, W), none for grey -> RGB (B, 3, H, W) float in [0, 1]."""
    ab = torch.zeros_like(lightness).expand(-1, 2, -1, -1) if ab is None else ab
    return color.lab_to_rgb(torch.cat([50 * (lightness + 1), ab], 1))


def to_pictures(rgb):
    """RGB (B, 3, H, W) float in [0, 1] -> (B, H, W, 3) uint8, in numpy."""
    return (255 * rgb).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def color_metrics(prediction, truth):
    """For RGB pictures (B, 3, H, W) in [0, 1]: a dict of psnr, ssim, delta_e, colorfulness and sharpness, (B,) each.

    delta_e is the mean CIEDE2000; colorfulness (Hasler and Suesstrunk 2003) and sharpness (gradient energy) are the
    prediction's own, to be divided by the truth's.
    """
    difference = color.ciede2000(color.rgb_to_lab(prediction), color.rgb_to_lab(truth)).mean((1, 2))
    return {"psnr": color.psnr(prediction, truth).clamp(max=100), "ssim": color.ssim(prediction, truth),
            "delta_e": difference, "colorfulness": color.colorfulness(prediction),
            "sharpness": color.gradient_energy(prediction)}


@torch.inference_mode()
def score_colorization(model, about, split, device, autocast, criterion=None, baselines=False):
    """Means over a split: psnr, ssim, delta_e, and the ratios of colourfulness and sharpness to the truth's.

    With a criterion(output, rgb, ab) its mean too, as loss. With `baselines` also the same scores of grey and of the
    training set's mean colour, and `pictures`, a row a picture.
    """
    model.eval()
    loss, rows = 0.0, {name: [] for name in ("truth", "prediction", *("grey", "mean colour") * baselines)}
    for images, _, _ in utils.batches(split, 32, device):
        rgb = images.float() / 255
        lightness, ab = lightness_and_ab(rgb)
        with autocast():
            output = model(lightness)
        rows["truth"].append(torch.stack([color.colorfulness(rgb), color.gradient_energy(rgb)], 1).cpu())
        painted = {"prediction": paint(output, lightness, about)}
        if baselines:
            mean = lightness.new_tensor(about["mean_ab"])[:, None, None].expand(len(rgb), 2, *rgb.shape[2:])
            painted |= {"grey": with_colors(lightness), "mean colour": with_colors(lightness, mean)}
        for name, picture in painted.items():
            rows[name].append(torch.stack(list(color_metrics(picture, rgb).values()), 1).cpu())
        loss += float(criterion(output, rgb, ab)) * len(rgb) if criterion else 0.0
    loss = sum(utils.gather([loss]))
    rows = {name: torch.cat(utils.gather(parts)).numpy().astype(float) for name, parts in rows.items()}

    def means(row):
        ratios = row[:, 3:].sum(0) / rows["truth"].sum(0).clip(1e-9)
        return dict(zip(("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio"),
                        map(float, (*row[:, :3].mean(0), *ratios))))

    scores = means(rows["prediction"]) | ({"loss": loss / len(split)} if criterion else {})
    if baselines:
        scores["baselines"] = {name: means(rows[name]) for name in ("grey", "mean colour")}
        keys = ("psnr", "ssim", "delta_e", "colorfulness", "sharpness", "true_colorfulness", "true_sharpness")
        scores["pictures"] = [{"name": name} | dict(zip(keys, row)) for name, row in
                              zip(split.names, np.hstack([rows["prediction"], rows["truth"]]).tolist())]
    return scores


def print_colorization(scores):
    """The network beside the two honest baselines."""
    keys = ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio")
    print(f"{'':<13}" + "".join(f"{key.replace('_', ' '):>20}" for key in keys))
    for name, row in {"network": scores, **scores["baselines"]}.items():
        print(f"{name:<13}" + "".join(f"{row[key]:>20.4f}" for key in keys))


@torch.inference_mode()
def predict_colorization(model, checkpoint, image, device):
    """A PIL picture of any size, grey or not -> the coloured one at its own size.

    Of Lab targets the colour comes from the network's size and the lightness, with all its detail, from the original.
    """
    lightness, _ = lightness_and_ab(as_batch(image, checkpoint["size"], device))
    painted = paint(model(lightness), lightness, checkpoint)
    painted = F.interpolate(painted, (image.height, image.width), mode="bilinear")
    rows, strips = max(2**22 // image.width, 1), []  # in strips: the arithmetic takes many times a picture's memory
    for top in range(0, image.height, rows):
        strip = painted[:, :, top : top + rows]
        if checkpoint["target"] == "lab":
            part = image.crop((0, top, image.width, top + strip.shape[2]))
            own, _ = lightness_and_ab(as_batch(part, strip.shape[2:], device))
            strip = with_colors(own, color.rgb_to_lab(strip)[:, 1:])
        strips.append(to_pictures(strip)[0])
    return Image.fromarray(np.concatenate(strips))


def other_run(folder):
    """The finished run beside this one that differs from it in its skip connections alone, or None."""
    name = folder.name.removesuffix("-noskips") if folder.name.endswith("-noskips") else folder.name + "-noskips"
    other = folder.with_name(name)
    keys = ("data", "size", "target", "loss", "width", "epochs", "batch_size", "lr", "optimizer", "schedule", "seed",
            "skips")
    try:
        own, its = (dict(json.loads((run / "config.json").read_text())["settings"]) for run in (folder, other))
    except (OSError, ValueError, LookupError, TypeError):  # not there, or not as a run leaves it
        return None
    differing = [key for key in keys if own.get(key) != its.get(key)]
    return other if differing == ["skips"] and (other / "summary.json").exists() else None


@torch.inference_mode()
def draw_colorization(folder, split, device, path):
    """Six pictures, spread evenly over a split: grey, with skips, without (as far as both runs are there), truth."""
    chosen = utils.evenly(len(split), 6)
    rgb = torch.from_numpy(np.asarray(split.images[chosen])).to(device).float() / 255
    lightness, _ = lightness_and_ab(rgb)
    columns = {"grey": with_colors(lightness)}
    runs = [run for run in (folder, other_run(folder)) if run]
    for run in sorted(runs, key=lambda run: run.name.endswith("-noskips")):
        model, about = utils.load_for_inference(run, device, torch.float32)
        title = "with skips" if about["network"].get("skips", True) else "without skips"
        columns[title] = paint(model(lightness), lightness, about)
    columns["truth"] = rgb
    utils.plot_rows(list(zip(*map(to_pictures, columns.values()))), list(columns), path)


def compare_colorization(folder):
    """Where the other run is there: both on one curves.png, and the steps each takes to the other's final val loss."""
    other = other_run(folder)
    if other is None:
        return
    histories = {run.name: utils.read_csv(run / "metrics.csv") for run in sorted((folder, other), key=str)}
    try:
        utils.plot_curves(histories, folder / "curves.png")
        for (name, history), (rival, its) in zip(histories.items(), reversed(histories.items())):
            final = float(its[-1]["val_loss"])
            steps = next((int(row["step"]) for row in history if float(row["val_loss"]) <= final), None)
            verb = "never reaches" if steps is None else f"takes {steps} of {history[-1]['step']} steps to"
            print(f"{name} {verb} {rival}'s final val loss {final:.4f}")
    except (LookupError, TypeError, ValueError):
        raise InputError(f"{other}/metrics.csv is damaged; remove that run, or train it again, to compare with it")


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def open_run(args):
    """A run's folder -> (network on the device, checkpoint, device, autocast)."""
    device, dtype = utils.setup(args)
    return *utils.load_for_inference(args.run, device, dtype), device, utils.autocast(device, dtype)


def score(args):
    """Score a run on a split of the data it was trained on, or of any other of the same task and classes."""
    model, checkpoint, device, autocast = open_run(args)
    task = checkpoint["task"]
    if not args.data and checkpoint["data"] not in NAMED and not Path(checkpoint["data"]).is_dir():
        raise InputError(f"{checkpoint['data']}, on which the run was trained, is not there; give a folder with --data")
    data = open_data(args.data or checkpoint["data"], task, tuple(args.size or checkpoint["size"]), args.data_dir,
                     checkpoint["seed"], splits=(args.split,))
    if data.classes != checkpoint["classes"]:
        raise InputError(f"--data {data.name} has other classes than the run: {', '.join(data.classes)[:200]}")
    split = data.splits[args.split]
    same = split.digest == checkpoint.get("pictures", {}).get(args.split, split.digest)
    if not (args.data or same) and data.assignment:
        raise InputError(f"{checkpoint['data']} holds other pictures than when the run was trained, so the split made "
                         "then is gone (split.json says which it was): put them back, or give a folder with --data")
    print(f"{args.run} on {data.name}/{args.split}: {len(split)} pictures at {data.size[0]}x{data.size[1]}")
    if Path(args.run).is_dir() and not Path(args.run, "summary.json").exists():
        print("this run is not finished: its best epoch so far")
    if task == "segmentation":
        print_segmentation(score_segmentation(model, checkpoint, split, device, autocast))
    elif task == "classification":
        print_classification(score_classification(model, checkpoint, split, device, autocast))
    else:
        print_colorization(score_colorization(model, checkpoint, split, device, autocast, baselines=True))


def predict(args):
    """Write a mask and an overlay, or the colours, for each picture, or labels.csv; a bad picture stops no other."""
    model, checkpoint, device, autocast = open_run(args)
    folder = Path(args.out)
    if any(Path(path).resolve().parent == folder.resolve() for path in args.images):
        raise InputError(f"--out {args.out}: the pictures' own folder, where they might be overwritten; give another")
    folder.mkdir(parents=True, exist_ok=True)
    used = set()
    names = [unused(Path(path).stem, used) for path in args.images]
    times = Counter(Path(path).name for path in args.images)

    def row_name(path):
        """class/file where two folders hold a file of that name."""
        return f"{path.parent.name}/{path.name}" if times[path.name] > 1 else path.name

    def predict_one(path, name):
        """The row of labels.csv, if any, and what is wrong with the picture, if anything."""
        try:
            image = read_image(path)
            with autocast():
                return predict_picture(model, checkpoint, image, device, folder, name, row_name(Path(path))), None
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            advice = utils.explain(error, args)
            if advice is None:
                raise
            return None, advice if isinstance(error, InputError) else f"{path}: {advice}"

    # A thread a core, each with a picture of its own: while one decodes or writes, the others calculate.
    threads = 4 if device.type == "cuda" else min(torch.get_num_threads(), 8)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    labels, failures = [], 0
    try:
        for label, problem in tqdm(pool.map(predict_one, args.images, names), total=len(names), unit="img",
                                   disable=None):
            if label:
                labels.append(label)
            if problem:
                failures += 1
                utils.refuse(problem)
    finally:
        pool.shutdown(cancel_futures=True)
    if labels:
        utils.write_csv(folder / "labels.csv", labels)
    print(f"{len(args.images) - failures} of {len(args.images)} pictures predicted into {folder}")
    return 2 if failures else 0


def predict_picture(model, checkpoint, image, device, folder, name, row_name):
    """Predict one PIL picture and write what comes of it; of a classifier, return the row of labels.csv."""
    if checkpoint["task"] == "classification":
        label, probability = predict_classification(model, checkpoint, image, device)
        return {"name": row_name, "label": label, "probability": f"{probability:.4f}"}
    if checkpoint["task"] == "colorization":
        utils.save_picture(predict_colorization(model, checkpoint, image, device), folder / f"{name}.png")
        return None
    colors = checkpoint["colors"]
    ids = checkpoint.get("ids", list(range(len(colors))))
    mask = with_palette(predict_segmentation(model, checkpoint, image, device), colors, ids)
    utils.save_picture(mask, folder / f"{name}.png")
    suffix = "jpg" if max(image.size) <= 65500 else "png"  # libjpeg's limit
    utils.save_picture(Image.blend(image, mask.convert("RGB"), 0.5), folder / f"{name}_overlay.{suffix}")
    return None


def unused(name, used):
    """A name that is not in `used` yet: pictures of two folders may share theirs."""
    number, unique = 1, name
    while unique in used:
        number += 1
        unique = f"{name}_{number}"
    used.add(unique)
    return unique


def get_args_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, text):
        sub = commands.add_parser(function.__name__, help=text, description=function.__doc__)
        sub.set_defaults(function=function)
        sub.add_argument("--device", default="auto")
        sub.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    sub = command(score, "the metrics of a finished run")
    sub.add_argument("run", help="a run's folder")
    sub.add_argument("--data", help="a named data set or a folder (default: the run's own)")
    sub.add_argument("--data-dir", default="data")
    sub.add_argument("--size", type=utils.positive_int, nargs=2, metavar=("H", "W"), help="default: the run's")
    sub.add_argument("--split", choices=("train", "val", "test"), default="test")

    sub = command(predict, "masks, colours or labels for anyone's own pictures")
    sub.add_argument("run", help="a run's folder")
    sub.add_argument("images", nargs="+", metavar="IMAGE")
    sub.add_argument("--out", required=True, help="the folder to write to")

    from evaluation import grading, reporting  # here, because they use what stands above
    grading.add_grade_arguments(command(grading.grade, "score a class's submissions against the truth"))
    reporting.add_report_arguments(command(reporting.report, "make the homework's report anew"))
    return parser


if __name__ == "__main__":
    utils.run_main(lambda args: args.function(args), get_args_parser())
