"""A data set is prepared once, hashed, and only read from then on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError, SplitError
from covidnet.data.collection.prepared import SPLIT_COLUMNS, PreparedDataset, find_source, prepare_dataset, read_split
from covidnet.data.folds.splits import GROUPS
from tests.refusals import refused

pytestmark = pytest.mark.usefixtures("copies_once")

FOLDERS = {"COVID-19": "COVID19", "Normal": "NORMAL", "Pneumonia": "PNEUMONIA"}
SPLIT = {"group": "patient+copies", "seed": 0, "copies": "near"}
# To look for near copies takes seconds.
QUICK = {**SPLIT, "copies": "bytes"}


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8)).save(path)


def images(root: Path, per_class: int = 12, name: str = "{folder}/{n}.png") -> Path:
    for c, folder in enumerate(FOLDERS.values()):
        for n in range(per_class):
            draw(root / name.format(folder=folder, n=n), 1000 * c + n)
    return root


def settings(root: Path | None, **changes: object) -> dict[str, Any]:
    base = {"name": "folder", "root": root and str(root), "labels": {}, "view": None, "max_megapixels": 64}
    return {**base, "min_side": 64, **changes}


def phantoms(**changes: object) -> dict[str, Any]:
    drawing = {"images_per_class": 11, "phantom_size": 64, "severity": 1.0, "faults": [], "seed": 0}
    return settings(None, name="phantom", **{**drawing, **changes})


def prepare(data: Mapping[str, Any], cache: Path, **options: Any) -> PreparedDataset:
    return prepare_dataset(data, options.pop("split", SPLIT), cache_dir=cache, progress=False, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images per class; no test writes here."""
    return images(tmp_path_factory.mktemp("images"))


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            found[str(path)] = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


# Written once


def test_first_preparation_writes_manifest_split_and_the_account_of_the_rest(root: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(root), tmp_path)
    written = pd.read_csv(prepared.split_file)
    assert tuple(written.columns) == SPLIT_COLUMNS
    assert sorted(written["fold"].unique()) == list(range(-1, 11))
    for fold in range(11):
        assert written.loc[written["fold"] == fold, "label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 1)
    left_out = pd.read_csv(prepared.folder / "left_out.csv")
    assert sorted(left_out["image_id"]) == sorted(written.loc[written["fold"] == -1, "image_id"])
    assert len(pd.read_csv(prepared.folder.parent / "manifest.csv")) == 36
    assert prepared.split_sha256 == hashlib.sha256(prepared.split_file.read_bytes()).hexdigest()


def test_second_preparation_reads_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    first = prepare(settings(root), tmp_path)
    before = fingerprint(tmp_path)
    second = prepare(settings(root), tmp_path)
    assert fingerprint(tmp_path) == before
    assert second.images.equals(first.images)
    assert second.split.equals(first.split[list(SPLIT_COLUMNS)])
    assert (second.manifest_sha256, second.split_sha256) == (first.manifest_sha256, first.split_sha256)
    assert second.notes == first.notes


def test_second_preparation_opens_no_image(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(settings(root), tmp_path)
    monkeypatch.setattr("covidnet.data.collection.prepared.scan", lambda *a, **k: pytest.fail("images were read again"))
    prepare(settings(root), tmp_path)


def test_rescan_finds_the_same_split_and_leaves_it_as_it_is(root: Path, tmp_path: Path) -> None:
    first = prepare(settings(root), tmp_path)
    before = first.split_file.stat().st_mtime_ns
    second = prepare(settings(root), tmp_path, rescan=True)
    assert second.split_file.stat().st_mtime_ns == before
    assert second.split_sha256 == first.split_sha256


def test_split_read_again_keeps_types_and_unknown_cells(tmp_path: Path) -> None:
    images(tmp_path / "d")
    rows = [f"NORMAL/{n}.png,{n:03d},PA" for n in range(12)] + ["COVID19/0.png,NA-7,"]
    (tmp_path / "d/metadata.csv").write_text("filename,patient_id,view\n" + "\n".join(rows) + "\n")
    prepared = prepare(settings(tmp_path / "d"), tmp_path / "c")
    table = read_split(prepared.split_file).set_index("path")
    assert table.loc["NORMAL/7.png", "patient_id"] == "007"
    assert table.loc["COVID19/0.png", "patient_id"] == "NA-7"
    assert np.isnan(table.loc["COVID19/0.png", "view"])
    assert table["fold"].dtype == np.int64


def test_split_of_before_without_reasons_is_read(root: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(root), tmp_path)
    assert prepared.split["reason"].notna().tolist() == (prepared.split["fold"] == -1).tolist()
    prepared.split.drop(columns="reason").to_csv(tmp_path / "split.csv", index=False)
    before = read_split(tmp_path / "split.csv")
    assert before.equals(prepared.split.drop(columns="reason"))


def test_preparation_of_the_same_images_under_other_names_gives_the_same_folds(root: Path, tmp_path: Path) -> None:
    other = images(tmp_path / "other", name="train/{folder}/renamed-{n}.png")
    here, there = (prepare(settings(r), tmp_path / "c") for r in (root, other))
    columns = ["image_id", "label", "fold"]
    assert here.split[columns].equals(there.split[columns])
    assert here.manifest_sha256 == there.manifest_sha256
    assert set(there.split["path"].str.startswith("train/")) == {True}


def test_published_test_images_are_kept_and_have_a_split_of_their_own(tmp_path: Path) -> None:
    root = images(images(tmp_path / "d", name="train/{folder}/{n}.png"), 2, name="test/{folder}/t{n}.png")
    for number, file in enumerate(sorted(root.rglob("test/*/*.png"))):
        draw(file, 9000 + number)
    usual = prepare(settings(root), tmp_path / "c")
    kept = prepare(settings(root), tmp_path / "c", split={**SPLIT, "unseen": "folder:test"})
    assert kept.split_sha256 != usual.split_sha256
    assert kept.folder.parent == usual.folder.parent
    unseen = kept.split["path"][kept.split["fold"] == 10]
    assert sorted(unseen) == sorted(path.relative_to(root).as_posix() for path in root.rglob("test/*/*.png"))
    assert "The unseen fold is the 6 published test images (COVID-19 2, Normal 2, Pneumonia 2)." in kept.notes
    assert kept.fold(0).rows["unseen"]["path"].sort_values().tolist() == sorted(unseen)


def test_moved_files_are_found_again_by_prepare_in_the_same_folds(tmp_path: Path) -> None:
    images(tmp_path / "d")
    before = prepare(settings(tmp_path / "d"), tmp_path / "c")
    (tmp_path / "d/NORMAL/3.png").rename(tmp_path / "d/NORMAL/moved.png")
    after = prepare(settings(tmp_path / "d"), tmp_path / "c", rescan=True)
    assert after.split[["image_id", "fold"]].equals(before.split[["image_id", "fold"]])
    assert "NORMAL/moved.png" in set(after.split["path"])


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"group": "image"}, {"copies": "bytes"}, {"group": "patient", "copies": "off"}]
)
def test_another_split_setting_has_a_split_of_its_own(root: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    first = prepare(settings(root), tmp_path)
    second = prepare(settings(root), tmp_path, split={**SPLIT, **change})
    assert second.split_file != first.split_file
    assert first.split_file.exists()


def test_names_that_are_no_utf8_go_through(tmp_path: Path) -> None:
    images(tmp_path / "d")
    odd = Path(str(tmp_path / "d/NORMAL/") + "/caf\udce9.png")
    (tmp_path / "d/NORMAL/0.png").rename(odd)
    for _ in range(2):
        prepared = prepare(settings(tmp_path / "d"), tmp_path / "c")
        assert "NORMAL/caf\udce9.png" in set(prepared.split["path"])


# What was changed since


def edited(text: str) -> str:
    lines = text.splitlines(keepends=True)
    head, fold, *rest = lines[1].rsplit(",", 3)
    lines[1] = ",".join([head, str((int(fold) + 1) % 10), *rest])
    return "".join(lines)


@pytest.mark.parametrize("change", [edited, lambda text: text + "\n", lambda text: text.replace(",fold", ",folds", 1)])
def test_edited_split_is_refused_with_the_file_and_the_remedy(root: Path, tmp_path: Path, change: Any) -> None:
    prepared = prepare(settings(root), tmp_path)
    prepared.split_file.write_text(change(prepared.split_file.read_text()))
    with pytest.raises(SplitError) as caught:
        prepare(settings(root), tmp_path)
    assert str(prepared.split_file) in str(caught.value)
    assert f"delete {prepared.folder}" in str(caught.value)


def test_deleted_split_is_refused_and_a_deleted_folder_is_drawn_again(root: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(root), tmp_path)
    prepared.split_file.unlink()
    with pytest.raises(SplitError, match=r"split\.csv"):
        prepare(settings(root), tmp_path)
    for file in prepared.folder.iterdir():
        file.unlink()
    prepared.folder.rmdir()
    assert prepare(settings(root), tmp_path).split_sha256 == prepared.split_sha256


def test_stopped_preparation_is_taken_up_again(root: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(root), tmp_path)
    (prepared.folder / "split.json").unlink()
    prepared.split_file.write_text("half a fi")
    (prepared.folder.parent / "manifest.csv").unlink()
    again = prepare(settings(root), tmp_path)
    assert again.split_sha256 == prepared.split_sha256


@pytest.mark.parametrize("name", ["manifest.csv", "refused.csv", "manifest.json"])
def test_a_manifest_that_was_cut_off_is_no_smaller_data_set(name: str, root: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(root), tmp_path)
    file = prepared.folder.parent / name
    whole = file.read_bytes()
    cut = [whole[: len(whole) // 2], b"half a fi", b""]
    # After a whole line too, which reads as a table.
    cut += [whole[: whole.rindex(b"\n", 0, -1) + 1]] if name == "manifest.csv" else []
    for content in cut:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"\.csv: damaged .*delete it") as refused:
            prepare(settings(root), tmp_path)
        assert "\n" not in str(refused.value)
    assert prepare(settings(root), tmp_path, rescan=True).manifest_sha256 == prepared.manifest_sha256
    # An older release wrote no hashes: a table that ends within a line is refused then too.
    (file.parent / "manifest.json").unlink()
    assert prepare(settings(root), tmp_path).manifest_sha256 == prepared.manifest_sha256
    (file.parent / "manifest.csv").write_bytes((file.parent / "manifest.csv").read_bytes()[:-5])
    with pytest.raises(DataError, match=r"manifest\.csv: damaged"):
        prepare(settings(root), tmp_path)


def test_files_added_since_are_counted_in_a_warning_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path / "d")
    before = prepare(settings(tmp_path / "d"), tmp_path / "c")
    assert not caplog.records
    for n in (90, 91):
        draw(tmp_path / f"d/NORMAL/{n}.png", 9000 + n)
    after = prepare(settings(tmp_path / "d"), tmp_path / "c")
    assert after.split_sha256 == before.split_sha256
    assert ["2 files are not in the manifest" in record.message for record in caplog.records] == [True]
    assert "covidnet.prepare" in caplog.text
    assert len(prepare(settings(tmp_path / "d"), tmp_path / "c", rescan=True).images) == 38


def test_metadata_changed_since_is_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / "d")
    prepare(settings(tmp_path / "d"), tmp_path / "c")
    (tmp_path / "d/metadata.csv").write_text("filename,patient_id\nNORMAL/0.png,p\nNORMAL/1.png,p\nNORMAL/2.png,\n")
    prepared = prepare(settings(tmp_path / "d"), tmp_path / "c")
    assert "label, patient, view or source of 2 images" in caplog.text
    assert prepared.images["patient_id"].isna().all()
    assert prepare(settings(tmp_path / "d"), tmp_path / "c", rescan=True).images["patient_id"].notna().sum() == 2


def test_refused_files_are_remembered_and_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / "d")
    (tmp_path / "d/NORMAL" / os.fsdecode(b"broken\xff\n.png")).write_bytes(b"")
    first = prepare(settings(tmp_path / "d"), tmp_path / "c")
    assert r"broken\xff\n.png: empty file" in caplog.text
    caplog.clear()
    second = prepare(settings(tmp_path / "d"), tmp_path / "c")
    assert not caplog.records
    for prepared in (first, second):
        assert prepared.refused["path"].tolist() == [r"NORMAL/broken\xff\n.png"]
        assert prepared.refused[["cause", "remedy"]].map(bool).all(axis=None)
        assert any("1 file was refused" in note for note in prepared.notes)
    assert pd.read_csv(first.folder.parent / "refused.csv").columns.tolist() == ["path", "cause", "remedy"]


# Classes, patients, views


@pytest.mark.parametrize("count", [0, 1, 10])
def test_class_of_too_few_images_is_refused_with_class_count_and_minimum(tmp_path: Path, count: int) -> None:
    images(tmp_path / "d")
    for n in range(count, 12):
        (tmp_path / f"d/NORMAL/{n}.png").unlink()
    with pytest.raises(SplitError) as caught:
        prepare(settings(tmp_path / "d"), tmp_path / "c")
    assert f"class Normal: {count} images, at least 11 are needed" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_that_falls_below_the_minimum_by_refused_files_is_refused(tmp_path: Path) -> None:
    images(tmp_path / "d")
    for n in range(2):
        (tmp_path / f"d/NORMAL/{n}.png").write_bytes(b"")
    with pytest.raises(SplitError, match="class Normal: 10 images"):
        prepare(settings(tmp_path / "d"), tmp_path / "c")


def test_notes_count_the_classes_and_the_unknown_patients(root: Path, tmp_path: Path) -> None:
    notes = prepare(settings(root), tmp_path).notes
    assert any("36 images (COVID-19 12, Normal 12, Pneumonia 12)" in note for note in notes)
    assert sum("Unknown patient: 36 of 36 images" in note for note in notes) == 1


def test_image_in_two_classes_is_named_with_both_paths_and_lies_in_one_fold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path / "d", 22)
    (tmp_path / "d/PNEUMONIA/twin.png").write_bytes((tmp_path / "d/NORMAL/4.png").read_bytes())
    prepared = prepare(settings(tmp_path / "d"), tmp_path / "c")
    words = "one image in two classes: NORMAL/4.png and PNEUMONIA/twin.png"
    assert words in caplog.text
    assert any(words in note for note in prepared.notes)
    twins = prepared.split[prepared.split["path"].isin(["NORMAL/4.png", "PNEUMONIA/twin.png"])]
    assert len(twins) == 2
    assert len(set(twins["fold"])) == 1
    assert -1 not in set(twins["fold"])
    with pytest.raises(DataError, match=words):
        prepare(settings(tmp_path / "d"), tmp_path / "c", strict=True)


def test_copies_within_a_class_lie_in_one_fold_and_are_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path / "d", 22)
    for n in range(3):
        (tmp_path / f"d/NORMAL/copy{n}.png").write_bytes((tmp_path / "d/NORMAL/4.png").read_bytes())
    prepared = prepare(settings(tmp_path / "d"), tmp_path / "c", strict=True)
    copies = prepared.split[prepared.split["image_id"].str.startswith(_id(tmp_path / "d/NORMAL/4.png"))]
    assert len(copies) == 4
    # A fold holds two of each class: the group is trimmed, and what is left of it is together.
    assert len(set(copies["fold"]) - {-1}) == 1
    assert not caplog.records


# Near copies

CHANGED = {
    "near-duplicate": lambda image: image.resize((90, 90)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: image.crop((10, 4, 120, 116)),
}


def radiographs(root: Path, per_class: int = 22) -> Path:
    """Smooth pictures, as unlike as those of different people, each of a patient of its own."""
    rows = ["filename,patient_id"]
    for c, folder in enumerate(FOLDERS.values()):
        for n in range(per_class):
            noise = np.random.default_rng(1000 * c + n).normal(size=(128, 128))
            smooth = sum(cv2.GaussianBlur(noise, (0, 0), s) * s for s in (3.0, 6.0, 12.0))
            path = root / folder / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cv2.normalize(smooth, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)).save(path)
            rows.append(f"{folder}/{n}.png,{folder}-{n}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """66 images; three have a changed copy under another patient, the mirrored one in another class."""
    root = radiographs(tmp_path_factory.mktemp("copied"))
    lines = []
    for n, (kind, change) in enumerate(CHANGED.items()):
        copy = f"{'PNEUMONIA' if kind == 'mirrored' else 'NORMAL'}/{kind}.jpg"
        change(Image.open(root / f"NORMAL/{n}.png")).save(root / copy, quality=70)
        lines.append(f"{copy},another-{n}\n")
    with (root / "metadata.csv").open("a") as stream:
        stream.writelines(lines)
    return root


@pytest.mark.parametrize("group", GROUPS)
def test_near_copies_share_a_fold_and_are_named(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, group: str
) -> None:
    prepared = prepare(settings(copied), tmp_path, split={**SPLIT, "group": group})
    pairs = pd.read_csv(prepared.folder / "copies.csv")
    assert set(pairs["kind"]) == set(CHANGED)
    fold_of = prepared.split.set_index("path")["fold"]
    for row in pairs.itertuples():
        assert {Path(row.path).stem, Path(row.other_path).stem} == {str(list(CHANGED).index(row.kind)), row.kind}
        folds = {fold_of[row.path], fold_of[row.other_path]} - {-1}
        assert len(folds) <= 1
    assert prepared.split["copy_of"].notna().sum() == 6
    assert prepared.split["copy_of"].nunique() == 3
    words = "one image in two classes (mirrored): "
    assert [words in note for note in prepared.notes].count(True) == 1
    assert words in caplog.text
    assert " across patients; copies share a fold; pairs: copies.csv." in " ".join(prepared.notes)
    with pytest.raises(DataError, match=r"one image in two classes \(mirrored\): .*; remove all but the right one"):
        prepare(settings(copied), tmp_path, split={**SPLIT, "group": group}, strict=True)


def test_copies_in_a_view_that_is_left_out_still_join_what_they_are_copies_of(copied: Path, tmp_path: Path) -> None:
    root = tmp_path / "d"
    shutil.copytree(copied, root)
    image = Image.open(root / "NORMAL/1.png")
    image.resize((100, 100)).save(root / "NORMAL/again.png")
    # The two copies are of the image of another view.
    with (root / "metadata.csv").open("a") as stream:
        stream.write("NORMAL/again.png,someone\n")
    rows = pd.read_csv(root / "metadata.csv").assign(view="PA")
    rows.loc[rows["filename"] == "NORMAL/1.png", "view"] = "L"
    rows.to_csv(root / "metadata.csv", index=False)
    prepared = prepare(settings(root, view="PA"), tmp_path / "c")
    both = prepared.split.set_index("path")["copy_of"][["NORMAL/again.png", "PNEUMONIA/mirrored.jpg"]]
    assert both.notna().all()
    assert both.iloc[0] == both.iloc[1]
    assert "NORMAL/1.png" not in (prepared.folder / "copies.csv").read_text()


@pytest.mark.parametrize("copies", ["bytes", "off"])
def test_near_copies_are_not_looked_for_unless_asked(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: str
) -> None:
    monkeypatch.setattr(
        "covidnet.data.collection.prepared.find_copies", lambda *a, **k: pytest.fail("copies were looked for")
    )
    split = {**SPLIT, "group": "patient", "copies": copies}
    prepared = prepare(settings(copied), tmp_path, split=split, strict=True)
    assert prepared.split["copy_of"].isna().all()


def test_pairs_that_were_cut_off_are_looked_for_again(copied: Path, tmp_path: Path) -> None:
    prepare(settings(copied), tmp_path)
    (kept,) = tmp_path.rglob("copies-*.csv")
    whole = kept.read_text()
    kept.write_text(whole.splitlines(keepends=True)[0])
    prepared = prepare(settings(copied), tmp_path, split={**SPLIT, "seed": 1})
    assert kept.read_text() == whole
    assert " across patients; copies share a fold; pairs: copies.csv." in " ".join(prepared.notes)


@pytest.mark.parametrize("name", ["split.json", "copies.csv"])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\n1,2"])
def test_a_damaged_file_beside_the_split_is_one_line(copied: Path, tmp_path: Path, name: str, content: bytes) -> None:
    prepared = prepare(settings(copied), tmp_path)
    (prepared.folder / name).write_bytes(content)
    with pytest.raises(SplitError, match=rf"{name}: .*; delete .* to draw the split again|{name}: changed after"):
        prepare(settings(copied), tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\n1,2", b'path,label\n"x'])
def test_damaged_copies_of_an_older_record_are_one_line(copied: Path, tmp_path: Path, content: bytes) -> None:
    prepared = prepare(settings(copied), tmp_path)
    record = prepared.folder / "split.json"
    told = json.loads(record.read_text())
    del told["copies_sha256"]
    record.write_text(json.dumps(told))
    prepare(settings(copied), tmp_path)
    (prepared.folder / "copies.csv").write_bytes(content)
    with pytest.raises(SplitError, match=r"copies\.csv: damaged \(.*; delete .* to draw the split again"):
        prepare(settings(copied), tmp_path)


def test_copies_are_looked_for_once_for_all_splits(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(settings(copied), tmp_path)
    monkeypatch.setattr(
        "covidnet.data.collection.prepared.find_copies", lambda *a, **k: pytest.fail("copies were looked for again")
    )
    again = prepare(settings(copied), tmp_path, split={**SPLIT, "seed": 1}, rescan=True)
    assert again.split_file != first.split_file
    assert again.split.set_index("path")["copy_of"].equals(first.split.set_index("path")["copy_of"])


def test_settings_of_an_older_run_have_the_split_of_equal_bytes(copied: Path, tmp_path: Path) -> None:
    older = prepare(settings(copied), tmp_path, split={"group": "patient", "seed": 0})
    assert older.split_sha256 == prepare(settings(copied), tmp_path, split={**SPLIT, "copies": "bytes"}).split_sha256


def test_patients_and_copies_have_the_split_that_was_called_patient(root: Path, copied: Path, tmp_path: Path) -> None:
    for images, older in ((root, {}), (copied, {"copies": "near"})):
        now = prepare(settings(images), tmp_path)
        before = prepare(settings(images), tmp_path / "other", split={"group": "patient", "seed": 0, **older})
        assert now.split_sha256 == before.split_sha256
        assert prepare(settings(images), tmp_path, split={**SPLIT, "group": "patient"}).folder == now.folder


def test_a_split_from_before_is_read_without_its_later_columns(root: Path, tmp_path: Path) -> None:
    file = prepare(settings(root), tmp_path).split_file
    older = tmp_path / "split.csv"
    pd.read_csv(file).drop(columns=["reason", "copy_of"]).to_csv(older, index=False)
    assert read_split(older)["fold"].tolist() == read_split(file)["fold"].tolist()


def test_copies_set_to_something_else_is_refused(root: Path, tmp_path: Path) -> None:
    with refused("split.copies", "all", ("near", "bytes", "off")):
        prepare(settings(root), tmp_path, split={**SPLIT, "copies": "all"})


@pytest.mark.slow
def test_drawn_images_of_different_patients_are_no_copies(tmp_path: Path) -> None:
    prepared = prepare(phantoms(images_per_class=22, phantom_size=96), tmp_path)
    patients = prepared.images.set_index("image_id")["patient_id"]
    joined = prepared.split[prepared.split["copy_of"].notna()]
    assert (patients[joined["image_id"]].to_numpy() == patients[joined["copy_of"]].to_numpy()).all()


def _id(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def with_views(root: Path, views: Mapping[str, str]) -> Path:
    rows = "".join(f"{path},{view}\n" for path, view in views.items())
    (root / "metadata.csv").write_text("filename,view\n" + rows)
    return root


def test_view_filter_keeps_the_view_and_the_unknown_and_counts_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = images(tmp_path / "d", 15)
    views = {f"{folder}/{n}.png": ("AP", "pa", "PA", "L")[n % 4] for folder in FOLDERS.values() for n in range(6)}
    with_views(root, views)
    prepared = prepare(settings(root, view="PA"), tmp_path / "c")
    kept = set(prepared.images["path"])
    assert kept == {row["path"] for row in _all(root)} - {path for path, view in views.items() if view in ("AP", "L")}
    assert set(prepared.split["path"]) == kept
    assert any(
        "view PA: 9 images kept, 9 of other views left out; 27 of unknown view kept" in n for n in prepared.notes
    )
    assert "the view of 27 images is unknown" in caplog.text
    assert len(prepare(settings(root), tmp_path / "c").images) == 45


def _all(root: Path) -> list[dict[str, str]]:
    return [{"path": path.relative_to(root).as_posix()} for path in root.glob("*/*.png")]


def test_view_that_no_image_has_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    root = images(tmp_path / "d")
    with_views(root, {row["path"]: "AP" for row in _all(root)} | {"NORMAL/0.png": "L"})
    with pytest.raises(DataError, match=r"data\.view=PA: no image has this view; the images have AP, L"):
        prepare(settings(root, view="PA"), tmp_path / "c")


@pytest.mark.parametrize("word", ["L", "LL", "RL", "lateral", "Left Lateral", "LAT"])
def test_laterals_are_left_out_whatever_the_table_calls_them_and_named_with_the_reason(
    tmp_path: Path, word: str
) -> None:
    root = images(tmp_path / "d", 13)
    with_views(root, {"NORMAL/0.png": word, "COVID19/3.png": word, "COVID19/4.png": "AP", "NORMAL/5.png": "AP Supine"})
    prepared = prepare(settings(root, view="frontal"), tmp_path / "c")
    laterals = {"NORMAL/0.png", "COVID19/3.png"}
    assert set(prepared.images["path"]) == {row["path"] for row in _all(root)} - laterals
    assert any(note.startswith("2 lateral images are left out, for example ") for note in prepared.notes)
    left_out = pd.read_csv(prepared.folder / "left_out.csv").set_index("path")["reason"]
    assert set(left_out.index) == laterals | set(prepared.split.loc[prepared.split["fold"] == -1, "path"])
    assert {left_out[path] for path in laterals} == {f"view: {word}"}
    everything = prepare(settings(root, view=None), tmp_path / "c")
    assert len(everything.images) == 39
    assert not set(pd.read_csv(everything.folder / "left_out.csv")["reason"].str.contains("view")) - {False}


def test_frontal_says_nothing_where_there_is_no_lateral(root: Path, tmp_path: Path) -> None:
    frontal, everything = (prepare(settings(root, view=view), tmp_path) for view in ("frontal", None))
    assert (frontal.split_file, frontal.notes) == (everything.split_file, everything.notes)


# What prediction would refuse


def test_images_that_prediction_would_refuse_are_counted_and_named(tmp_path: Path) -> None:
    from covidnet.gate import fixed_rules

    root = images(tmp_path / "d")
    with_views(root, {"NORMAL/0.png": "LL"})
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8) * 2
    for path in root.glob("*/[1-9]*.png"):
        smooth[0, 0] += 1
        Image.fromarray(smooth + np.uint8(len(path.stem) + ord(path.parent.name[0]))).save(path)
    # They are drawn alike.
    data, apart = settings(root), {**SPLIT, "copies": "bytes"}
    assert prepare(data, tmp_path / "c", split=apart).images["flags"].isna().all()
    prepared = prepare(data, tmp_path / "c", rules=fixed_rules, split=apart)
    flags = prepared.images.set_index("path")["flags"].dropna()
    assert flags["NORMAL/0.png"] == "lateral;noise"
    assert (flags["COVID19/0.png"], flags["PNEUMONIA/0.png"]) == ("noise", "noise")
    words = "(lateral 1, noise 3), for example COVID19/0.png, NORMAL/0.png, PNEUMONIA/0.png; the column flags"
    assert any(
        note.startswith("3 images are used that prediction would refuse") and words in note for note in prepared.notes
    )
    again = prepare(data, tmp_path / "c", rules=fixed_rules, split=apart)
    assert again.images.equals(prepared.images)
    assert again.notes == prepared.notes
    frontal = prepare({**data, "view": "frontal"}, tmp_path / "c", rules=fixed_rules, split=apart)
    assert any(note.startswith("2 images are used that prediction would refuse (noise 2)") for note in frontal.notes)


# Sources


def test_folder_without_root_is_refused(tmp_path: Path) -> None:
    with refused("data.root", None):
        find_source(settings(None), tmp_path, progress=False)


@pytest.mark.parametrize("name", ["folder", "kaggle"])
def test_empty_root_does_not_mean_the_current_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=r"data\.root="):
        find_source({**settings(None, name=name, handle="a/b"), "root": ""}, tmp_path, progress=False)


def test_kaggle_set_on_disk_is_prepared(tmp_path: Path) -> None:
    images(tmp_path / "d/Data", name="train/{folder}/{n}.png")
    prepared = prepare(settings(tmp_path / "d", name="kaggle", handle="a/b"), tmp_path / "c")
    assert (prepared.name, len(prepared.images), prepared.synthetic) == ("kaggle", 36, False)


def test_labels_reach_the_source(tmp_path: Path) -> None:
    root = images(tmp_path / "d")
    (root / "NORMAL").rename(root / "clear")
    with pytest.raises(DataError, match="clear/ "):
        prepare(settings(root), tmp_path / "c")
    prepared = prepare(settings(root, labels={"clear": "Normal"}), tmp_path / "c")
    assert prepared.images["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 12)


def test_a_class_that_is_left_out_is_counted_and_has_a_manifest_of_its_own(tmp_path: Path) -> None:
    root = images(tmp_path / "d")
    whole = prepare(settings(root), tmp_path / "c")
    draw(root / "Lung_Opacity/0.png", 9000)
    with pytest.raises(DataError, match=r"Lung_Opacity/ .*data\.ignore='\[Lung_Opacity\]'"):
        prepare(settings(root), tmp_path / "c")
    for name in ("Lung_Opacity", ["Lung_Opacity"]):
        prepared = prepare(settings(root, ignore=name), tmp_path / "c")
        assert prepared.notes[0] == "data.ignore: 1 image of Lung_Opacity left out"
        assert prepared.split_sha256 == whole.split_sha256
        assert prepared.folder.parent != whole.folder.parent


def test_phantoms_are_drawn_once_and_fill_eleven_folds(tmp_path: Path) -> None:
    prepared = prepare(phantoms(images_per_class=22), tmp_path, split=QUICK)
    assert prepared.synthetic
    assert prepared.split["patient_id"].notna().all()
    used = prepared.split[prepared.split["fold"] >= 0]
    assert sorted(used["fold"].unique()) == list(range(11))
    counts = pd.crosstab(used["fold"], used["label"]).to_numpy()
    assert (counts == counts[0, 0]).all()
    assert used.groupby("patient_id")["fold"].nunique().max() == 1
    before = fingerprint(prepared.root)
    leftover = prepared.root.with_name(f".{prepared.root.name}.0123.partial")
    (leftover / "Normal").mkdir(parents=True)  # as a process that was killed while drawing leaves it
    assert prepare(phantoms(images_per_class=22), tmp_path, split=QUICK).split_sha256 == prepared.split_sha256
    assert fingerprint(prepared.root) == before
    assert not leftover.exists()


def test_eleven_phantoms_per_class_are_one_for_each_fold(tmp_path: Path) -> None:
    prepared = prepare(phantoms(), tmp_path, split=QUICK)
    assert pd.crosstab(prepared.split["fold"], prepared.split["label"]).to_numpy().tolist() == [[1, 1, 1]] * 11


@pytest.mark.parametrize("count", [5, 10, 0, -3, "many", None, 11.5])
def test_too_few_phantoms_are_refused(tmp_path: Path, count: object) -> None:
    with refused("data.images_per_class", count, "an integer of at least 11"):
        prepare(phantoms(images_per_class=count), tmp_path)
    assert not list(tmp_path.rglob("*.png"))


# Two jobs at once


def _prepare_in_a_process(cache: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(30)
    prepared = prepare(phantoms(), cache, split=QUICK)
    written = {name: prepared.folder.parent / name for name in ("manifest.csv", "refused.csv")}
    answers.put((prepared.manifest_sha256, prepared.split_sha256, written["manifest.csv"].stat().st_mtime_ns))


@pytest.mark.slow
def test_two_processes_that_start_together_get_one_study(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    jobs = [context.Process(target=_prepare_in_a_process, args=(tmp_path, barrier, answers)) for _ in range(2)]
    for job in jobs:
        job.start()
    found = [answers.get(timeout=60) for _ in jobs]
    for job in jobs:
        job.join(30)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert found[0] == found[1]
    assert len(list((tmp_path / "phantoms").glob("*/metadata.csv"))) == 1
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob(".*.tmp"))


def test_record_of_a_split_tells_what_it_was_made_from(root: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(root), tmp_path)
    record = json.loads((prepared.folder / "split.json").read_text())
    assert record["data"] == prepared.manifest_sha256
    assert (record["group"], record["seed"]) == ("patient", 0)


@pytest.mark.slow
def test_covid_kit_prepares_with_the_metadata_of_its_parent(small_kit: Path, tmp_path: Path) -> None:
    table = pd.read_csv(small_kit / "metadata.csv", dtype=str)
    prepared = prepare(settings(small_kit / "Data"), tmp_path / "cache", split=QUICK)
    assert len(prepared.images) + len(prepared.refused) == len(table)
    known = prepared.images.merge(table.assign(path=table["filename"].str.removeprefix("Data/")), on="path")
    assert (known["patient_id_x"] == known["patient_id_y"]).all()
    used = prepared.split[prepared.split["fold"] >= 0]
    assert used.groupby("patient_id")["fold"].nunique().max() == 1
    counts = pd.crosstab(used["fold"], used["label"]).to_numpy()
    assert counts.shape == (11, 3)
    assert (counts == counts[0, 0]).all()
