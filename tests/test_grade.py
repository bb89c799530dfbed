"""Grading: a class of good, bad and hostile submissions against a tiny truth, every verdict checked."""
import base64
import io
import os
import pickle
import re
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from classroom import COLORS, NAMES, draw_mask, grade, png, write
from conftest import make_masks
from PIL import Image
from sklearn.metrics import confusion_matrix

import evaluate
import utils
from data import InputError
from data.masks import NO_CLASS, VOID
from evaluation import grading
from evaluation.counts import segmentation_metrics, segmentation_row
from evaluation.segmentation import predict_segmentation, with_palette
from models import build_network
from training.checkpoint import load_predictor, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A truth of six pictures, four classes and void, and submissions of each kind, graded by the command line."""
    base, rng = tmp_path_factory.mktemp("course"), np.random.default_rng(0)
    masks = {name: draw_mask(rng, (1, 2, 3, 4)) for name in NAMES}
    truth, home = base / "truth", base / "submissions"
    write(truth, {f"images/{name}.jpg": png(COLORS[mask]) for name, mask in masks.items()})
    write(truth, {f"masks/{name}.png": png(mask) for name, mask in masks.items()})
    write(truth, {"classes.csv": b"id,name,r,g,b\n0,sky,128,128,128\n1,car,200,0,0\n2,=tree,0,200,0\n3,<b>,0,0,200\n"
                                 b"4,void,0,0,0\n"})

    noisy = {name: np.where(rng.random(mask.shape) < 0.2, rng.integers(0, 4, mask.shape), mask).astype(np.uint8)
             for name, mask in masks.items()}
    noisy[NAMES[2]][10:15] = 77
    perfect = {f"{name}.png": png(mask) for name, mask in masks.items()}
    write(home, {f"perfect/{name}": data for name, data in perfect.items()})
    # What predict leaves beside its masks, and the pictures themselves: neither takes the masks' place.
    write(home, {f"perfect/{name}_overlay.jpg": b"x" for name in NAMES})
    write(home, {f"all of it/images/{name}.png": png(COLORS[mask[::-1]]) for name, mask in masks.items()})
    write(home, {f"all of it/masks/{name}": data for name, data in perfect.items()})
    # Programs that reduce colours number them as they like, and some leave the photograph beside its mask.
    (home / "gif").mkdir()
    for name, mask in masks.items():
        Image.fromarray(COLORS[mask]).save(home / "gif" / f"{name}.gif")
    write(home, {f"gif/{name}.jpg": png(COLORS[mask[::-1]]) for name, mask in masks.items()})
    write(home, {f"gif/a/{name}.png": b"broken" for name in masks})
    write(home, {f"beside/{name}.png": png(COLORS[mask].mean(2).astype(np.uint8)) for name, mask in masks.items()})
    write(home, {f"beside/{name}_mask.png": png(mask) for name, mask in masks.items()})
    write(home, {f"rgb/{name}_pred.png": png(COLORS[mask]) for name, mask in masks.items()})
    write(home, {f"noisy/{name}_mask.png": png(mask) for name, mask in noisy.items()})
    write(home, {f"=noisy <i>zwei \u00fc\u4e2d/work/{name}.png": png(mask) for name, mask in noisy.items()})
    write(home, {f"shifted/{name}.png": png(np.roll(mask, 3, 1)) for name, mask in masks.items()})
    write(home, {f"half/{name}.png": perfect[f"{name}.png"] for name in NAMES[::2]})
    write(home, {f"small/{name}.png": png(mask[::2, ::2]) for name, mask in masks.items()})
    write(home, {f"corrupt/{name}": data for name, data in perfect.items()}
          | {"corrupt/street0.png": perfect["street0.png"][:80], "corrupt/street1.png": b"", "corrupt/notes.txt": b"x"})
    (home / "corrupt/street2.png").rename(home / "corrupt/my STREET2 result.png")
    write(home, {"hostile/best.pt": pickle.dumps(Hostile(base / "executed"))})
    write(home, {"broken.zip": b"PK no zip at all"})
    (home / "empty").mkdir()
    (home / "links").mkdir()
    for name in NAMES:
        (home / "links" / f"{name}.png").symlink_to(truth / "masks" / f"{name}.png")
    (home / "palette").mkdir()
    for name, mask in masks.items():
        with_palette(mask, COLORS[:5], range(5)).save(home / "palette" / f"{name}.png")
    with zipfile.ZipFile(home / "packed.zip", "w") as archive:
        for name, data in perfect.items():
            archive.writestr(f"top/{name}", data)
        for name in ("../escaped.png", "/tmp/escaped.png", "top\\..\\..\\escaped.png", "__MACOSX/top/._street0.png"):
            archive.writestr(name, b"x")
    with zipfile.ZipFile(home / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("street0.png", bytes(20 << 20))
        archive.writestr("street1.png", perfect["street1.png"])
    packed = (home / "bomb.zip").read_bytes()
    write(home, {"liar.zip": packed.replace((20 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little"))})
    (home / "borrowed").symlink_to(home / "perfect")
    os.mkfifo(home / "pipe.csv")
    header = bytearray(perfect["street0.png"])
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # claims 3.6 billion pixels
    write(home, {"huge/street0.png": bytes(header)})

    before = set(base.rglob("*"))
    done = subprocess.run(
        [sys.executable, ROOT / "evaluate.py", "grade", "segmentation", "--truth", truth, "--out", base / "out",
         *sorted(home.iterdir())], capture_output=True, text=True, cwd=base)
    assert done.returncode == 0, done.stderr
    rows = {row["submission"]: row for row in utils.read_csv(base / "out" / "grades.csv")}
    return {"base": base, "before": before, "stdout": done.stdout, "rows": rows, "masks": masks, "noisy": noisy}


def test_every_verdict(course):
    rows, odd = course["rows"], "'=noisy <i>zwei \u00fc\u4e2d"
    good = ("perfect", "rgb", "palette", "packed.zip", "all of it", "gif", "beside")
    for name in good:
        assert rows[name]["status"] == "equal to the truth", name
        assert [float(rows[name][key]) for key in ("miou", "boundary_f1", "points")] == [1, 1, 10], name
    assert (rows["perfect"]["extra"], rows["all of it"]["extra"]) == ("0", "6")
    assert "77" in rows["noisy"]["problems"] and rows["noisy"]["out of range"] == "1"
    assert 0.2 < float(rows["shifted"]["miou"]) < 1
    statuses = {"half": "incomplete", "corrupt": "incomplete", "bomb.zip": "incomplete", "small": "wrong size",
                "empty": "empty", "huge": "unreadable", "links": "refused", "hostile": "refused",
                "broken.zip": "refused", "borrowed": "refused", "pipe.csv": "refused", "liar.zip": "incomplete"}
    assert {name: rows[name]["status"] for name in statuses} == statuses
    assert all(float(rows[name]["points"]) == 0 for name, status in statuses.items() if status != "incomplete")
    counts = {"half": ("missing", 3), "small": ("wrong size", 6), "huge": ("unreadable", 1), "links": ("refused", 6),
              "packed.zip": ("extra", 1), "bomb.zip": ("unreadable", 1), "corrupt": ("unreadable", 2)}
    assert {name: (kind, int(rows[name][kind])) for name, (kind, _) in counts.items()} == counts
    assert "meant for street2" in rows["corrupt"]["problems"] and rows["corrupt"]["extra"] == "1"
    assert "24x32 in place of 48x64" in rows["small"]["problems"]
    assert float(rows["half"]["miou"]) < 0.6 and len(rows) == 22
    ranks = {name: int(row["rank"]) for name, row in rows.items()}
    assert {ranks[name] for name in good} == {1} and ranks["noisy"] == ranks[odd] and max(ranks.values()) < 22


def test_nothing_is_executed_or_written_elsewhere(course):
    new = {path.relative_to(course["base"]).parts[0] for path in set(course["base"].rglob("*")) - course["before"]}
    assert new == {"out"} and not Path("/tmp/escaped.png").exists()


def test_pages_escape_what_strangers_wrote(course):
    out = course["base"] / "out"
    pages = [out / "grades.html", *(out / "feedback").iterdir()]
    assert len(pages) == 23 and all(path.name.isascii() for path in pages)
    for path in pages:
        text = path.read_text("utf-8")
        assert "<i>" not in text and "<b>" not in text and "http" not in text
    page = (out / "grades.html").read_text("utf-8")
    assert "&lt;i&gt;zwei" in page
    images = sum(path.read_text("utf-8").count("data:image/jpeg") for path in pages)
    assert images == 3 * 3  # of noisy, its twin, and shifted: the others' are perfect
    assert all(row["feedback"] in page for row in course["rows"].values())
    assert grading.plain_name("\u5f20.zip") != grading.plain_name("\u674e.zip") != "zip"  # a page of one's own
    assert len({grading.plain_name(name) for name in ("Anna B.zip", "anna_b.zip", "anna-b.zip", "anna_b_zip")}) == 4
    assert "packed" not in (out / "feedback" / "perfect.html").read_text("utf-8")  # a student learns nothing of others


def test_the_page_of_the_class(course):
    page, rows = (course["base"] / "out/grades.html").read_text("utf-8"), course["rows"]
    points = [float(row["points"]) for row in rows.values()]
    assert f"mean of those handed in {np.mean(points):.2f} points, median {np.median(points):.2f}." in page
    bars = [int(count or 0) for count in re.findall(r'<rect[^>]*/><text[^>]*>(\d*)<', page)]
    assert bars == np.histogram(points, 10, (0, 10))[0].tolist() and sum(bars) == len(rows)
    groups = {name: row["group"] for name, row in rows.items()}
    alike = {letter: {name for name in rows if groups[name] == letter} for letter in "AB"}
    assert alike["A"] == {"perfect", "all of it", "beside", "gif", "packed.zip", "palette", "rgb"}
    assert alike["B"] == {"noisy", "'=noisy <i>zwei \u00fc\u4e2d"} and groups["shifted"] == ""
    heads = page.partition("</thead>")[0]  # a button can be reached and pressed by the keyboard
    assert heads.count("<th>") == heads.count("<th><button>") == 10
    lines = [line for line in course["stdout"].splitlines() if re.match(r" *\d+ +\d+\.\d{3} ", line)]
    assert [line.split()[:2] for line in lines] == [[row["rank"], f"{float(row['points']):.3f}"]
                                                    for row in rows.values()]
    assert any(re.fullmatch(r" +1 +10\.000 +1\.0000  equal to the truth  perfect", line) for line in lines)


def test_the_page_of_a_student(course, tmp_path):
    base, row = course["base"], course["rows"]["noisy"]
    page = (base / "out/feedback/noisy.html").read_text("utf-8")
    told = re.search(r"<strong>miou</strong>, the intersection .*: 0 points at (.*), 6 points at (.*), 10 points at "
                     r"(.*), linear in between", page)
    steps, cells = list(map(float, told.groups())), re.findall(r"<td>([^<]*)</td>", page)
    trivial, points = map(float, cells[2:4])
    assert cells[:2] == ["miou", f"{float(row['miou']):.3f}"]
    assert trivial == steps[0] and points == float(row["points"])  # they begin at the best that needs no network
    assert points == pytest.approx(np.interp(float(row["miou"]), steps, [0, 6, 10]), abs=0.02)
    own = [tuple(map(int, color)) for color in COLORS[:4]]
    assert all(f"border-color: rgb{color}" in page for color in utils.figure_colors(own))
    assert page.count(">truth</div>") == 3
    name, = re.search(r">errors in red</div><figcaption>(\w+):", page).groups()
    uri, = re.search(r'base64,([^"]+)" alt="">errors in red</div>', page).groups()
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).resize((64, 48), Image.Resampling.NEAREST))
    mask, noisy = course["masks"][name], course["noisy"][name]
    assert (np.all(drawn == (200, 0, 0), 2) == (mask != noisy) & (mask != 4)).all()
    flags = "--hide-truth", "--title", "<3>"
    grade("segmentation", base / "truth", tmp_path / "out", [base / "submissions/noisy"], *flags)
    hidden = (tmp_path / "out/feedback/noisy.html").read_text("utf-8")
    assert "&lt;3&gt; \u2013 noisy" in hidden and hidden.count(">prediction</div>") == 3
    assert ">truth</div>" not in hidden and ">errors in red</div>" not in hidden
    write(tmp_path, {"truth/cat/a.png": png(mask), "truth/dog/b.png": png(mask), "x.csv": b"name,label\na,dog\nb,dog"})
    for flags, count in ((), 1), (("--hide-truth",), 0):  # which images are wrong is hidden, too
        grade("classification", tmp_path / "truth", tmp_path / "out", [tmp_path / "x.csv"], *flags)
        assert (tmp_path / "out/feedback/x.csv.html").read_text("utf-8").count("a: dog, is cat") == count


def test_scores_equal_torchmetrics_and_ours(course):
    """On the noisy submission, whose stray 77s no metric of K classes can take: there they are a class of their own."""
    truth = np.stack([np.where(mask == 4, VOID, mask) for mask in course["masks"].values()]).astype(np.int64)
    prediction = np.stack(list(course["noisy"].values())).astype(np.int64)
    prediction[prediction == 4] = 0  # only where the truth is void
    row, k = course["rows"]["noisy"], 5
    prediction[prediction == 77] = 4
    t, p = torch.from_numpy(truth), torch.from_numpy(prediction)
    iou = torchmetrics.JaccardIndex("multiclass", num_classes=k, ignore_index=VOID, average="none")(p, t)[:4]
    assert float(row["miou"]) == pytest.approx(float(iou.mean()), abs=1e-5)
    ours = [float(row[f"IoU {name}"]) for name in ("sky", "car", "=tree", "<b>")]
    assert ours == pytest.approx(iou.tolist(), abs=1e-5)
    accuracy = torchmetrics.Accuracy("multiclass", num_classes=k, ignore_index=VOID, average="micro")(p, t)
    assert float(row["pixel_accuracy"]) == pytest.approx(float(accuracy), abs=1e-5)
    expected = np.interp(float(row["miou"]), [0, 0.415, 0.512], [0, 6, 10])
    assert float(row["points"]) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("classes, shape", [(4, (48, 64)), (11, (360, 480)), (70, (33, 7)), (2, (1, 9))])
def test_rows_equal_our_metrics(classes, shape):
    truth, prediction = make_masks(classes, shape)
    row = segmentation_row(truth, prediction, classes)
    scored = truth != VOID
    counts = confusion_matrix(truth[scored], prediction[scored], labels=range(classes))
    assert (row[:3] == [counts.diagonal(), counts.sum(1), counts.sum(0)]).all()
    ours, true = segmentation_metrics(row.astype(float)), counts.sum(1)
    union = true + counts.sum(0) - counts.diagonal()
    iou = counts.diagonal()[union > 0] / union[union > 0]
    assert [float(ours[key]) for key in ("miou", "pixel_accuracy", "frequency_weighted_iou")] == pytest.approx(
        [iou.mean(), counts.trace() / true.sum(), (true[union > 0] * iou).sum() / true.sum()])
    assert float(ours["boundary_f1"]) == float(utils.boundary_f1(utils.outline_counts(truth, prediction, classes)))
    missing = segmentation_row(truth, None, classes)
    assert (missing == segmentation_row(truth, np.full(truth.shape, NO_CLASS, np.uint8), classes)).all()
    assert not missing[[0, 2, 3, 5, 6]].any() and (missing[1] == counts.sum(1)).all()


def test_binary_masks_and_rubric(tmp_path):
    """0/255 in place of 0/1, and points by a rubric."""
    rng = np.random.default_rng(1)
    masks = {name: draw_mask(rng, (1,)) for name in NAMES[:3]}
    write(tmp_path / "truth", {f"images/{name}.png": png(mask) for name, mask in masks.items()})
    write(tmp_path / "truth", {f"masks/{name}.png": png(mask) for name, mask in masks.items()})
    write(tmp_path, {f"white/{name}.png": png(mask * 255) for name, mask in masks.items()})
    write(tmp_path, {f"part/{name}.png": png(mask) for name, mask in list(masks.items())[:2]})
    rubric = tmp_path / "rubric.json"
    rubric.write_text('{"miou": [[0.5, 2], [1, 4]], "boundary_f1": [[0, 0], [1, 1]]}')
    (tmp_path / "gif").mkdir()
    for name, mask in masks.items():
        Image.fromarray(mask * 255).convert("RGB").save(tmp_path / "gif" / f"{name}.gif")
    submissions = [tmp_path / "white", tmp_path / "gif", tmp_path / "part"]
    rows = grade("segmentation", tmp_path / "truth", tmp_path / "out", submissions, "--rubric", str(rubric))
    for name in ("white", "gif"):
        assert (rows[name]["status"], float(rows[name]["points"])) == ("equal to the truth", 5)
    assert rows["part"]["status"] == "incomplete" and 0 < float(rows["part"]["points"]) < 5
    for text in ("{}", "[1]", "no json", '{"miou": [[1, 2], [0, 3]]}',
                 '{"speed": [[0, 1]]}', '{"miou": [[0, NaN]]}', '{"miou": []}'):
        rubric.write_text(text)
        with pytest.raises(InputError, match="rubric.json"):
            grade("segmentation", tmp_path / "truth", tmp_path / "out", submissions, "--rubric", str(rubric))


def test_classification(tmp_path):
    picture = png(np.zeros((12, 12, 3), np.uint8))
    names = [f"{kind}/{i}{kind}" for kind in ("cat", "dog") for i in range(5)]
    write(tmp_path / "truth", {f"{name}.png": picture for name in names})
    lines = [f"{name.split('/')[1]}.png,{name.split('/')[0]}" for name in names]
    wrong = [*lines[:7], "4dog,cat", "3dog,=bird", "nobody,cat", "0cat,dog"]  # no 2dog, and two labels for 0cat
    write(tmp_path, {"right.csv": "\n".join(["name,label", *lines]).encode(),
                     "wrong/deep/labels.csv": "\n".join(["name,label", *wrong]).encode(),
                     "excel.csv": "\r\n".join(["\ufeffName;Label", *lines]).replace(",", ";").encode(),
                     "none/labels.csv": b"\xff\x01,\n"})
    table = "\n".join(["name, label", *lines])
    write(tmp_path, {"mac.csv": table.replace("\n", "\r").encode(),
                     "two/a_val.csv": f"name,label\n{lines[0]}\nval1,cat".encode(), "two/test.csv": table.encode()})
    good = ("right.csv", "excel.csv", "mac.csv", "two")
    submissions = [tmp_path / name for name in (*good, "wrong", "none")]
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", submissions)
    for name in good:
        assert (float(rows[name]["accuracy"]), float(rows[name]["points"])) == (1, 10)
    expected = {"accuracy": 0.6, "accuracy cat": 0.8, "accuracy dog": 0.4, "missing": 1, "extra": 1, "repeated": 1,
                "out of range": 1}
    assert {key: float(rows["wrong"][key]) for key in expected} == pytest.approx(expected)
    assert rows["wrong"]["status"] == "ambiguous" and "0cat" in rows["wrong"]["problems"]
    assert rows["none"]["status"] == "empty"
    page = (tmp_path / "out/feedback/none.html").read_text("utf-8")
    assert "2dog" in page and "dog/2dog" not in page  # the folder would be the answer


def test_names_from_a_mac_and_names_with_two_suffixes(tmp_path):
    """Accents as characters of their own, and pictures that only their suffixes tell apart."""
    rng = np.random.default_rng(4)
    names = ["stra\u00dfe f\u00fcnf.png", "1.png", "1.bmp"]
    write(tmp_path, {f"truth/{name}": png(rng.integers(0, 256, (16, 16, 3), np.uint8)) for name in names})
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for name in names:
            archive.writestr(unicodedata.normalize("NFD", name), (tmp_path / "truth" / name).read_bytes())
    # A Mac does not set the bit that says UTF-8, neither before a file's data nor in the list at the end.
    flags = {b"PK\x03\x04": 7, b"PK\x01\x02": 9}
    data = bytearray((tmp_path / "mine.zip").read_bytes())
    for sign, byte in flags.items():
        for found in re.finditer(re.escape(sign), bytes(data)):
            data[found.start() + byte] &= ~8
    (tmp_path / "mac.zip").write_bytes(data)
    rows = grade("colorization", tmp_path / "truth", tmp_path / "out", [tmp_path / "m*.zip"])
    assert [(row["status"], float(row["psnr"])) for row in rows.values()] == [("equal to the truth", 100)] * 2


def test_predicted_masks_hold_the_ids_of_the_truth(tmp_path):
    """Classes 0 and 1 of a network whose data call them 7 and 9, with and without colours."""
    mask = draw_mask(np.random.default_rng(5), (1,))
    for header, color in (("id,name,r,g,b\n", (",9,9,9", ",200,0,0", ",5,5,5")), ("id,name\n", ("", "", ""))):
        rows = "\n".join(f"{id},{name}{each}" for (id, name), each in zip(((0, "void"), (7, "a"), (9, "b")), color))
        write(tmp_path, {"truth/images/x.png": png(COLORS[mask]), "truth/masks/x.png": png(7 + 2 * mask),
                         "truth/classes.csv": (header + rows).encode()})
        (tmp_path / "mine").mkdir(exist_ok=True)
        with_palette(mask, [(200, 0, 0), (5, 5, 5)], [7, 9]).save(tmp_path / "mine/x.png")
        assert (np.array(Image.open(tmp_path / "mine/x.png")) == 7 + 2 * mask).all()
        rows = grade("segmentation", tmp_path / "truth", tmp_path / "out", [tmp_path / "mine"])
        assert float(rows["mine"]["miou"]) == 1


def test_colorization(tmp_path):
    rng = np.random.default_rng(2)
    pictures = {name: rng.integers(0, 256, (4, 5, 3)).repeat(6, 0).repeat(6, 1).astype(np.uint8) for name in NAMES[:3]}
    write(tmp_path / "truth", {f"{name}.png": png(picture) for name, picture in pictures.items()})
    write(tmp_path, {f"same/{name}.png": png(picture) for name, picture in pictures.items()})
    write(tmp_path, {f"grey/{name}.png": png(picture.mean(2).astype(np.uint8)) for name, picture in pictures.items()})
    rows = grade("colorization", tmp_path / "truth", tmp_path / "out", [tmp_path / "same", tmp_path / "grey"])
    assert (float(rows["same"]["ssim"]), float(rows["same"]["colorfulness_ratio"])) == pytest.approx((1, 1), abs=1e-4)
    assert float(rows["grey"]["colorfulness_ratio"]) < 0.01 and float(rows["grey"]["delta_e"]) > 10
    assert float(rows["same"]["points"]) == 10 > float(rows["grey"]["points"])
    # Too much colour costs points, and leaving pictures out must not bring them back.
    gaudy = {name: png(np.clip(2 * picture.astype(int) - 128, 0, 255).astype(np.uint8)) for name, picture in
             pictures.items()}
    write(tmp_path, {f"gaudy/{name}.png": data for name, data in gaudy.items()})
    write(tmp_path, {f"gaps/{name}.png": data for name, data in list(gaudy.items())[:2]})
    rows = grade("colorization", tmp_path / "truth", tmp_path / "out", [tmp_path / "gaudy", tmp_path / "gaps"])
    assert float(rows["gaps"]["points"]) <= float(rows["gaudy"]["points"]) < 10
    write(tmp_path, {"truth/tiny.png": png(np.zeros((10, 30, 3), np.uint8))})
    with pytest.raises(InputError, match="tiny.png: less than 11"):
        grade("colorization", tmp_path / "truth", tmp_path / "out", [tmp_path / "same"])


def test_a_checkpoint_is_a_submission(tmp_path):
    rng = np.random.default_rng(3)
    write(tmp_path / "truth", {f"images/{name}.png": png(COLORS[draw_mask(rng, (1,))]) for name in NAMES[:2]})
    write(tmp_path / "truth", {f"masks/{name}.png": png(draw_mask(rng, (1,))) for name in NAMES[:2]})
    network = {"name": "unet", "in_channels": 3, "out_channels": 2, "width": 4, "depth": 2}
    metadata = {"task": "segmentation", "network": network, "data": "x", "classes": ["background", "foreground"],
             "colors": [[0, 0, 0], [9, 9, 9]], "ids": [0, 1], "size": [32, 32], "seed": 0}
    model = build_network(network)
    save_checkpoint(tmp_path / "run.pt", metadata | {"weights": model.state_dict()})
    save_checkpoint(tmp_path / "other.pt", metadata | {"task": "colorization", "weights": model.state_dict()})
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # threads of before, which a forked process does not have, are not waited for
    model(torch.rand(1, 3, 256, 256))
    rows = grade("segmentation", tmp_path / "truth", tmp_path / "out", [tmp_path / "run.pt", tmp_path / "other.pt"])
    torch.set_num_threads(before)
    assert rows["run.pt"]["status"] == "ok" and rows["other.pt"]["status"] == "refused"
    assert "another task" in rows["other.pt"]["problems"]
    predictor = load_predictor(tmp_path / "run.pt", torch.device("cpu"), torch.float32)
    counts = sum(utils.pixel_counts(*(torch.from_numpy(mask)[None] for mask in (
        np.array(Image.open(tmp_path / f"truth/masks/{name}.png")),
        predict_segmentation(predictor, Image.open(tmp_path / f"truth/images/{name}.png")))), 2) for name in NAMES[:2])
    foreground = utils.segmentation_scores(counts[0].numpy())["iou"][1]
    assert float(rows["run.pt"]["foreground_iou"]) == pytest.approx(foreground, abs=1e-6)
    write(tmp_path / "download", {"Doe Jane_11_assignsubmission_file_/best.pt": (tmp_path / "run.pt").read_bytes()})
    row = grade("segmentation", tmp_path / "truth", tmp_path / "out", [tmp_path / "download"])["Doe Jane"]
    assert (row["status"], row["foreground_iou"]) == ("ok", rows["run.pt"]["foreground_iou"])
    (tmp_path / "borrowed.pt").symlink_to(tmp_path / "run.pt")
    rows = grade("segmentation", tmp_path / "truth", tmp_path / "out", [tmp_path / "borrowed.pt"])
    assert rows["borrowed.pt"]["status"] == "refused" and "link" in rows["borrowed.pt"]["problems"]


def test_mistakes_are_one_line(tmp_path, capsys):
    args = ["grade", "colorization", "--truth", str(tmp_path), "--out", str(tmp_path / "out"), str(tmp_path / "nobody")]
    with pytest.raises((InputError, OSError), match="no images"):
        grading.grade(evaluate.get_args_parser().parse_args(args))
    write(tmp_path, {"truth/a.png": png(np.zeros((20, 20, 3), np.uint8)), "mine/a.png": b""})
    with pytest.raises(InputError, match="nobody: no such file or folder"):
        grade("colorization", tmp_path / "truth", tmp_path / "out", [tmp_path / "nobody"])
    write(tmp_path, {"labels/cat/a.png": png(np.zeros((20, 20, 3), np.uint8)), "labels/dog/b.png": b"broken"})
    with pytest.raises(InputError, match="b.png: not an image"):  # not only when a student's page shows it
        grade("classification", tmp_path / "labels", tmp_path / "out", [tmp_path / "mine"])
    for out in ("truth/out", "mine", "mine/out"):
        with pytest.raises(InputError, match="give the grades a folder of their own"):
            grade("colorization", tmp_path / "truth", tmp_path / out, [tmp_path / "mine"])
