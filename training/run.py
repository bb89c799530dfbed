"""Run: the progress of one training run, its best network, and all that is needed to go on with it."""
import copy
import json
import math
import os
import platform
import sys
import time

import numpy as np
import PIL
import torch
import torchvision
from tqdm import tqdm

from data import InputError
from models import count_gflops
from models.normalize import memory_format
from training.checkpoint import Predictor, autocast, load_predictor, save_checkpoint
from training.folder import binding_settings, claim_folder, folder_of_its_own, load_state
from training.optimization import RunningAverage, fast_forward, make_optimizer, make_schedule
from training.processes import StopSignal, parallelize
from utils import (
    batches,
    gather,
    keep_on_gpu,
    log,
    main_process_first,
    plot_curves,
    process_rank,
    world_size,
    write_atomically,
    write_csv,
)

try:
    import resource
except ImportError:  # Windows: no peak memory
    resource = None


DRAWING_PAUSE = 60  # seconds from one drawing of curves and predictions, which may take two, to the next


class Diverged(InputError):
    """The loss is no longer finite."""


class Run:
    """One training run: its folder, its progress, and all that is needed to go on with it.

    The scripts' loops read

        for epoch in run.epochs():
            for images, targets, draws in run.batches(train):
                ...
                run.step(loss)
            run.end_epoch(scores, best)
    """

    def __init__(self, args, device, dtype, network, data, model, **metadata):
        """`network` is the description that build_network made `model` from; `metadata` goes into each checkpoint.

        Raises InputError where the folder or the batch size cannot be used.
        """
        self.args, self.device, self.dtype = args, device, dtype
        self.folder = folder_of_its_own(args)
        self.metadata = describe_run(args, network, data) | metadata
        images = len(data.splits["train"])
        self.batch_size = min(args.batch_size, images)
        self.steps_per_epoch = images // self.batch_size
        if self.batch_size % world_size():
            raise InputError(f"--batch-size {self.batch_size} does not divide evenly among {world_size()} processes")
        self.module = model.to(device, memory_format=memory_format(device))
        self.optimizer = make_optimizer(model, args, device)
        self.schedule = make_schedule(self.optimizer, args, args.epochs * self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.average = RunningAverage(model, args.ema) if args.ema else None
        self.parts, self.part = 1, 0
        if device.type == "cuda":
            size = self.metadata.get("tile", data.size)
            self.parts = parts_that_fit(model, data, size, self.batch_size // world_size(), device, dtype)
        self.model = parallelize(model, device)  # what the loops call
        if args.compile and can_compile(device):
            self.model = torch.compile(self.model, dynamic=False)  # trained at two sizes at most
        self.epoch, self.step_in_epoch, self.loss_sum = 0, 0, torch.zeros((), device=device)
        self.seconds, self.peak = [], math.nan  # seconds of training by epoch; MB
        self.history, self.best = [], None
        self.stop_signal, self.saved = StopSignal(at_once=args.dry_run), time.monotonic()
        self.drawn = self.saved
        if not args.dry_run:
            with main_process_first():
                self.lock = claim_folder(args)
                if args.resume:
                    take_up(self, load_state(args, self.metadata))
                write_settings(self, data.assignment)
        size = sum(p.numel() for p in model.parameters())
        log(f"{args.model}: {size / 1e6:.2f} M parameters, {str(dtype).removeprefix('torch.')} on "
            f"{describe_machine(device)['name']} ({device})")

    @property
    def steps_done(self):
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    @property
    def predictor(self):
        """The network that is scored: with averaged weights or, where the recipe has no `ema`, the trained one."""
        return Predictor(self.average.model if self.average else self.module, self.metadata, self.device, self.dtype)

    def best_predictor(self):
        """The network with the weights that did best on val."""
        with main_process_first():  # it has written them
            return load_predictor(self.folder, self.device, self.dtype)

    def epochs(self):
        """The epochs still to do. Signals to stop take effect after the step that they interrupt."""
        images = self.steps_per_epoch * self.batch_size
        self.bar = tqdm(total=self.args.epochs * images, initial=self.steps_done * self.batch_size, unit="img",
                        disable=True if process_rank() else None, dynamic_ncols=True, smoothing=0.05)
        with self.stop_signal, self.bar:
            while self.epoch < self.args.epochs and not out_of_patience(self):
                yield self.epoch
                if self.stop_signal.asked():
                    self.stop()

    def batches(self, split):
        """This epoch's batches, or parts of them that fit: (images uint8, targets, draws), all on the device."""
        self.model.train()
        torch.backends.cudnn.benchmark = not self.args.deterministic  # to try all algorithms pays off in training alone
        if self.device.type == "cuda":  # scoring takes larger batches, and does not count
            torch.cuda.reset_peak_memory_stats(self.device)
        del self.seconds[self.epoch + (self.step_in_epoch > 0) :]
        self.seconds += [0.0] * (self.epoch + 1 - len(self.seconds))
        started = time.perf_counter() - self.seconds[-1]
        for batch in batches(split, self.batch_size, self.device, self.args.seed, self.epoch, self.step_in_epoch,
                             self.args.workers):
            yield from zip(*([None] * self.parts if array is None else array.chunk(self.parts) for array in batch))
            self.step_in_epoch += 1
            self.bar.update(self.batch_size)
            self.seconds[-1] = time.perf_counter() - started
            self.after_step()
        torch.backends.cudnn.benchmark = False
        self.show_loss()  # waits for the GPU
        self.seconds[-1] = time.perf_counter() - started
        self.peak = peak_memory_mb(self.device)

    def step(self, loss):
        """One step of the optimizer, the schedule and the running average, after the last part of a batch."""
        if self.part == 0:
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / self.parts).backward()
        self.loss_sum += loss.detach() / self.parts
        self.part = (self.part + 1) % self.parts
        if self.part:
            return
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average:
            self.average.update(self.steps_done)

    def after_step(self):
        """Show the loss, save what is due, stop where a signal asked for it."""
        stop = self.stop_signal.asked()
        due = stop or time.monotonic() - self.saved > 60 * self.args.checkpoint_minutes
        if due or self.step_in_epoch % 20 == 0 or self.device.type == "cpu":  # each look waits for the GPU
            self.show_loss()  # and stops at a loss that is not finite, before it is saved
        if stop:
            self.stop()
        if due:
            self.save_state()
        if self.args.dry_run:
            end_dry_run(self)

    def show_loss(self):
        """Show the epoch's mean loss on the progress bar. Raises Diverged where it is not finite."""
        loss = float(self.loss_sum) / max(self.step_in_epoch, 1)
        if not math.isfinite(loss):
            kept = f"; the last good checkpoint is in {self.folder}" if (self.folder / "last.pt").exists() else ""
            raise Diverged(f"the loss is no longer finite in epoch {self.epoch + 1}: try a lower --lr than "
                           f"{self.args.lr} or --precision fp32{kept}")
        last = self.history[-1] if self.history else {}
        scores = {key: f"{value:.3f}" for key, value in last.items() if key.startswith("val_")}
        self.bar.set_postfix(loss=f"{loss:.3f}", **scores, refresh=False)

    def end_epoch(self, scores, best, **found):
        """Close an epoch. `scores` of val go to metrics.csv; the network with the highest `best` becomes best.pt.

        What was `found` on val, such as a gain, belongs to the metadata of that network. Returns whether predictions of
        a new best network are to be drawn.
        """
        loss = sum(gather([float(self.loss_sum)])) / (self.steps_per_epoch * world_size())
        row = {"epoch": self.epoch + 1, "step": (self.epoch + 1) * self.steps_per_epoch,
               "lr": self.optimizer.param_groups[0]["lr"], "train_loss": loss}
        row |= {f"val_{key}": value for key, value in scores.items()}
        self.history.append(row)
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.loss_sum.zero_()
        best = -math.inf if math.isnan(best) else best
        if improved := self.best is None or best > self.best["score"]:
            self.best = {"score": best, "epoch": self.epoch}
        if (self.epoch == self.args.epochs or out_of_patience(self)) and self.best["score"] == -math.inf:
            raise Diverged(f"no score on val was finite: try a lower --lr than {self.args.lr} or --precision fp32")
        write_csv(self.folder / "metrics.csv", self.history)
        if improved and process_rank() == 0:
            weights = self.predictor.model.state_dict()
            save_checkpoint(self.folder / "best.pt", self.metadata | found | {"weights": weights})
        self.save_state()
        print_epoch(row, self.args.epochs, sum(self.seconds))
        if out_of_patience(self):
            log(f"val has not improved since epoch {self.best['epoch']}: training ends, as --patience says")
        return draw_curves(self) and improved

    def stop(self):
        """Save and leave, as a signal asked."""
        self.save_state()
        self.bar.close()
        log(f"stopped after {self.epoch} epochs and {self.step_in_epoch} steps; the same command with --resume goes "
            "on from there", file=sys.stderr)
        sys.exit(128 + self.stop_signal.number)

    def save_state(self):
        """Write last.pt; the one before stays as previous.pt, in case the disk damages the new one.

        The new file is whole before an older one moves, so that a full disk costs neither.
        """
        self.saved = time.monotonic()
        if process_rank():
            return
        last, following = self.folder / "last.pt", self.folder / "next.pt"
        save_checkpoint(following, self.metadata | {
            "weights": self.module.state_dict(), "average": self.average and self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(),
            "epoch": self.epoch, "step": self.step_in_epoch, "epochs": self.args.epochs, "loss_sum": self.loss_sum,
            "seconds": self.seconds, "peak": self.peak, "history": self.history, "best": self.best,
            "settings": binding_settings(self.args)})
        if last.exists():
            os.replace(last, self.folder / "previous.pt")
        os.replace(following, last)
        self.saved = time.monotonic()

    def finish(self, metrics):
        """Write summary.json, with the metrics on test, and curves.png."""
        write_atomically(self.folder / "summary.json", json.dumps(summarize(self, metrics), indent=2))
        plot_curves({self.folder.name: self.history}, self.folder / "curves.png")
        log(f"weights, scores and images: {self.folder}")


def take_up(run, state):
    """Load a checkpoint's weights and progress. The learning rate follows from the number of steps."""
    run.module.load_state_dict(state["weights"])
    if run.average:
        run.average.model.load_state_dict(state["average"])
    run.optimizer.load_state_dict(run.optimizer.state_dict() | {"state": state["optimizer"]["state"]})
    if state["scaler"]:  # empty where the run began on a device without fp16
        run.scaler.load_state_dict(state["scaler"])
    run.epoch, run.step_in_epoch = state["epoch"], state["step"]
    run.history, run.best = state["history"], state["best"]
    run.seconds, run.peak = state["seconds"], state["peak"]
    run.loss_sum.copy_(state["loss_sum"])
    fast_forward(run.schedule, run.steps_done)


def parts_that_fit(model, data, size, batch_size, device, dtype):
    """Into how many parts a batch is cut so that it fits the GPU's memory; their gradients are added up.

    Trial steps of two images and of four tell what one takes. A fifth of what is free is left to the loss and cuDNN.
    """
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
    each = (used[4] - used[2]) / 2
    states = 3 * sum(p.nbytes for p in model.parameters())  # the optimizer's, and the running average
    fitting = (0.8 * free - states - used[2]) / each + 2
    parts = next((n for n in range(1, batch_size) if batch_size % n == 0 and batch_size / n <= fitting), batch_size)
    if parts > 1:
        log(f"a batch of {batch_size} does not fit the GPU's memory: it goes through in {parts} parts, each with batch "
            "norm of its own, and one step is made of all")
    return parts


def can_compile(device):
    """Whether torch.compile works here: it needs a C++ compiler on the CPU, and Triton on CUDA."""
    try:
        torch.compile(lambda x: (x.sin() + 1).sum())(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever its many parts raise
        log(f"--compile does not work here ({str(error).splitlines()[0][:150]}): training goes on without",
            file=sys.stderr)
        return False
    return True


def write_settings(run, assignment):
    """Write config.json and, where the splits were made here, split.json."""
    config = {"settings": vars(run.args), "network": run.metadata["network"], "pictures": run.metadata["pictures"],
              "machine": describe_machine(run.device)}
    write_atomically(run.folder / "config.json", json.dumps(config, indent=2, default=str))
    if assignment:
        write_atomically(run.folder / "split.json", json.dumps(assignment, indent=1))


def draw_curves(run):
    """Draw curves.png, unless it was drawn a moment ago; returns whether it was, and more can be drawn."""
    if process_rank() or time.monotonic() - run.drawn < DRAWING_PAUSE:
        return False
    plot_curves({run.folder.name: run.history}, run.folder / "curves.png")
    run.drawn = time.monotonic()
    return True


def out_of_patience(run):
    """Whether val has not improved for --patience epochs."""
    return bool(run.args.patience and run.best) and run.epoch - run.best["epoch"] >= run.args.patience


def print_epoch(row, epochs, seconds):
    """One line for a row of metrics.csv, without breaking the progress bar."""
    shown = "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in row.items()
                      if key.startswith(("train_", "val_")))
    if process_rank() == 0:
        tqdm.write(f"epoch {row['epoch']:3d}/{epochs}  {shown}  {seconds:.0f} s", sys.stdout)


def summarize(run, metrics):
    """What summary.json holds."""
    args, steady = run.args, run.seconds[1:] or run.seconds  # the first epoch also warms up
    images = run.steps_per_epoch * run.batch_size * len(steady)
    return {
        "task": run.metadata["task"], "model": args.model, "data": args.data, "size": list(args.size),
        "seed": args.seed, "epochs": run.epoch, "best_epoch": run.best["epoch"],
        "parameters": sum(p.numel() for p in run.module.parameters()),
        "gflops_per_image": round(count_gflops(run.metadata["network"], args.size), 3),
        "images_per_second": round(images / sum(steady), 2),
        "peak_memory_mb": round(run.peak) if math.isfinite(run.peak) else None,
        "train_seconds": round(sum(run.seconds), 1), "metrics": metrics}


def describe_run(args, network, data):
    """What a checkpoint says of itself: enough to score and predict without anything else."""
    return {"task": data.task, "network": network, "data": args.data, "size": list(data.size), "seed": args.seed,
            "classes": data.classes, "colors": [list(color) for color in data.colors], "ids": data.ids,
            "pictures": {name: split.digest for name, split in data.splits.items()}} | (
        {"levels": list(data.levels)} if data.levels else {})


def end_dry_run(run):
    """End a dry run after a few steps with what they took. The first is not timed where there are more: it warms up."""
    if run.step_in_epoch == 1 < run.steps_per_epoch:
        run.first_step = run.seconds[-1]
    if run.step_in_epoch < min(4, run.steps_per_epoch) and run.seconds[-1] < 30:
        return
    loss = float(run.loss_sum) / run.step_in_epoch  # waits for the GPU
    each = run.seconds[-1] if run.step_in_epoch == 1 else (run.seconds[-1] - run.first_step) / (run.step_in_epoch - 1)
    minutes = run.args.epochs * run.steps_per_epoch * each / 60
    run.bar.close()
    smaller = " at most, since the first epochs are at a smaller size;" if getattr(run.args, "small", 0) else ","
    log(f"one batch of {run.batch_size} went through the network: loss {loss:.3f}\n"
        f"memory: {peak_memory_mb(run.device):.0f} MB at most on {run.device}\n"
        f"time: {each:.2f} s a step, {run.steps_per_epoch} steps an epoch, {run.args.epochs} epochs: about "
        f"{minutes:.0f} minutes of training{smaller} validation not counted")
    sys.exit(0)


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
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
