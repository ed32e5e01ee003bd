"""The abstract of a report, and its section with the results on the test folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from covidnet.base.caveats import Caveat
from covidnet.base.classes import ClassList
from covidnet.evaluation.ranking import ClassCurves
from covidnet.evaluation.results import empty
from covidnet.evaluation.scores import Metric, PointScores
from covidnet.evaluation.sparse import MIN_IMAGES
from covidnet.report.paper.published import ACCURACY, TABLE5, TABLE6
from covidnet.report.plots.figures import confusion_figure, curves_figure, folds_figure
from covidnet.report.rendering.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    without_paper,
)
from covidnet.report.summary import ALL, Selection, SweepSummary, UnseenScores
from covidnet.report.terminal import percent
from covidnet.report.values import Value, area, printed, rate
from covidnet.report.words import (
    FOLDS,
    beside_paper,
    class_words,
    count,
    estimate_of,
    estimate_text,
    is_locked,
    mean_words,
    model_name,
    patients_words,
    points,
    versus,
)

METRICS: tuple[tuple[str, Metric], ...] = (
    ("Sensitivity", "sensitivity"),
    ("Specificity", "specificity"),
    ("F1", "f1"),
    ("AUC", "auc"),
)
"""The metrics of a class: display name and key."""


def abstract(summary: SweepSummary) -> tuple[Paragraph, Bullets]:
    """What was trained, and the numbers to quote, each with its interval.

    Args:
        summary: of a sweep.
    """
    pooled, unseen, selection = summary.pooled, summary.unseen or empty(UnseenScores), summary.selection
    folds = len(summary.folds)
    frozen = summary.model.get("freeze")
    kind = {True: "with a frozen backbone", False: "fine-tuned"}.get(frozen, "") if isinstance(frozen, bool) else ""
    weights = summary.model.get("weights")
    start = f"from {weights} weights" if weights else ""
    network = " ".join(part for part in (model_name(summary), kind, start) if part)
    scheme = "ten-fold cross-validation" if folds == FOLDS else f"{folds} of the {FOLDS} folds of a cross-validation"
    name = summary.data.name
    data = (
        "an unnamed data set"
        if name is None
        else f"the data set \N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"
    )
    predicted_by = (
        "by the model that was not trained on it but used it to choose its checkpoint, which is optimistic"
        if summary.data.validation == "test"
        else "by the model that was not trained on it"
    )
    main = summary.classes.positive
    of_main = pooled.classes[main]
    against, published = "", ""
    if beside_paper(summary):
        against = f", against {percent(ACCURACY)} in the paper"
        rates = ", ".join(percent(TABLE5[main][key]) for key in ("sensitivity", "specificity"))
        published = f" (paper: {rates})"
    n, support = pooled.n, of_main.support
    others = None if n is None or support is None else n - support
    whose = patients_words(pooled.patients, summary.data.patients, summary.data.unknown_patients)
    patients = "" if pooled.patients is None else f", on images of {whose},"
    first = Paragraph(f"{network} was trained and tested in {scheme} on {data}. In brackets: 95% intervals.")
    lines = [
        f"Each image of the test folds was predicted once, {predicted_by}; "
        f"{estimate_of(pooled.accuracy, n, 'prediction')}{patients} are correct{against}.",
        f"{class_words(main, of_main, others)}{published}.",
    ]
    if is_locked(summary):
        return first, Bullets([*lines, str(Caveat.UNSEEN_LOCKED)])
    n = unseen.ensemble.n or selection.n
    text = f"On the unseen fold ({count(n, 'image')}) {_selected_words(unseen, selection, n)}."
    if selection.label:
        chosen = f"that model was {selection.label}" if selection.label.startswith("selected") else selection.label
        text += f" {chosen[:1].upper()}{chosen[1:]}."
    lines.append(text)
    text = (
        "On the same images the mean of all models' probabilities (the ensemble) is correct for "
        f"{estimate_of(unseen.ensemble.accuracy, n)}"
    )
    if n is None or n >= MIN_IMAGES:
        text += (
            f"; the single models are correct for {estimate_text(unseen.mean.accuracy)} on average, with a "
            f"standard deviation of {points(unseen.sd.accuracy)}"
        )
    return first, Bullets([*lines, f"{text}."])


def _selected_words(unseen: UnseenScores, selection: Selection, n: int | None) -> str:
    if selection.fold is None:
        return "no single model was selected"
    accuracy = estimate_of(unseen.selected.accuracy if unseen.selected else None, n)
    if selection.rule == "paper":
        return (
            f"the model of fold {selection.fold} scores {accuracy}, a selection score: it was selected by these images"
        )
    return f"the selected model, that of fold {selection.fold}, is correct for {accuracy}"


def results(summary: SweepSummary) -> Section:
    """Table 5, the confusion matrices, the curves and each fold.

    Args:
        summary: of a sweep.
    """
    blocks: list[Block] = [_table5(summary)]
    drawing = confusion_figure(summary)
    if drawing is not None:
        blocks.append(
            Figure(
                "Confusion matrices: images, and below them the percentage of the row. Rows are the true classes, "
                "columns the predicted ones.",
                " ".join(
                    f"{title.capitalize()}: {confusion_words(n, summary.classes)}." for title, n in _confusions(summary)
                ),
                drawing,
                [
                    confusion_table(f"Confusion matrix, {title}. Images.", n, summary.classes)
                    for title, n in _confusions(summary)
                ],
            )
        )
    blocks += curve_blocks(summary.curves.pooled, "pooled test folds", summary.classes)
    drawing = folds_figure(summary)
    if drawing is not None:
        on_unseen = (
            "" if is_locked(summary) else f"; {_spread([fold.unseen for fold in summary.per_fold])} on the unseen fold"
        )
        blocks.append(
            Figure(
                "Each dot is one model, from left to right in the order of the folds; the solid line is their mean"
                + (", the dashed line the paper's value" if beside_paper(summary) else "")
                + (", the diamond the ensemble" if not is_locked(summary) else "")
                + ". Not every axis starts at 0.",
                f"Dot plots of {count(len(summary.per_fold), 'model')}: "
                f"{_spread([fold.test for fold in summary.per_fold])} on the test folds{on_unseen}.",
                drawing,
            )
        )
    blocks += [_fold_table(summary), _mean_table(summary)]
    return Section("Results on the test folds", "results", blocks)


def _table5(summary: SweepSummary) -> Table:
    pooled, classes = summary.pooled, summary.classes
    shown, means = classes.reported, [] if classes.binary else [ALL]
    beside = beside_paper(summary)
    columns = [Column("")]
    for name in (*shown, *means):
        columns += [Column("ours", name), Column("paper", name)]
    rows: list[list[Cell]] = []
    for title, key in METRICS:
        formatted = area if key == "auc" else rate
        row: list[Cell] = [title]
        for name in shown:
            published = TABLE5[name].get(key) if beside else None
            row += [formatted(pooled.classes[name].of(key)), "" if published is None else printed(published)]
        mean = TABLE6["with"].get(key)
        if means:
            row += [formatted(pooled.macro.of(key)), "" if mean is None else printed(mean)]
        rows.append(row)
    before = [""] * (2 * (len(shown) + len(means) - 1))
    rows.append(["Accuracy", *before, rate(pooled.accuracy), printed(ACCURACY)])
    row = ["Images"]
    for name in shown:
        row += [Value(pooled.classes[name].support), ""]
    rows.append([*row, Value(pooled.n), ""] if means else [*row[:-2], Value(pooled.n), ""])
    every = f"{mean_words(classes)}, and the accuracy over all images." if means else ""
    table = Table(
        f"{versus(classes)}, on the pooled predictions of the test folds. Percent, AUC as a fraction; "
        f"95% intervals in brackets.{every}",
        columns,
        rows,
        "Table 5 (paper)" if beside else "",
        ["The paper's means are from its Table 6, its accuracy from its section 4; it gives no intervals and no AUC."],
    )
    return table if beside else without_paper(table)


def _confusions(summary: SweepSummary) -> list[tuple[str, list[list[int]]]]:
    matrices = [("pooled test folds", summary.pooled.confusion)]
    if summary.unseen is not None:
        matrices.append(("unseen fold, ensemble", summary.unseen.ensemble.confusion))
    return [(title, counts) for title, counts in matrices if counts]


def confusion_table(title: str, counts: list[list[int]], classes: ClassList) -> Table:
    """A confusion matrix as a table.

    Args:
        title: the caption.
        counts: rows are the true classes, columns the predicted ones.
        classes: of rows and columns.
    """
    columns = [Column("true class"), *(Column(name, "predicted") for name in classes)]
    rows: list[list[Cell]] = [[name, *(Value(n) for n in row)] for name, row in zip(classes, counts, strict=True)]
    return Table(title, columns, rows)


def confusion_words(counts: list[list[int]], classes: ClassList) -> str:
    """A confusion matrix as text, for readers who cannot see the figure; arguments as in `confusion_table`."""
    return "; ".join(
        f"true {name}: " + ", ".join(f"{n} predicted as {predicted}" for n, predicted in zip(row, classes, strict=True))
        for name, row in zip(classes, counts, strict=True)
    )


def curve_blocks(curves: Mapping[str, ClassCurves] | None, images: str, classes: ClassList) -> list[Block]:
    """ROC and precision-recall curves with the areas under them; empty without curves.

    Args:
        curves: by class.
        images: the images that the predictions are of.
        classes: of the study; of two, only the positive one has curves.
    """
    drawing = curves_figure(curves or {}, classes)
    if not curves or drawing is None:
        return []
    areas: list[tuple[str, Value, Value]] = [
        (name, area(curves[name].roc.auc), area(curves[name].pr.average_precision))
        if name in curves
        else (name, area(None), area(None))
        for name in classes.reported
    ]
    aucs = ", ".join(f"{name} {auc.number}" for name, auc, _ in areas)
    table = Table(
        f"Areas under the curves, {images}. Fractions.",
        [Column(""), Column("ROC (AUC)"), Column("precision-recall (AP)")],
        [list(row) for row in areas],
    )
    about = versus(classes) if classes.binary else versus(classes).lower()
    caption = (
        f"Curves of {about}, {images}, with pointwise 95% bands. Dotted: random guessing. AP: "
        "average precision. If all curves lie in a corner, an inset enlarges it."
    )
    return [Figure(caption, f"ROC and precision-recall curves; areas under the ROC curves: {aucs}.", drawing, [table])]


def _spread(scores: Sequence[PointScores | None]) -> str:
    known = [one.accuracy for one in scores if one is not None and one.accuracy is not None]
    return f"accuracy from {percent(min(known))} to {percent(max(known))}" if known else "no accuracy"


def _fold_table(summary: SweepSummary) -> Table:
    parts = ("test",) if is_locked(summary) else ("test", "unseen")
    columns = [Column("Fold"), Column("Images"), Column("validation", "Accuracy"),
               *(Column(part, "Accuracy") for part in parts),
               *_class_columns(summary.classes),
               *(Column(part, "Loss") for part in parts)]  # fmt: skip
    rows: list[list[Cell]] = []
    for fold in summary.per_fold:
        val, test, unseen = (part or empty(PointScores) for part in (fold.val, fold.test, fold.unseen))
        scored = (test, unseen)[: len(parts)]
        rows.append(
            [
                str(fold.fold),
                Value(fold.n),
                *(rate(part.accuracy) for part in (val, *scored)),
                *_class_rates(test, summary.classes),
                *(area(part.loss) for part in scored),
            ]
        )
    return Table("Each fold. Percent; the loss is the mean cross-entropy.", columns, rows)


def _class_columns(classes: ClassList) -> list[Column]:
    if classes.binary:
        return [Column("sensitivity", f"{classes.positive}, test"), Column("specificity", f"{classes.positive}, test")]
    return [Column(name, "Sensitivity, test") for name in classes]


def _class_rates(scores: PointScores, classes: ClassList) -> list[Cell]:
    if classes.binary:
        of_main = scores.classes[classes.positive]
        return [rate(of_main.sensitivity), rate(of_main.specificity)]
    return [rate(scores.classes[name].sensitivity) for name in classes]


def _mean_table(summary: SweepSummary) -> Table:
    shown, means = summary.classes.reported, [] if summary.classes.binary else [ALL]
    columns = [Column(""), *(Column(word, name) for name in (*shown, *means) for word in ("mean", "sd"))]
    both = (summary.mean, summary.sd)
    rows: list[list[Cell]] = []
    for title, key in METRICS:
        formatted = area if key == "auc" else rate
        row: list[Cell] = [title]
        for name in shown:
            row += [formatted(part.classes[name].of(key)) for part in both]
        rows.append([*row, *(formatted(part.macro.of(key)) for part in both for _ in means)])
    before = [""] * (2 * (len(shown) + len(means) - 1))
    rows.append(["Accuracy", *before, *(rate(part.accuracy) for part in both)])
    return Table(
        "Mean and standard deviation over the test folds. Percent and percentage points, AUC as a fraction.",
        columns,
        rows,
        notes=["The folds share most of their training images, so the deviation over folds is not a standard error."],
    )
