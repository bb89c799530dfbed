"""Run: the progress of one training run, its best network, its checkpoints, and how it stops and resumes."""
import contextlib
import math
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from data import InputError
from models import count_gflops
from models.normalize import memory_format
from training.checkpoint import Predictor, claim_folder, load_predictor, load_state, save_checkpoint
from training.machine import describe_machine, peak_memory_mb
from training.optimization import RunningAverage, make_optimizer, make_schedule
from utils import STOPPING, batches, plot_curves, write_csv, write_json

PROGRESS = "epoch", "step_in_epoch", "seconds", "peak", "history", "best"  # fields of Run that last.pt holds
DRAWING_PAUSE = 60  # least seconds between drawings of curves and predictions, each of which may take two


class Diverged(InputError):
    """The loss is no longer finite, or no score on val was finite."""


class Run:
    """One training run. The scripts' loops read

        for epoch in run.epochs():
            for images, targets, draws in run.batches(train):
                ... run.step(loss)
            run.end_epoch(scores, best)"""

    def __init__(self, args, device, dtype, network, data, model, **metadata):
        """`network` is the description of `model`; `metadata` goes into each checkpoint. Raises InputError."""
        self.args, self.device, self.dtype, self.folder = args, device, dtype, Path(args.out)
        self.metadata = {  # of each checkpoint: all that scoring and prediction need besides the weights
            "task": data.task, "network": network, "data": args.data, "size": list(data.size), "seed": args.seed,
            "classes": data.classes, "colors": [list(color) for color in data.colors], "ids": data.ids,
            "levels": list(data.levels or ()), "digests": {name: each.digest for name, each in data.splits.items()},
            **metadata}
        self.batch_size = min(args.batch_size, len(data.splits["train"]))
        self.steps_per_epoch = len(data.splits["train"]) // self.batch_size
        self.model = model.to(device, memory_format=memory_format(device))
        self.optimizer = make_optimizer(model, args, device)
        self.schedule = make_schedule(self.optimizer, args, args.epochs * self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.average = RunningAverage(model, args.ema) if args.ema else None
        self.epoch, self.step_in_epoch, self.loss_sum = 0, 0, torch.zeros((), device=device)
        self.seconds, self.peak = [], math.nan  # seconds of training by epoch; MB
        self.history, self.best = [], None  # rows of metrics.csv; the best score and its epoch
        self.stop_signal = StopSignal()
        self.saved = self.drawn = time.monotonic()
        self.parameters = sum(p.numel() for p in model.parameters())
        machine, self.lock = describe_machine(device), claim_folder(args)
        if args.resume:
            self.resume(load_state(args, self.metadata))
        write_json(self.folder / "config.json", {"settings": vars(args), "network": network, "machine": machine,
                                                 "digests": self.metadata["digests"]})
        if data.assignment:  # the splits were made here
            write_json(self.folder / "split.json", data.assignment)
        print(f"{args.model}: {self.parameters / 1e6:.2f} M parameters, {str(dtype)[6:]} on {machine['name']} "
              f"({device});", ", ".join(f"{len(split.names)} {name}" for name, split in data.splits.items()), "images")

    @property
    def steps_done(self):
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    @property
    def finished(self):
        """Whether all epochs are done, or val has not improved for --patience of them."""
        late = self.best and self.args.patience and self.epoch - self.best["epoch"] >= self.args.patience
        return bool(late) or self.epoch >= self.args.epochs

    @property
    def predictor(self):
        """The network to score: with averaged weights if the recipe has `ema`, else the trained one."""
        return Predictor(self.average.model if self.average else self.model, self.metadata, self.device, self.dtype)

    def best_predictor(self):
        """The network with the weights that did best on val."""
        return load_predictor(self.folder, self.device, self.dtype)

    def epochs(self, last=None):
        """Yield the epochs still to do, up to `last`. A signal to stop takes effect after the current step."""
        images = self.steps_per_epoch * self.batch_size
        self.bar = tqdm(total=self.args.epochs * images, initial=self.steps_done * self.batch_size, unit="img",
                        disable=None, dynamic_ncols=True, smoothing=0.05)
        with self.stop_signal, self.bar:
            while not self.finished and self.epoch < (last or math.inf):
                yield self.epoch
                if self.stop_signal.number:
                    stop(self)

    def batches(self, split):
        """Yield this epoch's batches: (images uint8, targets, draws), on the device."""
        self.model.train()
        torch.backends.cudnn.benchmark = not self.args.deterministic  # pays off only in training
        if self.device.type == "cuda":  # the memory of scoring does not count
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.step_in_epoch == 0:
            self.seconds.append(0.0)
        started = time.perf_counter() - self.seconds[-1]
        for batch in batches(split, self.batch_size, self.device, self.args.seed, self.epoch, self.step_in_epoch,
                             self.args.workers):
            yield batch
            self.step_in_epoch += 1
            self.bar.update(self.batch_size)
            self.seconds[-1] = time.perf_counter() - started
            self.after_step()
        torch.backends.cudnn.benchmark = False
        self.show_loss()  # waits for the GPU
        self.seconds[-1] = time.perf_counter() - started
        self.peak = peak_memory_mb(self.device)

    def step(self, loss):
        """One step of the optimizer, the schedule and the running average."""
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.loss_sum += loss.detach()
        if self.average:
            self.average.update(self.steps_done)

    def after_step(self):
        """Show the loss, save if it is time, stop after a signal."""
        stopping = self.stop_signal.number
        due = stopping or time.monotonic() - self.saved > 60 * self.args.checkpoint_minutes
        if due or self.step_in_epoch % 20 == 0 or self.device.type == "cpu":  # each look waits for the GPU
            self.show_loss()  # raises Diverged, before a bad state is saved
        if due:
            self.save()
        if stopping:
            stop(self)

    def show_loss(self):
        """Show the epoch's mean loss on the progress bar. Raises Diverged if it is not finite."""
        loss = float(self.loss_sum) / max(self.step_in_epoch, 1)
        if not math.isfinite(loss):
            raise Diverged("the loss is no longer finite: try a lower --lr or --precision fp32")
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def end_epoch(self, scores, best, **found):
        """Close an epoch: write `scores` on val to metrics.csv. The highest `best` so far writes best.pt, with values
        `found` on val, such as a gain. Returns whether to draw predictions of a new best network."""
        loss = float(self.loss_sum) / self.steps_per_epoch
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self.history.append({"epoch": self.epoch, "step": self.steps_done, "lr": self.optimizer.param_groups[0]["lr"],
                             "train_loss": loss} | {f"val_{key}": value for key, value in scores.items()})
        best = -math.inf if math.isnan(best) else best
        if improved := self.best is None or best > self.best["score"]:
            self.best = {"score": best, "epoch": self.epoch}
        if self.finished and self.best["score"] == -math.inf:
            raise Diverged("no score on val was finite: try a lower --lr or --precision fp32")
        with contextlib.suppress(() if self.finished else PermissionError):  # Excel, on Windows; later all rows come
            write_csv(self.folder / "metrics.csv", self.history)
        if improved:
            weights = self.predictor.model.state_dict()
            save_checkpoint(self.folder / "best.pt", self.metadata | found | {"weights": weights})
        self.save()
        return print_epoch(self) and improved

    def save(self):
        """Write last.pt, and keep the old one as previous.pt. Both are renamed only after the new file is complete."""
        last, following = self.folder / "last.pt", self.folder / "next.pt"
        save_checkpoint(following, self.metadata | {key: getattr(self, key) for key in PROGRESS} | {
            "weights": self.model.state_dict(), "average": self.average and self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "loss_sum": self.loss_sum})
        if last.exists():
            os.replace(last, self.folder / "previous.pt")
        os.replace(following, last)
        self.saved = time.monotonic()

    def resume(self, state):
        """Continue from what `save` wrote. The learning rate follows from the number of steps."""
        self.model.load_state_dict(state["weights"])
        if self.average:
            self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state["optimizer"]["state"]})
        if state["scaler"]:  # empty where the run began on a device without fp16
            self.scaler.load_state_dict(state["scaler"])
        vars(self).update({key: state[key] for key in PROGRESS})
        self.loss_sum.copy_(state["loss_sum"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch expects an optimizer step before each schedule step
            for _ in range(min(self.steps_done, self.args.epochs * self.steps_per_epoch)):
                self.schedule.step()

    def finish(self, metrics):
        """Write summary.json, with the metrics on test, and curves.png."""
        args, steady = self.args, self.seconds[1:] or self.seconds  # the first epoch also warms up
        images = self.steps_per_epoch * self.batch_size * len(steady)
        write_json(self.folder / "summary.json", {
            "task": args.task, "model": args.model, "data": args.data, "size": list(args.size), "seed": args.seed,
            "epochs": self.epoch, "best_epoch": self.best["epoch"],
            "parameters": self.parameters, "images_per_second": round(images / sum(steady), 2),
            "gflops_per_image": round(count_gflops(self.metadata["network"], args.size), 3),
            "peak_memory_mb": round(self.peak) if math.isfinite(self.peak) else None,
            "train_seconds": round(sum(self.seconds), 1), "metrics": metrics})
        plot_curves(self.history, self.folder / "curves.png")
        print(f"weights, scores and images: {self.folder}")


def print_epoch(run):
    """Print the last row of metrics.csv, and draw curves.png now and then; returns whether it was drawn."""
    shown = "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in run.history[-1].items()
                      if key.startswith(("train_", "val_")))
    tqdm.write(f"epoch {run.epoch:3d}/{run.args.epochs}  {shown}  {sum(run.seconds):.0f} s", sys.stdout)
    if run.finished and (run.epoch < run.args.epochs or run.epoch >= 4 and run.best["epoch"] <= run.epoch / 2):
        print(f"val has not improved since epoch {run.best['epoch']}: look at curves.png; more images or a lower --lr "
              "may help")
    if time.monotonic() - run.drawn < DRAWING_PAUSE:
        return False
    plot_curves(run.history, run.folder / "curves.png")
    run.drawn = time.monotonic()
    return True


def stop(run):
    run.bar.close()
    print(f"stopped after {run.epoch} epochs and {run.step_in_epoch} steps; the same command with --resume goes on",
          file=sys.stderr)
    sys.exit(128 + run.stop_signal.number)


class StopSignal:
    """A context that notes SIGINT, SIGTERM and SIGHUP while the step goes on. A second Ctrl-C ends the process. An
    ignored signal, such as SIGHUP under nohup, stays ignored. Outside of the main thread no signal is noted."""

    def __init__(self):
        self.number, self.before = None, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.note) for number in STOPPING
                           if signal.getsignal(number) != signal.SIG_IGN}

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def note(self, number, frame):
        if number == self.number == signal.SIGINT:  # a terminal that closes may send SIGHUP twice
            os._exit(128 + number)
        self.number = number
