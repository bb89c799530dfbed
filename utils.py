"""What the scripts share: settings, batches, networks, optimization, the run and its folder, metrics, plots."""
import argparse
import contextlib
import copy
import csv
import errno
import io
import itertools
import json
import math
import mmap
import os
import pickle
import pickletools
import platform
import re
import signal
import sys
import time
import traceback
import warnings
import zipfile
from datetime import timedelta
from pathlib import Path
from reprlib import repr as brief  # short also for what a made-up file nests without end

import matplotlib
import numpy as np
import PIL
import torch
import torch.distributed as dist
import torchvision
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from data import InputError
from data.augment import DRAWS, constant
from data.cache import START_METHOD, usable_cores
from data.images import VOID, show
from data.sources import MAX_SIDE, NAMED, check_data
from models.classifier import BLOCKS, ResNet
from models.fcn import ResNetFCN32
from models.resnet9 import ResNet9
from models.unet import UNet

try:
    import fcntl
    import resource
except ImportError:  # Windows: no lock on the run's folder, no peak memory
    fcntl = resource = None

matplotlib.use("Agg")  # before pyplot: there may be no screen
from matplotlib import pyplot as plt  # noqa: E402

plt.rcParams["text.parse_math"] = False  # a class may be called "$", which would begin a formula

# ---------------------------------------------------------------------------------------------------------------------
# Settings

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("none", "step", "multistep", "cosine", "onecycle", "linear")


def get_args_parser(description, models, out):
    """The flags that every training script has. Those left out of the command line come from the recipe."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=models, default=models[0])
    add("--data", default="scenes", type=os.path.normpath,
        help="scenes, a named data set, or a folder (default: scenes)")
    add("--data-dir", default="data", help="where data sets are downloaded and cached (default: data)")
    add("--size", type=positive_int, nargs=2, metavar=("H", "W"), help="training size (default: the data set's own)")
    add("--recipe", choices=("best", "report"), default="best",
        help="best: our settings for that data set; report: the report's")
    add("--epochs", type=positive_int, help="from here down to --width, the default is the recipe's")
    add("--batch-size", type=positive_int)
    add("--lr", type=positive_float)
    add("--optimizer", choices=OPTIMIZERS)
    add("--schedule", choices=SCHEDULES, help="onecycle and linear: up for 15%% of the steps, then down, curved or not")
    add("--weight-decay", type=not_negative(float))
    add("--width", type=positive_int, help="channels of the first layer")
    add("--workers", type=not_negative(int),
        help="loader processes (default: 0 where pictures are cached and there is no CUDA, else up to 4)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: the fastest there is)")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    add("--deterministic", action="store_true", help="CUDA: the same bits at every run, at some cost in speed")
    add("--compile", choices=("auto", "on", "off"), default="auto",
        help="torch.compile (auto: on CUDA, where more than 10 minutes are left after an epoch)")
    add("--seed", type=not_negative(int), default=0)
    add("--out", help=f"the run's folder (default: {out})")
    add("--resume", action="store_true", help="go on from the run's last checkpoint")
    add("--checkpoint-minutes", type=positive_float, default=10, help="save at least this often (default: 10)")
    add("--dry-run", action="store_true", help="check data, memory and time without training")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def positive_float(text):
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def not_negative(kind):
    """An argument type: an int or float that is 0 or more."""
    def parse(text):
        value = kind(text)
        if not 0 <= value < 2**63:
            raise argparse.ArgumentTypeError(f"{text} is negative, too large or no number")
        return value

    parse.__name__ = kind.__name__  # argparse's message for text that is no number says "invalid int value"
    return parse


def fill_in(args, data, recipes, best_on):
    """Settle every setting that the command line left open, from the recipe, and print what was noted of the data."""
    recipe = recipes[args.recipe]
    if args.recipe == "best":
        recipe = recipe | best_on.get(data.name, {}) | best_on.get((data.name, args.model), {})
    for key, value in recipe.items():
        if getattr(args, key, None) is None:
            setattr(args, key, value)
    args.size = data.size
    if args.workers is None:
        cached = isinstance(data.splits["train"].images, np.ndarray)
        needless = cached and (START_METHOD != "fork" or not torch.cuda.is_available())
        args.workers = 0 if needless else min(4, usable_cores())
    for note in data.notes:
        print(note)


def run_main(main, parser):
    """Parse, run, and turn a mistake of the user's into one line on standard error and exit code 2."""
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show
    try:
        code = main(args)
    except SystemExit as error:  # a signal's, after the same step in all processes, or a dry run's
        traceback.clear_frames(error.__traceback__)  # ends the loops that were left, and so their loader processes
        code = error.code
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        advice = None
        if isinstance(error, (InputError, OSError, RuntimeError, MemoryError, ValueError)):
            advice = explain(error, args)
        if args.debug or advice is None:
            raise
        sys.exit(refuse(advice) if is_first_to_fail() else 2)
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.exit(code)


def explain(error, args):
    """The line that says what went wrong and what to do; None for an error that is a bug of ours."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ValueError) and "more than 1 value per channel" in text:
        return "one value a channel is too few for batch norm: try a larger --batch-size or --size"
    if isinstance(error, (InputError, OSError)):
        return text.splitlines()[-1].removeprefix("data.InputError: ")  # after a loader process's traceback
    # What a CPU, a loader process, cuBLAS and cuDNN say when memory is short.
    signs = ("allocate memory", "MemoryError", "ALLOC_FAILED", "unable to find an engine", "CUDA error: out of memory")
    short_of_memory = any(sign in text for sign in signs)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or short_of_memory:
        batch_size = getattr(args, "batch_size", None)
        if batch_size is None:
            return "out of memory"
        smaller = f"--batch-size {batch_size // 2}" if batch_size > 1 else "a smaller --size"
        return f"out of memory with --batch-size {batch_size}: try {smaller}"
    if world_size() > 1 and isinstance(error, RuntimeError) and ("peer" in text or isinstance(error, dist.DistError)):
        return "another process of this run ended; the same command with --resume goes on from the last checkpoint"
    if "DataLoader worker" in text:
        return f"a loader process died ({text.splitlines()[0][:100]}): try --workers 0"
    return None


def refuse(reason):
    """Print the one line that an error comes down to, whatever the names in it hold; returns the exit code."""
    print(f"{Path(sys.argv[0]).name}: {show(str(reason))}", file=sys.stderr)
    return 2


def dry_run(args, task):
    """The first half of --dry-run: report all that is found in the data; the second is a few steps, in Run.batches."""
    lines, problems = check_data(args.data, task, args.size, args.data_dir, args.seed)
    print("\n".join(lines))
    if problems:
        print("\n".join(f"problem: {problem}" for problem in problems), file=sys.stderr)
        raise InputError(f"--data {args.data}: {len(problems)} problems, see above")


def setup(args):
    """The device and the type of autocast: (torch.device, torch.dtype)."""
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # set by torchrun
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        if "out of memory" in str(error):
            raise InputError(f"--device {args.device}: its memory is full; end what else runs there")
        raise InputError(f"--device {args.device}: there is no such device here; leave it out to take the best one")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # else pinned memory would take some of the first
    if "LOCAL_RANK" in os.environ and not dist.is_initialized():
        join_processes(device)
    training = hasattr(args, "deterministic")  # a flag of the training scripts alone
    if training and args.deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA's first matrix product is made
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = training and not args.deterministic  # to try every algorithm pays off in training
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    return device, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(
        args.precision, fastest_sound_dtype(device))


def fastest_sound_dtype(device):
    """bf16 where the hardware multiplies it natively, fp16 on older GPUs, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32
    return torch.float32


def autocast(device, dtype):
    """A function that makes the autocast context of a forward pass."""
    return lambda: torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Several processes, as torchrun starts them: all of this is idle in one


def join_processes(device):
    """Meet the other processes that torchrun started. The first alone prints and writes."""
    backend = "gloo"
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(hours=6))  # the first may be decoding a data set for long
    if dist.get_rank():
        sys.stdout = open(os.devnull, "w")
        init = tqdm.__init__  # not partialmethod: the callers' own disable=None would win
        tqdm.__init__ = lambda *args, **options: init(*args, **options | {"disable": True})


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def process_rank():
    return dist.get_rank() if dist.is_initialized() else 0


def is_first_to_fail():
    """Whether this process is the first to fail. torchrun's own process keeps count, for the others may have ended."""
    if world_size() == 1:
        return True
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=10))
    return store.add("failed", 1) == 1


@contextlib.contextmanager
def main_process_first():
    """The first process goes ahead, and what it writes is there for the others when they follow."""
    if process_rank():
        dist.barrier()
    yield
    if world_size() > 1 and not process_rank():
        dist.barrier()


def gather(parts):
    """The parts of all processes, in the order in which `batches` dealt them out."""
    if world_size() == 1:
        return parts
    everyone = [None] * world_size()
    with torch.inference_mode(False):  # torch 2.4 could not write into its own buffers there
        dist.all_gather_object(everyone, parts)
    return [part for row in itertools.zip_longest(*everyone) for part in row if part is not None]


def parallelize(model, device):
    """Gradients are averaged over the processes, and batch norm sees the whole batch of all of them."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for module in list(model.modules()):
            if type(module) is torch.nn.BatchNorm2d:
                module.__class__ = SyncedBatchNorm
    # The buffers, batch norm's, are the same everywhere without being sent around.
    return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)


class SumOverProcesses(torch.autograd.Function):
    """The sum of x over the processes. Each one's loss depends on every x, so gradients are summed over them, too."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return SumOverProcesses.forward(ctx, gradient)


class SyncedBatchNorm(torch.nn.BatchNorm2d):
    """Batch norm over the batches of all processes, all equally large; torch.nn.SyncBatchNorm needs GPUs."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        moments = torch.stack([variance, mean, mean.square()])
        variance, mean, square = SumOverProcesses.apply(moments) / world_size()
        variance = variance + (square - mean.square()).clamp(min=0)  # within the processes, and between them
        with torch.no_grad():
            count = world_size() * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Batches


def batches(split, batch_size, device, seed=0, epoch=None, start=0, workers=0):
    """Yield (images uint8 (B, 3, H, W), targets or None, draws (B, DRAWS)) on the device.

    With an `epoch` the order is a permutation and both it and the draws follow from (seed, epoch) alone; a last batch
    that is not full is dropped, because batch norm suffers from small ones. Without an epoch: in order, all.
    `start` skips that many batches, to go on within an epoch. Of several processes each gets its share: of every
    batch in training, else of the batches.
    """
    count, rank, processes = len(split), process_rank(), world_size()
    if epoch is None:
        order, draws = np.arange(count), np.zeros((count, DRAWS), np.float32)
        fitting = 2**21 // math.prod(split.images.shape[2:])  # pixels: to score should take less memory than to train
        batch_size = max(min(batch_size, fitting, -(-count // processes)), 1)  # work for all processes
    else:
        order = np.random.default_rng((seed, epoch, 0)).permutation(count)
        draws = np.random.default_rng((seed, epoch, 1)).random((count, DRAWS), np.float32)
    stop = count if epoch is None else count // batch_size * batch_size
    chunks = [np.sort(order[i : i + batch_size]) for i in range(start * batch_size, stop, batch_size)]
    chunks = chunks[rank::processes] if epoch is None else [chunk[rank::processes] for chunk in chunks]
    for indices, (images, targets) in zip(chunks, load(split, chunks, device, workers)):
        images = images.to(device, non_blocking=True)
        targets = None if targets is None else targets.to(device, non_blocking=True)
        yield images, targets, torch.from_numpy(draws[indices]).to(device, non_blocking=True)


STOPPING = (signal.SIGINT, signal.SIGTERM)


def load(split, chunks, device, workers):
    """An iterable of (images, targets), a pair for each array of indices in `chunks`."""
    if resident := keep_on_gpu(split, device):
        places = (torch.from_numpy(chunk).to(device, non_blocking=True) for chunk in chunks)
        return ([array if array is None else array[place] for array in resident] for place in places)
    loader = DataLoader(WholeBatches(split), sampler=chunks, batch_size=None, num_workers=workers,
                        pin_memory=device.type == "cuda", prefetch_factor=4 if workers else None,
                        worker_init_fn=leave_stopping_to_parent,
                        multiprocessing_context=START_METHOD if workers else None)
    if not (workers and hasattr(signal, "pthread_sigmask")):
        return loader
    held = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # until the loaders know what to do with them
    try:
        return iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def keep_on_gpu(split, device):
    """A small split's [images, targets] in the GPU's memory, from the first call on; [] where they are to be loaded.

    Small is a sixteenth of the memory, so that train, val and test leave room for the network.
    """
    if split.on_gpu is None:
        split.on_gpu = []
        arrays = [array for array in (split.images, split.targets) if array is not None]
        if device.type == "cuda" and all(isinstance(array, np.ndarray) for array in arrays):
            if sum(array.nbytes for array in arrays) <= torch.cuda.get_device_properties(device).total_memory / 16:
                split.on_gpu = [array if array is None else torch.from_numpy(np.array(array)).to(device)
                                for array in (split.images, split.targets)]
    return split.on_gpu


def leave_stopping_to_parent(worker):
    """Ctrl-C reaches every process of a terminal, a job's SIGTERM every process of the job; the loaders must live until
    the step is done, and must end if nothing ends them after it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


class WholeBatches(torch.utils.data.Dataset):
    """A split whose items are whole batches: an array of indices -> (images, targets)."""

    def __init__(self, split):
        self.split, self.mapped = split, 0

    def __len__(self):
        return len(self.split)

    def __getitem__(self, indices):
        arrays = [array for array in (self.split.images, self.split.targets) if array is not None]
        images, *targets = parts = [np.ascontiguousarray(array[indices]) for array in arrays]
        self.mapped += sum(part.nbytes for part in parts)
        if self.mapped > 2**28 and hasattr(mmap, "MADV_DONTNEED"):
            for array in arrays:  # what was read of a mapped file would stay in the process's memory
                if isinstance(array, np.memmap):
                    array._mmap.madvise(mmap.MADV_DONTNEED)
            self.mapped = 0
        return torch.from_numpy(images), torch.from_numpy(targets[0]) if targets else None


def evenly(total, count):
    """At most `count` indices, spread evenly over range(total)."""
    return np.linspace(0, total - 1, min(total, count)).astype(int)


def shrink(size, multiple=16):
    """About 0.7 of each side, and so half the work: the size of the first epochs, whose detail is learned again later.

    Progressive resizing, as in Howard's fast.ai entry to DAWNBench (2018).
    """
    return tuple(max(round(side * 0.7 / multiple) * multiple, min(side, multiple)) for side in size)


def normalize(images):
    """(B, 3, H, W) float in [0, 1] -> minus ImageNet's mean, divided by its standard deviation; channels last."""
    mean = constant((0.485, 0.456, 0.406), images.device)[:, None, None]
    deviation = constant((0.229, 0.224, 0.225), images.device)[:, None, None]
    return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------------------------------------
# Networks and checkpoints

LIMITS = {"classes": 1024, "in_channels": 3, "out_channels": 1024, "width": 1024, "depth": 6}


def build_network(network):
    """The network that a description such as {"name": "unet", "in_channels": 3, ...} stands for.

    Descriptions are read from checkpoints, and those come from strangers: raises InputError for one out of bounds.
    """
    settings = dict(network)
    name = settings.pop("name", None)
    for key, value in settings.items():
        if key in LIMITS and not (type(value) is int and 1 <= value <= LIMITS[key]):
            raise InputError(f"a network cannot have {key} {brief(value)}")
    try:
        if name == "unet":
            return UNet(**settings)
        if name == "fcn32":
            return ResNetFCN32(**settings)
        if name in BLOCKS:
            return ResNet(depth=name, **settings)
        if name == "resnet9":
            return ResNet9(**settings)
    except (TypeError, KeyError):
        pass
    raise InputError(f"no network is described by {brief(network)}")


def write_atomically(path, data, durable=True):
    """Write bytes or text beside `path` and rename them into place, so that no reader ever sees half a file.

    `durable`: not even after a power cut, at the price of waiting for the disk. Of several processes only the first
    writes.
    """
    if process_rank():
        return
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data.encode(errors="surrogateescape") if isinstance(data, str) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_csv(path, rows, encoding="utf-8"):
    """Write dicts as a table, which has a column for each key of theirs."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for row in rows for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode(encoding, "surrogateescape"))


def read_csv(path):
    """The rows of a table as dicts of strings; none where there is no file."""
    if not Path(path).exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return list(csv.DictReader(file))
    except csv.Error as error:
        raise InputError(f"{path} is no table of ours ({error}); remove it")


def save_checkpoint(path, checkpoint):
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path):
    """Read one of our checkpoints without trusting it: no code of its is run. Raises InputError."""
    try:
        with SparingFile(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError("compressed, as torch.save never does")  # a few bytes could stand for gigabytes
            described = [entry.file_size for entry in entries if "/data/" not in entry.filename]
            if len(entries) > 10_000 or sum(described) > 2 << 20:
                raise InputError("with far more in it than we write")  # torch would be busy with it for minutes
            if sum(entry.file_size for entry in entries) > os.path.getsize(path) or archive.testzip():
                raise InputError("damaged")
            if archive.comment or min(entry.header_offset for entry in entries):
                raise InputError("with more in it than torch.save writes")  # torch might read another table than Python
            pickled, = (entry for entry in entries if entry.filename.lower().endswith(".pkl"))
            check_pickle(archive.read(pickled))
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        check_description(checkpoint, os.path.getsize(path))
    except OSError:
        raise
    except Exception as error:  # zipfile and torch.load raise a dozen types for the ways in which a file can be garbage
        reason = " ".join(str(error).split())[:100]
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds more than numbers and text"
        raise InputError(f"{path} is no checkpoint of ours ({reason}); take best.pt of a finished run") from error
    return checkpoint


class SparingFile(io.FileIO):
    """A file that is not read in large pieces, as the directory of a made-up zip would have to be."""

    def read(self, size=-1):
        if size > 2 << 20:
            raise InputError("with far more in it than we write")
        return super().read(size if size >= 0 else 2 << 20)


# What a checkpoint's pickle may hold, by the names of pickletools: values, and what each operation takes off the stack.
VALUES = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE",
          "EMPTY_LIST", "EMPTY_DICT"}
TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "BUILD": 1, "APPEND": 1, "SETITEM": 2, "BINPERSID": 1}
TAKE_MARKED = {"TUPLE", "APPENDS", "SETITEMS"}
CALLS = r"collections OrderedDict|torch._utils _rebuild_tensor_v2|torch \w+Storage"


def check_pickle(pickled):
    """Raise InputError unless a pickle holds only what torch.save writes of ours, and names for keys.

    torch.load(weights_only=True) runs no code, but makes a bytearray of any size, and takes for ever, or crashes, to
    hash a key that is a tuple of tuples. Here nothing is built: of each value only its kind is followed.
    """
    stack, marks, memo = [], [], {}
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in VALUES and not (name == "LONG1" and argument.bit_length() > 64):
            stack.append("dict" if name == "EMPTY_DICT" else "value")
        elif name == "EMPTY_TUPLE":
            stack.append("empty")
        elif name == "GLOBAL" and re.fullmatch(CALLS, argument):
            stack.append(argument)
        elif name in TAKES or name in TAKE_MARKED:
            start = marks.pop() if name in TAKE_MARKED else len(stack) - TAKES[name]
            taken, stack[start:] = stack[start:], []
            tuples = {"tuple", "tuple of tuples"}
            if (name.startswith("SETITEM") and tuples & set(taken[::2])
                    or name == "BUILD" and taken != ["dict"]  # a list of pairs would do, too
                    or name == "BINPERSID" and taken == ["tuple of tuples"]
                    or name == "REDUCE" and taken[0] == "collections OrderedDict" and taken[1] != "empty"):
                raise InputError("its keys are no names")
            if name.startswith("TUPLE"):
                stack.append("tuple of tuples" if tuples & set(taken) else "tuple")
            elif name in ("REDUCE", "BINPERSID"):
                stack.append("value")
        elif name not in ("PROTO", "STOP"):
            raise InputError("it holds more than numbers and text")


def check_description(checkpoint, file_size):
    """Raise InputError unless all that a checkpoint says of itself is of the right type, within bounds, and agrees."""
    def numbers(values, count, low, high, kinds=(int, float)):
        return (isinstance(values, list) and len(values) == count
                and all(isinstance(value, kinds) and low <= value <= high for value in values))

    task, network, names, colors, centers, target = (
        checkpoint.get(key) for key in ("task", "network", "classes", "colors", "centers", "target"))
    pictures = checkpoint.get("pictures", {})
    networks = {"segmentation": ("unet", "fcn32"), "classification": (*BLOCKS, "resnet9"),
                "colorization": ("unet",)}
    sound = {
        "task": isinstance(task, str) and task in networks,
        "network": isinstance(network, dict) and network.get("name") in networks.get(task, ()),
        "weights": isinstance(checkpoint.get("weights"), dict),
        "data": isinstance(checkpoint.get("data"), str),
        "seed": isinstance(checkpoint.get("seed"), int),
        "size": numbers(checkpoint.get("size"), 2, 1, MAX_SIDE, int),
        "pictures": isinstance(pictures, dict) and all(isinstance(digest, str) for digest in pictures.values()),
        "classes": isinstance(names, list) and len(names) <= 1024
        and all(isinstance(name, str) and len(name) <= 1000 and name.isprintable() for name in names),
        "colors": isinstance(colors, list) and all(numbers(color, 3, 0, 255, int) for color in colors),
        "ids": numbers(checkpoint.get("ids", list(range(len(colors)))), len(colors), 0, 255, int),
        "target": target in (("rgb", "lab") if task == "colorization" else (None,)),
        "centers": centers is None or isinstance(centers, list) and all(numbers(c, 2, -200, 200) for c in centers),
        "mean_ab": task != "colorization" or numbers(checkpoint.get("mean_ab"), 2, -200, 200),
        "mirror": task != "classification" or isinstance(checkpoint.get("mirror"), bool),
        "gain": task != "colorization" or numbers([checkpoint.get("gain")], 1, 0.1, 10),
    }
    wrong = [key for key, right in sound.items() if not right]
    if wrong:
        raise InputError(f"its {wrong[0]} makes no sense")
    outputs = len(names)
    if task == "colorization":
        outputs = 3 if target == "rgb" else 2 if centers is None else len(centers)
    if network.get("out_channels", network.get("classes")) != outputs:
        raise InputError("its network has not as many outputs as it should")
    if network.get("in_channels", 3) != (1 if task == "colorization" else 3):
        raise InputError("its network is for other pictures")
    if task == "segmentation" and not len(colors) == len(names) < VOID:
        raise InputError("it has not one colour for each class")
    tensors = list(checkpoint["weights"].values())
    if not all(isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided for tensor in tensors) \
            or sum(tensor.nbytes for tensor in tensors) > file_size:  # views of a few bytes could stand for gigabytes
        raise InputError("its weights are not plain numbers")


def load_run(run):
    """The best checkpoint of a run's folder (or the file itself) -> (network in eval mode, checkpoint)."""
    path = Path(run)
    if path.is_dir():
        path = path / "best.pt"
    if not path.is_file():
        raise InputError(f"{run} is no finished run: there is no {path}")
    checkpoint = load_checkpoint(path)
    try:
        with torch.device("meta"):  # so that nothing is allocated which the file does not hold
            model = build_network(checkpoint["network"])
        load_weights(model, checkpoint["weights"], assign=True)
    except Exception as error:  # also here a made-up file can go wrong in any way
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{path} does not hold the network it describes: {reason}") from error
    return model.eval().to(memory_format=torch.channels_last), checkpoint


def load_for_inference(run, device, dtype):
    """load_run, then for_inference."""
    model, checkpoint = load_run(run)
    return for_inference(model, device, dtype), checkpoint


def for_inference(model, device, dtype):
    """A network in eval mode on the device, batch norm folded into the convolutions before it, weights in `dtype`."""
    for parent in list(model.modules()):
        for (name, child), (following, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(child, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, norm))
                setattr(parent, following, torch.nn.Identity())
    model.to(device, memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
            module.to(dtype)  # but not batch norms after a pooling, which were not folded: their statistics stay exact
    return model


def load_weights(model, weights, **options):
    """Load weights that come from a file: load_state_dict checks the names and shapes, but converts or trusts types."""
    own = {key: tensor.dtype for key, tensor in model.state_dict().items()}
    strange = [key for key, tensor in weights.items() if tensor.dtype != own.get(key) or tensor.device.type != "cpu"]
    if strange:
        raise InputError(f"its {brief(strange[0])} is none of the network's")
    model.load_state_dict(dict(weights), **options)  # a plain dict: without the metadata that the file may hold


def imagenet_weights(depth):
    """torchvision's ImageNet weights of "resnet18" or "resnet34", downloaded once and checked by their hash."""
    if depth not in BLOCKS:
        raise InputError(f"--pretrained: torchvision has no {depth}; take {' or '.join(BLOCKS)}")
    try:
        return torchvision.models.get_model_weights(depth).DEFAULT.get_state_dict(check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"--pretrained: the weights of {depth} cannot be fetched ({error}); leave --pretrained out")


def start_from(network, weights):
    """Copy weights into a ResNet, but for the classifier's head, which belongs to other classes."""
    weights = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    try:
        missing, _ = network.load_state_dict(weights, strict=False)
    except RuntimeError:
        missing = ["?"]
    if any(not key.startswith("fc.") for key in missing):
        raise InputError("the weights to start from are another network's: --pretrained needs --width 64 and pictures "
                         "of 64 pixels or more, --backbone a run of such pictures")


def count_gflops(network, size):
    """Forward GFLOPs (two per multiply-add) of a described network for one (H, W) picture, without computing any."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_network(network).eval()(torch.empty(1, network.get("in_channels", 3), *size))
    return counter.get_total_flops() / 1e9


# ---------------------------------------------------------------------------------------------------------------------
# Optimization


def make_optimizer(model, args, device):
    """Weight decay is for matrices and kernels; norms and biases go without, as is usual."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = device.type in ("cpu", "cuda")
    if args.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, args.lr, momentum=0.9, nesterov=True, fused=fused)
        for p in model.parameters():  # else the fused kernel leaves it unset where fp16's first step overflows
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimizer
    kind = torch.optim.AdamW if args.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, args.lr, fused=fused)


def make_schedule(optimizer, args, steps):
    """The learning rate over `steps` optimizer steps."""
    schedules = torch.optim.lr_scheduler
    if args.schedule == "step":
        return schedules.StepLR(optimizer, max(steps // 3, 1))
    if args.schedule == "multistep":
        return schedules.MultiStepLR(optimizer, [int(steps * 0.6), int(steps * 0.85)])
    if args.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, steps)
    if args.schedule in ("onecycle", "linear"):  # up for 15% of the steps, then down to nothing, curved or straight
        # Momentum stays: cycling it as well gains nothing measurable and makes SGD and Adam differ in one more way.
        return schedules.OneCycleLR(optimizer, args.lr, total_steps=steps + 1, pct_start=0.15, cycle_momentum=False,
                                    anneal_strategy="cos" if args.schedule == "onecycle" else "linear")
    return schedules.ConstantLR(optimizer, factor=1.0)


@torch.no_grad()
def update_average(averages, values, decay, step):
    """Move running averages of tensors a step towards their values.

    The first steps count for more, so that the random start is soon forgotten. torch's AveragedModel would do, but
    counts its steps in a tensor, for which every step would wait for the GPU.
    """
    decay = min(decay, (1 + step) / (10 + step)) if step else 0.0
    torch._foreach_lerp_(averages, values, 1 - decay)


def averaged_tensors(model):
    """A network's weights and batch norm's statistics, but not its counters."""
    return [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]


# ---------------------------------------------------------------------------------------------------------------------
# The run


class Diverged(InputError):
    """The loss is no longer finite."""


class Run:
    """One training run: its folder, its progress, and everything needed to go on with it.

    The scripts' loops read `for epoch in run.epochs(): for batch in run.batches(train): ...; run.step(loss)` and
    close each epoch with `run.end_epoch(scores, best)`.
    """

    def __init__(self, args, device, dtype, network, data, model, **about):
        """`network` is the description that build_network made `model` from; `about` goes into each checkpoint."""
        self.args, self.device, self.dtype = args, device, dtype
        self.folder = Path(args.out)
        # What a checkpoint says of itself: enough to score and predict without anything else.
        self.about = {"task": data.task, "network": network, "data": args.data, "size": list(data.size),
                      "seed": args.seed, "classes": data.classes, "colors": [list(color) for color in data.colors],
                      "ids": data.ids, "pictures": {name: split.digest for name, split in data.splits.items()}, **about}
        place = self.folder.resolve()  # within the data its pictures would be data at the next run
        is_data = args.data not in NAMED and place.is_relative_to(Path(args.data).resolve())
        if is_data or self.folder.name in ("", ".."):
            raise InputError(f"--out {args.out}: give the run a folder of its own, outside the data")
        images = len(data.splits["train"])
        self.steps_per_epoch = max(images // args.batch_size, 1)
        self.batch_size = min(args.batch_size, images)
        if self.batch_size % world_size():
            raise InputError(f"--batch-size {self.batch_size} does not divide evenly among {world_size()} processes")
        self.module = model.to(device, memory_format=torch.channels_last)
        self.optimizer = make_optimizer(model, args, device)
        self.schedule = make_schedule(self.optimizer, args, args.epochs * self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.average = copy.deepcopy(model) if args.ema else None
        if args.ema:  # listed once: a walk through the network at every step would keep a GPU waiting
            self.averages, self.values = averaged_tensors(self.average), averaged_tensors(model)
        self.autocast = autocast(device, dtype)
        self.warming_up = True  # whether an epoch's speed is not to be counted: the first's, and after compiling
        # Of several processes each would decide for itself, and sync batch norm interrupts what is compiled.
        self.may_compile = (args.compile == "auto" and device.type == "cuda" and not args.deterministic
                            and world_size() == 1)
        self.model = parallelize(model, device)  # what the loops call
        if args.compile == "on":
            self.compile()
        self.epoch, self.step_in_epoch, self.seconds = 0, 0, 0.0
        self.steady, self.peak = [0, 0.0], math.nan  # images and seconds of epochs at full speed; MB
        self.loss_sum = torch.zeros((), device=device)
        self.history, self.best = [], None
        self.stop_signal, self.saved, self.save_seconds, self.unsaved_best = None, time.monotonic(), 0.0, None
        if not args.dry_run:
            with main_process_first():
                self.open_folder(data.assignment)
        size = sum(p.numel() for p in model.parameters())
        print(f"{args.model}: {size / 1e6:.2f} M parameters, {str(dtype).removeprefix('torch.')} on "
              f"{describe_machine(device)['name']} ({device})")

    def compile(self):
        print("compiling the network: the next steps take a minute or so")
        if self.args.compile == "auto":  # without a C compiler or Triton, go on as before
            torch._dynamo.config.suppress_errors = True
        self.model = torch.compile(self.model, dynamic=False)  # trained at two sizes at most; scored as it is
        self.may_compile, self.warming_up = False, True

    @property
    def averaged(self):
        """The network that is scored: the one with averaged weights or, where there is no `ema`, the trained one."""
        return self.module if self.average is None else self.average

    @property
    def steps_done(self):
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def open_folder(self, assignment):
        """Make the folder, or go on with what it holds; an older run is moved aside, never overwritten."""
        if self.args.resume:
            self.lock()
            self.load_state()
            return self.write_config()  # there may be more epochs now
        if process_rank():
            return
        if any((self.folder / name).exists() for name in ("best.pt", "metrics.csv", "last.pt", "previous.pt")):
            self.lock()
            number = 1
            while (aside := self.folder.with_name(f"{self.folder.name}.{number}")).exists():
                number += 1
            self.folder.rename(aside)
            print(f"the run that was in {self.folder} is now in {aside}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock()
        self.write_config()
        if assignment:
            write_atomically(self.folder / "split.json", json.dumps(assignment, indent=1))

    def write_config(self):
        config = {"settings": vars(self.args), "network": self.about["network"], "pictures": self.about["pictures"],
                  "machine": describe_machine(self.device)}
        write_atomically(self.folder / "config.json", json.dumps(config, indent=2, default=str))

    def lock(self):
        """Keep a second run out of the folder for as long as this process lives."""
        if fcntl is None or process_rank():
            return
        try:
            self.lock_file = open(self.folder / ".lock", "w")
        except FileNotFoundError:
            raise InputError(f"--resume: there is no run in {self.folder}")
        try:
            # lockf's lock is the process's own; flock's would stay with loaders that outlive a killed run by seconds.
            fcntl.lockf(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(f"{self.folder}: another run is writing there; wait for it or choose another --out")
            print(f"{self.folder} cannot be locked ({error.strerror}): let no second run write there", file=sys.stderr)

    def epochs(self):
        """The epochs still to do. SIGINT and SIGTERM are held back until a step is done."""
        for number in STOPPING:
            signal.signal(number, self.request_stop)
        total = self.args.epochs * self.steps_per_epoch * self.batch_size
        self.bar = tqdm(total=total, initial=self.steps_done * self.batch_size, unit="img", disable=None,
                        dynamic_ncols=True, smoothing=0.05)
        try:
            while self.epoch < self.args.epochs:
                yield self.epoch
                if self.asked_to_stop():
                    self.stop()
        finally:
            self.bar.close()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def request_stop(self, number, frame):
        # Asked twice: do not even finish the step. Of several processes each is, by the terminal and by torchrun.
        if world_size() == 1 and (self.stop_signal or self.args.dry_run):
            raise KeyboardInterrupt
        self.stop_signal = number

    def asked_to_stop(self):
        """Whether a signal has reached any process: all stop after the same step."""
        if world_size() > 1:
            signals = torch.tensor(self.stop_signal or 0)
            dist.all_reduce(signals, dist.ReduceOp.MAX)
            self.stop_signal = int(signals) or None
        return self.stop_signal

    def batches(self, split):
        """This epoch's batches: (images uint8, targets, draws), all on the device."""
        self.model.train()
        if self.device.type == "cuda":  # scoring takes larger batches, and cuDNN tried much in the first epoch
            torch.cuda.reset_peak_memory_stats(self.device)
        first, started, before = self.step_in_epoch, time.perf_counter(), self.seconds
        for batch in batches(split, self.batch_size, self.device, self.args.seed, self.epoch, self.step_in_epoch,
                             self.args.workers):
            yield batch
            self.step_in_epoch += 1
            self.bar.update(self.batch_size)
            self.seconds = before + time.perf_counter() - started
            stop = self.asked_to_stop()
            due = stop or time.monotonic() - self.saved > 60 * self.args.checkpoint_minutes
            if due or self.step_in_epoch % 20 == 0 or self.device.type == "cpu":  # each look waits for the GPU
                self.show_loss()  # and stops at a loss that is not finite, before it is saved
            if stop:
                self.stop()
            if due:
                self.save_state()
            if self.args.dry_run and self.step_in_epoch in (1, min(4, self.steps_per_epoch)):
                self.show_estimate(started)
        self.show_loss()
        elapsed = time.perf_counter() - started
        self.seconds = before + elapsed
        self.peak = peak_memory_mb(self.device)
        if self.device.type == "cuda" and self.epoch == math.ceil(getattr(self.args, "small", 0) * self.args.epochs):
            self.warming_up = True  # the first epoch at full size
        if not self.warming_up or self.args.epochs == 1:
            self.steady[0] += (self.step_in_epoch - first) * self.batch_size
            self.steady[1] += elapsed
        self.warming_up = False

    def show_estimate(self, started):
        """End a dry run after a few steps with what they took; the first is not timed, since it also warms up."""
        loss = float(self.loss_sum) / self.step_in_epoch  # waits for the GPU
        if self.step_in_epoch == 1 < self.steps_per_epoch:
            self.first_step = time.perf_counter()
            return
        steps = max(self.step_in_epoch - 1, 1)
        each = (time.perf_counter() - (self.first_step if self.steps_per_epoch > 1 else started)) / steps
        self.bar.close()
        print(f"one batch of {self.batch_size} went through the network: loss {loss:.3f}")
        print(f"memory: {peak_memory_mb(self.device):.0f} MB at most on {self.device}")
        total = self.args.epochs * self.steps_per_epoch * each
        smaller = " at most, since the first epochs are at a smaller size;" if getattr(self.args, "small", 0) else ","
        print(f"time: {each:.2f} s a step, {self.steps_per_epoch} steps an epoch, {self.args.epochs} epochs: about "
              f"{total / 60:.0f} minutes of training{smaller} validation not counted")
        sys.exit(0)

    def step(self, loss):
        """One step of the optimizer, the schedule and the running average."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            update_average(self.averages, self.values, self.args.ema, self.steps_done)
        self.loss_sum += loss.detach()

    def show_loss(self):
        loss = float(self.loss_sum) / max(self.step_in_epoch, 1)
        if not math.isfinite(loss):
            kept = f"; the last good checkpoint is in {self.folder}" if (self.folder / "last.pt").exists() else ""
            raise Diverged(f"the loss is no longer finite in epoch {self.epoch + 1}: try a lower --lr than "
                           f"{self.args.lr} or --precision fp32{kept}")
        last = self.history[-1] if self.history else {}
        scores = {key: f"{value:.3f}" for key, value in last.items() if key.startswith("val_")}
        self.bar.set_postfix(loss=f"{loss:.3f}", **scores, refresh=False)

    def end_epoch(self, scores, best):
        """Close an epoch: `scores` of val go to metrics.csv, and the higher `best`, the better the checkpoint."""
        loss = sum(gather([float(self.loss_sum)])) / (self.steps_per_epoch * world_size())
        row = {"epoch": self.epoch + 1, "step": (self.epoch + 1) * self.steps_per_epoch,
               "lr": self.optimizer.param_groups[0]["lr"], "train_loss": loss}
        row |= {f"val_{key}": value for key, value in scores.items()}
        self.history.append(row)
        self.epoch += 1
        self.step_in_epoch = 0
        self.loss_sum.zero_()
        if self.may_compile and self.seconds / self.epoch * (self.args.epochs - self.epoch) > 600:
            self.compile()  # a shorter run would not win back what it takes
        best = -math.inf if math.isnan(best) else best
        if self.best is None or best > self.best["score"]:
            self.best = {"score": best, "epoch": self.epoch}
            weights = {key: tensor.clone() for key, tensor in self.averaged.state_dict().items()}
            self.unsaved_best = self.about | {"weights": weights}
        if self.epoch == self.args.epochs and self.best["score"] == -math.inf:
            raise Diverged(f"no score on val was finite: try a lower --lr than {self.args.lr} or --precision fp32")
        write_csv(self.folder / "metrics.csv", self.history)  # before last.pt, from which a killed run writes it again
        # On a GPU an epoch can be shorter than the writing of half a gigabyte: that takes a tenth of the time at most.
        if self.epoch == self.args.epochs or time.monotonic() - self.saved >= 10 * self.save_seconds:
            self.save_state()
        shown = "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in row.items()
                          if key.startswith(("train_", "val_")))
        tqdm.write(f"epoch {self.epoch:3d}/{self.args.epochs}  {shown}  {self.seconds:.0f} s", file=sys.stdout)

    def save_state(self):
        """Write best.pt if there is a better one, and last.pt; the last.pt before it stays as previous.pt, in case the
        disk damages the new one.

        The new file is whole before a good one moves, so that a full disk costs neither.
        """
        self.saved = started = time.monotonic()
        if process_rank():
            return
        if self.unsaved_best:
            save_checkpoint(self.folder / "best.pt", self.unsaved_best)
            self.unsaved_best = None
        state = {
            "weights": self.module.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "epoch": self.epoch, "step": self.step_in_epoch, "epochs": self.args.epochs,
            "loss_sum": self.loss_sum, "seconds": self.seconds, "steady": self.steady, "peak": self.peak,
            "history": self.history,
            "best": self.best, "settings": {key: str(getattr(self.args, key)) for key in self.settings_that_bind()}}
        last, following = self.folder / "last.pt", self.folder / "next.pt"
        save_checkpoint(following, self.about | state)
        if last.exists():
            os.replace(last, self.folder / "previous.pt")
        os.replace(following, last)
        self.saved = time.monotonic()
        self.save_seconds = self.saved - started

    def settings_that_bind(self):
        """The settings that a resumed run must share with the one before: all that change what is computed."""
        free = {"epochs", "workers", "out", "resume", "debug", "data_dir", "dry_run", "checkpoint_minutes", "device",
                "compile", "recipe", "sweep"}
        return sorted(vars(self.args).keys() - free)

    def load_state(self):
        """Take up last.pt, or the one before it where that is damaged."""
        last, state = self.folder / "last.pt", None
        paths = [path for path in (last, self.folder / "previous.pt") if path.exists()]
        if not paths:
            raise InputError(f"--resume: {self.folder} has no checkpoint yet; leave --resume out")
        for path in paths:
            try:
                state = load_checkpoint(path)
                break
            except (InputError, OSError) as error:
                print(f"--resume: {show(str(error))}", file=sys.stderr)
        if state is None:
            raise InputError(f"--resume: there is no sound last.pt in {self.folder} to go on from")
        try:
            self.check_settings(state)
            self.take_up(state)
        except InputError:
            raise
        except Exception as error:  # as in load_checkpoint
            raise InputError(f"--resume: {path} is not of this run ({error!r:.100}); leave --resume out") from error
        if not process_rank():
            os.replace(path, last)  # else a damaged last.pt would soon take the place of the sound previous.pt

    def check_settings(self, state):
        """Refuse to go on with other settings or other data than the run began with."""
        settings = {key: value for key, value in state["settings"].items() if isinstance(value, str)}
        changed = [f"--{key.replace('_', '-')} was {settings.get(key)}, is {getattr(self.args, key)}"
                   for key in self.settings_that_bind() if settings.get(key) != str(getattr(self.args, key))]
        if changed:
            raise InputError(f"--resume: {self.folder} was trained with other settings: {'; '.join(changed)}; give "
                             "those again, or another --out")
        if any(state.get(key, self.about[key]) != self.about[key] for key in ("classes", "pictures")):
            raise InputError(f"--resume: {self.folder} was trained when {self.args.data} held other pictures or "
                             "classes; put them back, or give another --out")
        if state["epochs"] > self.args.epochs and (state["epoch"], state["step"]) > (self.args.epochs, 0):
            raise InputError(f"--resume: {state['epoch']} epochs and {state['step']} steps are done, more than "
                             f"--epochs {self.args.epochs}")

    def take_up(self, state):
        """Load what a checkpoint holds of the run, but nothing that follows from the settings or the count of steps."""
        load_weights(self.module, state["weights"])
        if self.average is not None:
            load_weights(self.average, state["average"])
        self.epoch, self.step_in_epoch = state["epoch"], state["step"]
        self.history, best = state["history"], state["best"]
        self.best = {"score": float(best["score"]), "epoch": int(best["epoch"])} if self.epoch else None
        if not (len(self.history) == self.epoch and 0 <= self.step_in_epoch <= self.steps_per_epoch):
            raise ValueError("its counters disagree")
        if not all(isinstance(key, str) and (isinstance(value, float) or isinstance(value, int) and abs(value) < 2**63)
                   for row in self.history for key, value in row.items()):
            raise ValueError("its history holds more than numbers")
        done = self.steps_done
        longer = state["epochs"] != self.args.epochs
        if longer:  # then the schedule is another: where would it be by now?
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it expects a step of the optimizer first
                for _ in range(done):
                    self.schedule.step()
        own = self.optimizer.state_dict()
        for group, saved in zip(own["param_groups"], state["optimizer"]["param_groups"], strict=True):
            group["lr"] = group["lr"] if longer else float(saved["lr"])
        self.optimizer.load_state_dict(own | {"state": state["optimizer"]["state"]})
        names = ("momentum_buffer",) if self.args.optimizer == "sgd" else ("exp_avg", "exp_avg_sq", "step")
        for parameter, values in self.optimizer.state.items():
            if values and any(values[name].layout != torch.strided or
                              values[name].shape != (() if name == "step" else parameter.shape) for name in names):
                raise ValueError("the optimizer's state is another network's")
        self.schedule.load_state_dict(self.schedule.state_dict() | {
            "last_epoch": done, "_step_count": done + 1, "_last_lr": [group["lr"] for group in own["param_groups"]]})
        if state["scaler"]:  # empty where the run began on a device without fp16
            self.scaler.load_state_dict(state["scaler"])
        self.loss_sum.copy_(state["loss_sum"])
        self.seconds, self.steady = float(state["seconds"]), [int(state["steady"][0]), float(state["steady"][1])]
        self.peak = float(state["peak"])

    def stop(self):
        """Save in mid-epoch and leave, as a signal asked."""
        self.save_state()
        self.bar.close()
        if not process_rank():
            print(f"stopped after {self.epoch} epochs and {self.step_in_epoch} steps; the same command with --resume "
                  "goes on from there", file=sys.stderr)
        sys.exit(128 + self.stop_signal)

    def best_network(self):
        """The network with the weights that did best on val, ready to be scored, and its checkpoint."""
        with main_process_first():  # its files are there
            return load_for_inference(self.folder, self.device, self.dtype)

    def finish(self, metrics):
        """Write summary.json and curves.png."""
        args = self.args
        summary = {
            "task": self.about["task"], "model": args.model, "data": self.about["data"], "size": list(args.size),
            "seed": args.seed, "epochs": args.epochs, "best_epoch": self.best["epoch"],
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "gflops_per_image": round(count_gflops(self.about["network"], args.size), 3),
            "images_per_second": round(self.steady[0] / self.steady[1], 2) if self.steady[1] else None,
            "peak_memory_mb": round(self.peak) if math.isfinite(self.peak) else None,
            "train_seconds": round(self.seconds, 1), "metrics": metrics}
        write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2))
        plot_curves({self.folder.name: self.history}, self.folder / "curves.png")
        print(f"weights, scores and pictures: {self.folder}")


def describe_machine(device):
    """Versions and hardware, for config.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        name = torch.cpu.get_capabilities().get("cpu_name", name)
    return {"device": str(device), "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
            "numpy": np.__version__, "pillow": PIL.__version__}


def peak_memory_mb(device):
    """The most memory in use so far, in MB: the GPU's, or the process's where there is none; nan on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if resource is None:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


class ConfusionMatrix:
    """Counts of (truth, prediction) over a whole split; every score comes from these, never from means of batches."""

    def __init__(self, classes):
        self.classes = classes
        self.counts = torch.zeros(classes, classes, dtype=torch.int64)

    def update(self, truth, prediction):
        """truth and prediction: integer tensors of one shape; truth VOID is not counted."""
        k = self.classes
        rows = truth.flatten().long().clamp(max=k)  # void goes to one more row, which is dropped
        pairs = torch.bincount(rows * k + prediction.flatten().long(), minlength=(k + 1) * k)
        self.counts += pairs[: k * k].view(k, k).cpu()

    def compute(self):
        """A dict: miou, pixel_accuracy, frequency_weighted_iou, and iou, a list with None for classes nowhere seen."""
        counts = sum(gather([self.counts])).double()
        hits, truth, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        union = truth + predicted - hits
        iou = hits / union  # nan where a class is in neither
        seen = union > 0
        total = truth.sum().clamp(min=1)
        return {
            "miou": float(iou[seen].mean()) if seen.any() else 0.0,
            "pixel_accuracy": float(hits.sum() / total),
            "frequency_weighted_iou": float((truth * iou.nan_to_num()).sum() / total),
            "iou": [float(x) if s else None for x, s in zip(iou, seen)],
        }


def wilson_interval(hits, count, z=1.96):
    """The 95% interval of a proportion (Wilson 1927), which stays within 0 and 1 also for few samples."""
    share, spread = hits / count, z * z / count
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max((middle - half) / (1 + spread), 0.0), min((middle + half) / (1 + spread), 1.0)


def outline_counts(truth, prediction, classes, tolerance=0.0075):
    """Masks (H, W) uint8 -> (4, K), boundary pixels by class: truth's that are met, all of truth's, the prediction's
    that are met, all of the prediction's.

    Met is one that has one of the other's within `tolerance`, a share of the picture's diagonal (Csurka et al. 2013, as
    used for SegNet). The picture's edge is no boundary, and what only borders on void is not counted. All classes are
    looked at together: a pixel is a word with a bit a class.
    """
    radius = max(1, round(tolerance * math.hypot(*truth.shape)))
    inner = neighbourhood(np.minimum, truth != VOID)
    outlines = [inner & (neighbourhood(np.maximum, mask) != neighbourhood(np.minimum, mask))
                for mask in (truth, prediction)]
    met = np.zeros((2, *truth.shape), bool)
    for first in range(0, classes, 64):
        number = min(classes - first, 64)
        bits = np.zeros(256, np.min_scalar_type((1 << number) - 1))
        bits[first : first + number] = [1 << i for i in range(number)]
        true, predicted = (bits[mask] * outline for mask, outline in zip((truth, prediction), outlines))
        met[0] |= (true & dilate(predicted, radius)) != 0
        met[1] |= (predicted & dilate(true, radius)) != 0
    chosen = truth[met[0]], truth[outlines[0]], prediction[met[1]], prediction[outlines[1]]
    return np.stack([np.bincount(ids, minlength=256)[:classes] for ids in chosen])


def neighbourhood(extreme, picture):
    """np.minimum or np.maximum over each pixel's 3x3 neighbourhood, as far as that lies in the picture."""
    for _ in range(2):  # up and down, and then, transposed, left and right
        result = picture.copy()
        extreme(result[1:], picture[:-1], out=result[1:])
        extreme(result[:-1], picture[1:], out=result[:-1])
        picture = result.T
    return picture


def dilate(bits, radius):
    """OR over a disc around each pixel, built from its narrow top rows to its wide middle one."""
    height, wide, result, reach = len(bits), bits.copy(), np.zeros_like(bits), 0
    for y in range(radius, -1, -1):
        while (reach + 1) ** 2 <= radius**2 - y**2:
            reach += 1
            wide[:, reach:] |= bits[:, :-reach]
            wide[:, :-reach] |= bits[:, reach:]
        rest = max(height - y, 0)
        result[y:] |= wide[:rest]
        result[:rest] |= wide[y:]
    return result


def boundary_f1(counts):
    """Sums of outline_counts (..., 4, K) -> the mean of F1 (...) over the classes that are in truth or prediction."""
    met_truth, truth, met_prediction, prediction = np.moveaxis(counts, -2, 0)
    recall, precision = met_truth / truth.clip(1), met_prediction / prediction.clip(1)
    f1 = 2 * precision * recall / (precision + recall).clip(1e-12)
    return f1.sum(-1) / (truth + prediction > 0).sum(-1).clip(1)


# ---------------------------------------------------------------------------------------------------------------------
# Plots


def plot_curves(histories, path):
    """Training loss beside every validation score, a panel each; `histories` maps a label to metrics.csv's rows."""
    columns = [key for key in list(histories.values())[0][0] if key == "train_loss" or key.startswith("val_")]
    figure, axes = plt.subplots(1, len(columns), figsize=(4.2 * len(columns), 3.4), squeeze=False, layout="constrained")
    for axis, column in zip(axes[0], columns):
        for label, history in histories.items():
            axis.plot([int(row["epoch"]) for row in history], [float(row[column]) for row in history], label=label)
        axis.set(title=column.replace("_", " "), xlabel="epoch")
        axis.grid(alpha=0.3)
    if len(histories) > 1:
        axes[0][0].legend()
    save_figure(figure, path)


def plot_heat_map(rows, vertical, horizontal, value, path):
    """A grid of `value`, numbers written in, the keys `vertical` down the side and `horizontal` along the bottom."""
    def label(row, keys):
        return ", ".join(str(row[key]) for key in keys)

    down, along = (list(dict.fromkeys(label(row, keys) for row in rows)) for keys in (vertical, horizontal))
    grid = np.full((len(down), len(along)), np.nan)
    for row in rows:
        grid[down.index(label(row, vertical)), along.index(label(row, horizontal))] = float(row[value])
    figure, axis = plt.subplots(figsize=(1.1 * len(along) + 2.5, 0.5 * len(down) + 1.6), layout="constrained")
    plotted = axis.imshow(grid, aspect="auto", cmap="viridis")
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (i, j), number in np.ndenumerate(grid):
        axis.text(j, i, f"{number:.3f}", ha="center", va="center", color="black" if number > middle else "white")
    axis.set_xticks(range(len(along)), along)
    axis.set_yticks(range(len(down)), down)
    axis.set(xlabel=", ".join(key.replace("_", " ") for key in horizontal), ylabel=", ".join(vertical))
    figure.colorbar(plotted, label=value.replace("_", " "))
    save_figure(figure, path)


def plot_confusion(counts, classes, path):
    """A confusion matrix (K, K) of counts, truth down the side, coloured by the share of each row."""
    side = 0.55 * min(len(classes), 25) + 2.5  # of hundreds of classes a larger one would take gigabytes
    figure, axis = plt.subplots(figsize=(side, side), layout="constrained")
    share = counts / counts.sum(1, keepdims=True).clip(1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 25:
        for (i, j), count in np.ndenumerate(counts):
            ink = "white" if share[i, j] > 0.5 else "black"
            axis.text(j, i, count, ha="center", va="center", fontsize=8, color=ink)
    named = range(0, len(classes), -(-len(classes) // 60))
    axis.set_xticks(named, [classes[i] for i in named], rotation=45, ha="right")
    axis.set_yticks(named, [classes[i] for i in named])
    axis.set(xlabel="prediction", ylabel="truth")
    save_figure(figure, path)


def plot_gallery(pictures, captions, path, columns=4):
    """Pictures (H, W, 3) uint8 with a caption each; a blank sheet says so where there are none."""
    rows = max(-(-len(pictures) // columns), 1)
    figure, axes = plt.subplots(rows, columns, figsize=(2.4 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption in zip(axes.flat, pictures, captions):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(caption, fontsize=9)
    if not pictures:
        axes.flat[0].set_title("nothing to show")
    save_figure(figure, path)


def plot_rows(rows, titles, path, legend=()):
    """Rows of pictures (H, W, 3) uint8 under column `titles`; `legend` is (name, (r, g, b)) of each class shown."""
    height, width = rows[0][0].shape[:2]
    columns = len(titles)
    figure, axes = plt.subplots(len(rows), columns, squeeze=False, layout="constrained",
                                figsize=(3 * columns, 3 * height / width * len(rows) + 0.9))
    for line, pictures in zip(axes, rows):
        for axis, picture in zip(line, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], titles):
        axis.set_title(title)
    if legend:
        patches = [matplotlib.patches.Patch(facecolor=np.array(color) / 255, edgecolor="grey", label=name)
                   for name, color in legend]
        figure.legend(handles=patches, loc="outside lower center", ncols=min(len(patches), 2 * columns), fontsize=8)
    save_figure(figure, path)


def save_figure(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    plt.close(figure)
    write_atomically(path, buffer.getvalue())


def save_picture(picture, path):
    """Write a PIL picture in the format of its path's suffix."""
    buffer = io.BytesIO()
    # PNG's own default, 6, takes three times as long to make a photograph 6% smaller.
    picture.save(buffer, {".png": "PNG", ".jpg": "JPEG"}[path.suffix], quality=90, compress_level=1)
    write_atomically(path, buffer.getbuffer(), durable=False)  # of thousands, any of which can be made again


def colorize_mask(mask, colors):
    """Class ids (H, W) uint8 -> (H, W, 3) uint8 in the classes' colours; void is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table[mask]
