"""The input gate of a run: what it is fitted on, and when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from covidnet.data.loading.augment import ORIGINAL
from covidnet.data.reading.thumbnails import Thumbnails
from covidnet.fold import fitting
from covidnet.fold.fitting import LEAST_IMAGES, gate_of
from covidnet.learning.module import ClassificationModule


class _Images:
    """The parts of a data module that are looked at: rows, and features that were kept."""

    def __init__(self, rows: dict[str, pd.DataFrame], kept: bool) -> None:
        self.rows = rows
        self.features = (
            {part: torch.tensor(table["number"].to_numpy(np.float32))[:, None] for part, table in rows.items()}
            if kept
            else {}
        )


def rows(first: int, count: int, copies: bool = False) -> pd.DataFrame:
    table = pd.DataFrame({"image_id": [f"f{n}" for n in range(first, first + count)], "operator": ORIGINAL})
    table["number"] = np.arange(first, first + count)
    if not copies:
        return table
    turned = table.assign(operator="rotate", number=table["number"] + 10_000)
    return pd.concat([turned, table, table.head(3)], ignore_index=True)


def test_it_is_fitted_on_training_images_without_their_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    count, found = LEAST_IMAGES + 5, {}

    def fit(thumbnails: np.ndarray, features: np.ndarray, **settings: object) -> None:
        found.update(thumbnails=thumbnails, features=features, **settings)

    monkeypatch.setattr(fitting.InputGate, "fit", fit)
    images = _Images({"train": rows(0, count, copies=True), "val": rows(count, 7)}, kept=True)
    pixels = np.arange(count + 7, dtype=np.uint8)[:, None, None] * np.ones((1, 64, 64), np.uint8)
    # In another order than the images' own.
    names = [f"f{n}" for n in range(count + 7)][::-1]
    small = Thumbnails(names, pixels[::-1], np.linspace(1, 2, count + 7)[::-1])
    gate_of(None, images, small, seed=3, progress=False)  # type: ignore[arg-type]
    assert found["features"][:, 0].tolist() == list(range(count))
    assert found["thumbnails"][:, 0, 0].tolist() == list(range(count))
    held_pixels, held_features = found["held_out"]
    assert held_features[:, 0].tolist() == list(range(count, count + 7))
    assert held_pixels[:, 0, 0].tolist() == list(range(count, count + 7))
    assert found["aspects"] == pytest.approx(np.linspace(1, 2, count + 7)[:count])
    assert found["seed"] == 3


def test_few_images_make_no_gate(caplog: pytest.LogCaptureFixture) -> None:
    images = _Images({"train": rows(0, LEAST_IMAGES - 1), "val": rows(LEAST_IMAGES, 3)}, kept=True)
    small = Thumbnails([f"f{n}" for n in range(99)], np.zeros((99, 64, 64), np.uint8), np.ones(99))
    with caplog.at_level("INFO"):
        assert gate_of(None, images, small, progress=False) is None  # type: ignore[arg-type]
    assert "too few to learn from" in caplog.text


@pytest.mark.slow
def test_kept_features_and_computed_ones_make_the_same_gate(train: Callable[..., Path]) -> None:
    settings = ("fold=0", "explain=off", "trainer.max_epochs=2")
    kept, computed = (
        ClassificationModule.from_checkpoint(folder / "checkpoints/best.ckpt").serving["gate"]
        for folder in (train(*settings), train(*settings, "features=off"))
    )
    assert set(kept) == set(computed)
    np.testing.assert_allclose(kept["features_mean"], computed["features_mean"], atol=1e-3)
    np.testing.assert_allclose(kept["films_mean"], computed["films_mean"], atol=1e-6)
