"""The limits in a model card: those that a sweep's numbers show, and those of any single data set."""

from __future__ import annotations

from covidnet.evaluation.sparse import MIN_IMAGES
from covidnet.report.summary import Origin, SweepSummary
from covidnet.report.sweep.audit import audit_lines, audit_verdict
from covidnet.report.terminal import percent
from covidnet.report.words import count

# With a larger gain over the most frequent class, source or view counts as confounded with the class.
_CONFOUNDED = 0.05


def limits(summary: SweepSummary) -> list[str]:
    """The limits of a model, one sentence each.

    Args:
        summary: of a sweep or of a single run.
    """
    lines = []
    problems = len(summary.problems)
    # The problems of a sweep do not concern a single model.
    if problems and len(summary.folds) > 1:
        lines.append(f"The report names {count(problems, 'problem')} of the runs.")
    # What blocks a claim is in the notes at the top.
    lines += [audit_verdict(summary), *audit_lines(summary, "weakens")]
    card = summary.card
    number = "three" if len(summary.classes) == 3 else len(summary.classes)
    frequencies = (
        "Elsewhere the classes are not as frequent as in this data set,"
        if summary.data.per_fold is None
        else "The folds have equally many images of each class; in practice the classes are not equally frequent,"
    )
    lines += [
        "No external validation: every number is from the same data set. Another hospital, scanner or population may "
        "give lower numbers; python -m covidnet.evaluate measures that.",
        _confounded(card.source, "source", "the site, not the disease"),
        _confounded(card.view, "view", "how the image was taken, not the disease"),
        f"{frequencies} which changes the probabilities and the predictive values.",
        f"An image with any other finding still gets one of the {number} classes.",
        "Numbers by age, sex, origin and scanner: not available.",
        "A heat map shows where the network looks, not why, and is not evidence that it looks at the disease.",
        "People tend to agree with a model's prediction; whether that helps or harms here was not studied.",
    ]
    return lines


def _confounded(origin: Origin | None, name: str, learned: str) -> str:
    """Whether the source or view of an image alone predicts its class."""
    if origin is None or origin.share is None or origin.base is None:
        return f"How well the {name} alone predicts the class: not available. The model may have learned {learned}."
    share, base, n = origin.share, origin.base, origin.n
    known = f" ({count(n, 'image')} with a known {name})"
    if n is not None and n < MIN_IMAGES:
        return f"How well the {name} alone predicts the class: too few images with a known {name} ({n})."
    if len(origin.counts) == 1:
        return f"All images have the same {name}{known}; how the model performs on images of another {name} is unknown."
    text = (
        f"The {name} of an image alone predicts the class correctly for {percent(share)} of them{known}; the most "
        f"frequent class for {percent(base)}. "
    )
    if share - base > _CONFOUNDED:
        return f"{text}So class and {name} are confounded: the model may have learned {learned}."
    return f"{text}So the {name} says little about the class."
