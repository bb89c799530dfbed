"""The whole report on a tiny data set: every run, figure, table and claim; a second call trains nothing."""
import re

from PIL import Image

CLAIMS = ("Adam beats SGD", "learning rate, 1e-4", "schedules do not help", "faster and lighter", "mIoU is higher",
          "edges are better", "fine detail", "convergence", "load the GPU")


def test_report_is_made_once(run, tmp_path, monkeypatch, street):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate.py", "report", "--data", street, "--seeds", 1, "--epochs", 1, "--width", 4, "--device", "cpu"]
    code, out, err = run(*words)
    assert code == 0 and "0 of 4 runs are there" in out, err

    assert list(tmp_path.glob("runs/report/*-epochs1-width4/unet-s0/summary.json"))  # apart from a full report's runs
    page, markdown = ((tmp_path / "report" / name).read_text() for name in ("index.html", "report.md"))
    for claim in CLAIMS:
        assert claim in page and claim in markdown
    assert page.count("data:image/webp;base64,") == 6 and "<script" not in page and "http" not in page
    for file in re.findall(r"!\[\]\((.+?)\)", markdown):
        assert Image.open(tmp_path / "report" / file).width > 300
    verdicts = (tmp_path / "report/claims.csv").read_text()
    assert verdicts.count("no labels") == 3  # of a whole picture: task 1 is left out
    for name, text in (("task2", "IoU class 2"), ("task3", "sharpness ratio")):
        assert text in (tmp_path / f"report/{name}.csv").read_text()

    words[3] = f"{street}/"  # as a shell completes it
    code, out, err = run(*words)
    assert code == 0 and "4 of 4 runs are there" in out, err
    assert (tmp_path / "report/index.html").read_text().replace(f"{street}/ ", f"{street} ") == page
