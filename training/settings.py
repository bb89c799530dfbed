"""Settings of a run: the flags, the recipe that fills them in, the device and its precision, errors in one line."""
import argparse
import difflib
import math
import os
import re
import shutil
import sys
import traceback
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from data import InputError
from data.cache import START_METHOD, usable_cores
from data.images import printable
from data.sources import NAMED, check_data
from training.folder import check_settings, read_settings
from training.processes import join_processes, started_by_torchrun
from utils import log, world_size

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("none", "step", "multistep", "cosine", "onecycle", "linear")
OLDER_GPUS = 'pip install "torch<2.15" torchvision --index-url https://download.pytorch.org/whl/cu126'  # before sm_75


class Parser(argparse.ArgumentParser):
    """One whose description keeps its lines, and whose errors are one line that names the nearest flag."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message):
        typed = re.search("unrecognized arguments: (--[^ =]+)", message)
        near = difflib.get_close_matches(typed[1], self._option_string_actions, 1) if typed else ()
        self.exit(refuse(message + "".join(f"; do you mean {flag}?" for flag in near)))


def get_args_parser(description, task, models, out):
    """The flags that every training script has. Those left out of the command line come from the recipe."""
    parser = Parser(description=description)
    parser.set_defaults(task=task)
    add = parser.add_argument_group("data").add_argument
    add("--data", default="scenes", type=os.path.normpath, help="scenes (default), a named data set, or a folder")
    add("--data-dir", default="data", help="where data sets are downloaded and cached (default: data)")
    add("--size", type=positive_int, nargs=2, metavar=("H", "W"), help="training size (default: the data set's own)")
    add = parser.add_argument_group("network").add_argument
    add("--model", choices=models, default=models[0], help=f"default: {models[0]}")
    add("--width", type=positive_int, help="channels of the first layer (default: the recipe's)")
    add("--init", metavar="RUN", help="start from the weights of a run of the same network, as far as they fit")
    add = parser.add_argument_group("training; the recipe gives the defaults").add_argument
    add("--recipe", choices=("best", "report"), default="best", help="our settings for that data set, or the report's")
    add("--epochs", type=positive_int)
    add("--batch-size", type=positive_int)
    add("--lr", type=positive_float)
    add("--optimizer", choices=OPTIMIZERS)
    add("--schedule", choices=SCHEDULES, help="onecycle and linear: up for 15%% of the steps, then down, curved or not")
    add("--weight-decay", type=not_negative(float))
    add("--patience", type=positive_int, metavar="N", help="end a run that has not improved on val for N epochs")
    add("--seed", type=not_negative(int), default=0, help="default: 0")
    add = parser.add_argument_group("machine").add_argument
    add("--workers", type=not_negative(int), help="loader processes (default: up to 4 with CUDA, else 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: the fastest there is)")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="default: auto, the fastest")
    add("--deterministic", action="store_true", help="CUDA: the same bits at every run, at some cost in speed")
    add("--compile", action="store_true", help="torch.compile the network: slow to start, faster after that on CUDA")
    add = parser.add_argument_group("run").add_argument
    add("--out", help=f"the run's folder (default: runs/{task}/{out})")
    add("--resume", action="store_true", help="go on from the last checkpoint in --out, with that run's settings")
    add("--checkpoint-minutes", type=positive_float, default=10, help="save at least this often (default: 10)")
    add("--dry-run", action="store_true", help="check data, memory and time without training")
    add("--log", choices=("tensorboard",), help="write the scores for TensorBoard, too, into the run's folder")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def number(kind, least):
    """An argument type: an int or float that is finite and not below `least`."""
    def parse(text):
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is too small, too large or no number")
        return value

    parse.__name__ = kind.__name__  # argparse's message for text that is no number says "invalid int value"
    return parse


positive_int, positive_float, not_negative = number(int, 1), number(float, sys.float_info.min), partial(number, least=0)


def follow_run(args, parser):
    """The arguments of a run that is resumed: what the command line leaves out is as it was. Raises InputError."""
    if not getattr(args, "resume", False) or not args.out or not Path(args.out, "config.json").exists():
        return args  # a new run, a sweep, or one that load_state refuses
    before, own = read_settings(args.out), ("task", "out", "resume", "debug", "dry_run", "workers")
    parser.set_defaults(**{key: value for key, value in before.items() if key not in own})
    args = parser.parse_args()
    check_settings(args, before)  # before the data, which may take long, are opened
    return args


def fill_in(args, data, recipes, best_on, out, device):
    """All settings of a run, as a new namespace: the command line's, then the recipe's for data and network.

    `out`, the run's folder where --out is not given, may name settings in braces. Prints the notes on the data.
    """
    for note in data.notes:
        log(note)
    tile = crop_size(args, data, device)
    recipe = recipes[args.recipe] | ({"tile": tile} if tile else {})
    if args.recipe == "best":
        recipe = recipe | best_on.get(data.name, {}) | best_on.get((data.name, args.model), {})
        if data.name not in NAMED:
            recipe = recipe | suit(args, data, recipe, device)
    given = {key: value for key, value in vars(args).items() if value is not None}
    settings = argparse.Namespace(**vars(args) | recipe | given | {"size": data.size, "channels": data.channels})
    settings.out = settings.out or out.format(**vars(settings))
    if settings.workers is None:
        useful = torch.cuda.is_available() and START_METHOD == "fork"
        settings.workers = min(4, usable_cores()) if useful else 0
    return settings


def crop_size(args, data, device):
    """(height, width) of the random crops to train on: --tile, or else for large images of a folder of one's own, with
    their masks, and at their own size. None for no crops."""
    side = 256 if device.type == "cpu" else 512
    large = data.task == "segmentation" and data.name not in NAMED and data.own_size and max(data.size) > side
    return getattr(args, "tile", None) or ([side, side] if large and not args.size else None)


def suit(args, data, recipe, device):
    """Settings for a folder of one's own, on which no recipe was tried: batches small enough for 1500 steps and, on a
    CPU, a narrow network. Prints them, with the size of the crops."""
    samples, tile = len(data.splits["train"]), recipe.get("tile")
    suited = {"width": 16} if device.type == "cpu" else {}
    if tile:
        suited["tile"] = tile
        samples *= math.prod(-(-side // crop) for side, crop in zip(data.size, tile))
    least = 8 if data.task == "classification" else 2  # an image of labels is one label, a mask thousands
    batch = args.batch_size or min(recipe["batch_size"], max(samples // 50, least))
    steps = max(samples // batch, 1)
    suited |= {"batch_size": batch, "epochs": min(max(1500 // steps, 2 if tile else 10), 150)}
    if recipe["optimizer"] == "sgd" and not (args.optimizer or args.batch_size):
        suited["lr"] = recipe["lr"] * batch / recipe["batch_size"]
    shown = (f"{key.replace('_', ' ')} {getattr(args, key, None) or value}" for key, value in suited.items())
    log(f"no recipe was tried on these images; taken: {', '.join(shown)}")
    if (steps := (args.epochs or suited["epochs"]) * steps) < 500:
        log(f"{steps} steps are few to learn from: give more --epochs or a smaller --batch-size")
    return suited


def check_everything(args, task):
    """The first half of --dry-run: print what is found in the data. The second half is a few training steps."""
    own_size = bool(getattr(args, "tile", None))  # with --tile
    lines, problems = check_data(args.data, task, args.size, args.data_dir, args.seed, own_size,
                                 getattr(args, "foreground", False), getattr(args, "channels", None))
    log("\n".join(lines))
    if problems:
        log("\n".join(f"problem: {problem}" for problem in problems), file=sys.stderr)
        raise InputError(f"--data {args.data}: {len(problems)} problems, see above")


def run_main(main, parser):
    """Parse the command line and run; a mistake of the user's is one line on standard error and exit code 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w"))
    if hasattr(sys.stdout, "reconfigure"):  # a notebook's has not
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold what a terminal cannot show
    args = parser.parse_args()
    try:
        code = main(follow_run(args, parser))
        sys.stdout.flush()
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # ends the unfinished loops, and so their loader processes
        code = handle(error, args.debug)
    if dist.is_initialized() and code != 2:  # after an error the other processes may never come to this point
        dist.destroy_process_group()
    sys.exit(code)


def handle(error, debug):
    """The exit code after an error, whose line is printed. Raises it again where it is a bug of ours."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):  # after a signal or a dry run, or a second Ctrl-C
        return getattr(error, "code", 130)
    if isinstance(error, BrokenPipeError):  # who read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    advice = explain(error)
    if debug or advice is None:
        raise error
    return refuse(advice)


def explain(error):
    """One line that says what went wrong and what to do; None for an error that is a bug of ours."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, (InputError, OSError)):
        return text.splitlines()[-1].removeprefix("data.InputError: ")  # after a loader process's traceback
    # What a CPU, a loader process, cuBLAS and cuDNN say when memory is short.
    signs = "allocate memory", "MemoryError", "ALLOC_FAILED", "unable to find an engine", "CUDA error: out of memory"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs):
        return "out of memory: try a smaller --batch-size or --size"
    if world_size() > 1 and isinstance(error, RuntimeError) and ("peer" in text or isinstance(error, dist.DistError)):
        return "another process of this run ended; the same command with --resume goes on from the last checkpoint"
    if "DataLoader worker" in text or "DataLoader timed out" in text:
        return f"a loader process failed ({text.splitlines()[0][:100]}): try --workers 0"
    return None


def refuse(reason):
    """Print an error's one line, whatever the names in it hold; returns the exit code."""
    print(f"{Path(sys.argv[0]).name}: {printable(str(reason))}", file=sys.stderr)
    return 2


def setup(args):
    """The device to compute on and the type to compute in: (torch.device, torch.dtype). Raises InputError."""
    device = choose_device(args.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # else pinned memory would take some of the first
    if started_by_torchrun() and not dist.is_initialized():
        join_processes(device)
    if getattr(args, "deterministic", False):  # a flag of the training scripts alone
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA's first matrix product is made
        torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    fastest = fastest_sound_dtype(device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(args.precision, fastest)
    if device.type == "cuda" and dtype != fastest == torch.float32:
        log(f"--precision {args.precision} is not sound on {torch.cuda.get_device_name(device)}: it is fp32",
            file=sys.stderr)
        dtype = fastest
    elif dtype != fastest == torch.float32:
        log(f"--precision {args.precision} is many times slower than fp32 here: leave it out", file=sys.stderr)
    return device, dtype


def choose_device(name):
    """The torch.device that --device names, tried out; for auto the CPU where the GPU fails. Raises InputError.

    Apple's GPU is taken on request alone: torch has given wrong values there, silently (its issues 188371, 174339).
    """
    wanted = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if name == "auto" and not (torch.version.cuda or torch.version.hip) and shutil.which("nvidia-smi"):
        log("there is an NVIDIA GPU, but this torch was built without CUDA and takes the CPU; pytorch.org says how to "
            "install one for the GPU", file=sys.stderr)
    if wanted == "cuda" and started_by_torchrun():
        wanted = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(wanted)
        torch.ones(1, device=device).add_(1)  # that a GPU is there does not mean that this torch has kernels for it
        return device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:200]  # no driver, or too old a one, or the memory is full
    if "no kernel image" in reason:
        newer = torch.cuda.get_device_capability(wanted) >= (7, 5)
        reason = f"this torch has no kernels for {torch.cuda.get_device_name(wanted)}; " + (
            "a newer one may" if newer else f"this one has: {OLDER_GPUS}")
    if name != "auto":
        raise InputError(f"--device {name}: {reason}; leave it out to take the best there is")
    log(f"the GPU cannot be used ({reason}): the CPU in its place", file=sys.stderr)
    return torch.device("cpu")


def fastest_sound_dtype(device):
    """bf16 where the hardware multiplies it natively, fp16 on older GPUs with tensor cores, else float32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < (7, 0) or "GTX 16" in torch.cuda.get_device_name(device):  # no tensor cores; NaN on GTX 16xx
            return torch.float32
        return torch.bfloat16 if capability >= (8, 0) else torch.float16
    has = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    # oneDNN may be held back from it by ONEDNN_MAX_CPU_ISA, which makes a CPU behave as an older one.
    native = (has.get("avx512_bf16") or has.get("amx_bf16")) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32
