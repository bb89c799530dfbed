"""Memory and time where there are very many images: neither may grow with their number faster than it must.

    python tests/benchmarks/large.py                     (Linux; hours where a page fault is slow, as in some sandboxes)
    python tests/benchmarks/large.py --parts million --count 1000000 --size 96 128

Three parts, each a process of its own, with a U-Net of width 4:
  epochs    an epoch at 1,000, 10,000 and 100,000 images: loading alone, and training (loading, augmentation, network,
            optimizer) on each image; seconds, and microseconds an image, which should be the same
  million   one epoch of Run over 1,000,000 images. Every one is loaded, in the epoch's random order; --steps
            steps, spread evenly, are augmented and trained on, because training on all would take hours. Memory is
            sampled all the way
  predict   evaluate.py predict on 10,000 pictures, which are links to a few: its memory after a tenth and at the end

The images are a cache as data/cache.py maps it, but sparse: files of their full length that take no disk (and so on
no tmpfs, where pages that are read take memory for good). All pixels are 0, as are the masks.

Memory in MB: RSS is what the process has in memory, of which anonymous is its own and file pages of mapped files, which
the system can take back at any time.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import train_segmentation  # noqa: E402
from data.augment import augment  # noqa: E402
from data.cache import Split  # noqa: E402
from data.sources import DataSet  # noqa: E402
from models import build_network  # noqa: E402
from training.checkpoint import autocast, save_checkpoint  # noqa: E402
from training.machine import setup  # noqa: E402
from training.optimization import class_weights  # noqa: E402
from training.run import Run  # noqa: E402
from training.flags import get_args_parser  # noqa: E402
from training.settings import fill_in  # noqa: E402
from utils import batches  # noqa: E402

CLASSES = ["sky", "road", "car"]
COLORS = [(128, 128, 128), (128, 64, 128), (64, 0, 128)]
WIDTH = 4


def memory(process="self"):
    """A process's memory in MB: RSS, its peak, and its anonymous and file-backed parts; {} once it has ended."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        return {name: int(lines[key].split()[0]) * 1024 / 1e6 for name, key in
                (("RSS", "VmRSS"), ("peak RSS", "VmHWM"), ("anonymous", "RssAnon"), ("file", "RssFile"))}
    except (OSError, KeyError, ProcessLookupError):
        return {}


def show(used):
    return ", ".join(f"{name} {value:.0f}" for name, value in used.items()) + " MB"


def sparse_array(path, shape):
    """A .npy of zeros that takes no disk, memory-mapped for reading as the cache is."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + int(np.prod(shape)))
    return np.load(path, mmap_mode="r")


def sparse_data(folder, count, size):
    """A data set whose train split has `count` images."""
    train = Split(sparse_array(Path(folder, "train.images.npy"), (count, 3, *size)),
                  sparse_array(Path(folder, "train.targets.npy"), (count, *size)), [f"{i:07d}" for i in range(count)])
    taken = sum(path.stat().st_blocks * 512 for path in Path(folder).glob("*.npy"))
    mapped = train.images.nbytes + train.targets.nbytes
    print(f"{count:,} images at {size[0]}x{size[1]}: {mapped / 1e9:.1f} GB mapped, {taken / 1e6:.1f} MB of disk")
    return DataSet("sparse", "segmentation", tuple(size), CLASSES, COLORS, list(range(len(CLASSES))), {"train": train})


def first(data, count):
    """The data set with only the first images of its train split."""
    train = data.splits["train"]
    train = Split(train.images[:count], train.targets[:count], train.names[:count])
    return DataSet(data.name, data.task, data.size, data.classes, data.colors, data.ids, {"train": train})


def prepare(options, data, out):
    """A run and the step of its loop, as in train_segmentation.py."""
    words = ["--model", "unet", "--width", str(WIDTH), "--data", "sparse", "--epochs", "1", "--device", options.device,
             "--out", out]
    args = get_args_parser("segmentation").parse_args(words)
    device, dtype = setup(args)
    args = fill_in(args, data, train_segmentation.RECIPES, train_segmentation.BEST_ON, device)
    weights = class_weights(np.ones(len(CLASSES)), args.balance).to(device)  # all pixels are 0
    network = {"name": "unet", "in_channels": 3, "out_channels": len(CLASSES), "width": WIDTH}
    torch.manual_seed(args.seed)
    model = build_network(network)
    run = Run(args, device, dtype, network, data, model)

    def step(images, masks, draws):
        images, masks = augment(images, masks, draws, args.size, **args.augment)
        with autocast(device, dtype):
            logits = run.model(images)
        run.step(train_segmentation.segmentation_loss(logits, masks, weights, args.dice))

    return run, step


def train(run, step, split, every=1, look=lambda seen: None):
    """Seconds of one epoch; each `every`-th batch is trained on, and `look` is called after each batch."""
    seen, started = 0, time.perf_counter()
    for _ in run.epochs():
        for number, batch in enumerate(run.batches(split)):
            if number % every == 0:
                step(*batch)
            seen += len(batch[0])
            look(seen)
        break
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    run.bar.close()
    return time.perf_counter() - started


def epochs(options):
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = sparse_data(folder, max(options.counts), options.size)
        train(*prepare(options, first(data, 64), f"{folder}/warm"), first(data, 64).splits["train"])
        base = None
        for count in options.counts:
            part = first(data, count)
            run, step = prepare(options, part, f"{folder}/{count}")
            started = time.perf_counter()
            for _ in batches(part.splits["train"], run.batch_size, run.device, epoch=0, workers=run.args.workers):
                pass
            loading = time.perf_counter() - started
            training = train(run, step, part.splits["train"])
            each = training / (run.steps_per_epoch * run.batch_size)  # the last batch is dropped if it is not full
            base = base or each
            print(f"epoch of {count:>9,} images: loading {loading:.2f} s ({loading / count * 1e6:.0f} us an image), "
                  f"training {training:.1f} s ({each * 1e6:.0f} us an image, {each / base:.2f} times the first's); "
                  f"{show(memory())}", flush=True)


def million(options):
    print(f"before: {show(memory())}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = sparse_data(folder, options.count, options.size)
        split = data.splits["train"]
        run, step = prepare(options, data, f"{folder}/run")
        every = max(run.steps_per_epoch // options.steps, 1)
        print(f"one epoch: {run.steps_per_epoch} batches of {run.batch_size} are loaded, of which every "
              f"{every}{'st' if every == 1 else 'th'} is augmented and trained on", flush=True)
        most, next_look, next_line = {}, 0, 0
        started = time.perf_counter()

        def look(seen):
            nonlocal next_look, next_line
            if seen >= next_look:  # a thousand times an epoch
                now = memory()
                most.update({name: max(value, most.get(name, 0)) for name, value in now.items()})
                next_look += options.count / 1000
                if seen >= next_line:
                    print(f"{seen:>9,} images, {time.perf_counter() - started:.0f} s: {show(now)}", flush=True)
                    next_line += options.count / 10

        seconds = train(run, step, split, every, look)
        print(f"{run.steps_per_epoch * run.batch_size:,} images loaded, {-(-run.steps_per_epoch // every)} steps "
              f"trained in {seconds:.0f} s; at most: {show(most)}")


def predict(options):
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run, pictures, out = (Path(folder, name) for name in ("run", "pictures", "out"))
        run.mkdir(), pictures.mkdir()
        network = {"name": "unet", "in_channels": 3, "out_channels": len(CLASSES), "width": WIDTH}
        save_checkpoint(run / "best.pt", {
            "task": "segmentation", "network": network, "weights": build_network(network).state_dict(),
            "data": "sparse", "seed": 0, "size": list(options.size), "classes": CLASSES,
            "colors": [list(color) for color in COLORS], "ids": list(range(len(CLASSES)))})
        rng, shapes = np.random.default_rng(0), ((96, 128), (120, 160), (128, 96), (150, 200))
        for number, shape in enumerate(shapes):
            Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(run / f"{number}.jpg")
        paths = [str(pictures / f"{i:05d}.jpg") for i in range(options.predict)]
        for i, path in enumerate(paths):
            os.link(run / f"{i % len(shapes)}.jpg", path)
        started, tenth, now, done = time.perf_counter(), None, {}, 0
        command = [sys.executable, str(ROOT / "evaluate.py"), "predict", str(run), *paths, "--out", str(out),
                   "--device", options.device]
        with subprocess.Popen(command) as process:
            while process.poll() is None:
                now = memory(process.pid) or now
                done = len(os.listdir(out)) // 2 if out.exists() else 0  # a mask and an overlay each
                if tenth is None and done >= options.predict // 10:
                    tenth = now
                    print(f"{done:,} pictures predicted, {time.perf_counter() - started:.0f} s: {show(now)}",
                          flush=True)
                time.sleep(0.5)
        seconds = time.perf_counter() - started
        written = len(list(out.glob("*.png")))
        print(f"{written:,} pictures predicted, {seconds:.0f} s ({written / seconds:.0f} a second), exit code "
              f"{process.returncode}: {show(now)}")
        if tenth and now:
            print(f"the peak grew by {now['peak RSS'] - tenth['peak RSS']:.0f} MB over the last nine tenths")


PARTS = {"epochs": epochs, "million": million, "predict": predict}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--size", type=int, nargs=2, default=[96, 128], metavar=("H", "W"))
    add("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000], help="images an epoch in `epochs`")
    add("--count", type=int, default=1_000_000, help="images in `million`")
    add("--steps", type=int, default=500, help="training steps in `million`")
    add("--predict", type=int, default=10_000, help="pictures in `predict`")
    add("--device", default="cpu")
    add("--folder", help="where the sparse files go for the time being (default: the system's temporary folder)")
    options = parser.parse_args()
    if len(options.parts) == 1:
        return PARTS[options.parts[0]](options)
    for part in options.parts:  # a process each: memory that one has used is not the next one's
        print(f"{part}:", flush=True)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--parts", part], check=True)


if __name__ == "__main__":
    main()
