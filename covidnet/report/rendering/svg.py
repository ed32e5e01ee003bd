"""A figure as SVG, and as a data URI."""

from __future__ import annotations

from base64 import b64encode
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from covidnet.report.plots.drawing import styled


@styled
def svg(figure: Figure) -> str:
    """A figure as self-contained SVG; the same drawing gives the same text.

    Args:
        figure: the figure.
    """
    stream = StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def data_uri(text: str) -> str:
    """An SVG as a data URI for an image in a page.

    As images, several SVGs cannot clash in their element ids, and nothing in them can run.

    Args:
        text: the SVG.

    Example:
        >>> data_uri("<svg/>")
        'data:image/svg+xml;base64,PHN2Zy8+'
    """
    return "data:image/svg+xml;base64," + b64encode(text.encode()).decode()
