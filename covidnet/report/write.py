"""The files of a report, each written completely or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from covidnet.base.atomic import write_text
from covidnet.evaluation.comparison import Comparison
from covidnet.report.card.card import card_document
from covidnet.report.paper.tables import table4, table5, table6, table7
from covidnet.report.rendering.html import json_text, page_of
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.rendering.pictures import remove_old_pictures, write_pictures
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.content import report_document
from covidnet.report.words import CARD_PAGE, CARD_PLAIN


def report_html(
    summary: SweepSummary, comparisons: Sequence[Comparison] = (), others: Sequence[SweepSummary] = ()
) -> str:
    """The report as one self-contained page, well-formed as HTML and as XML.

    Args:
        summary: of the sweep that is reported.
        comparisons: of pairs of sweeps on the same split.
        others: summaries of sweeps that Tables 6 and 7 show beside it.

    Returns:
        The page.
    """
    return page_of(report_document(summary, comparisons, others))


def write_report(
    summary: SweepSummary,
    folder: str | Path,
    comparisons: Sequence[Comparison] = (),
    others: Sequence[SweepSummary] = (),
) -> list[Path]:
    """Write report.html, report.md, table4.csv to table7.csv, summary.json and the model card.

    Comparisons go to comparisons.json. The sweep's pictures are copied to ``panels/`` for report.md; those
    of an older report are removed.

    Args:
        summary: of the sweep that is reported.
        folder: for the files. It must exist.
        comparisons: of pairs of sweeps on the same split.
        others: summaries of sweeps that Tables 6 and 7 show beside it.

    Returns:
        The written files.

    Raises:
        DataError: a number is NaN or infinite, which JSON cannot hold; nothing is written.
        WriteError: a file cannot be written; existing files stay unchanged.
    """
    document, card = report_document(summary, comparisons, others), card_document(summary)
    summaries = [summary, *others]
    tables = {
        "table4": table4(summary),
        "table5": table5(summary),
        "table6": table6(summaries),
        "table7": table7(summaries),
    }
    # Render everything before writing: a summary that cannot be reported leaves an old report unchanged.
    texts = {
        "report.html": page_of(document),
        "report.md": markdown_of(document),
        CARD_PAGE: page_of(card),
        CARD_PLAIN: markdown_of(card),
        **{f"{name}.csv": frame.to_csv(index=False, lineterminator="\n") for name, frame in tables.items()},
        "summary.json": json_text("summary", summary),
    }
    if comparisons:
        texts["comparisons.json"] = json_text("comparisons", list(comparisons))
    else:
        # An old comparison does not belong to this report.
        (Path(folder) / "comparisons.json").unlink(missing_ok=True)
    # New pictures first, old ones removed last: at any moment report.md finds the pictures that it shows.
    pictures = write_pictures(document, folder)
    written = []
    for name, text in texts.items():
        path = Path(folder) / name
        write_text(path, text)
        written.append(path)
    remove_old_pictures(folder, pictures)
    return [*written, *pictures]


def report_markdown(
    summary: SweepSummary, comparisons: Sequence[Comparison] = (), others: Sequence[SweepSummary] = ()
) -> str:
    """The report as Markdown.

    Args:
        summary: of the sweep that is reported.
        comparisons: of pairs of sweeps on the same split.
        others: summaries of sweeps that Tables 6 and 7 show beside it.

    Returns:
        The text, with captions and, where available, tables of numbers instead of drawings.
    """
    return markdown_of(report_document(summary, comparisons, others))
