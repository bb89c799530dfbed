"""Runs are started from notebooks, threads, containers and half-made environments, and go on elsewhere."""
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings

import jupyter_client
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import train_classifier
import utils
from data import InputError
from data.cache import Split, check_loaders
from training.checkpoint import load_checkpoint
from training.flags import get_args_parser
from training.run import Run

QUICK = ("--width", 4, "--batch-size", 8, "--device", "cpu", "--epochs", 1, "--out", "run")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def words(kinds, tmp_path_factory):
    """A short training of two classes."""
    return "train_classifier.py", "--data", kinds, "--data-dir", tmp_path_factory.getbasetemp() / "caches", *QUICK


# ---------------------------------------------------------------------------------------------------------------------
# Where runs start


def test_imports_change_nothing():
    code = """if True:
        import os, signal, sys, warnings
        before = lambda: (dict(os.environ), sys.stdout.errors, list(map(signal.getsignal, signal.valid_signals())))
        seen = before()
        import evaluate, train_classifier, train_segmentation, train_colorization
        assert before() == seen
        import matplotlib
        assert matplotlib.rcParams["backend"] == "svg" and matplotlib.rcParams["text.parse_math"]
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=os.environ | {"MPLBACKEND": "svg"})


def test_in_a_notebook(here, words):
    """A real kernel: %run trains and draws, and its inline plots still appear after that."""
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    outputs = []
    try:
        for code in (f"%run {ROOT}/{' '.join(map(str, words))}", "import matplotlib.pyplot as plt; plt.plot([1])"):
            reply = client.execute_interactive(code, timeout=120, output_hook=outputs.append)
            assert reply["content"]["status"] == "ok", outputs
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    contents = [message["content"] for message in outputs]
    assert any("accuracy: " in content.get("text", "") for content in contents)
    assert any("image/png" in content.get("data", {}) for content in contents)
    assert Image.open("run/confusion.png").width > 100


def test_a_backend_that_is_not_here(run, here, words):
    code = "import os, numpy, utils; utils.plot_images([], 'empty.png'); print(os.environ['MPLBACKEND'])"
    code += "; utils.plot_images([('', [('two channels', numpy.zeros((8, 8, 2), 'uint8'))])], 'two.png')"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=os.environ | {"MPLBACKEND": "module://elsewhere", "PYTHONPATH": str(ROOT)}).stdout
    assert out == "module://elsewhere\n" and Image.open("empty.png").width > 100


@pytest.mark.parametrize("stdout", [None, io.StringIO()])  # closed, and one that is no file
def test_any_standard_output(run, here, words, monkeypatch, stdout):
    monkeypatch.setattr(sys, "stdout", stdout)
    code, _, err = run(*words)
    assert code == 0, err
    assert (here / "run/summary.json").exists() and (stdout is None or "accuracy: " in stdout.getvalue())


def test_in_a_thread(here, words):
    args = get_args_parser("classification").parse_args(list(map(str, words[1:])))
    thread = threading.Thread(target=train_classifier.main, args=(args,))
    thread.start()
    thread.join()
    assert (here / "run/summary.json").exists()


def test_class_names_that_the_font_lacks(run, here, kinds):
    for split in ("train", "val", "test"):
        shutil.copytree(kinds / split / "apple", here / "cats" / split / "猫")
        shutil.copytree(kinds / split / "lime", here / "cats" / split / "$x$")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, err = run("train_classifier.py", "--data", "cats", "--data-dir", ".", *QUICK)
    assert code == 0 and "猫" in out and "Glyph" not in err, err
    assert Image.open("run/confusion.png").width > 100


@pytest.mark.parametrize("number, ignored, code", [
    (signal.SIGHUP, False, 129), (signal.SIGHUP, True, 0), (signal.SIGTERM, False, 143)])
def test_signals_save(run, here, words, monkeypatch, number, ignored, code):
    """A terminal that closes saves the run, unless nohup has it ignored."""
    step = Run.step

    def interrupted(self, loss):
        step(self, loss)
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        monkeypatch.setattr(Run, "step", interrupted)
        assert run(*words)[0] == code
        assert signal.getsignal(number) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(number, before)
    assert load_checkpoint("run/last.pt")["step_in_epoch"] == (0 if ignored else 1)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows")
@pytest.mark.parametrize("ignored", [False, True])
def test_a_loader_ignores_the_signals_that_training_ignores(ignored):
    def loader():
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        utils.leave_stopping_to_parent(0)
        os._exit(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)

    process = multiprocessing.get_context("fork").Process(target=loader)
    process.start()
    process.join()
    assert process.exitcode == ignored


@pytest.mark.parametrize("call", ["time.sleep(60)", "lock.acquire()"])
def test_a_second_interrupt_ends_a_step_that_hangs(here, words, call):
    (here / "hang.py").write_text(f"""import runpy, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
import torch
from training.run import Run

def hang(self, loss):
    lock = threading.Lock()
    lock.acquire()
    print("hangs", flush=True)
    {call}

Run.step = hang
sys.argv = {list(map(str, words))}
runpy.run_path({str(ROOT / words[0])!r}, run_name="__main__")
""")
    process = subprocess.Popen([sys.executable, "hang.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert "hangs\n" in iter(process.stdout.readline, "")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    end = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < end:  # two signals count as one while it is not running
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    process.kill()
    assert process.returncode == 130 and "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("words", [("train_segmentation.py", "--help"), ("train_classifier.py", "--help"),
                                   ("train_colorization.py", "--widht", "8"), ("evaluate.py", "grade", "--help"),
                                   ("evaluate.py", "report", "--help"), ("train_segmentation.py", "--size", "96x")])
def test_help_and_mistakes_do_not_wait_for_torch(words):
    code = f"""if True:
        import atexit, runpy, sys
        atexit.register(lambda: print(*({{"torch", "numpy", "PIL"}} & sys.modules.keys()), file=sys.stderr))
        sys.argv = {list(words)}
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "" and done.returncode == (0 if words[-1] == "--help" else 2)


def test_an_interrupt_while_torch_is_imported(here):
    """A package in place of torch, in whose import the Ctrl-C arrives."""
    (here / "torch.py").write_text("import os, signal\n"
                                   "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    sum(range(10**6))\n"
                                   "except BaseException:\n    pass\n")
    for script in ("train_segmentation.py", "evaluate.py score run"):
        done = subprocess.run([sys.executable, *f"{ROOT}/{script}".split()], capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(here)},
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        assert (done.returncode, done.stderr) == (130, "")


def test_loaders_without_room(run, words, monkeypatch):
    """Three loaders keep 12 batches of five samples, each of 12 bytes and a label of 8; and 48 open files."""
    split = Split(np.zeros((9, 3, 2, 2), np.uint8), np.zeros(9, np.int64), list("abcdefghi"))
    check_loaders(split, 3, 5, memory=1200, files=48)
    with pytest.raises(InputError, match="--workers 0.*--shm-size"):
        check_loaders(split, 3, 5, memory=1199)
    with pytest.raises(InputError, match="--workers 0.*ulimit"):
        check_loaders(split, 3, 5, files=47)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no loader processes")
@pytest.mark.parametrize("more", [12, 32, 60])
def test_too_few_open_files(run, here, words, more):
    """However many there are, a run either ends in one line or goes through."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + more, before[1]))
    try:
        code, _, err = run(*words, "--workers", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert code == 0 or code == 2 and "--workers 0" in err and err.count("\n") == 1, err
    assert (code == 0) == (more > 36)


# ---------------------------------------------------------------------------------------------------------------------
# Going on


def test_a_resumed_run_follows_its_settings(run, here, kinds, monkeypatch):
    """Begun in one place, it goes on in another, to the bit; what contradicts it is refused before data are opened."""
    shutil.copytree(kinds, "kinds")
    words = ("train_classifier.py", "--data", "kinds", "--data-dir", "caches", "--optimizer", "adam", *QUICK)
    assert run(*words)[0] == 0
    os.rename("run", "whole")
    step = Run.step

    def interrupted(self, loss):
        step(self, loss)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", interrupted)
        assert run(*words)[0] == 143
    os.rename("kinds", "moved")
    again = ("train_classifier.py", "--out", "run", "--resume")
    code, _, err = run(*again, "--seed", 1, "--recipe", "report")
    assert code == 2 and "--recipe was best, is report; --seed was 0, is 1" in err and err.count("\n") == 1
    code, _, err = run("train_segmentation.py", *again[1:])
    assert code == 2 and "--task was classification, is segmentation" in err
    code, _, err = run(*again)
    assert code == 2 and "kinds: no such folder" in err
    os.symlink("moved", "link")
    for data in ("link", here / "moved"):
        code, _, err = run(*again, "--data", data)
        assert code == 0, err
    weights, expected = (load_checkpoint(f"{name}/last.pt")["weights"] for name in ("run", "whole"))
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    os.rename("moved/train/apple/0.png", "moved/train/apple/new.png")
    code, _, err = run(*again, "--data", "moved")
    assert code == 2 and "other images" in err and err.count("\n") == 1


def test_patience_ends_a_run(run, here, words):
    """Val of kinds is all right after the first epochs, and cannot improve."""
    code, out, err = run(*words, "--epochs", 30, "--patience", 2)
    summary = json.loads((here / "run/summary.json").read_text())
    assert code == 0 and summary["epochs"] == summary["best_epoch"] + 2 < 30, err
    assert f"since epoch {summary['best_epoch']}" in out
    assert run(*words, "--epochs", 30, "--resume")[1].count("epoch  ") == 0  # with that run's patience
    code, out, err = run(*words, "--epochs", 30, "--resume", "--patience", 3)
    assert code == 0 and json.loads((here / "run/summary.json").read_text())["epochs"] == summary["epochs"] + 1, err
