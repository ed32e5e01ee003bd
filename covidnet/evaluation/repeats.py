"""How much of the spread of repeated cross-validation comes from the split, the head's seed and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from covidnet.base.errors import DataError


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a metric over repeats, as fractions of 1; None where one of them cannot be told.

    Args:
        mean: over the splits, each the mean over its seeds.
        low: of the worst repeat.
        high: of the best repeat.
        repeats: the number of values.
        splits: the number of splits.
        split: of the split alone; of split and seed together if no split has two seeds. 0 where the splits differ no
            more than their seeds explain.
        seed: of the seed of training, within a split.
        images: of the draw of patients, which every repeat shares and no number of repeats lowers.
    """

    mean: float
    low: float
    high: float
    repeats: int
    splits: int
    split: float | None
    seed: float | None
    images: float | None


def spread(values: Mapping[str, Sequence[float]], errors: Sequence[float]) -> Spread:
    """Separate the variance of repeats by their splits, with the seeds nested in them.

    The estimates are those of a one-way analysis of variance with random effects: the seed's is the mean square within
    splits, the split's is the variance of the splits' means without the part that their seeds explain.

    Args:
        values: the metric of each seed, by split.
        errors: standard errors of the metric over patients, one for each value that has any.

    Raises:
        DataError: there is no value.

    Reference:
        Searle, S. R., Casella, G., McCulloch, C. E. (1992). Variance Components, chapter 3. Wiley.

    Example:
        >>> found = spread({"0": [0.90, 0.92], "1": [0.94, 0.96]}, [0.02])
        >>> [round(sd, 4) for sd in (found.mean, found.split, found.seed, found.images)]
        [0.93, 0.0265, 0.0141, 0.02]
    """
    groups = [np.asarray(of_split, float) for of_split in values.values() if len(of_split)]
    if not groups:
        raise DataError("repeats: no repeat has this metric")
    means, sizes = np.array([group.mean() for group in groups]), np.array([len(group) for group in groups])
    freedom = int((sizes - 1).sum())
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom if freedom else None
    between = None
    if len(groups) > 1:
        between = max(0.0, float(means.var(ddof=1)) - (within or 0.0) * float(np.mean(1.0 / sizes)))
    everything = np.concatenate(groups)
    return Spread(
        mean=float(means.mean()),
        low=float(everything.min()),
        high=float(everything.max()),
        repeats=len(everything),
        splits=len(groups),
        split=None if between is None else float(np.sqrt(between)),
        seed=None if within is None else float(np.sqrt(within)),
        images=float(np.sqrt(np.mean(np.square(errors)))) if len(errors) else None,
    )
