"""The files of a report, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covidnet.base.atomic import write_text
from covidnet.report.card.card import card_document
from covidnet.report.paper.tables import table4, table5, table6, table7
from covidnet.report.rendering.html import json_text, page_of
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.rendering.pictures import remove_old_pictures, write_pictures
from covidnet.report.summary import Summary
from covidnet.report.sweep.content import report_document
from covidnet.report.words import CARD_PAGE, CARD_PLAIN


def report_html(summary: Summary, comparisons: Sequence[Mapping[str, Any]] = (), others: Sequence[Summary] = ()) -> str:
    """The report as one self-contained page, well-formed as XML too.

    Args:
        summary: of the sweep that is reported (the content of its summary.json).
        comparisons: of pairs of sweeps on the same split.
        others: summaries of sweeps that Tables 6 and 7 show beside it.

    Returns:
        The page.
    """
    return page_of(report_document(summary, comparisons, others))


def write_report(
    summary: Summary,
    folder: str | Path,
    comparisons: Sequence[Mapping[str, Any]] = (),
    others: Sequence[Summary] = (),
) -> list[Path]:
    """Write report.html, report.md, table4.csv to table7.csv, summary.json and the model card, whole or not at all.

    Comparisons are no part of a summary; where there are any, comparisons.json keeps them. Pictures of the sweep are
    copied into ``panels/``, beside report.md that shows them; those of an older report are removed.

    Args:
        summary: of the sweep that is reported.
        folder: where the files go. It must exist.
        comparisons: of pairs of sweeps on the same split.
        others: summaries of sweeps that Tables 6 and 7 show beside it.

    Returns:
        The files that were written.

    Raises:
        DataError: a number is NaN or infinite, which JSON cannot hold; nothing is written.
        WriteError: a file cannot be written; files that were there before are unchanged.
    """
    document, card = report_document(summary, comparisons, others), card_document(summary)
    summaries = [summary, *others]
    tables = {
        "table4": table4(summary),
        "table5": table5(summary),
        "table6": table6(summaries),
        "table7": table7(summaries),
    }
    # All of it before the first file: a summary that cannot be reported leaves an old report as it was.
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
        # A comparison of before would stand beside a report that knows nothing of it.
        (Path(folder) / "comparisons.json").unlink(missing_ok=True)
    # The pictures first, and those of the old report last: whichever report.md stands there finds its own.
    pictures = write_pictures(document, folder)
    written = []
    for name, text in texts.items():
        path = Path(folder) / name
        write_text(path, text)
        written.append(path)
    remove_old_pictures(folder, pictures)
    return [*written, *pictures]


def report_markdown(
    summary: Summary, comparisons: Sequence[Mapping[str, Any]] = (), others: Sequence[Summary] = ()
) -> str:
    """The report as Markdown.

    Args:
        summary: of the sweep that is reported (the content of its summary.json).
        comparisons: of pairs of sweeps on the same split.
        others: summaries of sweeps that Tables 6 and 7 show beside it.

    Returns:
        The text. Instead of drawings it has their captions and, where there is one, a table of their numbers.
    """
    return markdown_of(report_document(summary, comparisons, others))
