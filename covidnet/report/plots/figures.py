"""The figures of a report from the summary of a sweep; None if the summary lacks their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from covidnet.base.classes import ClassList
from covidnet.evaluation.localisation import MeasureSummary
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.sanity import SanitySummary, SimilarityMeasure
from covidnet.evaluation.scores import Metric
from covidnet.report.paper.published import ACCURACY, TABLE5
from covidnet.report.plots.confusion import confusion_axes, matrix_size
from covidnet.report.plots.curves import precision_recall_axes, roc_axes
from covidnet.report.plots.drawing import WIDTH, new_figure, styled
from covidnet.report.plots.fold import fold_accuracy_axes, fold_class_axes
from covidnet.report.plots.localisation import localisation_axes
from covidnet.report.plots.reliability import reliability_axes
from covidnet.report.plots.sanity import sanity_axes
from covidnet.report.plots.selection import selection_axes
from covidnet.report.plots.training import training_axes
from covidnet.report.summary import Loss, SweepSummary
from covidnet.report.words import MEASURES, beside_paper

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def confusion_figure(summary: SweepSummary) -> Figure | None:
    """The confusion matrices of the pooled test folds and of the ensemble on the unseen fold.

    Args:
        summary: of a sweep.
    """
    found = [("Test folds, pooled", summary.pooled.confusion)]
    if summary.unseen is not None:
        found.append(("Unseen fold, ensemble", summary.unseen.ensemble.confusion))
    found = [(title, counts) for title, counts in found if counts]
    if not found:
        return None
    width, height = matrix_size(len(summary.classes))
    # Large matrices are drawn below each other.
    rows = len(found) if width >= WIDTH else 1
    figure = new_figure(width * len(found) / rows, height * rows)
    for index, (title, counts) in enumerate(found):
        confusion_axes(counts, figure.add_subplot(rows, len(found) // rows, index + 1), title, summary.classes)
    return figure


@styled
def curves_figure(curves: Mapping[str, ClassCurves], classes: ClassList) -> Figure | None:
    """ROC and precision-recall curves side by side.

    Args:
        curves: by class.
        classes: of the study.
    """
    if not any(one.roc.fpr or one.pr.recall for one in curves.values()):
        return None
    figure = new_figure(WIDTH, 3.7)
    roc_axes(curves, figure.add_subplot(1, 2, 1), "ROC", classes)
    precision_recall_axes(curves, figure.add_subplot(1, 2, 2), "Precision and recall", classes)
    return figure


@styled
def folds_figure(summary: SweepSummary) -> Figure | None:
    """One dot per fold: accuracy on test and unseen fold, then sensitivity, specificity and F1 of each class.

    Args:
        summary: of a sweep.
    """
    folds = summary.per_fold
    if not folds:
        return None
    figure = new_figure(WIDTH, 5.4)
    grid = figure.add_gridspec(2, 2)
    ax = fold_accuracy_axes(
        [fold.test.accuracy if fold.test else None for fold in folds],
        [fold.unseen.accuracy if fold.unseen else None for fold in folds],
        summary.unseen.ensemble.accuracy.value if summary.unseen else None,
        ACCURACY if beside_paper(summary) else None,
        figure.add_subplot(grid[0, 0]),
    )
    # Room for the legend below the lowest dot.
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom - 0.2 * (top - bottom), top)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="lower left", borderaxespad=0.2)
    metrics: tuple[tuple[Metric, str], ...] = (
        ("sensitivity", "Sensitivity"), ("specificity", "Specificity"), ("f1", "F1"),
    )  # fmt: skip
    names = summary.classes.reported
    for index, (metric, title) in enumerate(metrics):
        values = {name: [f.test.classes[name].of(metric) if f.test else None for f in folds] for name in names}
        published = {name: TABLE5[name][metric] for name in names} if beside_paper(summary) else None
        place = grid[(index + 1) // 2, (index + 1) % 2]
        fold_class_axes(values, published, figure.add_subplot(place), f"{title}, test folds", summary.classes)
    return figure


@styled
def calibration_figure(summary: SweepSummary) -> Figure | None:
    """Reliability of the pooled test folds and of the ensemble on the unseen fold, and after temperature scaling.

    Args:
        summary: of a sweep.
    """
    calibration = summary.calibration
    parts = (
        ("Test folds, pooled", calibration.pooled, calibration.pooled_calibrated),
        ("Unseen fold, ensemble", calibration.ensemble_unseen, calibration.ensemble_unseen_calibrated),
    )
    found = [(title, before, after) for title, before, after in parts if before and before.bins]
    if not found:
        return None
    both = any(after and after.bins for _, _, after in found)
    figure = new_figure(WIDTH / 2 * len(found), 4.1 if both else 3.7)
    for index, (title, before, after) in enumerate(found):
        reliability_axes(before, figure.add_subplot(1, len(found), index + 1), title, after)
    return figure


@styled
def selection_figure(summary: SweepSummary) -> Figure | None:
    """The models' scores on the unseen fold, and the distribution by chance for equally good models.

    Args:
        summary: of a sweep.
    """
    selection = summary.selection
    accuracies = [candidate.unseen_accuracy for candidate in selection.candidates]
    if not any(value is not None for value in accuracies):
        return None
    chosen = [one.unseen_accuracy for one in selection.candidates if one.fold == selection.fold]
    figure = new_figure(WIDTH, 2.7)
    selection_axes(
        accuracies,
        (selection.simulated.n if selection.simulated else None) or selection.n or 0,
        selection.simulated,
        chosen[0] if chosen and selection.fold is not None else None,
        figure.add_subplot(),
    )
    return figure


@styled
def training_figure(summary: SweepSummary) -> Figure | None:
    """Training and validation loss of every fold by epoch, on one scale.

    Args:
        summary: of a sweep.
    """
    curves = summary.training_curves
    titles: tuple[tuple[Loss, str], ...] = (("train_loss", "Training"), ("val_loss", "Validation"))
    known = [one for one in titles if any(value is not None for curve in curves for value in curve.of(one[0]))]
    if not known:
        return None
    figure = new_figure(WIDTH, 2.7)
    first = None
    for index, (loss, title) in enumerate(known):
        ax = figure.add_subplot(1, len(known), index + 1, sharey=first)
        training_axes(curves, loss, ax, title, summary.selection.fold)
        first = first or ax
    return figure


@styled
def localisation_figure(measures: Mapping[str, MeasureSummary]) -> Figure | None:
    """Localisation measures of the model, the centre prior, the mean map and chance.

    Args:
        measures: by name.
    """
    known = {name: measures[name] for name in MEASURES if name in measures and measures[name].model.value is not None}
    if not known:
        return None
    figure = new_figure(WIDTH, 0.8 + 0.5 * len(known))
    localisation_axes(known, figure.add_subplot())
    return figure


@styled
def sanity_figure(sanity: SanitySummary) -> Figure | None:
    """Similarity to the trained model's maps as the network is re-initialised: SSIM and rank correlation.

    Args:
        sanity: the result of the sanity test.
    """
    titles: tuple[tuple[SimilarityMeasure, str], ...] = (("ssim", "SSIM"), ("rank", "Rank correlation"))
    found = [pair for pair in titles if any(stage.of(pair[0]).value is not None for stage in sanity.stages)]
    if not found:
        return None
    figure = new_figure(WIDTH / 2 * len(found), 3.2)
    for index, (measure, title) in enumerate(found):
        sanity_axes(sanity, measure, figure.add_subplot(1, len(found), index + 1), title)
    return figure
