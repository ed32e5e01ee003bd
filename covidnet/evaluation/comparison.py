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

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.ranking import area_parts
from covidnet.evaluation.results import Interval


@dataclass(frozen=True)
class McNemar:
    """McNemar's test.

    Args:
        only_a: images that only the first method classifies correctly.
        only_b: images that only the second method classifies correctly.
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
        mean_difference: first minus second method, averaged over the folds.
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
        auc_a: AUC of the first method.
        auc_b: AUC of the second method.
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
    """p-values after Holm's adjustment; DeLong's by class."""

    mcnemar: float | None
    t_test: float | None
    delong: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images.

    Args:
        a: name of the first method.
        b: name of the second method.
        folds: the folds that both have.
        n: number of images.
        patients: number of patients; an image without a patient_id counts as its own patient.
        difference: accuracy of the first minus that of the second.
        mcnemar: test of the accuracy, the patient as the unit.
        t_test: test of the accuracy over the folds.
        delong: test of the AUC of each class, the patient as the unit.
        p_holm: p-values of all these tests, adjusted together.
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
    """The exact two-sided McNemar test of two methods on the same images.

    Args:
        only_a: images that only the first method classifies correctly.
        only_b: images that only the second method classifies correctly.

    Returns:
        p, 0..1; 1 where the two methods agree on every image. It assumes independent images; for several images of one
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
    """McNemar's test with the patient as the unit: an exact permutation test that swaps all predictions of a patient.

    The statistic is the number of images that only the first method classifies correctly minus the number that only the
    second does. Under the null hypothesis the two methods' predictions for a patient are exchangeable, all images of
    the patient together. The distribution over all 2^patients exchanges is computed exactly. With one image per patient
    it is `mcnemar_exact`.

    Args:
        right_a: (n,) bool, whether the first method is correct on each image.
        right_b: (n,) bool, whether the second method is.
        patients: (n,) the patient of each image.

    Returns:
        p, 0..1, two-sided; 1 where the two methods are equally good on every patient.

    Raises:
        DataError: lengths differ.

    Source: the statistic is that of Durkalski et al. 2003, https://doi.org/10.1002/sim.1438, with the weights of Yang,
    Sun and Hardin 2010, https://doi.org/10.1002/sim.4036, and an exact distribution in place of their chi-squared.

    Example:
        >>> a, b = [True] * 9 + [False], [False] * 9 + [True]
        >>> round(mcnemar_by_patient(a, b, range(10)), 4), round(mcnemar_by_patient(a, b, [0] * 9 + [1]), 4)
        (0.0215, 1.0)
    """
    a, b, groups = np.asarray(right_a, bool), np.asarray(right_b, bool), np.asarray(patients)
    if not a.shape == b.shape == groups.shape:
        raise DataError(
            f"right_a, right_b, patients: {len(a)}, {len(b)} and {len(groups)} values; give one of each per image"
        )
    if not len(groups):
        return 1.0
    rows = np.unique(groups, return_inverse=True)[1]
    if np.bincount(rows).max() == 1:
        return mcnemar_exact(int((a & ~b).sum()), int((~a & b).sum()))
    lead = np.bincount(rows, a.astype(np.float64) - b).astype(np.int64)
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
    """The t-test of a difference over cross-validation folds, corrected for overlapping training sets.

    The usual t-test treats folds as independent, which they are not, and so rejects the null hypothesis too often. The
    correction replaces 1/k by 1/k + n_test/n_train.

    Args:
        differences: (k,) the difference in each fold, such as accuracy of the first minus accuracy of the second
            method.
        test_share: n_test / n_train, above 0; 1/9 for ten folds.

    Returns:
        The test, with k - 1 degrees of freedom. Without variance (all differences equal) p is 1 if they are 0, and
        otherwise t and p are None. None for fewer than two folds.

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
    """DeLong's test of two AUCs on the same images, with the patient as the unit.

    With one image per patient this is DeLong's test. With more, the variance is Obuchowski's for clustered data and the
    reference distribution is Student's t with Welch's degrees of freedom (positive and negative patients), which
    matters with few patients.

    Args:
        scores_a: (n,) of the first method.
        scores_b: (n,) of the second method.
        positive: (n,) bool.
        patients: (n,) the patient of each image; None if no two images share one.

    Returns:
        The test. Where the variance is 0, p is 1 if the areas are equal and None if not. All values are None with fewer
        than two positive or two negative patients.

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
    """Holm's step-down adjustment of several p-values, valid under any dependence.

    Args:
        values: p-values, 0..1; None (no test) is not counted.

    Returns:
        The adjusted p-values in the same places.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, https://www.jstor.org/stable/4615733

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    ascending = sorted((value, at) for at, value in enumerate(values) if value is not None)
    found: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, at) in enumerate(ascending):
        highest = max(highest, min(1.0, (len(ascending) - rank) * value))
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
    classes: ClassList = DEFAULT_CLASSES,
) -> Comparison:
    """Compare two methods on their pooled out-of-fold predictions.

    Args:
        a: predictions of the first method: every test image once, with its fold.
        b: the same of the second method.
        name_a: name of the first method.
        name_b: name of the second method.
        common_folds: ignore folds that only one of the two has, instead of raising.
        test_share: n_test / n_train of a fold, for `corrected_resampled_t`; more than 1/9 with inner validation.
        classes: of the study.

    Raises:
        DataError: images, folds or labels of the two differ, or a table has an image twice.
    """
    folds = sorted({*a["fold"]} & {*b["fold"]})
    if common_folds:
        a, b = a[a["fold"].isin(folds)], b[b["fold"].isin(folds)]
    if not folds or not len(a):
        raise DataError(f"{name_a} and {name_b}: no fold in common; different splits cannot be compared")
    for name, table in ((name_a, a), (name_b, b)):
        twice = sorted(set(table["image_id"][table["image_id"].duplicated()]))
        if twice:  # they would count twice in every test
            raise DataError(f"{name}: {len(twice)} duplicated images, such as {twice[0]}; give each image once")
    codes = cluster_codes(a)
    a, b = a.set_index("image_id"), b.set_index("image_id")
    mismatched = sorted(set(a.index) ^ set(b.index))
    if not mismatched:
        b = b.loc[a.index]
        mismatched = sorted(a.index[(a["fold"] != b["fold"]) | (a["label"] != b["label"])])
    if mismatched:
        raise DataError(
            f"{name_a} and {name_b}: {counted(len(mismatched), 'image')} in another fold or with another label, or in "
            f"one of them only, such as {mismatched[0]}; different splits cannot be compared"
        )
    right_a, right_b = (table["prediction"] == table["label"] for table in (a, b))
    by_fold = (right_a.astype(float) - right_b.astype(float)).groupby(a["fold"]).mean()
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    comparison = Comparison(
        a=name_a,
        b=name_b,
        folds=[int(fold) for fold in folds],
        n=len(a),
        patients=len(np.unique(codes)),
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=float(right_a.mean() - right_b.mean()),
        mcnemar=McNemar(only_a, only_b, mcnemar_by_patient(right_a, right_b, codes)),
        t_test=corrected_resampled_t(list(by_fold), test_share),
        delong={
            label: delong(a[column], b[column], a["label"] == label, codes)
            for label, column in zip(classes, classes.columns, strict=True)
        },
        p_holm=None,
    )
    return adjust([comparison])[0]


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm's adjustment over all tests of several comparisons together.

    Args:
        comparisons: from `compare_tables`.

    Returns:
        The same with new values of ``p_holm``.
    """
    values: list[float | None] = []
    for pair in comparisons:
        values += [pair.mcnemar.p, pair.t_test.p if pair.t_test else None, *(area.p for area in pair.delong.values())]
    adjusted = iter(holm(values))
    return [
        replace(
            pair, p_holm=AdjustedP(next(adjusted), next(adjusted), {label: next(adjusted) for label in pair.delong})
        )
        for pair in comparisons
    ]
