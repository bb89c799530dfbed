"""Two processes under torchrun do what one does."""
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from data.sources import open_data
from evaluation.colorization import score_colorization
from evaluation.segmentation import score_segmentation
from models import build_network
from training.checkpoint import load_predictor

SETTINGS = ("--width", 4, "--workers", 0, "--device", "cpu", "--precision", "fp32", "--epochs", 2)
GRADIENTS = """
import os, sys, torch
import torch.nn.functional as F
from models import build_network
from training.processes import join_processes, parallelize
from utils import process_rank, world_size
images, labels = torch.load(sys.argv[1], weights_only=True)
join_processes(torch.device("cpu"))
torch.manual_seed(0)
model = build_network({"name": "resnet18", "classes": 2, "width": 4, "small_stem": True}).double()
rank, processes = process_rank(), world_size()
shared = parallelize(model, torch.device("cpu"))
F.cross_entropy(shared(images[rank::processes]), labels[rank::processes]).backward()
if rank == 0:
    torch.save(dict(model.named_buffers()) | {name: p.grad for name, p in model.named_parameters()}, sys.argv[2])
os._exit(0)  # gloo's threads, which an ordinary exit now and then trips over, live as long as `shared`
"""


def torchrun(folder, script, *words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script,
               *words]
    return subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def test_gradients_are_those_of_the_whole_batch(tmp_path):
    """In float64, where a ReLU does not switch for rounding: gradients, and batch norm's running statistics."""
    torch.manual_seed(1)
    images, labels = torch.rand(8, 3, 32, 32).double(), torch.arange(8) % 2
    torch.save((images, labels), tmp_path / "batch.pt")
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    done = torchrun(tmp_path, "gradients.py", "batch.pt", "shared.pt")
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    model = build_network({"name": "resnet18", "classes": 2, "width": 4, "small_stem": True}).double()
    F.cross_entropy(model(images), labels).backward()
    shared = torch.load(tmp_path / "shared.pt", weights_only=True)
    for name, expected in [*model.named_buffers(), *((name, p.grad) for name, p in model.named_parameters())]:
        torch.testing.assert_close(shared[name], expected, rtol=1e-6, atol=1e-9, msg=name)


def test_nothing_is_counted_twice(street, tmp_path):
    """Three processes share out 4 images unevenly: their metrics are those of one with the same weights."""
    caches, cpu = tmp_path / "caches", torch.device("cpu")
    for script, task in (("train_segmentation.py", "segmentation"), ("train_colorization.py", "colorization")):
        batch = ("--batch-size", 6, "--data", street, "--data-dir", caches, "--out", task)
        done = torchrun(tmp_path, ROOT / script, *SETTINGS, *batch, processes=3)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch   2/2") == 1  # one process speaks
        assert "Warning" not in done.stderr
        metrics = json.loads((tmp_path / task / "summary.json").read_text())["metrics"]
        predictor = load_predictor(tmp_path / task, cpu, torch.float32)
        data = open_data(str(street), task, (32, 40), str(caches), 0)
        score = score_segmentation if task == "segmentation" else score_colorization
        scores = score(predictor, data.splits["test"])
        for key, value in scores.items():
            pairs = ((metrics[key][name], value[name]) for name in value) if isinstance(value, dict) else [
                (metrics[key], value)]
            assert all(score == (found and pytest.approx(found, rel=1e-6, abs=1e-6)) for score, found in pairs), key


def test_one_message_and_no_orphans(street, tmp_path):
    """What stops one process stops all, and is said once."""
    done = torchrun(tmp_path, ROOT / "train_segmentation.py", *SETTINGS, "--batch-size", 5, "--data", street,
                    "--data-dir", tmp_path)
    assert done.returncode != 0 and done.stderr.count("does not divide evenly among 2 processes") == 1
    assert not (tmp_path / "runs").exists()
