"""Grade 60 made-up submissions of a segmentation test set in one call, with a Moodle and a Canvas download of 20
students each and what exceeds the limits, and check every verdict.

    python tests/benchmarks/grading.py TRUTH [--keep FOLDER]

Prints masks/s of the whole command, start-up and pages included, the most memory of all its processes together, and the
longest that a submission took. TRUTH is a folder with images, masks, and a classes.csv with colours.
"""
import argparse
import contextlib
import csv
import io
import pickle
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.images import list_images  # noqa: E402
from data.masks import read_classes, read_mask  # noqa: E402


class Hostile:
    """A pickle that, if it were loaded, would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def make_submissions(masks, classes, folder, count):
    """Write `count` submissions of all kinds; returns name -> a test that the submission's CSV row must pass."""
    scored = np.array(list(classes.names), np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    for id, rgb in classes.colors.items():
        palette[id] = rgb
    rng = np.random.default_rng(0)

    def noisy(mask, share):
        return np.where(rng.random(mask.shape) < share, scored[rng.integers(len(scored), size=mask.shape)], mask)

    def save(values, path):
        Image.fromarray(values).save(path, compress_level=1)

    def save_palette(values, path):
        picture = Image.frombytes("P", values.shape[::-1], values.tobytes())
        picture.putpalette(palette.tobytes())
        picture.save(path)

    def write(place, change=lambda mask: mask, names=masks, save=save):
        place.mkdir()
        for name in names:
            save(change(masks[name]), place / f"{name}.png")

    perfect, half = lambda row: row["status"] == "equal to the truth" and float(row["miou"]) == 1, list(masks)[::2]
    write(folder / "perfect")
    write(folder / "palette", save=save_palette)
    write(folder / "rgb", palette.__getitem__)
    write(folder / "twin")
    write(folder / "half", names=half)
    write(folder / "binary", lambda mask: ((mask > 0) * 255).astype(np.uint8))
    write(folder / "small", lambda mask: mask[::2, ::2])
    write(folder / "corrupt")
    for path in list((folder / "corrupt").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:200])
    (folder / "empty").mkdir()
    with zipfile.ZipFile(folder / "climbing.zip", "w") as archive:
        for name in masks:
            archive.write(folder / "perfect" / f"{name}.png", f"predictions/{name}.png")
        archive.writestr("../escaped.png", "x")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{next(iter(masks))}.png", bytes(60 << 20))
    (folder / "hostile").mkdir()
    (folder / "hostile" / "best.pt").write_bytes(pickle.dumps(Hostile(folder / "executed")))
    verdicts = {
        "perfect": perfect, "palette": perfect, "rgb": perfect,
        "twin": lambda row: perfect(row) and row["group"],
        "half": lambda row: row["status"] == "incomplete" and int(row["missing"]) == len(masks) - len(half)
        and float(row["miou"]) < 0.6,
        "binary": lambda row: row["status"] == "ok" and int(row["out of range"]) > 0 and float(row["miou"]) < 0.2,
        "small": lambda row: row["status"] == "wrong size" and int(row["wrong size"]) == len(masks),
        "corrupt": lambda row: row["status"] == "incomplete" and int(row["unreadable"]) == 5,
        "empty": lambda row: row["status"] == "empty" and float(row["points"]) == 0,
        "climbing.zip": perfect,
        "bomb.zip": lambda row: row["status"] == "unreadable" and float(row["points"]) == 0,
        "hostile": lambda row: row["status"] == "refused" and float(row["points"]) == 0,
    }
    for i in range(count - len(verdicts)):
        if i % 4 == 0:
            write(folder / f"shifted{i}", lambda mask: np.roll(mask, i + 1, 1))
            verdicts[f"shifted{i}"] = lambda row: row["status"] == "ok" and 0.2 < float(row["miou"]) < 0.99
        else:
            write(folder / f"noisy{i}", lambda mask: noisy(mask, 0.02 * i))
            verdicts[f"noisy{i}"] = lambda row: row["status"] == "ok" and 0.05 < float(row["pixel_accuracy"]) < 1
    return verdicts


def make_downloads(masks, folder, students=20):
    """A Moodle zip and a Canvas folder, whose students shifted the masks by a few pixels; returns verdicts."""
    (folder / "canvas").mkdir()
    verdicts, moodle, works = {}, zipfile.ZipFile(folder / "moodle.zip", "w"), []
    for shift in range(4):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
            for name, mask in masks.items():
                Image.fromarray(np.roll(mask, shift + 1, 1)).save(image := io.BytesIO(), "PNG", compress_level=1)
                archive.writestr(f"work/{name}.png", image.getvalue())
        works.append(buffer.getvalue())
    for i in range(students):
        work = works[i % 4]
        moodle.writestr(f"Last{i} First_{100 + i}_assignsubmission_file_/work.zip", work)
        late = "_LATE" * (i % 2)
        (folder / "canvas" / f"student{i}{late}_{200 + i}_{300 + i}_work.zip").write_bytes(b"an attempt of before")
        (folder / "canvas" / f"student{i}{late}_{200 + i}_{400 + i}_work-1.zip").write_bytes(work)
        verdicts[f"moodle.zip/Last{i} First"] = lambda row: row["status"] == "ok" and row["id"].startswith("1")
        verdicts[f"canvas/student{i}"] = lambda row, late=late: (
            row["status"] == "ok" and (row["attempt"], row["late"]) == ("2", "yes" if late else ""))
    moodle.close()
    return verdicts


def make_excesses(masks, folder):
    """A submission for each limit that needs no minutes; tests/test_limits.py has those of time and memory."""
    name = next(iter(masks))
    for home, count, size in (("file", 1, 65 << 20), ("bytes", 36, 60 << 20)):
        (folder / home).mkdir()
        for i in range(count):
            with open(folder / home / f"{name} ({i}).png", "wb") as file:
                file.truncate(size)
    for home, count, entry in (("files.zip", 10_001, "{}.png"), ("name.zip", 100, "{}" + "e\u0301\u0323" * 9000)):
        with zipfile.ZipFile(folder / home, "w") as archive:
            for i in range(count):
                archive.writestr(entry.format(i), b"")
    refused = {home: lambda row, home=home: row["status"] == "refused" and f"limit: {home.partition('.')[0]}" in
               row["problems"] for home in ("file", "bytes", "files.zip")}
    return refused | {"name.zip": lambda row: row["status"] == "empty" and len(row["problems"]) < 10_000}


def watch_memory(process, most):
    """Put the most memory (bytes, shared pages counted once for each process) of a process and its children in most."""
    while process.poll() is None:
        total = 0
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError, KeyError):
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                if str(process.pid) in (lines["Pid"].strip(), lines["PPid"].strip()):
                    total += 1024 * int(lines["VmRSS"].split()[0])
        most[0] = max(most[0], total)
        time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="where to leave the grades (default: nowhere)")
    args = parser.parse_args()
    classes = read_classes(args.truth)
    masks = {Path(path).stem: read_mask(path) for path in list_images(args.truth / "masks").values()}
    with tempfile.TemporaryDirectory() as folder:
        submissions, out = Path(folder, "submissions"), args.keep or Path(folder, "grades")
        submissions.mkdir()
        verdicts = make_submissions(masks, classes, submissions, args.count)
        verdicts |= make_downloads(masks, submissions) | make_excesses(masks, submissions)
        paths = sorted(map(str, submissions.iterdir()))
        random.Random(0).shuffle(paths)
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, str(ROOT / "evaluate.py"), "grade", "segmentation", "--truth",
                                    str(args.truth), "--out", str(out), *paths])
        watch_memory(process, most := [0])
        seconds = time.perf_counter() - started
        with open(out / "grades.csv", newline="", encoding="utf-8") as file:
            rows = {row["submission"]: row for row in csv.DictReader(file)}
        wrong = [name for name, verdict in verdicts.items() if not verdict(rows[name])] + [
            f"exit code {process.returncode}"] * bool(process.returncode)
        if (submissions / "executed").exists() or list(Path(folder).rglob("escaped*")):
            wrong.append("something of a submission was executed or escaped")
        read = sum(int(row["given"]) for row in rows.values()) + len(masks)
        slowest = max(rows.values(), key=lambda row: float(row["seconds"] or 0))
    print("".join(f"wrong: {name}\n" for name in wrong)
          + f"{len(rows)} submissions, {read} masks in {seconds:.1f} s: {read / seconds:.0f} masks/s; "
          f"{len(verdicts) - len(wrong)} of {len(verdicts)} verdicts right; {most[0] / 1e9:.1f} GB of memory at most; "
          f"the longest submission took {slowest['seconds']} s ({slowest['submission']})")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
