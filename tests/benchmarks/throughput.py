"""How fast training, scoring and predicting are, beside plain PyTorch and beside a large matrix product.

    python tests/benchmarks/throughput.py --data data/camvid --size 96 128
    python tests/benchmarks/throughput.py --data data/camvid --size 360 480 --networks unet-64 fcn32 --bare

Any data set of files with masks of ids will do. Each measurement is a process of its own, in turns: matrix product,
ours, plain, and again, `--rounds` times; medians count. Ours is the training script's loop (its recipe, its Run) with
every epoch at full size. Plain is fp32 (TF32 in convolutions where a GPU has it), NCHW, Adam, pictures decoded by 4
loader processes and augmented there one by one (--bare: not at all). Both train the same network with the same batch
size, and whole epochs are timed from the first picture read to the last step, validation and checkpoints left out. The
classifier's labels are made up.

Prints a table and writes it with every round to --out:
  images/s       training (or scoring, predicting), and the ratio of ours to plain
  peak MB        of the process, imports included, its loader processes not; on CUDA of the device
  GFLOP/s        end to end; a training step counts as three forward passes
  of matmul      that, as a share of a large square matrix product's rate in the same type
  loop's own     share of an epoch that is not forward, loss, backward or optimizer step. CPU: timed within the epoch;
                 CUDA: what an epoch takes longer than as many steps on one batch that is there already
  GPU busy       CUDA: the kernels' time, from a profiled epoch, as a share of an unprofiled epoch
`score` is evaluate.py's on val (with boundary F1, which plain does not compute; `score-miou`: without), `predict` its
command on 200 files; plain takes one picture at a time in fp32.
"""
import argparse
import dataclasses
import json
import statistics
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
from torchvision import tv_tensors
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train_classifier  # noqa: E402
import train_segmentation  # noqa: E402
from data.augment import augment  # noqa: E402
from data.masks import VOID  # noqa: E402
from data.sources import find_source, open_data  # noqa: E402
from evaluation.runs import predict  # noqa: E402
from evaluation.segmentation import score_segmentation  # noqa: E402
from models import build_network, count_gflops  # noqa: E402
from training.checkpoint import autocast, load_predictor, save_checkpoint  # noqa: E402
from training.machine import setup  # noqa: E402
from training.optimization import class_weights  # noqa: E402
from training.run import Run, describe_machine, peak_memory_mb  # noqa: E402
from training.flags import get_args_parser  # noqa: E402
from training.settings import fill_in  # noqa: E402
from utils import batches, write_atomically  # noqa: E402

KINDS = 6  # of made-up labels
INFERENCE = ("score", "score-miou", "predict")
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---------------------------------------------------------------------------------------------------------------------
# What both sides share


def prepare(options, name, folder):
    """The settings, data and network that the training script has for "unet-32", "fcn32" or "resnet18"."""
    model, _, width = name.partition("-")
    script = train_classifier if model.startswith("resnet") else train_segmentation
    words = ["--model", model, "--data", options.data, "--data-dir", options.data_dir, "--device", options.device,
             "--precision", options.precision, "--out", folder]
    words += ["--width", width] if width else []
    words += ["--batch-size", str(options.batch_size)] if options.batch_size else []
    args = get_args_parser("classification" if script is train_classifier else "segmentation").parse_args(words)
    data = open_data(options.data, "segmentation", options.size, options.data_dir, args.seed)
    splits = {split: dataclasses.replace(each, images=each.images[:options.images], names=each.names[:options.images],
                                         targets=each.targets[:options.images]) for split, each in data.splits.items()}
    if script is train_classifier:
        splits = {split: dataclasses.replace(each, targets=np.arange(len(each)) % KINDS)
                  for split, each in splits.items()}
        data = dataclasses.replace(data, task="classification", classes=[str(kind) for kind in range(KINDS)], colors=[])
    data = dataclasses.replace(data, splits=splits)
    args = fill_in(args, data, script.RECIPES, script.BEST_ON, setup(options)[0])
    classes = len(data.classes)
    network = {"unet": {"name": "unet", "in_channels": 3, "out_channels": classes, "width": args.width},
               "fcn32": {"name": "fcn32", "classes": classes, "width": args.width}}.get(
        model, {"name": model, "classes": classes, "width": args.width, "small_stem": min(data.size) < 64})
    torch.manual_seed(args.seed)
    return args, data, network, build_network(network)


def find_files(options, split):
    """The (picture, mask) files of a split and the table (256,) from a mask's ids to classes."""
    source = find_source(options.data, "segmentation", options.size, options.data_dir, 0)
    samples, table = source.splits[split], np.full(256, VOID, np.uint8)
    ids = list(source.masks.names) if source.masks else range(VOID)
    table[ids] = range(len(ids))
    return list(zip(samples.images, samples.targets))[:options.images], table


def matrix_product(dtype, device, side):
    """GFLOP/s of a product of two square matrices: the median of five."""
    torch.set_float32_matmul_precision("highest")
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    repeats, rates = 20 if device.type == "cuda" else 1, []
    for _ in range(6):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize(device)
        rates.append(2 * side**3 * repeats / (time.perf_counter() - started) / 1e9)
    return statistics.median(rates[1:])  # the first warms up


# ---------------------------------------------------------------------------------------------------------------------
# Training


def train_ours(options, name):
    device, dtype = setup(options)
    with tempfile.TemporaryDirectory() as folder:
        args, data, network, model = prepare(options, name, folder)
        split = data.splits["train"]
        run = Run(args, device, dtype, network, data, model)
        if data.task == "segmentation":
            weights = class_weights(np.add(data.counts["train"], 1.0), args.balance).to(device)

        def compute_loss(images, targets):
            with autocast(device, dtype):
                logits = run.model(images)
            if data.task == "segmentation":
                return train_segmentation.segmentation_loss(logits, targets, weights, args.dice)
            return F.cross_entropy(logits.float(), targets, label_smoothing=args.smoothing)

        def change(images, targets, draws):
            images, masks = augment(images, targets if targets.ndim == 3 else None, draws, data.size, **args.augment)
            return images, targets if masks is None else masks

        def steps_on_one_batch(count):
            """Seconds of `count` times forward, loss, backward and optimizer step, and of nothing else."""
            synchronize(device)
            started = time.perf_counter()
            for _ in range(count):
                loss = compute_loss(*ready)
                run.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                run.optimizer.step()
            synchronize(device)
            return time.perf_counter() - started

        def one_epoch():
            """Seconds of an epoch, and what of them the host spent in forward, loss and run.step."""
            stepping, started = 0.0, time.perf_counter()
            for images, targets, draws in run.batches(split):
                images, targets = change(images, targets, draws)
                begun = time.perf_counter()
                run.step(compute_loss(images, targets))
                stepping += time.perf_counter() - begun
            synchronize(device)
            return time.perf_counter() - started, stepping

        averaging = 0.0  # the running average is the loop's own, and a part of run.step
        update = run.average.update if run.average else None

        def timed_update(*args):
            nonlocal averaging
            begun = time.perf_counter()
            update(*args)
            averaging += time.perf_counter() - begun

        if run.average:
            run.average.update = timed_update

        run.model.train()
        ready = change(*next(batches(split, run.batch_size, device, epoch=0)))
        steps_on_one_batch(10 if device.type == "cuda" else 2)  # warms up
        seconds, inside, saving, epochs, busy = 0.0, 0.0, 0.0, 0, None
        for _ in run.epochs():
            if epochs and (seconds >= options.seconds or run.epoch == args.epochs - 1):  # one more, to look at the GPU
                if device.type == "cuda":
                    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                        one_epoch()
                    kernels = sum(event.time_range.elapsed_us() for event in profile.events()
                                  if event.device_type == torch.autograd.DeviceType.CUDA
                                  and not getattr(event, "is_user_annotation", False))
                    busy = kernels / 1e6 / (seconds / epochs)
                break
            spent, stepping = one_epoch()
            seconds, inside, epochs = seconds + spent, inside + stepping, epochs + 1
            started = time.perf_counter()
            run.end_epoch({}, best=float(run.epoch))
            saving += time.perf_counter() - started
        run.bar.close()
        inside -= averaging
        peak = peak_memory_mb(device)
        if device.type == "cuda":
            inside = steps_on_one_batch(run.steps_per_epoch * epochs)
        rate = epochs * run.steps_per_epoch * run.batch_size / seconds
        gflops = count_gflops(network, data.size)
        return {"images_per_second": rate, "gflops_per_image": gflops, "gflop_per_second": 3 * gflops * rate,
                "own_share": 1 - inside / seconds, "gpu_busy": busy, "epoch_seconds": seconds / epochs,
                "checkpoint_seconds": saving / epochs, "peak_mb": peak, "dtype": str(dtype).removeprefix("torch."),
                "batch_size": run.batch_size, "epochs": epochs}


class Pictures(Dataset):
    """What a plain loop reads: each picture decoded, resized and changed when it is asked for."""

    def __init__(self, files, table, size, changes, labelled):
        self.files, self.table, self.size, self.labelled = files, table, size, labelled
        steps = []
        if changes:
            reach = changes.get("color", 0)
            fill = {tv_tensors.Mask: VOID, "others": 0}
            steps = [v2.RandomHorizontalFlip(changes.get("flip", 0)),
                     v2.RandomAffine(changes.get("rotate", 0), scale=changes.get("scale"), fill=fill,
                                     interpolation=v2.InterpolationMode.BILINEAR),
                     v2.ColorJitter(reach, reach, reach)]
        self.transform = v2.Compose([*steps, v2.ToImage(), v2.ToDtype({tv_tensors.Image: torch.float32, "others": None},
                                     scale=True), v2.Normalize(MEAN, DEVIATION)])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        shape = self.size[::-1]
        image = Image.open(self.files[i][0]).convert("RGB").resize(shape, Image.Resampling.BILINEAR)
        if self.labelled:
            return self.transform(image), i % KINDS
        mask = self.table[np.array(Image.open(self.files[i][1]).resize(shape, Image.Resampling.NEAREST))]
        image, mask = self.transform(image, tv_tensors.Mask(torch.from_numpy(mask)))
        return image, mask.long()


def train_plain(options, name):
    device = torch.device(options.device)
    args, data, network, model = prepare(options, name, "unused")
    files, table = find_files(options, "train")
    pictures = Pictures(files, table, data.size, {} if options.bare else args.augment, data.task == "classification")
    loader = DataLoader(pictures, min(args.batch_size, len(pictures)), shuffle=True, drop_last=True,
                        num_workers=options.workers)
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)

    def train(batches):
        seen = 0
        for images, targets in batches:
            loss = F.cross_entropy(model(images.to(device)), targets.to(device), ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(images)
        synchronize(device)
        return seen

    ready = torch.utils.data.default_collate([pictures[i] for i in range(loader.batch_size)])
    train([ready] * (10 if device.type == "cuda" else 2))  # warms up
    seen, epochs, started = 0, 0, time.perf_counter()
    while epochs == 0 or time.perf_counter() - started < options.seconds:
        seen, epochs = seen + train(loader), epochs + 1
    rate = seen / (time.perf_counter() - started)
    gflops = count_gflops(network, data.size)
    return {"images_per_second": rate, "gflop_per_second": 3 * gflops * rate, "dtype": "float32", "epochs": epochs,
            "peak_mb": peak_memory_mb(device), "batch_size": loader.batch_size}


# ---------------------------------------------------------------------------------------------------------------------
# Scoring and predicting


def inference(options, name, ours):
    """Images/s of evaluate.py's scoring or predicting, or of a plain loop that does the same."""
    device = torch.device(options.device)
    _, data, network, model = prepare(options, "unet-64" if device.type == "cuda" else "unet-32", "unused")
    val, classes = data.splits["val"], len(data.classes)
    files, table = find_files(options, "train" if name == "predict" else "val")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder, "best.pt"), {
            "task": "segmentation", "network": network, "weights": model.state_dict(), "data": options.data, "seed": 0,
            "size": list(data.size), "classes": data.classes, "colors": [list(color) for color in data.colors],
            "ids": data.ids})
        settings = argparse.Namespace(run=folder, out=str(Path(folder, "out")), device=options.device,
                                      precision=options.precision, probabilities=False)
        if not ours:  # which loads the checkpoint
            model.to(device).eval()

        def read(path):
            image = Image.open(path).convert("RGB")
            small = np.array(image.resize(data.size[::-1], Image.Resampling.BILINEAR))
            x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
            return image, ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]).to(device)

        @torch.no_grad()
        def score_plain(count):
            counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
            for picture, path in files[:count]:
                prediction = model(read(picture)[1]).argmax(1)[0]
                mask = Image.open(path).resize(data.size[::-1], Image.Resampling.NEAREST)
                truth = torch.from_numpy(table[np.array(mask)]).long().to(device)
                scored = truth != VOID
                pairs = truth[scored] * classes + prediction[scored]
                counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
            hits = counts.diag()
            return float((hits / (counts.sum(0) + counts.sum(1) - hits)).nanmean())

        @torch.no_grad()
        def predict_plain(count):
            palette = np.zeros((256, 3), np.uint8)
            palette[:classes] = data.colors
            Path(settings.out).mkdir(exist_ok=True)
            for picture, _ in files[:count]:
                image, x = read(picture)
                scores = F.interpolate(model(x), image.size[::-1], mode="bilinear")
                mask = scores.argmax(1)[0].byte().cpu().numpy()
                ids = Image.fromarray(mask)
                ids.putpalette(palette.tobytes())
                ids.save(Path(settings.out, f"{Path(picture).stem}.png"))
                overlay = Image.blend(image, Image.fromarray(palette[mask]), 0.5)
                overlay.save(Path(settings.out, f"{Path(picture).stem}_overlay.jpg"), quality=90)

        def score_ours(count):
            part = dataclasses.replace(val, images=val.images[:count], targets=val.targets[:count],
                                       names=val.names[:count])
            return score_segmentation(predictor, part, outlines=name == "score")["miou"]

        def predict_ours(count):
            settings.images = [picture for picture, _ in files[:count]]
            if predict(settings):
                raise SystemExit("not every picture was predicted")

        if ours:
            predictor = load_predictor(folder, *setup(settings))
        kind = name.partition("-")[0]
        work = {("score", True): score_ours, ("score", False): score_plain,
                ("predict", True): predict_ours, ("predict", False): predict_plain}[kind, ours]
        total = min(len(files), 200) if name == "predict" else len(files)
        work(min(total, 32))  # warms up
        repeats, started = 0, time.perf_counter()
        while repeats == 0 or time.perf_counter() - started < options.seconds:
            result, repeats = work(total), repeats + 1
        synchronize(device)
        rate = total * repeats / (time.perf_counter() - started)
        gflops = count_gflops(network, data.size)
        return {"images_per_second": rate, "gflop_per_second": gflops * rate, "peak_mb": peak_memory_mb(device),
                "miou": result}


# ---------------------------------------------------------------------------------------------------------------------
# The turns


def measure(options, name, side):
    """What one process measures."""
    if name == "matmul":
        device, dtype = setup(options)
        return {str(kind).removeprefix("torch."): matrix_product(kind, device, options.matmul)
                for kind in {torch.float32, dtype}}
    if name in INFERENCE:
        return inference(options, name, side == "ours")
    return train_ours(options, name) if side == "ours" else train_plain(options, name)


def in_process(name, side):
    """`measure` in a process of its own, by the same command line."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", name, side]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(result.splitlines()[-1])


def median(rounds, key):
    values = [each[key] for each in rounds if each.get(key) is not None]
    return statistics.median(values) if values else None


def summarize(name, ours, plain, rates):
    """A row of the table from the rounds of both sides."""
    row = {"network": name, "ours images/s": median(ours, "images_per_second"),
           "plain images/s": median(plain, "images_per_second")}
    row["ratio"] = row["ours images/s"] / row["plain images/s"]
    row |= {"peak MB": median(ours, "peak_mb"), "plain MB": median(plain, "peak_mb"),
            "GFLOP/s": median(ours, "gflop_per_second"), "of matmul": None, "loop's own": median(ours, "own_share"),
            "GPU busy": median(ours, "gpu_busy")}
    dtype = ours[0].get("dtype")
    if dtype:
        row["of matmul"] = row["GFLOP/s"] / statistics.median(each[dtype] for each in rates)
    return row


def show(row):
    """A row as text, shares in percent."""
    forms = {"ratio": ".2f", "of matmul": ".1%", "loop's own": ".1%", "GPU busy": ".1%", "peak MB": ".0f",
             "plain MB": ".0f", "GFLOP/s": ".0f"}
    cells = [format(value, forms.get(key, ".1f")) if isinstance(value, float) else value or "-"
             for key, value in row.items()]
    return f"{cells[0]:<12}" + "".join(f"{cell:>15}" for cell in cells[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="camvid")
    add("--data-dir", default=str(ROOT / "data"))
    add("--size", type=int, nargs=2, metavar=("H", "W"))
    add("--networks", nargs="+", metavar="NAME", help="unet-WIDTH, fcn32, resnet18, score, score-miou, predict "
        "(default: all, unet at 16 and 32, on CUDA also 64)")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=10, help="whole epochs are repeated for this long in each turn (default: 10)")
    add("--batch-size", type=int, help="default: the recipe's")
    add("--workers", type=int, default=4, help="the plain loop's loader processes (default: 4)")
    add("--bare", action="store_true", help="the plain loop does not augment")
    add("--images", type=int, help="take only the first few of each split")
    add("--matmul", type=int, help="side of the matrices (default: 4096, on CUDA 8192)")
    add("--device", default="auto")
    add("--precision", default="auto")
    add("--out", default="/tmp/throughput.json")
    add("--one", nargs=2, metavar=("NAME", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    cuda = torch.cuda.is_available() and options.device in ("auto", "cuda")
    options.device = ("cuda" if cuda else "cpu") if options.device == "auto" else options.device
    options.matmul = options.matmul or (8192 if cuda else 4096)
    if options.one:
        print(json.dumps(measure(options, *options.one)))
        return
    networks = options.networks or ["unet-16", "unet-32", *["unet-64"] * cuda, "fcn32", "resnet18", *INFERENCE]
    machine = describe_machine(torch.device(options.device))
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    results = {"machine": machine, "settings": vars(options), "matmul_gflop_per_second": [], "rounds": {}, "table": []}
    rates = results["matmul_gflop_per_second"]
    for name in networks:
        ours, plain = [], []
        for _ in range(options.rounds):
            rates.append(in_process("matmul", "-"))
            ours.append(in_process(name, "ours"))
            plain.append(in_process(name, "plain"))
        row = summarize(name, ours, plain, rates[-options.rounds:])
        if not results["table"]:
            print(f"{'network':<12}" + "".join(f"{key:>15}" for key in list(row)[1:]))
        print(show(row), flush=True)
        results["rounds"][name] = {"ours": ours, "plain": plain}
        results["table"].append(row)
        write_atomically(options.out, json.dumps(results, indent=2))
    for dtype in rates[0]:
        values = [each[dtype] for each in rates]
        print(f"matrix product of side {options.matmul}, {dtype}: {statistics.median(values):.0f} GFLOP/s "
              f"({min(values):.0f} to {max(values):.0f})")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
