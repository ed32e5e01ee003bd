"""The box above the numbers: problems and notes of a sweep, and caveats of its settings."""

from __future__ import annotations

from collections.abc import Sequence

from covidnet.base.caveats import caveats_of
from covidnet.report.rendering.document import Notice
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.audit import audit_lines
from covidnet.report.words import FOLDS, sweep_name


def warnings_of(summary: SweepSummary) -> list[str]:
    """Problems, what blocks a claim, then notes, then the caveats that follow from the settings.

    Args:
        summary: of a sweep.

    Returns:
        One line each without duplicates, the most serious first.
    """
    lines = [*summary.problems, *audit_lines(summary, "blocks"), *summary.notes]
    folds = summary.folds
    # A note of the summary itself is more exact about missing folds.
    if len(folds) != FOLDS and not any("fold" in line.lower() for line in lines):
        lines.append(f"Only {len(folds)} of {FOLDS} folds are reported; every pooled number covers only these.")
    lines += caveats_of(
        synthetic=summary.data.synthetic is True,
        weights=summary.model.get("weights"),
        weights_from=summary.model.get("weights_from"),
        freeze=summary.model.get("freeze"),
        validation=summary.data.validation,
        group=summary.data.group,
        balanced=not summary.data.unbalanced,
        selection=summary.selection.rule,
    )
    return list(dict.fromkeys(lines))


def notice(summary: SweepSummary, others: Sequence[SweepSummary] = ()) -> Notice:
    """The box above all numbers.

    Args:
        summary: the summary of the reported sweep.
        others: summaries of further sweeps, whose lines start with their names.

    Returns:
        The box; a calm one without problems, notes and caveats.
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
