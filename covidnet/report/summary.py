"""The summary of a sweep, which summary.json holds: every number and fact that its reports show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.localisation import LocalisationSummary
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.results import Interval, Measured
from covidnet.evaluation.sanity import SanitySummary
from covidnet.evaluation.scores import PointScores, SplitScores
from covidnet.evaluation.selection import Candidate, ObservedChoice, SimulatedChoice

ALL = "All classes"
"""What stands for the class in a row about all of them."""

Loss = Literal["train_loss", "val_loss"]

Settings = dict[str, Any]
"""A part of a run's config.yaml: whatever settings there were."""


@dataclass(frozen=True)
class ClassCounts:
    """The images of a class.

    Args:
        images: in all folds.
        train: that one model was trained on.
        val: that one model was validated on.
        train_augmented: inputs of one epoch, copies included.
        test: in the test folds.
        unseen: in the unseen fold.
        left_out: of the balanced draw.
    """

    images: int | None
    train: int | None
    val: int | None
    train_augmented: int | None
    test: int | None
    unseen: int | None
    left_out: int | None


@dataclass(frozen=True)
class DataFacts:
    """The data set and its split.

    Args:
        name: of the data group.
        synthetic: whether the images are phantoms.
        group: the setting split.group.
        validation: the setting split.validation.
        view: the setting data.view; None is all views.
        refused: files.
        images: in the folds.
        left_out: images, of the balanced draw.
        patients: that are known.
        unknown_patients: images of an unknown patient.
        per_fold: images of each class in a fold.
        classes: by name.
    """

    name: str | None
    synthetic: bool | None
    manifest_sha256: str | None
    split_sha256: str | None
    group: str | None
    validation: str | None
    view: str | None
    refused: int | None
    images: int | None
    left_out: int | None
    patients: int | None
    unknown_patients: int | None
    per_fold: int | None
    classes: dict[str, ClassCounts]


@dataclass(frozen=True)
class FoldScores:
    """The numbers of one model.

    Args:
        fold: its test fold.
        n: images of the test fold.
        val: on its validation images; None without any, and so for the others.
        test: on its test fold.
        unseen: on the unseen fold.
    """

    fold: int | None
    n: int | None
    val: PointScores | None
    test: PointScores | None
    unseen: PointScores | None


@dataclass(frozen=True)
class UnseenScores:
    """The numbers of the unseen fold.

    Args:
        mean: over the models.
        sd: over the models.
        ensemble: of the mean of the models' probabilities.
        selected: of the selected model.
        paper_selected: of the model with the highest accuracy here.
    """

    mean: PointScores
    sd: PointScores
    ensemble: SplitScores
    selected: SplitScores | None
    paper_selected: SplitScores | None


@dataclass(frozen=True)
class UnseenUse:
    """How often the unseen fold has been scored, as far as that is known.

    Args:
        setting: ``scored`` or ``locked``.
        here: models of the sweep that were scored on it.
        openings: when it was opened, where it was locked.
        runs: all that scored it, those in the cache and those of the sweep; None where none is known.
        exact: whether the cache has all that are known.
        words: the end of a sentence with that number.
        notes: sentences for the reader.
    """

    setting: str | None
    here: int | None
    openings: list[str]
    runs: int | None
    exact: bool | None
    words: str | None
    notes: list[str]


_OMIT_NONE = {"omit_none": True}


@dataclass(frozen=True)
class Selection:
    """Which model was selected, and what selecting adds to its number.

    Args:
        rule: of `covidnet.evaluation.selection.RULES`.
        fold: of the selected model; None where none was.
        label: how it was selected, as the end of a sentence.
        candidates: the models.
        paper_fold: of the model that the paper's rule selects.
        n: images of the unseen fold.
        models: how many.
        simulated: see `covidnet.evaluation.selection.SelectionReport`; None while the fold is locked.
    """

    rule: str | None
    fold: int | None
    label: str | None
    candidates: list[Candidate]
    paper_fold: int | None
    n: int | None
    models: int | None
    simulated: SimulatedChoice | None = field(metadata=_OMIT_NONE)
    chance: SimulatedChoice | None = field(metadata=_OMIT_NONE)
    data: ObservedChoice | None = field(metadata=_OMIT_NONE)


@dataclass(frozen=True)
class Panel:
    """A sheet of heat maps.

    Args:
        title: what it shows.
        path: relative to the sweep folder.
    """

    title: str | None
    path: str | None


@dataclass(frozen=True)
class SweepExplanations:
    """What the models of a sweep look at.

    Args:
        method: of `covidnet.models.saliency`.
        weights: that the backbone started from.
        freeze: whether the backbone was frozen.
        part: the split of the images; None is ``unseen``.
        folds: of the models that were explained.
        fold: of the model whose panels are shown.
        panels: of that model.
        constant_maps: for each part of the work how many maps of all runs are constant, and of how many.
        localisation: where the maps lie; None where that was not measured.
        sanity: whether they depend on the network; None where that was not tested.
    """

    method: str | None
    weights: str | None
    freeze: bool | None
    part: str | None
    folds: list[int]
    fold: int | None
    panels: list[Panel]
    constant_maps: dict[str, tuple[int, int]]
    localisation: LocalisationSummary | None
    sanity: SanitySummary | None


@dataclass(frozen=True)
class ScoreIntervals:
    """95% intervals of the Brier score and the log loss."""

    brier: Interval | None
    loss: Interval | None


@dataclass(frozen=True)
class ScoredCalibration(Calibration):
    """How well probabilities are calibrated, and how good they are.

    Args:
        loss: mean negative log likelihood.
        accuracy: fraction of 1.
        ci: intervals of two of these.
    """

    loss: float | None
    accuracy: float | None
    ci: ScoreIntervals


@dataclass(frozen=True)
class Temperature:
    """The temperature of one model.

    Args:
        fold: its test fold.
        value: None without validation images.
        n: images that it was fitted on.
    """

    fold: int | None
    value: float | None
    n: int | None


@dataclass(frozen=True)
class CalibrationChange:
    """Calibration after the temperature less that before."""

    ece: float | None
    brier: Measured
    loss: Measured


@dataclass(frozen=True)
class SweepCalibration:
    """Calibration of a sweep before and after each model's own temperature.

    What comes after is None where a run has no temperature, because both would not be of the same models.

    Args:
        pooled: the pooled test folds, as predicted.
        pooled_calibrated: after the temperatures.
        ensemble_unseen: the mean of the models on the unseen fold; None while that is locked.
        ensemble_unseen_calibrated: the mean of the tempered probabilities.
        temperatures: of each run.
        change: after less before, of ``pooled`` and ``ensemble_unseen``.
        ensemble_changed: images that the ensemble calls by another class after.
    """

    pooled: ScoredCalibration | None
    pooled_calibrated: ScoredCalibration | None
    ensemble_unseen: ScoredCalibration | None
    ensemble_unseen_calibrated: ScoredCalibration | None
    temperatures: list[Temperature]
    change: dict[str, CalibrationChange] | None
    ensemble_changed: int | None


@dataclass(frozen=True)
class SweepCurves:
    """Curves by class: of the pooled test folds, and of the ensemble on the unseen fold."""

    pooled: dict[str, ClassCurves]
    unseen: dict[str, ClassCurves] | None


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has, and how many training changes."""

    all: int | None
    trained: int | None


@dataclass(frozen=True)
class InputFacts:
    """What a model gets.

    Args:
        size: pixels of a side.
        fit: the setting data.fit.
        channels: 1 or 3.
        mean: subtracted from the grey values, for each channel.
        std: divided by.
        min_side: pixels.
        max_megapixels: of a file.
    """

    size: int | None
    fit: str | None
    channels: int | None
    mean: list[float] | None
    std: list[float] | None
    min_side: int | None
    max_megapixels: float | None


@dataclass(frozen=True)
class Origin:
    """Where images come from, or how they were taken, and how far that alone tells their class.

    Args:
        counts: value, then class, then images; rare values together.
        unknown: images.
        n: the other images.
        share: of those n, how many have the commonest class of their value.
        base: how many have the commonest class of all.
    """

    counts: dict[str, dict[str, int]]
    unknown: int | None
    n: int | None
    share: float | None
    base: float | None


@dataclass(frozen=True)
class GateFacts:
    """How many held-out images the input gate refused.

    Args:
        n: images that it was asked about.
        refused: of them.
    """

    n: int | None
    refused: int | None


@dataclass(frozen=True)
class CardFacts:
    """What a model card says beside the numbers.

    Args:
        trained: the day of the last line of the runs' logs.
        source: where the images come from; None where that is not known.
        view: how they were taken; None where that is not known.
        gate: None where the runs have none.
        weights_licence: of the weights that the backbone started from; None where it is not known.
    """

    trained: str | None
    parameters: Parameters | None
    input: InputFacts
    source: Origin | None
    view: Origin | None
    gate: GateFacts | None
    weights_licence: str | None = None


@dataclass(frozen=True)
class TrainingCurve:
    """The loss of one model by epoch.

    Args:
        fold: its test fold.
        best: the epoch whose weights were kept; None where it is not known.
        stopped: the epoch at which training stopped, as older versions recorded it.
    """

    fold: int | None
    epoch: list[int]
    train_loss: list[float | None]
    val_loss: list[float | None]
    best: int | None
    stopped: int | None = field(default=None, metadata=_OMIT_NONE)

    def of(self, loss: Loss) -> list[float | None]:
        """One of the losses."""
        return self.train_loss if loss == "train_loss" else self.val_loss


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap."""

    resamples: int | None
    seed: int | None


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of what the numbers were computed from; that of the predictions by fold."""

    manifest_sha256: str | None
    split_sha256: str | None
    weights_sha256: str | None
    predictions_sha256: dict[str, str | None]


@dataclass(frozen=True)
class SweepSummary:
    """All numbers of a sweep or of a single run, and the facts beside them.

    Args:
        name: what the sweep is called.
        folder: the sweep folder.
        folds: that finished.
        problems: what is wrong with the runs, one line each.
        notes: what a reader has to know, one sentence each.
        model: settings of the network, and the hash of its weights.
        augment: settings of the augmentation.
        training: the seed, and settings of the training.
        pooled: every image of the test folds once, as predicted by the model that did not see it.
        per_fold: one for each model.
        mean: over the test folds.
        sd: over the test folds.
        unseen: None while the unseen fold is locked.
        explanations: None where no run was explained.
        asked: settings of the command that differ from its defaults.
        seconds: what the steps of all runs took.
        paper: whether the paper's numbers stand beside these; None for the paper's own data alone.
    """

    name: str | None
    folder: str | None
    folds: list[int]
    problems: list[str]
    notes: list[str]
    data: DataFacts
    model: Settings
    augment: Settings
    training: Settings
    pooled: SplitScores
    per_fold: list[FoldScores]
    mean: PointScores
    sd: PointScores
    unseen: UnseenScores | None
    unseen_use: UnseenUse
    selection: Selection
    explanations: SweepExplanations | None
    calibration: SweepCalibration
    curves: SweepCurves
    card: CardFacts
    training_curves: list[TrainingCurve]
    bootstrap: Bootstrap
    asked: Settings
    versions: dict[str, str | None]
    git_revision: str | None
    hashes: Hashes
    seconds: dict[str, float | None]
    paper: bool | None = None
