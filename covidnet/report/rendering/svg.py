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
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = StringIO()
    canvas, engine, dpi = figure.canvas, figure.get_layout_engine(), figure.dpi
    try:
        FigureCanvasSVG(figure)
        if engine is not None:
            # `savefig` draws everything once to lay it out, and once more to write it.
            figure.dpi = FigureCanvasSVG.fixed_dpi
            engine.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    finally:
        figure.dpi = dpi
        figure.set_layout_engine(engine)
        figure.set_canvas(canvas)
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
