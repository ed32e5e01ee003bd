"""Nested selection: each fold is once the unseen one, and scores a model that was selected without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from covidnet.evaluation.results import Estimate, estimate
from covidnet.evaluation.scores import SplitScores


@dataclass(frozen=True)
class OuterFold:
    """One fold as the unseen one: the model that was selected without it, and what scored what.

    Args:
        fold: the drawn fold that is the unseen one, 0..10.
        n: number of its images.
        selected: the test fold of the selected model, as its run folder names it.
        accuracy: of the selected model on the outer fold.
        ensemble: accuracy of the ten models' mean probabilities on the outer fold.
        models: accuracy of each of the ten models on the outer fold, by test fold.
        validation: accuracy of the selected model on its own validation images.
        test: mean accuracy of the ten models, each on its own test fold.
    """

    fold: int
    n: int
    selected: int
    accuracy: float
    ensemble: float
    models: list[float]
    validation: float
    test: float


@dataclass(frozen=True)
class NestedScores:
    """The scores of nested selection.

    Args:
        outer: the complete outer folds, in order.
        selected: of the selected models, each on its outer fold, pooled over them: every image once.
        ensemble: of the ensembles of ten, likewise.
        problems: a line for each outer fold that is left out, and for each other problem.
        notes: the caveats of the runs' settings, as in the report of a sweep.
    """

    outer: list[OuterFold]
    selected: SplitScores
    ensemble: SplitScores
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Compared:
    """An estimate of the accuracy, and how far it is above that of nested selection.

    Args:
        key: ``selected``, ``ensemble``, ``models``, ``test``, ``validation`` or ``best``.
        accuracy: means over the outer folds have no interval.
        optimism: the accuracy minus that of the selected models; None for these.
    """

    key: str
    accuracy: Estimate
    optimism: float | None


def compared_estimates(scores: NestedScores) -> list[Compared]:
    """The accuracy by nested selection, and what a single study would have said, averaged over the outer folds.

    Args:
        scores: of nested selection.

    Returns:
        ``selected`` and ``ensemble``, pooled over the outer folds; ``models``, the mean of all models on the outer
        folds; ``test``, the mean of the test folds; ``validation``, the selected model on its own validation images;
        ``best``, the highest accuracy of the ten models on the unseen fold, as the paper selects.
    """
    outer = scores.outer
    means: dict[str, Sequence[float]] = {
        "models": [float(np.mean(one.models)) for one in outer],
        "test": [one.test for one in outer],
        "validation": [one.validation for one in outer],
        "best": [max(one.models) for one in outer],
    }
    found = {"selected": scores.selected.accuracy, "ensemble": scores.ensemble.accuracy}
    found |= {key: estimate(float(np.mean(values)), None, "") for key, values in means.items()}
    nested = scores.selected.accuracy.value

    def above(key: str) -> float | None:
        value = found[key].value
        return None if key == "selected" or value is None or nested is None else value - nested

    return [Compared(key, accuracy, above(key)) for key, accuracy in found.items()]
