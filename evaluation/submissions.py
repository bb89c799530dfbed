"""List and read the files of submissions. They come from strangers: nothing is run, unpickled or unpacked to disk.

This happens in a process with limits (limits.py). `troubles` has a list of lines for each of TROUBLES."""
import contextlib
import gzip
import hashlib
import io
import os
import posixpath
import stat
import tarfile
import zipfile
from functools import partial
from pathlib import Path

from data import InputError, is_out_of_memory
from data.images import printable
from evaluation.limits import LIMITS, Exceeded

TROUBLES = ("missing", "misnamed", "ambiguous", "repeated", "extra", "wrong size", "unreadable", "out of range",
            "refused")
NOT_PLAIN = "not a plain file but a link or a device; hand in the file itself"
REFUSED = dict.fromkeys((".7z", ".rar"), "such an archive cannot be read; pack the files as a .zip") | dict.fromkeys(
    (".pt", ".pth", ".ckpt", ".safetensors", ".h5", ".keras", ".onnx", ".pkl", ".bin"),
    "your own network's file cannot be run here, only its predictions are graded")


def is_network(source):
    """Whether a submission is a checkpoint."""
    return isinstance(source, str) and source.lower().endswith(".pt") and not plain_entry(source, "")[2]


def is_hidden(name, more=()):
    return any(part.startswith((".", *more)) or part == "__MACOSX" for part in name.split("/"))  # . is also in ../


def say_why(error, source=""):
    """An error in one sentence for a student, without this computer's paths and without Python's words."""
    if is_out_of_memory(error):  # this ends the whole submission
        raise error
    if isinstance(error, InputError):
        folder = os.path.join(os.path.dirname(source), "") if isinstance(source, str) else ""
        return printable(str(error).replace(folder, ""))
    return "it cannot be opened, is damaged, or is not what its name says; write it again"


def content_digest(source):
    """A hash of a submission's content."""
    whole = isinstance(source, str) and not os.path.isdir(source)  # a zip is hashed without unpacking
    entries = [plain_entry(source, os.path.basename(source))] if whole else list_entries(source)
    contents = [(name, size, reason or hashlib.sha256(read()).digest()) for name, size, reason, read in entries]
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def list_entries(source):
    """The entries of a folder, zip or file: (name, size in bytes, why it is refused or None, a function to read it). A
    source is its path or, for one student of a bulk download, (path, ((name there, name to take), ...))."""
    path, chosen = (source, None) if isinstance(source, str) else (source[0], dict(source[1]))
    mode = os.lstat(path).st_mode
    if stat.S_ISDIR(mode):
        files = (each for each in sorted(Path(path).rglob("*")) if each.is_symlink() or not each.is_dir())
        entries = (plain_entry(each, each.relative_to(path).as_posix()) for each in files)
    elif stat.S_ISREG(mode) and path.lower().endswith(".zip"):
        entries = list_zip(path)
    else:
        entries = [plain_entry(path, os.path.basename(path))]
    return entries if chosen is None else ((chosen[name], *entry) for name, *entry in entries if name in chosen)


def read_limited(open_file, *args):
    """The bytes of the file that open_file(*args) opens, at most one more than the limit of an archive."""
    with open_file(*args) as file:
        return file.read(LIMITS["archive"] + 1)


def plain_entry(path, name):
    found = os.lstat(path)
    reason = None if stat.S_ISREG(found.st_mode) else NOT_PLAIN
    return name, found.st_size, reason, partial(read_limited, open, path, "rb")


def list_zip(file):
    """Yield the entries of a zip: a path, or an open file."""
    archive = zipfile.ZipFile(file)
    for entry in archive.infolist():
        plain = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
        reason = "encrypted; pack it without a password" if entry.flag_bits & 1 else None if plain else NOT_PLAIN
        if not entry.is_dir():
            name = entry.filename
            with contextlib.suppress(UnicodeError):  # a Mac writes UTF-8 without saying so
                name = name if entry.flag_bits & 0x800 else name.encode("cp437").decode()
            yield name.replace("\\", "/"), entry.file_size, reason, partial(read_limited, archive.open, entry)


def list_tar(file):
    """Yield the entries of an open tar."""
    archive = tarfile.open(fileobj=file, mode="r:")
    for entry in archive:
        if not entry.isdir():
            reason = None if entry.isreg() else NOT_PLAIN
            yield entry.name, entry.size, reason, partial(read_limited, archive.extractfile, entry)


def unpack(name, size, reason, read, depth=0):
    """Yield an entry or, if it is an archive, the entries in it."""
    lower, inner = name.lower(), None
    if lower.endswith((".zip", ".tar", ".tar.gz", ".tgz")) and not reason:
        try:
            data = read()
            if lower.endswith("gz"):
                data = read_limited(gzip.open, io.BytesIO(data))
            if depth == 2 or len(data) > LIMITS["archive"]:
                raise Exceeded("archive", f"an archive above {LIMITS['archive'] >> 20} MB, or too deep within others")
            inner = list((list_zip if lower.endswith(".zip") else list_tar)(io.BytesIO(data)))
        except Exception as error:  # damaged archives raise nearly anything
            reason = say_why(error)
    if inner is None:
        yield name, size, reason, read
    for each, *entry in inner or ():
        yield from unpack(f"{name}/{each}", *entry, depth + 1)


def list_files(source, troubles):
    """{name: a function that reads the file} for every file of a submission that may be read."""
    files, number, total = {}, 0, 0
    for entry in list_entries(source):
        for name, size, reason, read in unpack(*entry):
            name, number, total = posixpath.normpath(name[: LIMITS["name"]]), number + 1, total + size
            if number > LIMITS["files"]:
                raise Exceeded("files", f"more than {LIMITS['files']:,} files")
            if total > LIMITS["bytes"]:
                raise Exceeded("bytes", f"more than {LIMITS['bytes'] >> 30} GB")
            reason = reason or REFUSED.get(os.path.splitext(name)[1].lower())
            if not reason and size > LIMITS["file"]:
                reason = f"larger than {LIMITS['file'] >> 20} MB (limit: file)"
            if reason:
                troubles["refused"].append(f"{printable(name)}: {reason}")
            elif not is_hidden(name):
                files[name] = read
    return files
