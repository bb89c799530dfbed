"""evaluate.py predict and export: anyone's images, in folders or large, and what comes of them."""
import csv

import fuzz
import numpy as np
import pytest
from PIL import Image

from training.checkpoint import save_checkpoint


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def noise(path, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)


def test_folders_and_patterns_keep_their_paths_and_names(run, here):
    for name in ("a.png", "a.jpg", "deep/er/a.png", "deep/b.png"):
        noise(here / "photos" / name)
    (here / "photos/notes.txt").write_text("no image")
    noise(here / "other/b.png")
    save_checkpoint(here / "best.pt", fuzz.checkpoints()[0])
    # Twice: what the first made, inside the folder, is no input of the second.
    for _ in range(2):
        code, out, err = run("evaluate.py", "predict", "best.pt", "photos", "oth*/*.png", "--out", "photos/results")
        assert code == 0 and "5 of 5" in out, err
    table = {row["image"]: row["prediction"] for row in rows(here / "photos/results/predictions.csv")}
    assert table == {"photos/a.jpg": "a.png", "photos/a.png": "a_2.png", "photos/deep/b.png": "deep/b.png",
                     "photos/deep/er/a.png": "deep/er/a.png", "other/b.png": "other/b.png"}
    for result in table.values():
        assert Image.open(here / "photos/results" / result).mode == "P"
        assert (here / "photos/results" / result.replace(".png", "_overlay.jpg")).exists()
    code, _, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "photos")
    assert code == 2 and "--out" in err and err.count("\n") == 1
    (here / "empty").mkdir()
    code, out, err = run("evaluate.py", "predict", "best.pt", "empty", "none*.png", "other", "--out", "results")
    assert code == 2 and "1 of 2" in out and "empty: no images" in err and "none*.png: no such file" in err


def test_a_classifier_writes_both_tables(run, here):
    for name in ("apple/0.png", "lime/0.png", "lime/1.png"):
        noise(here / "photos" / name)
    save_checkpoint(here / "best.pt", fuzz.checkpoints()[2])
    code, _, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "results")
    assert code == 0, err
    predictions, labels = rows(here / "results/predictions.csv"), rows(here / "results/labels.csv")
    assert [row["image"] for row in predictions] == ["photos/apple/0.png", "photos/lime/0.png", "photos/lime/1.png"]
    assert [row["name"] for row in labels] == ["apple/0.png", "lime/0.png", "1.png"]
    for key in ("label", "probability"):
        assert [row[key] for row in predictions] == [row[key] for row in labels]
