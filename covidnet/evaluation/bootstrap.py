"""The bootstrap over patients: intervals that know that films of one patient resemble each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.errors import SettingError
from covidnet.evaluation.intervals import wilson

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
        raise SettingError("resamples", resamples, "a whole number from 1 on")
    patients = int(codes.max()) + 1 if len(codes) else 0
    if patients == 0:
        return np.zeros((resamples, 0), dtype=np.int32)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(patients, np.full(patients, 1.0 / patients), size=resamples)
    return drawn[:, codes].astype(np.int32)


def percentile_interval(values: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float] | None:
    """The middle part of a bootstrap distribution (Efron's percentile interval).

    Args:
        values: (B,) the statistic in each resample; NaN where it does not exist.
        confidence: the share in the middle.

    Returns:
        Its ends. None where the bootstrap degenerates: all resamples give one value, as with 52 of 52, or more than a
        tenth of them have none.
    """
    numbers = np.asarray(values, np.float64)
    there = numbers[np.isfinite(numbers)]
    if len(there) < max(2, _DEFINED * len(numbers)) or np.ptp(there) < 1e-12:
        return None
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(there, [tail, 100.0 - tail])
    return float(low), float(high)


def area_estimate(value: float, resampled: npt.ArrayLike, positive: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """An area under a ROC curve with its interval.

    Where the bootstrap degenerates, as with perfect separation, the interval is Wilson's on min(positives, negatives)
    trials: that many pairs share no image, and the area is the share of pairs in the right order. Where that is no
    whole number of pairs the lower end is that of the next lower one, the upper that of the next higher one. It is wide
    rather than narrow.

    Args:
        value: the area, or NaN where a class is absent.
        resampled: (B,) the areas in the resamples.
        positive: (n,) which images are positive.

    Returns:
        ``value``, ``ci`` and ``method``, each None where there is none.
    """
    if not np.isfinite(value):
        return {"value": None, "ci": None, "method": None}
    found, method = percentile_interval(resampled), "bootstrap"
    if found is None:
        pairs = int(min(positive.sum(), (~positive).sum()))
        # Rounded outwards: an area just below 1 is not taken for 1, and the interval holds its own area.
        lower = wilson(int(np.floor(value * pairs + 1e-9)), pairs)
        upper = wilson(int(np.ceil(value * pairs - 1e-9)), pairs)
        found, method = (None if lower is None or upper is None else (lower[0], upper[1])), "wilson"
    return {"value": float(value), "ci": None if found is None else list(found), "method": method if found else None}
