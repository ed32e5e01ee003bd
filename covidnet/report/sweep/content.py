"""A report from the summary of a sweep: its sections in order, with numbered tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from covidnet.evaluation.comparison import Comparison
from covidnet.report.paper.published import PAPER
from covidnet.report.rendering.document import Block, Document, Figure, Link, Picture, Section, Table
from covidnet.report.rendering.pictures import with_pictures
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.audit import what_could_be_wrong
from covidnet.report.sweep.calibration import calibration
from covidnet.report.sweep.explanations import explanations
from covidnet.report.sweep.method import again, data, intervals, method, training
from covidnet.report.sweep.notices import notice
from covidnet.report.sweep.paper import beside_the_paper, comparisons, overview, what_does_not_add_up
from covidnet.report.sweep.results import abstract, results
from covidnet.report.sweep.unseen import selection, unseen_fold
from covidnet.report.words import CARD_PAGE, CARD_PLAIN, FOLDS, beside_paper, count, sweep_name


def report_document(
    summary: SweepSummary, compared: Sequence[Comparison] = (), others: Sequence[SweepSummary] = ()
) -> Document:
    """The complete report.

    Args:
        summary: the summary of the reported sweep.
        compared: comparisons of sweeps.
        others: summaries of further sweeps.

    Returns:
        The document with numbered tables and figures. The paper's tables keep their numbers, ours have letters.
        Pictures are read from the sweep's folder; a missing one has no bytes and no number.
    """
    summaries = [summary, *others]
    first: list[Block] = [*abstract(summary), notice(summary, others)]
    if others:
        first.append(overview(summaries))
    first.append(Link("What the model is, and what it is and is not for", CARD_PAGE, CARD_PLAIN))
    sections = [
        Section("", "abstract", first),
        results(summary),
        what_could_be_wrong(summary),
        unseen_fold(summary),
        selection(summary),
        explanations(summary),
        beside_the_paper(summaries) if beside_paper(summary) else None,
        comparisons(compared) if compared else None,
        calibration(summary),
        training(summary),
        data(summary),
        method(summary),
        again(summaries),
        what_does_not_add_up() if beside_paper(summary) else None,
        intervals(),
    ]
    folds = len(summary.folds)
    what = "Ten-fold cross-validation" if folds == FOLDS else f"Cross-validation, {folds} of {FOLDS} folds"
    subtitle = f"Data: {summary.data.name or 'unnamed'}; {count(summary.pooled.n, 'image')} in the test folds."
    if beside_paper(summary):
        subtitle += f" The numbers of {PAPER.authors}, {PAPER.title}, are given for comparison."
    return Document(f"{what}: {sweep_name(summary)}", subtitle, numbered(with_pictures(sections, summary.folder)))


def numbered(sections: Sequence[Section]) -> list[Section]:
    """The sections with labels for all tables and figures without one: letters for tables, numbers for figures."""
    letters = iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    tables = figures = 0
    done = []
    for section in sections:
        blocks: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Table) and not block.label:
                tables += 1
                # A report with many comparisons can run out of letters.
                block = replace(block, label=f"Table {next(letters, f'A{tables}')}")
            elif (isinstance(block, Figure) or (isinstance(block, Picture) and block.data)) and not block.label:
                figures += 1
                block = replace(block, label=f"Figure {figures}")
            blocks.append(block)
        done.append(replace(section, blocks=blocks))
    return done
