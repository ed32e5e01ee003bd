"""Predictive values by counting, thresholds from validation alone, sample sizes against statsmodels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_score
from statsmodels.stats.proportion import proportion_confint

from covidnet.auditing.clinical import clinical, predictive_values, sample_size, threshold_for
from covidnet.auditing.study import Study
from tests.sweeps import split_table, write_sweep


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("clinical") / "sweep"
    return Study(None, sweep_dir=write_sweep(folder, split=split_table(per_fold=24), skill=2.5))


def test_predictive_values_are_those_of_a_table_of_counts() -> None:
    truth = np.repeat([1, 0], [200, 800])
    called = np.concatenate([np.repeat([1, 0], [180, 20]), np.repeat([1, 0], [40, 760])])
    ppv, npv = predictive_values(180 / 200, 760 / 800, 0.2)
    assert ppv == pytest.approx(precision_score(truth, called))
    assert npv == pytest.approx(precision_score(truth, called, pos_label=0))
    assert np.isnan(predictive_values(0.0, 1.0, 0.1)[0])


def test_rates_at_the_studys_own_prevalence_are_its_precision(study: Study) -> None:
    table = pd.concat([run.rows("test") for run in study.sweep.runs])
    own = (table["label"] == "COVID-19").mean()
    values = clinical(Study(None, sweep_dir=study.sweep_dir, prevalences=[own])).tables["predictive_values"]
    expected = precision_score(table["label"] == "COVID-19", table["prediction"] == "COVID-19")
    row = values.iloc[0]
    assert row["ppv"] == pytest.approx(expected)
    assert row["ppv_low"] < row["ppv"] < row["ppv_high"]


def test_the_rarest_prevalence_headlines_and_nothing_is_above_information(study: Study) -> None:
    answer = clinical(study)
    assert {one.level for one in answer.findings} == {"information"}
    values = answer.tables["predictive_values"]
    assert values["prevalence"].tolist() == [0.01, 0.05, 0.2]
    assert values["ppv"].is_monotonic_increasing
    assert answer.findings[0].number == values["ppv"].iloc[0]
    benefit = answer.tables["net_benefit"]
    row = benefit[(benefit["prevalence"] == 0.2) & (benefit["threshold"] == 0.1)].iloc[0]
    assert row["treat_all"] == pytest.approx(0.2 - 0.8 / 9)
    assert row["model"] > row["treat_all"]


def test_thresholds_come_from_validation_alone(study: Study) -> None:
    points = clinical(study).tables["operating_points"]
    for run, threshold in zip(study.sweep.runs, points["threshold"], strict=True):
        val = run.rows("val")
        scores = val.loc[val["label"] == "COVID-19", "p_covid19"]
        assert (scores >= threshold).mean() >= 0.95
        assert (scores > threshold).mean() < 0.95


def test_a_threshold_that_does_not_hold_weakens_a_claim(tmp_path: Path) -> None:
    def drop(table: pd.DataFrame) -> pd.DataFrame:
        shifted = (table["split"] == "test") & (table["label"] == "COVID-19") & (np.arange(len(table)) % 3 == 0)
        table.loc[shifted, ["p_covid19", "p_normal", "p_pneumonia", "prediction"]] = [0.0, 1.0, 0.0, "Normal"]
        return table

    folder = write_sweep(tmp_path / "sweep", split=split_table(per_fold=24), skill=4.0, change=drop)
    (found,) = [one for one in clinical(Study(None, sweep_dir=folder)).findings if one.level == "weakens"]
    assert found.interval[1] < 0.93


def test_few_validation_images_are_said(clean: Study) -> None:
    assert any(
        "Not possible: a threshold for a sensitivity of 0.95; fold 0 has 3 validation images of COVID-19, 20 are"
        in note
        for note in clinical(clean).notes
    )


@pytest.mark.parametrize(
    ("scores", "sensitivity", "threshold"), [([3, 1, 2], 1.0, 1), (range(100), 0.95, 5), ([7], 0.5, 7)]
)
def test_thresholds(scores: list[float], sensitivity: float, threshold: float) -> None:
    assert threshold_for(list(scores), sensitivity) == threshold


@pytest.mark.parametrize(("rate", "half"), [(0.5, 0.05), (0.9, 0.05), (0.98, 0.02)])
def test_a_sample_size_gives_the_width(rate: float, half: float) -> None:
    n = sample_size(rate, half)
    low, high = proportion_confint(round(rate * n), n, method="wilson")
    assert high - low <= 2 * half
    low, high = proportion_confint(round(rate * (n - 1)), n - 1, method="wilson")
    assert high - low > 2 * half
