"""What submissions hold, which come from strangers: nothing is run, unpickled or unpacked to disk.

All of it happens in a process with limits, see limits.py. What the files mean stands in predictions.py. Complaints go
to `troubles`, which has a list of lines for each of TROUBLES.
"""
import contextlib
import hashlib
import itertools
import os
import stat
import zipfile
from functools import partial

from PIL import UnidentifiedImageError

from data import InputError
from data.images import printable, stop
from evaluation.limits import LIMITS, Exceeded

TROUBLES = ("missing", "misnamed", "ambiguous", "repeated", "extra", "wrong size", "unreadable", "out of range",
            "refused")


def is_checkpoint(path):
    return path.lower().endswith(".pt") or os.path.isfile(os.path.join(path, "best.pt"))


def why_not_plain(path):
    """Why a path is refused that is neither a file nor a folder, or None."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return "a link; hand in the file itself"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a plain file"


def say_why(error, path=""):
    """What a student reads of an error: one sentence, without paths of this computer and without Python's words."""
    if isinstance(error, InputError):
        return printable(str(error).replace(str(path), os.path.basename(path)))
    if isinstance(error, UnidentifiedImageError):
        return "no image that can be read"
    if isinstance(error, zipfile.BadZipFile):
        return "no zip, or a damaged one"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be opened: {error.strerror}"
    return "damaged, or written in an unusual way; write it anew"


def read_plain(path, most=LIMITS["file"]):
    """The bytes of a file, at most one more than `most`. Whatever took its place since it was listed is refused."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            stop("not a plain file")
        return file.read(most + 1)


def content_digest(path):
    """A hash of a submission's name and content, or None where it cannot be read."""
    digest = hashlib.sha256(os.path.basename(path).encode(errors="surrogateescape"))
    if is_checkpoint(path) and os.path.isdir(path):
        path = os.path.join(path, "best.pt")
    try:
        if os.path.isdir(path):
            for name, size, reason, read in itertools.islice(list_entries(path), LIMITS["files"] + 1):
                digest.update(repr((name, size, reason)).encode(errors="surrogateescape"))
                if reason is None and size <= LIMITS["file"]:
                    digest.update(hashlib.sha256(read()).digest())
        elif why_not_plain(path) is None:
            with open(path, "rb") as file:
                for part in iter(partial(file.read, 1 << 20), b""):
                    digest.update(part)
        return digest.hexdigest()
    except (OSError, InputError):
        return None


def list_entries(path):
    """Yield (name, bytes, why it is refused or None, a function that reads it) of what a folder, zip or file holds."""
    if reason := why_not_plain(path):
        stop(reason)
    if os.path.isdir(path):
        for place, folders, files in os.walk(path):  # follows no links
            folders.sort()
            for file in sorted(files + [folder for folder in folders if os.path.islink(os.path.join(place, folder))]):
                full = os.path.join(place, file)
                name = os.path.relpath(full, path).replace(os.sep, "/")
                yield name, os.lstat(full).st_size, why_not_plain(full), partial(read_plain, full)
    elif path.lower().endswith(".zip"):
        yield from list_zip(zipfile.ZipFile(path))
    else:
        yield os.path.basename(path), os.path.getsize(path), None, partial(read_plain, path)


def list_zip(archive):
    """list_entries of an open zip."""
    for entry in archive.infolist():
        name = entry.filename
        if not entry.flag_bits & 0x800:
            with contextlib.suppress(UnicodeError):  # a Mac writes UTF-8 and does not say so
                name = name.encode("cp437").decode()
        name = name.replace("\\", "/")
        ratio = entry.file_size / max(entry.compress_size, 1)
        reason = ("leads out of the archive" if name[:1] == "/" or ".." in name.split("/") or name[1:2] == ":"
                  else "a link; hand in the file itself" if stat.S_ISLNK(entry.external_attr >> 16)
                  else "encrypted" if entry.flag_bits & 1
                  else "packed by an unusual method" if entry.compress_type not in (0, 8)
                  else f"unpacks to {ratio:.0f} times its size (limit: ratio)"
                  if ratio > LIMITS["ratio"] and entry.file_size > 1 << 20 else None)
        if not entry.is_dir():
            yield name, entry.file_size, reason, partial(read_entry, archive, entry)


def read_entry(archive, entry):
    """A packed file, as long as its entry says; archive.read would unpack all there is, whatever the entry says."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def list_files(path, troubles):
    """Name -> a function that reads the file, for every file of a submission that may be read. Nothing is unpacked."""
    files, total = {}, 0
    for number, (name, size, reason, read) in enumerate(list_entries(path), 1):
        name, total = name[: LIMITS["name"]], total + size
        if number > LIMITS["files"]:
            raise Exceeded("files", f"more than {LIMITS['files']:,} files")
        if total > LIMITS["bytes"]:
            raise Exceeded("bytes", f"more than {LIMITS['bytes'] >> 30} GB")
        reason = reason or (f"larger than {LIMITS['file'] >> 20} MB (limit: file)" if size > LIMITS["file"] else
                            "there twice" if name in files else None)
        if reason:
            troubles["refused"].append(f"{printable(name)}: {reason}")
        elif not any(part[:1] == "." or part == "__MACOSX" for part in name.split("/")):
            files[name] = read
    return files
