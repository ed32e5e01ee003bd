"""A gate fitted to phantoms, with features that need no network."""

from __future__ import annotations

import numpy as np
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.images import ImageFacts, Radiograph
from covidnet.data.reading.thumbnails import thumbnail
from covidnet.gate import InputGate

SIZE = 128


def as_radiograph(grey: np.ndarray, colour: float = 0.0, view: str | None = None) -> Radiograph:
    grey = np.ascontiguousarray(grey)
    return Radiograph(grey, ImageFacts("", grey.shape[1], grey.shape[0], "L", grey.size), colour, view)


def features_of(thumbnails: np.ndarray) -> np.ndarray:
    """One random layer: of the size and the sign that pooled features have, and different for different pictures."""
    layer = np.random.default_rng(0).standard_normal((64, 64 * 64)).astype(np.float32) / 64
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    return np.maximum(flat / 64 @ layer.T, 0)


@pytest.fixture(scope="session")
def phantoms() -> list[np.ndarray]:
    return [draw_image(CLASSES[n % 3], n, 0, size=SIZE).image for n in range(150)]


@pytest.fixture(scope="session")
def others() -> list[np.ndarray]:
    """Phantoms of patients that no gate has seen."""
    return [draw_image(CLASSES[n % 3], n, 0, size=SIZE, seed=7).image for n in range(60)]


@pytest.fixture(scope="session")
def thumbnails(phantoms: list[np.ndarray]) -> np.ndarray:
    return np.stack([thumbnail(image) for image in phantoms])


@pytest.fixture(scope="session")
def gate(thumbnails: np.ndarray) -> InputGate:
    return InputGate.fit(thumbnails, features_of(thumbnails))
