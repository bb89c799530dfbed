"""A data set before it is cached: a `Source` has splits, whose samples are decoded one at a time.

`Samples` come from files or from one array, `Scenes` are drawn. Both have `names`, `files` and `decode(i)`.
"""
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from data import InputError, scenes, street
from data.images import image_size, load_image, printable, read_image
from data.masks import Classes, as_ids, decode_mask, raw_values

GREY = "greyscale image"  # the fact that colorization is warned of


class Decoded(NamedTuple):
    """One sample at the training size, and what was seen of it at its own size.

    image: uint8 (3, H, W). target: a mask, uint8 (H, W), a label, or None. facts: short texts to be counted over the
    data set. counts: int64 (256,), pixels of each value of the mask; None without a mask.
    """
    image: np.ndarray
    target: np.ndarray | int | None
    facts: list[str]
    counts: np.ndarray | None


@dataclass
class Samples:
    """The samples of one split, as paths of images or as one array (N, H, W, 3), with their targets.

    targets: paths of masks, labels, or None. size: (height, width) for training. classes: of the masks; while they are
    None, masks are decoded to raw ids. Both are set when the whole data set is found.
    """
    names: list[str]
    images: list[str] | np.ndarray
    targets: list[str] | list[int] | None = None
    size: tuple[int, int] | None = None
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def masked(self) -> bool:
        """Whether the targets are masks."""
        return bool(self.targets) and isinstance(self.targets[0], str)

    @property
    def files(self) -> list[str]:
        """All the files that the samples are read from."""
        return (self.images if isinstance(self.images, list) else []) + (self.targets if self.masked else [])

    def decode(self, i: int) -> Decoded:
        """Read sample i and resize it. Raises InputError where a file cannot be used."""
        image, shape = self.images[i], self.size[::-1]
        image = read_image(image) if isinstance(image, str) else Image.fromarray(image)
        facts, target, counts = [f"image of {image.height}x{image.width}"], self.targets and self.targets[i], None
        if self.masked:
            mask, mode = self.read_mask(i, (image.height, image.width))
            facts.append(f"mask of mode {mode}")
            counts = np.bincount(mask.ravel(), minlength=256)
            target = np.asarray(Image.fromarray(mask).resize(shape, Image.Resampling.NEAREST))
        image = np.asarray(image if image.size == shape else image.resize(shape, Image.Resampling.BILINEAR))
        if self.targets is None and np.ptp(image, axis=2).max() <= 2:
            facts.append(GREY)
        return Decoded(image.transpose(2, 0, 1), target, facts, counts)

    def mask(self, i: int) -> np.ndarray:
        """Mask i at its own size, uint8 (H, W): class indices, or raw ids while no classes are known.

        Raises InputError where its size is not its image's, or where it holds what it must not.
        """
        return self.read_mask(i, image_size(self.images[i]))[0]

    def read_mask(self, i: int, size: tuple[int, int]) -> tuple[np.ndarray, str]:
        """Mask i of an image of this (height, width), and the Pillow mode of its file; see `mask`."""
        path = self.targets[i]
        image = load_image(path)
        if (image.height, image.width) != size:
            raise InputError(f"{printable(path)}: height and width are {(image.height, image.width)}, but {size} for "
                             f"its image {printable(self.images[i])}; make them equal")
        raw = raw_values(image, self.classes and self.classes.colors, path)
        return decode_mask(raw, self.classes, path) if self.classes else as_ids(raw, path), image.mode

    def take(self, indices: list[int]) -> "Samples":
        """These samples alone."""
        images = self.images[indices] if isinstance(self.images, np.ndarray) else [self.images[i] for i in indices]
        return Samples([self.names[i] for i in indices], images, self.targets and [self.targets[i] for i in indices])


class Scenes:
    """The street scenes of one split, drawn at the training size."""
    images = targets = None
    masked, files = False, [scenes.__file__, street.__file__]  # what the drawings depend on

    def __init__(self, task: str, split: str, size: tuple[int, int], seed: int):
        self.task, self.split, self.size, self.seed = task, split, size, seed
        self.names = [f"{split}_{i:04d}" for i in range(scenes.SPLITS[split])]

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, i: int) -> Decoded:
        """Draw scene i."""
        image, mask, kind = scenes.draw_scene(self.seed, self.split, i, self.size)
        target = {"segmentation": mask, "classification": kind}.get(self.task)
        counts = np.bincount(mask.ravel(), minlength=256) if self.task == "segmentation" else None
        return Decoded(image.transpose(2, 0, 1), target, [], counts)


@dataclass
class Source:
    """A data set that was found and is not yet decoded.

    size: (height, width) for training. classes: labels' names, or masks' classes, or None while only the masks can
    tell. notes: lines for the user. assignment: {split: names} where the splits were made here. scale: of the size,
    as shares of the images' own, where that was looked at.
    """
    name: str
    root: str
    size: tuple[int, int] | None
    splits: dict[str, Samples | Scenes] = field(default_factory=dict)
    classes: Classes | list[str] | None = None
    notes: list[str] = field(default_factory=list)
    assignment: dict[str, list[str]] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
