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
from evaluation.limits import LIMITS, Exceeded

TROUBLES = ("missing", "misnamed", "ambiguous", "repeated", "extra", "wrong size", "unreadable", "out of range",
            "refused")


def is_checkpoint(path):
    """Whether a source is a network's file, or a run's folder; of a bulk download it cannot be one."""
    return isinstance(path, str) and (
        path.lower().endswith(".pt") or os.path.isfile(os.path.join(path, "best.pt")))


def why_not_plain(path):
    """Why a path is refused that is neither a file nor a folder, or None."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return "a link; hand in the file itself"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a plain file"


def say_why(error, path=""):
    """What a student reads of an error: one sentence, without paths of this computer and without Python's words."""
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


def open_plain(path):
    """Open a file; whatever else took its place since it was listed is refused."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = open(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        stop("not a plain file")
    return file


def read_plain(path):
    """The bytes of a file, at most one more than an archive may have."""
    with open_plain(path) as file:
        return file.read(LIMITS["archive"] + 1)


def content_digest(source):
    """A hash of a submission's name and content, or None where it cannot be read."""
    named = os.path.basename(source) if isinstance(source, str) else repr(source[1])
    digest = hashlib.sha256(named.encode(errors="surrogateescape"))
    try:
        if isinstance(source, str) and why_not_plain(source) is None and not os.path.isdir(source):
            with open_plain(source) as file:  # of any size
                for part in iter(partial(file.read, 1 << 20), b""):
                    digest.update(part)
            return digest.hexdigest()
        for name, size, reason, read in itertools.islice(list_entries(source), LIMITS["files"] + 1):
            digest.update(repr((name, size, reason)).encode(errors="surrogateescape"))
            if reason is None and size <= LIMITS["archive"]:
                digest.update(hashlib.sha256(read()).digest())
        return digest.hexdigest()
    except (OSError, InputError, zipfile.BadZipFile):
        return None


def list_entries(source):
    """Yield (name, bytes, why it is refused or None, a function that reads it) of what a folder, zip or file holds.

    A source is its path or, for one student of a bulk download, (path, ((name there, name to take), ...)).
    """
    path, chosen = (source, None) if isinstance(source, str) else (source[0], dict(source[1]))
    if reason := why_not_plain(path):
        stop(reason)
    for name, *entry in list_place(path):
        if chosen is None or name in chosen:
            yield name if chosen is None else chosen[name], *entry


def list_place(path):
    """list_entries of a whole folder, zip or file."""
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


def unpack(name, size, reason, read, depth=0):
    """Yield an entry as it is or, if it is an archive, the entries in that."""
    lower = name.lower()
    if lower.endswith((".7z", ".rar")):
        reason = reason or "such an archive cannot be read; pack the files as a .zip"
    if reason or not lower.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        yield name, size, reason, read
    elif size > LIMITS["archive"] or depth == 2:
        reason = f"an archive above {LIMITS['archive'] >> 20} MB, or too deep within others (limit: archive)"
        yield name, size, reason, read
    else:
        try:
            data = io.BytesIO(read())
            inner = list(list_zip(zipfile.ZipFile(data)) if lower.endswith(".zip") else list_tar(data))
        except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error):
            inner, reason = [], "a damaged archive"
        if reason:
            yield name, size, reason, read
        for each, *entry in inner:
            yield from unpack(f"{name}/{each}", *entry, depth + 1)


def list_tar(data):
    """list_entries of a .tar or .tar.gz in memory."""
    if data.getvalue()[:2] == b"\x1f\x8b":
        packed = len(data.getvalue())
        with gzip.open(data) as file:
            data = io.BytesIO(file.read(min(LIMITS["archive"], LIMITS["ratio"] * packed + (1 << 20)) + 1))
    archive = tarfile.open(fileobj=data, mode="r:")
    for number, entry in enumerate(archive):
        if number > LIMITS["files"]:
            raise Exceeded("files", f"more than {LIMITS['files']:,} files")
        leads_out = entry.name[:1] == "/" or ".." in entry.name.split("/")
        if not entry.isdir():
            reason = "leads out of the archive" if leads_out else None if entry.isreg() else "not a plain file"
            yield entry.name, entry.size, reason, partial(read_member, archive, entry)


def read_member(archive, entry):
    with archive.extractfile(entry) as file:
        return file.read(LIMITS["file"] + 1)


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
    entries = itertools.chain.from_iterable(unpack(*entry) for entry in list_entries(path))
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
