"""What the make.py of every experiment shares: sweeps in, one of the paper's tables out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.errors import CovidnetError

if TYPE_CHECKING:
    import pandas as pd

    from covidnet.report.summary import SweepSummary

Table = Callable[[Sequence["SweepSummary"]], "pd.DataFrame"]


def make_table(table: Table, description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Compute a table from the saved predictions of sweeps, write it and print it.

    Args:
        table: from the sweeps' summaries, at least one, to the table.
        description: for ``--help``; its first line is used.
        arguments: the command line without the command; that of the process if None.

    Raises:
        SystemExit: with one line where a sweep cannot be read or the table cannot be written.
    """
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="SWEEP_DIR", help="folders that hold fold=0/ and so on")
    parser.add_argument("--data", required=True, help="what the images are, in words, for the column data")
    parser.add_argument("--out", type=Path, help="the CSV file to write, and a .md beside it; only printed if absent")
    given = parser.parse_args(arguments)
    # After the parser, so that --help is quick.
    from covidnet.base.atomic import write_text
    from covidnet.sweep.reports import summaries_of

    try:
        _, summaries = summaries_of(given.sweeps)
        found = table(summaries)
        found.insert(0, "data", given.data)
        text = found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(given.out, text)
            write_text(given.out.with_suffix(".md"), _markdown(found, given.data))
        sys.stdout.write(text)
    except (CovidnetError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def _markdown(table: pd.DataFrame, data: str) -> str:
    """The table for people: rates in percent, AUC as a fraction, with their intervals in brackets."""
    from covidnet.report.terminal import percent

    keys = [name for name in table.columns if name not in ("data", "published", "ours", "ci_low", "ci_high", "method")]
    keys = [name for name in keys if name not in ("n", "source")]
    counts = "ci_low" not in table.columns

    def cell(value: Any, low: Any = None, high: Any = None, *, fraction: bool = False) -> str:
        if value is None or value != value:
            return ""
        if counts:
            return str(int(value))
        if fraction:
            ends = "" if low is None or low != low else f" [{low:.3f}, {high:.3f}]"
            return f"{value:.3f}{ends}"
        return percent(float(value), None if low is None or low != low else [float(low), float(high)])

    lines = [
        f"Data: {data}.",
        "",
        "| " + " | ".join([*keys, "published", "ours"]) + " |",
        "| --- " * (len(keys) + 2) + "|",
    ]
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        ours = cell(row["ours"], row.get("ci_low"), row.get("ci_high"), fraction=row.get("metric") == "auc")
        told = [str(row[key] or "") for key in keys]
        lines.append("| " + " | ".join([*told, cell(row["published"]), ours]) + " |")
    return "\n".join(lines) + "\n"
