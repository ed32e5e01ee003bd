"""The bootstrap over patients: intervals that know that images of one patient resemble each other."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from covidnet.base.errors import SettingError

# Of the resamples so many must have a value for the interval to mean something.
_DEFINED = 0.9


def cluster_codes(table: pd.DataFrame) -> npt.NDArray[np.intp]:
    """A number for the patient of each row; an image of an unknown patient is a patient of its own.

    Args:
        table: columns image_id and patient_id.

    Returns:
        (n,) numbers 0..patients-1, in the order of first appearance.

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


def cluster_weights(codes: npt.NDArray[np.intp], resamples: int = 2000, seed: int = 0) -> npt.NDArray[np.int32]:
    """How often each row is drawn when whole patients are drawn with replacement, as many as there are.

    Args:
        codes: (n,) the patient of each row, 0..patients-1.
        resamples: B, at least 1.
        seed: of the draw.

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


def percentile_interval(values: npt.ArrayLike, units: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """The middle part of a bootstrap distribution, widened for few patients (the expanded percentile interval).

    Args:
        values: (B,) the statistic in each resample; NaN where it does not exist.
        units: patients that were drawn from. With few of them the plain percentiles are too narrow: the resamples vary
            too little by (units - 1) / units, and a normal quantile stands where Student's t belongs.
        confidence: the share in the middle.

    Returns:
        Its ends. None where the bootstrap degenerates: fewer than two patients, all resamples give one value, as with
        52 of 52, or more than a tenth of them have none.

    Source: Hesterberg 2015, What teachers should know about the bootstrap, section 5.2,
    https://doi.org/10.1080/00031305.2015.1089789
    """
    numbers = np.asarray(values, np.float64)
    there = numbers[np.isfinite(numbers)]
    if units < 2 or len(there) < max(2, _DEFINED * len(numbers)) or np.ptp(there) < 1e-12:
        return None
    quantile = sqrt(units / (units - 1)) * stats.t.ppf((1.0 + confidence) / 2.0, units - 1)
    tail = 100.0 * float(stats.norm.sf(quantile))
    low, high = np.percentile(there, [tail, 100.0 - tail])
    return float(low), float(high)
