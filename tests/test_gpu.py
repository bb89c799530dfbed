"""The training loops as on a GPU, where there is none: torch's device "meta" has tensors with a shape and no values.

An operation on tensors of two devices raises, as on a GPU, and so does one that needs a tensor's value, for which the
program would wait until the GPU has nothing else to do.
"""
import contextlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train_classifier
import train_colorization
import train_segmentation
import utils
from data.cache import Split
from data.sources import DataSet
from training.run import Run

TASKS = {train_segmentation: "segmentation", train_classifier: "classification", train_colorization: "colorization"}


class EndOfEpoch(Exception):
    pass


class BlockingCopies(TorchDispatchMode):
    """Notes each copy from one device to another that is not marked as non-blocking, while `watching`."""

    watching = False

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if operation is torch.ops.aten._to_copy.default else args[1]
            non_blocking = (kwargs or {}).get("non_blocking") or args[2:3] == (True,)
            if self.watching and source.device != result.device and not non_blocking:
                self.seen.append(f"{source.device} to {result.device}: {tuple(source.shape)}")
        return result


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("script, words", [
    (train_segmentation, ["--model", "unet"]),
    (train_segmentation, ["--model", "fcn32"]),
    (train_classifier, ["--model", "resnet18"]),
    (train_colorization, ["--target", "lab"]),
    (train_colorization, ["--target", "rgb", "--no-skips"]),
])
def test_steps_never_wait_for_the_gpu(script, words, resident, monkeypatch, tmp_path):
    task, size, count = TASKS[script], (32, 48), 12
    targets = {"segmentation": np.zeros((count, *size), np.uint8), "classification": np.zeros(count, np.int64)}
    split = Split(np.zeros((count, 3, *size), np.uint8), targets.get(task), [str(i) for i in range(count)])
    splits = {"train": split, "val": split, "test": split}
    data = DataSet("zeros", task, size, ["a", "b", "c"], [(0, 0, 0)] * 3, [0, 1, 2], splits)
    copies, load = BlockingCopies(), Run.batches
    steps = []

    def keep(split, device):
        return [a if a is None else torch.from_numpy(a).to(device) for a in (split.images, split.targets)]

    def batches(run, split):
        for batch in load(run, split):
            yield batch
            steps.append(run.step_in_epoch)
            copies.watching = True  # from the first step on: data and constants have arrived

    def score(*args, **kwargs):
        raise EndOfEpoch

    monkeypatch.setattr(script, "open_data", lambda *args, **options: data)
    monkeypatch.setattr(script, f"score_{task}", score)
    monkeypatch.setattr(script, "autocast", lambda device, dtype: contextlib.nullcontext())
    monkeypatch.setattr(Run, "batches", batches)
    monkeypatch.setattr(Run, "show_loss", lambda run: None)  # it waits, every 20 steps
    if resident:
        monkeypatch.setattr(utils, "keep_on_gpu", keep)
    args = script.get_args_parser().parse_args([*words, "--device", "meta", "--precision", "fp32", "--width", "4",
                                                "--batch-size", "4", "--out", str(tmp_path / "run")])
    with copies, pytest.raises(EndOfEpoch):
        script.main(args)
    assert steps == [0, 1, 2] and copies.seen == []
