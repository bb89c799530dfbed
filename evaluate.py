"""Score a run, predict on anyone's images, grade a class's submissions, make the report anew.

    python evaluate.py score runs/segmentation/unet-scenes
    python evaluate.py predict runs/segmentation/unet-scenes street.jpg --out predictions
    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*
    python evaluate.py report --seeds 1
"""
import argparse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from data import InputError
from data.images import read_image
from data.sources import NAMED, open_data
from evaluation.classification import predict_classification, print_classification, score_classification
from evaluation.colorization import predict_colorization, print_colorization, score_colorization
from evaluation.grading import add_grade_arguments, grade
from evaluation.reporting import add_report_arguments, report
from evaluation.segmentation import predict_segmentation, print_segmentation, score_segmentation, with_palette
from training.checkpoint import load_predictor
from training.settings import explain, positive_int, refuse, run_main, setup
from utils import save_image, write_csv


def score(args):
    """Score a run on a split of the data it was trained on, or of any other of the same task and classes."""
    predictor = load_predictor(args.run, *setup(args))
    metadata, task = predictor.metadata, predictor.metadata["task"]
    if not args.data and metadata["data"] not in NAMED and not Path(metadata["data"]).is_dir():
        raise InputError(f"{metadata['data']}, on which the run was trained, is not there; give a folder with --data")
    data = open_data(args.data or metadata["data"], task, tuple(args.size or metadata["size"]), args.data_dir,
                     metadata["seed"], splits=(args.split,))
    if data.classes != metadata["classes"]:
        raise InputError(f"--data {data.name} has other classes than the run: {', '.join(data.classes)[:200]}")
    split = data.splits[args.split]
    same = split.digest == metadata.get("pictures", {}).get(args.split, split.digest)
    if not (args.data or same) and data.assignment:
        raise InputError(f"{metadata['data']} holds other pictures than when the run was trained, so the split made "
                         "then is gone (split.json says which it was): put them back, or give a folder with --data")
    print(f"{args.run} on {data.name}/{args.split}: {len(split)} pictures at {data.size[0]}x{data.size[1]}")
    if Path(args.run).is_dir() and not Path(args.run, "summary.json").exists():
        print("this run is not finished: its best epoch so far")
    if task == "segmentation":
        print_segmentation(score_segmentation(predictor, split))
    elif task == "classification":
        print_classification(score_classification(predictor, split))
    else:
        print_colorization(score_colorization(predictor, split, baselines=True))


def predict(args):
    """Write a mask and an overlay, or the colours, for each picture, or labels.csv; a bad picture stops no other."""
    predictor = load_predictor(args.run, *setup(args))
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
            return predict_image(predictor, read_image(path), folder, name, row_name(Path(path))), None
        except (InputError, OSError, RuntimeError, MemoryError) as error:
            advice = explain(error, args)
            if advice is None:
                raise
            return None, advice if isinstance(error, InputError) else f"{path}: {advice}"

    # A thread a core, each with a picture of its own: while one decodes or writes, the others calculate.
    threads = 4 if predictor.device.type == "cuda" else min(torch.get_num_threads(), 8)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    labels, failures = [], 0
    try:
        for label, problem in tqdm(pool.map(predict_one, args.images, names), total=len(names), unit="img",
                                   disable=None):
            if label:
                labels.append(label)
            if problem:
                failures += 1
                refuse(problem)
    finally:
        pool.shutdown(cancel_futures=True)
    if labels:
        write_csv(folder / "labels.csv", labels)
    print(f"{len(args.images) - failures} of {len(args.images)} pictures predicted into {folder}")
    return 2 if failures else 0


def predict_image(predictor, image, folder, name, row_name):
    """Predict one Pillow image and write what comes of it; of a classifier, return the row of labels.csv."""
    metadata = predictor.metadata
    if metadata["task"] == "classification":
        label, probability = predict_classification(predictor, image)
        return {"name": row_name, "label": label, "probability": f"{probability:.4f}"}
    if metadata["task"] == "colorization":
        save_image(predict_colorization(predictor, image), folder / f"{name}.png")
        return None
    mask = with_palette(predict_segmentation(predictor, image), metadata["colors"], metadata["ids"])
    save_image(mask, folder / f"{name}.png")
    suffix = "jpg" if max(image.size) <= 65500 else "png"  # libjpeg's limit
    save_image(Image.blend(image, mask.convert("RGB"), 0.5), folder / f"{name}_overlay.{suffix}")
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
    sub.add_argument("--size", type=positive_int, nargs=2, metavar=("H", "W"), help="default: the run's")
    sub.add_argument("--split", choices=("train", "val", "test"), default="test")

    sub = command(predict, "masks, colours or labels for anyone's own pictures")
    sub.add_argument("run", help="a run's folder")
    sub.add_argument("images", nargs="+", metavar="IMAGE")
    sub.add_argument("--out", required=True, help="the folder to write to")

    add_grade_arguments(command(grade, "score a class's submissions against the truth"))
    add_report_arguments(command(report, "make the homework's report anew"))
    return parser


if __name__ == "__main__":
    run_main(lambda args: args.function(args), get_args_parser())
