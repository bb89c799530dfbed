"""The machine: the device, the number type, the memory."""
import math
import os
import platform
import shutil
import sys

import torch

from data import InputError
from data.cache import resource

OLDER_GPUS = 'pip install "torch<2.15" torchvision --index-url https://download.pytorch.org/whl/cu126'
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def setup(args):
    """The device to compute on and the type to compute in: (torch.device, torch.dtype). Raises InputError."""
    device = choose_device(args.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # otherwise pinned memory would also use the first GPU
    torch.set_float32_matmul_precision("high")  # TF32 where the GPU has it
    fastest = fastest_sound_dtype(device)
    dtype = DTYPES.get(args.precision, fastest)
    if dtype != fastest == torch.float32:
        slow = device.type != "cuda"
        print(f"--precision {args.precision} is " + ("many times slower than fp32 here: leave it out" if slow else
              f"not sound on {torch.cuda.get_device_name(device)}: it is fp32"), file=sys.stderr)
        dtype = dtype if slow else fastest
    return device, dtype


def choose_device(name):
    """The torch.device of --device, after a test. With auto the CPU replaces a GPU that fails. Raises InputError."""
    # Not mps: torch has given wrong values there, silently (its issues 188371, 174339).
    wanted = name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if name == "auto" and not (torch.version.cuda or torch.version.hip) and shutil.which("nvidia-smi"):
        print("there is an NVIDIA GPU, but this torch was built without CUDA and takes the CPU; pytorch.org says how "
              "to install one for the GPU", file=sys.stderr)
    try:
        device = torch.device(wanted)
        torch.ones(1, device=device).add_(1)  # this torch may have no kernels for the GPU
        return device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:200]  # no driver, or too old a one, or the memory is full
    if "no kernel image" in reason:
        reason = f"this torch has no kernels for {torch.cuda.get_device_name(wanted)}; for older GPUs: {OLDER_GPUS}"
    if name != "auto":
        raise InputError(f"--device {name}: {reason}; leave it out, and one that works is taken")
    print(f"the GPU cannot be used ({reason}): using the CPU instead", file=sys.stderr)
    return torch.device("cpu")


def fastest_sound_dtype(device):
    """bf16 if the hardware has it, fp16 on older GPUs with tensor cores, else float32."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < (7, 0) or "GTX 16" in torch.cuda.get_device_name(device):  # no tensor cores; NaN on GTX 16xx
            return torch.float32
        return torch.bfloat16 if capability >= (8, 0) else torch.float16
    has = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}  # torch 2.4 lacks it
    # ONEDNN_MAX_CPU_ISA can keep oneDNN from using it: then the CPU works like an older one.
    native = (has.get("avx512_bf16") or has.get("amx_bf16")) and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def describe_machine(device):
    """Versions and hardware, for config.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type == "cpu":
        name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", name)
    return {"device": str(device), "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "python": platform.python_version(), "torch": torch.__version__}


def peak_memory_mb(device):
    """The peak memory so far, in MB: the GPU's or, without one, the process's; nan on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if resource is None:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
