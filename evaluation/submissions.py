"""What submissions hold, which come from strangers: nothing is run, unpickled or unpacked to disk.

All of it happens in a process with limits, see limits.py. What the files mean stands in predictions.py. Complaints go
to `troubles`, which has a list of lines for each of TROUBLES.
"""
import contextlib
import gzip
import hashlib
import io
import itertools
import os
import stat
import tarfile
import zipfile
import zlib
from functools import partial

from PIL import UnidentifiedImageError

from data import InputError
from data.images import printable, stop
from evaluation.limits import LIMITS, Exceeded, is_out_of_memory

TROUBLES = ("missing", "misnamed", "ambiguous", "repeated", "extra", "wrong size", "unreadable", "out of range",
            "refused")
LINK = "a link; hand in the file itself"


def is_checkpoint(source):
    """Whether a source is a network's file, or a run's folder; of a bulk download it cannot be one."""
    return isinstance(source, str) and (
        source.lower().endswith(".pt") or os.path.isfile(os.path.join(source, "best.pt")))


def why_not_plain(path):
    """Why a path is refused that is neither a file nor a folder, or None."""
    mode = os.lstat(path).st_mode
    return LINK if stat.S_ISLNK(mode) else None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a plain file"


def say_why(error, path=""):
    """What a student reads of an error: one sentence, without paths of this computer and without Python's words.

    Raises the error again where memory is short: that ends a submission as a whole.
    """
    if is_out_of_memory(error):
        raise error
    if isinstance(error, InputError):
        folder = os.path.dirname(path if isinstance(path, str) else path[0])
        return printable(str(error).replace(f"{folder}{os.sep}", "") if folder else str(error))
    if isinstance(error, UnidentifiedImageError):
        return "no image that can be read"
    if isinstance(error, zipfile.BadZipFile):
        return "no zip, or a damaged one"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be opened: {error.strerror}"
    return "damaged, or written in an unusual way; write it anew"


def content_digest(source):
    """A hash of a submission's name and content, or None where that cannot be read or is too large."""
    try:
        whole = isinstance(source, str) and not os.path.isdir(source)  # a zip need not be unpacked for this
        entries = [plain_entry(source, os.path.basename(source))] if whole else list_entries(source)
        digest = hashlib.sha256(os.path.basename(source).encode(errors="surrogateescape") if isinstance(source, str)
                                else repr(source[1]).encode(errors="surrogateescape"))
        for name, size, reason, read in itertools.islice(entries, LIMITS["files"] + 1):
            digest.update(repr((name, size, reason)).encode(errors="surrogateescape"))
            if size > LIMITS["archive"]:
                return None
            if reason is None:
                digest.update(hashlib.sha256(read()).digest())
        return digest.hexdigest()
    except (OSError, InputError, zipfile.BadZipFile):
        return None


# ------------------------------------------ entries: (name, bytes, why it is refused or none, a function that reads it)


def list_entries(source):
    """Yield the entries of a folder, zip or file.

    A source is its path or, for one student of a bulk download, (path, ((name there, name to take), ...)).
    """
    path, chosen = (source, None) if isinstance(source, str) else (source[0], dict(source[1]))
    if reason := why_not_plain(path):
        stop(reason)
    for name, *entry in list_place(path):
        if chosen is None or name in chosen:
            yield name if chosen is None else chosen[name], *entry


def list_place(path):
    """Yield the entries of a whole folder, zip or file."""
    if os.path.isdir(path):
        for place, folders, files in os.walk(path):  # follows no links
            folders.sort()
            for file in sorted(files + [folder for folder in folders if os.path.islink(os.path.join(place, folder))]):
                full = os.path.join(place, file)
                yield plain_entry(full, os.path.relpath(full, path).replace(os.sep, "/"))
    elif path.lower().endswith(".zip"):
        yield from list_zip(zipfile.ZipFile(path))
    else:
        yield plain_entry(path, os.path.basename(path))


def plain_entry(path, name):
    return name, os.lstat(path).st_size, why_not_plain(path), partial(read_plain, path)


def read_plain(path):
    """The bytes of a file, at most one more than an archive may have. What else took its place is refused."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            stop("not a plain file")
        return file.read(LIMITS["archive"] + 1)


def list_tar(data):
    """Yield the entries of a .tar or .tar.gz, bytes."""
    if data[:2] == b"\x1f\x8b":
        with gzip.open(io.BytesIO(data)) as file:
            data = file.read(min(LIMITS["archive"], LIMITS["ratio"] * len(data) + (1 << 20)) + 1)
    archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:")
    for number, entry in enumerate(archive):
        if number > LIMITS["files"]:
            raise Exceeded("files", f"more than {LIMITS['files']:,} files")
        leads_out = entry.name[:1] == "/" or ".." in entry.name.split("/")
        reason = "leads out of the archive" if leads_out else None if entry.isreg() else "not a plain file"
        if not entry.isdir():
            yield entry.name, entry.size, reason, lambda entry=entry: archive.extractfile(entry).read()


def list_zip(archive):
    """Yield the entries of an open zip."""
    for entry in archive.infolist():
        name = entry.filename
        if not entry.flag_bits & 0x800:
            with contextlib.suppress(UnicodeError):  # a Mac writes UTF-8 and does not say so
                name = name.encode("cp437").decode()
        name = name.replace("\\", "/")
        ratio = entry.file_size / max(entry.compress_size, 1)
        reason = ("leads out of the archive" if name[:1] == "/" or ".." in name.split("/") or name[1:2] == ":"
                  else LINK if stat.S_ISLNK(entry.external_attr >> 16)
                  else "encrypted" if entry.flag_bits & 1
                  else f"unpacks to {ratio:.0f} times its size (limit: ratio)"
                  if ratio > LIMITS["ratio"] and entry.file_size > 1 << 20 else None)
        if not entry.is_dir():
            # As long as the entry says: archive.read would unpack all there is.
            yield name, entry.file_size, reason, lambda entry=entry: archive.open(entry).read(entry.file_size)


def unpack(name, size, reason, read, depth=0):
    """Yield an entry as it is or, if it is an archive, the entries in that."""
    lower, inner = name.lower(), []
    if lower.endswith((".7z", ".rar")):
        reason = reason or "such an archive cannot be read; pack the files as a .zip"
    packed = lower.endswith((".zip", ".tar", ".tar.gz", ".tgz")) and not reason
    if packed and (size > LIMITS["archive"] or depth == 2):
        reason = f"an archive above {LIMITS['archive'] >> 20} MB, or too deep within others (limit: archive)"
    elif packed:
        try:
            data = read()
            inner = list(list_zip(zipfile.ZipFile(io.BytesIO(data))) if lower.endswith(".zip") else list_tar(data))
        except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error):
            reason = "a damaged archive"
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
        reason = reason or (f"larger than {LIMITS['file'] >> 20} MB (limit: file)" if size > LIMITS["file"] else
                            "there twice" if name in files else None)
        if reason:
            troubles["refused"].append(f"{printable(name)}: {reason}")
        elif not any(part[:1] == "." or part == "__MACOSX" for part in name.split("/")):
            files[name] = read
    return files
