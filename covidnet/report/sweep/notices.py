"""What a reader must know before the numbers: problems and notes of a sweep, and caveats of its settings."""

from __future__ import annotations

from collections.abc import Sequence

from covidnet.base.caveats import caveats_of
from covidnet.report.rendering.document import Notice
from covidnet.report.summary import SweepSummary
from covidnet.report.words import FOLDS, sweep_name


def warnings_of(summary: SweepSummary) -> list[str]:
    """Problems, then notes, then the caveats that follow from the settings.

    Args:
        summary: of a sweep.

    Returns:
        One line each, the most serious first; none twice.
    """
    lines = [*summary.problems, *summary.notes]
    folds = summary.folds
    # A note that a summary has of its own says what is missing more exactly.
    if len(folds) != FOLDS and not any("fold" in line.lower() for line in lines):
        lines.append(f"Only {len(folds)} of {FOLDS} folds are reported; every pooled number covers those alone.")
    lines += caveats_of(
        synthetic=summary.data.synthetic is True,
        weights=summary.model.get("weights"),
        freeze=summary.model.get("freeze"),
        validation=summary.data.validation,
        group=summary.data.group,
        selection=summary.selection.rule,
    )
    return list(dict.fromkeys(lines))


def notice(summary: SweepSummary, others: Sequence[SweepSummary] = ()) -> Notice:
    """The box above all numbers.

    Args:
        summary: of the sweep that is reported.
        others: of sweeps beside it; their lines start with their names.

    Returns:
        A calm box if there is no problem, note or caveat.
    """
    own = warnings_of(summary)
    lines = list(own)
    split = summary.data.split_sha256
    for other in others:
        theirs = other.data.split_sha256
        if split is not None and theirs is not None and split != theirs:
            lines.append(f"{sweep_name(other)}: its folds differ from this sweep's, so images are not paired.")
        lines += [f"{sweep_name(other)}: {line}" for line in warnings_of(other) if line not in own]
    if not lines:
        return Notice("No problems and no caveats", ["All ten folds finished."], calm=True)
    return Notice("Read this before the numbers", lines)
