"""Calibration against torchmetrics, scikit-learn and a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss
from torchmetrics.classification import MulticlassCalibrationError

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.evaluation.calibration import brier_score, calibration, expected_calibration_error, reliability
from covidnet.evaluation.intervals import wilson
from covidnet.evaluation.predictions import predictions_table
from tests.evaluation.tables import random_table

COLUMNS = ["p_covid19", "p_normal", "p_pneumonia"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [5, 15])
def test_the_error_equals_torchmetrics(seed: int, bins: int) -> None:
    table = random_table(200, seed)
    metric = MulticlassCalibrationError(num_classes=3, n_bins=bins, norm="l1")
    truth = torch.tensor([CLASSES.index(label) for label in table["label"]])
    expected = metric(torch.tensor(table[COLUMNS].to_numpy()), truth)
    assert expected_calibration_error(table, bins) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_brier_score_equals_scikit_learn(seed: int) -> None:
    table = random_table(200, seed)
    scores = table[COLUMNS].to_numpy(np.float64)
    scores = scores / scores.sum(1, keepdims=True)
    expected = brier_score_loss(table["label"], scores, labels=list(CLASSES), scale_by_half=False)
    assert brier_score(table) == pytest.approx(expected, abs=1e-6)


def test_manual_arithmetic_on_four_images() -> None:
    table = predictions_table(
        image_id=list("abcd"), path=list("abcd"), patient_id=list("abcd"),
        label=["Normal", "Normal", "COVID-19", "Normal"], split="test", fold=0,
        probabilities=[[0.125, 0.75, 0.125], [0.125, 0.75, 0.125], [0.125, 0.75, 0.125], [0.5, 0.25, 0.25]],
    )  # fmt: skip
    found = {round(one.high, 1): one for one in reliability(table, 5) if one.n}
    assert set(found) == {0.6, 0.8}
    assert found[0.8].n == 3
    assert found[0.8].accuracy == pytest.approx(2 / 3)
    assert found[0.8].confidence == pytest.approx(0.75)
    assert found[0.8].ci == pytest.approx(wilson(2, 3))
    assert found[0.6].accuracy == 0.0
    assert expected_calibration_error(table, 5) == pytest.approx((3 * (0.75 - 2 / 3) + 0.5) / 4)


def test_an_empty_table() -> None:
    empty = calibration(random_table(10).iloc[:0])
    assert empty.ece is empty.brier is None
    assert all(one.n == 0 and one.accuracy is None and one.ci is None for one in empty.bins)
    with pytest.raises(SettingError, match="bins=0"):
        reliability(random_table(10), 0)
