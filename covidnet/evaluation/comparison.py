"""Whether two methods differ on the same images: McNemar, the corrected resampled t-test, DeLong, Holm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from operator import index

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import signal, stats

from covidnet.base.classes import CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.evaluation.ranking import area_parts
from covidnet.evaluation.results import Interval


@dataclass(frozen=True)
class McNemar:
    """McNemar's test.

    Args:
        only_a: images that the first method alone has right.
        only_b: images that the second method alone has right.
        p: two-sided.
    """

    only_a: int | None
    only_b: int | None
    p: float | None


@dataclass(frozen=True)
class ResampledT:
    """The corrected resampled t-test.

    Args:
        t: the statistic.
        df: degrees of freedom.
        p: two-sided.
        mean_difference: over the folds, first minus second.
        ci: its 95% interval.
    """

    t: float | None
    df: int | None
    p: float | None
    mean_difference: float | None
    ci: Interval | None


@dataclass(frozen=True)
class DeLong:
    """DeLong's test.

    Args:
        auc_a: of the first method.
        auc_b: of the second.
        difference: first minus second.
        ci: 95% interval of the difference.
        z: the difference over its standard error.
        p: two-sided.
    """

    auc_a: float | None
    auc_b: float | None
    difference: float | None
    ci: Interval | None
    z: float | None
    p: float | None


@dataclass(frozen=True)
class AdjustedP:
    """p-values after Holm's adjustment; those of DeLong's test by class."""

    mcnemar: float | None
    t_test: float | None
    delong: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images.

    Args:
        a: what the first method is called.
        b: what the second is called.
        folds: that both have.
        n: images.
        patients: an unknown one counts as one of its own.
        difference: of the accuracies, first minus second.
        mcnemar: of the accuracy, the patient as the unit.
        t_test: of the accuracy over the folds.
        delong: by class, the patient as the unit.
        p_holm: the p-values of all these tests, adjusted together.
    """

    a: str | None
    b: str | None
    folds: list[int]
    n: int | None
    patients: int | None
    accuracy_a: float | None
    accuracy_b: float | None
    difference: float | None
    mcnemar: McNemar
    t_test: ResampledT | None
    delong: dict[str, DeLong]
    p_holm: AdjustedP | None = field(metadata={"omit_none": True})


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """The exact two-sided McNemar test of two methods' right and wrong answers on the same images.

    Args:
        only_a: images that the first method alone has right.
        only_b: images that the second method alone has right.

    Returns:
        p, 0..1; 1 where no image tells the two apart. It assumes independent images; for several images of one
        patient see `mcnemar_by_patient`.

    Raises:
        SettingError: a count is negative.

    Source: McNemar 1947, https://doi.org/10.1007/BF02295996

    Example:
        >>> round(mcnemar_exact(1, 9), 4), mcnemar_exact(0, 0)
        (0.0215, 1.0)
    """
    if index(only_a) < 0 or index(only_b) < 0:
        raise SettingError("only_a, only_b", (only_a, only_b), "counts of at least 0")
    n = only_a + only_b
    return float(stats.binomtest(only_a, n, 0.5).pvalue) if n else 1.0


def mcnemar_by_patient(right_a: npt.ArrayLike, right_b: npt.ArrayLike, patients: npt.ArrayLike) -> float:
    """McNemar's test with the patient as the unit: an exact permutation test that swaps a patient's answers as a whole.

    The statistic is the number of images that the first method alone has right minus the number that the second alone
    has right. Under the null hypothesis the two methods' answers on a patient can be exchanged, all of the patient's
    images together; the distribution over all 2^patients exchanges is computed exactly. Where every patient has one
    image it is `mcnemar_exact`.

    Args:
        right_a: (n,) bool, whether the first method is right on each image.
        right_b: (n,) bool, of the second.
        patients: (n,) the patient of each image.

    Returns:
        p, 0..1, two-sided; 1 where no patient tells the two apart.

    Raises:
        DataError: lengths differ.

    Source: the statistic is that of Durkalski et al. 2003, https://doi.org/10.1002/sim.1438, with the weights of Yang,
    Sun and Hardin 2010, https://doi.org/10.1002/sim.4036, and an exact distribution in place of their chi-squared.

    Example:
        >>> a, b = [True] * 9 + [False], [False] * 9 + [True]
        >>> round(mcnemar_by_patient(a, b, range(10)), 4), round(mcnemar_by_patient(a, b, [0] * 9 + [1]), 4)
        (0.0215, 1.0)
    """
    one, other, of = np.asarray(right_a, bool), np.asarray(right_b, bool), np.asarray(patients)
    if not one.shape == other.shape == of.shape:
        raise DataError(f"patients: {len(one)}, {len(other)} answers for {len(of)} images; give one for each")
    if not len(of):
        return 1.0
    rows = np.unique(of, return_inverse=True)[1]
    if np.bincount(rows).max() == 1:
        return mcnemar_exact(int((one & ~other).sum()), int((~one & other).sum()))
    lead = np.bincount(rows, one.astype(np.float64) - other).astype(np.int64)
    steps, counts = np.unique(np.abs(lead[lead != 0]), return_counts=True)
    # The sum of every patient's lead with a random sign, from -total to total in steps of 2.
    distribution = np.ones(1)
    for step, count in zip(steps, counts, strict=True):
        part = np.zeros(int(step * count) + 1)
        part[::step] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = signal.convolve(distribution, part)
    total = len(distribution) - 1
    sums = np.abs(2 * np.arange(total + 1) - total)
    return float(np.clip(distribution[sums >= abs(int(lead.sum()))].sum(), 0.0, 1.0))


def corrected_resampled_t(differences: Sequence[float], test_share: float) -> ResampledT | None:
    """The t-test of a difference over cross-validation folds, corrected for training parts that overlap.

    The usual t-test takes folds for independent, which they are not, and finds differences where there are none. The
    correction puts 1/k + n_test/n_train in the place of 1/k.

    Args:
        differences: (k,) of a number in each fold, such as the accuracy of the first method minus that of the second.
        test_share: n_test / n_train, above 0; 1/9 for ten folds.

    Returns:
        The test, with k - 1 degrees of freedom. Where all differences are equal there is no variance to judge by: p is
        1 where they are 0, and otherwise t and p are None. None for fewer than two folds.

    Raises:
        SettingError: test_share is not above 0.

    Source: Nadeau and Bengio 2003, Inference for the generalization error, https://doi.org/10.1023/A:1024068626366
    """
    if not test_share > 0.0:
        raise SettingError("test_share", test_share, "a number above 0, such as 1/9 for ten folds")
    values = np.asarray(differences, np.float64)
    k = len(values)
    if k < 2:
        return None
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread < 1e-15:
        same = abs(mean) < 1e-15
        return ResampledT(0.0 if same else None, k - 1, 1.0 if same else None, mean, (0.0, 0.0) if same else None)
    error = spread * sqrt(1.0 / k + test_share)
    t, half = mean / error, float(stats.t.ppf(0.975, k - 1)) * error
    p = float(2.0 * stats.t.sf(abs(t), k - 1))
    return ResampledT(t, k - 1, p, mean, (mean - half, mean + half))


def delong(
    scores_a: npt.ArrayLike, scores_b: npt.ArrayLike, positive: npt.ArrayLike, patients: npt.ArrayLike | None = None
) -> DeLong:
    """DeLong's test of two areas under ROC curves on the same images, with the patient as the unit.

    With several images of a patient the variance is Obuchowski's for clustered data, and the reference distribution
    Student's t with Welch's degrees of freedom (positive and negative patients), which matters with few patients. Where
    every patient has one image it is DeLong's.

    Args:
        scores_a: (n,) of the first method.
        scores_b: (n,) of the second.
        positive: (n,) bool.
        patients: (n,) the patient of each image; None where every image is of another patient.

    Returns:
        The test. Where the variance is 0, p is 1 if the areas are equal and None if not. All None with fewer than two
        patients on a side.

    Source: DeLong, DeLong and Clarke-Pearson 1988, https://doi.org/10.2307/2531595, see `area_parts`
    """
    parts = area_parts(
        np.stack([np.asarray(scores_a, np.float64), np.asarray(scores_b, np.float64)]),
        positive,
        np.arange(len(np.asarray(positive))) if patients is None else patients,
    )
    if parts is None:
        return DeLong(None, None, None, None, None, None)
    first, second = (float(area) for area in parts.areas)
    difference = first - second
    error, freedom = parts.error([1.0, -1.0])
    if error < 1e-9:
        if abs(difference) < 1e-12:
            return DeLong(first, second, difference, (0.0, 0.0), 0.0, 1.0)
        return DeLong(first, second, difference, None, None, None)
    half, z = float(stats.t.ppf(0.975, freedom)) * error, difference / error
    p = float(2.0 * stats.t.sf(abs(z), freedom))
    return DeLong(first, second, difference, (difference - half, difference + half), z, p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of several p-values; it holds whatever their dependence.

    Args:
        values: p-values, 0..1; None is no test and is not counted.

    Returns:
        The adjusted p-values in the same places.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, https://www.jstor.org/stable/4615733

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    there = sorted((value, at) for at, value in enumerate(values) if value is not None)
    found: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, at) in enumerate(there):
        highest = max(highest, min(1.0, (len(there) - rank) * value))
        found[at] = highest
    return found


def compare_tables(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    name_a: str,
    name_b: str,
    common_folds: bool = False,
    test_share: float = 1.0 / 9.0,
) -> Comparison:
    """Compare two methods on their pooled out-of-fold predictions.

    Args:
        a: predictions of the first method: every test image once, with its fold.
        b: of the second.
        name_a: what to call the first.
        name_b: what to call the second.
        common_folds: leave out folds that one of the two lacks, rather than refuse.
        test_share: n_test / n_train of a fold, for `corrected_resampled_t`; more than 1/9 with inner validation.

    Raises:
        DataError: the two are not of the same images in the same folds with the same labels, or hold an image twice.
    """
    folds = sorted({*a["fold"]} & {*b["fold"]})
    if common_folds:
        a, b = a[a["fold"].isin(folds)], b[b["fold"].isin(folds)]
    if not folds or not len(a):
        raise DataError(f"{name_a} and {name_b}: no fold in common; different splits cannot be compared")
    for name, table in ((name_a, a), (name_b, b)):
        twice = sorted(set(table["image_id"][table["image_id"].duplicated()]))
        if twice:
            # It would count twice in every test.
            raise DataError(f"{name}: {len(twice)} images are there twice, such as {twice[0]}; give each image once")
    one, other = a.set_index("image_id"), b.set_index("image_id")
    apart = sorted(set(one.index) ^ set(other.index))
    if not apart:
        other = other.loc[one.index]
        differ = (one["fold"] != other["fold"]) | (one["label"] != other["label"])
        apart = sorted(one.index[differ])
    if apart:
        raise DataError(
            f"{name_a} and {name_b}: {counted(len(apart), 'image is', 'images are')} not in the same fold of "
            "both, or not with the same label, "
            f"such as {apart[0]}; different splits cannot be compared"
        )
    right_a, right_b = (t["prediction"] == t["label"] for t in (one, other))
    codes = cluster_codes(one.reset_index())
    by_fold = (right_a.astype(float) - right_b.astype(float)).groupby(one["fold"]).mean()
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    found = Comparison(
        a=name_a,
        b=name_b,
        folds=[int(fold) for fold in folds],
        n=len(one),
        patients=len(np.unique(codes)),
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=float(right_a.mean() - right_b.mean()),
        mcnemar=McNemar(only_a, only_b, mcnemar_by_patient(right_a, right_b, codes)),
        t_test=corrected_resampled_t(list(by_fold), test_share),
        delong={
            label: delong(one[column], other[column], one["label"] == label, codes)
            for label, column in zip(CLASSES, PROBABILITIES, strict=True)
        },
        p_holm=None,
    )
    return adjust([found])[0]


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's adjustment over all tests of several comparisons together.

    Args:
        comparisons: as `compare_tables` gives them.

    Returns:
        The same with other values of ``p_holm``.
    """
    values: list[float | None] = []
    for one in comparisons:
        values += [one.mcnemar.p, one.t_test.p if one.t_test else None, *(one.delong[label].p for label in CLASSES)]
    adjusted = iter(holm(values))
    return [
        replace(
            one,
            p_holm=AdjustedP(next(adjusted), next(adjusted), {label: next(adjusted) for label in CLASSES}),
        )
        for one in comparisons
    ]
