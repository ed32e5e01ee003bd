"""What a reader has to know before the numbers, from what a sweep says and from what its settings imply."""

from __future__ import annotations

from collections.abc import Sequence

from covidnet.report.rendering.document import Notice
from covidnet.report.summary import Summary, at
from covidnet.report.words import FOLDS, beside_paper, sweep_name


def warnings_of(summary: Summary) -> list[str]:
    """Problems, then notes, then what neither mentions although the settings say it.

    Args:
        summary: of a sweep.

    Returns:
        One line each, the gravest first; none twice.

    Example:
        >>> warnings_of({"folds": list(range(10)), "data": {"synthetic": True}})
        ['The data are synthetic: the numbers show that the method runs, nothing of any disease.']
    """
    lines = [str(line) for line in [*(summary.get("problems") or []), *(summary.get("notes") or [])]]
    said = " ".join(lines).lower()
    folds = summary.get("folds") or []
    implied = (
        (
            len(folds) != FOLDS,
            "fold",
            f"Only {len(folds)} of {FOLDS} folds are reported; every pooled number covers those alone.",
        ),
        (
            at(summary, "data", "synthetic") is True,
            "synthetic",
            "The data are synthetic: the numbers show that the method runs, nothing of any disease.",
        ),
        (
            at(summary, "model", "weights") == "random",
            "random weights",
            "The network started from random weights"
            + ("; the paper's from ImageNet weights." if beside_paper(summary) else "."),
        ),
        (
            at(summary, "data", "validation") == "test",
            "validation=test",
            "split.validation=test: each test fold chose the checkpoint that it then scored; the numbers are "
            "optimistic.",
        ),
        (
            at(summary, "data", "group") == "image",
            "group=image",
            "split.group=image: images of one patient may lie in training and test; the numbers may be optimistic.",
        ),
        (
            at(summary, "selection", "rule") == "paper",
            "selection",
            "selection=paper: the unseen fold chose the model that it then scores; that number is a selection score.",
        ),
    )
    lines += [line for holds, word, line in implied if holds and word not in said]
    return list(dict.fromkeys(lines))


def notice(summary: Summary, others: Sequence[Summary] = ()) -> Notice:
    """The box that stands before every number.

    Args:
        summary: of the sweep that is reported.
        others: of sweeps beside it; what is said of them has their names before it.

    Returns:
        A calm box where there is nothing to say.
    """
    own = warnings_of(summary)
    lines = list(own)
    split = at(summary, "data", "split_sha256")
    for other in others:
        theirs = at(other, "data", "split_sha256")
        if split is not None and theirs is not None and split != theirs:
            lines.append(f"{sweep_name(other)}: other folds than this sweep's; the two are not paired image by image.")
        lines += [f"{sweep_name(other)}: {line}" for line in warnings_of(other) if line not in own]
    if not lines:
        return Notice("No problem and no reservation was recorded", ["All ten folds finished."], calm=True)
    return Notice("Read this before the numbers", lines)
