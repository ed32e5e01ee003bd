"""The report of a sweep as one page: no script, no font and no picture from anywhere else; and the report folder."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

from covidnet.base.errors import DataError
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
    Section,
    Table,
)
from covidnet.report.rendering.pictures import picture_size
from covidnet.report.rendering.style import CSS
from covidnet.report.rendering.svg import data_uri, svg
from covidnet.report.values import Value, clean

# Rows up to which a table is kept on one printed page.
_SHORT = 14

# Letters from which on a word in a table may be broken.
_LONG = 20

# Pixels of a picture that is wider than the text of a page and may reach beyond it.
_WIDE = 900

_NUMBER = r"\N{MINUS SIGN}?[\d.]+"
_INTERVAL = re.compile(rf"{_NUMBER}(?:%| points) \[{_NUMBER}, {_NUMBER}\]")

# A page that can neither run nor load anything, whatever name came through.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def json_text(name: str, content: Any) -> str:
    """The content of a JSON file.

    Args:
        name: of the file, for the error.
        content: plain values.

    Raises:
        DataError: a number is not finite.
    """
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise DataError(f"{name}: {error}; a value that does not exist is None") from None


def page_of(document: Document) -> str:
    """A document as one HTML page that loads nothing from elsewhere."""
    titled = [section for section in document.sections if section.title]
    links = "".join(f'<a href="#{escape(section.anchor)}">{_text(section.title)}</a> ' for section in titled)
    first, *rest = document.sections
    body = "\n".join(_section(section) for section in rest)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{_text(document.title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f'<header>\n<h1>{_text(document.title)}</h1>\n<p class="subtitle">{_text(document.subtitle)}</p>\n'
        f"{_blocks(first.blocks)}\n<nav>{links}</nav>\n</header>\n"
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    anchor = escape(section.anchor)
    return f'<section id="{anchor}">\n<h2>{_text(section.title)}</h2>\n{_blocks(section.blocks)}\n</section>'


def _blocks(blocks: Sequence[Block]) -> str:
    return "\n".join(_block(block) for block in blocks)


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{_prose(block.text)}</p>"
    if isinstance(block, Bullets):
        return _list(block.items)
    if isinstance(block, References):
        return '<ul class="notes">' + "".join(f"<li>{_source(source)}</li>" for source in block.items) + "</ul>"
    if isinstance(block, Code):
        return f"<pre>{_text(block.text)}</pre>"
    if isinstance(block, Link):
        return f"<p>{_text(block.text)}: {_link(block.page, block.page)}</p>"
    if isinstance(block, Notice):
        kind = "notice calm" if block.calm else "notice"
        return f'<aside class="{kind}"><strong>{_text(block.title)}</strong>{_list(block.items)}</aside>'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block)
    return _figure(block)


def _text(text: str) -> str:
    return escape(clean(text))


def _prose(text: str) -> str:
    """A text in which a number is not torn from its interval at the end of a line."""
    return _INTERVAL.sub(r'<span class="whole">\g<0></span>', _text(text))


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"


def _source(source: Source) -> str:
    year = f" ({source.year})" if source.year else ""
    parts = [f"{_text(source.authors)}{year}. {_text(source.title)}."]
    if source.doi:
        parts.append(_link(f"https://doi.org/{source.doi}", f"DOI {source.doi}"))
    if source.arxiv:
        parts.append(_link(f"https://arxiv.org/abs/{source.arxiv}", f"arXiv:{source.arxiv}"))
    return " ".join(parts)


def _link(address: str, text: str) -> str:
    return f'<a href="{escape(address)}">{_text(text)}</a>'


def _figure(figure: Figure) -> str:
    address = data_uri(svg(figure.drawing))
    width = round(96 * figure.drawing.get_figwidth() * 1.25)
    return (
        f'<figure><img src="{address}" alt="{_text(figure.alt)}" width="{width}"/>'
        f"<figcaption><b>{_text(figure.label)}.</b> {_text(figure.caption)}</figcaption></figure>"
    )


def _picture(picture: Picture) -> str:
    if not picture.data:
        return f"<p>{_text(picture.gone)}</p>"
    # As many pixels of the page to an inch as a drawing has: a panel is made with 150, a drawing shown with 120.
    width = round(0.8 * picture_size(picture.data)[0])
    address = f"data:image/png;base64,{b64encode(picture.data).decode()}"
    return (
        f"<figure{_class('wide' if width > _WIDE else '')}>"
        f'<img src="{address}" alt="{_text(picture.alt)}" width="{width}"/>'
        f"<figcaption><b>{_text(picture.label)}.</b> {_text(picture.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    kinds = [_kind([row[at] for row in table.rows]) for at in range(len(table.columns))]
    widths = [_width([row[at] for row in table.rows]) for at in range(len(table.columns))]
    facts = not any(column.name or column.group for column in table.columns)
    head = "" if facts else f"<thead>{_head(table, kinds)}</thead>"
    body = (
        "".join(
            "<tr>"
            + f'<th scope="row"{_class(_long(row[0]))}>{_cell(row[0], 0)}</th>'
            + "".join(
                _data(cell, kind, width) for cell, kind, width in zip(row[1:], kinds[1:], widths[1:], strict=True)
            )
            + "</tr>"
            for row in table.rows
        )
        or f'<tr><td colspan="{len(table.columns)}">no rows</td></tr>'
    )
    notes = "".join(f'<p class="notes">{_text(note)}</p>' for note in table.notes)
    name = "".join(c for c in table.label.lower() if c.isalnum())
    classes = " ".join(["table", *(["short"] if len(table.rows) <= _SHORT else []), *(["facts"] if facts else [])])
    return (
        f'<div class="{classes}"><p class="caption" id="{name}"><b>{_text(table.label)}.</b> {_text(table.caption)}</p>'
        f'<table aria-labelledby="{name}">{head}<tbody>{body}</tbody></table>{notes}</div>'
    )


def _head(table: Table, kinds: Sequence[str]) -> str:
    def name(at: int) -> str:
        text = table.columns[at].name
        return f'<th scope="col"{_class(kinds[at] if at else "", _long(text))}>{_text(text)}</th>'

    if not any(column.group for column in table.columns):
        return "<tr>" + "".join(name(at) for at in range(len(table.columns))) + "</tr>"
    above = ""
    for group, members in groupby(enumerate(table.columns), key=lambda pair: pair[1].group):
        inside = [at for at, _ in members]
        if group:
            above += f'<th class="group" scope="colgroup" colspan="{len(inside)}"><span>{_text(group)}</span></th>'
        else:
            # A column without a group keeps its name, over both lines.
            above += "".join(name(at).replace("<th ", '<th rowspan="2" ', 1) for at in inside)
    below = "".join(name(at) for at, column in enumerate(table.columns) if column.group)
    return f'<tr>{above}</tr><tr class="under">{below}</tr>'


def _kind(cells: Sequence[Cell]) -> str:
    """How a column is set: ends (a number with its interval), number, or text."""
    values = [cell for cell in cells if isinstance(cell, Value)]
    if not values or any(isinstance(cell, str) and cell for cell in cells):
        return ""
    return "ends" if any(value.ends for value in values) else "number"


def _width(cells: Sequence[Cell]) -> int:
    """Characters of the longest number of a column."""
    return max((len(cell.number) for cell in cells if isinstance(cell, Value)), default=0)


def _data(cell: Cell, kind: str, width: int) -> str:
    return f"<td{_class(kind, _long(cell))}>{_cell(cell, width if kind == 'ends' else 0)}</td>"


def _class(*names: str) -> str:
    there = " ".join(name for name in names if name)
    return f' class="{there}"' if there else ""


def _long(cell: Cell) -> str:
    """A name without a space to break it at is broken where the page ends; a short word never."""
    return "long" if isinstance(cell, str) and any(len(word) > _LONG for word in clean(cell).split()) else ""


def _cell(cell: Cell, width: int) -> str:
    if isinstance(cell, str):
        return _text(cell)
    # Numbers of one width under each other have their decimal points under each other.
    size = f' style="min-width:{0.56 * width:.2f}em"' if width else ""
    shown = f'<span class="value"{size}>{_text(cell.number)}</span>'
    return shown + (f' <span class="interval">{_text(cell.ends)}</span>' if cell.ends else "")
