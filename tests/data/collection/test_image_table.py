"""Images without folds: any number of each class, always up to date with the folder."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covidnet.base.errors import DataError
from covidnet.data.collection.image_table import ImageTable, read_image_table
from covidnet.data.collection.prepared import prepare_dataset
from covidnet.data.reading.thumbnails import thumbnail


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (70, 64), np.uint8)).save(path)


def settings(root: Path, **changes: Any) -> dict[str, Any]:
    base = {"name": "folder", "root": str(root), "labels": {}, "view": None, "max_megapixels": 64, "min_side": 64}
    return {**base, **changes}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for n in range(3):
        draw(tmp_path / f"images/NORMAL/{n}.png", n)
    draw(tmp_path / "images/PNEUMONIA/a.png", 9)
    (tmp_path / "images/NORMAL/broken.png").write_bytes(b"")
    return tmp_path / "images"


def read(root: Path, cache: Path, **changes: Any) -> ImageTable:
    return read_image_table(settings(root, **changes), cache_dir=cache, progress=False)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_class_may_be_absent_or_have_one_image(root: Path, tmp_path: Path) -> None:
    found = read(root, tmp_path / "cache")
    assert found.images["label"].value_counts().to_dict() == {"Normal": 3, "Pneumonia": 1}
    assert found.refused["path"].tolist() == ["NORMAL/broken.png"]
    assert found.thumbnails.image_id == found.images["image_id"].tolist()
    for path, pixels in zip(found.images["path"], found.thumbnails.pixels, strict=True):
        np.testing.assert_array_equal(pixels, thumbnail(np.asarray(Image.open(root / path))))


def test_the_second_time_no_image_is_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root, tmp_path / "cache")
    before = files(tmp_path / "cache")
    monkeypatch.setattr(
        "covidnet.data.collection.image_table.scan", lambda *a, **k: pytest.fail("images were read again")
    )
    second = read(root, tmp_path / "cache")
    assert second.images.equals(first.images)
    assert second.manifest_sha256 == first.manifest_sha256
    np.testing.assert_array_equal(second.thumbnails.pixels, first.thumbnails.pixels)
    assert files(tmp_path / "cache") == before


def test_an_image_or_a_source_that_changed_since_is_read_again(root: Path, tmp_path: Path) -> None:
    first = read(root, tmp_path / "cache")
    draw(root / "NORMAL/2.png", 77)
    second = read(root, tmp_path / "cache")
    assert len(set(first.images["sha256"]) - set(second.images["sha256"])) == 1
    assert np.abs(second.thumbnails.pixels.astype(int) - first.thumbnails.pixels).max() > 0
    (root / "metadata.csv").write_text("filename,source\nNORMAL/2.png,elsewhere\n")
    assert "elsewhere" in set(read(root, tmp_path / "cache").images["source"])


@pytest.mark.parametrize("change", ["added", "removed", "moved to another class", "given a patient"])
def test_what_changed_since_is_seen_and_the_manifest_of_a_study_stays(root: Path, tmp_path: Path, change: str) -> None:
    first = read(root, tmp_path / "cache")
    before = files(tmp_path / "cache")
    if change == "added":
        draw(root / "COVID19/new.png", 50)
    elif change == "removed":
        (root / "NORMAL/2.png").unlink()
    elif change == "moved to another class":
        (root / "COVID19").mkdir()
        shutil.move(root / "NORMAL/2.png", root / "COVID19/2.png")
    else:
        (root / "metadata.csv").write_text("filename,patient_id\nNORMAL/2.png,p7\n")
    second = read(root, tmp_path / "cache")
    assert second.manifest_sha256 != first.manifest_sha256
    counts = {"added": 5, "removed": 3, "moved to another class": 4, "given a patient": 4}
    assert len(second.images) == counts[change]
    assert second.thumbnails.image_id == second.images["image_id"].tolist()
    assert files(tmp_path / "cache") == before


def test_a_view_is_chosen_with_its_thumbnails(root: Path, tmp_path: Path) -> None:
    (root / "metadata.csv").write_text("filename,view\nNORMAL/0.png,L\nNORMAL/1.png,PA\nPNEUMONIA/a.png,pa\n")
    found = read(root, tmp_path / "cache", view="PA")
    assert sorted(found.images["path"]) == ["NORMAL/1.png", "NORMAL/2.png", "PNEUMONIA/a.png"]
    assert found.thumbnails.image_id == found.images["image_id"].tolist()
    assert "1 of other views left out" in found.notes[0]


def test_a_study_and_an_evaluation_share_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(36):
        draw(tmp_path / "images" / ("COVID19", "NORMAL", "PNEUMONIA")[n % 3] / f"{n}.png", n)
    found = read(tmp_path / "images", tmp_path / "cache")
    monkeypatch.setattr("covidnet.data.collection.prepared.scan", lambda *a, **k: pytest.fail("images were read again"))
    prepared = prepare_dataset(
        settings(tmp_path / "images"), {"group": "patient", "seed": 0}, cache_dir=tmp_path / "cache", progress=False
    )
    assert prepared.manifest_sha256 == found.manifest_sha256
    assert prepared.thumbnails(progress=False).image_id == found.thumbnails.image_id


def test_an_unknown_class_folder_is_refused(root: Path, tmp_path: Path) -> None:
    draw(root / "TB/a.png", 70)
    with pytest.raises(DataError, match=r"TB/ \(1 image\); a class must be one of .*data\.labels"):
        read(root, tmp_path / "cache")
    assert len(read(root, tmp_path / "cache", labels={"TB": "Pneumonia"}).images) == 5
