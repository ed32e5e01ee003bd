"""The feature pass: what it computes, what it reuses, and which row belongs to which image."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from covidnet.base.atomic import WriteError
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import ImageRefusedError, StoreError
from covidnet.data.loading.augment import ORIGINAL, FixedCopies, Operators
from covidnet.data.loading.datamodule import PARTS, FoldDataModule
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.feature_store.extract import fold_features, input_keys, store_description
from covidnet.feature_store.store import FeatureStore

# Few workers are our choice for few images.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

SIZE = 64
DIM = 16
CPU = {"accelerator": "cpu", "devices": 1}


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covidnet.feature_store.extract.available_cores", lambda: 1)


class Means(nn.Module):
    """A backbone whose features are the means of a 4 x 4 grid: they tell which image it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return nn.functional.adaptive_avg_pool2d(images[:, 0], 4).flatten(1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Two images of each class in each of eleven folds, and their split."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for fold in range(11):
        for label in CLASSES:
            for number in range(2):
                coarse = rng.integers(0, 256, (8, 8), np.uint8)
                path = root / f"{label}-{fold}-{number}.png"
                Image.fromarray(np.kron(coarse, np.ones((8, 8), np.uint8))).save(path)
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                rows.append((sha256[:16], path.name, label, sha256[:8], "PA", "test", fold, sha256))
    columns = ["image_id", "path", "label", "patient_id", "view", "source", "fold", "sha256"]
    return root, pd.DataFrame(rows, columns=columns)


Fold = Callable[..., FoldDataModule]


@pytest.fixture
def make(images: tuple[Path, pd.DataFrame]) -> Fold:
    def fold(number: int = 0, **settings: Any) -> FoldDataModule:
        root, split = images
        settings = {"copies": FixedCopies(30, None), "validation": "test", **settings}
        return FoldDataModule(
            settings.pop("split", split),
            root=root,
            fold=number,
            fit=SquareFit(SIZE),
            normalise=Normalise((0.5,) * 3, (0.25,) * 3),
            **settings,
        )

    return fold


def store_at(root: Path, dim: int = DIM) -> FeatureStore:
    return FeatureStore(root, {"test": "means"}, dim)


def features(fold: FoldDataModule, backbone: nn.Module, store: FeatureStore, **settings: Any) -> dict[str, Tensor]:
    found = fold_features(fold, lambda: backbone, store, **{"progress": False, "trainer": CPU, **settings})
    return {part: rows[:] for part, rows in found.items()}


def expected(root: Path, row: pd.Series) -> np.ndarray:
    """The grid means of one image, by hand."""
    image = np.asarray(Image.open(root / row["path"]))
    image = Operators().apply(row["operator"], image)
    grid = image.astype(float).reshape(4, SIZE // 4, 4, SIZE // 4).mean((1, 3))
    return ((grid / 255 - 0.5) / 0.25).ravel()


@pytest.mark.parametrize("validation", ["inner", "test"])
def test_row_n_of_every_part_is_the_feature_of_image_n(make: Fold, tmp_path: Path, validation: str) -> None:
    fold = make(validation=validation)
    found = features(fold, Means(), store_at(tmp_path))
    assert set(found) == set(PARTS)
    for part, rows in fold.rows.items():
        assert len(rows) > 0
        assert found[part].dtype == torch.float32
        truth = np.array([expected(fold.root, row) for _, row in rows.iterrows()])
        np.testing.assert_allclose(found[part].numpy(), truth, atol=1e-5, err_msg=part)


def test_a_copy_has_another_feature_than_its_original(make: Fold, tmp_path: Path) -> None:
    fold = make()
    train = fold.rows["train"]
    found = features(fold, Means(), store_at(tmp_path))["train"].numpy()
    originals = {row["image_id"]: found[n] for n, row in train.iterrows() if row["operator"] == ORIGINAL}
    copies = [(row["image_id"], found[n]) for n, row in train.iterrows() if row["operator"] != ORIGINAL]
    assert len(copies) == 3 * 30 - len(originals)
    assert all(np.abs(feature - originals[image_id]).max() > 1e-3 for image_id, feature in copies)


def test_the_second_call_computes_nothing_and_gives_the_same(make: Fold, tmp_path: Path) -> None:
    backbone = Means()
    first = features(make(), backbone, store_at(tmp_path))
    assert backbone.seen == len(make().distinct_inputs)
    backbone.seen = 0
    second = features(make(), backbone, store_at(tmp_path))
    assert backbone.seen == 0
    for part in PARTS:
        assert torch.equal(first[part], second[part])


def test_another_fold_computes_only_what_no_fold_before_it_needed(make: Fold, tmp_path: Path) -> None:
    backbone = Means()
    features(make(0), backbone, store_at(tmp_path))
    backbone.seen = 0
    features(make(1), backbone, store_at(tmp_path))
    pairs = [set(zip(rows["sha256"], rows["operator"], strict=True)) for rows in (
        make(0).distinct_inputs, make(1).distinct_inputs)]  # fmt: skip
    assert backbone.seen == len(pairs[1] - pairs[0])
    assert 0 < backbone.seen < len(pairs[1])


def test_identical_bytes_under_two_names_are_computed_once(
    make: Fold, images: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    split = images[1].copy()
    twin = split[split["fold"] == 5].head(1).assign(image_id="twin")
    split = pd.concat([split, twin], ignore_index=True)
    backbone = Means()
    fold = make(split=split, copies=None)
    found = features(fold, backbone, store_at(tmp_path))["train"]
    assert backbone.seen == len(split) - 1
    ids = list(fold.rows["train"]["image_id"])
    assert torch.equal(found[ids.index("twin")], found[ids.index(twin["sha256"].item()[:16])])


def test_a_damaged_feature_is_computed_again(make: Fold, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fold = make(copies=None)
    backbone = Means()
    store = store_at(tmp_path)
    truth = features(fold, backbone, store)
    (path,) = store.folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[data.index(truth["test"][1].numpy().tobytes()) + 2] ^= 0x10
    path.write_bytes(bytes(data))
    backbone.seen = 0
    again = features(fold, backbone, store_at(tmp_path))
    assert backbone.seen == 1
    assert str(path) in caplog.text
    for part in PARTS:
        assert torch.equal(again[part], truth[part])
    backbone.seen = 0
    features(fold, backbone, store_at(tmp_path))
    assert backbone.seen == 0


def test_a_disk_that_does_not_give_back_what_was_written_stops_the_run(
    make: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from covidnet.base import atomic
    from covidnet.feature_store import store as module

    def lossy(path: Path, data: bytes) -> None:
        atomic.write_bytes(path, data[:-4] + b"\0\0\0\1" if path.suffix == ".safetensors" else data)

    monkeypatch.setattr(module, "write_bytes", lossy)
    store = store_at(tmp_path)
    with pytest.raises(StoreError, match=f"{store.folder}.*cannot be read back"):
        features(make(copies=None), Means(), store)


def test_a_full_disk_names_the_file_and_keeps_what_was_computed(
    make: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("covidnet.feature_store.extract.SEGMENT", 32)
    fold = make(copies=None)
    store = store_at(tmp_path)
    writes = []
    append = FeatureStore.append

    def full(self: FeatureStore, keys: list[bytes], vectors: np.ndarray) -> None:
        writes.append(len(keys))
        if len(writes) > 1:
            raise WriteError(self.folder, errno.ENOSPC, "No space left on device")
        append(self, keys, vectors)

    monkeypatch.setattr(FeatureStore, "append", full)
    with pytest.raises(WriteError, match=f"{store.folder}.*ENOSPC"):
        features(fold, Means(), store)
    monkeypatch.setattr(FeatureStore, "append", append)
    backbone = Means()
    features(fold, backbone, store_at(tmp_path))
    assert backbone.seen == len(fold.distinct_inputs) - writes[0]


def test_a_image_that_cannot_be_read_is_named_and_frees_the_lock(
    make: Fold, images: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    split = images[1].copy()
    split.loc[3, "path"] = "gone.png"
    with pytest.raises(ImageRefusedError, match=r"gone\.png"):
        features(make(split=split, copies=None), Means(), store_at(tmp_path))
    backbone = Means()
    features(make(copies=None), backbone, store_at(tmp_path))
    assert backbone.seen > 0


@pytest.mark.parametrize("progress", [True, False])
def test_the_pass_leaves_nothing_on_the_terminal_and_no_file_beside_the_store(
    make: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], progress: bool
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    features(make(copies=None), Means(), store_at(tmp_path / "store"), progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert "features" not in err
    assert list((tmp_path / "here").iterdir()) == []


def test_the_bar_ends_whether_the_pass_ends_well_or_not(
    make: Fold, images: tuple[Path, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    bars: list[Progress] = []

    def bar(visible: bool, unit: str) -> Progress:
        bars.append(
            Progress(console=Console(file=(tmp_path / "screen").open("w"), force_terminal=True), transient=True)
        )
        return bars[-1]

    monkeypatch.setattr("covidnet.feature_store.extract.progress_bar", bar)
    features(make(copies=None), Means(), store_at(tmp_path / "whole"))
    assert bars[0].tasks[0].completed == len(images[1])
    split = images[1].copy()
    split.loc[3, "path"] = "gone.png"
    with pytest.raises(ImageRefusedError):
        features(make(split=split, copies=None), Means(), store_at(tmp_path / "broken"))
    assert [bar.live.is_started for bar in bars] == [False, False]
    for bar in bars:
        bar.console.file.close()


def test_threads_and_the_arithmetic_of_graphics_cards_are_as_before(make: Fold, tmp_path: Path) -> None:
    class Asking(Means):
        def forward(self, images: Tensor) -> Tensor:
            rounding.append(torch.backends.cudnn.allow_tf32)
            assert not torch.is_grad_enabled()
            return super().forward(images)

    rounding: list[bool] = []
    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    features(make(copies=None), Asking(), store_at(tmp_path))
    assert set(rounding) == {False}
    assert (torch.get_num_threads(), torch.backends.cudnn.allow_tf32) == before


def test_without_validation_its_part_is_empty(make: Fold, tmp_path: Path) -> None:
    assert features(make(validation="none"), Means(), store_at(tmp_path))["val"].shape == (0, DIM)


def test_the_key_of_a_copy_holds_the_operators_magnitude_and_that_of_an_original_does_not(make: Fold) -> None:
    rows = make().rows["train"]
    five, six = input_keys(rows, Operators()), input_keys(rows, Operators(rotation=6.0))
    same = np.array([a == b for a, b in zip(five, six, strict=True)])
    np.testing.assert_array_equal(same, rows["operator"] == ORIGINAL)
    assert len(set(five)) == len(rows)


def test_the_description_changes_with_everything_that_changes_a_feature(make: Fold) -> None:
    fold = make()
    rows = fold.rows["test"]
    here = store_description(fold.images(rows), "densenet121", "hash")
    fold.fit = SquareFit(SIZE, "crop")
    crop = store_description(fold.images(rows), "densenet121", "hash")
    fold.fit = SquareFit(SIZE + 1)
    larger = store_description(fold.images(rows), "densenet121", "hash")
    fold.fit, fold.normalise = SquareFit(SIZE), Normalise((0.4,) * 3, (0.25,) * 3)
    brighter = store_description(fold.images(rows), "densenet121", "hash")
    weights = store_description(make().images(rows), "densenet121", "other")
    network = store_description(make().images(rows), "other", "hash")
    texts = {str(text) for text in (here, crop, larger, brighter, weights, network)}
    assert len(texts) == 6
    assert store_description(make().images(rows), "densenet121", "hash") == here
    import cv2
    import PIL

    assert f"'opencv': '{cv2.__version__}'" in str(here)
    assert here["reading"]["pillow"] == PIL.__version__
    assert here["precision"] == "float32"


def test_where_no_bar_is_drawn_the_log_tells_how_far_the_pass_is(
    make: Fold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="covidnet")
    monkeypatch.setattr("covidnet.feature_store.extract._LOG_SECONDS", 0.0)
    fold = make()
    features(fold, Means(), store_at(tmp_path), batch_size=16)
    total = len(fold.distinct_inputs)
    said = [record.getMessage() for record in caplog.records if "images/s" in record.getMessage()]
    # After each batch but the last one.
    assert len(said) == -(-total // 16) - 1
    assert said[0].startswith(f"features: 16 of {total} images, ")
    assert said[0].endswith(" min left")


def test_the_locked_unseen_fold_is_not_read(make: Fold, tmp_path: Path) -> None:
    fold = make(locked=True)
    store = store_at(tmp_path)
    assert set(features(fold, Means(), store)) == {"train", "val", "test"}
    unseen = fold.rows["unseen"]
    assert len(unseen) > 0
    assert not store.holds(input_keys(unseen, Operators())).any()
