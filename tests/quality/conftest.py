"""A gate that has learned what phantoms look like, with features that need no network."""

from __future__ import annotations

import numpy as np
import pytest

from covidnet.data.images import Film, ImageFacts
from covidnet.data.phantom import draw_film
from covidnet.data.thumbnails import thumbnail
from covidnet.labels import CLASSES
from covidnet.quality import InputGate

SIZE = 128


def as_film(grey: np.ndarray, colour: float = 0.0, view: str | None = None) -> Film:
    grey = np.ascontiguousarray(grey)
    return Film(grey, ImageFacts("", grey.shape[1], grey.shape[0], "L", grey.size), colour, view)


def features_of(thumbnails: np.ndarray) -> np.ndarray:
    """One random layer: of the size and the sign that pooled features have, and different for different pictures."""
    layer = np.random.default_rng(0).standard_normal((64, 64 * 64)).astype(np.float32) / 64
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    return np.maximum(flat / 64 @ layer.T, 0)


@pytest.fixture(scope="session")
def phantoms() -> list[np.ndarray]:
    return [draw_film(CLASSES[n % 3], n, 0, size=SIZE).image for n in range(150)]


@pytest.fixture(scope="session")
def others() -> list[np.ndarray]:
    """Phantoms of patients that no gate has seen."""
    return [draw_film(CLASSES[n % 3], n, 0, size=SIZE, seed=7).image for n in range(60)]


@pytest.fixture(scope="session")
def thumbnails(phantoms: list[np.ndarray]) -> np.ndarray:
    return np.stack([thumbnail(film) for film in phantoms])


@pytest.fixture(scope="session")
def gate(thumbnails: np.ndarray) -> InputGate:
    return InputGate.fit(thumbnails, features_of(thumbnails))
