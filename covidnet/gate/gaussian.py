"""A Gaussian with few components: the largest variances are kept, the rest are pooled."""

from __future__ import annotations

import numpy as np

from covidnet.gate.ranks import Floats


def squared_distance(away: Floats, components: Floats, variances: Floats, rest: float) -> Floats:
    """The squared Mahalanobis distance from the mean.

    Args:
        away: (N, D), minus the mean.
        components: (k, D), orthonormal.
        variances: (k,) along them.
        rest: variance along each of the other directions.

    Returns:
        (N,), at least 0.
    """
    along = away @ components.T
    left = np.maximum((away**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
    return (along**2 / variances).sum(axis=1) + left / rest
