"""The content of summary.json: every number and fact in the reports of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from covidnet.base.classes import ClassList
from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.localisation import LocalisationSummary
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.results import Interval, Measured
from covidnet.evaluation.sanity import SanitySummary
from covidnet.evaluation.scores import PointScores, SplitScores
from covidnet.evaluation.selection import Candidate, ObservedChoice, SimulatedChoice

ALL = "All classes"
"""The class name in a row about all classes."""

Loss = Literal["train_loss", "val_loss"]

Settings = dict[str, Any]
"""A part of a run's config.yaml."""


@dataclass(frozen=True)
class ClassCounts:
    """Numbers of images of a class.

    Args:
        images: in all folds.
        train: training images of one model.
        val: validation images of one model.
        train_augmented: inputs of one epoch, including augmented copies.
        test: in the test folds.
        unseen: in the unseen fold.
        left_out: excluded to balance the classes.
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
        view: the setting data.view; None means all views.
        refused: number of refused files.
        images: number of images in the folds.
        left_out: number of images excluded to balance the classes.
        patients: number of known patients.
        unknown_patients: number of images without a patient_id.
        per_fold: images of each class in a fold; None if they differ, or are unknown.
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

    @property
    def unbalanced(self) -> bool:
        """Whether the folds are known to have different numbers of the classes."""
        return self.images is not None and self.per_fold is None

    @property
    def prevalence(self) -> str | None:
        """The share of each class in the folds, as text; None if unknown."""
        counts = {name: counts.images for name, counts in self.classes.items()}
        total = sum(count or 0 for count in counts.values())
        if not total or None in counts.values():
            return None
        return ", ".join(f"{name} {(count or 0) / total:.1%}" for name, count in counts.items())


@dataclass(frozen=True)
class FoldScores:
    """The metrics of one model; None for a part without images.

    Args:
        fold: its test fold.
        n: number of images in the test fold.
        val: on its validation images.
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
    """The metrics on the unseen fold.

    Args:
        mean: over the models.
        sd: over the models.
        ensemble: of the models' mean probabilities.
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
    """How often the unseen fold has been scored, as far as known.

    Args:
        setting: ``scored`` or ``locked``.
        here: number of models of this sweep that were scored on it.
        openings: when it was opened, if it was locked.
        runs: number of runs that scored it, in the cache or this sweep; None if unknown.
        exact: whether the cache records all of these runs.
        words: that number as the end of a sentence.
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
_CLASSES = {"key": "classes", **_OMIT_NONE}


@dataclass(frozen=True)
class Selection:
    """The selected model, and the optimism that selection adds.

    Args:
        rule: one of `covidnet.evaluation.selection.RULES`.
        fold: fold of the selected model; None if none was selected.
        label: how it was selected, as the end of a sentence.
        candidates: the models.
        paper_fold: fold of the model that the paper's rule selects.
        n: number of images in the unseen fold.
        models: number of models.
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
    """Where the models of a sweep look.

    Args:
        method: a method of `covidnet.models.saliency`.
        weights: the initial weights of the backbone.
        freeze: whether the backbone was frozen.
        part: the split of the images; None means ``unseen``.
        folds: folds of the models with heat maps.
        fold: fold of the model whose panels are shown.
        panels: the panels of that model.
        constant_maps: by use of the maps, the number of constant maps of all runs and the number of maps.
        localisation: None if it was not measured.
        sanity: None if it was not tested.
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
    """Calibration with log loss, accuracy and intervals.

    Args:
        loss: mean negative log-likelihood.
        accuracy: fraction of 1.
        ci: intervals of the Brier score and the loss.
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
        n: number of images that it was fitted on.
    """

    fold: int | None
    value: float | None
    n: int | None


@dataclass(frozen=True)
class CalibrationChange:
    """Calibration after minus before temperature scaling."""

    ece: float | None
    brier: Measured
    loss: Measured


@dataclass(frozen=True)
class SweepCalibration:
    """Calibration of a sweep before and after temperature scaling with each model's own temperature.

    The calibrated values are None if a run lacks a temperature: before and after would be of different models.

    Args:
        pooled: the pooled test folds, as predicted.
        pooled_calibrated: the same after temperature scaling.
        ensemble_unseen: the models' mean probabilities on the unseen fold; None while that is locked.
        ensemble_unseen_calibrated: the mean of the scaled probabilities.
        temperatures: one per run.
        change: after minus before, of ``pooled`` and ``ensemble_unseen``.
        ensemble_changed: number of images whose ensemble prediction changes.
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
    """Numbers of all and of trained parameters."""

    all: int | None
    trained: int | None


@dataclass(frozen=True)
class InputFacts:
    """The input of a model.

    Args:
        size: side in pixels.
        fit: the setting data.fit.
        channels: 1 or 3.
        mean: subtracted from the grey values, per channel.
        std: divisor of the grey values, per channel.
        min_side: shortest accepted side of a file, in pixels.
        max_megapixels: largest accepted file.
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
    """The source or view of the images, and how well it alone predicts their class.

    Args:
        counts: number of images by value, then by class; rare values together.
        unknown: number of images without a value.
        n: number of images with one.
        share: fraction of the n images that have the most frequent class of their value.
        base: fraction of the n images that have the most frequent class overall.
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
        n: number of images checked.
        refused: how many of them were refused.
    """

    n: int | None
    refused: int | None


@dataclass(frozen=True)
class CardFacts:
    """The facts of a model card.

    Args:
        trained: date of the last line of the runs' logs.
        source: where the images come from; None if unknown.
        view: how they were taken; None if unknown.
        gate: None if the runs have no gate.
        weights_licence: licence of the initial weights of the backbone; None if unknown.
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
        best: the epoch whose weights were kept; None if unknown.
        stopped: the epoch at which training stopped; recorded by older versions only.
        gradient: the largest entry of the kept head's gradient over all training images; None if unknown.
        converged: whether that is small enough; None if unknown.
        l2: the penalty that validation chose, with ``optim=lbfgs``, whose epochs are penalties; None otherwise.
    """

    fold: int | None
    epoch: list[int]
    train_loss: list[float | None]
    val_loss: list[float | None]
    best: int | None
    stopped: int | None = field(default=None, metadata=_OMIT_NONE)
    gradient: float | None = field(default=None, metadata=_OMIT_NONE)
    converged: bool | None = field(default=None, metadata=_OMIT_NONE)
    l2: float | None = field(default=None, metadata=_OMIT_NONE)

    @property
    def still_falling(self) -> bool:
        """Whether the last epoch was the best, so that more could have been better."""
        return len(self.epoch) > 1 and self.best == self.epoch[-1]

    def of(self, loss: Loss) -> list[float | None]:
        """The values of one loss."""
        return self.train_loss if loss == "train_loss" else self.val_loss


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap."""

    resamples: int | None
    seed: int | None


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of what the numbers were computed from; the predictions by fold."""

    manifest_sha256: str | None
    split_sha256: str | None
    weights_sha256: str | None
    predictions_sha256: dict[str, str | None]


Level = Literal["blocks", "weakens", "information"]

LEVELS: Mapping[str, str] = {
    "blocks": "blocks a claim",
    "weakens": "weakens a claim",
    "information": "for your information",
}
"""The levels of what an audit finds in words, the most serious first."""


@dataclass(frozen=True)
class AuditFinding:
    """Something that the checks of an audit found.

    Args:
        check: the title of the check.
        level: ``blocks`` or ``weakens`` a claim.
        what: one sentence on what was found.
        number: the number behind it; None if undefined.
        ci: its 95% interval, the patient as the unit; None where there is none.
        unit: ``%`` where the number is a fraction of 1.
        meaning: what it means for a claim.
        remedy: what to do.
    """

    check: str
    level: str
    what: str
    number: float | None
    ci: Interval | None
    unit: str
    meaning: str
    remedy: str


@dataclass(frozen=True)
class SweepAudit:
    """The short audit of a sweep: what its files alone tell.

    Args:
        findings: that block or weaken a claim, the most serious first.
        ran: the titles of the checks that could run.
        not_possible: the titles of the others, and why they could not.
    """

    findings: list[AuditFinding]
    ran: list[str]
    not_possible: dict[str, str]


@dataclass(frozen=True)
class SweepSummary:
    """All numbers and facts of a sweep or of a single run.

    Args:
        name: of the sweep.
        folder: the sweep folder.
        folds: the finished folds.
        problems: faults of the runs, one line each.
        notes: what a reader has to know, one sentence each.
        model: settings of the network, and the hash of its weights.
        augment: settings of the augmentation.
        training: the seed, and settings of the training.
        pooled: every image of the test folds once, predicted by the model that was not trained on it.
        per_fold: one per model.
        mean: over the test folds.
        sd: over the test folds.
        unseen: None while the unseen fold is locked.
        explanations: None if no run has heat maps.
        arguments: settings of the command that differ from its defaults.
        seconds: durations of the steps, summed over the runs.
        paper: whether to show the paper's numbers; None shows them for the paper's own data only.
        class_names: None for the default classes.
        positive: the positive class; None for the first.
        audit: what could be wrong; None if nobody looked.
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
    arguments: Settings = field(metadata={"key": "asked"})
    versions: dict[str, str | None]
    git_revision: str | None
    hashes: Hashes
    seconds: dict[str, float | None]
    paper: bool | None = None
    class_names: list[str] | None = field(default=None, metadata=_CLASSES)
    positive: str | None = field(default=None, metadata=_OMIT_NONE)
    audit: SweepAudit | None = field(default=None, metadata=_OMIT_NONE)

    @property
    def classes(self) -> ClassList:
        """The classes of the study."""
        return ClassList.of({"classes": self.class_names, "positive": self.positive})
