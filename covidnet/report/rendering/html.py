"""A document as one self-contained HTML page, without external scripts, fonts or pictures."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from covidnet.base.errors import DataError
from covidnet.evaluation.results import to_json
from covidnet.report.rendering.document import Cell, Document, Figure, Picture, Table
from covidnet.report.rendering.pictures import picture_size
from covidnet.report.rendering.svg import data_uri, svg
from covidnet.report.values import Value, clean

# Longer words in a table may be broken.
_LONG = 20

_NUMBER = r"\N{MINUS SIGN}?[\d.]+"
_INTERVAL = re.compile(rf"{_NUMBER}(?:%| points) \[{_NUMBER}, {_NUMBER}\]")


def json_text(name: str, content: Any) -> str:
    """The content of a JSON file.

    Args:
        name: the file's name, for the error.
        content: results or plain values.

    Raises:
        DataError: a number is not finite.
    """
    try:
        return json.dumps(to_json(content), indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise DataError(f"{name}: {error}; undefined values must be None") from None


def page_of(document: Document) -> str:
    """A document as a page, well-formed as HTML and as XML."""
    return _templates().get_template("page.html").render(document=document)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("covidnet.report.rendering"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(value),
        keep_trailing_newline=True,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"address": _address, "columns": _columns, "pixels": _pixels, "prose": _prose, "runs": _runs}
    environment.tests |= {"alnum": str.isalnum, "long": _is_long}
    return environment


def _prose(text: str) -> Markup:
    """A text in which a number and its interval stay on one line."""
    return Markup(_INTERVAL.sub(r'<span class="whole">\g<0></span>', str(escape(clean(text)))))


def _address(image: Figure | Picture) -> Markup:
    """An image as a data URI, so that the page needs no second file."""
    if isinstance(image, Figure):
        return Markup(data_uri(svg(image.drawing)))
    return Markup(f"data:image/png;base64,{b64encode(image.data).decode()}")


def _pixels(image: Figure | Picture) -> int:
    """The width on the page at 120 pixels per inch; panels are saved with 150."""
    if isinstance(image, Figure):
        return round(120 * image.drawing.get_figwidth())
    return round(0.8 * picture_size(image.data)[0])


class _Column(NamedTuple):
    """Kind is ``ends`` (numbers with intervals), ``number`` or empty (text); width is that of its numbers."""

    title: str
    group: str
    kind: str
    width: int


def _columns(table: Table) -> list[_Column]:
    columns = []
    for at, column in enumerate(table.columns):
        kind, width = _kind([row[at] for row in table.rows]) if at else ("", 0)
        columns.append(_Column(column.name, column.group, kind, width))
    return columns


def _kind(cells: Sequence[Cell]) -> tuple[str, int]:
    values = [cell for cell in cells if isinstance(cell, Value)]
    if not values or any(isinstance(cell, str) and cell for cell in cells):
        return "", 0
    if any(value.ends for value in values):
        return "ends", max(len(value.number) for value in values)
    return "number", 0


def _runs(columns: Sequence[_Column]) -> list[tuple[str, list[_Column]]]:
    """Neighbouring columns of the same group."""
    return [(group, list(members)) for group, members in groupby(columns, key=lambda column: column.group)]


def _is_long(cell: Cell) -> bool:
    return isinstance(cell, str) and any(len(word) > _LONG for word in clean(cell).split())
