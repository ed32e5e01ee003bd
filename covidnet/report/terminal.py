"""A run's numbers as tables for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from covidnet.base.classes import ClassList

if TYPE_CHECKING:
    from covidnet.evaluation.metrics import SplitMetrics

BRACKETS = "In brackets: 95% intervals, with the patient as the unit."
"""The line below every table of scores in a terminal."""

UNDEFINED = "\N{EN DASH}"
"""Printed for an undefined value, such as the sensitivity of a class without images."""


def percent(value: float | None, interval: Sequence[float] | None = None, undefined: str = UNDEFINED) -> str:
    """A fraction as a percentage with its 95% interval.

    Args:
        value: a fraction of 1, or None.
        interval: the lower and upper end as fractions of 1, or None.
        undefined: printed for None.

    Returns:
        At most 18 characters.

    Example:
        >>> percent(0.977, [0.941, 0.992]), percent(1.0, [0.9312, 1.0]), percent(None)
        ('97.7% [94.1, 99.2]', '100% [93.1, 100]', '–')
    """
    if value is None:
        return undefined
    if interval is None:
        return f"{_digits(value)}%"
    low, high = interval
    return f"{_digits(value)}% [{_digits(low)}, {_digits(high)}]"


def _digits(fraction: float) -> str:
    # "100" saves the two characters that keep three intervals and the names inside 80 columns.
    text = f"{100 * fraction:.1f}"
    return "100" if text == "100.0" else text


def metrics_table(
    metrics: SplitMetrics,
    title: str = "",
    footer: Sequence[str] = (),
    undefined: str = UNDEFINED,
    classes: ClassList | None = None,
) -> Table:
    """The metrics of one split: a row per class (of two, the positive one), then the accuracy.

    Args:
        metrics: the metrics of the split.
        title: the line above; empty for none.
        footer: lines below.
        undefined: printed for an undefined value.
        classes: of the study; those of the metrics if None.

    Returns:
        A table that fits 80 columns, each value with its 95% interval. In fewer columns its cells are wrapped.
    """
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text("\n".join(footer)) if footer else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Class", overflow="fold")
    for heading in ("Sensitivity", "Specificity", "F1"):
        table.add_column(heading, overflow="fold")
    table.add_column("Images", justify="right", overflow="fold")
    for name in (classes or ClassList(tuple(metrics.classes))).reported:
        one = metrics.classes[name]
        pairs = ((one.sensitivity, one.sensitivity_ci), (one.specificity, one.specificity_ci), (one.f1, one.f1_ci))
        cells = [percent(value, ends, undefined) for value, ends in pairs]
        table.add_row(*(Text(cell) for cell in (name, *cells, str(one.support))))
    table.add_section()
    accuracy = percent(metrics.accuracy, metrics.accuracy_ci, undefined)
    table.add_row(*(Text(cell) for cell in ("Accuracy", accuracy, "", "", str(metrics.n))))
    return table


def print_run_summary(
    metrics: Mapping[str, Any],
    run_dir: str | Path,
    notes: Sequence[str] = (),
    console: Console | None = None,
    splits: Sequence[str] = ("test", "unseen"),
    classes: ClassList | None = None,
) -> None:
    """Print the results of a run: test and unseen metrics, the notes, and last the run folder.

    Args:
        metrics: the content of metrics.json.
        run_dir: the run folder, printed as given on a line that is never wrapped.
        notes: what the reader must know about the numbers, such as that the data are synthetic.
        console: where to print; standard output if None. Anything but a terminal gets plain text.
        splits: the splits to print.
        classes: of the study; those of the metrics if None.
    """
    from covidnet.evaluation.metrics import SplitMetrics
    from covidnet.evaluation.results import from_json

    out = console or Console()
    # A run must not fail at its last line on a Latin-1 terminal, which has no en dash.
    undefined = UNDEFINED if _printable(UNDEFINED, out) == UNDEFINED else "-"
    fold = metrics.get("fold")
    contents = {split: metrics["splits"].get(split) for split in splits}
    printed = {split: from_json(SplitMetrics, content) if content else None for split, content in contents.items()}
    for split, numbers in printed.items():
        title = f"{split.capitalize()} split" + (f", model of fold {fold}" if fold is not None else "")
        if numbers is None or not numbers.n:
            _line(out, f"{title}: no images")
        else:
            out.print(metrics_table(numbers, title, undefined=undefined, classes=classes))
        _line(out, "")
    if any(numbers and numbers.n for numbers in printed.values()):
        _line(out, BRACKETS)
    for note in notes:
        _line(out, note)
    _line(out, "")
    _line(out, f"Run folder: {run_dir}", whole=True)


def _line(console: Console, text: str, whole: bool = False) -> None:
    # No markup and no emoji codes: a path such as data[old]/:x:/ is printed as it is.
    console.print(_printable(text, console), markup=False, emoji=False, highlight=False, soft_wrap=whole)


def _printable(text: str, console: Console) -> str:
    return text.encode(console.encoding, "backslashreplace").decode(console.encoding)
