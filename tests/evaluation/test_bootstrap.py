"""The bootstrap over patients against analytic standard errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from covidnet.errors import SettingError
from covidnet.evaluation.bootstrap import area_estimate, cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.intervals import wilson
from tests.evaluation.tables import random_table


def test_a_film_of_an_unknown_patient_is_a_patient_of_its_own() -> None:
    rows = pd.DataFrame({"image_id": ["p", "b", "c", "d"], "patient_id": [np.nan, "p", "p", np.nan]})
    assert cluster_codes(rows).tolist() == [0, 1, 1, 2]


def test_patients_are_drawn_whole_and_as_many_as_there_are() -> None:
    codes = np.array([0, 0, 1, 2, 2, 2])
    weights = cluster_weights(codes, 300, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert np.array_equal(weights, cluster_weights(codes, 300, seed=1))
    assert not np.array_equal(weights, cluster_weights(codes, 300, seed=2))


def test_its_spread_is_the_cluster_robust_standard_error() -> None:
    table = random_table(900, 3, per_patient=3)
    right = (table["label"] == table["prediction"]).to_numpy(float)
    codes = cluster_codes(table)
    weights = cluster_weights(codes, 8000, seed=0)
    spread = (weights @ right / weights.sum(1)).std()
    fitted = sm.OLS(right, np.ones(len(right))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    plain = sm.OLS(right, np.ones(len(right))).fit()
    assert spread == pytest.approx(float(fitted.bse[0]), rel=0.04)
    assert spread > 1.2 * float(plain.bse[0])


def test_with_one_film_each_it_is_the_plain_bootstrap() -> None:
    right = np.random.default_rng(0).random(400) < 0.8
    weights = cluster_weights(np.arange(400), 8000, seed=0)
    spread = (weights @ right / weights.sum(1)).std()
    assert spread == pytest.approx(np.sqrt(right.mean() * (1 - right.mean()) / 400), rel=0.04)


def test_the_interval_is_the_middle_of_the_distribution() -> None:
    values = np.random.default_rng(0).normal(size=4001)
    assert percentile_interval(values) == pytest.approx(np.quantile(values, [0.025, 0.975]))
    assert percentile_interval(values, 0.5) == pytest.approx(np.quantile(values, [0.25, 0.75]))


def test_it_degenerates_without_spread_or_with_gaps() -> None:
    assert percentile_interval(np.ones(100)) is None
    assert percentile_interval(np.full(100, np.nan)) is None
    assert percentile_interval([np.nan] * 20 + list(range(80))) is None
    assert percentile_interval([np.nan] * 5 + list(range(95))) is not None


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        right = np.repeat(np.random.default_rng(seed).random(100) < 0.8, 2)
        weights = cluster_weights(np.arange(200) // 2, 400, seed=seed)
        low, high = percentile_interval(weights @ right / weights.sum(1)) or (0.0, 1.0)
        covered += low <= 0.8 <= high
    # 95% of 200 is 190, with a standard deviation of 3; the percentile interval is known to be a little short.
    assert 178 <= covered <= 198


def test_perfect_separation_falls_back_to_wilson_on_disjoint_pairs() -> None:
    positive = np.array([True] * 10 + [False] * 30)
    found = area_estimate(1.0, np.ones(100), positive)
    assert found == {"value": 1.0, "ci": list(wilson(10, 10) or ()), "method": "wilson"}
    assert area_estimate(float("nan"), np.ones(100), positive) == {"value": None, "ci": None, "method": None}


@pytest.mark.parametrize("value", [0.01, 0.36, 0.5, 0.95, 0.992])
@pytest.mark.parametrize("pairs", [1, 2, 14, 52])
def test_the_fallback_holds_its_own_area(value: float, pairs: int) -> None:
    """One patient alone has no bootstrap, and an area need be no whole number of pairs."""
    positive = np.arange(pairs * 3) < pairs
    found = area_estimate(value, np.full(100, value), positive)
    assert found["method"] == "wilson"
    low, high = found["ci"]
    assert low < value < high
    assert low == (wilson(int(value * pairs), pairs) or ())[0]


def test_no_resample_is_refused() -> None:
    with pytest.raises(SettingError, match="resamples=0"):
        cluster_weights(np.arange(3), 0)
