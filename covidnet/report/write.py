"""Writing the files of a report, each atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from covidnet.base.atomic import write_text
from covidnet.base.classes import DEFAULT_CLASSES
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
        summary: the summary of the reported sweep.
        comparisons: comparisons of pairs of sweeps on the same split.
        others: summaries of further sweeps in Tables 6 and 7.

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

    The tables are the paper's: sweeps of other classes have none.

    Comparisons go to comparisons.json. The sweep's pictures are copied to ``panels/`` for report.md; those
    of an older report are deleted.

    Args:
        summary: the summary of the reported sweep.
        folder: the output folder, which must exist.
        comparisons: comparisons of pairs of sweeps on the same split.
        others: summaries of further sweeps in Tables 6 and 7.

    Returns:
        The written files.

    Raises:
        DataError: a number is NaN or infinite, which JSON cannot hold; nothing is written.
        WriteError: a file cannot be written; an existing one stays as it was.
    """
    document, card = report_document(summary, comparisons, others), card_document(summary)
    summaries = [summary, *others]
    of_paper = all(one.classes.names == DEFAULT_CLASSES.names for one in summaries)
    tables = (
        {}
        if not of_paper
        else {
            "table4": table4(summary),
            "table5": table5(summary),
            "table6": table6(summaries),
            "table7": table7(summaries),
        }
    )
    # Render everything before writing, so that a failure leaves an old report unchanged.
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
        # A comparison of an older report does not belong to this one.
        (Path(folder) / "comparisons.json").unlink(missing_ok=True)
    # New pictures first and old ones deleted last, so that report.md never points to a missing picture.
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
        summary: the summary of the reported sweep.
        comparisons: comparisons of pairs of sweeps on the same split.
        others: summaries of further sweeps in Tables 6 and 7.

    Returns:
        The text, with captions and, where available, tables of numbers instead of drawings.
    """
    return markdown_of(report_document(summary, comparisons, others))
