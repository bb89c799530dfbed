"""A data set, and the samples of its splits before decoding: files, one array, or scenes to draw."""
import re
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from data import InputError, light, scenes, street
from data.images import open_image, printable, read_header, resize, to_8_bits
from data.masks import Classes, as_ids, decode_mask, read_mask

# Decoders' arguments for colours of more than 8 bits, of which Pillow reads the upper 8.
DEEP_COLORS = re.compile(r"(RGB[AX]?|LA|CMYK);16|SGI16|'RGB', \d{4}")
NOTED = {  # facts, and the notes on them: how many images, then this
    "greyscale": "greyscale images, from which the network learns grey",
    "turned": "images are turned as their EXIF data say, but masks are not; remove the EXIF data if that is wrong",
    "see-through": "images with varying transparency are put on white; if it is none, give --channels 4 (grey: 2)",
    "upper bits": "images lose all but the upper 8 bits of their values; scale them to 8 bits first if these are few",
}


@dataclass
class DataSet:
    """A data set; see sources.open_data. size: (height, width) for training. own_size: whether it is the images' own
    size. channels, levels: see images.to_8_bits. splits: name -> cache.Split; `Samples` or `Scenes` before decoding.
    held_out: whether splits were made here. classes, colors, ids: of the scored classes, by index; ids are the values
    in the masks' files. masks: what the values of masks mean; None if only the values themselves tell. counts: pixels
    or images by class, for each split. notes: lines for the user. problems: mistakes; None: each one is raised."""
    name: str
    task: str
    size: tuple[int, int] | None
    classes: list[str] = field(default_factory=list)
    colors: list[tuple[int, int, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    splits: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)
    held_out: bool = False
    masks: Classes | None = None
    levels: tuple[float, float] | None = None
    channels: int = 3
    own_size: bool = False
    root: str = ""
    seed: int = 0
    problems: list[str] | None = None

    @property
    def assignment(self) -> dict[str, list[str]] | None:
        """{split: names} if the splits were made here."""
        return {split: each.names for split, each in self.splits.items()} if self.held_out else None

    @property
    def missing(self) -> list[str]:
        """The splits that are to be held out of train."""
        return [split for split in ("val", "test") if split not in self.splits and "train" in self.splits]

    def complain(self, message) -> None:
        """Report a mistake in the data: raise InputError, or collect the message."""
        if self.problems is None:
            raise InputError(message)
        self.problems.append(str(message))

    def __getitem__(self, job: tuple) -> tuple:
        """A loader's job (split, i, method) -> (split, i, the method's result for sample i, or an InputError)."""
        split, i, method = job
        try:
            return split, i, getattr(self.splits[split], method)(i, self)
        except InputError as error:
            return split, i, error


@dataclass
class Samples:
    """One split's samples: images or their paths; targets: paths of masks, labels, or None."""
    names: list[str]
    images: list[str | np.ndarray]
    targets: list[str] | list[int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def files(self) -> list[str]:
        """All the files that the samples are read from."""
        return [path for path in (*self.images, *(self.targets or ())) if isinstance(path, str)]

    def decode(self, i: int, data: DataSet) -> tuple:
        """(image uint8 (C, H, W), target, facts) of sample i, at the training size. Raises InputError. The target is a
        mask, uint8 (H, W), a label, int64 (), or None; facts are keys of NOTED."""
        path, target, facts = self.images[i], self.targets and self.targets[i], []
        with open_image(path) if isinstance(path, str) else Image.fromarray(path) as image:
            facts += ["upper bits"] * bool(DEEP_COLORS.search(str(getattr(image, "tile", ""))))
            pixels = to_8_bits(image, data.levels, data.channels)
            if data.channels == 3 and image.mode in ("RGBA", "LA") and np.ptp(image.getchannel("A").getextrema()):
                facts.append("see-through")
        if isinstance(target, str):
            mask, turned = self.read_mask(i, data.masks)
            facts += ["turned"] * turned
            target = np.asarray(Image.fromarray(mask).resize(data.size[::-1], Image.Resampling.NEAREST))
        elif target is not None:
            target = np.array(target, np.int64)
        image = resize(pixels, data.size)
        if target is None and np.ptp(image, axis=2).max() <= 2:
            facts.append("greyscale")
        return image.transpose(2, 0, 1), target, facts

    def read_mask(self, i: int, classes: Classes | None) -> tuple[np.ndarray, bool]:
        """(mask i, whether EXIF turns only one of image and mask). The mask is uint8 (H, W) at its own size: class
        indices, or raw ids without `classes`. Raises InputError if it is damaged or its size is not the image's."""
        path, image = self.targets[i], self.images[i]
        (size, turn), (image_size, image_turn) = map(read_header, (path, image))
        turned = turn != image_turn
        if size != image_size:
            raise InputError(f"{printable(path)}: height and width are {size}, but {image_size} for its image "
                             f"{printable(image)}{', which EXIF data turn' * turned}; make them equal")
        raw = read_mask(path, classes)
        return decode_mask(raw, classes, path) if classes else as_ids(raw, path), turned

    def mask_values(self, i: int, data: DataSet) -> np.ndarray:
        """bool (256,): which values of `read_mask` mask i holds."""
        return np.bincount(self.read_mask(i, data.masks)[0].ravel(), minlength=256) > 0

    def take(self, indices: list[int]) -> "Samples":
        """Only these samples."""
        return Samples(*(values and [values[i] for i in indices] for values in (self.names, self.images, self.targets)))


class Scenes(Samples):
    """The street scenes of one split, drawn at the training size."""
    files = [scenes.__file__, street.__file__, light.__file__]  # the drawings depend on them

    def __init__(self, split: str):
        super().__init__([f"{split}_{i:04d}" for i in range(scenes.SPLITS[split])], [])
        self.split = split

    def decode(self, i: int, data: DataSet) -> tuple:
        """Draw scene i."""
        image, mask, _ = scenes.draw_scene(data.seed, self.split, i, data.size)
        return image.transpose(2, 0, 1), mask, []
