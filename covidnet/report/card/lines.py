"""What a model card tells in lines of name and value: the network, its use, the data, the split, the gate, versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from covidnet.base.classes import CLASSES
from covidnet.evaluation.results import empty
from covidnet.report.rendering.document import Bullets
from covidnet.report.summary import CardFacts, DataFacts, GateFacts, Origin, Parameters, SweepSummary
from covidnet.report.words import FOLDS, count, model_name, rate_of

UNKNOWN = "not available"
"""What stands for everything that is not known."""

Facts = list[tuple[str, Any]]
"""Names and values; a value that is not known is None."""

_FITS = {
    "squash": "squashed to a square, which changes the aspect ratio",
    "crop": "cropped to its central square",
    "pad": "padded to a square with black bars",
}
_GROUPS = {
    "patient": "patient: no patient lies in two folds",
    "image": "image: images of one patient may lie in training and test",
}
_VALIDATIONS = {
    "inner": "inner: a part of the training images chose the checkpoint",
    "test": "test: each test fold also chose the checkpoint",
    "none": "none: the training loss chose the checkpoint",
}
_REFUSES = (
    "no radiograph (a text page, a chart, noise), a colour photograph, a lateral view, a CT slice, an inverted image, "
    "an image rotated by a quarter or a half turn, one that is too dark, too bright or too small"
)


def network(summary: SweepSummary) -> Facts:
    """The network, its weights, its input.

    Args:
        summary: of a sweep or of a single run.
    """
    model, card = summary.model, summary.card
    frozen, parameters = model.get("freeze"), card.parameters or empty(Parameters)
    whole, own = parameters.all, parameters.trained
    weights = model.get("weights")
    seed = model.get("weights_seed")
    names = {
        "random": "random" if seed is None else f"random, of seed {seed}",
        "imagenet": "ImageNet",
        "chest": "chest",
    }
    trained = "the head alone; the backbone is frozen" if frozen else "the whole network"
    return [
        ("Architecture", None if model.get("name") is None else model_name(summary)),
        ("Output", f"one probability for each of {', '.join(CLASSES)}; they sum to 1"),
        # A file's name may say something; the folders that it lies in say too much.
        ("Weights that it started from", names.get(str(weights), weights and PurePath(str(weights)).name)),
        ("Hash of these weights (SHA-256)", model.get("weights_sha256")),
        ("Trained", trained if isinstance(frozen, bool) else None),
        ("Parameters", None if whole is None or own is None else f"{whole:,}, of which {own:,} were trained"),
        ("Input", _input(card)),
        ("Preprocessing", _preprocessing(card)),
        ("Features standardised before the linear layer", _yes(model.get("standardise"))),
        ("Date of training", card.trained),
        ("Seed", summary.training.get("seed")),
    ]


def use() -> Facts:
    """What the model is for, and what it is not for."""
    return [
        ("Made for", "research on classifying chest radiographs, and for repeating and questioning its own numbers"),
        ("Users", "researchers who know how the numbers came about and can look at the images"),
        (
            "Not made for",
            "diagnosis, triage, screening or any decision about a patient; patients unlike those of the data, such as "
            "children; lateral images, CT and photographs of images; diseases other than the three classes",
        ),
        (
            "People concerned",
            "patients whose images are shown, and those of groups that the data hold few images of; nothing here says "
            "how the model does on them",
        ),
    ]


def images(summary: SweepSummary) -> Facts:
    """The images, where they come from and what is not known of them.

    Args:
        summary: of a sweep or of a single run.
    """
    data, card = summary.data, summary.card
    per_class = {name: data.classes[name].images for name in CLASSES}
    unknown = data.unknown_patients
    patients = data.patients
    least, most = card.input.min_side, card.input.max_megapixels
    refusal = (
        "unreadable, damaged or too small files, and those that are no single grey image"
        if least is None or most is None
        else f"unreadable or damaged files, images with a side below {least} pixels or above {most} megapixels"
    )
    refused = data.refused
    return [
        ("Name", data.name),
        ("Synthetic", _yes(data.synthetic)),
        *((f"Images of {name} in the folds", n) for name, n in per_class.items()),
        ("Images left out of the balanced draw", data.left_out),
        ("Patients", None if not patients and unknown else patients),
        ("Images of unknown patient", unknown),
        ("Sources", _kinds(card.source)),
        ("Views", _kinds(card.view)),
        ("Views asked for (data.view)", "all" if data.name and data.view is None else data.view),
        ("Files refused", None if refused is None else f"{refused} ({refusal}; each is named with its cause)"),
        ("Reference standard", None),
        ("Age, sex and origin of the patients", None),
        ("Hash of the manifest (SHA-256)", data.manifest_sha256),
    ]


def split(summary: SweepSummary) -> Facts:
    """How the images were divided.

    Args:
        summary: of a sweep or of a single run.
    """
    data, folds = summary.data, summary.folds
    group, validation = data.group, data.validation
    return [
        ("Folds", f"{FOLDS + 1} of one size: {FOLDS} test folds, and the unseen fold, which no model was trained on"),
        ("Test folds in this card", ", ".join(str(fold) for fold in folds) or None),
        ("Images of each class in a fold", data.per_fold),
        ("Images that one model was trained on", _trained_on(data)),
        ("Kept together (split.group)", _GROUPS.get(str(group), group)),
        ("Validation (split.validation)", _VALIDATIONS.get(str(validation), validation)),
        ("Hash of the split (SHA-256)", data.split_sha256),
    ]


def gate(summary: SweepSummary) -> Facts:
    """What images the input gate turns away.

    Args:
        summary: of a sweep or of a single run.
    """
    asked = summary.card.gate or empty(GateFacts)
    n, refused = asked.n, asked.refused
    return [
        ("Meant to refuse, with the reason", _REFUSES),
        (
            "Cannot tell",
            "a mirrored image, and what looks like a frontal image but is of another disease or of a child",
        ),
        (
            "Held-out images of the same data that it refused",
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
        ("Licence of the weights that it started from", summary.card.weights_licence),
        ("Licence of the trained weights", f"{UNKNOWN}; what holds for the images may hold for them"),
        ("Licence of the images", "those here are drawn by the software" if summary.data.synthetic else None),
        ("Questions and reports", "to whoever trained the model; the card names nobody"),
    ]


def lines(facts: Facts) -> Bullets:
    """Facts as a list; none is left out for not being known.

    Args:
        facts: names and values.

    Example:
        >>> lines([("Images", 1560), ("Patients", None)]).items
        ['Images: 1,560', 'Patients: not available']
    """
    return Bullets([f"{name}: {_said(value)}" for name, value in facts])


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
        f"less {_list(mean)}, divided by {_list(std)}"
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
    counts = [(name, data.classes[name].train, data.classes[name].train_augmented) for name in CLASSES]
    if any(images is None for _, images, _ in counts):
        return None
    return ", ".join(
        f"{images:,} {name}" + (f" ({inputs:,} with copies)" if inputs not in (None, images) else "")
        for name, images, inputs in counts
    )


def _said(value: Any) -> str:
    if value is None or value == "":
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _yes(value: Any) -> str | None:
    return {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else None
