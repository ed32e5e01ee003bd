"""Thumbnails show the whole image, are stored beside the manifest, and are made again if they are missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidnet.data.collection.manifest import scan
from covidnet.data.collection.prepared import PreparedDataset, prepare_dataset
from covidnet.data.collection.sources import folder_source
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.thumbnails import (
    SIDE,
    Thumbnails,
    make_thumbnails,
    read_thumbnails,
    thumbnail,
    write_thumbnails,
)

SHAPES = ((64, 64), (65, 191), (192, 193), (320, 456), (511, 515), (1023, 1801))


def image(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), min(shape) / 40)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for n in range(36):
        path = tmp_path / "images" / ("COVID19", "NORMAL", "PNEUMONIA")[n % 3] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image((70 + n, 90), n)).save(path)
    return tmp_path / "images"


def prepare(root: Path, cache: Path) -> PreparedDataset:
    data = {"name": "folder", "root": str(root), "labels": {}, "view": None, "max_megapixels": 64, "min_side": 64}
    return prepare_dataset(data, {"group": "patient", "seed": 0}, cache_dir=cache, progress=False)


# One image


@pytest.mark.parametrize("shape", SHAPES)
def test_each_pixel_is_the_mean_of_what_it_covers(shape: tuple[int, int]) -> None:
    whole = image(shape)
    area = cv2.resize(whole, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    found = thumbnail(whole)
    assert found.shape == (SIDE, SIDE)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - area).max() <= 6
    assert np.abs(found.astype(int) - area).mean() < 1.5


def test_it_shows_the_whole_image_at_a_fixed_size() -> None:
    ramp = np.tile(np.linspace(0, 255, 700).round().astype(np.uint8), (300, 1))
    found = thumbnail(ramp).astype(int)
    assert found[:, 0].max() < 6
    assert found[:, -1].min() > 249
    assert (np.diff(found, axis=1) > 0).all()


def test_an_image_below_its_size_is_enlarged() -> None:
    small = image((40, 30))
    expected = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(thumbnail(small), expected)


def test_an_image_saved_smaller_has_nearly_the_same() -> None:
    whole = draw_image("Normal", 3, 0, size=512).image
    half = cv2.resize(whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail(whole).astype(int) - thumbnail(half)).mean() < 2


# Of a data set


def test_a_scan_makes_one_for_every_image_in_manifest_order(root: Path) -> None:
    (root / "NORMAL/broken.png").write_bytes(b"")
    manifest = scan(folder_source(root), max_megapixels=64, min_side=64, progress=False)
    small = manifest.thumbnails
    assert small is not None
    assert small.image_id == manifest.images["image_id"].tolist()
    for n in (0, 17, 35):
        pixels = np.asarray(Image.open(root / manifest.images["path"][n]))
        np.testing.assert_array_equal(small.pixels[n], thumbnail(pixels))
        assert small.aspects[n] == pytest.approx(pixels.shape[1] / pixels.shape[0])


def test_a_prepared_data_set_stores_them_and_reads_no_image_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(root, tmp_path / "cache")
    assert (prepared.folder.parent / "thumbnails.npz").is_file()
    monkeypatch.setattr("covidnet.data.reading.thumbnails.read_image", lambda *a, **k: pytest.fail("an image was read"))
    small = prepare(root, tmp_path / "cache").thumbnails(progress=False)
    assert small.image_id == prepared.images["image_id"].tolist()
    assert small.pixels.shape == (36, SIDE, SIDE)


@pytest.mark.parametrize("damage", ["gone", "damaged", "other images", "objects"])
def test_missing_or_wrong_ones_are_made_again(root: Path, tmp_path: Path, damage: str) -> None:
    prepared = prepare(root, tmp_path / "cache")
    file, expected = prepared.folder.parent / "thumbnails.npz", prepared.thumbnails(progress=False)
    if damage == "gone":
        file.unlink()
    elif damage == "damaged":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "other images":
        write_thumbnails(file, Thumbnails(expected.image_id[::-1], expected.pixels, expected.aspects))
    else:
        np.savez(file, image_id=np.array([{"a": 1}], dtype=object))
    found = prepared.thumbnails(progress=False)
    assert found.image_id == expected.image_id
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_allclose(found.aspects, expected.aspects)
    assert read_thumbnails(file, prepared.images) is not None


def test_an_image_that_has_changed_gets_none_and_is_named(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = prepare(root, tmp_path / "cache")
    (prepared.folder.parent / "thumbnails.npz").unlink()
    changed = prepared.images["path"][4]
    Image.fromarray(image((99, 99), 77)).save(root / changed)
    found = prepared.thumbnails(progress=False)
    assert found.image_id == [i for n, i in enumerate(prepared.images["image_id"]) if n != 4]
    assert changed in caplog.text
    assert not (prepared.folder.parent / "thumbnails.npz").exists()


def test_copies_of_one_file_have_one_each(tmp_path: Path) -> None:
    Image.fromarray(image((80, 80))).save(tmp_path / "a.png")
    images = pd.DataFrame({"image_id": ["x", "x-2"], "path": ["a.png", "a.png"], "width": [80, 80], "height": [80, 80]})
    sha = scan_sha(tmp_path / "a.png")
    found = make_thumbnails(images.assign(sha256=sha), tmp_path, progress=False)
    assert found.image_id == ["x", "x-2"]
    np.testing.assert_array_equal(found.pixels[0], found.pixels[1])


def scan_sha(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
