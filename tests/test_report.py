"""The report's verdicts on made-up figures, and the whole report on a tiny data set: a second call trains nothing."""
import argparse
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from evaluation import claims, reporting
from evaluation.claims import shown
from evaluation.reporting import command_line
from models import build_network

CLAIMS = ("Adam beats SGD", "learning rate, 1e-4", "schedules do not help", "is faster", "is lighter", "mIoU is higher",
          "edges are better", "fine detail", "convergence", "load the GPU")


@pytest.mark.parametrize("low, high, verdict", [
    (0.011, 0.3, "holds"), (0.01, 0.3, "undecided"), (-0.3, 0.3, "undecided"), (-0.3, 0.01, "undecided"),
    (-0.3, 0.009, "fails"), (0.01, 0.01, "undecided"), (0.02, 0.02, "holds")])
def test_interval_must_clear_the_criterion(low, high, verdict):
    assert claims.judge(low, high, 0.01) == verdict


def test_a_claim_says_where_it_holds():
    def overall(*found):
        return claims.overall([{"compared": where, "verdict": verdict} for where, verdict in found])

    assert overall(("here", "fails"), ("there", "fails")) == "fails"
    assert overall(("here", "holds"), ("there", "fails"), ("far", "holds")) == "holds here, far; fails there"


def test_intervals_are_students_and_within_bounds():
    rng = np.random.default_rng(0)
    for number in (2, 3, 5, 10):
        sample = rng.normal(0.1, 0.02, number)
        low, high = stats.t.interval(0.95, number - 1, sample.mean(), stats.sem(sample))
        np.testing.assert_allclose(claims.confidence(sample, -9, 9), (sample.mean(), low, high), atol=1e-3)
    assert claims.confidence([0.5, 0.9], -1, 1) == (0.7, -1, 1)  # a difference of shares
    assert claims.confidence([0.2], -1, 1) == (0.2, 0.2, 0.2)  # one seed


def verdicts(results):
    return {claim["claim"]: claim["verdict"] for claim in claims.make_claims(results)}


def grid(adam, sgd):
    """Runs of task 1 whose accuracies on test, of 400 images, follow from the optimizer alone."""
    return {f"{name}-{schedule}-{lr}": [
        {"task": "classification", "settings": {"optimizer": name, "schedule": schedule, "lr": lr}, "accuracy": score,
         "val": {"accuracy": score}, "true": [67, 67, 67, 67, 66, 66]} for score in scores]
        for name, scores in (("adam", adam), ("sgd", sgd))
        for schedule in ("none", "step") for lr in (1e-4, 1e-3)}


@pytest.mark.parametrize("adam, sgd, verdict", [
    ([0.28, 0.29], [0.17, 0.18], "too little trained"),  # of six classes
    ([0.90, 0.91], [0.70, 0.71], "holds"), ([0.70, 0.71], [0.90, 0.91], "fails"),
    ([0.90, 0.71], [0.70, 0.80], "undecided"), ([0.90], [0.70], "holds"), ([0.905], [0.90], "fails")])
def test_accuracy_near_chance_is_no_evidence(adam, sgd, verdict):
    first, *_ = claims.make_claims(grid(adam, sgd))
    assert first["verdict"] == verdict and "adam" in first["rows"][0]["values"]
    assert sum("not tested (no labels" in verdict for verdict in verdicts({}).values()) == 3


def segmenters(unet, fcn, width=""):
    """A U-Net and an FCN-32, of which (images a second, parameters, memory) are known, compared as they are."""
    keys = "images_per_second", "parameters", "peak_memory_mb"
    return {name: [{"task": "segmentation", "true": [9, 9], "miou": 0.1, "boundary_f1": 0.1,
                    **dict(zip(keys, costs))}] for name, costs in (("unet", unet), (f"fcn32{width}", fcn))}


@pytest.mark.parametrize("memory, verdict", [((None, None), "not tested (no GPU)"), ((1500, 1000), "holds")])
def test_faster_and_lighter_are_two_claims(memory, verdict):
    found = {claim["claim"]: claim for claim in claims.make_claims(
        segmenters((30, 2_000_000, memory[0]), (40, 12_000_000, memory[1]))
        | segmenters((30, 2_000_000, memory[0]), (31, 2_000_001, memory[1]), "-equal-parameters"))}
    faster = found["FCN-32 is faster"]["verdict"]
    assert faster == "holds as they are; fails at equal parameters"  # 1.33; 1.03
    lighter = found["FCN-32 is lighter"]
    assert [each["compared"] for each in lighter["rows"]] == ["as they are"] and lighter["verdict"] == "fails"
    assert found["U-Nets load the GPU more"]["verdict"] == verdict


def test_unmeasured_cost_is_not_tested():
    found = verdicts(segmenters((None, 1, None), (9.0, 2, None)))
    assert found["FCN-32 is faster"] == "not tested (not measured)" and found["FCN-32 is lighter"] == "fails"


@pytest.mark.parametrize("losses, saved", [
    ((9, 4, 3, 1), 0.5), ((4, 4, 4, 4), 0.75), ((9, 9, 9, 9), 0), ((9, 9, 9, 4), 0)])
def test_share_of_epochs_saved(losses, saved):
    def history(values):
        return {"history": [{"val_loss": str(value)} for value in values]}

    assert claims.epochs_saved(history(losses), history((8, 7, 6, 4))) == saved


def test_chance_of_miou_is_the_most_frequent_class_everywhere():
    assert claims.chance("miou", [60, 20, 0]) == 0.75 / 2 and claims.chance("accuracy", [60, 20, 0]) == 0.75


@pytest.mark.parametrize("values, text", [
    ([11677771] * 3, "11.7 M"), ([30.1, 35.6, 26.2], "30.6 ± 4.7"), ([29.5, 29.7], "29.6 ± 0.1"),
    ([1405, 1420], "1412 ± 11"),
    ([0.5, 0.52], "0.510 ± 0.014"), ([6.53], "6.53"), ([16, 16], "16"), ([0.5, None], "-"), ([-0.548], "-0.548")])
def test_numbers_as_people_write_them(values, text):
    assert shown(values).replace("\u00a0", " ") == text


def test_commands_can_be_copied():
    words = ["python", "train.py", "--data", "my data --here", "--size", "96", "128", *["--no-skips"] * 12]
    text = command_line(words).strip("`\n")
    assert max(map(len, text.splitlines())) < 75 and shlex.split(text.replace("\\\n", "")) == words


def test_plan_makes_the_networks_equal():
    args = argparse.Namespace(data="scenes", precision="auto", epochs=None, width=None)
    plans = [reporting.plan_runs(args, (96, 128), seed, True, 11) for seed in range(3)]
    assert sum(map(len, plans)) == 74
    networks = {name: settings for name, (task, settings) in plans[0].items() if task == "segmentation"}
    assert networks["unet"]["width"] == networks["fcn32-equal-width"]["width"]
    sizes = [sum(p.numel() for p in build_network(network).parameters()) for network in (
        {"name": "unet", "in_channels": 3, "out_channels": 11, "width": networks["unet"]["width"]},
        {"name": "fcn32", "classes": 11, "width": networks["fcn32-equal-parameters"]["width"]})]
    assert abs(sizes[0] / sizes[1] - 1) < 0.05
    assert networks["unet-twice"] == networks["unet"] | {"size": [192, 256]}


def test_report_is_made_once(run, tmp_path, monkeypatch, street):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate.py", "report", "--data", street, "--seeds", 1, "--epochs", 1, "--width", 4, "--device", "cpu"]
    code, out, err = run(*words)
    assert code == 0 and "\n7/7  noskips-s0\n" in out, err

    assert list(tmp_path.glob("runs/report/*-epochs1-width4/unet-s0/summary.json"))  # apart from a full report's runs
    markdown = (tmp_path / "report/report.md").read_text()
    for claim in CLAIMS:
        assert claim in markdown
    assert "![]" not in markdown
    files = re.findall(r"!\[.+?\]\((.+?)\)", markdown)
    assert len(files) == 4
    for file in files:
        assert Image.open(tmp_path / "report" / file).width > 300
    assert all(len(line) < 75 for line in markdown.splitlines() if line[:1] not in tuple("|!") and "/" not in line)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert re.search(r"Compute spent: 7 runs, \d+ s of training, [\d.e-]+ PFLOPs", markdown)
    assert sum("no labels" in row for row in rows) == 3  # of a whole image: task 1 is left out
    assert sum("no GPU" in row for row in rows) == 1 and "too little trained" in markdown
    for text in ("IoU class 2", "mIoU on val", "sharpness ratio", "colourfulness"):
        assert any(text in row for row in rows)

    words[3] = f"{street}/"  # as a shell completes it
    code, out, err = run(*words)
    assert code == 0 and "7/7" not in out, err
    again = (tmp_path / "report/report.md").read_text().replace(f"{street}/ ", f"{street} ")
    assert re.sub(r"[\\\s]+", " ", again) == re.sub(r"[\\\s]+", " ", markdown)
