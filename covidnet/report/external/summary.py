"""The summary of an evaluation on another data set, which summary.json holds."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        images: that can be read.
        patients: that are known.
        unknown_patients: images of an unknown patient.
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
    """What became of the images of a class.

    Args:
        images: that can be read.
        refused: by the input gate, or changed while they were read.
        predicted: the others.
        training: of those predicted, the model's training images; None where they could not be looked for.
    """

    images: int | None = field(metadata=_FILMS)
    refused: int | None
    predicted: int | None
    training: int | None


@dataclass(frozen=True)
class Coverage:
    """What became of the files.

    Args:
        unreadable: files.
        refused: images, see `ClassCoverage`.
        predicted: images.
        causes: of refusals, with the number of files.
        flagged: warnings of the input gate, with the number of images.
        warned: images that were predicted with a warning.
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
        """Files that were not predicted."""
        return (self.unreadable or 0) + (self.refused or 0)


@dataclass(frozen=True)
class KnownImage:
    """A row of overlap.csv: an image of the set that is an image of the training study.

    Args:
        part: of the training study; an image of ``train`` or ``val`` shaped the model.
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
    """A row of copies.csv: two files of the set that are one image.

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
    """Images of the set that are images of the training study.

    Args:
        how: see `covidnet.external.known_images.KnownImages.how`.
        problem: why not all could be looked for.
        known: images of the training study.
        seen: images that shaped the model; None where they could not be looked for.
        seen_predicted: those that were predicted.
        study: images of the study's test or unseen fold.
        kinds: how the seen images were changed, with their number.
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
    """Images that are in the set twice.

    Args:
        pairs: how many.
        two_classes: pairs that lie in two classes.
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
    """Calibration of the images that count.

    Args:
        external: of the probabilities as they are given; None without an image.
        before: the temperature; None where a model has none.
    """

    external: Calibration | None
    before: Calibration | None


@dataclass(frozen=True)
class StudyScores:
    """What the study that trained a model measured.

    Args:
        title: on which images.
    """

    title: str | None
    scores: SplitScores


@dataclass(frozen=True)
class ExternalSummary:
    """All numbers of an evaluation on another data set, and the facts beside them.

    Args:
        name: of the folder of the data set.
        folder: of the evaluation.
        model: what the checkpoint tells of the model, its title and notes, and the setting of the input gate.
        external: the images that count: without those that shaped the model.
        external_all: with them; None where there are none.
        sizes: of the classes, of the images that count.
        study: of the ``test`` folds and the ``unseen`` fold, where they are known.
        notes: what a reader has to know, one sentence each.
        looked: those of the notes that tell of training images and copies.
        hashes: SHA-256 of the files.
        asked: settings of the command.
        seconds: what the steps took.
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
    looked: list[str]
    bootstrap: Bootstrap
    versions: dict[str, str | None]
    git_revision: str | None
    hashes: dict[str, str | None]
    asked: Settings
    seconds: dict[str, float | None]
