"""The settings of a run: the recipe fills in what the command line leaves out. Errors become one line."""
import argparse
import math
import multiprocessing
import os
import signal
import sys

import torch

from data import InputError
from data.cache import START_METHOD, usable_cores
from data.sources import NAMED, check_data, open_data
from training.flags import check_settings, leave, refuse
from training.machine import setup

ADVICE = {  # signs of an error: what to do
    # Messages of CPUs, loader processes, cuBLAS and cuDNN when memory is short.
    ("allocate memory", "MemoryError", "ALLOC_FAILED", "unable to find an engine", "out of memory", "enough memory"):
        "out of memory: try a smaller --batch-size or --size",
    ("more than 1 value per channel",): "batch norm needs more than one value: try a larger --batch-size or --size",
    ("DataLoader worker", "DataLoader timed out"): "a loader process failed ({:.100}): try --workers 0",
}


def prepare(args, recipes, best_on):
    """(settings, data, device, dtype) of a run. Raises InputError."""
    if args.resume and args.out:
        check_settings(args)  # first, because to open the data may take long
    device, dtype = setup(args)
    if args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA's first matrix product is made
        torch.use_deterministic_algorithms(True)
    source = args.data, args.task, args.size, args.data_dir, args.seed
    options = {"own_size": bool(args.tile), "foreground": args.foreground, "channels": args.channels}
    if args.dry_run:
        lines, problems = check_data(*source, *options.values())
        print("\n".join(lines))
        if problems:
            print("\n".join(f"problem: {problem}" for problem in problems), file=sys.stderr)
            raise InputError(f"--data {args.data}: {len(problems)} problems, see above")
    data = open_data(*source, **options)
    for note in data.notes if not args.dry_run else ():  # a dry run has shown them above
        print(note)
    settings = fill_in(args, data, recipes, best_on, device)
    if args.dry_run:
        sys.exit(0)
    return settings, data, device, dtype


def fill_in(args, data, recipes, best_on, device):
    """All settings, as a new namespace: the command line's, then the recipe's for this data set and network."""
    if tile := crop_size(args, data, device):  # an epoch has as many crops as cover all images
        data.splits["train"].crops = math.prod(-(-side // crop) for side, crop in zip(data.size, tile))
    recipe = recipes[args.recipe] | {"tile": tile}
    if args.recipe == "best":
        recipe = recipe | best_on.get(data.name, {}) | best_on.get((data.name, args.model), {})
        if data.name not in NAMED:
            recipe = recipe | suit(args, data, recipe, device)
        elif args.data != data.name:
            print(f"taken: the recipe of the data set {data.name}, because the folder has that name")
    given = {key: value for key, value in vars(args).items() if value is not None}
    settings = argparse.Namespace(**vars(args) | recipe | given | {"size": data.size, "channels": data.channels})
    if not settings.out:
        parts = settings.model, settings.target, data.name, "" if settings.skips else "noskips"
        settings.out = f"runs/{args.task}/{'-'.join(filter(None, parts))}"
    if settings.resume:
        check_settings(settings)
    if settings.workers is None or START_METHOD != "fork":  # elsewhere each process would get a copy of all data
        settings.workers = min(4, usable_cores()) if device.type == "cuda" and START_METHOD == "fork" else 0
    return settings


def crop_size(args, data, device):
    """(height, width) of random crops: --tile or, for a user's large images at their own size, a default; or None."""
    side = 256 if device.type == "cpu" else 512
    large = data.task == "segmentation" and data.name not in NAMED and data.own_size and max(data.size) > side
    return args.tile or ([side, side] if large and not args.size else None)


def suit(args, data, recipe, device):
    """Settings for a user's own folder, for which there is no recipe: batches small enough for 1500 steps and, on a
    CPU, a narrow network. Prints them, with the size of the crops."""
    samples, tile = len(data.splits["train"]), recipe["tile"]
    suited = {"width": 16} if device.type == "cpu" and not args.pretrained else {}
    suited |= {"tile": tile} if tile else {}
    least = 8 if data.task == "classification" else 2  # an image of labels is one label, a mask thousands
    batch = args.batch_size or min(recipe["batch_size"], max(samples // 50, least))
    steps = max(samples // batch, 1)
    suited |= {"batch_size": batch, "epochs": min(max(1500 // steps, 2 if tile else 10), 150)}
    if recipe["optimizer"] == "sgd" and not (args.optimizer or args.batch_size):
        suited["lr"] = recipe["lr"] * batch / recipe["batch_size"]
    shown = (f"{key.replace('_', ' ')} {getattr(args, key, None) or value}" for key, value in suited.items())
    print(f"there is no recipe for these images; taken: {', '.join(shown)}")
    if (steps := (args.epochs or suited["epochs"]) * steps) < 500:
        print(f"{steps} steps are few to learn from: give more --epochs or a smaller --batch-size")
    return suited


def run_main(main, args):
    """Run a script's main and exit. A user's mistake gives one line on standard error and exit code 2."""
    if signal.getsignal(signal.SIGINT) == leave:  # the imports are done
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main(args)
        sys.stdout.flush()
    except KeyboardInterrupt:  # outside of training
        code = 130
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if args.debug or not (advice := explain(error)):
            raise
        for process in multiprocessing.active_children():
            process.kill()  # a loader that hangs would keep this process from its end
        code = refuse(advice)
    sys.exit(code)


def explain(error):
    """One line that says what went wrong and what to do; None if the error is a bug of this project."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (InputError, OSError)):
        text = str(error) or type(error).__name__
        return text.splitlines()[-1].removeprefix("data.InputError: ")  # after a loader process's traceback
    if isinstance(error, ModuleNotFoundError):
        return f"this needs one more package: pip install {error.name}"
    text = f"{type(error).__name__}: {error}"
    found = (advice for signs, advice in ADVICE.items() if any(sign in text for sign in signs))
    return next(found, "").format(str(error).partition("\n")[0]) or None
