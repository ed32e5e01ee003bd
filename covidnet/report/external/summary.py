"""The content of summary.json of an evaluation on another data set."""

from __future__ import annotations

from dataclasses import dataclass, field

from covidnet.base.classes import ClassList
from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.scores import SplitScores
from covidnet.evaluation.sparse import ClassSize
from covidnet.report.summary import Bootstrap, Settings

_FILMS = {"key": "films"}


@dataclass(frozen=True)
class ExternalData:
    """The data set.

    Args:
        name: of the data group.
        root: its folder.
        synthetic: whether the images are phantoms.
        images: number of readable images.
        patients: number of known patients.
        unknown_patients: number of images without a patient_id.
    """

    name: str | None
    root: str | None
    synthetic: bool | None
    manifest_sha256: str | None
    images: int | None = field(metadata=_FILMS)
    patients: int | None
    unknown_patients: int | None


@dataclass(frozen=True)
class ClassCoverage:
    """How many images of a class were refused and predicted.

    Args:
        images: number of readable images.
        refused: refused by the input gate, or because the file changed while being read.
        predicted: all others.
        training: training images of the model among the predicted ones; None without a search for them.
    """

    images: int | None = field(metadata=_FILMS)
    refused: int | None
    predicted: int | None
    training: int | None


@dataclass(frozen=True)
class Coverage:
    """How many files were refused and predicted.

    Args:
        unreadable: number of unreadable files.
        refused: number of refused images, see `ClassCoverage`.
        predicted: number of predicted images.
        causes: number of files by cause of refusal.
        flagged: number of images by warning of the input gate.
        warned: number of images predicted with a warning.
        classes: by name.
    """

    unreadable: int | None
    refused: int | None
    predicted: int | None
    causes: dict[str, int]
    flagged: dict[str, int]
    warned: int | None
    classes: dict[str, ClassCoverage]

    @property
    def files_refused(self) -> int:
        """The number of files that were not predicted."""
        return (self.unreadable or 0) + (self.refused or 0)


@dataclass(frozen=True)
class KnownImage:
    """A row of overlap.csv: an image of the data set that is also in the training study.

    Args:
        part: of the training study; images of ``train`` and ``val`` influenced the model.
        kind: how it was changed.
        similarity: 0..1.
    """

    path: str | None
    image_id: str | None
    label: str | None
    training_image_id: str | None
    part: str | None
    kind: str | None
    similarity: float | None


@dataclass(frozen=True)
class CopiedImage:
    """A row of copies.csv: two files of the data set with the same image.

    Args:
        kind: how one was changed.
        similarity: 0..1.
    """

    path: str | None
    label: str | None
    other_path: str | None
    other_label: str | None
    kind: str | None
    similarity: float | None


@dataclass(frozen=True)
class Overlap:
    """Images of the data set that are also in the training study.

    Args:
        how: see `covidnet.external.known_images.KnownImages.how`.
        problem: why the search was incomplete.
        known: number of images of the training study.
        seen: number of images used for training or validation; None without a search.
        seen_predicted: how many of them were predicted.
        study: number of images of the study's test or unseen fold.
        kinds: number of seen images by how they were changed.
        listed: the first rows of overlap.csv.
    """

    how: str | None
    problem: str | None
    known: int | None
    seen: int | None
    seen_predicted: int | None
    study: int | None
    kinds: dict[str, int]
    listed: list[KnownImage]


@dataclass(frozen=True)
class Copies:
    """Duplicates within the data set.

    Args:
        pairs: number of pairs.
        two_classes: number of pairs with different classes.
        listed: the first rows of copies.csv.
    """

    pairs: int | None
    two_classes: int | None
    listed: list[CopiedImage]


@dataclass(frozen=True)
class ExternalCurves:
    """The curves of each class."""

    external: dict[str, ClassCurves]


@dataclass(frozen=True)
class ExternalCalibration:
    """Calibration on the scored images.

    Args:
        external: after temperature scaling, if the model has a temperature; None without images.
        before: before temperature scaling; None without a temperature.
    """

    external: Calibration | None
    before: Calibration | None


@dataclass(frozen=True)
class StudyScores:
    """The metrics of the study that trained a model.

    Args:
        title: the images that they are of.
    """

    title: str | None
    scores: SplitScores


@dataclass(frozen=True)
class ExternalSummary:
    """All numbers and facts of an evaluation on another data set.

    Args:
        name: name of the data set's folder.
        folder: folder of the evaluation.
        model: facts of the checkpoint, its title and notes, and the setting of the input gate.
        external: the scored images: without those used for training or validation.
        external_all: including those; None if there are none.
        sizes: sizes of the classes among the scored images.
        study: metrics on the ``test`` folds and the ``unseen`` fold, if known.
        notes: what a reader has to know, one sentence each.
        search_notes: the notes on training images and duplicates.
        hashes: SHA-256 of the files.
        arguments: settings of the command.
        seconds: durations of the steps.
        class_names: None for the default classes.
        positive: the positive class; None for the first.
    """

    name: str | None
    folder: str | None
    model: Settings
    data: ExternalData
    coverage: Coverage
    overlap: Overlap
    copies: Copies
    external: SplitScores
    external_all: SplitScores | None
    sizes: dict[str, ClassSize]
    curves: ExternalCurves
    calibration: ExternalCalibration
    study: dict[str, StudyScores]
    notes: list[str]
    search_notes: list[str] = field(metadata={"key": "looked"})
    bootstrap: Bootstrap
    versions: dict[str, str | None]
    git_revision: str | None
    hashes: dict[str, str | None]
    arguments: Settings = field(metadata={"key": "asked"})
    seconds: dict[str, float | None]
    class_names: list[str] | None = field(default=None, metadata={"key": "classes", "omit_none": True})
    positive: str | None = field(default=None, metadata={"omit_none": True})

    @property
    def classes(self) -> ClassList:
        """The classes of the study."""
        return ClassList.of({"classes": self.class_names, "positive": self.positive})
