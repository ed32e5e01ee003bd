"""The closed forms against the explicit fits that they replace."""

from __future__ import annotations

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from covidnet.gate.image_model import RIDGE, ImageModel, Moments
from covidnet.gate.ranks import ranked, turned


def mirrored_too(pictures: np.ndarray) -> np.ndarray:
    return np.concatenate([pictures, pictures[:, :, ::-1]])


def test_direction_is_ridge_regression_on_all_images_in_all_ways(thumbnails: np.ndarray) -> None:
    pictures = ranked(thumbnails[:60])
    ways = turned(mirrored_too(pictures)).reshape(-1, 256).astype(np.float64)
    upright = np.tile(np.eye(8)[0] - 1 / 8, len(ways) // 8)
    ridge = Ridge(alpha=RIDGE * len(ways), fit_intercept=False).fit(ways, upright)
    found = ImageModel.fit(Moments.of(pictures)).direction.ravel()
    assert np.allclose(found, ridge.coef_, atol=1e-6)


def test_unlikeness_is_the_mahalanobis_distance_of_a_gaussian_of_few_components(thumbnails: np.ndarray) -> None:
    pictures = ranked(thumbnails)
    flat = mirrored_too(pictures).reshape(-1, 256).astype(np.float64)
    k = len(thumbnails) // 8
    pca = PCA(k, svd_solver="full").fit(flat)
    values = pca.explained_variance_ * (len(flat) - 1) / len(flat)
    rest = (flat.var(axis=0).sum() - values.sum()) / (256 - k)
    covariance = pca.components_.T @ np.diag(values) @ pca.components_ + rest * np.eye(256)
    # The part within the components counts twice where it is added to the rest: take it out again.
    new = ranked(255 - thumbnails[:10]).reshape(-1, 256)
    away = new - flat.mean(axis=0)
    outside = away - away @ pca.components_.T @ pca.components_
    along = away @ pca.components_.T
    expected = (along**2 / (values + rest)).sum(axis=1) + (outside**2).sum(axis=1) / rest
    density = multivariate_normal(flat.mean(axis=0), covariance)
    by_density = -2 * density.logpdf(new) - np.linalg.slogdet(2 * np.pi * covariance)[1]
    found = ImageModel.fit(Moments.of(pictures)).unlikeness(new.reshape(-1, 16, 16))
    assert np.allclose(found, np.log(expected / 256), atol=2e-3)
    assert np.allclose(found, np.log(by_density / 256), atol=2e-3)


def test_moments_without_some_images_are_those_of_the_others(thumbnails: np.ndarray) -> None:
    pictures = ranked(thumbnails)
    left, direct = Moments.of(pictures) - Moments.of(pictures[:50]), Moments.of(pictures[50:])
    assert left.n == direct.n == 200
    assert np.allclose(left.total, direct.total, atol=1e-2)
    assert np.allclose(left.square, direct.square, atol=1e-2)


def test_a_mirrored_image_is_as_likely_as_the_image(thumbnails: np.ndarray) -> None:
    pictures = ranked(thumbnails)
    model = ImageModel.fit(Moments.of(pictures))
    assert np.allclose(model.unlikeness(pictures), model.unlikeness(pictures[:, :, ::-1]), atol=1e-3)
    assert np.allclose(model.ways(pictures)[:, 0], model.ways(pictures[:, :, ::-1])[:, 0], atol=1e-4)


def test_a_turned_image_scores_best_when_it_is_turned_back(thumbnails: np.ndarray) -> None:
    model = ImageModel.fit(Moments.of(ranked(thumbnails[:100])))
    for turns in range(4):
        for inverted in (False, True):
            images = np.rot90(thumbnails[100:], -turns, axes=(1, 2))
            best = model.ways(ranked(255 - images if inverted else images)).argmax(axis=1)
            assert (best == turns + 4 * inverted).mean() > 0.9
