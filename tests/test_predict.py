"""evaluate.py predict: anyone's images, in folders or large, and what comes of them."""
import argparse
import csv
import json
import os
from html.parser import HTMLParser
from urllib.parse import unquote

import fuzz
import numpy as np
import pytest
import torch
from PIL import Image

from data.sources import open_data
from evaluation import enlarge
from evaluation.runs import overlay
from evaluation.segmentation import predict_segmentation, predicted_classes, scores_at_own_size
from models import build_network
from training.checkpoint import PRETRAINED, Predictor, load_predictor, load_run, save_checkpoint
from training.settings import crop_size


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
    expected = {"photos/a.jpg": "a.png", "photos/a.png": "a_2.png", "photos/deep/b.png": "deep/b.png",
                "photos/deep/er/a.png": "deep/er/a.png", "other/b.png": "other/b.png"}
    assert table == {str(here / image): result for image, result in expected.items()}
    for result in table.values():
        assert Image.open(here / "photos/results" / result).mode == "P"
        assert (here / "photos/results" / result.replace(".png", "_overlay.jpg")).exists()
    noise(here / "third/a.png")
    run("evaluate.py", "predict", "best.pt", "third", "--out", "photos/results")  # adds, and overwrites nothing
    added = {row["image"]: row["prediction"] for row in rows(here / "photos/results/predictions.csv")}
    assert added == table | {str(here / "third/a.png"): "a_3.png"} and (here / "photos/results/a_3.png").exists()
    # The same name below another folder is another image; the same image, named from there, is predicted anew.
    (here / "elsewhere/third").mkdir(parents=True)
    noise(here / "elsewhere/third/a.png")
    os.chdir(here / "elsewhere")
    run("evaluate.py", "predict", "../best.pt", "third", "../third/a.png", "--out", "../photos/results")
    os.chdir(here)
    again = {row["image"]: row["prediction"] for row in rows(here / "photos/results/predictions.csv")}
    assert again == added | {str(here / "elsewhere/third/a.png"): "a_4.png"}
    code, _, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "photos")
    assert code == 2 and "--out" in err and err.count("\n") == 1
    (here / "empty").mkdir()
    code, out, err = run("evaluate.py", "predict", "best.pt", "empty", "none*.png", "other", "--out", "results")
    assert code == 2 and "1 of 2" in out and "empty: no images" in err and "none*.png: no such file" in err


def test_no_file_of_the_user_s_is_overwritten(run, here):
    save_checkpoint(here / "best.pt", fuzz.checkpoints()[0])
    for name in ("photos/sub/a.png", "photos/b.png", "photos/new.HEIC", "masks/b.png"):
        noise(here / name) if name.endswith("png") else (here / name).touch()
    before = {path: path.read_bytes() for path in here.rglob("*.png")}
    for words in (("photos/*/*.png", "--out", "photos"), ("*/*.png", "--out", ".")):
        code, _, err = run("evaluate.py", "predict", "best.pt", *words)
        assert code == 2 and "could be overwritten" in err and err.count("\n") == 1
    code, out, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "masks")
    assert code == 0 and "2 of 2" in out and (here / "masks/b_2.png").exists(), err
    assert "photos: 1 files without an image's suffix are left out: new.HEIC" in out
    assert {path: path.read_bytes() for path in before} == before
    # Photos below --out are photos; what predict made is none.
    code, out, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", ".")
    assert code == 0 and "2 of 2" in out and (here / "sub/a.png").exists(), err
    run("evaluate.py", "predict", "best.pt", "photos", "--out", "photos/first")
    code, out, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "photos/second")
    assert code == 0 and "2 of 2" in out, err
    (here / "other").mkdir()
    (here / "other/predictions.csv").write_text("id;label\n1;2\n")
    code, _, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "other")
    assert code == 2 and "give another --out" in err and (here / "other/predictions.csv").read_text()[:2] == "id"


def test_a_classifier_writes_both_tables(run, here):
    for name in ("apple/0.png", "lime/0.png", "lime/1.png"):
        noise(here / "photos" / name)
    save_checkpoint(here / "best.pt", fuzz.checkpoints()[2])
    code, _, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "results")
    assert code == 0, err
    predictions, labels = rows(here / "results/predictions.csv"), rows(here / "results/labels.csv")
    images = "apple/0.png", "lime/0.png", "lime/1.png"
    assert [row["image"] for row in predictions] == [str(here / "photos" / image) for image in images]
    assert [row["name"] for row in labels] == ["apple/0.png", "lime/0.png", "lime/1.png"]
    for key in ("label", "probability"):
        assert [row[key] for row in predictions] == [row[key] for row in labels]
    noise(here / "more/lime/2.png")
    run("evaluate.py", "predict", "best.pt", "more", "--out", "results")
    assert [row["name"] for row in rows(here / "results/labels.csv")] == [
        "apple/0.png", "lime/0.png", "lime/1.png", "lime/2.png"]


def test_classes_are_known_by_name_in_any_order(run, here):
    """A folder sorts its classes; the network has sky first."""
    for name in ("road/0.png", "road/1.png", "road/2.png", "sky/3.png"):
        noise(here / "photos" / name)
    save_checkpoint(here / "best.pt", fuzz.checkpoints()[2])
    run("evaluate.py", "predict", "best.pt", "photos", "--out", "results")
    right = sum(row["name"].startswith(row["label"]) for row in rows(here / "results/labels.csv"))
    code, out, err = run("evaluate.py", "score", "best.pt", "--data", "photos")
    assert code == 0 and f"accuracy: {right / 4:.4f}" in out and right in (1, 3), err
    run("evaluate.py", "grade", "classification", "--truth", "photos", "--out", "grades", "best.pt")
    assert float(rows(here / "grades/grades.csv")[0]["accuracy"]) == right / 4


def per_pixel(metadata):
    """A predictor whose scores of a pixel follow from that pixel alone: strips must not change a thing."""
    weight = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(0)) * 9
    bias = torch.tensor([3.0, 0, 0, 0])

    class Pixelwise:
        device, model = torch.device("cpu"), torch.nn.Identity()

        def __call__(self, images):
            return torch.nn.functional.conv2d(images, weight, bias)

    predictor = Pixelwise()
    predictor.metadata, predictor.model.receptive_radius = metadata, 8
    return predictor


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (65, 49), (500, 31), (30, 300_000)])
def test_strips_cover_every_pixel(size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    predictor = per_pixel({"tile": [64, 48]})
    expected = predictor(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0]
    mask = predict_segmentation(predictor, Image.fromarray(image))
    np.testing.assert_array_equal(mask, expected.argmax(0))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    np.testing.assert_array_equal(predicted_classes(predictor, batch)[0], mask)


@pytest.mark.parametrize("network", [{"name": "unet", "out_channels": 3}, {"name": "fcn32", "classes": 3}])
def test_strips_show_a_network_all_that_it_sees(network):
    """The scores of strips are those of the whole image, whatever the network's weights are."""
    model = build_network(network | {"in_channels": 3, "width": 4}).eval()
    predictor = Predictor(model, {"tile": [64, 64]}, torch.device("cpu"), torch.float32)
    image = np.random.default_rng(0).integers(0, 256, (1000, 2100, 3), np.uint8)
    with torch.inference_mode():
        whole = predictor(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0]
        strips = list(scores_at_own_size(predictor, Image.fromarray(image)))
    assert len(strips) > 2
    scores = torch.cat([scores for _, scores in strips], 1)
    assert (scores - whole).abs().max() < 1e-4 * whole.std()


def test_bands_are_those_of_the_whole_enlarged():
    maps = torch.randn(3, 9, 14, generator=torch.Generator().manual_seed(0))
    for size in ((9, 14), (50, 31), (4, 2000), (3000, 700)):
        bands = torch.cat([values for _, values in enlarge(maps, size)], 1)
        torch.testing.assert_close(bands, torch.nn.functional.interpolate(maps[None], size, mode="bilinear")[0])


def test_a_small_disc_in_a_large_image_is_found(run, here):
    """A disc of radius 5 in 256x512, which a size of 64x128 would shrink to 5 pixels."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3), ("test", 4)):
        for i in range(count):
            y, x = rng.integers(8, 248), rng.integers(8, 504)
            mask = np.hypot(*np.ogrid[-y : 256 - y, -x : 512 - x]) <= 5
            image = rng.integers(0, 120, (256, 512, 3)) + 100 * mask[..., None]
            for kind, array in (("images", image), ("masks", mask)):
                (here / "discs" / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(here / "discs" / split / kind / f"{i}.png")
    code, out, err = run("train_segmentation.py", "--data", "discs", "--tile", 64, 64, "--width", 8, "--epochs", 5,
                         "--batch-size", 4, "--lr", 5e-3, "--device", "cpu", "--precision", "fp32", "--out", "run")
    assert code == 0, err
    iou = json.loads((here / "run/summary.json").read_text())["metrics"]["iou"]["foreground"]
    assert iou > 0.5
    # Predicted from files, at their own size, it is the same.
    code, _, err = run("evaluate.py", "predict", "run", "discs/test/images", "--out", "results", "--device", "cpu")
    assert code == 0, err
    truth, found = (np.stack([np.array(Image.open(here / place / f"{i}.png")) for i in range(4)]) == 1
                    for place in ("discs/test/masks", "results"))
    assert (truth & found).sum() / (truth | found).sum() == pytest.approx(iou, abs=0.01)
    code, out, err = run("evaluate.py", "score", "run", "--device", "cpu", "--precision", "fp32")
    assert code == 0 and f"foreground  {iou:.4f}" in out, err


def test_four_channels(run, here):
    """Squares that only the fourth channel shows are learnt and found, by tiles as well."""
    rng = np.random.default_rng(0)
    for i in range(24):
        mask = np.zeros((32, 40), np.uint8)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 12, left : left + 12] = 1
        image = rng.integers(0, 130, (32, 40, 4)) + mask[..., None] * 120 * (np.arange(4) == 3)
        for kind, values in (("images", image.astype(np.uint8)), ("masks", mask)):
            (here / "many" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(here / f"many/{kind}/{i}.png")
    for tile in ((), ("--tile", 24, 24)):
        code, _, err = run("train_segmentation.py", "--data", "many", "--channels", 4, *tile, "--width", 4, "--epochs",
                           10, "--lr", 1e-2, "--batch-size", 4, "--device", "cpu", "--out", "run")
        assert code == 0, err
        code, _, err = run("evaluate.py", "predict", "run", "many/images", "--out", "results", "--device", "cpu")
        assert code == 0, err
        truth, found = (np.stack([np.array(Image.open(here / f"{place}/{i}.png")) for i in range(24)]) == 1
                        for place in ("many/masks", "results"))
        assert (truth & found).sum() / (truth | found).sum() > 0.8
        assert Image.open(here / "results/0_overlay.jpg").size == (40, 32)
    code, out, err = run("evaluate.py", "grade", "segmentation", "--truth", "many", "--out", "grades", "results")
    assert code == 0 and "  ok  " in out, err  # its page shows images, of whose channels three


def test_images_keep_their_own_size_for_tiles(here):
    """In a folder of large images, one of them of another size."""
    for split in ("train", "val", "test"):
        for i in range(4):
            size = (300, 1100) if (split, i) == ("train", 0) else (200, 1100)
            noise(here / "mine" / split / "images" / f"{i}.png", size)
            (here / "mine" / split / "masks").mkdir(exist_ok=True)
            Image.fromarray((np.indices(size)[0] > 99).astype(np.uint8)).save(here / f"mine/{split}/masks/{i}.png")
    data = open_data("mine", "segmentation")  # above 1024, so training takes crops
    assert data.size == (200, 1100) and data.own_size
    assert any("1 of 12 images" in note for note in data.notes)
    args = argparse.Namespace(tile=None, size=None)
    assert crop_size(args, data, torch.device("cpu")) == [256, 256]
    assert crop_size(args, data, torch.device("cuda")) == [512, 512]
    assert not open_data("mine", "segmentation", (100, 550), own_size=True).own_size
    data = open_data("mine", "segmentation", (93, 512))
    assert crop_size(args, data, torch.device("cuda")) is None
    assert open_data("mine", "segmentation", own_size=True).size == (200, 1100)


@pytest.mark.skipif(torch.__version__ < (2, 6), reason="export needs torch 2.6")
@pytest.mark.parametrize("number", [0, 1, 2, 3])  # segmentation by both networks, classification, colorization
def test_networks_can_be_exported(here, number):
    """As README says; with its normalization inside, and batch norm folded."""
    checkpoint = fuzz.checkpoints()[number]
    save_checkpoint(here / "best.pt", checkpoint)
    model = load_predictor("best.pt", torch.device("cpu"), torch.float32).model
    images = torch.rand(1, checkpoint["network"].get("in_channels", 3), 96, 128)
    torch.export.save(torch.export.export(model, (images,)), here / "model.pt2")
    exported = torch.export.load(here / "model.pt2").module()
    expected = load_run("best.pt")[0](images)
    assert (exported(images) - expected).abs().max() < 2e-5 * expected.std()


class Figures(HTMLParser):
    """The addresses of a page's images, and its captions."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.captions, self.inside = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [unquote(value) for key, value in attributes if key == "src"]
        self.inside = tag

    def handle_data(self, text):
        self.captions += [text] * (self.inside == "figcaption" and bool(text.strip()))


def test_a_page_shows_what_was_made(run, here):
    names = ["photos/<b>&.png", "photos/50% of 'a'#1.png", "photos/déjà vu/ü.png"]
    for name in names:
        noise(here / name)
    save_checkpoint(here / "best.pt", fuzz.checkpoints()[0])
    code, out, err = run("evaluate.py", "predict", "best.pt", "photos", "--out", "results/deep")
    assert code == 0 and "index.html" in out, err
    page = Figures((here / "results/deep/index.html").read_text())
    assert len(page.sources) == 6 and all((here / "results/deep" / source).is_file() for source in page.sources)
    assert sorted(page.captions) == sorted("/".join(name.split("/")[-2:]) for name in names)
    assert "<b>" not in (here / "results/deep/index.html").read_text()

    save_checkpoint(here / "best.pt", fuzz.checkpoints()[2])
    noise(here / "more/a.png")
    code, _, err = run("evaluate.py", "predict", "best.pt", "more", "--out", "results/deep")  # beside the masks
    page = Figures((here / "results/deep/index.html").read_text())
    assert code == 0 and len(page.sources) == 7 and page.captions[-1].endswith("%)"), err


def test_overlay_of_two_classes_leaves_the_background_clear():
    image, mask = Image.new("RGB", (40, 30), (90, 90, 90)), np.zeros((30, 40), np.uint8)
    mask[:, 20:] = 1
    shown = np.array(overlay(image.copy(), mask, [(0, 0, 0), (255, 255, 255)]))
    assert (shown[:, :20] == 90).all() and (shown[:, 20:] != 90).any(2).all()
    assert (np.array(overlay(image.copy(), mask, [(0, 0, 0)] * 3)) != 90).any(2).all()


@pytest.mark.parametrize("name", [path.stem for path in sorted(PRETRAINED.glob("*.pt"))])
def test_networks_that_ship_with_the_code(run, here, name):
    noise(here / "street.png", (90, 120))
    code, out, err = run("evaluate.py", "predict", f"pretrained-{name}", "street.png", "--out", "results")
    assert code == 0 and "1 of 1 images" in out and (here / "results/index.html").exists(), err


def test_networks_that_ship_are_small(run):
    assert sum(path.stat().st_size for path in PRETRAINED.glob("*.pt")) < 6e6
    code, _, err = run("evaluate.py", "predict", "pretrained-vgg", "street.png", "--out", "results")
    assert code == 2 and "pretrained-vgg is no finished run" in err and err.count("\n") == 1
