"""The metrics of a finished run, on any data of the same task."""
from functools import partial

from data import InputError
from data.sources import open_data
from evaluation import print_scores
from evaluation.classification import score_classification
from evaluation.colorization import score_colorization
from evaluation.segmentation import score_segmentation
from training.checkpoint import load_predictor
from training.machine import setup

SCORE = {"segmentation": score_segmentation, "classification": score_classification,
         "colorization": partial(score_colorization, baselines=True)}


def score(args):
    """Score a run on a split of its own data, or of other data of the same task and classes."""
    predictor = load_predictor(args.run, *setup(args))
    metadata, task = predictor.metadata, predictor.metadata["task"]
    tiled = bool(args.data) and "tile" in metadata  # then other images keep their own size
    data = open_data(args.data or metadata["data"], task, None if tiled else tuple(metadata["size"]), args.data_dir,
                     metadata["seed"], splits=(args.split,), own_size=tiled,
                     levels=metadata.get("levels") if args.data else None, whole=bool(args.data),
                     foreground=metadata.get("foreground", False), channels=predictor.channels)
    if data.classes != metadata["classes"]:
        raise InputError(f"--data {data.name} has other classes than the run: {', '.join(data.classes)[:200]}")
    split = data.splits[args.split]
    if data.assignment and not args.data and split.digest != metadata.get("digests", {}).get(args.split, split.digest):
        raise InputError(f"{metadata['data']} holds other images than when the run was trained, so its split cannot be "
                         "made again (split.json lists it): put the images back, or give a folder with --data")
    print(f"{args.run} on {data.name}/{args.split}: {len(split)} images at {data.size[0]}x{data.size[1]}")
    print_scores(SCORE[task](predictor, split))
