"""Arithmetic of published tables: which printed numbers cannot hold together.

A rate of n images is one of n + 1 fractions, so that few combinations of printed rates are possible. The idea is that
of the GRIM test (Brown and Heathers 2017, https://doi.org/10.1177/1948550616673876).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.errors import DataError
from covidnet.base.names import counted

NAME = "published_tables"

RATES = ("sensitivity", "specificity", "accuracy", "f1", "ppv", "npv")
"""Columns of a published table, besides name, positives and negatives."""


@dataclass(frozen=True)
class Printed:
    """A printed rate: all fractions that round to it.

    Args:
        text: as printed, 0.977 or 97.7% or 97.7.
        low: the smallest fraction of 1.
        high: the largest.
    """

    text: str
    low: float
    high: float


def published_tables(study: Study) -> Answer:
    """Check each row of ``audit.published``.

    Raises:
        NotPossibleError: no table is given.
        DataError: it cannot be read.
    """
    if study.published is None:
        raise NotPossibleError("no published table; give audit.published=FILE")
    try:
        table = pd.read_csv(study.published, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{study.published}: not a readable CSV ({error}); save it as UTF-8 with a header line"
        ) from None
    lacking = [name for name in ("name", "positives", "negatives") if name not in table]
    if lacking:
        raise DataError(f"{study.published}: no column {lacking[0]}; needed are name, positives, negatives and rates")
    rows = []
    for row in table.to_dict("records"):
        sizes = [str(row[name]).replace(",", "") for name in ("positives", "negatives")]
        if not all(size.isdecimal() and int(size) for size in sizes):
            raise DataError(f"{study.published}: {row['name']}: positives and negatives must be counts above 0")
        given = {name: printed(str(row[name])) for name in RATES if str(row.get(name, "")).strip()}
        for name, (low, high, holds) in consistent(given, int(sizes[0]), int(sizes[1])).items():
            text = given[name].text if name in given else "all of the above"
            rows.append((row["name"], name, text, low, high, "yes" if holds else "no"))
    found = pd.DataFrame(rows, columns=["name", "rate", "printed", "possible_low", "possible_high", "holds"])
    wrong = found[found["holds"] == "no"]
    notes = [
        f"{counted(len(found), 'printed rate')} of {counted(len(table), 'row')} of {study.published.name} checked."
    ]
    if not len(wrong):
        return Answer((), {"published_tables": found}, notes)
    some = "; ".join(_sentence(row) for row in wrong.head(5).to_dict("records"))
    what = f"{len(wrong):,} of {len(found):,} printed rates cannot be right: {some}."
    meaning = (
        "With these numbers of images no confusion matrix gives these rates together: at least one of them is wrong."
    )
    remedy = "Ask the authors for the confusion matrix; do not compare with these numbers until then."
    share = len(wrong) / len(found)
    return Answer([Finding(NAME, "blocks", what, share, None, (), meaning, remedy)], {"published_tables": found}, notes)


def printed(text: str) -> Printed:
    """A printed rate; above 1, or with a percent sign, it is in percent.

    Args:
        text: such as 0.977, 97.7 or 97.7%.

    Raises:
        DataError: it is not a rate.

    Example:
        >>> printed("97.7%")
        Printed(text='97.7%', low=0.9765, high=0.9775)
    """
    word = text.strip().removesuffix("%").strip()
    try:
        value = Decimal(word)
        exponent = int(value.as_tuple().exponent)
    except (InvalidOperation, ValueError):
        raise DataError(f"{text}: not a rate; print it as 0.977 or 97.7%") from None
    scale = Decimal(100) if "%" in text or value > 1 else Decimal(1)
    half = Decimal(5).scaleb(exponent - 1)
    if not 0 <= value <= scale:
        raise DataError(f"{text}: not a rate; must be 0 to 1, or 0% to 100%")
    low, high = max(Decimal(0), value - half), min(scale, value + half)
    return Printed(text.strip(), float(low / scale), float(high / scale))


def consistent(given: Mapping[str, Printed], positives: int, negatives: int) -> dict[str, tuple[float, float, bool]]:
    """For each printed rate, what counts of images allow that agree with sensitivity and specificity.

    Args:
        given: printed rates by name, of `RATES`.
        positives: images of the class.
        negatives: other images.

    Returns:
        By rate: the smallest and the largest possible value, and whether one of them is printed so. ``together`` is
        added where each rate is possible, but no confusion matrix gives all of them.
    """
    tp, tn = _counts(given.get("sensitivity"), positives), _counts(given.get("specificity"), negatives)
    fn, fp = positives - tp[:, None], negatives - tn[None]
    hit, miss = tp[:, None], tn[None]
    nan = np.full((len(tp), len(tn)), np.nan)
    values = {
        "sensitivity": np.broadcast_to(hit / positives, nan.shape),
        "specificity": np.broadcast_to(miss / negatives, nan.shape),
        "accuracy": (hit + miss) / (positives + negatives),
        "f1": np.divide(2.0 * hit, 2 * hit + fp + fn, out=nan.copy(), where=hit + fp + fn > 0),
        "ppv": np.divide(1.0 * hit, hit + fp, out=nan.copy(), where=hit + fp > 0),
        "npv": np.divide(1.0 * miss, miss + fn, out=nan.copy(), where=miss + fn > 0),
    }
    found: dict[str, tuple[float, float, bool]] = {}
    every = np.ones(nan.shape, bool)
    for name, one in given.items():
        cells = values[name]
        fits = (cells >= one.low - 1e-9) & (cells <= one.high + 1e-9)
        every &= fits
        known = cells[np.isfinite(cells)]
        ends = (float(known.min()), float(known.max())) if len(known) else (np.nan, np.nan)
        found[name] = (*ends, bool(fits.any()))
    if all(holds for _, _, holds in found.values()) and not every.any():
        found["together"] = (np.nan, np.nan, False)
    return found


def _counts(rate: Printed | None, n: int) -> npt.NDArray[np.int64]:
    """The counts of n images that a rate is printed for; the nearest one where there is none, all without a rate."""
    counts = np.arange(n + 1)
    if rate is None:
        return counts
    fits = counts[(counts / n >= rate.low - 1e-9) & (counts / n <= rate.high + 1e-9)]
    return fits if len(fits) else np.array([round((rate.low + rate.high) / 2 * n)])


def _sentence(row: Mapping[object, object]) -> str:
    low, high = (float(str(row[name])) for name in ("possible_low", "possible_high"))
    about = f"{low:.2%}" if abs(high - low) < 5e-5 else f"{low:.2%} to {high:.2%}"
    possible = f"possible is {about}" if np.isfinite(low) else "no confusion matrix gives all rates"
    return f"{row['name']}: {row['rate']} {row['printed']}, {possible}"
