"""A run stores thumbnails of its images, each once, with its part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.data.reading.thumbnails import SIDE, Thumbnails
from covidnet.data.recognition.training_images import FILE, read_training_images, write_training_images


def small(*names: str) -> Thumbnails:
    pixels = np.random.default_rng(0).integers(0, 256, (len(names), SIDE, SIDE), np.uint8)
    return Thumbnails(list(names), pixels, np.ones(len(names)))


def rows(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(names), "sha256": [f"sha-{name}" for name in names], "operator": "as it is"})


def test_every_image_is_kept_once_with_the_first_part_that_it_is_in(tmp_path: Path) -> None:
    thumbnails = small("a", "b", "c", "d", "e")
    parts = {"test": rows("d"), "train": rows("b", "a", "b", "b"), "unseen": rows("c"), "val": rows("d")}
    assert write_training_images(tmp_path, parts, thumbnails) == tmp_path / FILE
    found = read_training_images(tmp_path)
    assert found is not None
    assert dict(zip(found.image_id, found.part, strict=True)) == {"a": "train", "b": "train", "c": "unseen", "d": "val"}
    assert found.sha256.tolist() == [f"sha-{name}" for name in found.image_id]
    for image_id, pixels in zip(found.image_id, found.pixels, strict=True):
        np.testing.assert_array_equal(pixels, thumbnails.pixels["abcde".index(image_id)])


def test_a_image_without_a_thumbnail_is_left_out(tmp_path: Path) -> None:
    write_training_images(tmp_path, {"train": rows("a", "gone")}, small("a"))
    found = read_training_images(tmp_path)
    assert found is not None
    assert found.image_id.tolist() == ["a"]


def test_the_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    write_training_images(tmp_path, {"train": rows("a")}, small("a")).rename(tmp_path / "training_films.npz")
    found = read_training_images(tmp_path)
    assert found is not None
    assert found.image_id.tolist() == ["a"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive", "shape"])
def test_what_cannot_be_read_is_none(tmp_path: Path, content: bytes | str | None) -> None:
    if content == "shape":
        np.savez(tmp_path / FILE, image_id=["a"], part=["train"], sha256=["b"], pixels=np.zeros((1, 3, 3), np.uint8))
    elif isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    assert read_training_images(tmp_path) is None


def test_it_holds_no_objects_that_would_run_code(tmp_path: Path) -> None:
    write_training_images(tmp_path, {"train": rows("a")}, small("a"))
    with np.load(tmp_path / FILE, allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays.files} == {
            "image_id": "U", "part": "U", "sha256": "U", "pixels": "u",
        }  # fmt: skip
