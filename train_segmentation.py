"""Task 2: label every pixel of a street, with a U-Net or with ResNet-FCN32.

    python train_segmentation.py --model unet                                          # test mIoU 0.64, 3 minutes
    python train_segmentation.py --model fcn32                                         # 0.44, 5 minutes
    python train_segmentation.py --model unet --data camvid --size 96 128 --width 32   # 0.50, 11 minutes

Times are those of 2 CPU cores with bf16. In float32, without AVX-512, the first command takes 1.3 times as long."""
from training.flags import get_args_parser, parse

if __name__ == "__main__":
    args = parse(get_args_parser("segmentation", __doc__))  # --help and mistakes need not wait for torch

import numpy as np
import torch
import torch.nn.functional as F

from data.augment import augment
from data.masks import VOID
from evaluation import print_scores
from evaluation.segmentation import draw_segmentation, score_segmentation
from models import build_network
from training.checkpoint import autocast, load_start
from training.optimization import class_weights
from training.run import Run
from training.settings import prepare, run_main
from utils import shrink

# The original report's settings, and ours, which were chosen on val. `ema` is the decay of the averaged weights, which
# are scored; `dice` is the weight of the Dice loss; `balance` is the exponent of class_weights; `small` is the share of
# epochs, the first ones, with images at 0.7 of the side. 0 turns each of them off.
RECIPES = {
    "report": dict(epochs=50, batch_size=64, optimizer="adam", lr=1e-4, schedule="none", weight_decay=0.0, width=64,
                   ema=0.0, dice=0.0, balance=0.0, small=0.0, augment=dict(flip=0.5)),
    "best": dict(epochs=44, batch_size=16, optimizer="adamw", lr=2e-3, schedule="linear", weight_decay=0.01, width=64,
                 ema=0.98, dice=1.0, balance=0.5, small=0.5,
                 augment=dict(flip=0.5, rotate=5, scale=(0.8, 1.6), color=0.3)),
}
BEST_ON = {  # better settings for one data set, and for one network on it
    "camvid": dict(batch_size=8),  # on few images, many small steps learn more than a few large ones
    ("camvid", "fcn32"): dict(epochs=100),
    "scenes": dict(epochs=12, batch_size=8, augment=dict(flip=0.5, color=0.1)),  # drawn scenes need little augmentation
    ("scenes", "unet"): dict(epochs=7, batch_size=4, width=16, small=0.7),
}


def segmentation_loss(logits, masks, weights, dice):
    """Cross entropy, weighted by class, plus `dice` times one minus the mean of all classes' soft Dice.

    logits (B, K, H, W) float, masks (B, H, W) int64 with void, weights (K,). Dice is computed over the whole batch and
    smoothed by 1 (Milletari et al. 2016, without squares). As in mIoU, large and small classes count alike."""
    # One plane per class: on CPUs twice as fast as the logits' channels-last order.
    log_probability = logits.to(torch.float32, memory_format=torch.contiguous_format).log_softmax(1)
    truth = masks[:, None] == torch.arange(logits.shape[1], device=masks.device)[:, None, None]  # void is no class
    pixels = truth.sum((0, 2, 3))
    # The mean is taken here: on CUDA nll_loss sums its own mean in another order at every run.
    loss = F.nll_loss(log_probability, masks, weights, ignore_index=VOID, reduction="none")
    loss = loss.sum() / (weights * pixels).sum().clamp(min=1e-6)  # all may be void
    if dice:
        probability = log_probability.exp() * (masks != VOID)[:, None]
        overlap = (probability * truth).sum((0, 2, 3))
        loss = loss + dice * (1 - (2 * overlap + 1) / (probability.sum((0, 2, 3)) + pixels + 1)).mean()
    return loss


def main(args):
    # 1. Data
    args, data, device, dtype = prepare(args, RECIPES, BEST_ON)
    train, val, test = data.splits.values()
    largest = [min(sides) for sides in zip(args.tile or data.size, data.size)]  # whole images, or random crops
    window = [side / whole for side, whole in zip(largest, data.size)]

    # 2. Network
    outputs = "out_channels" if args.model == "unet" else "classes"
    network = {"name": args.model, "in_channels": args.channels, outputs: len(data.classes), "width": args.width}
    torch.manual_seed(args.seed)
    model = build_network(network)
    load_start(model, args)

    # 3. Training: val chooses the best weights
    weights = class_weights(np.add(data.counts["train"], 1.0), args.balance).to(device)
    run = Run(args, device, dtype, network, data, model, foreground=args.foreground, tile=largest if args.tile else [])
    for epoch in run.epochs():
        size = shrink(largest) if epoch < args.small * args.epochs else largest
        for images, masks, draws in run.batches(train):
            images, masks = augment(images, masks, draws, size, window, **args.augment)
            with autocast(device, dtype):
                logits = run.model(images)
            run.step(segmentation_loss(logits, masks, weights, args.dice))
        scores = score_segmentation(run.predictor, val, outlines=False)
        if run.end_epoch({key: scores[key] for key in ("miou", "pixel_accuracy")}, best=scores["miou"]):
            draw_segmentation({"prediction": run.predictor}, val, scores["images"], run.folder / "predictions.png")

    # 4. Test: once, with the best weights
    predictor = run.best_predictor()
    scores = score_segmentation(predictor, test)
    print_scores(scores)
    draw_segmentation({"prediction": predictor}, test, scores.pop("images"), run.folder / "predictions.png")
    run.finish(scores)


if __name__ == "__main__":
    run_main(main, args)
