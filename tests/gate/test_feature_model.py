"""Distances of features against SciPy's Mahalanobis distance."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import mahalanobis

from covidnet.gate.feature_model import COMPONENTS, FeatureModel


def correlated(n: int, dim: int, rank: int, noise: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, dim))
    return (mixed + noise * rng.standard_normal((n, dim)) + 5).astype(np.float32)


def test_distance_is_mahalanobis_where_all_components_are_kept() -> None:
    features = correlated(300, 8, 8)
    new = features[:20] + 1
    inverse = np.linalg.inv(np.cov(features.T.astype(np.float64), bias=True))
    expected = [np.log(mahalanobis(one, features.mean(axis=0), inverse) ** 2 / 8) for one in new]
    assert np.allclose(FeatureModel.fit(features).distance(new), expected, atol=1e-2)


def test_large_components_are_those_of_the_whole_decomposition() -> None:
    features = correlated(400, 200, 10)
    model = FeatureModel.fit(features)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(scaled.T.astype(np.float64), bias=True))
    top, found = vectors[:, -10:], model.components[:10].T
    assert np.allclose(np.linalg.svd(top.T @ found)[1], 1, atol=1e-3)
    assert np.allclose(model.variances[:10], values[::-1][:10] + model.rest, rtol=1e-3)
    assert np.allclose(model.components @ model.components.T, np.eye(len(model.components)), atol=1e-4)
    assert len(model.components) == 50 <= COMPONENTS


def test_far_features_and_those_off_the_plane_are_far() -> None:
    features = correlated(400, 100, 5, noise=0.01)
    model = FeatureModel.fit(features)
    usual = np.quantile(model.distance(features), 0.99)
    away = features[:5] + np.random.default_rng(1).standard_normal((5, 100)).astype(np.float32)
    assert (model.distance(away) > usual + 1).all()


def test_constant_features_say_nothing_and_infinite_ones_are_infinitely_far() -> None:
    features = np.concatenate([correlated(100, 20, 5), np.full((100, 4), 3.0, np.float32)], axis=1)
    model = FeatureModel.fit(features)
    other = features[:1].copy()
    other[:, -4:] = 900
    assert np.isfinite(model.distance(features)).all()
    assert np.allclose(model.distance(other), model.distance(features[:1]))
    other[0, 0] = np.nan
    assert model.distance(other)[0] == np.inf


def test_the_same_seed_gives_the_same_model() -> None:
    features = correlated(200, 300, 40)
    first, second = FeatureModel.fit(features, 3), FeatureModel.fit(features, 3)
    assert np.array_equal(first.components, second.components)
    assert np.array_equal(first.variances, second.variances)
