"""Task 1: tell which kind of street, or which object, an image shows, with a ResNet.

    python train_classifier.py                                  # test accuracy 0.98, 2 minutes
    python train_classifier.py --data cifar10 --model resnet9   # 0.88, 10 minutes
    python train_classifier.py --sweep optimizer=sgd,adam schedule=none,step,multistep lr=1e-4,1e-3,1e-2

Times are those of 2 CPU cores with bf16."""
from training.flags import get_args_parser, parse

if __name__ == "__main__":
    args = parse(get_args_parser("classification", __doc__))  # --help and mistakes need not wait for torch

import numpy as np
import torch
import torch.nn.functional as F

from data.augment import augment
from evaluation import print_scores
from evaluation.classification import draw_classification, score_classification
from models import build_network
from training.checkpoint import autocast, load_start
from training.optimization import class_weights
from training.run import Run
from training.settings import prepare, run_main
from training.sweep import sweep
from utils import shrink

# The original report's settings, and ours, which were chosen on val. `ema` is the decay of the averaged weights, which
# are scored; `smoothing` is the label smoothing; `balance` is the exponent of class_weights; `small` is the share of
# epochs, the first ones, with images at 0.7 of the side. With `mirror` an image and its mirror image are scored.
RECIPES = {
    "report": dict(epochs=30, batch_size=64, optimizer="adam", lr=1e-4, schedule="none", weight_decay=0.0, width=64,
                   ema=0.0, smoothing=0.0, balance=0.0, small=0.0, mirror=False, augment=dict(flip=0.5)),
    "best": dict(epochs=30, batch_size=64, optimizer="sgd", lr=0.05, schedule="onecycle", weight_decay=5e-4, width=64,
                 ema=0.98, smoothing=0.1, balance=0.5, small=0.0, mirror=True,
                 augment=dict(flip=0.5, scale=(0.9, 1.3), color=0.2)),
}
BEST_ON = {  # better settings for one data set, and for one network on it
    "scenes": dict(epochs=25, width=32),
    "cifar10": dict(batch_size=128, lr=0.2, small=0.75, augment=dict(flip=0.5, shift=0.125)),
    ("cifar10", "resnet9"): dict(epochs=25, lr=0.4, schedule="linear", small=0.5, width=16),  # 10 minutes on 2 cores
}


def train(args, last=None):
    """All steps but the test, up to the epoch `last` if one is given. Returns the run and its data."""
    # 1. Data
    args, data, device, dtype = prepare(args, RECIPES, BEST_ON)

    # 2. Network
    network = {"name": args.model, "in_channels": args.channels, "classes": len(data.classes), "width": args.width}
    if args.model != "resnet9":  # resnet9 is always for small images
        network["small_stem"] = min(data.size) < 64
    torch.manual_seed(args.seed)
    model = build_network(network)
    load_start(model, args)

    # 3. Training: val chooses the best weights
    weights = class_weights(np.add(data.counts["train"], 1.0), args.balance).to(device)
    run = Run(args, device, dtype, network, data, model, mirror=args.mirror)
    for epoch in run.epochs(last):
        size = shrink(data.size, multiple=8) if epoch < args.small * args.epochs else data.size
        for images, labels, draws in run.batches(data.splits["train"]):
            images, _ = augment(images, None, draws, size, **args.augment)
            with autocast(device, dtype):
                logits = run.model(images)
            # The weights are those of the true classes. torch would also weight what smoothing adds for the others.
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=args.smoothing, reduction="none")
            run.step((weights[labels] * loss).mean())
        scores = score_classification(run.predictor, data.splits["val"])
        run.end_epoch({"accuracy": scores["accuracy"]}, best=scores["accuracy"])
    return run, data


def test(run, data):
    # 4. Test: once, with the best weights
    scores = score_classification(run.best_predictor(), data.splits["test"])
    print_scores(scores)
    confusion, probabilities = scores.pop("confusion"), scores.pop("probabilities")
    run.finish(scores | {"per_class": scores["recall"]})
    draw_classification(confusion, probabilities, data.splits["test"], data.classes, run.folder)


def main(args):
    if args.sweep is not None:
        sweep(args, train, test)
    else:
        test(*train(args))


if __name__ == "__main__":
    run_main(main, args)
