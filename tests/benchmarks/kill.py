"""Kill the three training scripts at random moments, go on with --resume, and compare with a run left alone.

    python tests/benchmarks/kill.py                 (about 5 minutes on 2 cores)
    python tests/benchmarks/kill.py --kills 300 --seed 1

Kills are by SIGKILL and SIGTERM in turn, with 0 and 2 loader processes, spread over the whole run; every
third waits for a file that is just being written (a checkpoint, a table, the cache). Equal are the weights, averaged
and best ones too, and metrics.csv, byte by byte. Every script is imported once and forked, so that a run of some
seconds is not mostly import.
"""
import argparse
import contextlib
import hashlib
import os
import random
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # bit-identical sums need an equal number of threads
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from conftest import make_kinds, make_street  # noqa: E402

import train_classifier  # noqa: E402, F401  here, so that no fork has to import anything

SCRIPTS = {"train_segmentation.py": "street", "train_classifier.py": "kinds", "train_colorization.py": "street"}
LIMIT = 600  # seconds until a run counts as hung


def start(script, words, log):
    """Run a script in a forked process with its output in `log`; returns the process id."""
    pid = os.fork()
    with contextlib.suppress(OSError):  # both do it, for none knows who is first
        os.setpgid(pid, pid)
    if pid:
        return pid
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = [script, *map(str, words)]
        runpy.run_path(str(ROOT / script), run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid, seconds=LIMIT, until=lambda: False):
    """The exit code, negative for a signal; None where the process still runs after `seconds` or once `until()`."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop and not until():
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def being_written(folder):
    """The names of files below `folder` that are not yet in their place."""
    found = []
    for place in (folder / "run", folder / "data/cache"):
        with contextlib.suppress(OSError):  # they come and go
            found += [name for name in os.listdir(place) if name.endswith((".partial", ".tmp")) or name == "next.pt"]
    return found


def digest(folder):
    """A hash of all that has to be equal."""
    total = hashlib.sha256((folder / "metrics.csv").read_bytes())
    last, best = (torch.load(folder / name, weights_only=True) for name in ("last.pt", "best.pt"))
    for weights in (last["weights"], last["average"], best["weights"]):
        for key, tensor in weights.items():
            total.update(key.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def kill_and_resume(script, words, folder, number, delay, aimed):
    """Begin a run, kill it, resume it to its end: (what happened, in words; the digest, or None)."""
    words, log = [*words, "--data-dir", folder / "data", "--out", folder / "run"], folder / "log"
    folder.mkdir()
    pid = start(script, words, log)
    code = wait(pid, delay)
    if code is None and aimed:
        code = wait(pid, until=lambda: being_written(folder))
    if code is not None:
        return (None if code == 0 else f"exit code {code} before the kill, see {log}"), None
    if number == signal.SIGTERM:  # as Slurm, systemd and a terminal do: to the loaders as well
        os.killpg(pid, number)
    else:
        os.kill(pid, number)
    code = wait(pid)
    if code not in (-number, 128 + number, 0):
        return f"exit code {code} when killed, see {log}", None
    table = folder / "run/metrics.csv"
    epoch = len(table.read_text().splitlines()) if table.exists() else 1
    happened = f"at {delay:5.2f} s, epoch {epoch:2d}, exit code {code:4d}"
    if left := being_written(folder):
        happened += f", left {', '.join(name[-24:] for name in left)}"
    begun = (folder / "run/last.pt").exists() or (folder / "run/previous.pt").exists()
    code = wait(start(script, [*words, "--resume"] if begun else words, log))
    if code != 0:  # None: it never ended
        return f"{happened}; exit code {code} when it went on, see {log}", None
    return happened + ("" if begun else ", begun anew"), digest(folder / "run")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, equal = random.Random(args.seed), 0
    with contextlib.ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        data = {"street": make_street(top / "street"), "kinds": make_kinds(top / "kinds")}
        settings = ["--width", 4, "--batch-size", 4, "--device", "cpu", "--epochs", args.epochs,
                    "--checkpoint-minutes", 0.0005]
        commands = {script: ["--data", data[name], *settings] for script, name in SCRIPTS.items()}
        expected, seconds = {}, {}
        for script, words in commands.items():
            began, place = time.monotonic(), top / f"whole-{script}"
            if wait(start(script, [*words, "--data-dir", place / "data", "--out", place / "run"], top / "log")):
                sys.exit((top / "log").read_text())
            expected[script], seconds[script] = digest(place / "run"), time.monotonic() - began
            print(f"{script}: {seconds[script]:.1f} s when left alone", flush=True)
        for i in range(args.kills):
            script, number = list(SCRIPTS)[i % 3], (signal.SIGKILL, signal.SIGTERM)[i // 3 % 2]
            workers, found, attempt = (0, 2)[i // 6 % 2], None, 0
            while found is None:  # a run that ended before its kill is begun again
                attempt, share = attempt + 1, (i // 3 + rng.random()) / -(-args.kills // 3)
                # The first three die as they write the cache; a run that has become faster is killed earlier.
                delay = share * seconds[script] * 0.95**attempt if i >= 3 else 0
                found, result = kill_and_resume(script, [*commands[script], "--workers", workers],
                                                top / f"{i}-{attempt}", number, delay, aimed=i // 3 % 3 == 0)
            equal += result == expected[script]
            print(f"{i + 1:3d} {script:21} {number.name} {workers} workers {found}: "
                  + ("identical" if result == expected[script] else "DIFFERENT"), flush=True)
            if result is None:
                print((top / f"{i}-{attempt}" / "log").read_text()[-2000:])
    print(f"{equal}/{args.kills} identical")
    return equal < args.kills


if __name__ == "__main__":
    sys.exit(main())
