"""How long training takes until it is as good, on val, as a plain loop becomes in some minutes.

    python tests/benchmarks/time_to_score.py --minutes 10                     # scenes, all three tasks
    python tests/benchmarks/time_to_score.py --data camvid --tasks segmentation -- --size 96 128 --width 32

The plain loop is the homework as most students write it: Adam at 1e-4, batches of 16, float32, no augmentation, files
decoded anew in every epoch by up to 4 loader processes, the last weights. It trains the same network at the same size.
Ours is the training script as it is; what stands after -- is added to its command. The two run one after the other, and
validation counts in neither. The scenes are written as files first.

Prints a row a task: the plain loop's score, the seconds until ours had passed it, and how many times sooner that is;
then ours at the end of its recipe, with its seconds.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.cache import usable_cores  # noqa: E402
from data.masks import VOID  # noqa: E402
from data.scenes import write_scenes  # noqa: E402
from data.sources import find_source, open_data  # noqa: E402
from evaluation.classification import score_classification  # noqa: E402
from evaluation.colorization import lightness_and_ab, score_colorization  # noqa: E402
from evaluation.segmentation import score_segmentation  # noqa: E402
from models import build_network  # noqa: E402
from training.checkpoint import Predictor, load_checkpoint  # noqa: E402

# The task's script, the score on val in metrics.csv, and whether it is better when it is higher.
TASKS = {"segmentation": ("train_segmentation.py", "miou", True),
         "classification": ("train_classifier.py", "accuracy", True),
         "colorization": ("train_colorization.py", "delta_e", False)}


class Files(Dataset):
    """A task's training files, decoded at every visit."""

    def __init__(self, samples, size, table):
        self.samples, self.shape, self.table = samples, size[::-1], table

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        image = Image.open(self.samples.images[i]).convert("RGB").resize(self.shape, Image.Resampling.BILINEAR)
        target = self.samples.targets[i] if self.samples.targets else 0
        if isinstance(target, str):
            mask = Image.open(target).resize(self.shape, Image.Resampling.NEAREST)
            target = self.table[np.array(mask)]
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255, torch.as_tensor(target).long()


def plain_loss(task, network, images, targets):
    if task == "colorization":
        lightness, ab = lightness_and_ab(images)
        return F.mse_loss(network(lightness), ab)
    return F.cross_entropy(network(images), targets, ignore_index=VOID)


def train_plain(task, source, metadata, seconds):
    """Train the network that `metadata` describes for so many seconds; returns the network."""
    table = np.full(256, VOID, np.uint8)
    table[metadata["ids"]] = range(len(metadata["ids"]))
    files = Files(source.splits["train"], source.size, table)
    loader = DataLoader(files, 16, shuffle=True, drop_last=True, num_workers=min(4, usable_cores()))
    torch.manual_seed(0)
    network = build_network(metadata["network"])
    optimizer, started = torch.optim.Adam(network.parameters(), 1e-4), time.perf_counter()
    while True:
        for images, targets in loader:
            optimizer.zero_grad()
            plain_loss(task, network, images, targets).backward()
            optimizer.step()
            if time.perf_counter() - started > seconds:
                return network


def score_on_val(task, network, metadata, val):
    predictor = Predictor(network, metadata, torch.device("cpu"), torch.float32)
    if task == "segmentation":
        return score_segmentation(predictor, val, outlines=False)["miou"]
    if task == "classification":
        return score_classification(predictor, val)["accuracy"]
    return score_colorization(predictor, val)["delta_e"]


def train_ours(task, data, more, out):
    """Run the training script; returns [(seconds of training, score on val)], a pair an epoch."""
    script, key, _ = TASKS[task]
    command = [sys.executable, ROOT / script, "--data", data, "--data-dir", out / "data", "--out", out / task, *more]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    pattern = rf"^epoch .* val {key.replace('_', ' ')} (\S+) .* (\d+) s$"
    return [(int(seconds), float(score)) for score, seconds in re.findall(pattern, done.stdout, re.MULTILINE)]


def compare(task, data, minutes, more, out):
    """The row of one task."""
    epochs = train_ours(task, data, more, out)
    metadata = load_checkpoint(out / task / "best.pt") | {"gain": 1.0, "mirror": False, "target": "lab", "levels": None}
    size = tuple(metadata["size"])
    source = find_source(data, task, size, str(out / "data"), metadata["seed"])
    network = train_plain(task, source, metadata, 60 * minutes)
    val = open_data(data, task, size, out / "data", metadata["seed"], splits=("val",)).splits["val"]
    plain = score_on_val(task, network, metadata, val)
    sign = 1 if TASKS[task][2] else -1
    passed = next((seconds for seconds, score in epochs if sign * score >= sign * plain), None)
    best = max(epochs, key=lambda epoch: sign * epoch[1])
    return {"task": task, "score": TASKS[task][1], "plain": round(plain, 4), "after (s)": round(60 * minutes),
            "ours passes it after (s)": passed, "times sooner": passed and round(60 * minutes / max(passed, 1), 1),
            "ours": best[1], "training (s)": epochs[-1][0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scenes", help="scenes, or a folder")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--minutes", type=float, default=10, help="of the plain loop")
    parser.add_argument("more", nargs="*", help="after --: arguments of our training scripts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks:
            data, out = args.data, Path(folder, task)
            if data == "scenes":  # a folder of this name takes the recipe of the scenes
                data = out / "scenes"
                write_scenes(data, task)
            print(json.dumps(compare(task, str(data), args.minutes, args.more, out)), flush=True)


if __name__ == "__main__":
    main()
