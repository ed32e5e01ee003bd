"""Areas and curves against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights
from covidnet.evaluation.intervals import wilson
from covidnet.evaluation.ranking import (
    GRID,
    area_estimate,
    area_interval,
    area_parts,
    average_precision,
    class_curves,
    precision_recall_points,
    roc_auc,
    roc_points,
)
from covidnet.evaluation.results import to_json
from tests.evaluation.tables import random_table


def height(fpr: np.ndarray, tpr: np.ndarray, rate: float) -> float:
    """A ROC curve at one rate: the highest of its points there, else on the line between its neighbours."""
    at = np.isclose(fpr, rate, atol=1e-12)
    if at.any():
        return float(tpr[at].max())
    before, after = np.flatnonzero(fpr < rate)[-1], np.flatnonzero(fpr > rate)[0]
    share = (rate - fpr[before]) / (fpr[after] - fpr[before])
    return float(tpr[before] + share * (tpr[after] - tpr[before]))


def case(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(80) < 0.4
    scores = rng.normal(size=80) + positive
    return (np.round(scores) if ties else scores), positive


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_scikit_learn(seed: int, ties: bool) -> None:
    scores, positive = case(seed, ties)
    assert roc_auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_weights_equal_scikit_learn_sample_weights(ties: bool) -> None:
    scores, positive = case(9, ties)
    weights = np.random.default_rng(1).integers(0, 4, size=(6, len(scores)))
    areas, means = roc_auc(scores, positive, weights), average_precision(scores, positive, weights)
    assert areas.shape == means.shape == (6,)
    for row, area, mean in zip(weights, areas, means, strict=True):
        assert area == pytest.approx(roc_auc_score(positive, scores, sample_weight=row), abs=1e-12)
        assert mean == pytest.approx(average_precision_score(positive, scores, sample_weight=row), abs=1e-12)


def test_without_positives_or_negatives_there_is_no_area() -> None:
    assert np.isnan(roc_auc([0.1, 0.2], [True, True]))
    assert np.isnan(roc_auc([0.1, 0.2], [False, False]))
    assert np.isnan(roc_auc([], []))


@pytest.mark.parametrize("ties", [False, True])
def test_curves_equal_scikit_learn(ties: bool) -> None:
    scores, positive = case(3, ties)
    fpr, tpr = roc_points(scores, positive)
    expected = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])
    recall, precision = precision_recall_points(scores, positive)
    p, r, _ = precision_recall_curve(positive, scores)
    np.testing.assert_allclose(precision, p[:-1][::-1])
    np.testing.assert_allclose(recall, r[:-1][::-1])


def test_class_curves_lie_on_scikit_learns_and_in_their_bands() -> None:
    table = random_table(300, 4, per_patient=2)
    found = class_curves(table, cluster_weights(cluster_codes(table), 200, 0))
    assert list(found) == list(CLASSES)
    for label, column in zip(CLASSES, ("p_covid19", "p_normal", "p_pneumonia"), strict=True):
        positive = (table["label"] == label).to_numpy()
        roc, pr = found[label].roc, found[label].pr
        fpr, tpr, _ = roc_curve(positive, table[column], drop_intermediate=False)
        np.testing.assert_allclose(roc.tpr, [height(fpr, tpr, rate) for rate in roc.fpr], atol=1e-9)
        assert all(low - 0.02 <= mid <= high + 0.02 for low, mid, high in zip(roc.low, roc.tpr, roc.high, strict=True))
        assert roc.auc.value == pytest.approx(roc_auc_score(positive, table[column]), abs=1e-12)
        assert roc.auc.ci[0] < roc.auc.value < roc.auc.ci[1]
        p, r, _ = precision_recall_curve(positive, table[column])
        for recall, precision in zip(pr.recall[1:], pr.precision[1:], strict=True):
            # The highest threshold that reaches the recall.
            reached = r[:-1] >= recall - 1e-9
            assert precision == pytest.approx(p[:-1][reached][-1], abs=1e-9)
        assert pr.average_precision.value == pytest.approx(average_precision_score(positive, table[column]), abs=1e-12)
        assert pr.prevalence == pytest.approx(positive.mean())
    assert len(GRID) == len(found["Normal"].roc.fpr)


def test_bands_equal_those_of_resampled_images() -> None:
    """Images are repeated as often as they were drawn; some resamples lack the image with the highest score."""
    table = random_table(150, 1)
    weights = cluster_weights(cluster_codes(table), 100, 0)
    found = class_curves(table, weights)["Normal"]
    positive, scores = (table["label"] == "Normal").to_numpy(), table["p_normal"].to_numpy()
    roc, pr = [], []
    for row in weights:
        truth, given = np.repeat(positive, row), np.repeat(scores, row)
        fpr, tpr, _ = roc_curve(truth, given, drop_intermediate=False)
        roc.append([height(fpr, tpr, rate) for rate in GRID])
        p, r, _ = precision_recall_curve(truth, given)
        pr.append([p[:-1][r[:-1] >= recall - 1e-9][-1] for recall in GRID])
    assert (weights[:, scores.argmax()] == 0).any()
    for curve, drawn in ((found.roc, roc), (found.pr, pr)):
        low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
        np.testing.assert_allclose(curve.low, low, atol=1e-9)
        np.testing.assert_allclose(curve.high, high, atol=1e-9)


def test_an_absent_class_has_no_curve() -> None:
    table = random_table(60, 1, labels=("COVID-19", "Normal"))
    assert list(class_curves(table, cluster_weights(cluster_codes(table), 50, 0))) == ["COVID-19", "Normal"]


def test_perfect_separation_falls_back_to_wilson_on_pairs_of_different_patients() -> None:
    positive = np.array([True] * 10 + [False] * 30)
    alone = area_estimate(positive * 1.0, positive, np.arange(40))
    assert to_json(alone) == {"value": 1.0, "ci": list(wilson(10, 10) or ()), "method": "wilson"}
    pairs = area_estimate(positive * 1.0, positive, np.arange(40) // 2)
    assert pairs.ci == wilson(5, 5)
    both = area_estimate(positive * 1.0, positive, np.arange(40) % 10)
    assert both.ci == wilson(5, 5)
    one = area_estimate(positive * 1.0, positive, np.zeros(40))
    assert to_json(one) == {"value": 1.0, "ci": [0.0, 1.0], "method": "wilson"}
    assert to_json(area_estimate([], [], [])) == {"value": None, "ci": None, "method": None}


def test_a_single_positive_patient_has_a_wide_interval() -> None:
    scores, positive = case(5, False)
    area = area_estimate(scores, positive, np.where(positive, 0, np.arange(len(scores)) + 1))
    assert area.method == "wilson"
    assert area.ci[0] < area.value < area.ci[1]
    assert area.ci[1] - area.ci[0] > 0.7


@pytest.mark.parametrize("per_patient", [1, 4])
def test_the_error_of_an_area_equals_a_bootstrap_over_patients(per_patient: int) -> None:
    """Each patient has images of one class, except the last tenth, who have images of two."""
    rng = np.random.default_rng(per_patient)
    patients = np.repeat(np.arange(150), per_patient)
    positive = (patients % 3 == 0) ^ ((patients >= 135) & (np.arange(len(patients)) % 2 == 0))
    scores = positive + rng.normal(size=150)[patients] + 0.5 * rng.normal(size=len(patients))
    parts = area_parts(np.stack([scores, -scores]), positive, patients)
    assert parts is not None
    assert parts.areas == pytest.approx([roc_auc_score(positive, scores), 1 - roc_auc_score(positive, scores)])
    drawn = roc_auc(scores, positive, cluster_weights(patients, 4000, 0))
    assert parts.error([1.0, 0.0])[0] == pytest.approx(drawn.std(), rel=0.06)
    # The second score is the negated first: the two errors cancel or add.
    assert parts.error([1.0, 1.0])[0] == pytest.approx(0.0, abs=1e-12)
    assert parts.error([1.0, -1.0])[0] == pytest.approx(2 * parts.error([1.0, 0.0])[0])


def test_the_area_s_interval_is_symmetric_on_the_logit_scale() -> None:
    low, high = area_interval(0.9, 0.03, np.inf) or (0.0, 0.0)
    half = 1.959963984540054 * 0.03 / 0.09
    assert logit([low, high]) == pytest.approx([logit(0.9) - half, logit(0.9) + half])
    assert area_interval(1.0, 0.1, np.inf) is None
    assert area_interval(0.9, 0.0, np.inf) is None
