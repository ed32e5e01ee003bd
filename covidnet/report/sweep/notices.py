"""What a reader must know before the numbers: problems and notes of a sweep, and caveats of its settings."""

from __future__ import annotations

from collections.abc import Sequence

from covidnet.base.caveats import caveats_of
from covidnet.report.rendering.document import Notice
from covidnet.report.summary import Summary, at
from covidnet.report.words import FOLDS, sweep_name


def warnings_of(summary: Summary) -> list[str]:
    """Problems, then notes, then the caveats that follow from the settings.

    Args:
        summary: of a sweep.

    Returns:
        One line each, the most serious first; none twice.

    Example:
        >>> print(*warnings_of({"folds": list(range(10)), "data": {"synthetic": True}}))
        The images are synthetic phantoms: the numbers show that the method runs and are not clinical evidence.
    """
    lines = [str(line) for line in [*(summary.get("problems") or []), *(summary.get("notes") or [])]]
    folds = summary.get("folds") or []
    # A note that a summary has of its own says what is missing more exactly.
    if len(folds) != FOLDS and not any("fold" in line.lower() for line in lines):
        lines.append(f"Only {len(folds)} of {FOLDS} folds are reported; every pooled number covers those alone.")
    lines += caveats_of(
        synthetic=at(summary, "data", "synthetic") is True,
        weights=at(summary, "model", "weights"),
        freeze=at(summary, "model", "freeze"),
        validation=at(summary, "data", "validation"),
        group=at(summary, "data", "group"),
        selection=at(summary, "selection", "rule"),
    )
    return list(dict.fromkeys(lines))


def notice(summary: Summary, others: Sequence[Summary] = ()) -> Notice:
    """The box above all numbers.

    Args:
        summary: of the sweep that is reported.
        others: of sweeps beside it; their lines start with their names.

    Returns:
        A calm box if there is no problem, note or caveat.
    """
    own = warnings_of(summary)
    lines = list(own)
    split = at(summary, "data", "split_sha256")
    for other in others:
        theirs = at(other, "data", "split_sha256")
        if split is not None and theirs is not None and split != theirs:
            lines.append(f"{sweep_name(other)}: its folds differ from this sweep's, so images are not paired.")
        lines += [f"{sweep_name(other)}: {line}" for line in warnings_of(other) if line not in own]
    if not lines:
        return Notice("No problems and no caveats", ["All ten folds finished."], calm=True)
    return Notice("Read this before the numbers", lines)
