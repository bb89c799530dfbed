"""Several processes under torchrun share out the work, and go the same way."""
import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import ROOT

from data.sources import open_data
from evaluation.colorization import score_colorization
from evaluation.segmentation import score_segmentation
from training.checkpoint import load_predictor
from utils import read_csv

SETTINGS = ("--width", 4, "--workers", 0, "--device", "cpu", "--precision", "fp32", "--epochs", 2)
GRADIENTS = """
import os, torch
import torch.nn.functional as F
from training.machine import join_processes, parallelize
from utils import process_rank, world_size
images, labels, model = torch.load("batch.pt", weights_only=False)
join_processes(torch.device("cpu"))
rank, processes = process_rank(), world_size()
shared = parallelize(model, torch.device("cpu"))
F.cross_entropy(shared(images[rank::processes]), labels[rank::processes]).backward()
torch.save([p.grad for p in model.parameters()], f"shared{rank}.pt")
os._exit(0)  # gloo's threads, which an ordinary exit now and then trips over, live as long as `shared`
"""


def torchrun(folder, script, *words, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script,
               *words]
    return subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})


def test_gradients_are_those_of_the_whole_batch(tmp_path):
    """In float64 and without batch norm, in both processes."""
    torch.manual_seed(1)
    images, labels = torch.rand(8, 3, 32, 32).double(), torch.arange(8) % 2
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 30 * 30, 2)).double()
    torch.save((images, labels, model), tmp_path / "batch.pt")
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    done = torchrun(tmp_path, "gradients.py")
    assert done.returncode == 0, done.stderr
    F.cross_entropy(model(images), labels).backward()
    for rank in range(2):
        shared = torch.load(tmp_path / f"shared{rank}.pt", weights_only=True)
        torch.testing.assert_close(shared, [p.grad for p in model.parameters()], rtol=1e-6, atol=1e-9)


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
        if task == "segmentation":
            best = max(float(row["val_miou"]) for row in read_csv(tmp_path / task / "metrics.csv"))
            assert score(predictor, data.splits["val"])["miou"] == pytest.approx(best, abs=1e-6)
        scores = score(predictor, data.splits["test"])
        assert len(scores.pop("images")) == 4
        for key, value in scores.items():
            pairs = ((metrics[key][name], value[name]) for name in value) if isinstance(value, dict) else [
                (metrics[key], value)]
            assert all(score == (found and pytest.approx(found, rel=1e-6, abs=1e-6)) for score, found in pairs), key


def test_no_orphans(street, tmp_path):
    """What stops one process stops all, and is said."""
    done = torchrun(tmp_path, ROOT / "train_segmentation.py", *SETTINGS, "--batch-size", 5, "--data", street,
                    "--data-dir", tmp_path)
    assert done.returncode != 0 and "does not divide evenly among 2 processes" in done.stderr
    assert not (tmp_path / "runs").exists()
