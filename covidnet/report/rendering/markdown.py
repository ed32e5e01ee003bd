"""A report as GitHub Markdown: all numbers, no drawings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from covidnet.report.paper.published import Source
from covidnet.report.rendering.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Figure,
    Link,
    Notice,
    Paragraph,
    Picture,
    References,
    Table,
)
from covidnet.report.rendering.pictures import FOLDER, copy_name
from covidnet.report.values import Value, clean

# Starts a heading, a list, a quotation or a rule at the beginning of a line.
_START = re.compile(r"^(?:[-+#>=]|\d+[.)])")
_INTERVAL = r"\[(?=\N{MINUS SIGN}?[\d.,]+, \N{MINUS SIGN}?[\d.,]+\])"


def markdown_of(document: Document) -> str:
    """A document as Markdown.

    Args:
        document: such as `covidnet.report.sweep.content.report_document` returns.
    """
    parts = [f"# {escaped(document.title)}", f"*{escaped(document.subtitle)}*"]
    for section in document.sections:
        if section.title:
            parts.append(f"## {escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def escaped(text: object) -> str:
    r"""A text on one line, escaped for Markdown.

    Args:
        text: anything.

    Example:
        >>> escaped("<b>|x|_y_ [a](b) 94.6% [93.4, 95.6]")
        '&lt;b&gt;\\|x\\|\\_y\\_ \\[a\\](b) 94.6% [93.4, 95.6]'
        >>> escaped("# no heading"), escaped("a_b")
        ('\\# no heading', 'a_b')
    """
    line = clean(text)
    line = re.sub(r"[\\`*|~$]", lambda found: "\\" + found.group(), line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore inside a word has no meaning in Markdown, and names of settings are full of them.
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    # The brackets of an interval need no escape unless a link target could follow.
    kept = {
        found.start(): found
        for found in re.finditer(r"\[(\N{MINUS SIGN}?[\d.,]+), (\N{MINUS SIGN}?[\d.,]+)\](?![(\[:])", line)
    }
    inside = {at for start, found in kept.items() for at in range(start, found.end())}
    line = "".join("\\" + c if c in "[]" and at not in inside else c for at, c in enumerate(line))
    return (
        "\\" + line
        if _START.match(line) and not line[0].isdigit()
        else re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)
    )


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return escaped(block.text)
    if isinstance(block, Bullets):
        return _list(block.items)
    if isinstance(block, References):
        return "\n".join(f"- {_source(source)}" for source in block.items)
    if isinstance(block, Code):
        return _code(block.text)
    if isinstance(block, Link):
        return f"{escaped(block.text)}: [{block.plain}]({block.plain})"
    if isinstance(block, Notice):
        return "\n".join(f"> {line}" for line in (f"**{escaped(block.title)}**", "", *_list(block.items).splitlines()))
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block)
    return _figure(block)


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def _source(source: Source) -> str:
    year = f" ({source.year})" if source.year else ""
    text = f"{escaped(source.authors)}{year}. {escaped(source.title)}."
    if source.doi:
        text += f" <https://doi.org/{source.doi}>"
    if source.arxiv:
        text += f" <https://arxiv.org/abs/{source.arxiv}>"
    return text


def _code(text: str) -> str:
    line = clean(text)
    # Longer than any run of backticks in the text, so that none of them ends the block.
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}sh\n{line}\n{fence}"


def _figure(figure: Figure) -> str:
    parts = [f"*{escaped(figure.label)} (drawn in report.html). {escaped(figure.caption)}*"]
    parts += [_grid(table) + f"\n\n*{escaped(table.caption)}*" for table in figure.instead]
    return "\n\n".join(parts)


def _picture(picture: Picture) -> str:
    if not picture.data:
        return escaped(picture.missing)
    image = f"![{escaped(picture.alt)}]({FOLDER}/{copy_name(picture)})"
    return f"{image}\n\n*{escaped(picture.label)}. {escaped(picture.caption)}*"


def _table(table: Table) -> str:
    notes = "".join(f"\n\n{escaped(note)}" for note in table.notes)
    return f"**{escaped(table.label)}.** {escaped(table.caption)}\n\n{_grid(table)}{notes}"


def _grid(table: Table) -> str:
    names = [": ".join(escaped(part) for part in (c.group, c.name) if part) for c in table.columns]
    right = [all(isinstance(row[at], Value) or not row[at] for row in table.rows) for at in range(len(names))]
    lines = [_row(names), _row(["---:" if side and at else "---" for at, side in enumerate(right)])]
    lines += [_row([_cell(cell) for cell in row]) for row in table.rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Value):
        return " ".join(part for part in (cell.number, cell.ends) if part)
    return escaped(cell)
