"""Small trained models for the tests of what is done with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covidnet.data.phantom import draw_film
from covidnet.labels import CLASSES

FILMS = 50


@pytest.fixture(scope="session")
def sweep(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two folds, whose frozen backbone is one and the same."""
    folder = tmp_path_factory.mktemp("sweep")
    for fold in (0, 1):
        shutil.move(train(f"fold={fold}", "explain=off", "trainer.max_epochs=2"), folder / f"fold={fold}")
    return folder


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty phantoms like those that the models were trained on, of other patients."""
    root = tmp_path_factory.mktemp("films")
    for n in range(FILMS):
        film = draw_film(CLASSES[n % 3], 1000 + n, 0, size=96)
        Image.fromarray(film.image).save(root / f"film-{n:02d}.png")
    return root


@pytest.fixture(scope="session")
def squares(films: Path) -> np.ndarray:
    """Six of them, (6, 64, 64), as the models take them."""
    from covidnet.data.images import read_image
    from covidnet.data.transforms import SquareFit

    return np.stack([SquareFit(64)(read_image(path)) for path in sorted(films.iterdir())[:6]])
