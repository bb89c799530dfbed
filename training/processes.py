"""Training in several processes, as torchrun starts them: they meet, average gradients, share batch norm, and stop."""
import os
import signal
import threading
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist

from data import InputError
from utils import STOPPING, world_size


def started_by_torchrun():
    """Whether there are other processes to meet. Half of what torchrun sets, left in a shell, means nothing."""
    return {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def join_processes(device):
    """Meet the other processes that torchrun started. Raises InputError."""
    nccl = device.type == "cuda" and dist.is_nccl_available()  # Windows has none; gloo works on CUDA, too
    try:  # the first process may be decoding a data set for long
        dist.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=timedelta(hours=6))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"the processes cannot meet ({reason}); give torchrun another --master-port")


def first_to_fail():
    """Whether this process is the first to fail. torchrun's own process counts, since the others may have ended."""
    if world_size() == 1:
        return True
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=10))
    return store.add("failed", 1) == 1


def parallelize(model, device):
    """A model whose gradients are averaged over the processes, and whose batch norm sees the batches of all."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for module in list(model.modules()):
            if type(module) is torch.nn.BatchNorm2d:
                module.__class__ = SyncedBatchNorm
    # Of a 1x1 kernel, whose strides mean nothing (pytorch issue 157862), and of the newer name of broadcast_buffers.
    warnings.filterwarnings("ignore", "Grad strides do not match|`broadcast_buffers` is deprecated")
    # The buffers, batch norm's, are the same in all processes without being sent around.
    return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)


class SumOverProcesses(torch.autograd.Function):
    """The sum of x over the processes. Each process's loss depends on every x, so gradients are summed, too."""

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


class StopSignal:
    """Within its block SIGINT, SIGTERM and SIGHUP are only noted, so that the step they interrupt can be finished.

    A signal that is ignored, as SIGHUP under nohup, stays so. In another thread than the main one none is noted.
    """

    def __init__(self, at_once):
        """`at_once`: to interrupt everything at the first signal, not at the second."""
        self.number, self.at_once, self.before = None, at_once, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in STOPPING}
            self.before = {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}
        for number in self.before:
            signal.signal(number, self.note)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def note(self, number, frame):
        # Each of several processes gets the signal twice, from the terminal and from torchrun.
        if world_size() == 1 and (self.number or self.at_once):
            raise KeyboardInterrupt
        self.number = number

    def asked(self):
        """The signal that has reached any process, or None: all stop after the same step."""
        if world_size() > 1:
            number = torch.tensor(self.number or 0)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            self.number = int(number) or None
        return self.number
