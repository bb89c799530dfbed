"""The embedded data set keeps its promises: reproducible, the same scene at any size, every class learnable."""

import numpy as np
import pytest
from classroom import grade

from data.scenes import CLASSES, COLORS, SCENE_TYPES, SPLITS, VOID, draw_scene, write_scenes
from data.sources import find_source, open_data


@pytest.fixture(scope="module")
def sample():
    """120 scenes -> images (120, 96, 128, 3), masks (120, 96, 128), types (120,)."""
    images, masks, types = zip(*(draw_scene(0, "train", i) for i in range(120)))
    return np.stack(images), np.stack(masks), np.array(types)


def test_a_scene_follows_from_seed_split_and_index_alone(sample):
    images, masks, types = sample
    for i in (77, 3):  # out of order, after many others
        image, mask, kind = draw_scene(0, "train", i)
        assert np.array_equal(image, images[i]) and np.array_equal(mask, masks[i]) and kind == types[i]


def test_seeds_splits_and_indices_give_different_scenes():
    keys = [(seed, split, i) for seed in (0, 1) for split in SPLITS for i in (0, 6)]
    assert len({draw_scene(*key)[1].tobytes() for key in keys}) == len(keys)


@pytest.mark.parametrize("size", [(32, 32), (97, 131), (192, 256), (256, 256)])
def test_any_size_shows_the_same_scene(sample, size):
    rows, columns = (np.arange(96) + .5) / 96 * size[0], (np.arange(128) + .5) / 128 * size[1]
    for i in range(6):
        image, mask, kind = draw_scene(0, "train", i, size)
        assert image.shape == (*size, 3) and mask.shape == size and image.dtype == mask.dtype == np.uint8
        nearest = mask[np.ix_(rows.astype(int), columns.astype(int))]
        assert kind == sample[2][i] and np.mean(nearest == sample[1][i]) > .7


def test_every_class_is_frequent_enough_to_learn(sample):
    masks = sample[1]
    for label, name in enumerate(CLASSES):
        assert np.mean((masks == label).any(axis=(1, 2))) >= .15, f"{name} is in too few images"
        assert np.mean(masks == label) >= .003, f"{name} covers too few pixels"


def test_masks_hold_classes_and_void_only(sample):
    assert set(np.unique(sample[1])) == {*range(len(CLASSES)), VOID}
    assert np.mean(sample[1] == VOID) < .03
    assert len(CLASSES) == len(COLORS) == len(set(COLORS)) == 11


def test_types_are_balanced(sample):
    assert np.bincount(sample[2]).tolist() == [120 // len(SCENE_TYPES)] * len(SCENE_TYPES)


def test_no_image_is_black():
    """CamVid's darkest image has a mean of 51."""
    assert min(draw_scene(2, "test", i)[0].mean() for i in range(60)) >= 51


def test_the_mask_lies_on_what_is_drawn(sample):
    """Neighbouring pixels differ far more across a border between two classes than inside a class."""
    images, masks, _ = sample
    steps = np.abs(np.diff(images.astype(np.int16), axis=2)).mean(-1)
    border = masks[:, :, 1:] != masks[:, :, :-1]
    assert steps[border].mean() > 2 * steps[~border].mean()


def test_scenes_as_files(run, tmp_path, monkeypatch):
    """Images and masks as they are drawn, found again as any folder's, and a truth of grade's."""
    code, _, stderr = run("data/scenes.py")
    assert code == 2 and stderr.startswith("usage: python -m data.scenes") and "Traceback" not in stderr
    (tmp_path / "file").touch()
    assert run("data/scenes.py", tmp_path / "file")[0] == 2
    monkeypatch.setattr("data.scenes.SPLITS", {"train": 12, "val": 7, "test": 8})
    for task in ("segmentation", "classification"):
        write_scenes(tmp_path / task, task, ("train", "val", "test"))
        data = find_source(str(tmp_path / task), task, None, str(tmp_path), 0)
        assert [len(samples) for samples in data.splits.values()] == [12, 7, 8]
        image, target, *_ = data.splits["test"].decode(3, data)
        drawn = draw_scene(0, "test", int(data.splits["test"].names[3][-4:]))
        assert np.array_equal(image, drawn[0].transpose(2, 0, 1))
        assert data.classes[target] == SCENE_TYPES[drawn[2]] if task == "classification" else (target == drawn[1]).all()
    masks = tmp_path / "segmentation/test/masks"
    row = grade("segmentation", "scenes", tmp_path / "out", [masks])["masks"]
    assert (row["status"], row["given"]) == ("equal to the truth", "8")


def test_all_tasks_share_one_drawing(tmp_path, monkeypatch):
    for split in SPLITS:
        monkeypatch.setitem(SPLITS, split, 7)
    image, mask, kind = draw_scene(0, "val", 5, (24, 32))
    for task, expected in (("classification", kind), ("colorization", None), ("segmentation", mask)):
        data = open_data("scenes", task, (24, 32), str(tmp_path))
        assert data.task == task and len(list((tmp_path / "cache").iterdir())) == 1
        assert np.array_equal(data.splits["val"].images[5], image.transpose(2, 0, 1))
        targets = data.splits["val"].targets
        assert targets is None if expected is None else np.array_equal(targets[5], expected)
        assert len(data.classes) == len(data.counts["val"]) == {"classification": 6, "segmentation": 11}.get(task, 0)
