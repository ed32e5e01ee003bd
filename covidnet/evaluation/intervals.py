"""Confidence intervals for proportions and for F1, from counts alone."""

from __future__ import annotations

from math import sqrt
from operator import index
from statistics import NormalDist

from covidnet.errors import SettingError


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion.

    It stays inside 0..1 and keeps its coverage near 0 and 1, where the usual p ± 1.96 se does not. It takes the n
    trials for independent: several films of one patient are not, and then it is too narrow.

    Args:
        successes: how often it happened, 0..n.
        n: how often it could have happened, at least 0.
        confidence: the coverage that is aimed at, between 0 and 1.

    Returns:
        The lower and the upper end, as fractions of 1; exactly 0.0 below 0 of n, exactly 1.0 above n of n. None where n
        is 0: no trial says nothing, not even an interval.

    Raises:
        SettingError: the counts or the confidence cannot be.

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
        raise SettingError("successes", successes, f"a count of 0..{n}")
    if not 0.0 < confidence < 1.0:
        raise SettingError("confidence", confidence, "a fraction between 0 and 1, such as 0.95")
    if n == 0:
        return None
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    rate = successes / n
    shrink = 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * sqrt(rate * (1.0 - rate) / n + z * z / (4 * n * n))
    # The formula gives 0 and 1 there up to rounding; say it exactly.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def f1_interval(tp: int, fp: int, fn: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of one class's F1 score.

    F1 = 2J / (1 + J) rises with the Jaccard index J = TP / (TP + FP + FN), and J is a proportion: of the images that
    are the class or are called it, those that are both. So this is Wilson's interval of J, with its ends mapped.

    It is conditional on TP + FP + FN. Where the images per class are fixed by design it is slightly too wide rather
    than too narrow. It ignores that films of one patient resemble each other; a bootstrap over patients, which does
    not, belongs to the report of a whole cross-validation.

    Args:
        tp: images of the class that are called it.
        fp: images of other classes that are called it.
        fn: images of the class that are called something else.
        confidence: the coverage that is aimed at, between 0 and 1.

    Returns:
        The lower and the upper end, as fractions of 1; None where no image is the class or is called it.

    Raises:
        SettingError: a count is negative, or the confidence is not between 0 and 1.

    Example:
        >>> low, high = f1_interval(tp=51, fp=1, fn=1)
        >>> f"{low:.3f} {high:.3f}"
        '0.932 0.995'
    """
    for name, count in (("tp", tp), ("fp", fp), ("fn", fn)):
        if index(count) < 0:
            raise SettingError(name, count, "a count of at least 0")
    jaccard = wilson(tp, tp + fp + fn, confidence)
    if jaccard is None:
        return None
    low, high = jaccard
    return 2.0 * low / (1.0 + low), 2.0 * high / (1.0 + high)
