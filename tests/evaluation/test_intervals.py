from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.errors import DataError, SettingError
from covidnet.evaluation.intervals import design_effect, f1_interval, proportion_interval, wilson

ACCURATE = np.array([[0.32, 0.005, 0.0083], [0.005, 0.31, 0.0183], [0.0083, 0.0183, 0.3067]])
ROUGH = np.array([[0.05, 0.03, 0.02], [0.10, 0.40, 0.05], [0.05, 0.10, 0.20]])


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_wilson_equals_statsmodels_for_every_count_of_small_and_some_of_large_numbers(confidence: float) -> None:
    rng = np.random.default_rng(0)
    cases = [(k, n) for n in range(1, 31) for k in range(n + 1)]
    cases += [(int(rng.integers(0, n + 1)), int(n)) for n in rng.integers(31, 100_000, size=200)]
    ours = np.array([wilson(k, n, confidence) for k, n in cases])
    theirs = np.array([proportion_confint(k, n, alpha=1 - confidence, method="wilson") for k, n in cases])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [*range(1, 61), 156, 1560, 10**9])
def test_wilson_ends_are_exact_for_0_and_n_of_n(n: int) -> None:
    none, every = wilson(0, n), wilson(n, n)
    assert none is not None
    assert every is not None
    assert none[0] == 0.0
    assert every[1] == 1.0
    # The closed form of the other end: z2 / (n + z2) at the 97.5% normal quantile.
    z2 = 1.959963984540054**2
    assert none[1] == pytest.approx(z2 / (n + z2), rel=1e-9)
    assert every[0] == pytest.approx(n / (n + z2), rel=1e-9)


def test_wilson_interval_of_the_paper_s_accuracy() -> None:
    low, high = wilson(1476, 1560) or (0.0, 0.0)  # 94.6% of 1,560
    assert (round(100 * low, 1), round(100 * high, 1)) == (93.4, 95.6)


def test_no_trials_give_no_interval() -> None:
    assert wilson(0, 0) is None
    assert f1_interval([], []) is None
    assert proportion_interval([], []) is None


def test_numpy_counts_give_plain_floats() -> None:
    ends = wilson(np.int64(3), np.int64(7))
    assert ends == wilson(3, 7)
    assert ends is not None
    assert [type(end) for end in ends] == [float, float]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: wilson(-1, 5), "successes=-1"),
        (lambda: wilson(6, 5), "successes=6"),
        (lambda: wilson(0, -1), "n=-1"),
        (lambda: wilson(1, 5, 1.0), "confidence=1.0"),
        (lambda: wilson(1, 5, 95), "confidence=95"),
        (lambda: proportion_interval([True], [0], 2.0), "confidence=2.0"),
    ],
)
def test_impossible_counts_raise_and_are_named(call: Callable[[], object], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        call()


def test_a_fractional_count_raises() -> None:
    with pytest.raises(TypeError):
        wilson(0.5, 5)  # type: ignore[arg-type]


def of_counts(tp: int, fp: int, fn: int) -> tuple[float, float] | None:
    return f1_interval([True] * tp + [False] * (fp + fn), range(tp + fp + fn))


def test_f1_interval_is_the_transformed_interval_of_the_jaccard_index() -> None:
    rng = np.random.default_rng(1)
    for tp, fp, fn in rng.integers(0, 200, size=(300, 3)).tolist():
        low, high = proportion_confint(tp, tp + fp + fn, method="wilson")
        ends = of_counts(tp, fp, fn)
        assert ends == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)), abs=1e-12)
        assert ends is not None
        assert ends[0] <= 2 * tp / (2 * tp + fp + fn) <= ends[1]


def test_f1_interval_ends_are_exact_at_no_and_at_full_agreement() -> None:
    assert (of_counts(0, 3, 4) or (1.0, 1.0))[0] == 0.0
    assert (of_counts(52, 0, 0) or (0.0, 0.0))[1] == 1.0


def _f1(tp: float, fp: float, fn: float) -> float:
    return 2 * tp / (2 * tp + fp + fn)


@pytest.mark.parametrize("rates", [ACCURATE, ROUGH], ids=["accurate", "rough"])
@pytest.mark.parametrize("design", ["images drawn", "images per class fixed"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_f1_interval_covers_the_true_f1_of_simulated_tables(rates: np.ndarray, design: str, at: int) -> None:
    rng = np.random.default_rng(20_200)
    rates = rates / rates.sum()
    if design == "images drawn":
        tables = rng.multinomial(156, rates.ravel(), size=2000).reshape(-1, 3, 3)
    else:
        sizes = np.rint(156 * rates.sum(axis=1)).astype(int)
        rows = [rng.multinomial(size, row / row.sum(), size=2000) for size, row in zip(sizes, rates, strict=True)]
        tables = np.stack(rows, axis=1)
        rates = np.stack([size * row / row.sum() for size, row in zip(sizes, rates, strict=True)])
    truth = _f1(rates[at, at], rates[:, at].sum() - rates[at, at], rates[at].sum() - rates[at, at])
    tp = tables[:, at, at]
    fp, fn = tables[:, :, at].sum(axis=1) - tp, tables[:, at].sum(axis=1) - tp
    ends = [of_counts(*counts) for counts in zip(tp.tolist(), fp.tolist(), fn.tolist(), strict=True)]
    covered = np.mean([end is not None and end[0] <= truth <= end[1] for end in ends])
    assert 0.92 <= covered <= 0.99


def test_with_one_image_per_patient_it_is_wilson() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 7, 52, 400):
        hits = rng.random(n) < 0.8
        assert proportion_interval(hits, rng.permutation(n)) == wilson(int(hits.sum()), n)


def test_copies_of_an_image_add_no_information() -> None:
    """With identical images per patient the design effect is their number; only t instead of z differs from Wilson."""
    hits = np.random.default_rng(1).random(60) < 0.8
    assert design_effect(np.repeat(hits, 4), np.repeat(np.arange(60), 4)) == pytest.approx(4.0)
    n = 60 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 59)) ** 2
    expected = proportion_confint(hits.mean() * n, n, method="wilson")
    assert proportion_interval(np.repeat(hits, 4), np.repeat(np.arange(60), 4)) == pytest.approx(expected)


def test_the_design_effect_follows_from_an_analysis_of_variance() -> None:
    """Against one-way ANOVA on so many patients that the two pseudo-patients hardly matter."""
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(3000), 3)
    hits = rng.random(9000) < rng.beta(1.6, 0.4, 3000)[patients]
    table = pd.DataFrame({"hit": hits.astype(float), "patient": patients})
    means = table.groupby("patient")["hit"].transform("mean")
    between = ((means - table["hit"].mean()) ** 2).sum() / 2999
    within = ((table["hit"] - means) ** 2).sum() / 6000
    correlation = (between - within) / (between + 2 * within)
    assert design_effect(hits, patients) == pytest.approx(1 + 2 * correlation, rel=0.01)
    # The patients' rates were simulated with a correlation of 1 / (1.6 + 0.4 + 1).
    assert design_effect(hits, patients) == pytest.approx(1 + 2 / 3, rel=0.05)


def test_uncorrelated_images_of_a_patient_count_almost_in_full() -> None:
    hits = np.random.default_rng(3).random(1200) < 0.8
    assert design_effect(hits, np.repeat(np.arange(400), 3)) < 1.1


def test_few_patients_all_correct_have_a_wide_interval() -> None:
    low, high = proportion_interval([True] * 20, np.repeat(np.arange(4), 5)) or (0.0, 0.0)
    alone = wilson(4, 4) or (0.0, 0.0)
    assert low < alone[0] < (wilson(20, 20) or (0.0, 0.0))[0]
    assert high == 1.0
    assert proportion_interval([True] * 20, [0] * 20) == (0.0, 1.0)


def test_different_lengths_raise() -> None:
    with pytest.raises(DataError, match="1 values for 2 images"):
        proportion_interval([True, False], [0])
    with pytest.raises(DataError, match="at least one"):
        design_effect([], [])
