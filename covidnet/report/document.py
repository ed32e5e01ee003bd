"""What a report is made of, before it becomes HTML or Markdown.

All text is plain: whoever renders it escapes it, so that no name of a folder can become part of the page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from covidnet.report.tables import UNDEFINED

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from covidnet.report.published import Source


@dataclass(frozen=True)
class Value:
    """A number in a table, with its 95% interval.

    Args:
        value: the number, or None where it does not exist.
        interval: its ends, or None.
        scale: what it is multiplied with before it is shown: 100 makes a fraction a percentage.
        digits: behind the decimal point.
        unit: behind the number where it stands outside a table column that names it.
    """

    value: float | None
    interval: Sequence[float] | None = None
    scale: float = 1.0
    digits: int = 0
    unit: str = ""

    @property
    def number(self) -> str:
        """The number alone; a dash where there is none."""
        return UNDEFINED if self.value is None else self._shown(self.value)

    @property
    def ends(self) -> str:
        """The interval in brackets; empty where there is none."""
        if self.value is None or self.interval is None:
            return ""
        low, high = self.interval
        return f"[{self._shown(low)}, {self._shown(high)}]"

    def _shown(self, value: float) -> str:
        text = f"{self.scale * value:,.{self.digits}f}"
        # A difference of -0.00004 is no difference of -0.0.
        text = text.removeprefix("-") if not text.strip("-0.,") else text
        return text.replace("-", "\N{MINUS SIGN}")


def rate(estimate: Any) -> Value:
    """An estimate of a fraction, or a plain fraction, in percent with one digit.

    Args:
        estimate: ``{"value", "ci", ...}``, a number, or None.

    Example:
        >>> rate({"value": 0.946, "ci": [0.934, 0.956]}).number, rate(None).number
        ('94.6', '–')
    """
    value, interval = _split(estimate)
    return Value(value, interval, 100.0, 1, "%")


def printed(fraction: float | None) -> Value:
    """A rate of the paper in percent, with the digits that it is printed with: one, or two where it has two.

    Args:
        fraction: of 1, or None.

    Example:
        >>> printed(0.946).number, printed(0.9384).number
        ('94.6', '93.84')
    """
    whole = fraction is None or abs(1000 * fraction - round(1000 * fraction)) < 1e-6
    return Value(fraction, None, 100.0, 1 if whole else 2, "%")


def area(estimate: Any) -> Value:
    """An estimate of an area under a curve, or a score, as it is, with three digits.

    Args:
        estimate: ``{"value", "ci", ...}``, a number, or None.
    """
    value, interval = _split(estimate)
    return Value(value, interval, 1.0, 3)


def _split(estimate: Any) -> tuple[float | None, Sequence[float] | None]:
    if isinstance(estimate, dict):
        return estimate.get("value"), estimate.get("ci")
    return estimate, None


Cell = str | Value
"""A text, a number, or an empty text where there is no such cell."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: above it.
        group: above its name, once for all columns beside each other that have it.
    """

    name: str
    group: str = ""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class References:
    """Publications, each with its address."""

    items: Sequence[Source]


@dataclass(frozen=True)
class Code:
    """A command line."""

    text: str


@dataclass(frozen=True)
class Link:
    """A file that lies beside the report.

    Args:
        text: what it is.
        page: its name for a reader of the HTML.
        plain: its name for a reader of the Markdown.
    """

    text: str
    page: str
    plain: str


@dataclass(frozen=True)
class Notice:
    """What must not be overlooked.

    Args:
        title: the first line.
        items: what there is to know, the gravest first.
        calm: that there is nothing to know.
    """

    title: str
    items: Sequence[str]
    calm: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        caption: what it shows and in which unit.
        columns: the first one names the rows.
        rows: cells, as many as columns.
        label: such as ``Table 5 (paper)``; given a letter if empty.
        notes: below.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    label: str = ""
    notes: Sequence[str] = ()


def without_paper(table: Table) -> Table:
    """A table of ours and the paper's numbers without the paper's: its columns, its label and its notes.

    Args:
        table: whose columns are named ``ours`` and ``paper`` under a group each.
    """
    kept = [at for at, column in enumerate(table.columns) if column.name != "paper"]
    columns = [table.columns[at] for at in kept]
    return Table(
        table.caption,
        [Column(column.group) if column.name == "ours" else column for column in columns],
        [[row[at] for at in kept] for row in table.rows],
    )


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Args:
        caption: what it shows and how to read it.
        alt: what a reader who cannot see it should know.
        drawing: a figure of matplotlib.
        instead: the same numbers, for a reader of the Markdown.
        label: given a number if empty.
    """

    caption: str
    alt: str
    drawing: Drawing
    instead: Sequence[Table] = ()
    label: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG that a run drew.

    Args:
        caption: what it shows and how to read it.
        alt: what a reader who cannot see it should know.
        path: of the file, relative to the sweep folder.
        label: given the next figure's number if empty.
        data: the file's bytes; empty where it was not read or is not there any more.
    """

    caption: str
    alt: str
    path: str
    label: str = ""
    data: bytes = field(default=b"", repr=False)

    @property
    def gone(self) -> str:
        """What stands in the place of a picture without bytes."""
        return f"The picture {self.path} is not in the sweep folder any more."


Block = Paragraph | Bullets | References | Code | Link | Notice | Table | Figure | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what follows it.

    Args:
        title: of the section; empty for what stands before the first heading.
        anchor: its name in addresses.
        blocks: what follows.
    """

    title: str
    anchor: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class Document:
    """A whole report.

    Args:
        title: of the report.
        subtitle: below the title.
        sections: in their order.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]


_REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object) -> str:
    r"""A text on one line, without characters that a page cannot hold or that change the order of others.

    Args:
        text: anything; names of files may hold every character but the zero byte.

    Example:
        >>> clean("a\nb"), clean("x\x1b[31m"), clean("caf\udce9")
        ('a b', 'x [31m', 'caf\\udce9')
    """
    whole = str(text).encode("utf-8", "backslashreplace").decode()
    # Beside control characters: those that no XML can hold.
    bad = ("\ufffe", "\uffff")
    kept = ["" if c in _REORDERING or c in bad else " " if unicodedata.category(c) == "Cc" else c for c in whole]
    return " ".join("".join(kept).split())
