"""What a model card warns of: what a sweep's own numbers show, and what no number of one data set can show."""

from __future__ import annotations

from covidnet.evaluation.sparse import MIN_IMAGES
from covidnet.report.summary import Origin, SweepSummary
from covidnet.report.terminal import percent
from covidnet.report.words import count

# So much above the commonest class's share counts as telling.
_TELLING = 0.05


def limits(summary: SweepSummary) -> list[str]:
    """The limits of a model beside its notes.

    Args:
        summary: of a sweep or of a single run.

    Returns:
        Sentences.
    """
    lines = []
    problems = len(summary.problems)
    # Of one model the others are no problem.
    if problems and len(summary.folds) > 1:
        lines.append(
            f"{problems} problem{'' if problems == 1 else 's'} of the runs {'is' if problems == 1 else 'are'} named in "
            "the report."
        )
    card = summary.card
    lines += [
        "No external validation: every number is of images of the same data set. Another hospital, scanner or "
        "population may give lower ones; python -m covidnet.evaluate measures that.",
        _confounded(card.source, "source", "the site, not the disease"),
        _confounded(card.view, "view", "how the image was taken, not the disease"),
        "The folds hold as many images of each class; in practice the classes are not equally frequent, and "
        "probabilities and the meaning of a positive prediction change with that.",
        "An image of any other finding gets one of the three classes all the same.",
        "Numbers by age, sex, origin and scanner: not available.",
        "A heat map shows where the network looks, not why, and is no evidence that it looks at the disease.",
        "People tend to agree with a machine's answer; whether that helps or harms here was not studied.",
    ]
    return lines


def _confounded(origin: Origin | None, name: str, learned: str) -> str:
    """Whether the class of an image follows from where it comes from, or from how it was taken."""
    if origin is None or origin.share is None or origin.base is None:
        return f"How far the {name} of an image tells its class: not available. The model may have learned {learned}."
    share, base, n = origin.share, origin.base, origin.n
    of = f" ({count(n, 'image')} whose {name} is known)"
    if n is not None and n < MIN_IMAGES:
        return f"How far the {name} of an image tells its class: too few images whose {name} is known ({n}) to say."
    if len(origin.counts) == 1:
        return f"All images have one {name}{of}; what the model does on images of another {name} is not available."
    found = (
        f"The {name} of an image alone tells the class of {percent(share)} of them{of}; the commonest class is right "
        f"in {percent(base)}. "
    )
    if share - base > _TELLING:
        return f"{found}So class and {name} are confounded: the model may have learned {learned}."
    return f"{found}So the {name} tells little of the class."
