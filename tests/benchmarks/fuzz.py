"""Put mutated files through everything that reads one: pictures, masks, checkpoints, runs' folders, tables.

    python tests/benchmarks/fuzz.py                   (10,000 inputs; some minutes on one core)
    python tests/benchmarks/fuzz.py --only picture --count 1000 --seed 1

Each input must be used, or refused by InputError or OSError: any other exception is a traceback that a user would
see. None may take more than 5 seconds or a gigabyte more memory than at the start, and none may write, start or reach
anything outside the folder that --out would name. tests/test_fuzz.py puts a few hundred through the same.
"""
import argparse
import contextlib
import faulthandler
import io
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

import evaluate  # noqa: E402
from data import InputError  # noqa: E402
from data.cache import Split  # noqa: E402
from data.folders import SPLITS, WORDS  # noqa: E402
from data.images import read_image  # noqa: E402
from data.masks import decode_mask, read_classes, read_mask  # noqa: E402
from data.sources import open_data  # noqa: E402
from evaluation import grading, pages, scoring  # noqa: E402
from evaluation.classification import predict_classification  # noqa: E402
from evaluation.colorization import predict_colorization  # noqa: E402
from evaluation.runs import predict  # noqa: E402
from evaluation.segmentation import predict_segmentation  # noqa: E402
from models import build_network  # noqa: E402
from training.checkpoint import load_predictor, save_checkpoint  # noqa: E402
from training.flags import get_args_parser  # noqa: E402
from training.run import Run  # noqa: E402

SECONDS, MEMORY = 5, 1 << 30
SIZE = (16, 24)
CLASSES = b"id,name,r,g,b\n0,sky,10,20,30\n1,road,128,64,128\n2,void,0,0,0\n"
FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
NAMES = ("a", "two words", "línea\nlínea", "-rf", "深度", "\udcff", "x" * 230, "\x1b[31m")
TOKENS = (b",", b"\n", b'"', b"\0", b"\xff", b"nan", b"-1", b"1e999", b"9" * 5000, b"[", b"{}", b"null", "é".encode())


# ----------------------------------------------------------------------------------------------------------- mutations
# An edit is (kind, where, value) with 0 <= where < 1 and 0 <= value < 2^32, so that random and hypothesis can draw it.

EDITS = ("flip", "cut", "drop", "repeat", "big", "token")


def mutate(data, edits):
    """Bytes with every edit made to them."""
    data = bytearray(data)
    for kind, where, value in edits:
        at = int(where * len(data))
        if kind == "flip" and data:
            data[at] ^= 1 << value % 8
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + value % 64]
        elif kind == "repeat":
            data[at:at] = data[at : at + value % 256] * (1 + value % 5)
        elif kind == "big":  # where a header holds a size, it is now a giant one
            data[at : at + 4] = struct.pack("<>"[value & 1] + "I", (2**32 - 1, 2**31 - 1, 60000, 9000)[value // 2 % 4])
        elif kind == "token":
            data[at:at] = TOKENS[value % len(TOKENS)]
    return bytes(data)


def endless():
    """A list that a few bytes describe, and that would fill the memory as text."""
    nested = []
    for _ in range(60):
        nested = [nested, nested]
    return nested


def junk(value):
    """What nobody expects in a checkpoint."""
    choices = (None, True, -1, 0, 1.5, 10**9, 10**30, float("nan"), float("inf"), "", "a\nb", "unet", "resnet18", b"x",
               [], {}, [[]], {"a": 1}, (1,), endless(), torch.zeros(3), torch.zeros(1).expand(10**9),
               torch.zeros(2, dtype=torch.complex64), torch.zeros(4, 4).to_sparse(), torch.empty(3, device="meta"),
               torch.full((1,), torch.nan), 1 << 20000)
    return choices[value % len(choices)]


def change(tree, edits):
    """A copy of a tree of dicts and lists in which each edit has replaced, removed or renamed something."""
    if not isinstance(tree, (dict, list)) or not edits:
        return tree
    changed = tree.copy()
    for kind, where, value in edits:
        keys = list(changed) if isinstance(changed, dict) else list(range(len(changed)))
        if not keys:
            continue
        key = keys[int(where * len(keys))]
        inner = changed[key]
        if isinstance(inner, (dict, list)) and inner and kind != "cut":
            changed[key] = change(inner, [(kind, where * len(keys) % 1, value)])
        elif kind == "drop":
            del changed[key]
        elif kind == "repeat" and isinstance(changed, dict):
            changed[f"{key}{value}"] = inner
        else:
            changed[key] = junk(value)
    return changed


def splice(data, edits):
    """A checkpoint's archive with whole records taken for one another, left out, there twice, emptied or packed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [[entry.filename, archive.read(entry), zipfile.ZIP_STORED] for entry in archive.infolist()]
    for kind, where, value in edits:
        at, other = int(where * len(records)), value % len(records)
        if kind == "flip":
            records[at][1] = records[other][1]
        elif kind == "cut":
            records[at][1] = records[at][1][: value % 1000]
        elif kind == "drop" and len(records) > 1:
            del records[at]
        elif kind == "repeat":
            records.append(list(records[at]))
        elif kind == "big":
            records[at][1:] = bytes(10**7), zipfile.ZIP_DEFLATED
        else:
            records[at][1] = mutate(records[at][1], [("flip", value % 1000 / 1000, value)])
    spliced = io.BytesIO()
    with zipfile.ZipFile(spliced, "w") as archive:
        for name, content, packed in records:
            archive.writestr(name, content, packed)
    return spliced.getvalue()


def serialize(checkpoint):
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------ the files to mutate

def pictures():
    """(bytes, suffix) of small pictures in every format and several modes."""
    rng, found = np.random.default_rng(0), []
    rgb = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, SIZE, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants = [(rgb, suffix, {}) for suffix in FORMATS]
    variants += [(rgb.convert(mode), "png", {}) for mode in ("1", "L", "P", "LA", "RGBA")]
    variants += [(rgb.convert(mode), "tif", {"compression": "tiff_lzw"}) for mode in ("L", "CMYK", "RGBA", "F")]
    variants += [(wide, "png", {}), (wide, "tif", {}), (rgb, "jpg", {"exif": exif}), (rgb.convert("CMYK"), "jpg", {}),
                 (rgb, "gif", {}),
                 (rgb, "png", {"exif": exif}), (rgb, "webp", {"lossless": True, "exif": exif})]
    for image, suffix, options in variants:
        buffer = io.BytesIO()
        image.save(buffer, FORMATS[suffix], **options)
        found.append((buffer.getvalue(), suffix))
    return found + [(array_file(np.asarray(image)), "npy") for image in (rgb, wide, rgb.convert("F"))]


def array_file(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def masks():
    """(bytes, suffix) of masks: ids, a palette, colours."""
    ids = np.random.default_rng(0).integers(0, 3, SIZE, np.uint8)
    colors = np.array([[10, 20, 30], [128, 64, 128], [0, 0, 0]], np.uint8)
    palette = Image.fromarray(ids, "P")
    palette.putpalette(colors.tobytes())
    found = []
    for image in (Image.fromarray(ids), palette, Image.fromarray(colors[ids])):
        for suffix in ("png", "bmp", "tif", "gif"):
            buffer = io.BytesIO()
            image.save(buffer, FORMATS[suffix])
            found.append((buffer.getvalue(), suffix))
    return found


def checkpoints():
    """Sound checkpoints of each task and network, of a few kilobytes."""
    metadata = {"data": "scenes", "classes": ["sky", "road"], "colors": [[10, 20, 30], [128, 64, 128]],
             "ids": [0, 1], "size": list(SIZE), "seed": 0}
    painting = metadata | {"task": "colorization", "classes": [], "colors": [], "mean_ab": [0.0, 1.0], "gain": 1.0}
    unet = {"name": "unet", "in_channels": 1, "width": 1, "depth": 2}
    found = [
        metadata | {"task": "segmentation", "network": unet | {"in_channels": 3, "out_channels": 2}},
        metadata | {"task": "segmentation", "network": {"name": "fcn32", "classes": 2, "width": 1}},
        metadata | {"task": "classification", "network": {"name": "resnet18", "classes": 2, "width": 1},
                    "mirror": True},
        painting | {"network": unet | {"out_channels": 3}, "target": "rgb"},
        painting | {"network": unet | {"out_channels": 2}, "target": "lab"},
    ]
    return [each | {"weights": build_network(each["network"]).state_dict()} for each in found]


class TinyRun:
    """A run of four pictures and one epoch or two, which resumes from whatever lies in its folder."""

    def __init__(self, folder):
        rng = np.random.default_rng(0)
        images, ids = rng.integers(0, 256, (4, 3, *SIZE), np.uint8), rng.integers(0, 2, (4, *SIZE), np.uint8)
        split = Split(images, ids, [*"abcd"])
        self.data = SimpleNamespace(task="segmentation", classes=["sky", "road"], colors=[(10, 20, 30), (128, 64, 128)],
                                    ids=[0, 1], size=SIZE, splits={"train": split}, assignment=None, levels=None)
        self.words = ["--batch-size", "2", "--lr", "0.001", "--optimizer", "adamw", "--schedule", "onecycle", "--width",
                      "1", "--weight-decay", "0.1", "--workers", "0", "--device", "cpu", "--out", str(folder)]

    def __call__(self, *words):
        args = get_args_parser("segmentation").parse_args([*self.words, *words])
        args.size, args.ema = SIZE, 0.9
        network = {"name": "unet", "in_channels": 3, "out_channels": 2, "width": 1, "depth": 2}
        device = torch.device("cpu")
        run = Run(args, device, torch.float32, network, self.data, build_network(network))
        for _ in run.epochs():
            for images, _, _ in run.batches(self.data.splits["train"]):
                run.step(run.model(images / 255).square().mean())
            run.end_epoch({"miou": 0.5}, best=0.5)


# -------------------------------------------------------------------------------------------------------- the watching

class Watch:
    """Notes every attempt to write outside `allowed`, to start a program or to reach the network."""
    PATHS = {"open": 1, "os.rename": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.chmod": 1,
             "os.link": 2, "os.symlink": 2}
    NEVER = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")

    def __init__(self, allowed):
        self.allowed, self.armed, self.escapes = os.path.realpath(allowed) + os.sep, False, []
        sys.addaudithook(self.look)

    def look(self, event, args):
        if not self.armed or event not in self.PATHS and event not in self.NEVER:
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        paths = [os.fspath(path) for path in args[: self.PATHS.get(event, 0)] if not isinstance(path, int)]
        inside = all(os.path.realpath(os.fsdecode(path)).startswith(self.allowed) for path in paths)
        if event in self.NEVER or not inside:
            self.escapes.append(f"{event} {args!r:.200}")


def limit_memory():
    """Let this process take MEMORY more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


# ------------------------------------------------------------------------------------------ what reads the mutated file

class Reader:
    """The functions that the commands call, a method a kind of file; `make(kind)` lists the sound files to mutate."""
    KINDS = ("picture", "mask", "checkpoint", "state", "predict", "classes", "layout", "submission")

    def __init__(self, folder):
        self.folder = Path(folder)
        self.out = self.folder / "out"  # the only folder that may be written to
        self.out.mkdir()
        self.watch = Watch(self.out)
        self.best, self.pictures, self.masks = checkpoints(), pictures(), masks()
        for name, number in (("segmentation", 0), ("classification", 2), ("colorization", 4)):
            save_checkpoint(self.folder / f"{name}.pt", self.best[number])
        (self.folder / "classes.csv").write_bytes(CLASSES)
        self.small = read_image(self.write(self.pictures[0][0], "small.png"))
        self.known = read_classes(self.folder)
        self.tiny = TinyRun(self.out / "run")
        self.tiny("--epochs", "1")
        self.last = torch.load(self.out / "run/last.pt", weights_only=True)
        self.truths = {task: self.make_truth(task) for task in ("segmentation", "classification")}

    def make_truth(self, task):
        """Two pictures to grade submissions against."""
        root = self.folder / task
        for i, name in enumerate(("a", "b")):
            places = (root / "images", root / "masks") if task == "segmentation" else (root / f"kind {name}",)
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{name}.png").write_bytes(self.masks[i][0] if place.name == "masks" else self.pictures[0][0])
        with contextlib.redirect_stdout(io.StringIO()):
            truth = grading.open_truth(root, task)
        truth.rubric = {"miou" if task == "segmentation" else "accuracy": [[0, 0], [1, 10]]}
        return truth

    def write(self, data, name):
        """Put down an input, which is no deed of what is tested."""
        armed, self.watch.armed = self.watch.armed, False
        path = self.folder / name
        path.write_bytes(data)
        self.watch.armed = armed
        return path

    def attempt(self, kind, choice, edits, how):
        """Mutate file number `choice` of a kind, in the way number `how`, and read it: (verdict, details)."""
        began, verdict, details, escapes = time.process_time(), "used", "", self.watch.escapes
        escapes.clear()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                self.watch.armed = True
                getattr(self, "read_" + kind.replace(" ", "_"))(choice, edits, how)
        except (InputError, OSError) as error:
            verdict, details = "refused", str(error)
        except Exception:
            verdict, details = "traceback", traceback.format_exc()
        finally:
            self.watch.armed = False
        seconds = time.process_time() - began
        if escapes:
            verdict, details = "escape", "\n".join(escapes)
        elif seconds > SECONDS:
            verdict, details = "slow", f"{seconds:.1f} s"
        return verdict, details

    def read_picture(self, choice, edits, how):
        data, suffix = self.pictures[choice % len(self.pictures)]
        read_image(self.write(mutate(data, edits), f"picture.{suffix}"))

    def read_mask(self, choice, edits, how):
        data, suffix = self.masks[choice % len(self.masks)]
        path = self.write(mutate(data, edits), f"mask.{suffix}")
        decode_mask(read_mask(path), self.known, path)

    def read_checkpoint(self, choice, edits, how):
        path = self.write(mutate(serialize(self.best[choice % len(self.best)]), edits), "best.pt")
        predictor = load_predictor(path, torch.device("cpu"), torch.float32)
        predict = {"segmentation": predict_segmentation, "classification": predict_classification,
                   "colorization": predict_colorization}[predictor.metadata["task"]]
        predict(predictor, self.small)

    def read_state(self, choice, edits, how):
        (self.out / "run/last.pt").write_bytes(mutate(serialize(self.last), edits))
        (self.out / "run/previous.pt").unlink(missing_ok=True)
        self.tiny("--epochs", "2", "--resume")

    def read_predict(self, choice, edits, how):
        data, suffix = self.pictures[choice % len(self.pictures)]
        run = ("segmentation", "classification", "colorization")[how % 3]
        path = self.write(mutate(data, edits), f"{NAMES[how // 3 % len(NAMES)]}.{suffix}")
        args = evaluate.get_args_parser().parse_args(
            ["predict", str(self.folder / f"{run}.pt"), "--device", "cpu", "--out", str(self.out / "predicted"), "--",
             str(path)])
        if predict(args):
            raise InputError("said by predict itself")

    def read_classes(self, choice, edits, how):
        (self.out / "labels").mkdir(exist_ok=True)
        (self.out / "labels/classes.csv").write_bytes(mutate(CLASSES, edits))
        read_classes(self.out / "labels")

    def read_layout(self, choice, edits, how):
        """A folder whose files' names are mutated, with all the words for splits, images and masks, or a CSV of pairs.
        """
        self.watch.armed = False
        root, words, names = self.out / "layout/mine", {}, []
        shutil.rmtree(root, ignore_errors=True)
        for word, meaning in WORDS.items():
            words.setdefault(meaning, []).append(word)
        for split in SPLITS:
            for kind in ("image", "mask"):
                folders = [words[meaning][how % len(words[meaning])] for meaning in (split, kind)][:: 1 - how % 2 * 2]
                names += ["/".join([*folders, f"{i}.png"]) for i in (1, 2)]
        listed = "".join(f"{names[i]},{names[i + 2]},{SPLITS[i // 4]}\n" for i in (0, 1, 4, 5, 8, 9)).encode()
        if choice % 3:
            names = mutate("\n".join(names).encode(), edits).decode(errors="surrogateescape").split("\n")
        for name in names:
            parts = [part[:50] for part in name.replace("\0", "").split("/") if part.strip(".")]
            path = root.joinpath(*(parts or ["unnamed"]))
            data = (self.masks if any(WORDS.get(part.lower()) == "mask" for part in parts) else self.pictures)[0][0]
            with contextlib.suppress(OSError):  # a file where a folder should be
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        (root / "pairs.csv").write_bytes(mutate(listed, edits))
        # Not watched: a temporary folder is removed by names relative to it, which the watch would take for escapes.
        open_data(str(root if choice % 3 else root / "pairs.csv"), ("segmentation", "colorization")[choice % 2], SIZE,
                  str(self.out / "caches"))

    def read_submission(self, choice, edits, how):
        truth = self.truths["segmentation" if how % 3 else "classification"]
        if how % 3 == 0:
            path = self.write(mutate(b"name,label\na.png,kind a\nb.png,kind b\n", edits), "submission.csv")
        else:  # an image in the archive, or the archive
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
                target.writestr("a.png", mutate(self.masks[0][0], edits if how % 3 == 1 else []))
                target.writestr("masks/b.png", self.masks[1][0])
            path = self.write(mutate(archive.getvalue(), edits if how % 3 == 2 else []), "submission.zip")
        grade = scoring.grade_job(truth, ("x", str(path), self.out / "x.json"))
        grade = grading.give_points(truth, grade)
        flags = argparse.Namespace(title=None, hide_truth=False)
        pages.feedback_page(flags, truth, {"nothing": grade}, path.name, grade)
        if grade["status"] == "refused":
            raise InputError("said by the grade itself")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=Reader.KINDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, shown, began = random.Random(args.seed), set(), time.time()
    verdicts = {kind: Counter() for kind in Reader.KINDS}
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(folder)
        for kind in Reader.KINDS:  # once unharmed, so that nothing is imported or allocated for the first time below
            for how in range(24):
                verdict, details = reader.attempt(kind, how, [], how)
                if verdict not in ("used", "refused"):
                    sys.exit(f"{kind}: {details}")
        limit_memory()
        for i in range(args.count):
            kind = args.only or Reader.KINDS[i % len(Reader.KINDS)]
            edits = [(rng.choice(EDITS), rng.random(), rng.getrandbits(32)) for _ in range(rng.choice((1, 1, 2, 5)))]
            words = kind, rng.getrandbits(16), edits, rng.getrandbits(16)
            faulthandler.dump_traceback_later(120, exit=True)
            verdict, details = reader.attempt(*words)
            faulthandler.cancel_dump_traceback_later()
            verdicts[kind][verdict] += 1
            if verdict not in ("used", "refused") and (last := details.splitlines()[-1]) not in shown:
                shown.add(last)
                print(f"{verdict}: {words}\n{details}", flush=True)
    for kind, counts in verdicts.items():
        print(f"{kind:10} " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    total = sum(verdicts.values(), Counter())
    print(f"{total.total():,} inputs, {total['traceback']} tracebacks, {total['escape']} escapes, "
          f"{total['slow']} over {SECONDS} s; {time.time() - began:.0f} s")
    return bool(total["traceback"] + total["escape"] + total["slow"])


if __name__ == "__main__":
    sys.exit(main())
