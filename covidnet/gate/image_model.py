"""A coarse model of upright frontal images and of an image's orientation. Closed form; needs no labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from covidnet.gate.gaussian import squared_distance
from covidnet.gate.ranks import CELLS, Floats, turned

COMPONENTS = 32
"""Principal components of `ImageModel`. Half or twice as many detect real laterals and photographs equally well."""
RIDGE = 1.0

_PIXELS = CELLS**2
_TINY = 1e-6


@dataclass(frozen=True)
class Moments:
    """Sums over images and their mirror images. Subtraction gives the sums of any subset, and so its model.

    Mirror images are included because mirroring cannot be detected reliably, so a mirrored image must not count as odd.

    Args:
        n: number of images.
        total: (256,) sum.
        square: (256, 256) sum of outer products.
    """

    n: int
    total: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]

    @classmethod
    def of(cls, ranks: Floats) -> Moments:
        """The moments of ranked thumbnails (N, 16, 16)."""
        flat = ranks.reshape(-1, _PIXELS)
        square = (flat.T @ flat).astype(np.float64)
        total = flat.sum(axis=0, dtype=np.float64)
        mirror = np.arange(_PIXELS).reshape(CELLS, CELLS)[:, ::-1].ravel()
        return cls(2 * len(flat), total + total[mirror], square + square[np.ix_(mirror, mirror)])

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.total - other.total, self.square - other.square)


@dataclass(frozen=True)
class ImageModel:
    """A Gaussian with few components for upright images, and a linear score for "upright and not inverted".

    Args:
        mean: (256,) of ranked thumbnails.
        components: (k, 256), orthonormal.
        variances: (k,) along them.
        rest: variance along each of the other directions.
        direction: (16, 16) weights of the score. The orientation of an image is the best-scoring of the eight in
            `turned`.
    """

    mean: Floats
    components: Floats
    variances: Floats
    rest: float
    direction: Floats

    @classmethod
    def fit(cls, moments: Moments) -> ImageModel:
        """Fit to the moments of the images."""
        mean = moments.total / moments.n
        second = moments.square / moments.n
        values, vectors = np.linalg.eigh(second - np.outer(mean, mean))
        # Eight images per component; n counts every image twice.
        k = min(COMPONENTS, max(1, moments.n // 16))
        values = np.maximum(values, 0.0)
        rest = max(float(values[:-k].mean()), _TINY)
        return cls(
            mean.astype(np.float32),
            vectors[:, : -k - 1 : -1].T.astype(np.float32),
            (values[: -k - 1 : -1] + rest).astype(np.float32),
            rest,
            _direction(mean, second),
        )

    def unlikeness(self, ranks: Floats) -> npt.NDArray[np.float64]:
        """Distance from the fitted images: the log of the squared Mahalanobis distance per pixel.

        Args:
            ranks: (N, 16, 16), from `covidnet.gate.ranks.ranked`.
        """
        away = ranks.reshape(-1, _PIXELS) - self.mean
        distance = squared_distance(away, self.components, self.variances, self.rest)
        return np.log(np.maximum(distance.astype(np.float64), _TINY) / _PIXELS)

    def ways(self, ranks: Floats) -> npt.NDArray[np.float64]:
        """The direction score of an image in each of its eight orientations: (N, 16, 16) to (N, 8)."""
        return np.einsum("nkij,ij->nk", turned(ranks), self.direction).astype(np.float64)


def _direction(mean: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> Floats:
    """Ridge regression of "upright and not inverted" on all images in all eight orientations.

    Inversion does not change second moments, and turning only permutes them. The means of an image and its inversion
    cancel. So nothing has to be computed on the turned images themselves.
    """
    place = np.arange(_PIXELS).reshape(CELLS, CELLS)
    turns = [np.rot90(place, k).ravel() for k in range(4)]
    pooled = sum(second[np.ix_(turn, turn)] for turn in turns) / 4
    weights = np.linalg.solve(pooled + RIDGE * np.eye(_PIXELS), mean / 8)
    return weights.reshape(CELLS, CELLS).astype(np.float32)
