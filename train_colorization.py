"""Task 3: give a grey picture its colours, with a U-Net, with and without its skip connections.

    python train_colorization.py                           # colours for a given lightness, 9 minutes
    python train_colorization.py --target rgb              # the original report's way: paint the whole picture
    python train_colorization.py --target rgb --no-skips   # ... which comes out blurred

Times are those of 2 CPU cores with bf16.
"""
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

import utils
from data import InputError, color
from data.augment import augment
from data.sources import open_data
from evaluate import (
    AB_UNIT,
    compare_colorization,
    draw_colorization,
    lightness_and_ab,
    print_colorization,
    score_colorization,
)

COLORFULNESS = 0.8  # of the truth's: the gain on ab is set to reach it on val; test may come out a tenth lower
CLASS_STEP = 20  # side of a colour class in ab; with the paper's 10 the loss would cost more than the network

# The original report's settings, and ours, which were chosen on val. `ema` is the decay of the averaged weights, which
# are what is scored.
RECIPES = {
    "report": dict(epochs=50, batch_size=64, optimizer="adam", lr=1e-4, schedule="none", weight_decay=0.0, width=64,
                   ema=0.0, target="rgb", augment=dict(flip=0.5)),
    "best": dict(epochs=30, batch_size=16, optimizer="adamw", lr=1e-3, schedule="linear", weight_decay=0.01, width=32,
                 ema=0.98, target="lab", augment=dict(flip=0.5, scale=(0.9, 1.4))),
}
BEST_ON = {  # what is better for one data set
    "camvid": dict(batch_size=8),
    "scenes": dict(epochs=24, batch_size=8, width=16),
    "cifar10": dict(epochs=20, batch_size=128, lr=2e-3, width=16, augment=dict(flip=0.5, shift=0.125)),
}


def colorization_loss(output, rgb, ab, target, loss, classes):
    """L1 or Huber distance to the target, or the cross entropy of Zhang, Isola and Efros (2016) over classes of ab.

    output (B, C, H, W), rgb (B, 3, H, W) in [0, 1] and ab / AB_UNIT (B, 2, H, W), all float; classes as color_classes
    gives them.
    """
    output = output.float()
    output, wanted = (output.sigmoid(), rgb) if target == "rgb" else (output, ab)
    if loss == "l1":
        return F.l1_loss(output, wanted)
    if loss == "huber":
        return F.huber_loss(output, wanted)
    # A quarter of the pixels says nearly as much as all of them: neighbours have the same colour.
    output, wanted = output[..., ::2, ::2], wanted[..., ::2, ::2]
    indices, weights = color.encode_ab(AB_UNIT * wanted, classes["centers"], classes["nearest"], sigma=CLASS_STEP / 2)
    per_pixel = -(weights * output.log_softmax(1).gather(1, indices)).sum(1)
    return (classes["rare"][indices[:, 0]] * per_pixel).mean()


def training_colors(images):
    """Yield the ab (1, 2, H, W), in CIE units, of up to 500 of the training images (N, 3, H, W) uint8."""
    for i in utils.evenly(len(images), 500):
        yield AB_UNIT * lightness_and_ab(torch.from_numpy(images[i][None] / np.float32(255)))[1]


def color_classes(images, device):
    """The classes of ab, where the nearest ones are, and weights that make up for how rare each is in the images."""
    centers = color.ab_classes(CLASS_STEP)
    classes, counts = {"centers": centers, "nearest": color.nearest_classes(centers)}, torch.zeros(len(centers))
    for ab in training_colors(images):
        indices, weights = color.encode_ab(ab, **classes, sigma=CLASS_STEP / 2)
        counts += torch.bincount(indices.flatten(), weights.flatten(), minlength=len(centers))
    classes["rare"] = color.rebalancing_weights(counts)
    return {key: value.to(device) for key, value in classes.items()}


def main(args):
    # 1. Data
    device, dtype = utils.setup(args)
    if args.dry_run:
        utils.dry_run(args, "colorization")
    with utils.main_process_first():  # it fills the cache
        data = open_data(args.data, "colorization", args.size, args.data_dir, args.seed)
    utils.fill_in(args, data, RECIPES, BEST_ON)
    args.loss = args.loss or ("huber" if args.target == "lab" else "l1")
    if args.target == "rgb" and args.loss == "classes":
        raise InputError("--loss classes is for --target lab; with --target rgb take l1 or huber")
    regresses_ab = args.target == "lab" and args.loss != "classes"
    args.out = args.out or f"runs/colorization/unet-{args.target}-{data.name}{'' if args.skips else '-noskips'}"
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))
    classes = color_classes(train.images, device) if args.loss == "classes" else None
    mean_ab = torch.cat([ab.mean((2, 3)) for ab in training_colors(train.images)]).mean(0)
    about = {"target": args.target, "mean_ab": mean_ab.tolist(), "gain": 1.0,
             "centers": classes["centers"].tolist() if classes else None}

    # 2. Network: lightness in, colours out
    channels = 3 if args.target == "rgb" else len(classes["centers"]) if args.loss == "classes" else 2
    network = {"name": "unet", "in_channels": 1, "out_channels": channels, "width": args.width, "skips": args.skips}
    torch.manual_seed(args.seed)
    model = utils.build_network(network)
    if regresses_ab:
        torch.nn.init.zeros_(model.head.weight)  # begin with grey: the colours then grow from nothing
        torch.nn.init.zeros_(model.head.bias)

    # 3. Training: best is chosen on val
    criterion = partial(colorization_loss, target=args.target, loss=args.loss, classes=classes)
    run = utils.Run(args, device, dtype, network, data, model, **about)
    for epoch in run.epochs():
        for images, _, draws in run.batches(train):
            rgb, _ = augment(images, None, draws, **args.augment)
            lightness, ab = lightness_and_ab(rgb)
            with run.autocast():
                output = run.model(lightness)
            run.step(criterion(output, rgb, ab))
        # With a gain of 1, that of `about`: the one in run.about, for test, follows from these scores.
        scores = score_colorization(run.averaged, about, val, device, run.autocast, criterion)
        if regresses_ab:
            run.about["gain"] = COLORFULNESS / min(max(COLORFULNESS / 2, scores["colorfulness_ratio"]), COLORFULNESS)
        run.end_epoch({key: scores[key] for key in ("loss", "psnr", "delta_e")}, best=-scores["loss"])

    # 4. Test: scored once, with the best weights
    model, about = run.best_network()
    scores = score_colorization(model, about, test, device, run.autocast, baselines=True)
    print_colorization(scores)
    utils.write_csv(run.folder / "pictures.csv", scores.pop("pictures"))
    run.finish(scores)
    draw_colorization(run.folder, test, device, run.folder / "predictions.png")
    compare_colorization(run.folder)


def get_args_parser():
    parser = utils.get_args_parser(__doc__, models=("unet",), out="runs/colorization/unet-<target>-<data>[-noskips]")
    parser.add_argument("--no-skips", dest="skips", action="store_false", help="leave the skip connections out")
    parser.add_argument("--target", choices=("rgb", "lab"), help="paint the whole picture, or its a and b alone")
    parser.add_argument("--loss", choices=("l1", "huber", "classes"))
    return parser


if __name__ == "__main__":
    utils.run_main(main, get_args_parser())
