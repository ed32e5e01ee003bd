"""Every figure: that it holds the numbers it was given, and copes with what is missing."""

import base64
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import binom

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError
from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.results import from_json
from covidnet.evaluation.selection import SimulatedChoice
from covidnet.report.plots.confusion import confusion_axes, row_fractions
from covidnet.report.plots.curves import precision_recall_axes, roc_axes
from covidnet.report.plots.drawing import new_figure
from covidnet.report.plots.figures import (
    calibration_figure,
    confusion_figure,
    curves_figure,
    folds_figure,
    selection_figure,
    training_figure,
)
from covidnet.report.plots.fold import fold_accuracy_axes, fold_class_axes
from covidnet.report.plots.reliability import reliability_axes
from covidnet.report.plots.selection import best_of, selection_axes
from covidnet.report.plots.training import training_axes
from covidnet.report.rendering.svg import data_uri, svg
from covidnet.report.summary import TrainingCurve
from tests.report.conftest import of_content, sweep

roc_axes = of_content(roc_axes, dict[str, ClassCurves])
precision_recall_axes = of_content(precision_recall_axes, dict[str, ClassCurves])
reliability_axes = of_content(reliability_axes, Calibration)
training_axes = of_content(training_axes, TrainingCurve)
calibration_figure = of_content(calibration_figure)
confusion_figure = of_content(confusion_figure)
folds_figure = of_content(folds_figure)
selection_figure = of_content(selection_figure)
training_figure = of_content(training_figure)

Summary = dict[str, Any]
ALL: list[Callable[[Summary], Figure | None]] = [
    confusion_figure,
    lambda s: curves_figure(sweep(s).curves.pooled, CLASSES),
    lambda s: curves_figure(sweep(s).curves.unseen or {}, CLASSES),
    folds_figure,
    calibration_figure,
    selection_figure,
    training_figure,
]


def _line(ax: Axes, gid: str) -> Any:
    (line,) = [line for line in ax.get_lines() if line.get_gid() == gid]
    return line


def test_a_confusion_matrix_shows_counts_and_percent_of_the_row() -> None:
    ax = confusion_axes([[50, 1, 1], [0, 48, 4], [0, 0, 0]], title="Test")
    texts = [text.get_text() for text in ax.texts]
    assert texts[:3] == ["50\n96.2%", "1\n1.9%", "1\n1.9%"]
    # A row without images has no percentages.
    assert texts[6:] == ["0", "0", "0"]
    assert ax.get_title(loc="left") == "Test"
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array()[0], [50 / 52, 1 / 52, 1 / 52])
    with pytest.raises(DataError, match="shape"):
        confusion_axes([[1, 2]])


def test_fractions_of_a_row_sum_to_one() -> None:
    counts = np.random.default_rng(0).integers(1, 50, (3, 3))
    np.testing.assert_allclose(row_fractions(counts).sum(1), 1.0)
    assert np.isnan(row_fractions(np.zeros((3, 3)))).all()


@pytest.mark.parametrize(
    ("draw", "kind", "x", "y"), [(roc_axes, "roc", "fpr", "tpr"), (precision_recall_axes, "pr", "recall", "precision")]
)
def test_curves_are_those_of_the_summary(
    draw: Callable[..., Axes], kind: str, x: str, y: str, summary: Summary
) -> None:
    curves = summary["curves"]["pooled"]
    ax = draw(curves)
    for name in CLASSES:
        line = _line(ax, f"{kind} {name}")
        np.testing.assert_array_equal(line.get_xdata(), curves[name][kind][x])
        np.testing.assert_array_equal(line.get_ydata(), curves[name][kind][y])
        assert to_hex(line.get_color()) == CLASSES.colours[name]
        area = curves[name][kind]["auc" if kind == "roc" else "average_precision"]
        assert f"{area['value']:.3f} [{area['ci'][0]:.3f}, {area['ci'][1]:.3f}]" in line.get_label()
    # A black-and-white print still tells the classes apart.
    assert len({str(_line(ax, f"{kind} {name}")._unscaled_dash_pattern) for name in CLASSES}) == 3
    assert len(ax.collections) >= 3


def test_a_class_without_a_curve_is_left_out(summary: Summary) -> None:
    curves = summary["curves"]["pooled"]
    curves["Normal"] = {}
    curves["Pneumonia"]["roc"]["low"] = None
    curves["Pneumonia"]["roc"]["auc"] = None
    ax = roc_axes(curves)
    assert [line.get_gid() for line in ax.get_lines()[:2]] == ["roc COVID-19", "roc Pneumonia"]
    assert _line(ax, "roc Pneumonia").get_label() == "Pneumonia"
    assert len(ax.collections) == 1
    assert precision_recall_axes({}).get_legend() is None


def test_only_crowded_curves_get_a_lens(summary: Summary) -> None:
    curves = summary["curves"]["pooled"]
    assert len(roc_axes(curves).child_axes) == 1
    curves["Normal"]["roc"]["auc"]["value"] = 0.8
    assert not roc_axes(curves).child_axes


def test_dots_of_the_folds_are_their_accuracies(summary: Summary) -> None:
    test = [fold["test"]["accuracy"] for fold in summary["per_fold"]]
    unseen = [fold["unseen"]["accuracy"] for fold in summary["per_fold"]]
    ax = fold_accuracy_axes(test, unseen, ensemble=0.95, published=0.946)
    np.testing.assert_array_equal(_line(ax, "Test folds").get_ydata(), test)
    np.testing.assert_array_equal(_line(ax, "Unseen fold").get_ydata(), unseen)
    assert np.all(np.diff(_line(ax, "Unseen fold").get_xdata()) > 0)
    flat = [line.get_ydata() for line in ax.get_lines() if len(set(line.get_ydata())) == 1]
    levels = {round(float(y[0]), 12) for y in flat}
    assert {round(float(np.mean(test)), 12), round(float(np.mean(unseen)), 12), 0.946, 0.95} <= levels


def test_dots_of_the_classes_skip_what_is_missing() -> None:
    values = {"COVID-19": [0.9, None, 1.0], "Normal": [None, None, None]}
    ax = fold_class_axes(values, {"COVID-19": 0.977, "Normal": None}, title="F1")
    line = _line(ax, "COVID-19")
    assert list(line.get_ydata()) == [0.9, 1.0]
    assert to_hex(line.get_color()) == CLASSES.colours["COVID-19"]
    # Two classes without a value say so.
    assert [text.get_text() for text in ax.texts] == ["no value", "no value"]


def test_reliability_shows_bins_and_scores(summary: Summary) -> None:
    numbers = summary["calibration"]["pooled"]
    ax = reliability_axes(numbers, title="Pooled")
    filled = [b for b in numbers["bins"] if b["n"]]
    np.testing.assert_array_equal(ax.get_lines()[1].get_xdata(), [b["confidence"] for b in filled])
    np.testing.assert_array_equal(ax.get_lines()[1].get_ydata(), [b["accuracy"] for b in filled])
    np.testing.assert_array_equal(ax.get_lines()[2].get_ydata(), filled[0]["ci"])
    assert [text.get_text() for text in ax.texts] == [f"{b['n']:,}" for b in filled]
    heights = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(heights / heights.max(), [b["n"] / max(c["n"] for c in filled) for b in filled])
    assert ax.get_title(loc="left") == f"Pooled\nECE {numbers['ece']:.3f}, Brier {numbers['brier']:.3f}"


def test_reliability_after_the_temperature_lies_over_that_before(summary: Summary) -> None:
    before, after = (summary["calibration"][key] for key in ("pooled", "pooled_calibrated"))
    ax = reliability_axes(before, title="Pooled", after=after)
    for gid, numbers in (("before", before), ("after", after)):
        filled = [b for b in numbers["bins"] if b["n"]]
        np.testing.assert_array_equal(_line(ax, gid).get_xdata(), [b["confidence"] for b in filled])
        np.testing.assert_array_equal(_line(ax, gid).get_ydata(), [b["accuracy"] for b in filled])
    # The histogram is of the images before.
    assert [text.get_text() for text in ax.texts] == [f"{b['n']:,}" for b in before["bins"] if b["n"]]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["as predicted", "after temperature scaling"]
    assert ax.get_title(loc="left").endswith(f"after: ECE {after['ece']:.3f}, Brier {after['brier']:.3f}")
    assert reliability_axes({"bins": before["bins"]}, after={"bins": None}).get_legend() is None


def test_reliability_of_nothing_says_so() -> None:
    empty = [{"low": 0.0, "high": 0.1, "n": 0, "confidence": None, "accuracy": None, "ci": None}]
    assert [text.get_text() for text in reliability_axes({"bins": empty}).texts] == ["no predictions"]


def test_the_best_of_ten_is_distributed_as_in_a_simulation() -> None:
    chance = best_of(0.9, 156, 10)
    assert chance.sum() == pytest.approx(1.0)
    drawn = np.random.default_rng(0).binomial(156, 0.9, (200_000, 10)).max(1)
    np.testing.assert_allclose(chance, np.bincount(drawn, minlength=157) / 200_000, atol=0.004)
    np.testing.assert_allclose(best_of(0.9, 156, 1), binom.pmf(np.arange(157), 156, 0.9), atol=1e-12)
    with pytest.raises(DataError, match="must be 0 to 1"):
        best_of(1.2, 10, 2)


def test_the_selection_figure_marks_best_mean_expected_and_selected() -> None:
    accuracies = [0.90, 0.92, 0.92, 0.95, None]
    ax = selection_axes(
        accuracies, 156, from_json(SimulatedChoice, {"accuracy": 0.9225, "expected_best": 0.946}), selected=0.92
    )
    for name, value in (("mean", 0.9225), ("expected best", 0.946), ("best", 0.95), ("selected", 0.92)):
        (line,) = [line for line in ax.get_lines() if line.get_gid() == name and line.get_xdata()[0] == value]
        assert list(line.get_xdata()) == [value, value]
    np.testing.assert_array_equal(_line(ax, "models").get_xdata(), [0.90, 0.92, 0.92, 0.95])
    # Equal models lie under each other, not over each other.
    assert len(set(_line(ax, "models").get_ydata()[1:3])) == 2
    curve = _line(ax, "single")
    rows = np.rint(np.asarray(curve.get_xdata()) * 156).astype(int)
    np.testing.assert_allclose(curve.get_ydata(), binom.pmf(rows, 156, 0.9225), atol=1e-12)
    assert {text.get_text() for text in ax.texts} == {
        "mean 92.2%",
        "expected best 94.6%",
        "best 95.0%",
        "selected 92.0%",
    }


@pytest.mark.parametrize(
    ("accuracies", "images"),
    [([2 / 9, 2 / 9, 1 / 9], 9), ([0.0, 0.0], 3), ([1.0, 1.0], 3), ([0.93, 0.95, 0.96, 0.96], 156)],
)
def test_no_name_in_the_selection_figure_lies_over_the_legend_or_another_name(
    accuracies: list[float], images: int
) -> None:
    figure = selection_figure(
        {
            "selection": {
                "candidates": [{"fold": n, "unseen_accuracy": one} for n, one in enumerate(accuracies)],
                "fold": accuracies.index(max(accuracies)),
                "n": images,
                "simulated": {"accuracy": float(np.mean(accuracies)), "expected_best": min(max(accuracies) + 0.1, 1.0)},
            }
        }
    )
    assert figure is not None
    canvas: Any = figure.canvas
    canvas.draw()
    (ax,) = figure.axes
    legend = ax.get_legend()
    assert legend is not None
    boxes = [legend.get_window_extent(), *(text.get_window_extent() for text in ax.texts)]
    assert len(boxes) == 5
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[at + 1 :])


@pytest.mark.parametrize("accuracies", [[], [None], [1.0], [0.0, 0.0], [1.0, 1.0]])
def test_the_selection_figure_copes_with_the_ends(accuracies: list[float | None]) -> None:
    there = [value for value in accuracies if value is not None]
    simulated = from_json(SimulatedChoice, {"accuracy": there[0], "expected_best": there[0]} if there else {})
    ax = selection_axes(accuracies, 3, simulated)
    svg(ax.figure)  # type: ignore[arg-type]
    assert len([line for line in ax.get_lines() if line.get_gid() == "models"]) == len(there[:1])


def test_training_lines_are_the_losses_and_the_kept_epoch_is_marked() -> None:
    curves = [
        {"fold": 0, "epoch": [0, 1, 2], "train_loss": [1.0, 0.5, 0.4], "val_loss": [1.1, 0.7, 0.8], "best": 1},
        {"fold": 1, "epoch": [0, 1], "train_loss": [1.0, 0.6], "val_loss": [None, None], "stopped": 1},
        {"fold": 2, "epoch": [], "train_loss": [], "val_loss": []},
        {"fold": 3, "epoch": [0], "train_loss": [None], "val_loss": None},
    ]
    ax = training_axes(curves, "val_loss", highlight=0)
    lines = [line for line in ax.get_lines() if line.get_gid()]
    assert [line.get_gid() for line in lines] == ["val_loss 0"]
    np.testing.assert_array_equal(lines[0].get_xydata(), [[0, 1.1], [1, 0.7], [2, 0.8]])
    (mark,) = [line for line in ax.get_lines() if not line.get_gid()]
    np.testing.assert_array_equal(mark.get_xydata(), [[1, 0.7]])
    other = training_axes(curves, "train_loss", highlight=0)
    assert _line(other, "train_loss 0").get_linewidth() > _line(other, "train_loss 1").get_linewidth()


@pytest.mark.parametrize("draw", ALL)
def test_a_figure_is_whole_svg_and_the_same_twice(
    draw: Callable[[Summary], Figure | None], summary: Summary, page: str
) -> None:
    figure = draw(summary)
    assert figure is not None
    text = svg(figure)
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not [node for node in root.iter() if node.tag.endswith(("script", "foreignObject"))]
    links = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    # Drawn at another time for the page.
    assert data_uri(text) in page
    assert base64.b64decode(data_uri(text).split(",")[1]).decode() == text


@pytest.mark.parametrize("draw", ALL)
def test_no_figure_is_drawn_of_nothing(draw: Callable[[Summary], Figure | None], none_everywhere: Summary) -> None:
    for hollow in ({}, none_everywhere, {"curves": {"pooled": {}, "unseen": {}}, "training_curves": []}):
        assert draw(hollow) is None


@pytest.mark.parametrize("draw", ALL)
def test_one_fold_is_drawn(draw: Callable[[Summary], Figure | None], one_fold: Summary) -> None:
    figure = draw(one_fold)
    assert figure is not None
    svg(figure)


def test_texts_of_a_figure_do_not_leave_it(summary: Summary) -> None:
    for draw in ALL:
        figure = draw(summary)
        assert figure is not None
        canvas: Any = figure.canvas
        canvas.draw()
        box = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01, draw


def test_the_settings_of_the_process_stay_as_they_were(summary: Summary) -> None:
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 30, "text.usetex": False}):
        assert confusion_figure(summary) is not None
        assert mpl.rcParams["font.size"] == 30
    assert dict(mpl.rcParams) == before


def test_a_drawing_goes_into_axes_that_are_given() -> None:
    ax = new_figure().add_subplot()
    assert confusion_axes(np.eye(3, dtype=int).tolist(), ax) is ax
    assert training_axes([], "val_loss", ax) is ax
