"""The bootstrap over patients against analytic standard errors."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from covidnet.base.errors import SettingError
from covidnet.evaluation.bootstrap import RESAMPLES, cluster_codes, cluster_weights, percentile_interval, resampled_sums
from covidnet.launch.command import config_dir
from tests.evaluation.tables import random_table


def test_an_image_without_patient_id_is_its_own_patient() -> None:
    rows = pd.DataFrame({"image_id": ["p", "b", "c", "d"], "patient_id": [np.nan, "p", "p", np.nan]})
    assert cluster_codes(rows).tolist() == [0, 1, 1, 2]


def test_whole_patients_are_resampled() -> None:
    codes = np.array([0, 0, 1, 2, 2, 2])
    weights = cluster_weights(codes, 300, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    assert np.array_equal(weights, cluster_weights(codes, 300, seed=1))
    assert not np.array_equal(weights, cluster_weights(codes, 300, seed=2))


@pytest.mark.parametrize("block", [1, 7, 2**21])
def test_sums_are_those_of_the_weights_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covidnet.evaluation.bootstrap._BLOCK", block)
    table = random_table(60, 3, per_patient=3)
    codes, values = cluster_codes(table), np.random.default_rng(0).normal(size=(len(table), 4))
    assert resampled_sums(codes, values, 50, seed=3) == pytest.approx(cluster_weights(codes, 50, seed=3) @ values)
    assert resampled_sums(codes[:0], values[:0], 5).tolist() == [[0.0] * 4] * 5
    with pytest.raises(SettingError, match="resamples=0"):
        resampled_sums(codes, values, 0)


def test_the_memory_of_sums_does_not_grow_with_the_resamples() -> None:
    codes, values = np.arange(20_000) // 2, np.ones((20_000, 3))
    peaks = []
    for resamples in (250, 1000):
        tracemalloc.start()
        resampled_sums(codes, values, resamples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 60e6


def test_its_spread_equals_the_cluster_robust_standard_error() -> None:
    table = random_table(900, 3, per_patient=3)
    right = (table["label"] == table["prediction"]).to_numpy(float)
    codes = cluster_codes(table)
    weights = cluster_weights(codes, 8000, seed=0)
    spread = (weights @ right / weights.sum(1)).std()
    fitted = sm.OLS(right, np.ones(len(right))).fit(cov_type="cluster", cov_kwds={"groups": codes})
    plain = sm.OLS(right, np.ones(len(right))).fit()
    assert spread == pytest.approx(float(fitted.bse[0]), rel=0.04)
    assert spread > 1.2 * float(plain.bse[0])


def test_with_one_image_each_it_is_the_plain_bootstrap() -> None:
    right = np.random.default_rng(0).random(400) < 0.8
    weights = cluster_weights(np.arange(400), 8000, seed=0)
    spread = (weights @ right / weights.sum(1)).std()
    assert spread == pytest.approx(np.sqrt(right.mean() * (1 - right.mean()) / 400), rel=0.04)


def test_the_interval_is_the_middle_of_the_distribution() -> None:
    values = np.random.default_rng(0).normal(size=4001)
    many = 10**9
    assert percentile_interval(values, many) == pytest.approx(np.quantile(values, [0.025, 0.975]))
    assert percentile_interval(values, many, 0.5) == pytest.approx(np.quantile(values, [0.25, 0.75]))


def test_with_few_patients_it_is_as_wide_as_the_t_interval_of_a_normal_mean() -> None:
    """The bootstrap standard deviation of a mean is its standard error times sqrt((n - 1) / n)."""
    sample = np.random.default_rng(0).normal(size=8)
    drawn = sample.mean() + sample.std() / np.sqrt(8) * np.random.default_rng(1).normal(size=400_000)
    expected = stats.t.interval(0.95, 7, sample.mean(), stats.sem(sample))
    assert percentile_interval(drawn, 8) == pytest.approx(expected, abs=0.02)


def test_it_degenerates_without_spread_or_with_gaps() -> None:
    assert percentile_interval(np.ones(100), 50) is None
    assert percentile_interval(np.full(100, np.nan), 50) is None
    assert percentile_interval([np.nan] * 20 + list(range(80)), 50) is None
    assert percentile_interval([np.nan] * 5 + list(range(95)), 50) is not None
    assert percentile_interval(range(100), 1) is None


def test_it_has_its_nominal_coverage() -> None:
    covered = 0
    for seed in range(200):
        right = np.repeat(np.random.default_rng(seed).random(100) < 0.8, 2)
        weights = cluster_weights(np.arange(200) // 2, 400, seed=seed)
        low, high = percentile_interval(weights @ right / weights.sum(1), 100) or (0.0, 1.0)
        covered += low <= 0.8 <= high
    # 95% of 200 is 190, with a standard deviation of 3.
    assert 180 <= covered <= 198


def test_zero_resamples_raise() -> None:
    with pytest.raises(SettingError, match="resamples=0"):
        cluster_weights(np.arange(3), 0)


def test_commands_take_the_default_number_of_resamples() -> None:
    for command in ("crossval", "evaluate"):
        text = (config_dir() / f"{command}.yaml").read_text()
        assert re.findall(r"^resamples: (\d+)$", text, re.MULTILINE) == [str(RESAMPLES)]
