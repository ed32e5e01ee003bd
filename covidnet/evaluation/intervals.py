"""Confidence intervals for proportions and for F1, with the patient as the unit."""

from __future__ import annotations

from math import sqrt
from operator import index
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from covidnet.base.errors import DataError, SettingError

PSEUDO_PATIENTS = 0.25
"""Two pseudo-patients, one with every image right and one with every image wrong, enter the estimate of the
intra-patient correlation with this weight each. Without them the estimate is 0 or undefined where every patient happens
to be all right or all wrong, and the interval too narrow. The value is ours: benchmarks/coverage.py shows its
effect."""


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion.

    It stays within 0..1 and keeps its coverage near 0 and 1, where the usual p ± 1.96 se does not. It assumes
    independent trials; for several images of one patient see `proportion_interval`.

    Args:
        successes: 0..n.
        n: number of trials, at least 0.
        confidence: the nominal coverage, between 0 and 1.

    Returns:
        (low, high), fractions of 1; low is exactly 0.0 for 0 of n, high exactly 1.0 for n of n. None for n = 0.

    Raises:
        SettingError: a count or the confidence is out of range.

    Reference:
        Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. Journal of the
        American Statistical Association 22(158), 209-212. DOI 10.1080/01621459.1927.10502953

    Example:
        >>> low, high = wilson(49, 52)
        >>> f"{low:.3f} {high:.3f}"
        '0.844 0.980'
        >>> wilson(0, 0) is None
        True
    """
    successes, n = index(successes), index(n)
    if n < 0:
        raise SettingError("n", n, "a count of at least 0")
    if not 0 <= successes <= n:
        raise SettingError("successes", successes, f"a count from 0 to {n}")
    _check(confidence)
    if n == 0:
        return None
    return _score(successes / n, n, NormalDist().inv_cdf((1.0 + confidence) / 2.0))


def proportion_interval(
    hits: npt.ArrayLike, patients: npt.ArrayLike, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Confidence interval of a proportion of images, with the patient as the unit.

    Images of one patient tend to be right or wrong together, so n images carry less information than n patients. This
    is Wilson's interval on the effective sample size n / `design_effect`. Because the design effect is estimated, it
    uses the quantile of Student's t with patients - 1 degrees of freedom instead of the normal one. With one image per
    patient it is `wilson`. Its coverage in simulations is in benchmarks/README.md; with very few patients it is
    conservative.

    Args:
        hits: (n,) bool, the success of each image.
        patients: (n,) the patient of each image, such as `covidnet.evaluation.bootstrap.cluster_codes` gives.
        confidence: the nominal coverage, between 0 and 1.

    Returns:
        (low, high), fractions of 1; (0, 1) for several images of a single patient. None without images.

    Raises:
        DataError: the two differ in length.
        SettingError: the confidence is not between 0 and 1.

    Reference:
        Effective sample size and degrees of freedom: Korn, E. L. and Graubard, B. I. (1998). Confidence intervals for
        proportions with small expected number of positive counts estimated from survey data. Survey Methodology 24(2),
        193-201. With Wilson's interval: Dean, N. and Pagano, M. (2015). Evaluating confidence interval methods for
        binomial proportions in clustered surveys. Journal of Survey Statistics and Methodology 3(4), 484-503.
        DOI 10.1093/jssam/smv024

    Example:
        >>> hits, patients = [True] * 45 + [False] * 5, list(range(50))
        >>> proportion_interval(hits, patients) == wilson(45, 50)
        True
        >>> low, high = proportion_interval(hits, [patient // 5 for patient in patients])
        >>> f"{low:.3f} {high:.3f}"
        '0.544 0.986'
    """
    _check(confidence)
    right, sizes = _by_patient(hits, patients)
    n = int(sizes.sum())
    if not n:
        return None
    if sizes.max() == 1:
        return wilson(int(right.sum()), n, confidence)
    if len(sizes) == 1:
        return 0.0, 1.0
    quantile = float(stdtrit(len(sizes) - 1, (1.0 + confidence) / 2.0))
    return _score(float(right.sum() / n), n / _design_effect(right, sizes), quantile)


def design_effect(hits: npt.ArrayLike, patients: npt.ArrayLike) -> float:
    """The factor by which correlation within patients inflates the variance of a proportion.

    1 + (m - 1) rho, where m is the sum of squared image counts per patient over the number of images, and rho is the
    analysis-of-variance estimate of the intra-patient correlation, clipped to 0..1 and including `PSEUDO_PATIENTS`.

    Args:
        hits: (n,) bool, the success of each image.
        patients: (n,) the patient of each image.

    Returns:
        At least 1; 1 with one image per patient.

    Raises:
        DataError: the two differ in length, or there are no images.

    Reference:
        Ridout, M. S., Demetrio, C. G. B. and Firth, D. (1999). Estimating intraclass correlation for binary data.
        Biometrics 55(1), 137-148. DOI 10.1111/j.0006-341X.1999.00137.x

    Example:
        >>> design_effect([True, False, True], [0, 1, 2])
        1.0
        >>> round(design_effect([True] * 30 + [False] * 30, [image // 3 for image in range(60)]), 2)
        3.0
    """
    right, sizes = _by_patient(hits, patients)
    if not len(sizes):
        raise DataError("hits: no images; give at least one")
    return _design_effect(right, sizes)


def f1_interval(hits: npt.ArrayLike, patients: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of one class's F1 score, with the patient as the unit.

    F1 = 2J / (1 + J) increases with the Jaccard index J = TP / (TP + FP + FN), which is a proportion. So this is
    `proportion_interval` of J with its ends transformed.

    It is conditional on TP + FP + FN. Where the number of images per class is fixed by design it is slightly
    conservative.

    Args:
        hits: (TP + FP + FN,) bool, for each image that is of the class or predicted as it, whether it is both.
        patients: (TP + FP + FN,) the patient of each of these images.
        confidence: the nominal coverage, between 0 and 1.

    Returns:
        (low, high), fractions of 1; None where no image is of the class or predicted as it.

    Raises:
        DataError: the two differ in length.
        SettingError: the confidence is not between 0 and 1.

    Example:
        >>> low, high = f1_interval([True] * 51 + [False] * 2, range(53))
        >>> f"{low:.3f} {high:.3f}"
        '0.932 0.995'
    """
    jaccard = proportion_interval(hits, patients, confidence)
    if jaccard is None:
        return None
    low, high = jaccard
    return 2.0 * low / (1.0 + low), 2.0 * high / (1.0 + high)


def _check(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise SettingError("confidence", confidence, "a fraction between 0 and 1, such as 0.95")


def _score(rate: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's formula; n need not be an integer."""
    squared = quantile * quantile
    shrink = 1.0 + squared / n
    centre = (rate + squared / (2.0 * n)) / shrink
    half = quantile / shrink * sqrt(rate * (1.0 - rate) / n + squared / (4.0 * n * n))
    # The formula gives exactly 0 and 1 here but for rounding.
    low = 0.0 if rate == 0.0 else max(0.0, centre - half)
    high = 1.0 if rate == 1.0 else min(1.0, centre + half)
    return low, high


def _by_patient(
    hits: npt.ArrayLike, patients: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The successes and the images of each patient."""
    success, groups = np.asarray(hits, bool), np.asarray(patients)
    if success.shape != groups.shape:
        raise DataError(f"patients: {len(groups)} values for {len(success)} images; give one for each")
    rows = np.unique(groups, return_inverse=True)[1]
    return np.bincount(rows, success).astype(np.float64), np.bincount(rows).astype(np.float64)


def _design_effect(right: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    n = sizes.sum()
    typical = (sizes**2).sum() / n
    if typical == 1.0:
        return 1.0
    weights = np.concatenate([np.ones(len(sizes)), [PSEUDO_PATIENTS, PSEUDO_PATIENTS]])
    counts = np.concatenate([sizes, [typical, typical]])
    rates = np.concatenate([right / sizes, [1.0, 0.0]])
    images, patients = weights @ counts, weights.sum()
    mean = weights @ (counts * rates) / images
    between = weights @ (counts * (rates - mean) ** 2) / (patients - 1.0)
    within = weights @ (counts * rates * (1.0 - rates)) / (images - patients)
    size = (images - weights @ counts**2 / images) / (patients - 1.0)
    correlation = (between - within) / (between + (size - 1.0) * within)
    return float(1.0 + (typical - 1.0) * np.clip(correlation, 0.0, 1.0))
