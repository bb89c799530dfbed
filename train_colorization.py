"""Task 3: give a grey image its colours, with a U-Net, with or without its skip connections.

    python train_colorization.py                           # colours for a given lightness, 5 minutes
    python train_colorization.py --target rgb              # the original report's way: paint the whole image
    python train_colorization.py --target rgb --no-skips   # the same without skips: the image is blurred

Times are those of 2 CPU cores with bf16."""
from training.flags import get_args_parser, parse

if __name__ == "__main__":
    args = parse(get_args_parser("colorization", __doc__))  # --help and mistakes need not wait for torch

import numpy as np
import torch
import torch.nn.functional as F

from data import InputError
from data.augment import augment
from evaluation import print_scores
from evaluation.colorization import AB_UNIT, draw_colorization, lightness_and_ab, score_colorization
from models import build_network
from training.checkpoint import autocast, load_start
from training.run import Run
from training.settings import prepare, run_main
from utils import evenly, write_csv

# The share of the truth's colourfulness that the gain on ab reaches on val. On test it may be a tenth lower.
COLORFULNESS = 0.8

# The original report's settings, and ours, chosen on val. `ema` is the decay of the averaged weights, which are scored.
RECIPES = {
    "report": dict(epochs=50, batch_size=64, optimizer="adam", lr=1e-4, schedule="none", weight_decay=0.0, width=64,
                   ema=0.0, target="rgb", augment=dict(flip=0.5)),
    "best": dict(epochs=30, batch_size=16, optimizer="adamw", lr=1e-3, schedule="linear", weight_decay=0.01, width=32,
                 ema=0.98, target="lab", augment=dict(flip=0.5, scale=(0.9, 1.4))),
}
BEST_ON = {  # better settings for one data set
    "camvid": dict(batch_size=8),
    "scenes": dict(epochs=12, batch_size=8, width=16),
    "cifar10": dict(epochs=20, batch_size=128, lr=2e-3, width=16, augment=dict(flip=0.5, shift=0.125)),
}


def colorization_loss(output, rgb, ab):
    """An output of 3 channels: L1 distance to RGB (B, 3, H, W) in [0, 1]; of 2: Huber distance to ab / AB_UNIT."""
    return F.l1_loss(output.float().sigmoid(), rgb) if output.shape[1] == 3 else F.huber_loss(output.float(), ab)


def mean_color(images):
    """The mean ab (2,), in CIE units, of up to 500 images (N, 3, H, W) uint8. Raises InputError if all are grey."""
    means, strongest = [], 0
    for i in evenly(len(images), 500):
        ab = AB_UNIT * lightness_and_ab(torch.from_numpy(images[i][None] / np.float32(255)))[1]
        means.append(ab.mean((2, 3)))
        strongest = max(strongest, ab.abs().max())
    if strongest < 2:
        raise InputError("all images are grey, so there are no colours to learn")
    return torch.cat(means).mean(0).tolist()


def main(args):
    # 1. Data
    args, data, device, dtype = prepare(args, RECIPES, BEST_ON)
    train, val, test = data.splits.values()

    # 2. Network: lightness in, colours out
    network = {"name": "unet", "in_channels": 1, "out_channels": 3 if args.target == "rgb" else 2,
               "width": args.width, "skips": args.skips}
    torch.manual_seed(args.seed)
    model = build_network(network)
    if args.target == "lab":
        torch.nn.init.zeros_(model.head.weight)  # the first output is grey
        torch.nn.init.zeros_(model.head.bias)
    load_start(model, args)

    # 3. Training: val chooses the best weights
    run = Run(args, device, dtype, network, data, model, target=args.target, gain=1.0, mean_ab=mean_color(train.images))
    for epoch in run.epochs():
        for images, _, draws in run.batches(train):
            rgb, _ = augment(images, None, draws, **args.augment)
            lightness, ab = lightness_and_ab(rgb)
            with autocast(device, dtype):
                output = run.model(lightness)
            run.step(colorization_loss(output, rgb, ab))
        scores = score_colorization(run.predictor, val, colorization_loss)
        ratio = min(max(COLORFULNESS / 2, scores["colorfulness_ratio"]), COLORFULNESS)
        gain = COLORFULNESS / ratio if args.target == "lab" else 1.0
        if run.end_epoch({key: scores[key] for key in ("loss", "psnr", "delta_e")}, best=-scores["loss"], gain=gain):
            predictor = run.best_predictor()
            draw_colorization({"prediction": predictor}, val, scores["images"], run.folder / "predictions.png")

    # 4. Test: once, with the best weights
    predictor = run.best_predictor()
    scores = score_colorization(predictor, test, baselines=True)
    print_scores(scores)
    draw_colorization({"prediction": predictor}, test, scores["images"], run.folder / "predictions.png")
    write_csv(run.folder / "images.csv", scores.pop("images"))
    run.finish(scores)


if __name__ == "__main__":
    run_main(main, args)
