"""Score a run, predict on your own images, grade submissions, make the report again.

    python evaluate.py score runs/segmentation/unet-scenes
    python evaluate.py predict runs/segmentation/unet-scenes photos --out predictions
    python evaluate.py grade segmentation --truth data/camvid/test --out grades SUBMISSIONS/*
    python evaluate.py report --seeds 1"""
import os
from importlib import import_module

from training.flags import TASKS, Parser, add_place, parse, positive_int

# The module of each command's function. Only that module is imported, because torch takes seconds.
COMMANDS = {"score": "evaluation.runs", "predict": "evaluation.runs", "grade": "evaluation.grading",
            "report": "evaluation.reporting"}


def get_args_parser():
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, computes=True):
        add = commands.add_parser(name, help=text, description=text).add_argument
        add("--debug", action="store_true", help="show the traceback of an error")
        if computes:
            add_place(add)
        return add

    add = command("score", "the metrics of a finished run, on its own data or any other of the same task and classes")
    add("run", help="a run's folder")
    add("--data", help="a named data set or a folder (default: the run's own)")
    add("--data-dir", default="data")
    add("--split", choices=("train", "val", "test"), default="test")

    add = command("predict", "masks and overlays, colours or labels for your own images")
    add("run", help="a run's folder")
    add("images", nargs="+", metavar="IMAGE", help="files, folders, or patterns such as '*.jpg'")
    add("--out", required=True, help="the folder to write to")

    add_grade_flags(command("grade", "score a class's submissions against the truth: tables and pages", computes=False))

    add = command("report", "make the homework's report again: train what is missing, test every claim")
    add("--data", default="scenes", type=os.path.normpath, help="scenes (default), a named data set, or a folder")
    add("--data-dir", default="data")
    add("--size", type=positive_int, nargs=2, metavar=("H", "W"), help="default: the data set's own")
    add("--out", default="report", help="the folder to write to (default: report)")
    add("--seeds", type=positive_int, default=3, help="runs of each kind (default: 3)")
    add("--epochs", type=positive_int, help="of every run (default: enough to tell)")
    add("--width", type=positive_int, help="channels of every network's first layer")
    return parser


def add_grade_flags(add):
    add("task", choices=tuple(TASKS))
    add("submissions", nargs="+", metavar="SUBMISSION",
        help="a folder, zip, CSV or checkpoint, or a bulk download of Moodle or Canvas")
    add("--truth", required=True, help="the folder of one split, as for training, or scenes")
    add("--rubric", help='a JSON file: {"metric": [[value, points], ...]} (default: from the truth)')
    add("--roster", help="a CSV with the columns name,id: a student without a submission gets a row, too")
    add("--for", dest="system", choices=("moodle", "canvas"),
        help="also write moodle.csv or canvas.csv for import; canvas: give the assignment's name as --title")
    add("--title", help="the homework's name, for the pages")
    add("--hide-truth", action="store_true", help="the students' pages do not show the truth, for a hidden test")
    add("--out", required=True, help="the folder to write to")


if __name__ == "__main__":
    args = parse(get_args_parser())
    command = getattr(import_module(COMMANDS[args.command]), args.command)
    from training.settings import run_main

    run_main(command, args)
