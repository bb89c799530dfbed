"""A run's folder: it is claimed, an older run in it is kept, and what it holds is taken up again."""
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

# Settings that a resumed run may change, since they do not change what is trained. All others must stay. The data may
# lie elsewhere: load_state compares their classes and their images' names.
FREE = {"epochs", "patience", "workers", "out", "resume", "debug", "data", "data_dir", "dry_run", "checkpoint_minutes",
        "device", "compile", "sweep", "log"}


def read_settings(folder):
    """The settings that a run was begun with, from its config.json. Raises InputError."""
    try:
        return dict(json.loads(Path(folder, "config.json").read_text())["settings"])
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"--resume: {folder} has no sound config.json; leave --resume out, and the run begins anew")


def check_settings(args, before):
    """Raise InputError where settings differ from those of the run before."""
    now = json.loads(json.dumps(vars(args), default=str))
    changed = [f"--{key.replace('_', '-')} was {before[key]}, is {now[key]}"
               for key in sorted(now.keys() & before.keys() - FREE) if now[key] != before[key]]
    if changed:
        raise InputError(f"--resume: {args.out} was trained with other settings: {'; '.join(changed)}; give those "
                         "again, or another --out")


def claim_folder(args):
    """Lock a run's folder, from which an older run is moved unless it is resumed: the lock. Raises InputError."""
    folder = Path(args.out)
    if process_rank():
        return None
    if args.data not in NAMED and folder.resolve().is_relative_to(Path(args.data).resolve()):
        raise InputError(f"--out {folder}: give the run a folder outside the data, or its images would become data")
    if args.resume:
        check_settings(args, read_settings(folder))
    elif any((folder / name).exists() for name in ("best.pt", "metrics.csv", "last.pt", "previous.pt")):
        lock_folder(folder).close()  # nobody else writes there
        number = 1
        while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
            number += 1
        folder.rename(aside)
        log(f"the run that was in {folder} is now in {aside}")
    folder.mkdir(parents=True, exist_ok=True)
    return lock_folder(folder)


def lock_folder(folder):
    """Keep a second run out of a folder: an open file that holds a lock until it is closed. Raises InputError."""
    file = open(folder / ".lock", "w")
    try:
        # lockf's lock is the process's own; flock's would stay with loaders that outlive a killed run by seconds.
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InputError(f"{folder}: another run is writing there; wait for it or choose another --out")
    except OSError:
        pass  # some network file systems have no locks
    return file


def load_state(args, metadata):
    """What last.pt holds or, where that is damaged, the one before it. Raises InputError, for other data as well."""
    last, state = Path(args.out, "last.pt"), None
    for path in filter(Path.exists, (last, last.with_name("previous.pt"))):
        try:
            state = load_checkpoint(path)
            break
        except (InputError, OSError) as error:
            log(f"--resume: {printable(str(error))}", file=sys.stderr)
    if state is None:
        raise InputError(f"--resume: {args.out} has no sound checkpoint to go on from; leave --resume out")
    if any(state.get(key) != metadata[key] for key in ("classes", "digests")):
        raise InputError(f"--resume: {args.out} was trained when {args.data} held other images or classes; put them "
                         "back, or give another --out")
    if path != last and process_rank() == 0:
        os.replace(path, last)  # else a damaged last.pt would soon replace the sound previous.pt
    return state
