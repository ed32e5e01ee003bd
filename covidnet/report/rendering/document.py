"""What a report is made of, before it becomes HTML or Markdown.

All text is plain: whoever renders it escapes it, so that no name of a folder can become part of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from covidnet.report.values import Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

    from covidnet.report.paper.published import Source


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
