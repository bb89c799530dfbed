"""Task 1: say what kind of street, or what thing, a picture shows, with a ResNet.

    python train_classifier.py                                  # test accuracy 0.96, 2 minutes
    python train_classifier.py --data cifar10 --model resnet9   # 0.88, 10 minutes
    python train_classifier.py --sweep optimizer=sgd,adam schedule=none,step,multistep lr=1e-4,1e-3,1e-2

Times are those of 2 CPU cores with bf16.
"""
import argparse
import itertools
import traceback
from pathlib import Path

import torch
import torch.nn.functional as F

import utils
from data import InputError
from data.augment import augment
from data.sources import open_data
from evaluate import draw_classification, print_classification, score_classification
from models.classifier import BLOCKS

# The original report's settings, and ours, which were chosen on val. `ema` is the decay of the averaged weights, which
# are what is scored, `smoothing` that of the labels, `small` the share of the epochs, the first, that see pictures at
# 0.7 of the side; with `mirror` a picture and its mirror image are scored together.
RECIPES = {
    "report": dict(epochs=30, batch_size=64, optimizer="adam", lr=1e-4, schedule="none", weight_decay=0.0, width=64,
                   ema=0.0, smoothing=0.0, small=0.0, mirror=False, augment=dict(flip=0.5)),
    "best": dict(epochs=30, batch_size=64, optimizer="sgd", lr=0.05, schedule="onecycle", weight_decay=5e-4, width=64,
                 ema=0.98, smoothing=0.1, small=0.0, mirror=True,
                 augment=dict(flip=0.5, scale=(0.9, 1.3), color=0.2)),
}
BEST_ON = {  # what is better for one data set, and for one network on it
    "scenes": dict(epochs=25, width=32),
    "cifar10": dict(batch_size=128, lr=0.2, small=0.75, augment=dict(flip=0.5, shift=0.125)),
    ("cifar10", "resnet9"): dict(epochs=25, lr=0.4, schedule="linear", small=0.5, width=16),  # 10 minutes on 2 cores
}
SWEEP = {"optimizer": ["sgd", "adam"], "schedule": ["none", "step", "multistep"], "lr": [1e-4, 1e-3, 1e-2],
         "batch_size": [64, 256]}


def train(args):
    """Everything but the test. Returns the run and its data."""
    # 1. Data
    device, dtype = utils.setup(args)
    if args.dry_run:
        utils.dry_run(args, "classification")
    with utils.main_process_first():  # it fills the cache
        data = open_data(args.data, "classification", args.size, args.data_dir, args.seed)
    utils.fill_in(args, data, RECIPES, BEST_ON)
    args.out = args.out or f"runs/classification/{args.model}-{data.name}"

    # 2. Network
    network = {"name": args.model, "classes": len(data.classes), "width": args.width}
    if args.model != "resnet9":  # which is for small pictures anyway
        network["small_stem"] = min(data.size) < 64
    torch.manual_seed(args.seed)
    model = utils.build_network(network)
    if args.pretrained:
        utils.start_from(model, utils.imagenet_weights(args.model))

    # 3. Training: best is chosen on val
    run = utils.Run(args, device, dtype, network, data, model, mirror=args.mirror)
    for epoch in run.epochs():
        whole = args.dry_run or epoch >= args.small * args.epochs  # a dry run measures what is largest
        size = data.size if whole else utils.shrink(data.size, multiple=8)
        for images, labels, draws in run.batches(data.splits["train"]):
            images, _ = augment(images, None, draws, size, **args.augment)
            with run.autocast():
                logits = run.model(utils.normalize(images))
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=args.smoothing)
            run.step(loss)
        scores = score_classification(run.averaged, run.about, data.splits["val"], device, run.autocast)
        run.end_epoch({"accuracy": scores["accuracy"]}, best=scores["accuracy"])
    return run, data


def test(run, data):
    """Score test once, with the best weights, and draw."""
    # 4. Test
    (model, about), split = run.best_network(), data.splits["test"]
    scores = score_classification(model, about, split, run.device, run.autocast)
    print_classification(scores)
    run.finish({key: scores[key] for key in ("accuracy", "interval", "top5", "per_class")})
    draw_classification(scores, split, data.classes, run.folder)


def sweep(args):
    """Train every combination of the grid for equally many epochs; the best on val, and it alone, is tested."""
    grid = SWEEP | dict(parse_axis(text) for text in args.sweep)
    folder = Path(args.out or f"runs/classification/sweep-{Path(args.data).name}")
    cells = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    rows = []
    for cell in cells:
        print(f"sweep {len(rows) + 1}/{len(cells)}: " + ", ".join(f"{key} {value}" for key, value in cell.items()))
        rows.append({"run": "-".join(map(str, cell.values())), **cell, "epochs": 0, "val_accuracy": 0.0})
        try:
            run, _ = train(cell_settings(args, cell, folder / rows[-1]["run"]))  # a finished cell returns at once
            rows[-1] |= {"epochs": run.epoch, "val_accuracy": run.best["score"]}
            del run, _  # or they would lie in memory beside the next
        except utils.Diverged as error:
            if utils.world_size() > 1:
                raise  # the others may see it a step later, and would wait for this one
            traceback.clear_frames(error.__traceback__)  # lets go of the run, its memory and handlers
            print(error)
        utils.write_csv(folder / "sweep.csv", rows)
    utils.plot_heat_map(rows, ("optimizer", "schedule"), ("lr", "batch_size"), "val_accuracy", folder / "sweep.png")
    best = max(rows, key=lambda row: row["val_accuracy"])
    print(f"best on val: {best['run']}, {best['val_accuracy']:.4f}; its test:")
    test(*train(cell_settings(args, {key: best[key] for key in grid}, folder / best["run"])))


def cell_settings(args, cell, folder):
    """The command line's settings with a cell's in their place, going on where the cell was left."""
    begun = (folder / "last.pt").exists() or (folder / "previous.pt").exists()
    return argparse.Namespace(**vars(args) | cell | {"out": str(folder), "resume": begun})


def parse_axis(text):
    """"lr=1e-4,1e-3" -> ("lr", [0.0001, 0.001])"""
    key, _, values = text.partition("=")
    values = values.split(",")
    names = {"optimizer": utils.OPTIMIZERS, "schedule": utils.SCHEDULES}.get(key)
    number = {"lr": utils.positive_float, "batch_size": utils.positive_int}.get(key)
    if names and not set(values) <= set(names):
        raise InputError(f"--sweep {text}: {key} is one of {', '.join(names)}")
    try:
        return key, values if names else [number(value) for value in values]
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        raise InputError(f"--sweep {text}: write {', '.join(SWEEP)} = values with commas, as in lr=1e-4,1e-3")


def main(args):
    if args.sweep is not None:
        sweep(args)
    else:
        test(*train(args))


def get_args_parser():
    parser = utils.get_args_parser(__doc__, models=(*BLOCKS, "resnet9"),
                                   out="runs/classification/<model>-<data>")
    parser.add_argument("--pretrained", action="store_true", help="start from torchvision's ImageNet weights")
    parser.add_argument("--sweep", nargs="*", metavar="KEY=VALUES",
                        help="train a grid instead of one network: optimizer, schedule, lr, batch_size")
    return parser


if __name__ == "__main__":
    utils.run_main(main, get_args_parser())
