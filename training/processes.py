"""Training in several processes, as torchrun starts them: they meet, average gradients, share batch norm, and stop."""
import os
import signal
from datetime import timedelta

import torch
import torch.distributed as dist

from utils import STOPPING, world_size


def join_processes(device):
    """Meet the other processes that torchrun started."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(hours=6))  # the first may be decoding a data set for long


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
    """Within its block SIGINT and SIGTERM are only noted, so that the step they interrupt can be finished."""

    def __init__(self, at_once):
        """`at_once`: to interrupt everything at the first signal, not at the second."""
        self.number, self.at_once = None, at_once

    def __enter__(self):
        for number in STOPPING:
            signal.signal(number, self.note)

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

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
