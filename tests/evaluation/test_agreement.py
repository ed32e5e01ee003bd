"""Cohen's kappa against statsmodels and scikit-learn; rates of readers against scikit-learn."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, recall_score
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from covidnet.evaluation.agreement import Reading, agreements, cohen_kappa, reader_rates

CLASSES = ("COVID-19", "Normal", "Pneumonia")


@pytest.mark.parametrize("seed", range(5))
def test_kappa_and_its_interval_are_those_of_statsmodels(seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 30, (3, 3)) + 20 * np.eye(3, dtype=int)
    wanted = cohens_kappa(table)
    kappa, low, high = cohen_kappa(table)
    assert kappa == pytest.approx(wanted.kappa, abs=1e-12)
    assert (low, high) == pytest.approx((wanted.kappa_low, wanted.kappa_upp), abs=1e-9)


@pytest.mark.parametrize("table", [np.zeros((2, 2)), [[7, 0], [0, 0]]])
def test_kappa_is_unknown_without_images_and_without_a_second_class(table: np.ndarray) -> None:
    assert all(isnan(value) for value in cohen_kappa(table))


def drawn(images: int = 60) -> list[Reading]:
    rng = np.random.default_rng(0)
    found = []
    for image in range(images):
        label = CLASSES[rng.integers(3)]
        prediction = label if rng.random() < 0.7 else CLASSES[rng.integers(3)]
        for reader in ("Ada", "Ben"):
            if reader == "Ben" and image % 3 == 0:
                continue
            verdict = label if rng.random() < 0.8 else CLASSES[rng.integers(3)]
            found.append(Reading(reader, str(image), verdict, prediction, label if image % 5 else None))
    return found


def test_raters_are_compared_in_pairs_on_the_images_that_both_rated() -> None:
    readings = drawn()
    found = {(row["first"], row["second"]): row for row in agreements(readings, CLASSES)}
    assert list(found) == [("Ada", "Ben"), ("Ada", "model"), ("Ben", "model")]
    of = {name: {one.image: one.verdict for one in readings if one.reader == name} for name in ("Ada", "Ben")}
    of["model"] = {one.image: one.prediction for one in readings}
    for (first, second), row in found.items():
        common = sorted(of[first].keys() & of[second].keys())
        a, b = [of[first][image] for image in common], [of[second][image] for image in common]
        assert row["images"] == len(common)
        assert row["agreement"] == pytest.approx(np.mean(np.array(a) == np.array(b)))
        assert row["kappa"] == pytest.approx(cohen_kappa_score(a, b))
        assert row["low"] < row["kappa"] < row["high"]


def test_rates_of_reader_model_and_either_are_those_of_scikit_learn() -> None:
    readings = drawn()
    rows = {(row["reader"], row["class"], row["rater"]): row for row in reader_rates(readings, CLASSES)}
    assert len(rows) == 2 * 3 * 3
    known = [one for one in readings if one.reader == "Ada" and one.label is not None]
    for name in CLASSES:
        truth = [one.label == name for one in known]
        said = {"reader": [one.verdict == name for one in known], "model": [one.prediction == name for one in known]}
        said["either"] = list(np.logical_or(said["reader"], said["model"]))
        for rater, calls in said.items():
            row = rows["Ada", name, rater]
            assert row["sensitivity"] == pytest.approx(recall_score(truth, calls))
            assert row["specificity"] == pytest.approx(recall_score(truth, calls, pos_label=False))
            hits = sum(1 for true, call in zip(truth, calls, strict=True) if true and call)
            wanted = proportion_confint(hits, sum(truth), method="wilson")
            assert (row["sensitivity_low"], row["sensitivity_high"]) == pytest.approx(wanted)


def test_without_labels_the_rates_are_unknown_not_zero() -> None:
    (row, *_) = reader_rates([Reading("Ada", "1", "Normal", "Normal")], CLASSES)
    assert row["positives"] == 0
    assert isnan(row["sensitivity"])
    assert isnan(row["specificity_low"])
