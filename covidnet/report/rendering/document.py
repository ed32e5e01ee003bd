"""The parts of a report, before rendering.

All text is plain. Rendering escapes it, so that a folder name cannot inject markup.
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
"""A text, a number, or an empty text for an empty cell."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: the heading.
        group: printed once above the headings of neighbouring columns with the same group.
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
    """Publications with their links."""

    items: Sequence[Source]


@dataclass(frozen=True)
class Code:
    """A command line."""

    text: str


@dataclass(frozen=True)
class Link:
    """A link to a file next to the report.

    Args:
        text: the description.
        page: the file that the HTML links to.
        plain: the file that the Markdown links to.
    """

    text: str
    page: str
    plain: str


@dataclass(frozen=True)
class Notice:
    """A box with important notes.

    Args:
        title: the first line.
        items: the notes, the most serious first.
        calm: whether there is nothing to warn of.
    """

    title: str
    items: Sequence[str]
    calm: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        caption: what it shows, with units.
        columns: the first one names the rows.
        rows: a cell per column.
        label: such as ``Table 5 (paper)``; a letter is assigned if empty.
        notes: printed below the table.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    label: str = ""
    notes: Sequence[str] = ()


def without_paper(table: Table) -> Table:
    """A table without the paper's columns, label and notes.

    Args:
        table: a table with columns ``ours`` and ``paper`` in each group.
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
        alt: the text alternative.
        drawing: a matplotlib figure.
        instead: the same numbers as tables, for the Markdown.
        label: a number is assigned if empty.
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
        alt: the text alternative.
        path: of the file, relative to the sweep folder.
        label: the next figure number is assigned if empty.
        data: the file's bytes; empty if the file was not read or is missing.
    """

    caption: str
    alt: str
    path: str
    label: str = ""
    data: bytes = field(default=b"", repr=False)

    @property
    def missing(self) -> str:
        """The text in place of a missing picture."""
        return f"The picture {self.path} is no longer in the sweep folder."


Block = Paragraph | Bullets | References | Code | Link | Notice | Table | Figure | Picture


@dataclass(frozen=True)
class Section:
    """A heading and its content.

    Args:
        title: the heading; empty for the part before the first heading.
        anchor: its name in links.
        blocks: the content.
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
        sections: in order.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
