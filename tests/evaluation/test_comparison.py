"""Tests of two methods against statsmodels, scipy and arithmetic from the definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.evaluation.comparison import (
    adjust,
    compare_tables,
    corrected_resampled_t,
    delong,
    holm,
    mcnemar_by_patient,
    mcnemar_exact,
)
from covidnet.evaluation.results import to_json
from tests.evaluation.tables import random_table


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 9), (9, 1), (5, 5), (0, 12), (31, 64)])
def test_mcnemar_equals_statsmodels(only_a: int, only_b: int) -> None:
    expected = 1.0 if only_a + only_b == 0 else mcnemar([[7, only_a], [only_b, 3]], exact=True).pvalue
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected)


def test_a_negative_count_raises() -> None:
    with pytest.raises(SettingError, match="counts of at least 0"):
        mcnemar_exact(-1, 2)


def test_mcnemar_by_patient_enumerates_all_exchanges() -> None:
    """Against all 2^12 exchanges of the two methods' predictions, patient by patient."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        patients = rng.integers(0, 12, 40)
        a, b = rng.random(40) < 0.85, rng.random(40) < 0.6
        lead = np.bincount(patients, a.astype(int) - b, minlength=12)
        sums = np.array(list(itertools.product((-1, 1), repeat=12))) @ lead
        expected = (np.abs(sums) >= abs(lead.sum())).mean()
        assert mcnemar_by_patient(a, b, patients) == pytest.approx(expected)
        assert mcnemar_by_patient(b, a, patients) == pytest.approx(expected)


def test_with_one_image_per_patient_it_is_mcnemar_exact() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(200) < 0.9, rng.random(200) < 0.8
    expected = mcnemar(pd.crosstab(a, b), exact=True).pvalue
    assert mcnemar_by_patient(a, b, rng.permutation(200)) == pytest.approx(expected)
    assert mcnemar_by_patient([], [], []) == 1.0
    with pytest.raises(DataError, match="one of each per image"):
        mcnemar_by_patient([True], [True], [0, 1])


def test_copies_of_every_image_do_not_change_p() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(80) < 0.9, rng.random(80) < 0.7
    once = mcnemar_by_patient(a, b, np.arange(80))
    assert mcnemar_by_patient(np.repeat(a, 5), np.repeat(b, 5), np.repeat(np.arange(80), 5)) == pytest.approx(once)
    scores, positive = rng.normal(size=(2, 80)), np.arange(80) < 30
    plain = delong(*scores, positive)
    again = delong(*np.repeat(scores, 5, axis=1), np.repeat(positive, 5), np.repeat(np.arange(80), 5))
    assert again.z == pytest.approx(plain.z)
    # With clusters the reference is Student's t.
    assert plain.p < again.p < plain.p + 0.02


def test_thousands_of_patients() -> None:
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(20_000), 3)
    a, b = rng.random((2, 60_000)) < 0.9
    lead = np.bincount(patients, a.astype(float) - b)
    # With so many patients, Yang, Sun and Hardin's chi-squared distribution holds.
    expected = stats.chi2.sf(lead.sum() ** 2 / (lead**2).sum(), 1)
    assert mcnemar_by_patient(a, b, patients) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_the_t_test_is_scipys_with_corrected_variance(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.02, 0.03, 10)
    result = corrected_resampled_t(differences, 1 / 9)
    plain = stats.ttest_1samp(differences, 0.0)
    assert result is not None
    # Only the variance differs: 1/k + n_test/n_train instead of 1/k.
    t = plain.statistic * np.sqrt((1 / 10) / (1 / 10 + 1 / 9))
    assert result.t == pytest.approx(t)
    assert result.df == 9
    assert result.p == pytest.approx(2 * stats.t.sf(abs(t), 9))
    low, high = result.ci
    assert (low + high) / 2 == pytest.approx(differences.mean())
    expected = plain.confidence_interval()
    assert high - low == pytest.approx((expected.high - expected.low) * np.sqrt((1 / 10 + 1 / 9) / (1 / 10)))


def test_without_variance_p_is_1_for_no_difference_and_none_otherwise() -> None:
    same, other = corrected_resampled_t([0.0] * 10, 1 / 9), corrected_resampled_t([0.25] * 10, 1 / 9)
    assert same is not None
    assert other is not None
    assert (same.p, same.t) == (1.0, 0.0)
    assert (other.p, other.t, other.mean_difference) == (None, None, 0.25)
    assert corrected_resampled_t([0.1], 1 / 9) is None
    with pytest.raises(SettingError, match="test_share=0"):
        corrected_resampled_t([0.1, 0.2], 0)


def placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components from their definition: every positive against every negative."""
    pairs = np.sign(scores[positive][:, None] - scores[~positive][None, :]) / 2 + 0.5
    return pairs.mean(1), pairs.mean(0)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_delong_follows_from_its_definition(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(90) < 0.35
    common = rng.normal(size=90)
    a, b = common + 1.5 * positive + rng.normal(size=90), common + positive + rng.normal(size=90)
    if ties:
        a, b = np.round(a), np.round(b)
    result = delong(a, b, positive)
    (v_a, w_a), (v_b, w_b) = placements(a, positive), placements(b, positive)
    variance = np.var(v_a - v_b, ddof=1) / positive.sum() + np.var(w_a - w_b, ddof=1) / (~positive).sum()
    assert result.auc_a == pytest.approx(v_a.mean())
    assert result.auc_b == pytest.approx(v_b.mean())
    z = (v_a.mean() - v_b.mean()) / np.sqrt(variance)
    assert result.z == pytest.approx(z)
    assert result.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    mirrored = delong(b, a, positive)
    assert mirrored.p == pytest.approx(result.p)
    assert mirrored.difference == pytest.approx(-result.difference)


def test_delong_has_its_nominal_size_for_random_scores() -> None:
    rng, positive = np.random.default_rng(0), np.arange(60) < 30
    values = [delong(rng.normal(size=60), rng.normal(size=60), positive).p for _ in range(400)]
    # 5% of 400 is 20, with a standard deviation of 4.4.
    assert 8 <= sum(p < 0.05 for p in values) <= 34


def test_equal_scores_have_p_1_and_a_single_positive_gives_no_test() -> None:
    scores = np.random.default_rng(0).normal(size=20)
    assert delong(scores, scores, np.arange(20) < 8).p == 1.0
    assert delong(scores, scores[::-1], np.arange(20) < 1).p is None


def test_holm_equals_statsmodels_and_skips_none() -> None:
    values = np.random.default_rng(3).random(12) ** 3
    expected = multipletests(values, method="holm")[1]
    assert holm(list(values)) == pytest.approx(list(expected))
    assert holm([*values[:5], None, *values[5:]]) == pytest.approx([*expected[:5], None, *expected[5:]])
    assert holm([]) == []


def pooled(seed: int, skill: float = 1.0) -> pd.DataFrame:
    parts = []
    for fold in range(10):
        part = random_table(18, [seed, fold], skill=skill, fold=fold)  # type: ignore[arg-type]
        parts.append(part.assign(image_id=f"{fold}-" + part["image_id"], patient_id=f"{fold}-" + part["patient_id"]))
    return pd.concat(parts, ignore_index=True)


def test_a_comparison_equals_manual_counts() -> None:
    a, b = pooled(0, 2.0), pooled(1, 0.5).sample(frac=1, random_state=0)
    result = compare_tables(a, b, name_a="a", name_b="b")
    both = a.merge(b, on="image_id", suffixes=("_a", "_b"), validate="1:1")
    right_a, right_b = both["prediction_a"] == both["label_a"], both["prediction_b"] == both["label_b"]
    assert result.n == 180
    assert result.accuracy_a == pytest.approx(right_a.mean())
    assert result.difference == pytest.approx(right_a.mean() - right_b.mean())
    assert result.mcnemar.only_a == ((right_a) & (~right_b)).sum()
    assert result.mcnemar.p == pytest.approx(mcnemar(pd.crosstab(right_a, right_b), exact=True).pvalue)
    by_fold = [(right_a[both["fold_a"] == f].mean() - right_b[both["fold_a"] == f].mean()) for f in range(10)]
    assert result.t_test.mean_difference == pytest.approx(np.mean(by_fold))
    flat = [result.mcnemar.p, result.t_test.p, *(result.delong[c].p for c in CLASSES)]
    adjusted = [result.p_holm.mcnemar, result.p_holm.t_test, *(result.p_holm.delong[c] for c in CLASSES)]
    assert adjusted == pytest.approx(list(multipletests(flat, method="holm")[1]))


def test_identical_predictions_give_p_1_everywhere() -> None:
    result = compare_tables(pooled(0), pooled(0), name_a="a", name_b="again")
    assert result.difference == 0.0
    assert to_json(result.mcnemar) == {"only_a": 0, "only_b": 0, "p": 1.0}
    assert result.t_test.p == 1.0
    assert {result.delong[label].p for label in CLASSES} == {1.0}
    assert to_json(result.p_holm) == {"mcnemar": 1.0, "t_test": 1.0, "delong": dict.fromkeys(CLASSES, 1.0)}


def test_different_splits_raise() -> None:
    a, moved, relabelled = pooled(0), pooled(1), pooled(1)
    moved.loc[0, "fold"] = 5
    relabelled.loc[3, "label"] = "Normal" if relabelled.loc[3, "label"] != "Normal" else "Pneumonia"
    for other, image in ((moved, moved.loc[0, "image_id"]), (relabelled, relabelled.loc[3, "image_id"])):
        with pytest.raises(DataError, match="different splits cannot be compared") as caught:
            compare_tables(a, other, name_a="one", name_b="two")
        assert str(image) in str(caught.value)
        assert "1 image in another fold" in str(caught.value)
    foreign = pooled(1).assign(image_id=lambda t: "x" + t["image_id"])
    with pytest.raises(DataError, match="360 images"):
        compare_tables(a, foreign, name_a="one", name_b="two")


def test_a_missing_fold_raises_or_is_ignored() -> None:
    a, b = pooled(0), pooled(1).query("fold != 4")
    with pytest.raises(DataError, match="18 images"):
        compare_tables(a, b, name_a="one", name_b="two")
    result = compare_tables(a, b, name_a="one", name_b="two", common_folds=True)
    assert result.folds == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert result.n == 162
    with pytest.raises(DataError, match="no fold in common"):
        compare_tables(a.query("fold == 4"), b, name_a="one", name_b="two", common_folds=True)


@pytest.mark.parametrize("first", [True, False])
def test_duplicated_images_raise(first: bool) -> None:
    a = pooled(0)
    b = pooled(1)
    if first:
        a = pd.concat([a, a.iloc[:5]], ignore_index=True)
    else:
        b = pd.concat([b, b.iloc[:5]], ignore_index=True)
    with pytest.raises(DataError, match=f"{'one' if first else 'two'}: 5 duplicated images, such as 0-i0000"):
        compare_tables(a, b, name_a="one", name_b="two")


def test_swapping_the_methods_mirrors_the_result() -> None:
    a, b = pooled(0, 2.0), pooled(1, 0.5)
    result, mirrored = compare_tables(a, b, name_a="a", name_b="b"), compare_tables(b, a, name_a="b", name_b="a")
    assert mirrored.difference == pytest.approx(-result.difference)
    assert mirrored.mcnemar.only_a == result.mcnemar.only_b
    assert mirrored.mcnemar.p == pytest.approx(result.mcnemar.p)
    assert mirrored.t_test.t == pytest.approx(-result.t_test.t)
    assert mirrored.t_test.ci == pytest.approx([-end for end in result.t_test.ci[::-1]])
    for label in CLASSES:
        assert mirrored.delong[label].z == pytest.approx(-result.delong[label].z)
        assert mirrored.p_holm.delong[label] == pytest.approx(result.p_holm.delong[label])


def test_holm_adjusts_all_comparisons_together() -> None:
    tables = [pooled(seed, skill) for seed, skill in ((0, 2.0), (1, 1.5), (2, 0.5))]
    pairs = [compare_tables(tables[0], t, name_a="0", name_b=str(n)) for n, t in enumerate(tables[1:], 1)]
    values = [p for one in pairs for p in (one.mcnemar.p, one.t_test.p, *(one.delong[c].p for c in CLASSES))]
    expected = multipletests(values, method="holm")[1]
    found = [p for one in adjust(pairs) for p in (one.p_holm.mcnemar, one.p_holm.t_test, *one.p_holm.delong.values())]
    assert found == pytest.approx(list(expected))
