"""A run's folder: it is claimed, an older run in it is kept, and what it holds is taken up again."""
import errno
import json
import os
import sys
from pathlib import Path

from data import InputError
from data.images import printable
from data.sources import NAMED
from training.checkpoint import load_checkpoint
from utils import log, process_rank

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None


def folder_of_its_own(args):
    """The path of --out. Raises InputError where it lies in the data: its images would be data at the next run."""
    folder = Path(args.out)
    is_data = args.data not in NAMED and folder.resolve().is_relative_to(Path(args.data).resolve())
    if is_data or folder.name in ("", ".."):
        raise InputError(f"--out {args.out}: give the run a folder of its own, outside the data")
    return folder


def lock_folder(folder):
    """Keep a second run out of a folder: an open file that holds a lock until it is closed. Raises InputError."""
    try:
        file = open(folder / ".lock", "w")
    except FileNotFoundError:
        raise InputError(f"--resume: there is no run in {folder}")
    if fcntl is None:
        return file
    try:
        # lockf's lock is the process's own; flock's would stay with loaders that outlive a killed run by seconds.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise InputError(f"{folder}: another run is writing there; wait for it or choose another --out")
        log(f"{folder} cannot be locked ({error.strerror}): let no second run write there", file=sys.stderr)
    return file


def claim_folder(args):
    """Make and lock a run's folder: its lock, None but in the first process. Raises InputError.

    A new run moves an older one aside; nothing is overwritten.
    """
    folder = Path(args.out)
    if process_rank():
        return None
    if not args.resume:
        if any((folder / name).exists() for name in ("best.pt", "metrics.csv", "last.pt", "previous.pt")):
            lock_folder(folder).close()  # nobody else writes there
            number = 1
            while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
                number += 1
            folder.rename(aside)
            log(f"the run that was in {folder} is now in {aside}")
        folder.mkdir(parents=True, exist_ok=True)
    return lock_folder(folder)


def load_state(args, metadata):
    """What a run's last.pt holds or, where that is damaged, the one before it. Raises InputError."""
    last, state = Path(args.out, "last.pt"), None
    for path in (last, last.with_name("previous.pt")):
        try:
            state = load_checkpoint(path)
            break
        except FileNotFoundError:
            continue
        except (InputError, OSError) as error:
            log(f"--resume: {printable(str(error))}", file=sys.stderr)
    if state is None:
        raise InputError(f"--resume: {args.out} has no sound checkpoint to go on from; leave --resume out")
    check_state(state, args, metadata)
    if path != last and process_rank() == 0:
        os.replace(path, last)  # else a damaged last.pt would soon replace the sound previous.pt
    return state


def binding_settings(args):
    """Name -> text of the settings that a resumed run must share with the one before: all that change the result.

    The data may lie elsewhere now: check_state compares their classes and their images' names.
    """
    free = {"epochs", "patience", "workers", "out", "resume", "debug", "data", "data_dir", "dry_run",
            "checkpoint_minutes", "device", "compile", "sweep"}
    return {key: json.dumps(value).strip('"') for key, value in sorted(vars(args).items()) if key not in free}


def check_settings(args, before):
    """Raise InputError where settings differ from the binding_settings of the run before."""
    changed = [f"--{key.replace('_', '-')} was {before[key]}, is {value}"
               for key, value in binding_settings(args).items() if before.get(key, value) != value]
    if changed:
        raise InputError(f"--resume: {args.out} was trained with other settings: {'; '.join(changed)}; give those "
                         "again, or another --out")


def check_state(state, args, metadata):
    """Raise InputError where a checkpoint was trained with other settings, on other data or for longer."""
    check_settings(args, state.get("settings", {}))
    if any(state.get(key) != metadata[key] for key in ("classes", "pictures")):
        raise InputError(f"--resume: {args.out} was trained when {args.data} held other images or classes; put them "
                         "back, or give another --out")
    if (state["epoch"], state["step"]) > (args.epochs, 0):
        raise InputError(f"--resume: {state['epoch']} epochs and {state['step']} steps are done, more than --epochs "
                         f"{args.epochs}")
