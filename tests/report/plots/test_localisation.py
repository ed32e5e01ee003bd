import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covidnet.evaluation.localisation import MeasureSummary
from covidnet.report.plots.drawing import new_figure
from covidnet.report.plots.figures import localisation_figure as figure_of_measures
from covidnet.report.plots.localisation import localisation_axes
from covidnet.report.rendering.svg import svg
from covidnet.report.words import MEASURES
from tests.report.conftest import of_content, sweep

Summary = dict[str, Any]
localisation_axes = of_content(localisation_axes, dict[str, MeasureSummary])


def localisation_figure(content: Summary) -> Figure | None:
    explained = sweep(content).explanations
    found = None if explained is None else explained.localisation
    return figure_of_measures({} if found is None else found.measures)


MAPS = ("model", "centre", "mean_map", "chance")


def _line(ax: Axes, gid: str) -> Any:
    (line,) = [line for line in ax.get_lines() if line.get_gid() == gid]
    return line


def _intervals(ax: Axes) -> list[list[float]]:
    return [list(line.get_xdata()) for line in ax.get_lines() if not line.get_gid()]


def test_dots_and_intervals_are_those_of_the_measures(explained: Summary) -> None:
    measures = explained["explanations"]["localisation"]["measures"]
    ax = localisation_axes(measures)
    for key in MAPS:
        there = [m[key]["value"] for m in measures.values() if m[key]["value"] is not None]
        np.testing.assert_array_equal(_line(ax, key).get_xdata(), there)
    expected = [m[key]["ci"] for key in MAPS for m in measures.values() if m[key]["ci"]]
    # Chance has no IoU.
    assert len(expected) == 4 * 4 - 1
    assert _intervals(ax) == expected
    assert [label.get_text() for label in ax.get_yticklabels()] == [MEASURES[name] for name in measures]
    assert ax.get_xlim() == (0.0, 1.0)
    # The first measure is on top.
    assert ax.yaxis_inverted()


def test_a_black_and_white_print_tells_the_maps_apart(explained: Summary) -> None:
    ax = localisation_axes(explained["explanations"]["localisation"]["measures"])
    lines = [_line(ax, key) for key in MAPS]
    assert len({line.get_marker() for line in lines}) == 4
    assert [line.get_markerfacecolor() == "white" for line in lines] == [False, True, True, False]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["model", "centre prior", "mean map", "chance"]
    # No two of a measure lie on one height, where one could hide the other.
    heights = np.concatenate([line.get_ydata() for line in lines])
    assert (np.diff(np.sort(heights)) > 0.1).all()


@pytest.mark.parametrize("ends", [0.0, 1.0])
def test_a_dot_at_the_end_of_the_axis_is_whole(ends: float) -> None:
    ax = localisation_axes({"iou": {"model": {"value": ends, "ci": [ends, ends]}}})
    assert not _line(ax, "model").get_clip_on()


def test_what_is_missing_is_left_out() -> None:
    measures = {
        "pointing": None,
        "iou": {"model": {"value": None, "ci": None}, "centre": None},
        "lesion_share": {"model": {"value": 0.3, "ci": None}, "centre": {"value": 0.2, "ci": [0.1, 0.3]}},
        "unheard of": {"model": {"value": 0.9}},
    }
    ax = localisation_axes(measures)
    assert list(_line(ax, "model").get_xdata()) == [0.3]
    assert _intervals(ax) == [[0.1, 0.3]]
    assert [text.get_text() for text in ax.texts] == ["no value", "no value"]
    empty = localisation_axes({})
    assert empty.get_legend() is None
    svg(empty.figure)  # type: ignore[arg-type]


def test_it_is_drawn_into_axes_that_are_given() -> None:
    ax = new_figure().add_subplot()
    assert localisation_axes({}, ax) is ax


def test_the_figure_is_whole_svg_the_same_twice_and_inside_its_sheet(explained: Summary) -> None:
    figure, again = localisation_figure(explained), localisation_figure(explained)
    assert figure is not None
    assert again is not None
    assert ET.fromstring(svg(figure)).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg(figure) == svg(again)
    canvas: Any = figure.canvas
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01


@pytest.mark.parametrize("found", [None, {}, {"localisation": None}, {"localisation": {"measures": {"iou": None}}}])
def test_no_figure_is_drawn_of_nothing(found: Any) -> None:
    assert localisation_figure({}) is None
    assert localisation_figure({"explanations": found}) is None


def test_a_measure_without_a_value_of_the_model_is_no_row(explained: Summary) -> None:
    measures = explained["explanations"]["localisation"]["measures"]
    measures["iou"]["model"]["value"] = None
    figure = localisation_figure(explained)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["Pointing game", "Heat in the lesion", "Heat in the lungs"]
