"""What submissions hold, which come from strangers: nothing is run, unpickled or unpacked to disk.

All of it happens in a process with limits, see limits.py. What the files mean stands in predictions.py. Complaints go
to `troubles`, which has a list of lines for each of TROUBLES.
"""
import gzip
import hashlib
import io
import itertools
import os
import stat
import tarfile
import zipfile
from functools import partial
from pathlib import Path

from data import InputError
from data.images import printable, stop
from evaluation.limits import LIMITS, Exceeded, is_out_of_memory

TROUBLES = ("missing", "misnamed", "ambiguous", "repeated", "extra", "wrong size", "unreadable", "out of range",
            "refused")
NOT_PLAIN = "not a plain file but a link or a device; hand in the file itself"
WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".h5", ".keras", ".onnx", ".pkl", ".npz", ".bin")
REFUSED = dict.fromkeys((".7z", ".rar"), "such an archive cannot be read; pack the files as a .zip") | dict.fromkeys(
    WEIGHTS, "your own network's file cannot be run, only its predictions are graded")


def is_checkpoint(source):
    """Whether a source is a network's file, or a run's folder; of a bulk download it cannot be one."""
    if not isinstance(source, str):
        return False
    file = os.path.join(source, "best.pt") if os.path.isdir(source) else source
    return file.lower().endswith(".pt") and os.path.isfile(file) and not os.path.islink(file)


def say_why(error, source=""):
    """What a student reads of an error: one sentence, without paths of this computer and without Python's words.

    Raises the error again where memory is short: that ends a submission as a whole.
    """
    if is_out_of_memory(error):
        raise error
    if isinstance(error, InputError):
        folder = os.path.join(os.path.dirname(source), "") if isinstance(source, str) else ""
        return printable(str(error).replace(folder, ""))
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be opened: {error.strerror}"
    return "damaged, or not what its name says; write it anew"


def content_digest(source):
    """A hash of a submission's content, or None where that cannot be read or is too large."""
    digest = hashlib.sha256()
    try:
        whole = isinstance(source, str) and not os.path.isdir(source)  # a zip need not be unpacked for this
        entries = [plain_entry(source, os.path.basename(source))] if whole else list_entries(source)
        for name, size, reason, read in itertools.islice(entries, LIMITS["files"] + 1):
            if size > LIMITS["archive"]:
                return None
            digest.update(repr((name, size, reason or hashlib.sha256(read()).digest())).encode())
    except Exception:  # whatever is wrong will be said when it is graded
        return None
    return digest.hexdigest()


# ------------------------------------------ entries: (name, bytes, why it is refused or none, a function that reads it)


def list_entries(source):
    """Yield the entries of a folder, zip or file.

    A source is its path or, for one student of a bulk download, (path, ((name there, name to take), ...)).
    """
    path, chosen = (source, None) if isinstance(source, str) else (source[0], dict(source[1]))
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        files = (each for each in sorted(Path(path).rglob("*")) if each.is_symlink() or not each.is_dir())
        entries = (plain_entry(each, each.relative_to(path).as_posix()) for each in files)
    elif stat.S_ISREG(mode) and path.lower().endswith(".zip"):
        entries = list_zip(path)
    else:
        entries = [plain_entry(path, os.path.basename(path))]
    for name, *entry in entries:
        if chosen is None or name in chosen:
            yield name if chosen is None else chosen[name], *entry


def plain_entry(path, name):
    found = os.lstat(path)
    return name, found.st_size, None if stat.S_ISREG(found.st_mode) else NOT_PLAIN, partial(read_plain, path)


def read_plain(path):
    """The bytes of a file, at most one more than an archive may have. What else took its place is refused."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # Windows has only the first
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            stop(NOT_PLAIN)
        return file.read(LIMITS["archive"] + 1)


def list_zip(file):
    """Yield the entries of a zip: a path, or an open file."""
    archive = zipfile.ZipFile(file)
    for entry in archive.infolist():
        ratio = entry.file_size / max(entry.compress_size, 1)
        reason = (NOT_PLAIN if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG)
                  else "encrypted; pack it without a password" if entry.flag_bits & 1
                  else f"unpacks to {ratio:.0f} times its size (limit: ratio)"
                  if ratio > LIMITS["ratio"] and entry.file_size > 1 << 20 else None)
        if not entry.is_dir():
            yield entry.filename.replace("\\", "/"), entry.file_size, reason, partial(read_zipped, archive, entry)


def read_zipped(archive, entry):
    """The bytes of an entry, as many as it says: archive.read would unpack all there is."""
    return archive.open(entry).read(min(entry.file_size, LIMITS["archive"] + 1))


def list_tar(file):
    """Yield the entries of an open tar."""
    archive = tarfile.open(fileobj=file, mode="r:")
    for entry in archive:
        if not entry.isdir():
            reason = None if entry.isreg() else NOT_PLAIN
            yield entry.name, entry.size, reason, lambda entry=entry: archive.extractfile(entry).read()


def unpack(name, size, reason, read, depth=0):
    """Yield an entry as it is or, if it is an archive, the entries in that."""
    lower, inner = name.lower(), []
    packed = lower.endswith((".zip", ".tar", ".tar.gz", ".tgz")) and not reason
    if packed:
        try:
            data = read()
            if lower.endswith("gz"):
                data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(LIMITS["archive"] + 1)
            if depth == 2 or len(data) > LIMITS["archive"]:
                raise Exceeded("archive", f"an archive above {LIMITS['archive'] >> 20} MB, or too deep within others")
            entries = (list_zip if lower.endswith(".zip") else list_tar)(io.BytesIO(data))
            inner = list(itertools.islice(entries, LIMITS["files"] + 1))
        except Exception as error:  # malformed archives raise nearly anything
            reason = say_why(error)
    if reason or not packed:
        yield name, size, reason, read
    for each, *entry in inner:
        yield from unpack(f"{name}/{each}", *entry, depth + 1)


def list_files(source, troubles):
    """Name -> a function that reads the file, for every file of a submission that may be read. Nothing is unpacked."""
    files, total = {}, 0
    entries = itertools.chain.from_iterable(unpack(*entry) for entry in list_entries(source))
    for number, (name, size, reason, read) in enumerate(entries, 1):
        name, total = name[: LIMITS["name"]], total + size
        if number > LIMITS["files"]:
            raise Exceeded("files", f"more than {LIMITS['files']:,} files")
        if total > LIMITS["bytes"]:
            raise Exceeded("bytes", f"more than {LIMITS['bytes'] >> 30} GB")
        parts = name.split("/")
        reason = (reason or REFUSED.get(os.path.splitext(name)[1].lower())
                  or ("leads out of the archive" if "" in parts or ".." in parts
                      else f"larger than {LIMITS['file'] >> 20} MB (limit: file)" if size > LIMITS["file"]
                      else "there twice" if name in files else None))
        if reason:
            troubles["refused"].append(f"{printable(name)}: {reason}")
        elif not any(part[0] == "." or part == "__MACOSX" for part in parts):
            files[name] = read
    return files
