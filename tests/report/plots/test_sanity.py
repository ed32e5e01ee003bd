import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from covidnet.evaluation.results import empty
from covidnet.evaluation.sanity import SanitySummary
from covidnet.report.plots.drawing import new_figure
from covidnet.report.plots.figures import sanity_figure as figure_of_test
from covidnet.report.plots.sanity import sanity_axes
from covidnet.report.rendering.svg import svg
from tests.report.conftest import of_content, sweep

Summary = dict[str, Any]
sanity_axes = of_content(sanity_axes, SanitySummary)


def sanity_figure(content: Summary) -> Figure | None:
    explained = sweep(content).explanations
    return figure_of_test((None if explained is None else explained.sanity) or empty(SanitySummary))


def _line(ax: Axes, gid: str) -> Any:
    (line,) = [line for line in ax.get_lines() if line.get_gid() == gid]
    return line


@pytest.mark.parametrize("measure", ["ssim", "rank"])
def test_stages_and_baseline_are_those_of_the_test(explained: Summary, measure: str) -> None:
    sanity = explained["explanations"]["sanity"]
    ax = sanity_axes(sanity, measure, title="T")
    stages = sanity["stages"]
    np.testing.assert_array_equal(_line(ax, measure).get_ydata(), [stage[measure]["value"] for stage in stages])
    assert [label.get_text() for label in ax.get_xticklabels()] == [stage["stage"] for stage in stages]
    assert set(_line(ax, "pairs").get_ydata()) == {sanity["pairs"][measure]["value"]}
    intervals = [list(line.get_ydata()) for line in ax.get_lines() if not line.get_gid() and len(line.get_xdata()) == 2]
    assert [stage[measure]["ci"] for stage in stages] == [ends for ends in intervals if ends != [1.0, 1.0]]
    (band,) = ax.patches
    low, high = band.get_extents().transformed(ax.transData.inverted()).intervaly
    assert [low, high] == pytest.approx(sanity["pairs"][measure]["ci"])
    assert ax.get_title(loc="left") == "T"


def test_lines_are_told_apart_without_colour(explained: Summary) -> None:
    ax = sanity_axes(explained["explanations"]["sanity"], "ssim")
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["unchanged", "different images", "re-initialised"]
    styles = {line.get_linestyle() for line in legend.get_lines()}
    assert len(styles) == 3


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_nothing_lies_outside_the_axes_or_under_the_legend(value: float) -> None:
    estimate = {"ssim": {"value": value, "ci": [max(value - 0.1, -1.0), min(value + 0.1, 1.0)]}}
    figure = new_figure(3.6, 3.2)
    stages = [{"stage": f"layer{at}", **estimate} for at in range(9)]
    ax = sanity_axes({"stages": stages, "pairs": estimate}, "ssim", figure.add_subplot())
    low, high = ax.get_ylim()
    assert low < estimate["ssim"]["ci"][0]
    assert high > 1.0
    canvas: Any = figure.canvas
    canvas.draw()
    legend = ax.get_legend()
    assert legend is not None
    box = legend.get_window_extent(canvas.get_renderer()).transformed(ax.transData.inverted())
    assert box.y0 > 1.0
    assert box.x1 <= ax.get_xlim()[1]
    assert max(ax.get_yticks()) == pytest.approx(1.0)


def test_what_is_missing_is_left_out() -> None:
    stages = [{"stage": "head", "ssim": {"value": 0.5, "ci": None}}, {"stage": None, "ssim": None}, None]
    ax = sanity_axes({"stages": stages, "pairs": None}, "ssim")
    assert list(_line(ax, "ssim").get_xdata()) == [0]
    assert not [line for line in ax.get_lines() if line.get_gid() == "pairs"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["head", "", ""]
    svg(sanity_axes({}, "rank").figure)  # type: ignore[arg-type]


def test_a_layer_may_have_any_name() -> None:
    stages = [{"stage": name, "rank": {"value": 0.1, "ci": None}} for name in ("\x00<b>$\\frac$", "層" * 99, "\udce9")]
    ax = sanity_axes({"stages": stages}, "rank")
    assert all(len(label.get_text()) <= 24 for label in ax.get_xticklabels())
    ET.fromstring(svg(ax.figure))  # type: ignore[arg-type]


def test_it_is_drawn_into_axes_that_are_given() -> None:
    ax = new_figure().add_subplot()
    assert sanity_axes({}, "ssim", ax) is ax


def test_the_figure_has_both_measures_and_is_the_same_twice(explained: Summary) -> None:
    figure, again = sanity_figure(explained), sanity_figure(explained)
    assert figure is not None
    assert again is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["SSIM", "Rank correlation"]
    assert svg(figure) == svg(again)
    canvas: Any = figure.canvas
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01


@pytest.mark.parametrize(
    "found", [None, {}, {"sanity": None}, {"sanity": {"stages": None}}, {"sanity": {"stages": []}}]
)
def test_no_figure_is_drawn_of_nothing(found: Any) -> None:
    assert sanity_figure({"explanations": found}) is None


def test_a_measure_without_values_is_no_part_of_the_figure(explained: Summary) -> None:
    for stage in explained["explanations"]["sanity"]["stages"]:
        stage["rank"] = {"value": None, "ci": None}
    figure = sanity_figure(explained)
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["SSIM"]
