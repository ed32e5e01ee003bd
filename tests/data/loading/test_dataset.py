"""Images and features as items and batches."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import ImageRefusedError
from covidnet.data.loading import dataset
from covidnet.data.loading.augment import ORIGINAL, Operators
from covidnet.data.loading.dataset import FeatureDataset, FeatureMatrix, ImageDataset, whole_batch
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.reading.images import read_image

GREY = Normalise((0.0,), (1.0 / 255.0,))  # values 0..255, so that pixels can be compared


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    """Six images of 80 x 100 pixels, two of each class."""
    found = []
    for n in range(6):
        path = f"{n}.png"
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (80, 100), np.uint8)).save(tmp_path / path)
        digest = hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
        found.append((digest[:16], path, CLASSES[n % 3], ORIGINAL, digest))
    return pd.DataFrame(found, columns=["image_id", "path", "label", "operator", "sha256"])


def images(rows: pd.DataFrame, root: Path, **options: object) -> ImageDataset:
    return ImageDataset(rows, root, fit=SquareFit(64), normalise=GREY, **options)  # type: ignore[arg-type]


def values(item: dict[str, object]) -> np.ndarray:
    image = item["image"]
    assert isinstance(image, torch.Tensor)
    return image[0].numpy().round().astype(int)


def test_item_holds_image_label_id_and_row(rows: pd.DataFrame, tmp_path: Path) -> None:
    data = ImageDataset(rows, tmp_path, fit=SquareFit(64), normalise=Normalise((0.5,) * 3, (0.25,) * 3))
    assert len(data) == 6
    item = data[4]
    assert set(item) == {"image", "label", "image_id", "row"}
    assert (item["image"].shape, item["image"].dtype) == ((3, 64, 64), torch.float32)
    assert (item["label"], item["image_id"], item["row"]) == (CLASSES.index("Normal"), rows["image_id"][4], 4)
    assert item["label"] == 1


def test_batches_of_images_have_the_types_of_the_contract(rows: pd.DataFrame, tmp_path: Path) -> None:
    batch = next(iter(DataLoader(images(rows, tmp_path), batch_size=4)))
    assert (batch["image"].shape, batch["image"].dtype) == ((4, 1, 64, 64), torch.float32)
    assert (batch["label"].tolist(), batch["label"].dtype) == ([0, 1, 2, 0], torch.int64)
    assert (batch["row"].tolist(), batch["row"].dtype) == ([0, 1, 2, 3], torch.int64)
    assert batch["image_id"] == rows["image_id"][:4].tolist()


def test_image_goes_through_fit_operator_and_normalisation_in_this_order(rows: pd.DataFrame, tmp_path: Path) -> None:
    planned = pd.concat([rows.assign(operator=name) for name in (ORIGINAL, "zoom", "rotate-")], ignore_index=True)
    operators = Operators(rotation=20.0, zoom=1.5)
    data = images(planned, tmp_path, operators=operators)
    for index in (1, 7, 13):
        fitted = SquareFit(64)(read_image(tmp_path / planned["path"][index]))
        expected = operators.apply(planned["operator"][index], fitted)
        assert np.array_equal(values(data[index]), expected)


def test_what_the_workers_need_is_imported_before_they_are_forked(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "albumentations", raising=False)
    images(rows, tmp_path).import_operators()
    assert "albumentations" not in sys.modules
    images(rows.assign(operator="zoom"), tmp_path).import_operators()
    assert "albumentations" in sys.modules


def test_rows_without_a_column_operator_are_originals(rows: pd.DataFrame, tmp_path: Path) -> None:
    plain = images(rows.drop(columns="operator"), tmp_path)
    assert torch.equal(plain[2]["image"], images(rows, tmp_path)[2]["image"])


def test_image_and_its_copies_side_by_side_are_read_once(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pd.concat([rows.assign(operator=name) for name in (ORIGINAL, "zoom", "shear")])
    planned = planned.sort_values(["image_id", "operator"], ignore_index=True)
    read: list[str] = []
    monkeypatch.setattr(dataset, "read_image", lambda path, **o: read.append(path.name) or read_image(path, **o))
    data = images(planned, tmp_path)
    together = [values(data[index]) for index in range(len(data))]
    assert sorted(read) == sorted(rows["path"])
    for index in reversed(range(len(data))):
        assert np.array_equal(values(images(planned, tmp_path)[index]), together[index])


def test_a_image_in_memory_is_the_image_of_the_file_and_is_read_once(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pd.concat([rows.assign(operator=name) for name in (ORIGINAL, "zoom")], ignore_index=True)
    read: list[str] = []
    monkeypatch.setattr(dataset, "read_image", lambda path, **o: read.append(path.name) or read_image(path, **o))
    plain, kept = images(planned, tmp_path), images(planned, tmp_path, memory=1 << 20)
    expected = [plain[index]["image"] for index in range(12)]
    read.clear()
    order = [3, 7, 0, 11, 4, 1, 9, 2, 10, 5, 8, 6]
    for _ in range(3):
        for index in order:
            assert torch.equal(kept[index]["image"], expected[index])
    # An image and its copy were apart in this order: each was read for itself, and never again.
    assert sorted(read) == sorted(planned["path"])


@pytest.mark.parametrize(("memory", "held"), [(0, 0), (64 * 64 - 1, 0), (3 * 64 * 64 + 5, 3), (6 * 64 * 64, 6)])
def test_images_in_memory_take_no_more_bytes_than_they_may(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, held: int
) -> None:
    read: list[str] = []
    monkeypatch.setattr(dataset, "read_image", lambda path, **o: read.append(path.name) or read_image(path, **o))
    data = images(rows, tmp_path, memory=memory)
    for _ in range(2):
        for index in range(6):
            data[index]
    assert len(read) == 12 - held


def test_a_image_that_changed_is_refused_before_it_is_kept(rows: pd.DataFrame, tmp_path: Path) -> None:
    data = images(rows, tmp_path, memory=1 << 20)
    kept = data[1]["image"]
    (tmp_path / "3.png").write_bytes((tmp_path / "4.png").read_bytes())
    (tmp_path / "1.png").unlink()
    for _ in range(2):
        with pytest.raises(ImageRefusedError, match="does not match the manifest's sha256"):
            data[3]
    assert torch.equal(data[1]["image"], kept)


def test_online_augmentation_draws_anew_for_a_image_in_memory(rows: pd.DataFrame, tmp_path: Path) -> None:
    options = {"online": Operators(rotation=30.0).random}
    kept, plain = images(rows, tmp_path, memory=1 << 20, **options), images(rows, tmp_path, **options)

    def draws(data: ImageDataset) -> list[bytes]:
        # The same image in four epochs.
        return [values(data[epoch * len(data)]).tobytes() for epoch in range(4)]

    assert draws(kept) == draws(plain)
    assert len(set(draws(kept))) == 4


def test_without_a_hash_nothing_is_decoded(rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covidnet.data.reading.images._decode", lambda *given, **options: pytest.fail("decoded"))
    for unknown in (None, float("nan"), "0" * 64):
        with pytest.raises(ImageRefusedError, match="does not match the manifest's sha256"):
            images(rows.assign(sha256=unknown), tmp_path)[1]


def test_changed_bytes_are_refused_with_the_path(rows: pd.DataFrame, tmp_path: Path) -> None:
    data = images(rows, tmp_path)
    data[1]
    (tmp_path / "3.png").write_bytes((tmp_path / "4.png").read_bytes())
    with pytest.raises(ImageRefusedError, match="does not match the manifest's sha256") as caught:
        data[3]
    assert caught.value.path == str(tmp_path / "3.png")
    assert data[4]["row"] == 4


def test_image_that_is_gone_is_refused(rows: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "0.png").unlink()
    with pytest.raises(ImageRefusedError, match="no such file"):
        images(rows, tmp_path)[0]


def test_limits_of_reading_reach_the_reader(rows: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(ImageRefusedError, match="too small"):
        images(rows, tmp_path, reading={"min_side": 81, "max_megapixels": 64})[0]


def test_online_augmentation_repeats_with_the_seed_and_changes_between_epochs(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    def epochs(seed: int) -> list[bytes]:
        data = images(rows, tmp_path, online=Operators().random, seed=seed)
        return [values(data[key]).tobytes() for key in range(12)]

    first = epochs(1)
    assert epochs(1) == first
    assert epochs(2) != first
    assert len(set(first)) == 12


# Features


def test_batches_of_features_equal_plain_indexing(rows: pd.DataFrame) -> None:
    many = pd.concat([rows] * 5, ignore_index=True).assign(image_id=[f"id{n}" for n in range(30)])
    features = torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    labels = np.array([0, 1, 2] * 10)
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(FeatureDataset(features, many), 8, shuffle=True, generator=generator, collate_fn=whole_batch)
    seen: list[int] = []
    for batch in loader:
        assert set(batch) == {"features", "label", "image_id"}
        index = [int(image_id.removeprefix("id")) for image_id in batch["image_id"]]
        assert np.array_equal(batch["features"].numpy(), features.numpy()[index])
        assert np.array_equal(batch["label"].numpy(), labels[index])
        assert (batch["features"].dtype, batch["label"].dtype) == (torch.float32, torch.int64)
        assert all(type(image_id) is str for image_id in batch["image_id"])
        seen += index
    assert sorted(seen) == list(range(30))
    assert seen != sorted(seen)


def test_folds_share_one_matrix_of_features_that_may_grow(rows: pd.DataFrame) -> None:
    matrix, vectors = FeatureMatrix(2), np.arange(12.0, dtype=np.float32).reshape(6, 2)
    keys = [bytes([n]) for n in range(6)]
    assert matrix.lacking([*keys[:2], *keys[:2]]) == keys[:2]
    matrix.add(keys[:4], vectors[:4], room=5)
    first, place = matrix.rows([keys[3], keys[0], keys[3]]), matrix.vectors.data_ptr()
    matrix.add(matrix.lacking(keys[:5]), vectors[4:5])
    assert matrix.vectors.data_ptr() == place
    matrix.add(matrix.lacking(keys), vectors[5:])
    assert matrix.lacking(keys) == []
    assert torch.equal(matrix.rows(keys)[:], torch.from_numpy(vectors))
    # Rows that were handed out before follow the matrix.
    assert first.matrix is matrix
    assert first[:].tolist() == [[6.0, 7.0], [0.0, 1.0], [6.0, 7.0]]
    assert first[torch.tensor([1])].tolist() == [[0.0, 1.0]]
    assert len(first) == 3


def test_a_single_feature_item_is_a_batch_of_one(rows: pd.DataFrame) -> None:
    features = torch.arange(12.0).reshape(6, 2)
    item = FeatureDataset(features, rows)[4]
    assert item["features"].tolist() == [[8.0, 9.0]]
    assert item["label"].tolist() == [1]
    assert item["image_id"].tolist() == [rows["image_id"][4]]


def test_going_through_the_images_ends(rows: pd.DataFrame, tmp_path: Path) -> None:
    data = images(rows, tmp_path)
    assert [item["image_id"] for item in data] == list(rows["image_id"])
    features = FeatureDataset(torch.zeros(len(rows), 2), rows)
    assert [item["image_id"][0] for item in features] == list(rows["image_id"])


def test_a_key_of_a_later_epoch_is_the_same_image_under_another_augmentation(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    plain, online = images(rows, tmp_path), images(rows, tmp_path, online=Operators(rotation=30.0).random)
    size = len(rows)
    assert torch.equal(plain[1]["image"], plain[1 + 3 * size]["image"])
    assert not torch.equal(online[1]["image"], online[1 + size]["image"])
    # The same in any process and whatever was drawn before.
    torch.manual_seed(7)
    assert torch.equal(online[1 + size]["image"], online[1 + size]["image"])
    features = FeatureDataset(torch.arange(2.0 * size).reshape(size, 2), rows)
    assert features[1 + size]["features"].tolist() == [[2.0, 3.0]]
