"""Maintaining stores: contents are listed, damage is found, and only useless files are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covidnet.feature_store.maintenance import prune, summaries
from covidnet.feature_store.store import FeatureStore, feature_key

HERE: dict[str, Any] = {
    "reading": {"name": "read_image", "covidnet": "1", "pillow": "1"},
    "transforms": [{"name": "SquareFit", "size": 224, "opencv": "1"}],
    "backbone": "densenet121",
}


def filled(root: Path, description: dict[str, Any], count: int = 6) -> FeatureStore:
    store = FeatureStore(root, description, 4)
    for n in range(count):
        store.append([feature_key(f"{n}", "")], np.full((1, 4), n, np.float32))
    return store


def flip(file: Path, place: int = -1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(bytes(data))


def test_a_summary_counts_features_and_files(tmp_path: Path) -> None:
    store = filled(tmp_path, HERE)
    (one,) = summaries(tmp_path, verify=True)
    assert (one.folder, one.features, one.segments, one.damaged, one.unusable) == (store.folder, 6, 6, 0, ())
    assert one.bytes == sum(file.stat().st_size for file in store.folder.glob("*.safetensors"))
    assert one.description == HERE


def test_an_empty_folder_has_no_stores(tmp_path: Path) -> None:
    assert summaries(tmp_path / "nowhere") == []


def test_verify_finds_what_a_look_at_the_files_does_not(tmp_path: Path) -> None:
    store = filled(tmp_path, HERE)
    first, second = sorted(store.folder.glob("*.safetensors"))[:2]
    vector = first.read_bytes().index(np.zeros(4, np.float32).tobytes(), 64)
    flip(first, vector)
    second.write_bytes(second.read_bytes()[:-5])
    (quick,), (thorough,) = summaries(tmp_path), summaries(tmp_path, verify=True)
    assert quick.damaged == 0
    assert thorough.damaged == 1
    assert quick.unusable == thorough.unusable == (second,)


def test_prune_removes_leftovers_and_keeps_features(tmp_path: Path) -> None:
    store = filled(tmp_path, HERE)
    cut = sorted(store.folder.glob("*.safetensors"))[0]
    cut.write_bytes(cut.read_bytes()[:20])
    left = store.folder / ".0123456789abcdef.tmp"
    left.write_bytes(b"half a segment")
    assert sorted(prune(tmp_path, HERE)) == sorted([cut, left])
    vectors, found = FeatureStore(tmp_path, HERE, 4).read([feature_key(f"{n}", "") for n in range(6)])
    assert found.tolist() == [False] + [True] * 5
    assert vectors[5].tolist() == [5.0] * 4
    assert prune(tmp_path, HERE) == []


@pytest.mark.parametrize(
    "other",
    [
        {**HERE, "reading": {**HERE["reading"], "pillow": "2"}},
        {**HERE, "transforms": [{"name": "SquareFit", "size": 224, "opencv": "2"}]},
    ],
)
def test_prune_removes_stores_of_other_versions(tmp_path: Path, other: dict[str, Any]) -> None:
    kept, gone = filled(tmp_path, HERE), filled(tmp_path, other)
    assert prune(tmp_path, HERE) == [gone.folder]
    assert kept.folder.exists()
    assert not gone.folder.exists()


def test_prune_keeps_stores_of_other_choices(tmp_path: Path) -> None:
    filled(tmp_path, {**HERE, "backbone": "resnet50"})
    filled(tmp_path, {**HERE, "transforms": [{"name": "SquareFit", "size": 320, "opencv": "1"}]})
    assert prune(tmp_path, HERE) == []
