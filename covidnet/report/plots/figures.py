"""The figures of a report, each from the summary of a sweep; None where the summary lacks their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from covidnet.base.classes import CLASSES
from covidnet.report.paper.published import ACCURACY, TABLE5
from covidnet.report.plots.confusion import confusion_axes
from covidnet.report.plots.curves import precision_recall_axes, roc_axes
from covidnet.report.plots.drawing import WIDTH, new_figure, styled
from covidnet.report.plots.fold import fold_accuracy_axes, fold_class_axes
from covidnet.report.plots.localisation import localisation_axes
from covidnet.report.plots.reliability import reliability_axes
from covidnet.report.plots.sanity import sanity_axes
from covidnet.report.plots.selection import selection_axes
from covidnet.report.plots.training import training_axes
from covidnet.report.summary import Summary, at
from covidnet.report.words import MEASURES, beside_paper

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def confusion_figure(summary: Summary) -> Figure | None:
    """The confusion matrices of the pooled test folds and of the ensemble on the unseen fold.

    Args:
        summary: of a sweep.
    """
    parts = (("Test folds, pooled", ("pooled",)), ("Unseen fold, ensemble", ("unseen", "ensemble")))
    found = [(title, at(summary, *keys, "confusion")) for title, keys in parts]
    found = [(title, counts) for title, counts in found if counts]
    if not found:
        return None
    figure = new_figure(WIDTH / 2 * len(found), 3.4)
    for index, (title, counts) in enumerate(found):
        confusion_axes(counts, figure.add_subplot(1, len(found), index + 1), title)
    return figure


@styled
def curves_figure(summary: Summary, part: str) -> Figure | None:
    """ROC and precision-recall curves side by side.

    Args:
        summary: of a sweep.
        part: ``pooled`` or ``unseen``.
    """
    curves = at(summary, "curves", part) or {}
    if not any(at(curves, name, kind, x) for name in CLASSES for kind, x in (("roc", "fpr"), ("pr", "recall"))):
        return None
    figure = new_figure(WIDTH, 3.7)
    roc_axes(curves, figure.add_subplot(1, 2, 1), "ROC")
    precision_recall_axes(curves, figure.add_subplot(1, 2, 2), "Precision and recall")
    return figure


@styled
def folds_figure(summary: Summary) -> Figure | None:
    """One dot per fold: accuracy on test and unseen fold, then sensitivity, specificity and F1 of each class.

    Args:
        summary: of a sweep.
    """
    folds = summary.get("per_fold") or []
    if not folds:
        return None
    figure = new_figure(WIDTH, 5.4)
    grid = figure.add_gridspec(2, 2)
    ax = fold_accuracy_axes(
        [at(fold, "test", "accuracy") for fold in folds],
        [at(fold, "unseen", "accuracy") for fold in folds],
        at(summary, "unseen", "ensemble", "accuracy", "value"),
        ACCURACY if beside_paper(summary) else None,
        figure.add_subplot(grid[0, 0]),
    )
    # Room for the legend below the lowest dot.
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom - 0.2 * (top - bottom), top)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower left", borderaxespad=0.2)
    for index, (metric, title) in enumerate(
        (("sensitivity", "Sensitivity"), ("specificity", "Specificity"), ("f1", "F1"))
    ):
        values = {name: [at(fold, "test", "classes", name, metric) for fold in folds] for name in CLASSES}
        published = {name: TABLE5[name][metric] for name in CLASSES} if beside_paper(summary) else None
        place = grid[(index + 1) // 2, (index + 1) % 2]
        fold_class_axes(values, published, figure.add_subplot(place), f"{title}, test folds")
    return figure


@styled
def calibration_figure(summary: Summary) -> Figure | None:
    """Reliability of the pooled test folds and of the ensemble on the unseen fold, before and after the temperature.

    Args:
        summary: of a sweep.
    """
    parts = (("Test folds, pooled", "pooled"), ("Unseen fold, ensemble", "ensemble_unseen"))
    told = at(summary, "calibration")
    found = [(title, at(told, key), at(told, f"{key}_calibrated")) for title, key in parts]
    found = [(title, numbers, after) for title, numbers, after in found if at(numbers, "bins")]
    if not found:
        return None
    both = any(at(after, "bins") for _, _, after in found)
    figure = new_figure(WIDTH / 2 * len(found), 4.1 if both else 3.7)
    for index, (title, numbers, after) in enumerate(found):
        ax = figure.add_subplot(1, len(found), index + 1)
        reliability_axes(numbers["bins"], numbers.get("ece"), numbers.get("brier"), ax, title, after)
    return figure


@styled
def selection_figure(summary: Summary) -> Figure | None:
    """The models' scores on the unseen fold over what chance gives to equally good models.

    Args:
        summary: of a sweep.
    """
    selection = summary.get("selection") or {}
    accuracies = [at(candidate, "unseen_accuracy") for candidate in selection.get("candidates") or []]
    if not any(value is not None for value in accuracies):
        return None
    chosen = [at(c, "unseen_accuracy") for c in selection["candidates"] if at(c, "fold") == selection.get("fold")]
    figure = new_figure(WIDTH, 2.7)
    selection_axes(
        accuracies,
        at(selection, "simulated", "n") or selection.get("n") or 0,
        selection.get("simulated") or {},
        chosen[0] if chosen and selection.get("fold") is not None else None,
        figure.add_subplot(),
    )
    return figure


@styled
def training_figure(summary: Summary) -> Figure | None:
    """Training and validation loss of every fold by epoch, on one scale.

    Args:
        summary: of a sweep.
    """
    curves = summary.get("training_curves") or []
    keys = [
        (key, title)
        for key, title in (("train_loss", "Training"), ("val_loss", "Validation"))
        if any(value is not None for curve in curves for value in curve.get(key) or [])
    ]
    if not keys:
        return None
    figure = new_figure(WIDTH, 2.7)
    first = None
    for index, (key, title) in enumerate(keys):
        ax = figure.add_subplot(1, len(keys), index + 1, sharey=first)
        training_axes(curves, key, ax, title, at(summary, "selection", "fold"))
        first = first or ax
    return figure


@styled
def localisation_figure(summary: Summary) -> Figure | None:
    """How the maps lie on known lesions and lungs, beside the centre prior, the mean map and chance.

    Args:
        summary: of a sweep.
    """
    measures = at(summary, "explanations", "localisation", "measures") or {}
    known = {name: measures[name] for name in MEASURES if at(measures, name, "model", "value") is not None}
    if not known:
        return None
    figure = new_figure(WIDTH, 0.8 + 0.5 * len(known))
    localisation_axes(known, figure.add_subplot())
    return figure


@styled
def sanity_figure(summary: Summary) -> Figure | None:
    """How like the trained model's the maps stay as the network is re-initialised: SSIM and rank correlation.

    Args:
        summary: of a sweep.
    """
    sanity = at(summary, "explanations", "sanity") or {}
    titles = (("ssim", "SSIM"), ("rank", "Rank correlation"))
    stages = sanity.get("stages") or []
    found = [pair for pair in titles if any(at(stage, pair[0], "value") is not None for stage in stages)]
    if not found:
        return None
    figure = new_figure(WIDTH / 2 * len(found), 3.2)
    for index, (measure, title) in enumerate(found):
        sanity_axes(sanity, measure, figure.add_subplot(1, len(found), index + 1), title)
    return figure
