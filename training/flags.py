"""The command line: its flags, and its errors in one line. This file does not import torch, which takes seconds."""
import argparse
import contextlib
import difflib
import json
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

from data import InputError, printable

# The networks of each task, the default first.
TASKS = {"segmentation": ("unet", "fcn32"), "classification": ("resnet18", "resnet34", "resnet9"),
         "colorization": ("unet",)}
# Settings that a resumed run may change. All others must stay. The data may be in another folder: load_state compares
# the classes and the images' names.
FREE = {"epochs", "patience", "workers", "out", "resume", "debug", "data", "data_dir", "dry_run", "checkpoint_minutes",
        "device", "sweep"}


class Parser(argparse.ArgumentParser):
    """A parser that keeps the lines of its description. Its errors are one line, which names the nearest flag."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def parse_known_args(self, words=None, namespace=None):
        """argparse's, but `--size 96x128` means `--size 96 128`."""
        words = list(sys.argv[1:] if words is None else words)
        for i in reversed(range(1, len(words))):
            if words[i - 1] in ("--size", "--tile"):
                words[i : i + 1] = words[i].split("x")
        return super().parse_known_args(words, namespace)

    def error(self, message):
        typed = re.search("unrecognized arguments: (--[^ =]+)", message)
        near = difflib.get_close_matches(typed[1], self._option_string_actions, 1) if typed else ()
        self.exit(refuse(message + "".join(f"; do you mean {flag}?" for flag in near)))


def number(kind, least, text):
    """The value of a flag: a finite float, or an int of 64 bits, `least` or more."""
    with contextlib.suppress(ValueError):
        if least <= kind(text) < (2**63 if kind is int else float("inf")):
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text} is too small, too large or not of the kind {kind.__name__}")


positive_int, positive_float = partial(number, int, 1), partial(number, float, sys.float_info.min)


def get_args_parser(task, description=None):
    """The flags of a training script. The recipe gives those that the command line leaves out."""
    parser = Parser(description=description)
    parser.set_defaults(task=task, tile=None, foreground=False, channels=None, pretrained=False, sweep=None,
                        target=None, skips=True)
    groups = [parser.add_argument_group(title) for title in (
        "data", "network", "training; the recipe gives the defaults", "machine", "run")]
    data, network, training, machine, run = (group.add_argument for group in groups)
    size, start = (group.add_mutually_exclusive_group().add_argument for group in groups[:2])  # one of them at most
    data("--data", default="scenes", help="scenes (default), a named data set, or a folder")
    data("--data-dir", default="data", help="where data sets are downloaded and cached (default: data)")
    size("--size", type=positive_int, nargs=2, metavar=("H", "W"), help="training size (default: the data set's own)")
    models = TASKS[task]
    network("--model", choices=models, default=models[0], help=f"default: {models[0]}")
    network("--width", type=positive_int, help="channels of the first layer (default: the recipe's)")
    start("--init", metavar="RUN", help="start from the weights of a run of the same network; most must fit")
    add_training_flags(training)
    add_place(machine)
    machine("--workers", type=partial(number, int, 0), help="loader processes, on Linux (default: 4 with CUDA, else 0)")
    machine("--deterministic", action="store_true", help="CUDA: the same bits at every run, at some cost in speed")
    run("--out", help="the run's folder (default: one in runs/TASK)")
    run("--resume", action="store_true", help="go on from the last checkpoint in --out, with that run's settings")
    run("--checkpoint-minutes", type=positive_float, default=10, help="save at least this often (default: 10)")
    run("--dry-run", action="store_true", help="check the data, list all their problems, and train nothing")
    run("--debug", action="store_true", help="show the traceback of an error")
    if task == "segmentation":
        size("--tile", type=positive_int, nargs=2, metavar=("H", "W"), help="random crops of images at their own size")
        data("--foreground", action="store_true", help="all that is not 0 in a mask is one class")
    if task == "colorization":
        network("--no-skips", dest="skips", action="store_false", help="leave the skip connections out")
        network("--target", choices=("rgb", "lab"), help="paint the whole image, or its a and b alone")
    else:
        data("--channels", type=positive_int, metavar="N",
             help="of the images, such as 4 for RGB and near infrared (default: 3)")
        start("--pretrained", action="store_true", help="ResNet, fcn32: start from ImageNet's weights (--width 64)")
    if task == "classification":
        run("--sweep", nargs="*", type=partial(swept, parser), metavar="FLAG=VALUES",
            help="train a grid instead of one network, as optimizer=sgd,adam lr=1e-4,1e-3")
    return parser


def add_training_flags(add):
    add("--recipe", choices=("best", "report"), default="best",
        help="best (default): ours for that data set, RECIPES in the script; report: Adam, 1e-4, batch 64, width 64")
    for flag, kind in (("--epochs", positive_int), ("--batch-size", positive_int), ("--lr", positive_float)):
        add(flag, type=kind)
    add("--optimizer", choices=("adam", "adamw", "sgd"))
    add("--schedule", choices=("none", "step", "multistep", "cosine", "onecycle", "linear"),
        help="onecycle and linear: up for 15%% of the steps, then down, curved or not")
    add("--weight-decay", type=partial(number, float, 0))
    add("--patience", type=positive_int, metavar="N", help="end a run that has not improved on val for N epochs")
    add("--seed", type=partial(number, int, 0), default=0, help="default: 0; also of drawn scenes and held-out images")


def add_place(add):
    """The flags of every command that runs a network."""
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="default: auto, the fastest")


def swept(parser, text):
    """lr=1e-4,1e-3 -> ("lr", [0.0001, 0.001]). The flag's own parser reads each value."""
    flag, _, values = text.partition("=")
    key = flag.replace("-", "_")
    return key, [getattr(parser.parse_args([f"--{flag}", value]), key) for value in values.split(",")]


def parse(parser):
    """The arguments of the command line. --resume takes left-out ones from the run. A mistake ends the script."""
    sys.stdout, sys.stderr = (each or open(os.devnull, "w") for each in (sys.stdout, sys.stderr))  # None: closed
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's stdout lacks it
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # for any file name; logs are current
    args = parser.parse_args()
    if getattr(args, "resume", False) and args.out:
        own = "task", "out", "resume", "debug", "dry_run", "workers", "sweep"
        parser.set_defaults(**{key: value for key, value in read_settings(args.out).items() if key not in own})
        args = parser.parse_args()
    # A background job ignores SIGINT, and in a notebook it must not end the kernel.
    if hasattr(sys.stdout, "reconfigure") and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)  # until run_main, while torch is imported
    return args


def leave(number, frame):
    os._exit(128 + number)


def read_settings(folder):
    """The settings of a run, from its config.json; an empty dict if that is missing or damaged."""
    try:
        return dict(json.loads(Path(folder, "config.json").read_text())["settings"])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def check_settings(args):
    """Raise InputError if a resumed run has other settings than before."""
    before, now = read_settings(args.out), json.loads(json.dumps(vars(args), default=str))
    if not before:
        raise InputError(f"--resume: {args.out} has no sound config.json; leave --resume out to begin anew")
    changed = [f"--{key.replace('_', '-')} was {before[key]}, is {now[key]}"
               for key in sorted(now.keys() & before.keys() - FREE) if now[key] not in (None, before[key])]
    if changed:
        raise InputError(f"--resume: {args.out} was trained with other settings: {'; '.join(changed)}; give those "
                         "again, or another --out")


def refuse(reason):
    """Print an error as one line; returns the exit code."""
    print(f"{Path(sys.argv[0]).name}: {printable(str(reason))}", file=sys.stderr)
    return 2
