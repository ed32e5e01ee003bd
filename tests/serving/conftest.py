"""Small trained models for the serving tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.phantoms.phantom import draw_image

IMAGES = 50


@pytest.fixture(scope="session")
def sweep(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two folds with the same frozen backbone."""
    folder = tmp_path_factory.mktemp("sweep")
    for fold in (0, 1):
        shutil.move(trained(f"fold={fold}", "explain=off", "trainer.max_epochs=2"), folder / f"fold={fold}")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty phantoms like the training images, from other patients."""
    root = tmp_path_factory.mktemp("images")
    for n in range(IMAGES):
        image = draw_image(CLASSES[n % 3], 1000 + n, 0, size=96)
        Image.fromarray(image.image).save(root / f"image-{n:02d}.png")
    return root


@pytest.fixture(scope="session")
def squares(images: Path) -> np.ndarray:
    """Six of them, (6, 64, 64), as model input."""
    from covidnet.data.loading.transforms import SquareFit
    from covidnet.data.reading.images import read_image

    return np.stack([SquareFit(64)(read_image(path)) for path in sorted(images.iterdir())[:6]])
