"""wandb in a home of its own, without a key, and without processes that outlive a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.metrics import run_metrics
from covidnet.evaluation.predictions import predictions_table
from covidnet.evaluation.results import to_json


@pytest.fixture(autouse=True)
def wandb_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without a key; after the test wandb's process is gone."""
    import os

    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, folder in (("CACHE", "cache"), ("DATA", "data"), ("CONFIG", "config")):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / folder))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    _forget()
    yield home
    _forget()


def _forget() -> None:
    """End wandb's process and its memory of the environment and of keys."""
    import wandb
    from wandb.sdk.lib import wbauth

    wandb.teardown()
    wbauth.unauthenticate_session(update_settings=False)


@pytest.fixture(scope="session")
def predictions() -> pd.DataFrame:
    """A fold's predictions: 12 images of each split, some of them called wrongly."""
    random = np.random.default_rng(0)
    tables = []
    for split in ("val", "test", "unseen"):
        labels = [CLASSES[at % 3] for at in range(12)]
        scores = random.dirichlet([1.0] * 3, 12) * 0.5 + 0.5 * np.eye(3)[[CLASSES.index(label) for label in labels]]
        tables.append(
            predictions_table(
                image_id=[f"{split}{at}" for at in range(12)],
                path=[f"images/{split}{at}.png" for at in range(12)],
                patient_id=[None if at % 4 == 0 else f"p{at}" for at in range(12)],
                label=labels,
                split=split,
                fold=3,
                probabilities=scores / scores.sum(1, keepdims=True),
            )
        )
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="session")
def metrics(predictions: pd.DataFrame) -> dict[str, Any]:
    """The content of metrics.json."""
    return {"fold": 3, "seed": 0, "splits": to_json(run_metrics(predictions)), "seconds": {"fit": 1.5}}


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """A panel."""
    from PIL import Image

    file = tmp_path / "unseen-Normal.png"
    Image.new("RGB", (6, 4), (200, 10, 10)).save(file)
    return {"panels/unseen-Normal": file}


@pytest.fixture
def settings() -> dict[str, Any]:
    """Settings of a run, with W&B alone."""
    from omegaconf import OmegaConf

    from covidnet.launch.command import compose

    found: Any = OmegaConf.to_container(compose(["fold=3", "logger=wandb"]), resolve=True)
    del found["logger"]["csv"]
    return found
