"""The data sets. Their files land in this folder too, ignored by git.

    sources.py     open_data: a named data set or a user's own folder, as memory-mapped arrays; check_data
    folders.py     the layouts of folders that are understood; splits that are held out
    download.py    CamVid and torchvision's data sets, from the internet
    samples.py     DataSet, and one sample at a time, decoded at the training size
    images.py      images: found in folders, read from files
    masks.py       masks: read from files, decoded by their classes
    cache.py       decodes a data set once on all cores, keeps it on disk, maps it into memory
    augment.py     random changes to a whole batch, on its device
    color.py       colour spaces, and metrics of colour and sharpness
    scenes.py      the embedded data set: the layouts of drawn streets
    street.py      draws the things in a street
    light.py       lights and photographs a drawn street"""
import os


class InputError(ValueError):
    """A user's mistake. The message is one line: it names the file or flag and says what to do."""


def printable(path) -> str:
    """A path or name for a message. The message stays on one line, whatever the name holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(path))


def is_out_of_memory(error):
    """Whether memory is short: Python's own error, or a message of torch's on Linux or Windows."""
    return isinstance(error, MemoryError) or any(f"{sign} memory" in str(error) for sign in ("allocate", "enough"))
