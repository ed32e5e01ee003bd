"""Which images of a fold are used for training, validation and test, and how they are batched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.data.loading.augment import ORIGINAL, FixedCopies, Operators
from covidnet.data.loading.datamodule import PARTS, FoldDataModule
from covidnet.data.loading.transforms import Normalise, SquareFit
from tests.refusals import refused

PER_FOLD = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every row of `split`: noise of 64 x 64 pixels."""
    folder = tmp_path_factory.mktemp("images")
    for n in range(11 * PER_FOLD * 3):
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (64, 64), np.uint8)).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def split(root: Path) -> pd.DataFrame:
    """Eleven folds of six images of each class; every patient has two images of one class and one fold."""
    rows = []
    for n in range(11 * PER_FOLD * 3):
        fold, within = divmod(n, PER_FOLD * 3)
        label, image = divmod(within, PER_FOLD)
        digest = hashlib.sha256((root / f"{n}.png").read_bytes()).hexdigest()
        patient = f"p{fold}-{label}-{image // 2}"
        rows.append((digest[:16], f"{n}.png", CLASSES[label], patient, np.nan, "here", fold, digest))
    columns = ["image_id", "path", "label", "patient_id", "view", "source", "fold", "sha256"]
    return pd.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)


def module(split: pd.DataFrame, root: Path, **options: Any) -> FoldDataModule:
    base: dict[str, Any] = {"fold": 3, "copies": FixedCopies(), "num_workers": 0, "batch_size": 8}
    fit, normalise = SquareFit(64), Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return FoldDataModule(split, root=root, fit=fit, normalise=normalise, **{**base, **options})


def ids(loader: Any) -> list[str]:
    return [image_id for batch in loader for image_id in batch["image_id"]]


# Rows


@pytest.mark.parametrize("fold", [0, 3, 9])
def test_parts_share_no_patient_and_hold_the_folds_they_name(split: pd.DataFrame, root: Path, fold: int) -> None:
    rows = module(split, root, fold=fold).rows
    assert tuple(rows) == PARTS
    patients = [set(rows[part]["patient_id"]) for part in PARTS]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert set(rows["test"]["fold"]) == {fold}
    assert set(rows["unseen"]["fold"]) == {10}
    assert set(rows["train"]["fold"]) | set(rows["val"]["fold"]) == set(range(10)) - {fold}
    originals = pd.concat([rows[part][rows[part]["operator"] == ORIGINAL] for part in PARTS])
    assert sorted(originals["image_id"]) == sorted(split["image_id"])


@pytest.mark.parametrize("options", [{"copies": FixedCopies()}, {"copies": None, "online": Operators()}])
def test_validation_test_and_unseen_images_are_never_augmented(
    split: pd.DataFrame, root: Path, options: dict[str, Any]
) -> None:
    data = module(split, root, **options)
    for part in ("val", "test", "unseen"):
        assert set(data.rows[part]["operator"]) == {ORIGINAL}
    for loader in (data.val_dataloader(), *data.test_dataloader()):
        assert loader.dataset.online is None  # type: ignore[union-attr]
        plain = [batch["image"] for batch in loader]
        assert all(torch.equal(a, b["image"]) for a, b in zip(plain, loader, strict=True))


def test_training_images_grow_to_the_scaled_target_with_copies_of_themselves(split: pd.DataFrame, root: Path) -> None:
    train = module(split, root).rows["train"]
    # 9 folds of 6 per class: 1070 / 468 * 54 = 123.46.
    assert train["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 123)
    originals = train[train["operator"] == ORIGINAL]
    assert set(train["image_id"]) == set(originals["image_id"])
    assert not originals["image_id"].duplicated().any()
    assert set(module(split, root, copies=None).rows["train"]["operator"]) == {ORIGINAL}


def test_images_left_out_of_the_draw_are_in_no_part(split: pd.DataFrame, root: Path) -> None:
    surplus = split.assign(fold=split["fold"].where(split["fold"] != 7, -1))
    rows = module(surplus.drop(index=[]), root).rows
    assert all((table["fold"] >= 0).all() for table in rows.values())


def test_distinct_inputs_are_all_that_the_fold_looks_at_each_once(split: pd.DataFrame, root: Path) -> None:
    data = module(split, root, validation="test")
    distinct = data.distinct_inputs
    assert not distinct.duplicated(["sha256", "operator"]).any()
    looked_at = {
        pair for part in PARTS for pair in zip(*(data.rows[part][c] for c in ("sha256", "operator")), strict=True)
    }
    assert set(zip(distinct["sha256"], distinct["operator"], strict=True)) == looked_at
    assert len(looked_at) == 3 * (123 + PER_FOLD + PER_FOLD)


def test_dropped_images_leave_every_part_with_their_copies(split: pd.DataFrame, root: Path) -> None:
    data = module(split, root)
    gone = {data.rows[part]["image_id"].iloc[0] for part in PARTS}
    sizes = {part: len(data.rows[part]) for part in PARTS}
    data.drop(gone)
    assert len(gone) == 4
    for part in PARTS:
        assert not gone & set(data.rows[part]["image_id"])
        assert data.rows[part].index.tolist() == list(range(len(data.rows[part])))
        assert len(data.rows[part]) < sizes[part]
    assert not gone & set(data.distinct_inputs["image_id"])


def test_validation_on_the_test_fold_and_no_validation(split: pd.DataFrame, root: Path) -> None:
    optimistic = module(split, root, validation="test")
    assert optimistic.rows["val"].equals(optimistic.rows["test"])
    assert ids(optimistic.val_dataloader()) == ids(optimistic.test_dataloader()[0])
    none = module(split, root, validation="none")
    assert none.rows["val"].empty
    assert none.val_dataloader() == []
    assert set(none.rows["train"]["fold"]) == set(range(10)) - {3}


def test_validation_draw_follows_its_own_seed_and_not_the_training_seed(split: pd.DataFrame, root: Path) -> None:
    drawn = [
        set(module(split, root, seed=seed, validation_seed=own).rows["val"]["image_id"])
        for seed, own in ((0, 0), (1, 0), (0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


# Loaders


def test_batches_of_images_have_the_shapes_and_types_of_the_contract(split: pd.DataFrame, root: Path) -> None:
    data = module(split, root)
    for loader in (data.train_dataloader(), data.val_dataloader(), *data.test_dataloader()):
        batch = next(iter(loader))
        assert (batch["image"].shape, batch["image"].dtype) == ((8, 3, 64, 64), torch.float32)
        assert (batch["label"].shape, batch["label"].dtype) == ((8,), torch.int64)
        assert all(type(image_id) is str for image_id in batch["image_id"])


def test_labels_in_batches_are_those_of_the_split(split: pd.DataFrame, root: Path) -> None:
    label_of = dict(zip(split["image_id"], split["label"], strict=True))
    for batch in module(split, root).test_dataloader()[1]:
        assert [CLASSES[n] for n in batch["label"]] == [label_of[image_id] for image_id in batch["image_id"]]


def test_test_loaders_are_the_test_fold_and_then_the_unseen_one_in_the_order_of_rows(
    split: pd.DataFrame, root: Path
) -> None:
    data = module(split, root)
    assert [ids(loader) for loader in data.test_dataloader()] == [
        split.loc[split["fold"] == fold, "image_id"].tolist() for fold in (3, 10)
    ]


def featured(data: FoldDataModule) -> FoldDataModule:
    data.use_features(
        {part: torch.arange(len(rows), dtype=torch.float32)[:, None].repeat(1, 5) for part, rows in data.rows.items()}
    )
    return data


def test_order_of_training_images_depends_on_seed_and_epoch_alone(split: pd.DataFrame, root: Path) -> None:
    def epochs(data: FoldDataModule) -> list[list[str]]:
        loader = data.train_dataloader()
        found = []
        for epoch in range(2):
            # As Lightning does before each epoch.
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            found.append(ids(loader))
        return found

    torch.manual_seed(1)
    data = module(split, root, seed=4)
    first, second = epochs(data)
    torch.manual_seed(99)
    assert epochs(module(split, root, seed=4)) == [first, second]
    assert first != second
    assert sorted(first) == sorted(second) == sorted(data.rows["train"]["image_id"])
    assert epochs(module(split, root, seed=5))[0] != first
    assert epochs(featured(module(split, root, seed=4))) == [first, second]
    resumed = module(split, root, seed=4)
    resumed.epoch = 1
    assert ids(resumed.train_dataloader()) == second


def test_worker_processes_change_neither_order_nor_pixels(split: pd.DataFrame, root: Path) -> None:
    alone, helped = (module(split, root, num_workers=n, batch_size=64, copies=None) for n in (0, 2))
    loader = helped.train_dataloader()
    assert loader.num_workers == 2
    for one, other in zip(alone.train_dataloader(), loader, strict=True):
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["image"], other["image"])


def test_images_of_training_and_validation_stay_in_memory_shared_out_among_the_workers(
    split: pd.DataFrame, root: Path
) -> None:
    for workers in (0, 2):
        data = module(split, root, num_workers=workers, batch_size=4)
        train = data.train_dataloader()
        assert train.dataset.memory == 2**30 // max(train.num_workers, 1)
        assert data.val_dataloader().dataset.memory > 0
        assert [loader.dataset.memory for loader in data.test_dataloader()] == [0, 0]


def test_no_more_workers_are_started_than_there_are_batches_after_the_first(split: pd.DataFrame, root: Path) -> None:
    data = module(split, root, num_workers=8)
    assert [loader.num_workers for loader in data.test_dataloader()] == [2, 2]  # 18 images in batches of 8
    assert module(split, root, num_workers=8, batch_size=18).test_dataloader()[0].num_workers == 0


def test_batches_of_features_have_the_shapes_and_types_of_the_contract(split: pd.DataFrame, root: Path) -> None:
    data = featured(module(split, root))
    for part, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader()[0])):
        rows = data.rows[part]
        seen = 0
        for batch in loader:
            place = batch["features"][:, 0].long().tolist()
            assert (batch["features"].shape[1:], batch["features"].dtype) == ((5,), torch.float32)
            assert batch["image_id"].tolist() == rows["image_id"].iloc[place].tolist()
            assert [CLASSES[n] for n in batch["label"]] == rows["label"].iloc[place].tolist()
            seen += len(place)
        assert seen == len(rows)


def test_online_augmentation_repeats_with_the_seed_and_changes_between_epochs(split: pd.DataFrame, root: Path) -> None:
    def epochs(seed: int) -> list[dict[str, bytes]]:
        loader = module(split, root, copies=None, online=Operators(), seed=seed).train_dataloader()
        found = []
        for epoch in range(2):
            # As Lightning does before each epoch.
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            found.append(
                {
                    image_id: image.numpy().tobytes()
                    for b in loader
                    for image_id, image in zip(b["image_id"], b["image"], strict=True)
                }
            )
        return found

    first = epochs(1)
    assert epochs(1) == first
    assert epochs(2)[0] != first[0]
    assert all(first[0][image_id] != first[1][image_id] for image_id in first[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("batch_size", "many"), ("batch_size", 1.5), ("num_workers", -1), ("num_workers", "all")],
)
def test_counts_that_are_none_are_refused_by_name(split: pd.DataFrame, root: Path, name: str, value: object) -> None:
    with pytest.raises(SettingError, match=rf"data\.{name}="):
        module(split, root, **{name: value})


@pytest.mark.parametrize("fold", [10, 11, -1, "three", True])
def test_fold_that_is_no_test_fold_is_refused(split: pd.DataFrame, root: Path, fold: object) -> None:
    with refused("fold", fold, "0 to 9"):
        module(split, root, fold=fold)


def test_unset_workers_are_one_per_spare_core(split: pd.DataFrame, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 0), (4, 3)):
        monkeypatch.setattr("covidnet.data.loading.datamodule.available_cores", lambda cores=cores: cores)
        assert module(split, root, num_workers=None).num_workers == workers


def test_counts_are_those_of_the_rows(split: pd.DataFrame, root: Path) -> None:
    data = module(split, root, copies=FixedCopies(20, 9, Operators()))
    for part, rows in data.rows.items():
        for label, of_class in rows.groupby("label"):
            expected = {"films": of_class["image_id"].nunique(), "inputs": len(of_class)}
            assert data.counts[part][str(label)] == expected
    train = data.counts["train"]["Normal"]
    assert train["inputs"] > train["films"] > 0
