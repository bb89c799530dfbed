"""The machine: what it is, how much memory is used, into how many parts a batch must be cut, whether it compiles."""
import copy
import math
import os
import platform
import sys
from importlib.metadata import version

import numpy as np
import PIL
import torch

from training.checkpoint import autocast, one_line
from utils import keep_on_gpu, log

try:
    import resource
except ImportError:  # Windows: no peak memory
    resource = None


def describe_machine(device):
    """Versions and hardware, for config.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        name = torch.cpu.get_capabilities().get("cpu_name", name)
    return {"device": str(device), "name": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "python": platform.python_version(), "torch": torch.__version__, "torchvision": version("torchvision"),
            "numpy": np.__version__, "pillow": PIL.__version__}


def peak_memory_mb(device):
    """The most memory in use so far, in MB: the GPU's, or the process's where there is none; nan on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if resource is None:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def parts_that_fit(model, data, size, batch_size, device, dtype):
    """Into how many parts a batch is cut so that it fits the GPU's memory, judged by trial steps of 2 and 4 images."""
    for split in data.splits.values():
        keep_on_gpu(split, device)  # before what is free is counted
    free, before, used = torch.cuda.mem_get_info(device)[0], torch.cuda.memory_allocated(device), {}
    trial, channels = copy.deepcopy(model).train(), next(model.parameters()).shape[1]
    for images in (2, 4):
        torch.cuda.reset_peak_memory_stats(device)
        with autocast(device, dtype):
            output = trial(torch.zeros(images, channels, *size, device=device))
        output.float().square().mean().backward()
        used[images] = torch.cuda.max_memory_allocated(device) - before
        trial.zero_grad()
    states = 3 * sum(p.nbytes for p in model.parameters())  # the optimizer's, and the running average
    fitting = (0.8 * free - states - used[2]) / ((used[4] - used[2]) / 2) + 2  # a fifth is left to the loss and cuDNN
    parts = next((n for n in range(1, batch_size) if batch_size % n == 0 and batch_size / n <= fitting), batch_size)
    if parts > 1:
        log(f"a batch of {batch_size} does not fit the GPU's memory: {parts} parts, each with batch norm of its own, "
            "make one step")
    return parts


def can_compile(device):
    """Whether torch.compile works here: it needs a C++ compiler on the CPU, and Triton on CUDA."""
    try:
        torch.compile(lambda x: (x.sin() + 1).sum())(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever its many parts raise
        log(f"--compile does not work here ({one_line(error)}): training goes on without", file=sys.stderr)
        return False
    return True
