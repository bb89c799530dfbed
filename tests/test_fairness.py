"""Fair numbers: what honest people hand in is understood, and what needs no network does not pay."""
import io

import numpy as np
import pytest
from classroom import COLORS, NAMES, draw_mask, grade, png, write
from PIL import Image

import utils
from data import InputError

CSV = b"id,name,r,g,b\n0,sky,128,128,128\n1,car,200,0,0\n2,tree,0,200,0\n3,road,0,0,200\n4,void,0,0,0\n"


def save(image, kind, **options):
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def masks():
    rng = np.random.default_rng(0)
    return {name: draw_mask(rng, (1, 2, 3)) for name in NAMES}


@pytest.fixture(scope="module")
def truth(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("truth")
    write(folder, {f"images/{name}.jpg": png(COLORS[mask]) for name, mask in masks.items()})
    write(folder, {f"masks/{name}.png": png(mask) for name, mask in masks.items()} | {"classes.csv": CSV})
    return folder


def honest(mask, shift=2):
    return np.roll(mask, shift, 1)


def test_of_several_files_none_is_preferred_that_differs(tmp_path, truth, masks):
    """Of sound masks that differ the worst counts, whatever the alphabet says."""
    write(tmp_path, {f"{home}/{name}.png": png(honest(mask)) for home in ("alone", "gt", "suffix", "overlays", "imgs",
                                                                         "twice") for name, mask in masks.items()})
    write(tmp_path, {f"gt/gt/{name}.png": png(mask) for name, mask in masks.items()})
    write(tmp_path, {f"suffix/{name}_gt.png": png(mask) for name, mask in masks.items()})
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    write(tmp_path, {f"overlays/overlays/{name}.png": png(COLORS[mask] // 2 + photo // 2)
                     for name, mask in masks.items()})
    write(tmp_path, {f"imgs/imgs/{name}.png": png(photo) for name in masks})
    write(tmp_path, {f"twice/copy/{name}.png": png(honest(mask)) for name, mask in masks.items()})
    write(tmp_path, {f"two/{net}/{name}.png": png(honest(mask, shift)) for net, shift in (("fcn", 1), ("unet", 2))
                     for name, mask in masks.items()})
    homes = sorted(path.name for path in tmp_path.iterdir())
    rows = grade("segmentation", truth, tmp_path / "out", [tmp_path / home for home in homes])
    assert {name: row["status"] for name, row in rows.items()} == {
        "alone": "ok", "gt": "ambiguous", "suffix": "ambiguous", "overlays": "ok", "imgs": "ok", "twice": "ok",
        "two": "ambiguous"}
    for name, row in rows.items():
        assert row["miou"] == rows["alone"]["miou"] < "0.8", name
    assert "fcn/street0.png and unet/street0.png differ" in rows["two"]["problems"]


def carriers(mask, colored):
    """Suffix -> bytes of files that hold a mask's ids in one way or another."""
    shuffled = Image.fromarray(mask[::-1][::-1]).convert("P")  # the palette says grey 3 for index 0, and so on
    order = np.array([3, 1, 0, 2], np.uint8)
    shuffled = Image.frombytes("P", mask.shape[::-1], np.argsort(order).astype(np.uint8)[mask].tobytes())
    shuffled.putpalette(np.repeat(order, 3).tobytes() + bytes(3 * 252))
    ids = Image.fromarray(mask)
    rgb = Image.fromarray(np.stack([mask] * 3, 2))
    odd = Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    odd.putpalette(np.random.default_rng(0).integers(30, 256, 768, np.uint8).tobytes())
    found = {"l.png": save(ids, "PNG"), "rgb.png": save(rgb, "PNG"), "rgba.png": save(rgb.convert("RGBA"), "PNG"),
             "la.png": save(ids.convert("LA"), "PNG"), "deep.png": save(Image.fromarray(mask.astype(np.uint16)), "PNG"),
             "deep.tif": save(Image.fromarray(mask.astype(np.uint16)), "TIFF"),
             "float.tif": save(Image.fromarray(mask.astype(np.float32)), "TIFF"),
             "int.tif": save(Image.fromarray(mask.astype(np.int32)), "TIFF"), "palette.png": save(odd, "PNG"),
             "shuffled.png": save(shuffled, "PNG"), "l.gif": save(ids, "GIF"), "l.bmp": save(ids, "BMP"),
             "rgb.bmp": save(rgb, "BMP"), "rgb.webp": save(rgb, "WEBP", lossless=True),
             "rgb.tif": save(rgb, "TIFF", compression="tiff_lzw")}
    if colored:
        found["colors.png"] = png(COLORS[mask])
        found["colors.gif"] = save(Image.fromarray(COLORS[mask]), "GIF")
    return found


@pytest.mark.parametrize("colored", (True, False))
def test_ids_in_any_honest_carrier(tmp_path, masks, colored):
    header = CSV if colored else b"\n".join(line.rsplit(b",", 3)[0] for line in CSV.splitlines())
    write(tmp_path / "truth", {f"{kind}/{name}.png": png(mask) for kind in ("images", "masks")
                               for name, mask in masks.items()} | {"classes.csv": header})
    for name, mask in masks.items():
        write(tmp_path, {f"home/{kind}/{name}.{kind.rpartition('.')[2]}": data
                         for kind, data in carriers(mask, colored).items()})
    write(tmp_path, {f"home/half/{name}.tif": save(Image.fromarray(mask + np.float32(0.5)), "TIFF")
                     for name, mask in masks.items()})
    write(tmp_path, {f"home/photo/{name}.jpg": save(Image.fromarray(COLORS[mask]), "JPEG", quality=30)
                     for name, mask in masks.items()})
    rows = grade("segmentation", tmp_path / "truth", tmp_path / "out", sorted((tmp_path / "home").iterdir()))
    wrong = {name for name, row in rows.items() if float(row["miou"]) < 1}
    assert wrong == {"half", "photo"}
    assert "values 0.5, 1.5, 2.5" in rows["half"]["problems"] and "as an 8-bit PNG" in rows["half"]["problems"]
    assert "JPEG changes values" in rows["photo"]["problems"] or not colored


def test_names_as_people_and_programs_write_them(tmp_path, truth, masks):
    forms = ("{}.PNG", "Street{}", "{} (1).png", "{} - Copy.png", "{}.jpg.png", "{}_prediction.png", "{}_PRED.png",
             "{}-pred.png", "pred_{}.png", "a/b/{}_mask (2).png")
    for number, form in enumerate(forms):
        write(tmp_path, {f"{number}/{form.format(name).replace('Streetstreet', 'STREET')}": png(honest(mask))
                         for name, mask in masks.items()})
    write(tmp_path, {f"1/{name.upper()}.png": png(honest(mask)) for name, mask in masks.items()})
    write(tmp_path, {f"hint/my STREET{i} result.png": b"" for i in range(6)})
    rows = grade("segmentation", truth, tmp_path / "out", [tmp_path / str(i) for i in range(len(forms))]
                 + [tmp_path / "hint"])
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(map(str, range(len(forms))), "ok") | {
        "hint": "misnamed"}
    assert "meant for street3?" in rows["hint"]["problems"]


def test_status_and_troubles_say_what_is_so(tmp_path, truth, masks):
    write(tmp_path, {f"small/{name}.png": png(mask[::2, ::2]) for name, mask in masks.items()})
    write(tmp_path, {f"{home}/{name}.png": b"no image" for home in ("broken", "broken too") for name in masks})
    write(tmp_path, {f"{home}/{name}.png": png(mask * 0 + 77) for home in ("sevens", "more") for name, mask in
                     masks.items()})
    write(tmp_path, {f"{home}/{name}.png": png(honest(mask)) for home in ("weights", "partly") for name, mask in
                     masks.items()})
    write(tmp_path, {"partly/street0.png": png(masks["street0"][:5]), "partly/street1.png": b"x"})
    write(tmp_path, {"weights/best.pt": b"PK", "weights/model.h5": b"x"})
    write(tmp_path, {f"void/{name}.png": png(np.where(np.arange(64) < 16, 4, mask).astype(np.uint8))
                     for name, mask in masks.items()})
    (tmp_path / "none").mkdir()
    homes = [path for path in tmp_path.iterdir()]
    rows = grade("segmentation", truth, tmp_path / "out", homes)
    assert {name: row["status"] for name, row in rows.items()} == {
        "small": "wrong size", "broken": "unreadable", "broken too": "unreadable", "sevens": "ok", "more": "ok",
        "weights": "ok", "partly": "incomplete", "void": "ok", "none": "empty"}
    assert (rows["small"]["missing"], rows["small"]["wrong size"]) == ("0", "6")
    assert [rows["partly"][key] for key in ("missing", "wrong size", "unreadable")] == ["0", "1", "1"]
    assert not any(rows[name]["group"] for name in ("broken", "broken too", "sevens", "more"))
    assert rows["weights"]["problems"].count("your own network's file cannot be run") == 2
    assert float(rows["void"]["void"]) == pytest.approx(0.25) and float(rows["void"]["pixel_accuracy"]) < 0.76
    for path in (tmp_path / "out").rglob("*.[hc]*"):  # pages and the CSV
        text = path.read_text("utf-8")
        assert str(tmp_path) not in text and "Error" not in text and "Exception" not in text


def test_labels_as_people_write_them(tmp_path, capsys):
    names = [f"{kind}/{i}" for kind in ("Cat", "dog") for i in (range(5) if kind == "Cat" else range(5, 10))]
    write(tmp_path / "truth", {f"{name}.png": png(np.zeros((8, 8), np.uint8)) for name in names})
    pairs = [(name.split("/")[1], name.split("/")[0]) for name in names]
    write(tmp_path, {"case.csv": "\n".join(["name,label", *(f"{i},{label.upper()}" for i, label in pairs)]).encode(),
                     "numbers.txt": "\n".join(["name;label", *(f"{i};{int(k == 'dog')}" for i, k in pairs)]).encode(),
                     "tabs.tsv": "\n".join(["name\tlabel", *(f"{i}.png\t{label}" for i, label in pairs)]).encode(),
                     "guess.csv": "\n".join(["name,label", *(f"{i},dog" for i, _ in pairs)]).encode()})
    rows = grade("classification", tmp_path / "truth", tmp_path / "out", sorted(tmp_path.glob("*.*")))
    assert {name: float(row["accuracy"]) for name, row in rows.items()} == {
        "case.csv": 1, "numbers.txt": 1, "tabs.tsv": 1, "guess.csv": 0.5}
    assert float(rows["guess.csv"]["points"]) == 0 and "share their names" not in capsys.readouterr().out
    write(tmp_path / "truth", {f"{kind}/same.png": png(np.zeros((8, 8), np.uint8)) for kind in ("Cat", "dog")})
    grade("classification", tmp_path / "truth", tmp_path / "out", [tmp_path / "case.csv"])
    assert "as Cat/same: whoever has seen these names knows the answers" in capsys.readouterr().out


def test_masks_that_need_no_network_get_no_points(tmp_path, masks):
    """Two classes, one of them rare, and a layout that all images share."""
    rng = np.random.default_rng(1)
    rare = {name: np.pad(np.ones((4, 4), np.uint8), ((rng.integers(44), 0), (rng.integers(60), 0))) for name in NAMES}
    rare = {name: np.pad(mask, ((0, 48 - mask.shape[0]), (0, 64 - mask.shape[1]))) for name, mask in rare.items()}
    layout = {name: np.where(np.arange(48)[:, None] > 24 + rng.integers(-3, 3), 1, 0).repeat(64, 1).astype(np.uint8)
              for name in NAMES}
    for mask in layout.values():
        mask[rng.integers(40) :][:8, rng.integers(50) :][:, :12] = 2
    for kind, truth in (("rare", rare), ("layout", layout)):
        home = tmp_path / kind
        write(home, {f"truth/{part}/{name}.png": png(mask) for part in ("images", "masks")
                     for name, mask in truth.items()})
        usual = np.stack(list(truth.values())).mean(0).round().astype(np.uint8) * (kind == "layout")
        write(home, {f"trivial/{name}.png": png(usual) for name in NAMES})
        write(home, {f"honest/{name}.png": png(np.roll(mask, 1, 1)) for name, mask in truth.items()})
        rows = grade("segmentation", home / "truth", home / "out", [home / "trivial", home / "honest"])
        assert float(rows["trivial"]["points"]) < 0.5 and float(rows["honest"]["points"]) > 4, kind
        page = (home / "out/grades.html").read_text("utf-8")
        assert "most frequent class" in page and "usual layout" in page
    assert "foreground_iou" in utils.read_csv(tmp_path / "rare/out/grades.csv")[0]


def test_colours_that_need_no_network_get_no_points(tmp_path):
    rng = np.random.default_rng(2)
    images = {}
    for i in range(12):  # bluish above, brownish below, and a few things of any colour
        image = np.where(np.arange(48)[:, None, None] < 24, (90, 120, 170), (130, 100, 70)).repeat(64, 1)
        for _ in range(8):
            y, x = rng.integers(40), rng.integers(50)
            image[y : y + 12, x : x + 14] = rng.integers(30, 226, 3)
        images[f"{i}"] = (image + rng.integers(-5, 6, image.shape)).clip(0, 255).astype(np.uint8)
    lab = {name: np.array(Image.fromarray(image).convert("YCbCr"), np.float32) for name, image in images.items()}

    def painted(change):
        colored = {}
        for number, (name, values) in enumerate(lab.items()):
            values = values.copy()
            values[..., 1:] = change(number, values[..., 1:] - 128) + 128
            colored[name] = png(np.array(Image.fromarray(values.clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB")))
        return colored

    above = np.where(np.arange(48)[:, None, None] < 24, (18, -12), (-15, 10)) * 1.5
    homes = {"grey": lambda i, c: c * 0, "noise": lambda i, c: rng.normal(0, 25, c.shape), "tint": lambda i, c: above,
             "gaudy": lambda i, c: c * 0 + rng.normal(0, 80, c.shape) * (i < 2), "pale": lambda i, c: c * 0.6,
             "good": lambda i, c: c * 0.9 + 2}
    write(tmp_path, {f"truth/{name}.png": png(image) for name, image in images.items()})
    for home, change in homes.items():
        write(tmp_path / home, {f"{name}.png": data for name, data in painted(change).items()})
    rows = grade("colorization", tmp_path / "truth", tmp_path / "out", [tmp_path / home for home in homes])
    points = {name: float(row["points"]) for name, row in rows.items()}
    assert max(points[name] for name in ("grey", "noise", "gaudy", "tint")) < 1
    assert points["good"] > points["pale"] > 4 and points["good"] > 9, points


@pytest.mark.parametrize("text, reason", [
    ('{"miou": [[41.5, 6], [51.2, 10]]}', "miou is wrong; .* no percent"),
    ('{"miou": [[0, -1], [1, 5]]}', "miou is wrong; .* nothing negative"),
    ('{"miou": [0, 10]}', "miou is wrong; .* pairs"),
    ('{"miou": {"0": 10}}', "miou is wrong; .* pairs"), ('{"miou": [[0, "a"]]}', "miou is wrong; .* pairs"),
    ('[[0, 1]]', "it is wrong"), ("{", "it is wrong"), ('{"psnr": [[20, 1]]}', "psnr is wrong; .* any of miou")])
def test_a_wrong_rubric_is_one_sentence(tmp_path, truth, text, reason):
    (tmp_path / "rubric.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        grade("segmentation", truth, tmp_path / "out", [truth / "masks"], "--rubric", str(tmp_path / "rubric.json"))
