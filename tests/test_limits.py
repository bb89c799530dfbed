"""The wall: what strangers hand in to cost time or memory costs only their own submission, and is refused by name."""
import io
import itertools
import multiprocessing
import os
import re
import signal
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from classroom import NAMES, draw_mask, grade, png, write
from PIL import Image

import utils
from evaluation import grading, limits, scoring
from models import build_network

ROOT = Path(__file__).resolve().parents[1]


def test_limits_hold():
    """What exceeds a limit, or kills its process, costs itself alone."""
    acts = {"fine": lambda: [1.5, None, "a"], "memory": lambda: len(bytearray(1 << 30)), "died": lambda: os._exit(3),
            "torch": lambda: torch.ones(1 << 30).tolist(), "result": lambda: "x" * (17 << 20),
            "crash": lambda: os.kill(os.getpid(), signal.SIGTERM),
            "killed": lambda: os.kill(os.getpid(), signal.SIGKILL)}
    results = dict(limits.run_each(lambda name: acts[name](), acts, lambda _: 60, 256 << 20, 8))
    assert results.keys() == acts.keys() and results["fine"] == acts["fine"]()
    results |= limits.run_each(time.sleep, [60], lambda _: 0.5, 256 << 20, 8)
    found = {name: result.limit for name, result in results.items() if isinstance(result, limits.Exceeded)}
    assert found == {60: "time", "memory": "memory", "torch": "memory", "result": "result", "died": "died",
                     "crash": "died", "killed": "died"}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux")
def test_a_process_that_nobody_ends_ends_itself():
    """A loop in C lets no thread run that could see the grader's end."""
    def loop():
        limits._limit(.5, 1 << 30)
        sum(itertools.repeat(1))

    process = multiprocessing.get_context("fork").Process(target=loop)
    process.start()
    process.join(60)
    assert process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_the_readme_names_every_limit():
    table = re.findall(r"^\| ([a-z ]+) \| .* \| .* \|$", (ROOT / "evaluation/README.md").read_text("utf-8"), re.M)
    assert {"limit", *limits.LIMITS} == set(table)


def test_hostile_checkpoints_are_stopped(tmp_path, monkeypatch):
    """What is described in a few bytes and takes hours or gigabytes."""
    write(tmp_path / "truth", {f"{split}/{kind}/x.png": png(np.zeros((8, 8, 3), np.uint8))
                               for split in ("train", "test") for kind in ("cat", "dog")})
    nested = b"\x80\x02}(" + b"N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 59 + b"h\x00K\x01u."  # takes years to hash
    array = b"\x80\x02c__builtin__\nbytearray\nJ" + (2**31 - 1).to_bytes(4, "little") + b"\x85R."
    for name, data in {"nested.pt": nested, "array.pt": array}.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", b"3\n")
    network = {"name": "resnet18", "classes": 2, "width": 1024}  # 64 of which are usual
    with torch.device("meta"):
        weights = build_network(network).state_dict()
    metadata = {"task": "classification", "network": network, "data": "x", "classes": ["cat", "dog"], "colors": [],
             "ids": [], "mirror": False, "size": [32, 32], "seed": 0}
    torch.save(metadata | {"weights": {key: torch.zeros((), dtype=value.dtype).expand(value.shape)
                                    for key, value in weights.items()}}, tmp_path / "wide.pt")
    narrow = network | {"width": 4}
    torch.save(metadata | {"network": narrow, "size": [32768, 32768], "weights": build_network(narrow).state_dict()},
               tmp_path / "large.pt")
    monkeypatch.setitem(limits.LIMITS, "time", 10)
    monkeypatch.setitem(limits.LIMITS, "time an image of a network", 1)
    monkeypatch.setitem(limits.LIMITS, "memory", 1 << 30)
    rows = grade("classification", tmp_path / "truth/test", tmp_path / "out", sorted(tmp_path.glob("*.pt")))
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, "refused")
    array = "memory" if torch.__version__ >= (2, 6) else ""  # before, torch itself refused it
    assert {name: row["reason"] for name, row in rows.items()} == {
        "nested.pt": "time", "array.pt": array, "wide.pt": "memory", "large.pt": "memory"}


def jpeg(segment, count, image):
    """A JPEG with so many small segments of one kind before its image."""
    image.save(buffer := io.BytesIO(), "JPEG")
    data = buffer.getvalue()
    marker = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    return data[:2] + marker * count + data[2:]


def progressive(image):
    """A progressive JPEG of 1 MB, whose last scan comes again and again."""
    image.save(buffer := io.BytesIO(), "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * ((1 << 20) // len(data[last:]) - 100) + data[-2:]


def tiff(image, strips):
    """A TIFF that claims to lie in so many strips."""
    image.save(buffer := io.BytesIO(), "TIFF")
    data = bytearray(buffer.getvalue())
    for tag in (273, 279):  # StripOffsets, StripByteCounts
        entry = data.index(tag.to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00")
        data[entry + 4 : entry + 12] = strips.to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return bytes(data) + b"\x08\x00\x00\x00" * strips


def test_hostile_images_cost_only_their_own_submission(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    mask = draw_mask(rng, (1, 2)).repeat(3, 0).repeat(3, 1)
    write(tmp_path / "truth", {f"{kind}/{name}.png": png(mask) for kind in ("images", "masks") for name in NAMES})
    image, home = Image.fromarray(mask), tmp_path / "home"
    write(home, {f"fine/{name}.png": png(np.roll(mask, 1, 1)) for name in NAMES})
    write(home, {"segments/street0.jpg": jpeg(b"Exif\0\0abcd", 1_000_000, image)})
    write(home, {"strips/street0.tif": tiff(image, 4_000_000)})
    with zipfile.ZipFile(home / "scans.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        scans = progressive(image)
        for i in range(300):
            archive.writestr(f"{i}/street{i % 6}.jpg", scans)
    with zipfile.ZipFile(home / "entries.zip", "w") as archive:
        for i in range(limits.LIMITS["files"] + 1):
            archive.writestr(f"{i}", b"")
    monkeypatch.setitem(limits.LIMITS, "time", 5)
    monkeypatch.setitem(limits.LIMITS, "time an image", 0)
    rows = grade("segmentation", tmp_path / "truth", tmp_path / "out", sorted(home.iterdir()))
    assert rows["fine"]["status"] == "ok" and rows["strips"]["status"] != "ok"
    reasons = {name: row["reason"] for name, row in rows.items() if row["status"] == "refused"}
    assert reasons == {"segments": "time", "scans.zip": "time", "entries.zip": "files"}


def test_hostile_tables_and_names_are_cut_or_refused(tmp_path):
    write(tmp_path / "truth", {f"{kind}/{kind}.png": png(np.zeros((8, 8, 3), np.uint8)) for kind in ("cat", "dog")})
    accents, home = "e" + "\u0301\u0323" * 16_000, tmp_path / "home"  # to normalise them takes quadratic time
    write(home, {"columns.csv": b",".join([b"name,label", *[b"x"] * 100_000]) + b"\ncat,cat\n",
                 "header.csv": b"name" * (62 << 18) + b",label\ncat,cat\n",
                 "accents.csv": f"name,label\n{accents},{accents}\ncat,{accents}".encode(),
                 "long.csv": b"name,label\n" + b"\n".join([b"x" * (5 << 20) + b",cat"] * 8) + b"\ncat,cat",
                 "many.csv": b"name,label\n" + b"cat,cat\n" * 20_000})
    with zipfile.ZipFile(home / "names.zip", "w") as archive:
        for i in range(20):
            archive.writestr(f"{i}{accents}/labels.csv", b"name,label\ncat,cat")
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", sorted(home.iterdir()))
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "columns.csv": ("incomplete", ""), "header.csv": ("empty", ""), "accents.csv": ("incomplete", ""),
        "long.csv": ("empty", ""), "many.csv": ("incomplete", ""), "names.zip": ("empty", "")}
    assert rows["many.csv"]["repeated"] == "19999"
    assert max(path.stat().st_size for path in (tmp_path / "out").rglob("*.*")) < 300_000


def test_the_same_command_goes_on(tmp_path, monkeypatch):
    """What was graded before a stop is kept, and what has changed since is graded again."""
    write(tmp_path / "truth", {f"{kind}/{kind}.png": png(np.zeros((8, 8, 3), np.uint8)) for kind in ("cat", "dog")})
    submissions = [tmp_path / f"{name}.csv" for name in "abcd"]
    write(tmp_path, {path.name: b"name,label\ncat,cat\ndog,dog" for path in submissions})
    grade_all, grade_predictions = grading.grade_all, scoring.grade_predictions

    def stop_after_two(truth, sources, out):
        yield from itertools.islice(grade_all(truth, sources, out), 2)
        if any(sources.values()):  # not at the baselines
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grading, "grade_all", stop_after_two)
        grade("classification", tmp_path / "truth", tmp_path / "out", submissions)
    kept = {row["submission"] for row in utils.read_csv(tmp_path / "out/grades.csv")}
    assert len(kept) == 2 == len(list((tmp_path / "out/feedback").iterdir()))
    changed = min(kept)
    write(tmp_path, {changed: b"name,label\ncat,cat\ndog,cat"})
    monkeypatch.setattr(scoring, "grade_predictions", lambda *args: (
        (tmp_path / f"graded {os.path.basename(args[2])}").touch() if args[2:] else None, grade_predictions(*args))[1])
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", submissions)
    again = {path.name.removeprefix("graded ") for path in tmp_path.glob("graded *")}
    assert again == {path.name for path in submissions} - kept | {changed}
    assert {name for name, row in rows.items() if float(row["accuracy"]) == 1} == rows.keys() - {changed}
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", submissions[:1])  # the others are gone
    assert list(rows) == ["a.csv"] and [path.name for path in (tmp_path / "out/feedback").iterdir()] == ["a.csv.html"]
    assert [len(utils.read_csv(tmp_path / f"out/grades.{number}.csv")) for number in (1, 2)] == [2, 4]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.html")) == [
        "grades.1.html", "grades.2.html", "grades.html"]
    written, write_tables = [], grading.write_tables
    monkeypatch.setattr(grading, "write_tables", lambda *args: (written.append(1), write_tables(*args))[1])
    grade("classification", tmp_path / "truth", tmp_path / "out", submissions)
    assert len(written) < len(submissions)  # every few seconds, and at the end


def test_a_process_that_dies_takes_only_its_own_submission(tmp_path, monkeypatch):
    write(tmp_path / "truth", {f"{kind}/{kind}.png": png(np.zeros((8, 8, 3), np.uint8)) for kind in ("cat", "dog")})
    submissions = [tmp_path / name for name in ("a.csv", "deadly.csv", "z.csv")]
    write(tmp_path, {path.name: b"name,label\ncat,cat\ndog,dog" for path in submissions})
    list_files = scoring.list_files
    monkeypatch.setattr(scoring, "list_files", lambda path, troubles: (
        os._exit(1) if "deadly" in path else list_files(path, troubles)))
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", submissions)
    statuses = {name: row["status"] for name, row in rows.items()}
    assert statuses == {"a.csv": "ok", "z.csv": "ok", "deadly.csv": "refused"}


def test_a_pipe_in_place_of_a_listed_file_costs_only_its_own_submission(tmp_path, monkeypatch):
    """To open it waits for a writer, who never comes."""
    write(tmp_path / "truth", {f"{kind}/{kind}.png": png(np.zeros((8, 8, 3), np.uint8)) for kind in ("cat", "dog")})
    write(tmp_path, {f"{name}/labels.csv": b"name,label\ncat,cat\ndog,dog" for name in ("fine", "swapped")})
    list_files = scoring.list_files

    def swap(path, troubles):
        files = list_files(path, troubles)
        if path.endswith("swapped"):
            os.remove(tmp_path / "swapped/labels.csv")
            os.mkfifo(tmp_path / "swapped/labels.csv")
        return files

    monkeypatch.setattr(scoring, "list_files", swap)
    monkeypatch.setitem(limits.LIMITS, "time", 2)
    monkeypatch.setitem(limits.LIMITS, "time an image", 0)
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", [tmp_path / "fine", tmp_path / "swapped"])
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "fine": ("ok", ""), "swapped": ("refused", "time")}
