"""Score a finished run, or let it predict on anyone's pictures.

    python evaluate.py score runs/segmentation/unet-scenes
    python evaluate.py predict runs/segmentation/unet-scenes street.jpg --out predictions
"""
import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

import utils
from data import InputError
from data.sources import open_data, read_image

# ---------------------------------------------------------------------------------------------------------------------
# Segmentation


@torch.inference_mode()
def score_segmentation(model, split, classes, device, autocast, batch_size=32, workers=0, outlines=True):
    """The scores of a network on a split: miou, pixel_accuracy, frequency_weighted_iou, boundary_f1 and iou by class."""
    model.eval()
    confusion, boundary = utils.ConfusionMatrix(len(classes)), utils.BoundaryF1(len(classes))
    for images, masks, _, _ in utils.batches(split, batch_size, device, workers=workers):
        with autocast():
            prediction = model(utils.normalize(images.float() / 255)).argmax(1)
        confusion.update(masks, prediction)
        if outlines:
            boundary.update(masks, prediction)
    scores = confusion.compute()
    scores["iou"] = dict(zip(classes, scores["iou"]))
    return scores | ({"boundary_f1": boundary.compute()} if outlines else {})


def print_segmentation(scores):
    """A row a class, then the means."""
    width = max(len(name) for name in scores["iou"]) + 2
    print(f"{'class':<{width}}IoU")
    for name, iou in scores["iou"].items():
        print(f"{name:<{width}}{'-' if iou is None else format(iou, '.4f')}")
    for key in ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"):
        print(f"{key.replace('_', ' ')}: {scores[key]:.4f}")


@torch.inference_mode()
def draw_segmentation(model, split, classes, colors, device, path, count=6):
    """Image, truth and prediction side by side for `count` pictures spread evenly over a split."""
    chosen = np.linspace(0, len(split) - 1, min(count, len(split))).astype(int)
    images, truth = np.asarray(split.images[chosen]), np.asarray(split.targets[chosen])
    model.eval()
    prediction = model(utils.normalize(torch.from_numpy(images).to(device).float() / 255)).argmax(1).byte().cpu().numpy()
    rows = [(image.transpose(1, 2, 0), utils.colorize_mask(t, colors), utils.colorize_mask(p, colors))
            for image, t, p in zip(images, truth, prediction)]
    utils.plot_rows(rows, ("image", "truth", "prediction"), path, legend=list(zip(classes, colors)))


@torch.inference_mode()
def predict_segmentation(model, checkpoint, image, device):
    """A PIL picture of any size -> class ids (H, W) uint8 at its own size."""
    height, width = checkpoint["size"]
    small = np.array(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    scores = model(utils.normalize(torch.from_numpy(small)[None].to(device).float() / 255))
    # Scores, not ids, are enlarged: outlines come out smooth instead of in steps.
    scores = F.interpolate(scores.float(), (image.height, image.width), mode="bilinear")
    return scores.argmax(1)[0].byte().cpu().numpy()


def save_mask(mask, colors, path):
    """Class ids (H, W) as a palette PNG: its bytes are the ids, and a viewer shows the classes' colours."""
    picture = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    picture.putpalette(utils.colorize_mask(np.arange(256, dtype=np.uint8), colors).tobytes())
    picture.save(path)


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def open_run(args):
    """A run's folder -> (network on the device, checkpoint, device, autocast)."""
    device, dtype = utils.setup(args)
    model, checkpoint = utils.load_run(args.run)
    return model.to(device), checkpoint, device, utils.autocast(device, dtype)


def score(args):
    """Score a run on a split of the data it was trained on, or of any other of the same task and classes."""
    model, checkpoint, device, autocast = open_run(args)
    data = open_data(args.data or checkpoint["data"], checkpoint["task"], tuple(args.size or checkpoint["size"]),
                     args.data_dir, checkpoint["seed"], splits=(args.split,))
    if data.classes != checkpoint["classes"]:
        raise InputError(f"{data.name} has other classes than the run: {', '.join(data.classes)[:200]}")
    scores = score_segmentation(model, data.splits[args.split], data.classes, device, autocast)
    print(f"{args.run} on {data.name}/{args.split}: {len(data.splits[args.split])} pictures at {data.size[0]}x{data.size[1]}")
    print_segmentation(scores)


def predict(args):
    """Write a palette mask and an overlay for each picture; a bad one is named and does not stop the others."""
    model, checkpoint, device, autocast = open_run(args)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    failures = 0
    for path in tqdm(args.images, unit="img", disable=None):
        try:
            image = read_image(path)
        except (InputError, OSError) as error:
            failures += 1
            utils.refuse(error)
            continue
        with autocast():
            mask = predict_segmentation(model, checkpoint, image, device)
        save_mask(mask, checkpoint["colors"], folder / f"{Path(path).stem}.png")
        overlay = Image.fromarray(utils.colorize_mask(mask, checkpoint["colors"]))
        Image.blend(image, overlay, 0.5).save(folder / f"{Path(path).stem}_overlay.jpg", quality=90)
    print(f"{len(args.images) - failures} of {len(args.images)} pictures predicted into {folder}")
    return 2 if failures else 0


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

    sub = command(predict, "masks for anyone's own pictures")
    sub.add_argument("run", help="a run's folder")
    sub.add_argument("images", nargs="+", metavar="IMAGE")
    sub.add_argument("--out", required=True, help="the folder to write to")
    return parser


if __name__ == "__main__":
    utils.run_main(lambda args: args.function(args), get_args_parser())
