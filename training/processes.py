"""Training in several processes, as torchrun starts them: they meet, average their gradients, and stop together."""
import os
import signal
import threading
import warnings
from datetime import timedelta

import torch
import torch.distributed as dist

from data import InputError
from training.checkpoint import one_line
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
        raise InputError(f"the processes cannot meet ({one_line(error)}); give torchrun another --master-port")


def parallelize(model, device):
    """A model whose gradients are averaged over the processes. On CUDA its batch norm sees the batches of all."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1x1 kernels, where they mean nothing
    return torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)


def share_buffers(model):
    """Give all processes the first one's batch norm statistics: DDP does so only before each step."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


class StopSignal:
    """Within its block SIGINT, SIGTERM and SIGHUP are only noted, so that the step they interrupt can be finished.

    A signal that is ignored, as SIGHUP under nohup, stays so. In another thread than the main one none is noted.
    """

    def __init__(self):
        self.number, self.before = None, {}

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
        if world_size() == 1 and self.number:
            raise KeyboardInterrupt
        self.number = number

    def asked(self):
        """The signal that has reached any process, or None: all stop after the same step."""
        if world_size() > 1:
            number = torch.tensor(self.number or 0)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            self.number = int(number) or None
        return self.number
