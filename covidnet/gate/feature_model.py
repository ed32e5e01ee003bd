"""Distance of an image's features from those of the training images (Lee et al. 2018, arXiv:1807.03888)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from covidnet.gate.gaussian import squared_distance
from covidnet.gate.ranks import Floats

COMPONENTS = 64
"""Principal components kept: 64 of 1,024 take 256 kB in a checkpoint."""

_POWER_STEPS = 2
_TINY = 1e-12
# Lower bound of the pooled variance, as a share of each feature's variance of 1. Less than that is rounding error.
_LEAST = 1e-4


@dataclass(frozen=True)
class FeatureModel:
    """A Gaussian with few components: the largest variances are kept, the rest are pooled.

    Args:
        mean: (D,).
        weights: (D,), factors for centred features: 1 / standard deviation, or 0 for a constant feature.
        components: (k, D), orthonormal.
        variances: (k,) along them.
        rest: variance along each of the other directions.
    """

    mean: Floats
    weights: Floats
    components: Floats
    variances: Floats
    rest: float

    @classmethod
    def fit(cls, features: Floats, seed: int = 0) -> FeatureModel:
        """Fit to the features of training images.

        Args:
            features: (N, D), at least two rows.
            seed: of the random start of the subspace iteration.
        """
        mean, spread = features.mean(axis=0), features.std(axis=0)
        varies = spread > max(1e-6 * float(spread.max()), _TINY)
        weights = np.divide(1.0, spread, out=np.zeros_like(spread), where=varies)
        centred = (features - mean) * weights
        n, dim = centred.shape
        k = min(COMPONENTS, max(1, n // 8), dim)
        # Randomised subspace iteration (Halko et al. 2011, https://doi.org/10.1137/090771806): a full decomposition of
        # 1,024 features would take longer than the rest of the fit.
        wide = min(k + 8, n, dim)
        basis = np.random.default_rng(seed).standard_normal((dim, wide), dtype=np.float32)
        for _ in range(_POWER_STEPS):
            basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
        inner = centred @ basis
        values, vectors = np.linalg.eigh((inner.T @ inner).astype(np.float64) / n)
        variances, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
        left = float((centred**2).sum(dtype=np.float64)) / n - float(variances.sum())
        rest = max(left / max(dim - k, 1), _LEAST)
        components = (basis @ vectors.astype(np.float32)).T
        return cls(mean, weights, np.ascontiguousarray(components), (variances + rest).astype(np.float32), rest)

    def distance(self, features: Floats) -> npt.NDArray[np.float64]:
        """The log of the squared Mahalanobis distance per feature: (N, D) to (N,); infinite if it is not finite."""
        with np.errstate(all="ignore"):
            away = (features - self.mean) * self.weights
            distance = squared_distance(away, self.components, self.variances, self.rest).astype(np.float64)
        distance = np.where(np.isfinite(distance), distance, np.inf)
        return np.log(np.maximum(distance / features.shape[1], _TINY))
