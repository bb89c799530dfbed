"""Checkpoints, which are read without running any code in them, and the run's folder that holds them."""
import io
import itertools
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from data import InputError, is_out_of_memory, printable
from data.images import first_few
from data.sources import NAMED
from models import build_network
from models.normalize import memory_format
from training.flags import TASKS
from utils import write_atomically

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None

# The entries of every checkpoint; a task adds its own. "tile", (height, width), is empty or absent unless trained on
# crops, and "levels", the values that become 0 and 255, unless images have more than 8 bits.
METADATA = {"task": str, "network": dict, "data": str, "size": list, "seed": int, "classes": list, "colors": list,
            "ids": list, "weights": dict, "tile": list, "levels": list, "foreground": bool}
PRETRAINED = Path(__file__).parents[1] / "models" / "pretrained"  # small trained networks that ship with the code
STATES = "last.pt", "previous.pt"  # files to resume from, the newer one first


def autocast(device, dtype):
    """A context for a forward pass, in which torch computes in `dtype` where that is precise enough."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@dataclass
class Predictor:
    """A network and its checkpoint's metadata: predictor(images) -> the output, in the chosen precision."""
    model: torch.nn.Module
    metadata: dict
    device: torch.device
    dtype: torch.dtype

    @property
    def channels(self):
        """The channels of image files. A network for colorization gets only the lightness."""
        return 3 if self.metadata["task"] == "colorization" else self.metadata["network"].get("in_channels", 3)

    def __call__(self, images):
        with autocast(self.device, self.dtype):
            return self.model(images)


def save_checkpoint(path, checkpoint):
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_atomically(path, buffer.getbuffer())


def one_line(error):
    """An error's message, or the beginning of a long one, for a part of a line."""
    return printable(" ".join(str(error).split())[:100])


def load_checkpoint(path):
    """Read a checkpoint: a dict of numbers, text and tensors. Raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not test the checksums
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        known = {"tile": [], "levels": [], "foreground": False} | checkpoint
        wrong = [key for key, kind in METADATA.items() if not isinstance(known.get(key), kind)]
        if wrong or checkpoint["task"] not in TASKS:
            raise ValueError(f"its {(wrong or ['task'])[0]} is wrong")
    except Exception as error:  # torch.load raises a dozen types for damaged files
        if getattr(error, "filename", None) or is_out_of_memory(error):
            raise  # the file is missing, or memory is short: the file is not damaged
        raise InputError(f"{printable(path)} is no checkpoint of ours ({one_line(error)}); give a best.pt") from error
    return checkpoint


def load_run(run):
    """A run's folder, a checkpoint, or pretrained-NAME -> (float32 network in eval mode, metadata)."""
    path = Path(run, "best.pt") if Path(run).is_dir() else Path(run)
    if str(run).startswith("pretrained-") and not path.exists():
        path = PRETRAINED / f"{str(run).removeprefix('pretrained-')}.pt"
    if not path.is_file():
        raise InputError(f"{printable(run)} is no finished run: there is no {printable(path)}")
    metadata = load_checkpoint(path)
    weights = metadata.pop("weights")
    try:
        if metadata["network"]["name"] not in TASKS[metadata["task"]]:
            raise ValueError(f"no network for {metadata['task']}")
        with torch.device("meta"):  # allocates no memory; the file's tensors are assigned below
            model = build_network(metadata["network"])
        model.load_state_dict(weights, assign=True)
    except Exception as error:  # a damaged or made-up file can go wrong in any way
        raise InputError(f"{printable(path)} does not hold the network it describes: {one_line(error)}") from error
    return model.float().eval().to(memory_format=torch.channels_last), metadata


def load_predictor(run, device, dtype):
    """load_run's network, ready for inference on the device. Raises InputError."""
    model, metadata = load_run(run)
    return Predictor(for_inference(model, device, dtype), metadata, device, dtype)


def for_inference(model, device, dtype):
    """A network in eval mode on the device, batch norm folded into the convolutions before it, weights in `dtype`."""
    for parent in list(model.modules()):
        for (name, child), (following, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(child, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, norm))
                setattr(parent, following, torch.nn.Identity())
    model.to(device, memory_format=memory_format(device))
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)):
            module.to(dtype)  # a batch norm that could not be folded stays float32: its statistics must be exact
    return model


def copy_weights(network, weights, source):
    """Copy the weights that fit by name and shape, and print which do not. Raises InputError if few fit."""
    own, parameters = network.state_dict(), dict(network.named_parameters())
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    taken = len(parameters.keys() & fitting)
    if 2 * taken < len(parameters):
        raise InputError(f"{source}: only {taken} of {len(parameters)} weights fit; give its --model and --width "
                         "(ImageNet's is 64)")
    network.load_state_dict(fitting, strict=False)
    left = [name for name in own if name not in fitting]
    print(f"{printable(source)}: {taken} of {len(parameters)} weights are taken"
          + (f"; these do not fit and start anew: {first_few(left)}" if left else ""))


def load_start(network, args):
    """Start from ImageNet's weights (--pretrained) or from another run's (--init). Raises InputError."""
    if args.resume:  # the checkpoint has the weights, and their source may be missing on another machine
        return
    if args.pretrained:
        import torchvision  # takes a second
        depth = "resnet18" if args.model == "fcn32" else args.model
        try:
            weights = torchvision.models.get_model_weights(depth).DEFAULT.get_state_dict(check_hash=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"--pretrained: there are no weights of {depth} to be had ({error}); leave it out")
        copy_weights(getattr(network, "backbone", network), weights, "--pretrained")
    if args.init:
        copy_weights(network, load_run(args.init)[0].state_dict(), f"--init {args.init}")


def claim_folder(args):
    """Lock a run's folder and return the lock. An older run in it is moved, unless it is resumed. Raises InputError."""
    folder, data = Path(args.out), [Path(args.data).resolve()] * (args.data not in NAMED)
    inside = any(folder.resolve().is_relative_to(place) for place in data)  # its images would become data
    holds = any(place.is_relative_to(folder.resolve()) for place in (*data, Path.cwd())) or any(folder.glob("*.py"))
    if inside or holds and not args.resume:  # the next run would move the folder, with all that is in it
        raise InputError(f"--out {folder}: give the run a folder of its own, outside the data and the code")
    if not args.resume and any(map(Path.exists, map(folder.joinpath, ("best.pt", "metrics.csv", *STATES)))):
        lock_folder(folder).close()  # raises if another run writes there; Windows moves no folder with open files
        names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
        aside = folder.rename(next(name for name in names if not name.exists()))
        print(f"the run that was in {folder} is now in {aside}")
    folder.mkdir(parents=True, exist_ok=True)
    return lock_folder(folder)


def lock_folder(folder):
    """Lock a folder against other processes: returns an open file, which holds the lock. Raises InputError."""
    file = open(folder / ".lock", "w")
    try:
        # lockf's lock belongs to this process. flock's would also belong to loaders, which live seconds longer.
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InputError(f"{folder}: another run is writing there; wait for it or choose another --out")
    except OSError:
        pass  # some network file systems have no locks
    return file


def load_state(args, metadata):
    """Read last.pt or, if that is damaged, previous.pt. Raises InputError, also if the data have changed."""
    last = Path(args.out, "last.pt")
    for path in filter(Path.exists, map(last.with_name, STATES)):
        try:
            state = load_checkpoint(path)
            break
        except (InputError, OSError) as error:
            print(f"--resume: {printable(str(error))}", file=sys.stderr)
    else:
        raise InputError(f"--resume: {args.out} has no undamaged checkpoint to resume from; leave --resume out")
    if any(state.get(key) != metadata[key] for key in ("classes", "digests", "network")):
        raise InputError(f"--resume: {args.out} was trained when {args.data} held other images or classes; put them "
                         "back, or give another --out")
    if path != last:
        os.replace(path, last)  # otherwise the damaged last.pt would soon replace the good previous.pt
    return state
