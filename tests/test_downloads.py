"""A class as a learning system hands it out: one row a student, whatever is packed in what."""
import io
import tarfile
import zipfile

import numpy as np
import pytest
from classroom import grade, png, write

import utils
from data import InputError
from evaluation.downloads import find_submissions

GOOD, HALF = b"name,label\na,cat\nb,dog", b"name,label\na,cat\nb,cat"


def packed(files):
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files, mode="w:gz"):
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode=mode) as archive:
        for name, data in files.items():
            (entry := tarfile.TarInfo(name)).size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def truth(tmp_path):
    write(tmp_path / "truth", dict.fromkeys(("cat/a.png", "dog/b.png"), png(np.zeros((8, 8), np.uint8))))
    return tmp_path / "truth"


MOODLE = {"Doe Jane_11_assignsubmission_file_/work.zip": packed({"deep/labels.csv": GOOD}),
          "Roe Rik_12_assignsubmission_file_/labels.csv": HALF,
          "M\u00fcller Ann_13_assignsubmission_file_/work.tar.gz": tarred({"./x/labels.csv": GOOD}),
          "Poe Ed_14_assignsubmission_file_/work.7z": b"7z",
          "Poe Ed_14_assignsubmission_onlinetext_/onlinetext.html": b"see my file",
          "Deep Dee_15_assignsubmission_file_/a.zip": packed({"b.zip": packed({"c.zip": packed({"l.csv": GOOD})})})}


@pytest.mark.parametrize("zipped", (True, False))
def test_moodle(tmp_path, truth, zipped):
    if zipped:
        write(tmp_path, {"download.zip": packed(MOODLE)})
    else:
        write(tmp_path / "download", MOODLE)
    write(tmp_path, {"roster.csv": "Name,ID,group\nJane Doe,s1,A\nNemo Nobody,s2,B\nAnn M\u00fcller,s3,A".encode()})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / ("download.zip" if zipped else "download")],
                 "--roster", str(tmp_path / "roster.csv"))
    assert {name: (row["status"], row["id"]) for name, row in rows.items()} == {
        "Doe Jane": ("ok", "11"), "Roe Rik": ("ok", "12"), "M\u00fcller Ann": ("ok", "13"), "Poe Ed": ("refused", "14"),
        "Deep Dee": ("refused", "15"), "Nemo Nobody s2": ("not handed in", "")}
    assert float(rows["Roe Rik"]["accuracy"]) == 0.5 and float(rows["Nemo Nobody s2"]["points"]) == 0
    assert "pack the files as a .zip" in rows["Poe Ed"]["problems"] and "limit: archive" in rows["Deep Dee"]["problems"]
    assert [rows[name]["roster group"] for name in ("Doe Jane", "M\u00fcller Ann", "Roe Rik")] == ["A", "A", ""]


def test_what_moodle_imports(tmp_path, truth):
    write(tmp_path, {"download.zip": packed(MOODLE), "a.csv": GOOD})
    flags, wanted = ("--for", "moodle", "--roster", str(tmp_path / "roster.csv")), {
        "Doe Jane": ("11", "10.0"), "M\u00fcller Ann": ("13", "10.0"), "Roe Rik": ("12", "0.0"),
        "Poe Ed": ("14", "0.0"), "Deep Dee": ("15", "0.0")}
    for id, absent in (("11", {"Nemo Nobody 16": ("16", "0.0")}), ("s1", {})):  # s1: the roster's ids are not Moodle's
        write(tmp_path, {"roster.csv": f"name,id\nJane Doe,{id}\nNemo Nobody,16".encode()})
        grade("classification", truth, tmp_path / "out", [tmp_path / "download.zip"], *flags)
        rows = utils.read_csv(tmp_path / "out/moodle.csv")
        assert list(rows[0]) == ["Identifier", "Full name", "Grade", "Last modified (grade)", "Feedback comments"]
        assert {row["Full name"]: (row["Identifier"], row["Grade"]) for row in rows} == {
            name: (f"Participant {id}", points) for name, (id, points) in (wanted | absent).items()}
    assert rows[0]["Feedback comments"] == "ok, accuracy 1.000" and (tmp_path / "out/moodle.1.csv").exists()
    with pytest.raises(InputError, match="--for canvas: a.csv has no id"):
        grade("classification", truth, tmp_path / "out", sorted(tmp_path.glob("*.*")), "--for", "canvas")


def test_canvas(tmp_path, truth):
    write(tmp_path / "submissions", {
        "doejane_101_9001_labels.csv": HALF, "doejane_101_9005_labels-1.csv": GOOD,
        "roerik_LATE_102_9002_work.zip": packed({"labels.csv": GOOD}), "poeed_103_9003_lab-2.csv": GOOD})
    write(tmp_path, {"roster.csv": b"name,id\nJane Doe,101\nRik van Roe,102\nEd Poe,7"})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / "submissions"],
                 "--roster", str(tmp_path / "roster.csv"), "--for", "canvas", "--title", "Cats (17)")
    header, *lines = (tmp_path / "out/canvas.csv").read_text().splitlines()
    assert header == "Student,ID,SIS User ID,SIS Login ID,Section,Cats (17)"
    assert sorted(lines) == ["doejane,101,,,,10.0", "poeed,103,,,,10.0", "roerik,102,,,,10.0"]
    keys = ("status", "id", "late", "attempt", "earlier attempts", "roster id")
    assert {name: tuple(row[key] for key in keys) for name, row in rows.items()} == {
        "doejane": ("ok", "101", "", "2", "labels.csv", "101"), "roerik": ("ok", "102", "yes", "1", "", "102"),
        "poeed": ("ok", "103", "", "1", "", "7")}
    assert all(float(row["accuracy"]) == 1 for row in rows.values())


def test_canvas_parts_texts_and_names_like_moodles(tmp_path, truth):
    """Numbers without a first attempt are the student's own, and a file's name says nothing about who handed it in."""
    write(tmp_path / "submissions", {
        "anna_101_9001_part-1.csv": b"name,label\na,cat", "anna_101_9002_part-2.csv": b"name,label\nb,dog",
        "ben_102_text.html": b"see my file", "ben_102_9003_labels.csv": GOOD, "desktop.ini": b"", "Thumbs.db": b"",
        "eve_103_9004_Roe Rik_102_assignsubmission_file_labels.csv": HALF})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / "submissions"])
    assert {name: (row["id"], row["attempt"], float(row["accuracy"])) for name, row in rows.items()} == {
        "anna": ("101", "1", 1), "ben": ("102", "1", 1), "eve": ("103", "1", 0.5)}


def test_a_download_is_named_as_a_whole(tmp_path, truth):
    write(tmp_path / "download", MOODLE)
    with pytest.raises(InputError, match="one student's part of a download; name the download's folder"):
        grade("classification", truth, tmp_path / "out", sorted((tmp_path / "download").iterdir()))


def test_a_roster_with_two_of_a_name_and_from_excel(tmp_path, truth):
    write(tmp_path, {"Thomas Martin.csv": GOOD, "Ann Lee.csv": HALF,
                     "roster.csv": "name;id\nMartin Thomas;7\n;\nLee Ann;8\n".encode()})
    write(tmp_path / "b", {"martin thomas.csv": HALF})
    files = [tmp_path / "Thomas Martin.csv", tmp_path / "Ann Lee.csv", tmp_path / "b/martin thomas.csv"]
    rows = grade("classification", truth, tmp_path / "out", files, "--roster", str(tmp_path / "roster.csv"))
    assert {name: row["roster id"] for name, row in rows.items()} == {
        "Thomas Martin.csv": "", "martin thomas.csv": "", "Ann Lee.csv": "8", "Martin Thomas 7": "7"}
    # A student of two downloads is found by the id, and has not handed in nothing.
    zips = {f"{name}.zip": packed({"Poe Ed_14_assignsubmission_file_/labels.csv": GOOD}) for name in ("early", "late")}
    write(tmp_path, zips | {"roster.csv": b"name,id\nEd Poe,14"})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / name for name in zips], "--roster",
                 str(tmp_path / "roster.csv"))
    assert {name: row["roster id"] for name, row in rows.items()} == {"early.zip/Poe Ed": "14", "late.zip/Poe Ed": ""}


def test_a_roster_of_groups_namesakes_and_initials(tmp_path, truth):
    write(tmp_path / "s", {"group2.csv": GOOD, "Jane Doe.csv": GOOD, "Jim R. Poe/labels.csv": GOOD})
    write(tmp_path, {"roster.csv": b"name,id\nGroup 1,1\nGroup 2,2\nJane Doe,3\nDoe Jane,4\nJim R. Poe,5"})
    rows = grade("classification", truth, tmp_path / "out", sorted((tmp_path / "s").iterdir()), "--roster",
                 str(tmp_path / "roster.csv"))
    assert {name: row["roster id"] for name, row in rows.items()} == {
        "group2.csv": "2", "Jane Doe.csv": "", "Jim R. Poe": "5", "Group 1 1": "1", "Jane Doe 3": "3",
        "Doe Jane 4": "4"}


def test_a_download_of_names_that_canvas_hides(tmp_path, truth):
    write(tmp_path / "d", {"anon_Ab3dE_9001_labels.csv": GOOD, "LATE_anon_Zz9_x_9002_labels.csv": HALF,
                           "sub/.DS_Store": b""})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / "d"])
    assert {name: float(row["accuracy"]) for name, row in rows.items()} == {"anon_Ab3dE": 1, "LATE_anon_Zz9_x": 0.5}
    with pytest.raises(InputError, match="anon_.* has no id"):
        grade("classification", truth, tmp_path / "out", [tmp_path / "d"], "--for", "canvas")


def test_hidden_files_are_no_submission_and_hide_none(tmp_path, truth):
    """Finder's .DS_Store beside a network, and a student who handed in nothing else."""
    write(tmp_path / "d", {"Ann A_1_assignsubmission_file_/.DS_Store": b"",
                           "Bob B_2_assignsubmission_file_/.DS_Store": b"",
                           "Bob B_2_assignsubmission_file_/best.pt": b"no checkpoint"})
    ann, bob = find_submissions([str(tmp_path / "d")])
    assert ann.name == "Ann A" and bob.source == str(tmp_path / "d/Bob B_2_assignsubmission_file_/best.pt")


def test_what_makes_a_download_one_submission_is_named(tmp_path, truth, capfd):
    write(tmp_path / "d", MOODLE | {"grades_worksheet.csv": b""})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / "d"])
    assert len(rows) == 1 and "d: one submission, not a download, because it holds grades_worksheet.csv" in (
        capfd.readouterr().out)


def test_nobody_hands_in_for_others_unseen(tmp_path, truth):
    """The students of a zip that looks like a download are called by its name where others are graded, too."""
    write(tmp_path, {"evil.zip": packed(MOODLE), "other.csv": GOOD})
    rows = grade("classification", truth, tmp_path / "out", [tmp_path / "evil.zip", tmp_path / "other.csv"])
    assert "evil.zip/Doe Jane" in rows and "other.csv" in rows and "Doe Jane" not in rows


def test_archives_have_limits_too(tmp_path, truth):
    write(tmp_path, {"bomb.tar.gz": tarred({"labels.csv": bytes(60 << 20)}), "broken.tgz": b"\x1f\x8b broken",
                     "climbing.tar": tarred({"../escaped.csv": GOOD, "labels.csv": GOOD}, "w")})
    rows = grade("classification", truth, tmp_path / "out", sorted(tmp_path.glob("*.t*")))
    assert {name: row["status"] for name, row in rows.items()} == {
        "bomb.tar.gz": "empty", "broken.tgz": "refused", "climbing.tar": "ok"}
    assert not list(tmp_path.parent.rglob("escaped.csv"))


@pytest.mark.parametrize("roster", [b"who,what\nx,y", "name,id\nM\u00fcller,1".encode("latin-1")])
def test_a_roster_without_ids_or_in_another_encoding_is_one_line(tmp_path, truth, roster):
    write(tmp_path, {"roster.csv": roster, "a.csv": GOOD})
    with pytest.raises(InputError, match="roster.csv: its first line must hold name,id"):
        grade("classification", truth, tmp_path / "out", [tmp_path / "a.csv"], "--roster", str(tmp_path / "roster.csv"))
