"""The scripts as a user runs them: from data to images, interrupted and resumed, and given the wrong things."""
import csv
import errno
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import fuzz
import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, picture
from PIL import Image

import training.checkpoint
import training.run
import utils
from data.images import read_image
from training.checkpoint import load_checkpoint, load_run, save_checkpoint

QUICK = ("--width", 4, "--batch-size", 4, "--workers", 0, "--device", "cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with the caches of this session."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    return tmp_path_factory.mktemp("caches")


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", ["unet", "fcn32"])
def test_segmentation_from_folder_to_images(run, here, street, caches, model):
    code, out, err = run("train_segmentation.py", "--model", model, "--data", street, "--data-dir", caches,
                         "--epochs", 30, *QUICK, "--out", "run")
    assert code == 0, err
    assert "miou" in out and "class 2" in out
    summary = json.loads((here / "run/summary.json").read_text())
    assert summary["task"] == "segmentation" and summary["size"] == [32, 40] and summary["gflops_per_image"] > 0
    assert set(summary["metrics"]["iou"]) == {"class 0", "class 1", "class 2"}
    if model == "unet":
        assert summary["metrics"]["miou"] > 0.6
    assert len(rows(here / "run/metrics.csv")) == 30
    for name in ("curves.png", "predictions.png"):
        assert Image.open(here / "run" / name).width > 300

    # The checkpoint alone is enough to score and predict.
    code, out, _ = run("evaluate.py", "score", "run", "--data-dir", caches)
    assert code == 0 and f"miou: {summary['metrics']['miou']:.4f}" in out
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 50, 3), np.uint8)).save("own photo.jpg")
    (here / "broken.png").write_bytes(b"no image")
    code, out, err = run("evaluate.py", "predict", "run", "own photo.jpg", "broken.png", "--out", "predicted")
    assert code == 2 and "1 of 2" in out and "broken.png" in err
    mask = Image.open(here / "predicted/own photo.png")
    assert mask.mode == "P" and mask.size == (50, 70) and set(np.unique(mask)) <= {0, 1, 2}
    assert Image.open(here / "predicted/own photo_overlay.jpg").size == (50, 70)
    code, _, err = run("evaluate.py", "predict", "run", "own photo.jpg", "--out", here)
    assert code == 2 and "--out" in err and not (here / "own photo.png").exists()


def test_classification(run, here, kinds, caches):
    code, out, err = run("train_classifier.py", "--data", kinds, "--data-dir", caches, "--epochs", 6, *QUICK,
                         "--out", "run")
    assert code == 0, err
    metrics = json.loads((here / "run/summary.json").read_text())["metrics"]
    assert metrics["accuracy"] == 1 and metrics["per_class"].keys() == {"apple", "lime"}
    assert metrics["macro_f1"] == 1 and [dict(row) for row in rows(here / "run/confusion.csv")] == [
        {"truth": "apple", "apple": "6", "lime": "0"}, {"truth": "lime", "apple": "0", "lime": "6"}]
    assert metrics["top5"] == 1
    assert Image.open(here / "run/confusion.png").width > 100 and Image.open(here / "run/mistakes.png").width > 100
    images = sorted((kinds / "test").glob("*/*"))  # 0.png of either class, and so on
    code, _, err = run("evaluate.py", "predict", "run", *images, "--out", "predicted")
    assert code == 0, err
    names = {f"{path.parent.name}/{path.name}" for path in images}
    assert {row["name"] for row in rows(here / "predicted/labels.csv")} == names


def test_imagenet_weights_become_a_backbone(run, here, street, caches, monkeypatch):
    words = ("train_segmentation.py", "--model", "fcn32", "--data", street, "--data-dir", caches, "--epochs", 1, *QUICK)
    imagenet = torchvision.models.resnet18(weights=None).state_dict()  # stands in for the download
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda self, check_hash: imagenet)
    for wrong, advice in ((("--model", "unet"), "weights of unet"), ((), "--width")):
        code, _, err = run(*words, *wrong, "--pretrained", "--out", "wrong")
        assert code == 2 and advice in err and err.count("\n") == 1
    code, _, err = run(*words, "--pretrained", "--width", 64, "--lr", 1e-12, "--out", "run")
    assert code == 0, err
    weights = torch.load(here / "run/best.pt", weights_only=True)["weights"]
    torch.testing.assert_close(weights["backbone.layer4.1.conv2.weight"], imagenet["layer4.1.conv2.weight"])


def test_a_run_starts_from_another_of_other_classes(run, here, street, caches):
    """Two classes where the first run had three: all but the head is taken, and what is not is said."""
    shutil.copytree(street, "two")
    for path in here.glob("two/*/masks/*.png"):
        Image.fromarray(np.array(Image.open(path)) // 2).save(path)
    words = ("train_segmentation.py", "--data-dir", caches, "--epochs", 1, *QUICK)
    assert run(*words, "--data", street, "--out", "first")[0] == 0
    code, out, err = run(*words, "--data", "two", "--lr", 1e-12, "--init", "first", "--out", "second")
    line = next(line for line in out.splitlines() if "--init" in line)
    assert code == 0 and line.endswith("start anew: head.weight, head.bias"), err
    weights = [torch.load(here / name / "best.pt", weights_only=True)["weights"] for name in ("first", "second")]
    for name in ("stem.0.weight", "down.3.1.3.weight", "up.3.up.weight"):
        torch.testing.assert_close(weights[1][name], weights[0][name])
    assert weights[1]["head.weight"].shape[0] == 2
    for wrong, expected in ((("--model", "fcn32"), "--model"), (("--width", 6), "weights fit; give its --model and"),
                            (("--model", "fcn32", "--pretrained"), "--init")):
        code, _, err = run(*words, "--data", "two", "--init", "first", *wrong, "--out", "third")
        assert code == 2 and expected in err and err.count("\n") == 1


def test_what_only_a_fourth_channel_shows(run, here):
    """Squares in near infrared are learnt, scored, and found in files; half of the images have one."""
    rng = np.random.default_rng(0)
    for i in range(40):
        mask = np.zeros((32, 40), np.uint8)
        if i % 2:
            top, left = rng.integers(0, 20, 2)
            mask[top : top + 12, left : left + 12] = 1
        image = np.dstack([rng.integers(0, 256, (32, 40, 3)), 60 + 100 * mask + rng.integers(0, 60, mask.shape)])
        for path, array in ((f"pixels/images/{i}.png", image), (f"pixels/masks/{i}.png", mask),
                            (f"whole/{('without', 'with')[i % 2]}/{i}.png", image)):
            (here / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    code, _, err = run("train_segmentation.py", "--data", "pixels", "--channels", 4, "--epochs", 30, *QUICK,
                       "--lr", 0.01)
    assert code == 0, err
    iou = json.loads((here / "runs/segmentation/unet-pixels/summary.json").read_text())["metrics"]["iou"]["foreground"]
    code, out, err = run("evaluate.py", "score", "runs/segmentation/unet-pixels", "--data", "pixels", "--device", "cpu")
    assert code == 0 and iou > 0.8, err
    shown = float(next(line for line in out.splitlines() if line.startswith("foreground")).split()[1])
    code, _, err = run("evaluate.py", "predict", "runs/segmentation/unet-pixels", "pixels/images", "--out", "found")
    assert code == 0, err
    truth, found = (np.stack([Image.open(here / place / f"{i}.png") for i in range(40)]) == 1
                    for place in ("pixels/masks", "found"))
    assert (truth & found).sum() / (truth | found).sum() == pytest.approx(shown, abs=0.02)

    for model in ("resnet18", "resnet9"):
        code, _, err = run("train_classifier.py", "--data", "whole", "--channels", 4, "--model", model, "--epochs", 8,
                           *QUICK, "--lr", 0.02, "--out", model)
        assert code == 0, err
        code, _, err = run("evaluate.py", "predict", model, "whole", "--out", "labels", "--device", "cpu")
        assert code == 0, err
        labels = rows(here / "labels/predictions.csv")
        assert sum(row["label"] == row["image"].split(os.sep)[-2] for row in labels) > 35
    Image.new("RGB", (40, 32)).save("plain.png")
    code, _, err = run("evaluate.py", "predict", model, "plain.png", "--out", "labels", "--device", "cpu")
    assert code == 2 and "plain.png: it has 3 channels" in err and err.count("\n") == 1
    code, _, err = run("train_segmentation.py", "--data", "pixels", "--channels", 4, "--model", "fcn32", "--epochs", 1,
                       "--tile", 32, 32, *QUICK)
    assert code == 0, err


def test_a_run_is_drawn_while_it_trains(run, here, street, caches, monkeypatch):
    """After every epoch its curves, of a single epoch too, and at every new best network what that predicts on val."""
    drawn, plot = [], utils.plot_curves
    monkeypatch.setattr(training.run, "DRAWING_PAUSE", 0)
    monkeypatch.setattr(training.run, "plot_curves", lambda history, path: (
        plot(history, path), drawn.append((len(history), path.with_name("predictions.png").exists()))))
    words = ("--data", street, "--data-dir", caches, *QUICK, "--epochs", 2, "--out", "run")
    for script in ("train_segmentation.py", "train_colorization.py"):
        code, _, err = run(script, *words)
        assert code == 0, err
        assert drawn[:2] == [(1, False), (2, True)] and len(drawn) == 3
        drawn.clear()
    one = here / "one.png"
    plot([{"epoch": 1, "train_loss": 0.5}], one)
    blue = (np.array(Image.open(one).convert("RGB")).astype(int) * [-1, -1, 2]).sum(2) > 150
    assert blue.sum() > 4  # a dot


def test_sweep_tests_only_the_best_and_resumes(run, here, kinds, caches):
    words = ("train_classifier.py", "--data", kinds, "--data-dir", caches, "--epochs", 1, *QUICK, "--out", "sweep",
             "--sweep", "optimizer=sgd,adam", "schedule=none", "lr=1e-3", "batch-size=8")
    code, out, err = run(*words)
    assert code == 0 and "sweep: 2 networks" in out and "sweep 1/2, about 0 minutes left" in out, err
    assert [row["run"] for row in rows(here / "sweep/sweep.csv")] == ["sgd-none-0.001-8", "adam-none-0.001-8"]
    assert Image.open(here / "sweep/sweep.png").width > 100
    assert len(list(here.glob("sweep/*/summary.json"))) == 1
    table = (here / "sweep/sweep.csv").read_bytes()
    code, out, err = run(*words)
    assert code == 0 and "epoch   1/1" not in out, err
    assert (here / "sweep/sweep.csv").read_bytes() == table
    code, out, err = run(*words, "--seed", 1)
    assert code == 2 and "--seed was 0, is 1" in err
    grid = ("optimizer=sgd", "schedule=none", "lr=1e30,1e-3", "batch-size=8")
    code, out, err = run(*words[:-6], "other", "--sweep", *grid)
    assert code == 0 and "no longer finite" in out and "best on val: sgd-none-0.001-8" in out, err


def test_colorization_with_and_without_skips(run, here, street, caches):
    words = ("train_colorization.py", "--data", street, "--data-dir", caches, "--epochs", 4, *QUICK, "--target", "rgb")
    code, out, err = run(*words, "--out", "unet")
    assert code == 0 and "grey" in out and "mean colour" in out, err
    code, out, err = run(*words, "--no-skips", "--out", "unet-noskips")
    assert code == 0, err
    for name in ("unet", "unet-noskips"):
        assert Image.open(here / name / "predictions.png").width > 300
    metrics = json.loads((here / "unet/summary.json").read_text())["metrics"]
    assert metrics.keys() >= {"psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio", "baselines"}
    assert len(rows(here / "unet/images.csv")) == 4
    code, out, err = run(*words[:5], "--epochs", 1, *QUICK, "--target", "lab", "--out", "lab")
    assert code == 0, err


def test_dry_run_reports_and_writes_no_run(run, here, street, caches):
    code, out, err = run("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--dry-run",
                         "--size", "32x40")
    assert code == 0, err
    for word in ("class 2", "32x40", "train: "):
        assert word in out
    assert not (here / "runs").exists()
    shutil.copytree(street, "other")
    (here / "other/train/masks/3.png").unlink()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save("other/val/masks/1.png")
    code, out, err = run("train_segmentation.py", "--data", "other", "--data-dir", caches, *QUICK, "--dry-run")
    assert code == 2 and "3.png" in err and "1.png" in err


@pytest.mark.parametrize("instructions, slow", [({}, True), ({"avx512_bf16": True}, False)])
def test_bf16_that_is_slow_says_so(run, here, street, caches, monkeypatch, instructions, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    code, out, err = run("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--dry-run",
                         "--precision", "bf16")
    assert code == 0 and ("fp32" in err) is slow


def hashes(folder):
    weights = torch.load(folder / "last.pt", weights_only=True)
    best = torch.load(folder / "best.pt", weights_only=True)
    flat = [*weights["weights"].values(), *weights["average"].values(), *best["weights"].values()]
    return [tensor.double().sum().item() for tensor in flat], (folder / "metrics.csv").read_bytes()


@pytest.mark.parametrize("script,data,extra", [("train_segmentation.py", "street", ()),
                                               ("train_classifier.py", "kinds", ("--workers", 2))])
def test_resumed_equals_uninterrupted(run, here, request, caches, script, data, extra):
    """Stopped by SIGTERM and by SIGKILL in mid-epoch, and resumed: the same weights and table to the bit."""
    words = ["--data", request.getfixturevalue(data), "--data-dir", caches, *QUICK, "--epochs", 60,
             "--checkpoint-minutes", 0.001]
    code, _, err = run(script, *words, "--out", "whole")
    assert code == 0, err
    command = [sys.executable, ROOT / script, *map(str, [*words, *extra, "--out", "parts"])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for number in (signal.SIGTERM, signal.SIGKILL):
        seen = 0
        while seen < 5 and process.stdout.readline():
            seen += 1
        time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)  # until its loaders have ended too
        assert process.returncode in ((143,) if number == signal.SIGTERM else (-9,)), err
        assert number == signal.SIGKILL or "--resume" in err
        process = subprocess.Popen([*command, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert hashes(here / "parts") == hashes(here / "whole")


def test_going_on_with_more_epochs_and_with_other_images(run, here, street, caches):
    """More epochs take up the longer schedule; images that came since would mix what is trained on with test."""
    for kind in ("images", "masks"):
        shutil.copytree(street / "train" / kind, here / "flat" / kind)
    words = ("train_segmentation.py", "--data", "flat", "--data-dir", caches, *QUICK, "--schedule", "cosine",
             "--lr", 1e-3, "--out", "run")
    for epochs in (("--epochs", 2), ("--epochs", 4, "--resume")):
        code, _, err = run(*words, *epochs)
        assert code == 0, err
    rates = [float(row["lr"]) for row in rows(here / "run/metrics.csv")]
    assert rates[1] == 0 and rates[2] == pytest.approx(1e-3 * (1 + math.cos(math.pi * 3 / 4)) / 2, rel=1e-3)
    assert json.loads((here / "run/config.json").read_text())["settings"]["epochs"] == 4

    for path in list(here.glob("flat/*/*.png")):
        shutil.copy(path, path.with_name(f"new {path.name}"))
    code, _, err = run(*words, "--epochs", 5, "--resume")
    assert code == 2 and "other images" in err
    code, _, err = run("evaluate.py", "score", "run", "--data-dir", caches)
    assert code == 2 and "split.json" in err


def test_a_damaged_checkpoint_is_passed_over(run, here, street, caches):
    words = ("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--out", "run")
    assert run(*words, "--epochs", 2)[0] == 0
    expected = hashes(here / "run")
    last = here / "run/last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    (here / "run/metrics.csv").unlink()
    code, _, err = run(*words, "--epochs", 2, "--resume")
    assert code == 0 and "last.pt" in err
    assert hashes(here / "run") == expected
    last.unlink()  # as when killed between two renames
    assert run(*words, "--epochs", 2, "--resume")[0] == 0
    assert hashes(here / "run") == expected
    code, _, err = run(*words, "--epochs", 2, "--resume", "--lr", 0.5)
    assert code == 2 and "--lr" in err
    (here / "run/config.json").unlink()  # nobody knows its settings
    code, _, err = run(*words, "--epochs", 3, "--resume", "--lr", 0.5)
    assert code == 2 and "config.json" in err
    assert hashes(here / "run") == expected


def test_an_older_run_is_kept(run, here, street, caches):
    words = ("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--epochs", 1, "--out", "run")
    run(*words)
    before = (here / "run/best.pt").read_bytes()
    code, out, _ = run(*words)
    assert code == 0 and "run.1" in out
    assert (here / "run.1/best.pt").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_with_advice(run, here, street, caches):
    code, _, err = run("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--epochs", 3,
                       "--lr", 1e30, "--optimizer", "sgd", "--out", "run")
    assert code == 2 and "--lr" in err and err.count("\n") == 1


def test_a_second_run_in_the_folder_is_refused(run, here, street, caches, monkeypatch):
    words = ("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--epochs", 1, "--out", "run")
    assert run(*words)[0] == 0
    before = (here / "run/last.pt").read_bytes()
    code = "import fcntl; lock = open('run/.lock', 'w'); fcntl.lockf(lock, fcntl.LOCK_EX); print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    for each in (words, (*words, "--resume"), ("evaluate.py", "predict", "run", street / "test", "--out", "run"),
                 ("evaluate.py", "grade", "segmentation", "--truth", street / "test", "--out", "run", street / "val")):
        code, _, err = run(*each)
        assert code == 2 and "another run" in err and err.count("\n") == 1
    holder.communicate(b"\n")
    assert (here / "run/last.pt").read_bytes() == before and not (here / "run.1").exists()
    assert run(*words, "--resume")[0] == 0
    code, _, err = run(*words[:-1], street / "run")  # its images would be data
    assert code == 2 and "outside the data" in err and err.count("\n") == 1

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(training.checkpoint.fcntl, "lockf", no_locks)  # as on some network file systems
    code, _, err = run(*words[:-1], "unlocked")
    assert code == 0, err


def test_a_run_whose_scores_are_never_finite_says_so(run, here, street, caches):
    code, _, err = run("train_colorization.py", "--data", street, "--data-dir", caches, *QUICK, "--epochs", 1,
                       "--batch-size", 12, "--lr", 1e30)
    assert code == 2 and "finite" in err and err.count("\n") == 1


def test_a_table_that_excel_holds_does_not_end_a_run(run, here, street, caches, monkeypatch):
    """An epoch's rows come with the next one. Only after the last epoch there is none: the run ends and can go on."""
    replace, written, shut = os.replace, [], (2,)

    def locked(source, target):
        if str(target).endswith("metrics.csv"):
            written.append(target)
            if len(written) in shut:
                raise PermissionError(errno.EACCES, "Access is denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", locked)
    words = "train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--epochs", 3, "--out", "run"
    code, _, err = run(*words)
    assert code == 0 and len(utils.read_csv("run/metrics.csv")) == 3, err
    shut = range(4, 9)
    code, _, err = run(*words, "--epochs", 4, "--resume")
    assert code == 2 and "run/metrics.csv: Access is denied" in err and len(utils.read_csv("run/metrics.csv")) == 3
    shut = ()
    assert run(*words, "--epochs", 4, "--resume")[0] == 0 and len(utils.read_csv("run/metrics.csv")) == 4


def test_a_full_disk_leaves_the_last_good_files(run, here, street, caches, monkeypatch):
    words = ("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--out")
    assert run(*words, "whole", "--epochs", 2)[0] == 0
    shutil.copytree("whole", "begun")
    assert run(*words, "whole", "--epochs", 3, "--resume")[0] == 0
    sync, failed = os.fsync, []
    for fitting in range(6):  # files, config.json the first of them
        shutil.copytree("begun", f"run{fitting}")
        left = iter(range(fitting))

        def full(file):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return sync(file)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            code, _, err = run(*words, f"run{fitting}", "--epochs", 3, "--resume")
        assert code == 2 and "No space left" in err and err.count("\n") == 1
        failed.append(err.split(":")[1].strip().removeprefix(f"run{fitting}/"))
        assert not list((here / f"run{fitting}").glob("*.partial"))
        assert load_checkpoint(here / f"run{fitting}/last.pt") and load_run(here / f"run{fitting}")
        assert run(*words, f"run{fitting}", "--epochs", 3, "--resume")[0] == 0
        assert hashes(here / f"run{fitting}") == hashes(here / "whole")
    assert failed[:2] == ["config.json", "metrics.csv"] and "next.pt" in failed


def fail(message):
    raise RuntimeError(message)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no loader processes")
@pytest.mark.parametrize("failure, expected", [
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "try --workers 0"),
    (lambda: read_image("nowhere/a\nb.png"), r"train_segmentation.py: nowhere/a\nb.png: no such file; check the name"),
    (lambda: np.empty(1 << 50), "out of memory: try a smaller --batch-size"),
    (lambda: fail("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), "out of memory"),
])
def test_what_goes_wrong_in_a_loader_is_one_line(run, here, street, caches, monkeypatch, failure, expected):
    monkeypatch.setattr(utils.WholeBatches, "__getitem__", lambda self, indices: failure())
    code, _, err = run("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--workers", 1,
                       "--epochs", 1, "--out", "run")
    assert code == 2 and expected in err and err.count("\n") == 1, err


class Bomb:
    def __reduce__(self):
        return os.system, ("touch executed",)


def bad_checkpoints(best):
    """Name -> bytes of files that are no sound checkpoint."""
    good = torch.load(best, weights_only=True)
    torch.save(good | {"network": good["network"] | {"width": 10**9}}, "huge.pt")
    torch.save(good | {"network": good["network"] | {"width": 8}}, "mismatched.pt")
    torch.save(good | {"classes": 7}, "classes.pt")
    torch.save({"weights": Bomb()}, "bomb.pt")
    names = ("huge", "mismatched", "classes", "bomb")
    return {name: open(f"{name}.pt", "rb").read() for name in names} | {
        "pickle": pickle.dumps(Bomb()), "zeros": bytes(1000), "empty": b"", "truncated": best.read_bytes()[:5000]}


def test_hostile_checkpoints_are_refused(run, here, street, caches):
    run("train_segmentation.py", "--data", street, "--data-dir", caches, *QUICK, "--epochs", 1, "--out", "run")
    for name, content in bad_checkpoints(here / "run/best.pt").items():
        (here / "bad.pt").write_bytes(content)
        code, out, err = run("evaluate.py", "score", "bad.pt")
        assert code == 2 and "bad.pt" in err and err.count("\n") == 1, name
    assert not (here / "executed").exists()


def odd_images():
    """Name -> (height, width) when upright of images that are unusual and right."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (1, 1)).save("pixel.png")
    Image.new("RGB", (60000, 2)).save("wide.png")
    Image.new("RGB", (70000, 1)).save("wider.png")  # wider than a JPEG can be
    Image.fromarray(rng.integers(0, 65536, (20, 30), np.uint16)).save("deep.png")
    rgb.convert("CMYK").save("print.jpg")
    rgb.convert("RGBA").save("clear.png")
    rgb.save("moving.gif", save_all=True, append_images=[rgb.rotate(90)])
    rgb.save("turned.jpg", exif=turned)
    rgb.save("two\nlines.png")
    rgb.save("深 度.png")
    rgb.save("really png.jpg", "PNG")
    size = (20, 30)
    return {"pixel.png": (1, 1), "wide.png": (2, 60000), "wider.png": (1, 70000), "deep.png": size, "print.jpg": size,
            "clear.png": size, "turned.jpg": (30, 20), "two\nlines.png": size, "深 度.png": size,
            "really png.jpg": size}


def test_predict_uses_or_names_every_image(run, here):
    """One bad image stops no other; each is one line, whatever its name; nothing is written through a link."""
    sizes = odd_images()
    (here / "bad\nname.png").write_bytes(b"?")
    (here / "cut.png").write_bytes((here / "deep.png").read_bytes()[:300])
    (here / "empty.jpg").touch()
    bad = ["bad\nname.png", "cut.png", "empty.jpg", "nowhere.png", "moving.gif"]
    for number, checkpoint in enumerate(fuzz.checkpoints()):
        task = checkpoint["task"]
        save_checkpoint("best.pt", checkpoint)
        out = here / f"out{number}"
        out.mkdir()
        (out / "deep.png").symlink_to(here / "untouched.png")
        code, text, err = run("evaluate.py", "predict", "best.pt", "--device", "cpu", "--out", out, *bad, *sizes)
        assert code == 2 and f"{len(sizes)} of {len(sizes) + len(bad)}" in text, err
        assert err.count("\n") == len(bad) and all(name.replace("\n", r"\n") in err for name in bad), err
        if task == "classification":
            assert {row["name"] for row in rows(out / "labels.csv")} == {f"{here.name}/{name}" for name in sizes}
        else:
            assert {name: Image.open(out / f"{os.path.splitext(name)[0]}.png").size[::-1] for name in sizes} == sizes
        assert not (here / "untouched.png").exists()


@pytest.mark.parametrize("words, expected", [
    (("train_segmentation.py", "--data", "nowhere"), "nowhere"),
    (("train_segmentation.py", "--data", "empty"), "empty"),
    (("train_segmentation.py", "--size", "0", "128"), "--size"),
    (("train_segmentation.py", "--size", "96x0"), "--size"),
    (("train_segmentation.py", "--model", "vgg"), "--model"),
    (("train_segmentation.py", "--widht", "8"), "--widht 8; do you mean --width?"),
    (("train_segmentation.py", "--tile", "32", "32", "--size", "32", "40"), "--size"),
    (("train_segmentation.py", "--epochs", "-1"), "--epochs"),
    (("train_segmentation.py", "--seed", "-1"), "--seed"),
    (("train_segmentation.py", "--seed", 10**20), "--seed"),
    (("train_segmentation.py", "--weight-decay", "-0.1"), "--weight-decay"),
    (("train_segmentation.py", "--pretrained", "--init", "run"), "--pretrained"),
    (("train_colorization.py", "--size", "8", "8"), "--size"),
    (("train_segmentation.py", "--device", "abacus"), "--device"),
    (("train_classifier.py", "--data", "empty"), "empty"),
    (("train_classifier.py", "--sweep", "optimiser=adam"), "do you mean --optimizer?"),
    (("train_classifier.py", "--sweep", "schedule=cosin"), "cosine"),
    (("train_classifier.py", "--sweep", "lr=-1"), "--lr"),
    (("evaluate.py", "score", "empty"), "best.pt"),
    (("evaluate.py", "predict", "nowhere", "x.png", "--out", "o"), "nowhere"),
])
def test_mistakes_are_one_line_and_code_2(run, here, words, expected):
    (here / "empty").mkdir()
    code, _, err = run(*words)
    assert code == 2 and expected in err.splitlines()[-1] and "Traceback" not in err
    assert not (here / "runs").exists()


def test_what_a_folder_of_one_s_own_is_told(run, here, street, caches):
    """A data set's name brings its recipe, a batch of one tiny image cannot be normalized, and the splits that were
    made in training are made again for its scores."""
    shutil.copytree(street / "train", "camvid")
    words = "train_segmentation.py", "--data", "./camvid", "--data-dir", caches, *QUICK, "--epochs", 1
    code, out, err = run(*words, "--out", "run")
    assert code == 0 and "taken: the recipe of the data set camvid, because the folder has that name" in out, err
    shutil.copytree("camvid", "elsewhere/camvid")  # as in Colab: still the run's own images
    for data in ((), ("--data", here / "camvid"), ("--data", "elsewhere/camvid")):
        code, out, err = run("evaluate.py", "score", "run", *data, "--data-dir", caches)
        assert code == 0 and "camvid/test: 1 images" in out, err
        assert "1 images at" in out and "held out in training" in out
    for folder in map((here / "elsewhere/camvid").joinpath, ("images", "masks")):
        path = min(folder.iterdir())
        path.rename(path.with_stem("new"))
    code, out, err = run("evaluate.py", "score", "run/best.pt", "--data", "elsewhere/camvid", "--data-dir", caches)
    assert code == 0 and "camvid/test: 1 images" not in out and "held out" not in out, err
    code, _, err = run(*words, "--size", 16, 16, "--batch-size", 1, "--out", "tiny")
    assert code == 2 and "try a larger --batch-size or --size" in err and err.count("\n") == 1


def test_a_rare_class_does_not_win_by_its_weight(run, here, caches):
    """Two classes that brightness tells apart, 600 to 1: smoothing must not make all of them the rare one."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", (1200, 2)), ("val", (20, 2)), ("test", (20, 2))):
        for bright, count in enumerate(counts):
            (here / "rare" / split / "ab"[bright]).mkdir(parents=True)
            for i in range(count):
                values = rng.integers(0, 100, (8, 8, 3), np.uint8) + np.uint8(150 * bright)
                Image.fromarray(values).save(here / "rare" / split / "ab"[bright] / f"{i}.png", compress_level=0)
    code, _, err = run("train_classifier.py", "--data", "rare", "--data-dir", caches, "--model", "resnet9", "--epochs",
                       3, "--width", 8, "--device", "cpu", "--out", "run")
    recall = json.loads((here / "run/summary.json").read_text())["metrics"]["per_class"]
    assert code == 0 and recall["a"] == 1, err


@pytest.mark.parametrize("out", (".", "..", "code", "mine"))
def test_a_run_takes_no_folder_that_holds_other_things(run, here, street, caches, out, monkeypatch):
    (here / "work/code").mkdir(parents=True)
    (here / "work/code/model.py").touch()
    shutil.copytree(street, here / "work/mine/data")
    monkeypatch.chdir(here / "work")
    words = "train_segmentation.py", "--data", "mine/data", "--data-dir", caches, *QUICK, "--epochs", 1, "--out", out
    code, _, err = run(*words)
    assert code == 2 and "a folder of its own, outside the data and the code" in err and err.count("\n") == 1


def test_a_reader_that_has_seen_enough_ends_it_quietly(here):
    (here / "talk.py").write_text(f"""import sys
sys.path.insert(0, {str(ROOT)!r})
from argparse import Namespace
from training.settings import run_main
run_main(lambda args: print("epoch\\n" * 10**6), Namespace(debug=False))
""")
    done = subprocess.run(["bash", "-c", f"{sys.executable} talk.py | head -1; exit ${{PIPESTATUS[0]}}"],
                          capture_output=True, text=True, cwd=here)
    assert (done.returncode, done.stdout, done.stderr) == (141, "epoch\n", "")


def test_grey_images_have_no_colours_to_learn(run, here):
    for i in range(30):
        Image.fromarray(np.full((16, 16), 8 * i, np.uint8)).save(here / f"{i}.png")
    code, _, err = run("train_colorization.py", "--data", ".", "--out", "../run", "--data-dir", "../data")
    assert code == 2 and "all images are grey" in err


def test_settings_suit_a_folder_of_one_s_own(run, here, caches):
    """Few images make small batches and many epochs, large ones are cropped on a CPU, and few steps are said."""
    masks = np.zeros((300, 280), np.uint8)
    masks[:, 140:] = 1
    for i in range(24):
        for kind, image in (("images", picture(np.random.default_rng(i), masks)), ("masks", masks)):
            path = here / "mine" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            (Image.fromarray(image) if kind == "masks" else image).save(path)
    words = ["train_segmentation.py", "--data", "mine", "--data-dir", "caches", "--device", "cpu"]
    code, out, err = run(*words, "--dry-run")
    # 20 images are left to train on, each with 2 x 2 crops: 40 batches an epoch.
    assert code == 0 and "taken: width 16, tile [256, 256], batch size 2, epochs 37" in out, err
    assert "few to learn" not in out
    code, out, err = run(*words, "--size", 32, 32, "--width", 4, "--epochs", 4, "--lr", 1e-12)
    assert code == 0 and "40 steps are few to learn from" in out, err
    assert "batch size 2, epochs 4" in out and "tile" not in out
    settings = json.loads((here / "runs/segmentation/unet-mine/config.json").read_text())["settings"]
    assert (settings["width"], settings["batch_size"], settings["epochs"]) == (4, 2, 4)
    assert "val has not improved since epoch 1" in out
    code, _, err = run(*words, "--size", 32, 32, "--width", 4, "--epochs", 4, "--lr", 0.1, "--resume")
    assert code == 2 and "--lr was 1e-12, is 0.1" in err and err.count("\n") == 1
