"""Selecting one of the ten models, and the optimism that selection adds to its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from covidnet.base.errors import DataError, SettingError
from covidnet.evaluation.intervals import design_effect
from covidnet.evaluation.results import Interval

RULES = ("inner", "paper")
"""inner: by each model's validation images. paper: by the unseen fold, on which the selected model is then reported."""

REPEATS = 2000
"""Number of simulated or resampled selections."""


@dataclass(frozen=True)
class Candidate:
    """A model that can be selected, with its metrics on its validation images and on the unseen fold.

    Args:
        fold: its test fold.
        val_positive_sensitivity: that of the positive class, if it is not COVID-19 among the default classes.
        unseen_positive_sensitivity: likewise.
    """

    fold: int | None
    val_accuracy: float | None = None
    val_loss: float | None = None
    val_covid19_sensitivity: float | None = None
    unseen_accuracy: float | None = None
    unseen_loss: float | None = None
    unseen_covid19_sensitivity: float | None = None
    val_positive_sensitivity: float | None = field(default=None, metadata={"omit_none": True})
    unseen_positive_sensitivity: float | None = field(default=None, metadata={"omit_none": True})

    @property
    def val_sensitivity(self) -> float | None:
        """Of the positive class, on the validation images."""
        known = self.val_positive_sensitivity
        return self.val_covid19_sensitivity if known is None else known

    @property
    def unseen_sensitivity(self) -> float | None:
        """Of the positive class, on the unseen fold."""
        known = self.unseen_positive_sensitivity
        return self.unseen_covid19_sensitivity if known is None else known


@dataclass(frozen=True)
class SimulatedChoice:
    """The best of several equally good models with independent errors.

    Args:
        accuracy: the true accuracy of each model.
        n: number of images.
        expected_best: the expected accuracy of the best.
        range: the accuracy of the best in the central 95% of simulations.
        optimism: expected_best minus accuracy.
        repeats: number of simulations.
    """

    accuracy: float | None
    n: int | None
    expected_best: float | None
    range: Interval | None
    optimism: float | None
    repeats: int | None


@dataclass(frozen=True)
class ObservedChoice:
    """The best of the models on the unseen fold.

    Args:
        best: its accuracy.
        mean: the mean accuracy of all models.
        apparent_optimism: best minus mean.
        split_half_optimism: see the function `split_half_optimism`.
        repeats: number of random splits into halves.
    """

    best: float | None
    mean: float | None
    apparent_optimism: float | None
    split_half_optimism: float | None
    repeats: int | None


@dataclass(frozen=True)
class SelectionReport:
    """How much selecting the best model by the unseen fold adds to its accuracy there.

    Args:
        n: number of images.
        models: number of models.
        simulated: for models with the mean accuracy of these, on the effective number of images: n over the models'
            mean `design_effect`.
        chance: the same for models that guess.
        data: observed with these models.
    """

    n: int
    models: int
    simulated: SimulatedChoice
    chance: SimulatedChoice
    data: ObservedChoice


def choose(candidates: Sequence[Candidate], rule: str = "inner") -> int:
    """The fold of the selected model.

    Args:
        candidates: the models. The rule ``inner`` uses their ``val_`` metrics, ``paper`` their ``unseen_`` metrics.
        rule: one of `RULES`.

    Returns:
        The fold with the highest accuracy; ties go to the higher sensitivity of the positive class (COVID-19), then the
        lower loss, then the lower fold.

    Raises:
        SettingError: the rule is unknown, or the models lack the predictions that it needs.
        DataError: there are no models.

    Example:
        >>> models = [Candidate(0, unseen_accuracy=0.9, unseen_covid19_sensitivity=0.8, unseen_loss=0.3),
        ...           Candidate(1, unseen_accuracy=0.9, unseen_covid19_sensitivity=0.9, unseen_loss=0.4)]
        >>> choose(models, "paper")
        1
    """
    if rule not in RULES:
        raise SettingError("selection", rule, RULES)
    if not candidates:
        raise DataError("selection: no models to select from")
    part = "val" if rule == "inner" else "unseen"
    ranked: list[tuple[float, float, float, int]] = []
    for one in candidates:
        accuracy, sensitivity, loss = (
            (one.val_accuracy, one.val_sensitivity, one.val_loss)
            if rule == "inner"
            else (one.unseen_accuracy, one.unseen_sensitivity, one.unseen_loss)
        )
        if accuracy is None or one.fold is None:
            other = "paper" if rule == "inner" else "inner"
            raise SettingError("selection", rule, other, f"the runs have no {part} predictions")
        ranked.append(
            (-accuracy, 1.0 if sensitivity is None else -sensitivity, np.inf if loss is None else loss, one.fold)
        )
    return min(ranked)[-1]


def best_of(p: float, n: int, models: int) -> npt.NDArray[np.float64]:
    """The distribution of the best of several equally good models with independent errors.

    The best of m models has at most k of n images correct if all models do, so its distribution function is that of one
    model to the power m.

    Args:
        p: the accuracy of each, 0..1.
        n: number of images, at least 1.
        models: number of models, at least 1.

    Returns:
        (n + 1,) probabilities of 0, 1, .. n correct images.

    Raises:
        DataError: an argument is out of range.

    Example:
        >>> best_of(0.5, 1, 2).round(4).tolist()
        [0.25, 0.75]
    """
    if not 0.0 <= p <= 1.0 or n < 1 or models < 1:
        raise DataError(f"p={p}, n={n}, models={models}: must be 0 to 1, and integers of at least 1")
    below = binom.cdf(np.arange(n + 1), n, p) ** models
    return np.diff(below, prepend=0.0)


def expected_best(accuracy: float, n: int, models: int) -> float:
    """The expected accuracy of the best of several equally good models with independent errors.

    Exact: the mean of the largest of `models` binomial draws, divided by n.

    Args:
        accuracy: the true accuracy of every model, 0..1.
        n: number of images that they are compared on, at least 1.
        models: number of models, at least 1.

    Example:
        >>> round(expected_best(0.946, 156, 10), 3)
        0.972
    """
    if n < 1 or models < 1 or not 0.0 <= accuracy <= 1.0:
        raise SettingError("accuracy, n, models", (accuracy, n, models), "0 to 1, and integers of at least 1")
    return float(np.arange(n + 1) @ best_of(accuracy, n, models) / n)


def simulated_best(
    accuracy: float, n: int, models: int, repeats: int = REPEATS, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Simulated accuracies of the best of several equally good models.

    Args:
        accuracy: as in `expected_best`.
        n: as in `expected_best`.
        models: as in `expected_best`.
        repeats: R, the number of simulations.
        seed: of the simulations.

    Returns:
        (R,) accuracies of the best.
    """
    drawn = np.random.default_rng(seed).binomial(n, accuracy, size=(repeats, models))
    return np.asarray(drawn.max(axis=1) / n)


def split_half_optimism(
    right: npt.NDArray[np.bool_], codes: npt.NDArray[np.intp], repeats: int = REPEATS, seed: int = 0
) -> float | None:
    """How much selecting the best model on a set of images adds to its accuracy there, estimated from predictions.

    Patients are split into two random halves. The best model on one half is scored on it and on the other half, which
    played no part in the selection. The optimism is the mean difference divided by the square root of 2: the whole set
    is twice as large, and chance differences shrink with the square root of the size. Unlike `expected_best` this
    accounts for correlation between the models.

    Args:
        right: (models, n) whether each model is correct on each image.
        codes: (n,) the patient of each image, see `cluster_codes`.
        repeats: number of random splits.
        seed: of the splits.

    Returns:
        A difference of accuracies, near 0 where all models are alike; None for fewer than two patients.
    """
    patients = int(codes.max()) + 1 if len(codes) else 0
    if patients < 2:
        return None
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(patients), (repeats, 1)), axis=1)
    inside = (order < patients // 2)[:, codes].astype(np.float64)
    outside = 1.0 - inside
    hits = right.T.astype(np.float64)
    selected_on = inside @ hits / inside.sum(1, keepdims=True)
    scored_on = outside @ hits / outside.sum(1, keepdims=True)
    # Ties are broken at random: the first of them would be the same model in both halves.
    best = (selected_on + rng.uniform(0.0, 1e-9, selected_on.shape)).argmax(axis=1)
    rows = np.arange(repeats)
    return float((selected_on[rows, best] - scored_on[rows, best]).mean() / sqrt(2.0))


def selection_report(
    right: npt.NDArray[np.bool_], codes: npt.NDArray[np.intp], seed: int = 0, classes: int = 3
) -> SelectionReport:
    """The optimism of selecting the best model on the unseen fold, by simulation and in the data.

    Args:
        right: (models, n) whether each model is correct on each unseen image.
        codes: (n,) the patient of each image.
        seed: of the simulation and the random splits.
        classes: how many the models choose from.
    """
    models, n = right.shape
    if not n:
        raise DataError("selection: the models have no unseen images in common")
    accuracies = right.mean(axis=1)
    mean, best = float(accuracies.mean()), float(accuracies.max())
    effective = max(1, round(n / float(np.mean([design_effect(row, codes) for row in right]))))
    return SelectionReport(
        n=n,
        models=models,
        simulated=_simulated(mean, effective, models, seed),
        chance=_simulated(1.0 / classes, effective, models, seed),
        data=ObservedChoice(best, mean, best - mean, split_half_optimism(right, codes, seed=seed), REPEATS),
    )


def _simulated(accuracy: float, n: int, models: int, seed: int) -> SimulatedChoice:
    exact = expected_best(accuracy, n, models)
    low, high = np.percentile(simulated_best(accuracy, n, models, seed=seed), [2.5, 97.5])
    return SimulatedChoice(accuracy, n, exact, (float(low), float(high)), exact - accuracy, REPEATS)
