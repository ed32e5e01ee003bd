"""What limits the numbers of a model: the one list of caveats, each a code and a sentence."""

from __future__ import annotations

from enum import StrEnum


class Caveat(StrEnum):
    """A code, and the sentence that is printed for it."""

    RESEARCH_ONLY = "Research use only; not a medical device."
    SYNTHETIC = (
        "The images are synthetic phantoms: the numbers show that the method runs and are not clinical evidence."
    )
    TRAINED_ON_SYNTHETIC = "Trained on synthetic phantoms: predictions are not clinical evidence."
    RANDOM_BACKBONE = "The backbone is frozen with random weights: its features are arbitrary."
    RANDOM_START = "Training started from random weights, not from published ones."
    AUTO_RANDOM = "model.weights=auto had no published weights to start from, and took random ones."
    RANDOM_MAPS = "The backbone has random weights: a heat map is not clinical evidence."
    VALIDATION_TEST = "split.validation=test: the test fold also chose the checkpoint, so its numbers are optimistic."
    VALIDATION_NONE = "split.validation=none: the training loss chose the checkpoint."
    GROUP_IMAGE = (
        "split.group=image: training and test may hold images of the same patient, so the numbers may be optimistic."
    )
    UNBALANCED = (
        "split.balance=false: the folds are as unbalanced as the data set, so accuracy, predictive values and "
        "calibration hold for its prevalence alone."
    )
    SELECTION_SCORE = (
        "selection=paper: the unseen fold chose the model that it then scores; that number is a selection score."
    )
    FAST_DEV_RUN = "trainer.fast_dev_run: one batch of each split and no checkpoint; the numbers mean nothing."
    UNSEEN_LOCKED = "The unseen fold is locked: no model was scored on it."


def caveats_of(
    *,
    synthetic: bool = False,
    weights: str | None = None,
    weights_from: str | None = None,
    freeze: bool | None = False,
    validation: str | None = None,
    group: str | None = None,
    balanced: bool = True,
    selection: str | None = None,
    fast_dev_run: bool = False,
) -> list[Caveat]:
    """The caveats that follow from a run's data and settings.

    Args:
        synthetic: whether the images are phantoms.
        weights: ``model.weights``.
        weights_from: ``model.weights_from``.
        freeze: ``model.freeze``.
        validation: ``split.validation``.
        group: ``split.group``.
        balanced: whether the folds have equal numbers of each class.
        selection: the rule that chose among the models of a sweep.
        fast_dev_run: ``trainer.fast_dev_run``.

    Example:
        >>> [caveat.name for caveat in caveats_of(synthetic=True, weights="random", group="image")]
        ['SYNTHETIC', 'RANDOM_START', 'GROUP_IMAGE']
    """
    holds = {
        Caveat.SYNTHETIC: synthetic,
        Caveat.RANDOM_BACKBONE: weights == "random" and freeze,
        Caveat.RANDOM_START: weights == "random" and not freeze,
        Caveat.AUTO_RANDOM: weights == "random" and bool(weights_from),
        Caveat.VALIDATION_TEST: validation == "test",
        Caveat.VALIDATION_NONE: validation == "none",
        Caveat.GROUP_IMAGE: group == "image",
        Caveat.UNBALANCED: not balanced,
        Caveat.SELECTION_SCORE: selection == "paper",
        Caveat.FAST_DEV_RUN: fast_dev_run,
    }
    return [caveat for caveat, here in holds.items() if here]
