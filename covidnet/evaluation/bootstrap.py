"""The bootstrap over patients: images of one patient are correlated, so whole patients are resampled."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from covidnet.base.errors import SettingError

# The least fraction of resamples in which the statistic must be defined for an interval.
_MIN_DEFINED = 0.9

# Draws in memory at once.
_BLOCK = 2**21


def cluster_codes(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """The patient of each row as an integer; an image without a patient_id counts as its own patient.

    Args:
        table: columns image_id and patient_id.

    Returns:
        (n,) codes 0..patients-1, in order of first appearance.

    Example:
        >>> rows = pd.DataFrame({"image_id": ["a", "b", "c", "d"], "patient_id": ["p", None, "p", None]})
        >>> cluster_codes(rows).tolist()
        [0, 1, 0, 2]
    """
    keys = [
        ("image", image_id) if pd.isna(patient) else ("patient", patient)
        for image_id, patient in zip(table["image_id"], table["patient_id"], strict=True)
    ]
    numbers: dict[tuple[str, Any], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.intp)


RESAMPLES = 2000
"""Bootstrap resamples unless a command says otherwise."""


def cluster_weights(codes: npt.NDArray[np.intp], resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.int32]:
    """How often each row is drawn in each bootstrap resample of whole patients.

    Args:
        codes: (n,) the patient of each row, 0..patients-1.
        resamples: B, at least 1.
        seed: of the random draws.

    Returns:
        (B, n) counts.

    Raises:
        SettingError: resamples is below 1.

    Source: Field and Welsh 2007, Bootstrapping clustered data, https://doi.org/10.1111/j.1467-9868.2007.00593.x
    """
    if resamples < 1:
        raise SettingError("resamples", resamples, "an integer of at least 1")
    patients = int(codes.max()) + 1 if len(codes) else 0
    if patients == 0:
        return np.zeros((resamples, 0), dtype=np.int32)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(patients, np.full(patients, 1.0 / patients), size=resamples)
    return drawn[:, codes].astype(np.int32)


def resampled_sums(
    codes: npt.NDArray[np.intp], values: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Sums over the rows of each bootstrap resample of whole patients: those of `cluster_weights`, in little memory.

    Values are summed by patient first, and resamples are drawn in blocks, so that the memory depends on neither rows
    times resamples nor patients times resamples.

    Args:
        codes: (n,) the patient of each row, 0..patients-1.
        values: (n, k).
        resamples: B, at least 1.
        seed: of the random draws; the same draws as in `cluster_weights`.

    Returns:
        (B, k).

    Raises:
        SettingError: resamples is below 1.

    Example:
        >>> codes, values = np.array([0, 0, 1]), np.array([[1.0], [2.0], [4.0]])
        >>> np.allclose(resampled_sums(codes, values, 50), cluster_weights(codes, 50) @ values)
        True
    """
    if resamples < 1:
        raise SettingError("resamples", resamples, "an integer of at least 1")
    rows = np.asarray(values, np.float64)
    patients = int(codes.max()) + 1 if len(codes) else 0
    found = np.zeros((resamples, rows.shape[1]))
    if patients == 0:
        return found
    sums = np.zeros((patients, rows.shape[1]))
    np.add.at(sums, codes, rows)
    rng, shares = np.random.default_rng(seed), np.full(patients, 1.0 / patients)
    block = max(1, _BLOCK // patients)
    for start in range(0, resamples, block):
        part = found[start : start + block]
        part[:] = rng.multinomial(patients, shares, size=len(part)) @ sums
    return found


def percentile_interval(values: npt.ArrayLike, units: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """The expanded percentile interval of a bootstrap distribution, which is wider with few patients.

    Args:
        values: (B,) the statistic in each resample; NaN where it is undefined.
        units: the number of patients resampled. With few patients plain percentiles are too narrow: the variance of the
            resamples is too small by (units - 1) / units, and a normal quantile replaces Student's t.
        confidence: the nominal coverage.

    Returns:
        (low, high). None where the bootstrap degenerates: fewer than two patients, the same value in all resamples, as
        with 52 of 52 correct, or undefined in more than a tenth of them.

    Source: Hesterberg 2015, What teachers should know about the bootstrap, section 5.2,
    https://doi.org/10.1080/00031305.2015.1089789
    """
    numbers = np.asarray(values, np.float64)
    defined = numbers[np.isfinite(numbers)]
    if units < 2 or len(defined) < max(2, _MIN_DEFINED * len(numbers)) or np.ptp(defined) < 1e-12:
        return None
    quantile = sqrt(units / (units - 1)) * stats.t.ppf((1.0 + confidence) / 2.0, units - 1)
    tail = 100.0 * float(stats.norm.sf(quantile))
    low, high = np.percentile(defined, [tail, 100.0 - tail])
    return float(low), float(high)
