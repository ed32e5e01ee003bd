"""Intervals and tests against the truth of simulated studies; benchmarks/coverage.py has the fine grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import area_coverage, cells, coverage, rejections, scores_of_two, study
from covidnet.evaluation.comparison import delong, mcnemar_exact
from covidnet.evaluation.intervals import wilson

GRID = list(cells((20, 60), (3, 0), (0.0, 0.5), (0.8,)))


def test_intervals_cover_the_truth_in_about_95_of_100_studies() -> None:
    held = [coverage(*cell, studies=120) for cell in GRID]
    for name in ("accuracy", "sensitivity", "specificity", "f1"):
        shares = [one[name] for one in held]
        # F1's interval is conditional on the images of the class or predicted as it, and so somewhat conservative.
        assert 0.935 <= np.mean(shares) <= (0.995 if name == "f1" else 0.985), name
        # A cell has 120 studies, so a standard deviation of 0.02; the three classes share their studies.
        assert min(shares) >= 0.9, name


def test_auc_intervals_cover_the_truth_in_about_95_of_100_studies() -> None:
    assert 0.93 <= np.mean([area_coverage(*cell, studies=100) for cell in GRID]) <= 0.98


def test_intervals_of_seven_patients_are_conservative() -> None:
    held = [coverage(7, 3, rho, p, studies=100) for rho in (0.0, 0.8) for p in (0.6, 0.98)]
    for name in ("accuracy", "sensitivity", "specificity"):
        assert min(one[name] for one in held) >= 0.93, name


def test_equal_models_differ_significantly_in_at_most_about_5_of_100_studies() -> None:
    called = [rejections(*cell, studies=120) for cell in GRID]
    for name in ("mcnemar", "delong"):
        assert 0.015 <= np.mean([one[name] for one in called]) <= 0.07, name
        assert max(one[name] for one in called) <= 0.12, name


def test_the_simulation_shows_the_fault_of_treating_images_as_independent() -> None:
    rng = np.random.default_rng(0)
    held, by_mcnemar, by_delong = [], [], []
    for _ in range(150):
        _, truth, called = study(100, 3, 0.5, 0.8, rng)
        low, high = wilson(int((truth == called).sum()), len(truth)) or (0.0, 1.0)
        held.append(low <= 0.8 <= high)
        _, positive, scores, (a, b) = scores_of_two(100, 6, 0.5, 0.8, rng)
        by_mcnemar.append(mcnemar_exact(int((a & ~b).sum()), int((~a & b).sum())) < 0.05)
        by_delong.append(delong(*scores, positive).p < 0.05)
    assert np.mean(held) < 0.9
    assert np.mean(by_mcnemar) > 0.1
    assert np.mean(by_delong) > 0.15


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_simulated_studies_have_their_nominal_properties(rho: float) -> None:
    patient, truth, called = study(4000, 3, rho, 0.8, np.random.default_rng(1))
    right = truth == called
    assert right.mean() == pytest.approx(0.8, abs=0.01)
    per_patient = np.bincount(patient, right) / 3
    assert per_patient.var() / 0.16 == pytest.approx((1 + 2 * rho) / 3, abs=0.02)
    _, positive, scores, _ = scores_of_two(3000, 1, rho, 0.8, np.random.default_rng(2))
    area = stats.mannwhitneyu(scores[0][positive], scores[0][~positive]).statistic / positive.sum() / (~positive).sum()
    assert area == pytest.approx(0.8, abs=0.02)
