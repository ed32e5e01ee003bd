"""The facts of a model card as lists of name and value: network, use, data, split, gate, versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from covidnet.evaluation.results import empty
from covidnet.report.rendering.document import Bullets
from covidnet.report.summary import CardFacts, DataFacts, GateFacts, Origin, Parameters, SweepSummary
from covidnet.report.words import FOLDS, count, model_name, rate_of

UNKNOWN = "not available"
"""The text for every unknown value."""

Facts = list[tuple[str, Any]]
"""Names and values; an unknown value is None."""

_FITS = {
    "squash": "squashed to a square, which changes the aspect ratio",
    "crop": "cropped to its central square",
    "pad": "padded to a square with black bars",
}
_GROUPS = {
    "patient+copies": "patient+copies: no patient and no detected copy of an image is in two folds",
    "patient": "patient: no patient is in two folds",
    "image": "image: images of one patient may be in both training and test",
}
_VALIDATIONS = {
    "inner": "inner: a part of the training images selected the checkpoint",
    "test": "test: each test fold also selected the checkpoint",
    "none": "none: the training loss selected the checkpoint",
}
_REFUSES = (
    "anything but a radiograph (a text page, a chart, noise), a colour photograph, a lateral view, a CT slice, an "
    "inverted image, an image rotated by 90, 180 or 270 degrees, one that is too dark, too bright or too small"
)


def network(summary: SweepSummary) -> Facts:
    """The network, its weights, its input.

    Args:
        summary: of a sweep or of a single run.
    """
    model, card = summary.model, summary.card
    frozen, parameters = model.get("freeze"), card.parameters or empty(Parameters)
    weights = model.get("weights")
    seed = model.get("weights_seed")
    names = {
        "random": "random" if seed is None else f"random, seed {seed}",
        "imagenet": "ImageNet",
        "chest": "chest",
    }
    trained = "the head; the backbone is frozen" if frozen else "the whole network"
    return [
        ("Architecture", None if model.get("name") is None else model_name(summary)),
        ("Output", f"one probability for each of {', '.join(summary.classes)}; they sum to 1"),
        # A file's name may be informative; its folders are paths of the machine.
        ("Initial weights", names.get(str(weights), weights and PurePath(str(weights)).name)),
        *([("Choice of the initial weights", model.get("weights_from"))] if model.get("weights_from") else []),
        ("Hash of the initial weights (SHA-256)", model.get("weights_sha256")),
        ("Trained", trained if isinstance(frozen, bool) else None),
        (
            "Parameters",
            None
            if parameters.all is None or parameters.trained is None
            else f"{parameters.all:,}, of which {parameters.trained:,} were trained",
        ),
        ("Input", _input(card)),
        ("Preprocessing", _preprocessing(card)),
        ("Features standardised before the linear layer", _yes(model.get("standardise"))),
        ("Date of training", card.trained),
        ("Seed", summary.training.get("seed")),
    ]


def use(summary: SweepSummary) -> Facts:
    """What the model is and is not for.

    Args:
        summary: of a sweep or of a single run.
    """
    number = "three" if len(summary.classes) == 3 else len(summary.classes)
    return [
        ("Intended for", "research on classifying chest radiographs, and reproducing and questioning its own numbers"),
        ("Users", "researchers who know how the numbers were obtained and can inspect the images"),
        (
            "Not intended for",
            "diagnosis, triage, screening or any decision about a patient; patients unlike those in the data, such as "
            f"children; lateral images, CT and photographs of images; diseases other than the {number} classes",
        ),
        (
            "People affected",
            "patients whose images are classified, and groups with few images in the data; nothing here shows how the "
            "model performs on them",
        ),
    ]


def images(summary: SweepSummary) -> Facts:
    """The images, their sources, and what is unknown about them.

    Args:
        summary: of a sweep or of a single run.
    """
    data, card = summary.data, summary.card
    per_class = {name: data.classes[name].images for name in summary.classes}
    unknown = data.unknown_patients
    patients = data.patients
    least, most = card.input.min_side, card.input.max_megapixels
    refusal = (
        "unreadable, damaged or too small files, and those that are not a single grey image"
        if least is None or most is None
        else f"unreadable or damaged files, images with a side below {least} pixels or above {most} megapixels"
    )
    refused = data.refused
    return [
        ("Name", data.name),
        ("Synthetic", _yes(data.synthetic)),
        *((f"Images of {name} in the folds", n) for name, n in per_class.items()),
        ("Images left out to balance the classes", data.left_out),
        ("Patients", None if not patients and unknown else patients),
        ("Images without a known patient", unknown),
        ("Sources", _kinds(card.source)),
        ("Views", _kinds(card.view)),
        ("Selected views (data.view)", "all" if data.name and data.view is None else data.view),
        ("Files refused", None if refused is None else f"{refused} ({refusal}; each is named with its cause)"),
        ("Reference standard", None),
        ("Age, sex and origin of the patients", None),
        ("Hash of the manifest (SHA-256)", data.manifest_sha256),
    ]


def split(summary: SweepSummary) -> Facts:
    """The split of the images.

    Args:
        summary: of a sweep or of a single run.
    """
    data, folds = summary.data, summary.folds
    group, validation = data.group, data.validation
    same = data.per_fold is None or data.images == data.per_fold * (FOLDS + 1) * len(data.classes)
    equal = f"{FOLDS + 1} of equal size: " if same and not data.unbalanced else ""
    return [
        ("Folds", f"{equal}{FOLDS} test folds, and the unseen fold, which no model was trained on"),
        ("Test folds in this card", ", ".join(str(fold) for fold in folds) or None),
        ("Images of each class in a fold", f"not equal: {data.prevalence}" if data.unbalanced else data.per_fold),
        ("Training images of one model", _trained_on(data)),
        ("Kept together (split.group)", _GROUPS.get(str(group), group)),
        ("Validation (split.validation)", _VALIDATIONS.get(str(validation), validation)),
        ("Hash of the split (SHA-256)", data.split_sha256),
    ]


def gate(summary: SweepSummary) -> Facts:
    """Which images the input gate refuses.

    Args:
        summary: of a sweep or of a single run.
    """
    checked = summary.card.gate or empty(GateFacts)
    n, refused = checked.n, checked.refused
    return [
        ("Refuses, with the cause", _REFUSES),
        (
            "Cannot detect",
            "a mirrored image, and a frontal image of another disease or of a child",
        ),
        (
            "Refused held-out images of the same data",
            None if n is None or refused is None or not n else rate_of(refused, n),
        ),
    ]


def versions(summary: SweepSummary) -> Facts:
    """Versions, revision and licences.

    Args:
        summary: of a sweep or of a single run.
    """
    found = summary.versions
    known = [f"{name} {version}" for name, version in found.items() if version is not None]
    return [
        ("Versions", ", ".join(known) or None),
        ("Revision", summary.git_revision),
        ("Licence of the software", "MIT"),
        ("Licence of the initial weights", summary.card.weights_licence),
        ("Licence of the trained weights", f"{UNKNOWN}; the licence of the images may apply to them"),
        ("Licence of the images", "the images are drawn by the software" if summary.data.synthetic else None),
        ("Questions and reports", "to whoever trained the model, whom this card does not name"),
    ]


def lines(facts: Facts) -> Bullets:
    """Facts as a list, including unknown ones.

    Args:
        facts: names and values.

    Example:
        >>> lines([("Images", 1560), ("Patients", None)]).items
        ['Images: 1,560', 'Patients: not available']
    """
    return Bullets([f"{name}: {_text(value)}" for name, value in facts])


def _input(card: CardFacts) -> str | None:
    size = card.input.size
    return None if size is None else f"one frontal image, 8-bit grey, {size} x {size} pixels"


def _preprocessing(card: CardFacts) -> str | None:
    channels, mean, std = card.input.channels, card.input.mean, card.input.std
    fit = _FITS.get(str(card.input.fit))
    if fit is None:
        return None
    scaled = (
        f"normalisation of grey values {UNKNOWN}"
        if not channels or not mean or not std
        else f"grey values scaled to 0..1, in {count(channels, 'equal channel') if channels > 1 else 'one channel'}, "
        f"minus {_list(mean)}, divided by {_list(std)}"
    )
    return f"the image is {fit}; {scaled}"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _kinds(origin: Origin | None) -> str | None:
    if origin is None or not origin.counts:
        return None
    kinds = [
        f"{value}: {', '.join(f'{n} {label}' for label, n in of_class.items() if n)}"
        for value, of_class in origin.counts.items()
    ]
    return "; ".join([*kinds, *([f"unknown: {origin.unknown}"] if origin.unknown else [])])


def _trained_on(data: DataFacts) -> str | None:
    counts = [(name, data.classes[name].train, data.classes[name].train_augmented) for name in data.classes]
    if any(images is None for _, images, _ in counts):
        return None
    return ", ".join(
        f"{images:,} {name}" + (f" ({inputs:,} with copies)" if inputs not in (None, images) else "")
        for name, images, inputs in counts
    )


def _text(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _yes(value: Any) -> str | None:
    return {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else None
