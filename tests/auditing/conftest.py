"""One small set of phantoms and a sweep of random predictions on it, shared by all tests of the audit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from covidnet.auditing.study import Study
from covidnet.data.collection.image_table import read_image_table, table_columns
from covidnet.data.collection.prepared import prepare_folder
from covidnet.data.loading.augment import ORIGINAL
from covidnet.data.phantoms.phantom import write_phantoms
from covidnet.feature_store.store import FeatureStore, feature_key
from covidnet.gate import fixed_rules
from tests.sweeps import write_sweep

DATA = {"name": "folder", "view": None, "max_megapixels": 64, "min_side": 64}


@pytest.fixture(scope="session", autouse=True)
def copies(copies_once: None) -> None:
    """Most faults leave the images as they are."""


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forest on the metadata is tested in test_acquisition.py."""
    monkeypatch.setattr("covidnet.auditing.acquisition._FOREST", 25)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean phantoms, 33 of each class, with sexes and ages that say nothing of the class."""
    root = tmp_path_factory.mktemp("audit") / "phantoms"
    table = write_phantoms(root, images_per_class=33, size=96, workers=1)
    number = table["patient_id"].str[-4:].astype(int)
    table = table.assign(sex=number.map(lambda n: "MF"[n * 7 // 3 % 2]), age=20 + number * 13 % 60)
    table.to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture(scope="session")
def split(phantoms: Path, cache: Path) -> pd.DataFrame:
    return prepare_folder(phantoms, cache_dir=cache, progress=False).split


@pytest.fixture(scope="session")
def sweep(split: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep") / "sweep", split=split, skill=3.0)


@pytest.fixture
def changed(phantoms: Path, tmp_path: Path) -> Path:
    """A copy of the phantoms to plant a fault in."""
    return Path(shutil.copytree(phantoms, tmp_path / "phantoms"))


@pytest.fixture(scope="session")
def study_of(cache: Path) -> Callable[..., Study]:
    """Read a folder as the command does."""

    def read(root: Path, **more: Any) -> Study:
        data = {**DATA, "root": str(root)}
        images = read_image_table(data, cache_dir=cache, rules=fixed_rules, progress=False)
        return Study(images, table_columns(data, images), **more)

    return read


@pytest.fixture(scope="session")
def clean(study_of: Callable[..., Study], phantoms: Path, sweep: Path) -> Study:
    """The clean phantoms with their sweep."""
    return study_of(phantoms, sweep_dir=sweep)


def altered(study: Study, columns: pd.DataFrame | None = None, **cells: Any) -> Study:
    """The study with other cells in its tables, and the same pixels."""
    assert study.table is not None
    images = study.images.assign(**cells)
    found = replace(
        study, table=replace(study.table, images=images), columns=study.columns if columns is None else columns
    )
    vars(found)["copies"] = study.copies
    if "sweep" in vars(study):
        vars(found)["sweep"] = study.sweep
    return found


def edited(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """Change the table of a folder."""
    file = root / "metadata.csv"
    change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)
    return root


def stored(study: Study, cache: Path, skill: float, weights: str = "a") -> Study:
    """The study with a feature store of 20 numbers for each image, which show its class by `skill`."""
    images, rng = study.images, np.random.default_rng(0)
    classes = {name: n for n, name in enumerate(sorted(set(images["label"])))}
    vectors = rng.normal(size=(len(images), 20)).astype(np.float32)
    vectors[np.arange(len(images)), images["label"].map(classes)] += skill
    store = FeatureStore(cache / "features", {"backbone": "tiny", "weights": weights}, 20)
    store.append([feature_key(sha256, ORIGINAL) for sha256 in images["sha256"]], vectors)
    return replace(study, cache_dir=cache)
