"""Score a run, predict on anyone's images, export the network, grade a class's submissions, make the report anew.

    python evaluate.py score runs/segmentation/unet-scenes
    python evaluate.py predict runs/segmentation/unet-scenes photos --out predictions
    python evaluate.py export runs/segmentation/unet-scenes model.pt2
    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*
    python evaluate.py report --seeds 1
"""
from functools import partial

from data import InputError
from data.sources import open_data
from evaluation import print_scores
from evaluation.classification import score_classification
from evaluation.colorization import score_colorization
from evaluation.exporting import export
from evaluation.grading import add_grade_arguments, grade
from evaluation.predicting import predict
from evaluation.reporting import add_report_arguments, report
from evaluation.segmentation import score_segmentation
from training.checkpoint import load_predictor
from training.settings import Parser, run_main, setup

SCORE = {"segmentation": score_segmentation, "classification": score_classification,
         "colorization": partial(score_colorization, baselines=True)}


def score(args):
    """Score a run on a split of the data it was trained on, or of any other of the same task and classes."""
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
        raise InputError(f"{metadata['data']} holds other images than when the run was trained, so the split made "
                         "then is gone (split.json says which it was): put them back, or give a folder with --data")
    print(f"{args.run} on {data.name}/{args.split}: {len(split)} images at {data.size[0]}x{data.size[1]}")
    print_scores(SCORE[task](predictor, split))


def get_args_parser():
    parser = Parser(description=__doc__)
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
    sub.add_argument("--split", choices=("train", "val", "test"), default="test")

    sub = command(predict, "masks, colours or labels for anyone's own images")
    sub.add_argument("run", help="a run's folder")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or patterns such as '*.jpg'")
    sub.add_argument("--out", required=True, help="the folder to write to")
    sub.add_argument("--probabilities", action="store_true",
                     help="also of each image an .npy of the classes' probabilities, float16 (classes, H, W)")

    sub = command(export, "the network in a file that torch or ONNX loads without this project")
    sub.add_argument("run", help="a run's folder")
    sub.add_argument("file", metavar="FILE", help="model.pt2 or model.onnx")

    add_grade_arguments(command(grade, "score a class's submissions against the truth"))
    add_report_arguments(command(report, "make the homework's report anew"))
    return parser


if __name__ == "__main__":
    run_main(lambda args: args.function(args), get_args_parser())
