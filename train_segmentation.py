"""Task 2: label every pixel of a street, with a U-Net or with ResNet-FCN32.

    python train_segmentation.py --model unet                                          # test mIoU 0.58, 4 minutes
    python train_segmentation.py --model fcn32                                         # 0.42, 5 minutes
    python train_segmentation.py --model unet --data camvid --size 96 128 --width 32   # 0.50, 11 minutes

Times are those of 2 CPU cores with bf16; the first command's hold in float32, without AVX-512, as well.
"""
import numpy as np
import torch
import torch.nn.functional as F

from data import InputError
from data.augment import augment, crop_train
from data.masks import VOID
from data.sources import open_data
from evaluation.segmentation import draw_segmentation, print_segmentation, score_segmentation
from models import build_network
from training import settings
from training.checkpoint import autocast, imagenet_weights, load_backbone, start_from_backbone, start_from_run
from training.optimization import class_weights
from training.run import Run
from utils import evenly, main_process_first, shrink

# The original report's settings, and ours, which were chosen on val. `ema` is the decay of the averaged weights, which
# are what is scored, `dice` the weight of that loss, `balance` the exponent of class_weights, and `small` the share of
# the epochs, the first, that see pictures at 0.7 of the side. 0 leaves each of them out.
RECIPES = {
    "report": dict(epochs=50, batch_size=64, optimizer="adam", lr=1e-4, schedule="none", weight_decay=0.0, width=64,
                   ema=0.0, dice=0.0, balance=0.0, small=0.0, augment=dict(flip=0.5)),
    "best": dict(epochs=44, batch_size=16, optimizer="adamw", lr=2e-3, schedule="linear", weight_decay=0.01, width=64,
                 ema=0.98, dice=1.0, balance=0.5, small=0.5,
                 augment=dict(flip=0.5, rotate=5, scale=(0.8, 1.6), color=0.3)),
}
BEST_ON = {  # what is better for one data set, and for one network on it
    "camvid": dict(batch_size=8),  # on few pictures, many small steps learn more than a few large ones
    ("camvid", "fcn32"): dict(epochs=100),
    "scenes": dict(epochs=12, batch_size=8),
    # Drawn scenes need little augmentation, and then learn in few epochs, small batches and mostly at the small size.
    ("scenes", "unet"): dict(epochs=7, batch_size=4, width=16, small=0.7, augment=dict(flip=0.5, color=0.1)),
}


def segmentation_loss(logits, masks, weights, dice):
    """Cross entropy, weighted by class, plus `dice` times one minus the mean over all classes of their soft Dice.

    logits (B, K, H, W) float, masks (B, H, W) int64 with void, weights (K,). Dice (as Milletari et al. 2016, but
    without squares, smoothed by 1, over the whole batch) is close to what mIoU measures and counts a thin class as much
    as a broad one.
    """
    # One plane per class: on CPUs twice as fast as the channels-last order that the logits come in.
    log_probability = logits.to(torch.float32, memory_format=torch.contiguous_format).log_softmax(1)
    truth = masks[:, None] == torch.arange(logits.shape[1], device=masks.device)[:, None, None]  # void is no class
    pixels = truth.sum((0, 2, 3))
    # The mean is taken here: on CUDA nll_loss's own is summed in another order at every run.
    loss = F.nll_loss(log_probability, masks, weights, ignore_index=VOID, reduction="none")
    loss = loss.sum() / (weights * pixels).sum().clamp(min=1e-6)  # all may be void
    if dice:
        probability = log_probability.exp() * (masks != VOID)[:, None]
        overlap = (probability * truth).sum((0, 2, 3))
        loss = loss + dice * (1 - (2 * overlap + 1) / (probability.sum((0, 2, 3)) + pixels + 1)).mean()
    return loss


def pixels_by_class(masks, classes):
    """Masks (N, H, W) uint8 -> counts (K,): the pixels of each class in up to 500 of them, and one."""
    return sum(np.bincount(masks[i].ravel(), minlength=256) for i in evenly(len(masks), 500))[:classes] + 1.0


def describe_network(args, classes, backbone):
    """What build_network makes the network of."""
    if args.model == "unet":
        return {"name": "unet", "in_channels": 3, "out_channels": classes, "width": args.width}
    return {"name": "fcn32", "classes": classes, "width": args.width, "backbone": backbone}


def main(args):
    if args.model == "unet" and (args.pretrained or args.backbone):
        raise InputError("--pretrained and --backbone are for --model fcn32")
    if sum(map(bool, (args.pretrained, args.backbone, args.init))) > 1:
        raise InputError("--pretrained, --backbone and --init are three ways to start: give one")

    # 1. Data
    device, dtype = settings.setup(args)
    if args.dry_run:
        settings.check_everything(args, "segmentation")
    with main_process_first():  # it fills the cache
        data = open_data(args.data, "segmentation", args.size, args.data_dir, args.seed, scale=args.tile and (1, 1))
    tiles = crop_train(data, args.tile)
    train, val, test = (data.splits[name] for name in ("train", "val", "test"))

    # 2. Network
    classifier, backbone = load_backbone(args.backbone)
    args = settings.fill_in(args, data, RECIPES, BEST_ON, f"runs/segmentation/{args.model}-{data.name}",
                            width=backbone.get("width"))
    network = describe_network(args, len(data.classes), backbone.get("name", "resnet18"))
    torch.manual_seed(args.seed)
    model = build_network(network)
    if args.init:
        start_from_run(model, network, args.init)
    elif args.pretrained or args.backbone:
        start_from_backbone(model.backbone, classifier.state_dict() if classifier else imagenet_weights("resnet18"))

    # 3. Training: best is chosen on val
    weights = class_weights(pixels_by_class(train.targets, len(data.classes)), args.balance).to(device)
    run = Run(args, device, dtype, network, data, model, **tiles)
    largest = tiles.get("tile", data.size)
    for epoch in run.epochs():
        whole = args.dry_run or epoch >= args.small * args.epochs  # a dry run measures what is largest
        size = largest if whole else shrink(largest)
        for images, masks, draws in run.batches(train):
            images, masks = augment(images, masks, draws, size, **args.augment)
            with autocast(device, dtype):
                logits = run.model(images)
            loss = segmentation_loss(logits, masks, weights, args.dice)
            run.step(loss)
        scores = score_segmentation(run.predictor, val, outlines=False)
        if run.end_epoch({key: scores[key] for key in ("miou", "pixel_accuracy")}, best=scores["miou"]):
            draw_segmentation(run.predictor, val, run.folder / "predictions.png")

    # 4. Test: scored once, with the best weights
    predictor = run.best_predictor()
    scores = score_segmentation(predictor, test)
    print_segmentation(scores)
    run.finish(scores)
    draw_segmentation(predictor, test, run.folder / "predictions.png")


def get_args_parser():
    parser = settings.get_args_parser(__doc__, "segmentation", models=("unet", "fcn32"), out="<model>-<data>")
    parser.add_argument("--tile", type=settings.positive_int, nargs=2, metavar=("H", "W"),
                        help="train on random crops of images, which keep their own size, or --size")
    parser.add_argument("--pretrained", action="store_true", help="fcn32: start from torchvision's ImageNet weights")
    parser.add_argument("--backbone", metavar="RUN", help="fcn32: start from a classifier of task 1, at its width")
    return parser


if __name__ == "__main__":
    settings.run_main(main, get_args_parser())
