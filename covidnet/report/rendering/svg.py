"""A figure as SVG, and as an address that a page can hold."""

from __future__ import annotations

from base64 import b64encode
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from covidnet.report.plots.drawing import styled


@styled
def svg(figure: Figure) -> str:
    """A figure as SVG: whole, without references to anything outside, the same text for the same drawing.

    Args:
        figure: the figure.
    """
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def data_uri(text: str) -> str:
    """An SVG as the address of an image in a page, so that the page needs no second file.

    In an image, names inside one drawing cannot clash with those of another, and nothing in it can be run.

    Args:
        text: the SVG.

    Example:
        >>> data_uri("<svg/>")
        'data:image/svg+xml;base64,PHN2Zy8+'
    """
    return "data:image/svg+xml;base64," + b64encode(text.encode()).decode()
