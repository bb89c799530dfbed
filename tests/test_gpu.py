"""The training loops as on a GPU, where there is none: torch's device "meta" has tensors with a shape and no values.

An operation on tensors of two devices raises, as on a GPU, and so does one that needs a tensor's value, for which the
program would wait until the GPU has nothing else to do.
"""
import argparse
import contextlib
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train_classifier
import train_colorization
import train_segmentation
import training.run
import training.settings
import utils
from data import InputError
from data.cache import Split
from data.sources import DataSet
from models.classifier import ResNet
from models.normalize import memory_format
from training import machine
from training.flags import get_args_parser
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
    images = np.zeros((count, 3, *size), np.uint8)
    images[:, 0] = 99  # task 3 refuses grey ones
    split = Split(images, targets.get(task), [str(i) for i in range(count)])
    splits = {"train": split, "val": split, "test": split}
    data = DataSet("zeros", task, size, ["a", "b", "c"], [(0, 0, 0)] * 3, [0, 1, 2], splits,
                   counts={"train": [count, 0, 0]})
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

    monkeypatch.setattr(training.settings, "open_data", lambda *args, **options: data)
    monkeypatch.setattr(script, f"score_{task}", score)
    monkeypatch.setattr(script, "autocast", lambda device, dtype: contextlib.nullcontext())
    monkeypatch.setattr(Run, "batches", batches)
    monkeypatch.setattr(Run, "show_loss", lambda run: None)  # it waits, every 20 steps
    if resident:
        monkeypatch.setattr(utils, "keep_on_gpu", keep)
    args = get_args_parser(TASKS[script]).parse_args([*words, "--device", "meta", "--precision", "fp32", "--width", "4",
                                                "--batch-size", "4", "--out", str(tmp_path / "run")])
    with copies, pytest.raises(EndOfEpoch):
        script.main(args)
    assert steps == [0, 1, 2] and copies.seen == []


def test_cudnn_searches_in_training_alone(run, kinds, tmp_path, monkeypatch):
    forward, seen = ResNet.forward, set()

    def watched(self, x):
        seen.add((self.training, torch.backends.cudnn.benchmark))
        return forward(self, x)

    monkeypatch.setattr(ResNet, "forward", watched)
    code, _, err = run("train_classifier.py", "--data", kinds, "--data-dir", tmp_path, "--epochs", 1, "--width", 4,
                       "--device", "cpu", "--out", tmp_path / "run")
    assert code == 0 and seen == {(True, True), (False, False)}, err


@pytest.mark.parametrize("name, capability, dtype", [
    ("H100", (9, 0), torch.bfloat16), ("T4", (7, 5), torch.float16), ("GeForce GTX 1660 Ti", (7, 5), torch.float32),
    ("V100", (7, 0), torch.float16), ("P100", (6, 0), torch.float32)])
def test_the_fastest_sound_type(monkeypatch, capsys, name, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert machine.fastest_sound_dtype(torch.device("cuda")) == dtype
    monkeypatch.setattr(machine, "choose_device", lambda name: torch.device("cuda"))
    args = argparse.Namespace(device="cuda", precision="fp16")
    assert machine.setup(args)[1] == (torch.float32 if dtype == torch.float32 else torch.float16)
    assert ("fp16 is not sound" in capsys.readouterr().err) == (dtype == torch.float32)


@pytest.mark.parametrize("message, expected", [
    ("CUDA error: no kernel image is available for execution on the device\nmore", "whl/cu126"),
    ("CUDA error: all CUDA-capable devices are busy or unavailable\nmore", "busy"),
    ("The NVIDIA driver on your system is too old (found version 11040). Please update", "too old (found"),
])
def test_a_gpu_that_cannot_be_used(monkeypatch, capsys, message, expected):
    """auto takes the CPU, with one line; who insists on the GPU is told why and what to do."""
    def fail(*args, device):
        raise RuntimeError(message)

    monkeypatch.setattr(torch, "ones", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    assert machine.choose_device("auto") == torch.device("cpu")
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1
    with pytest.raises(InputError, match=re.escape(expected)):
        machine.choose_device("cuda")


def test_a_driver_without_cuda_in_torch(monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert machine.choose_device("auto") == torch.device("cpu")
    assert "built without CUDA" in capsys.readouterr().err


def test_apples_gpu_only_on_request(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert machine.choose_device("auto").type == "cpu"
    assert memory_format(torch.device("mps")) == torch.contiguous_format
