"""The part of a report that tells how well the models did: in short, and on the test folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from covidnet.base.caveats import Caveat
from covidnet.base.classes import CLASSES
from covidnet.evaluation.sparse import FEWEST_IMAGES
from covidnet.report.paper.published import ACCURACY, TABLE5, TABLE6
from covidnet.report.plots.figures import confusion_figure, curves_figure, folds_figure
from covidnet.report.rendering.document import Block, Cell, Column, Figure, Paragraph, Section, Table, without_paper
from covidnet.report.summary import ALL, Summary, at
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
    model_name,
    points,
)

_COVID = CLASSES[0]
_METRICS = (("Sensitivity", "sensitivity"), ("Specificity", "specificity"), ("F1", "f1"))


def abstract(summary: Summary) -> Paragraph:
    """One paragraph with the numbers that can be quoted, each with its interval.

    Args:
        summary: of a sweep.
    """
    pooled, unseen, selection = (summary.get(key) or {} for key in ("pooled", "unseen", "selection"))
    folds = len(summary.get("folds") or [])
    frozen = at(summary, "model", "freeze")
    kind = {True: "with a frozen backbone", False: "fine-tuned"}.get(frozen, "") if isinstance(frozen, bool) else ""
    weights = at(summary, "model", "weights")
    start = f"from {weights} weights" if weights else ""
    network = " ".join(part for part in (model_name(summary), kind, start) if part)
    whole = "ten-fold cross-validation" if folds == FOLDS else f"{folds} of the {FOLDS} folds of a cross-validation"
    name = at(summary, "data", "name")
    data = (
        "an unnamed data set"
        if name is None
        else f"the data set \N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"
    )
    unseen_by = (
        "by the model that was not trained on it but chose its checkpoint by it, which is optimistic"
        if at(summary, "data", "validation") == "test"
        else "by the model that did not see it in training"
    )
    covid = at(pooled, "classes", _COVID)
    against, of_covid = "", ""
    if beside_paper(summary):
        against = f", against {percent(ACCURACY)} in the paper"
        of_covid = " (paper: " + ", ".join(percent(TABLE5[_COVID][key]) for key in ("sensitivity", "specificity")) + ")"
    n, support = at(pooled, "n"), at(covid, "support")
    others = None if n is None or support is None else n - support
    known = at(pooled, "patients")
    patients = "" if known is None else f", on images of {count(known, 'patient')},"
    text = (
        f"{network} was trained and tested in {whole} on {data}. Each image of the test folds was predicted "
        f"once, {unseen_by}; {estimate_of(at(pooled, 'accuracy'), n, 'prediction')}"
        f"{patients} are right (in brackets, here and below: 95% intervals){against}. "
        f"{class_words(_COVID, covid, others)}{of_covid}. "
    )
    if is_locked(summary):
        return Paragraph(f"{text}{Caveat.UNSEEN_LOCKED}")
    n = at(unseen, "ensemble", "n") or selection.get("n")
    text += f"On the unseen fold ({count(n, 'image')}) " + _selected_words(unseen, selection, n)
    text += (
        "; the mean of all models' probabilities (the ensemble) is right for "
        f"{estimate_of(at(unseen, 'ensemble', 'accuracy'), n)}"
    )
    if n is None or n >= FEWEST_IMAGES:
        text += (
            f"; the single models are right for {estimate_text(at(unseen, 'mean', 'accuracy'))} on average, with a "
            f"standard "
            f"deviation of {points(at(unseen, 'sd', 'accuracy'))}"
        )
    text += "."
    if selection.get("label"):
        text += f" How that model was chosen: {selection['label']}."
    return Paragraph(text)


def _selected_words(unseen: Mapping[str, Any], selection: Mapping[str, Any], n: int | None) -> str:
    if selection.get("fold") is None:
        return "no single model was selected"
    accuracy = estimate_of(at(unseen, "selected", "accuracy"), n)
    if selection.get("rule") == "paper":
        return f"the model of fold {selection['fold']} scores {accuracy}, a selection score: these images chose it"
    return f"the selected model, that of fold {selection['fold']}, is right for {accuracy}"


def results(summary: Summary) -> Section:
    """Table 5, the confusion matrices, the curves and the folds one by one.

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
                _confusion_alt(summary),
                drawing,
                _confusion_tables(summary),
            )
        )
    blocks += curve_blocks(summary, "pooled", "pooled test folds")
    drawing = folds_figure(summary)
    if drawing is not None:
        beside = "" if is_locked(summary) else f"; {_spread(summary, 'unseen')} on the unseen fold"
        blocks.append(
            Figure(
                "Fold by fold. Each dot is one model, from left to right in the order of the folds; the solid line is "
                "their mean"
                + (", the dashed line the paper's value" if beside_paper(summary) else "")
                + (", the diamond the ensemble" if not is_locked(summary) else "")
                + ". Not every axis starts at 0.",
                f"Dot plots of {count(len(summary['per_fold']), 'model')}: {_spread(summary, 'test')} on the test "
                f"folds{beside}.",
                drawing,
            )
        )
    blocks += [_fold_table(summary), _mean_table(summary)]
    return Section("Results on the test folds", "results", blocks)


def _table5(summary: Summary) -> Table:
    pooled = summary.get("pooled")
    columns = [Column("")]
    for name in (*CLASSES, ALL):
        columns += [Column("ours", name), Column("paper", name)]
    rows: list[list[Cell]] = []
    for title, key in _METRICS:
        row: list[Cell] = [title]
        for name in CLASSES:
            row += [rate(at(pooled, "classes", name, key)), printed(TABLE5[name].get(key))]
        mean = TABLE6["with"].get(key)
        rows.append([*row, rate(at(pooled, "macro", key)), "" if mean is None else printed(mean)])
    row = ["AUC"]
    for name in CLASSES:
        row += [area(at(pooled, "classes", name, "auc")), ""]
    rows.append([*row, area(at(pooled, "macro", "auc")), ""])
    rows.append(["Accuracy", *[""] * (2 * len(CLASSES)), rate(at(pooled, "accuracy")), printed(ACCURACY)])
    row = ["Images"]
    for name in CLASSES:
        row += [Value(at(pooled, "classes", name, "support")), ""]
    rows.append([*row, Value(at(pooled, "n")), ""])
    table = Table(
        "Each class against the other two, on the pooled predictions of the test folds. Percent, AUC as a fraction; "
        "95% intervals in brackets. All classes: the mean of the three, and the accuracy over all images.",
        columns,
        rows,
        "Table 5 (paper)",
        [
            "The paper's means are those of its Table 6, its accuracy is that of its section 4; it gives no interval "
            "and no AUC."
        ],
    )
    return table if beside_paper(summary) else without_paper(table)


_CONFUSIONS = (("pooled test folds", ("pooled",)), ("unseen fold, ensemble", ("unseen", "ensemble")))


def _confusion_tables(summary: Summary) -> list[Table]:
    tables = []
    for title, keys in _CONFUSIONS:
        counts = at(summary, *keys, "confusion")
        if counts:
            columns = [Column("true class"), *(Column(name, "predicted") for name in CLASSES)]
            rows: list[list[Cell]] = [
                [name, *(Value(n) for n in row)] for name, row in zip(CLASSES, counts, strict=True)
            ]
            tables.append(Table(f"Confusion matrix, {title}. Images.", columns, rows))
    return tables


def _confusion_alt(summary: Summary) -> str:
    parts = []
    for title, keys in _CONFUSIONS:
        counts = at(summary, *keys, "confusion")
        if counts:
            rows = "; ".join(
                f"true {name}: " + ", ".join(f"{n} called {called}" for n, called in zip(row, CLASSES, strict=True))
                for name, row in zip(CLASSES, counts, strict=True)
            )
            parts.append(f"{title.capitalize()}: {rows}.")
    return " ".join(parts)


def curve_blocks(summary: Summary, part: str, words: str) -> list[Block]:
    """ROC and precision-recall curves with the areas under them; nothing where there are none.

    Args:
        summary: of a sweep.
        part: ``pooled`` or ``unseen``.
        words: what the predictions are of.
    """
    drawing = curves_figure(summary, part)
    if drawing is None:
        return []
    curves = at(summary, "curves", part)
    rows: list[list[Cell]] = [
        [name, area(at(curves, name, "roc", "auc")), area(at(curves, name, "pr", "average_precision"))]
        for name in CLASSES
    ]
    areas = ", ".join(f"{row[0]} {row[1].number}" for row in rows if isinstance(row[1], Value))
    table = Table(
        f"Areas under the curves, {words}. Fractions.",
        [Column(""), Column("ROC (AUC)"), Column("precision-recall (AP)")],
        rows,
    )
    caption = (
        f"Curves of each class against the other two, {words}, with pointwise 95% bands. Dotted: guessing. AP: average "
        "precision. Where all curves lie in a corner, it is drawn once more, enlarged."
    )
    return [Figure(caption, f"ROC and precision-recall curves; areas under the ROC curves: {areas}.", drawing, [table])]


def _spread(summary: Summary, part: str) -> str:
    values = [at(fold, part, "accuracy") for fold in summary["per_fold"]]
    there = [value for value in values if value is not None]
    return f"accuracy from {percent(min(there))} to {percent(max(there))}" if there else "no accuracy"


def _fold_table(summary: Summary) -> Table:
    parts = ("test",) if is_locked(summary) else ("test", "unseen")
    columns = [Column("Fold"), Column("Images"), Column("validation", "Accuracy"),
               *(Column(part, "Accuracy") for part in parts),
               *(Column(name, "Sensitivity, test") for name in CLASSES),
               *(Column(part, "Loss") for part in parts)]  # fmt: skip
    rows: list[list[Cell]] = []
    for fold in summary.get("per_fold") or []:
        rows.append(
            [
                str(at(fold, "fold")),
                Value(at(fold, "n")),
                *(rate(at(fold, part, "accuracy")) for part in ("val", *parts)),
                *(rate(at(fold, "test", "classes", name, "sensitivity")) for name in CLASSES),
                *(area(at(fold, part, "loss")) for part in parts),
            ]
        )
    return Table("Every fold. Percent; the loss is the mean cross-entropy.", columns, rows)


def _mean_table(summary: Summary) -> Table:
    columns = [Column(""), *(Column(word, name) for name in (*CLASSES, ALL) for word in ("mean", "sd"))]
    rows: list[list[Cell]] = []
    for title, key in (*_METRICS, ("AUC", "auc")):
        as_shown = area if key == "auc" else rate
        row: list[Cell] = [title]
        for place in (*(("classes", name) for name in CLASSES), ("macro",)):
            row += [as_shown(at(summary, part, *place, key)) for part in ("mean", "sd")]
        rows.append(row)
    last = [rate(at(summary, part, "accuracy")) for part in ("mean", "sd")]
    rows.append(["Accuracy", *[""] * (2 * len(CLASSES)), *last])
    return Table(
        "Mean and standard deviation over the test folds. Percent and percentage points, AUC as a fraction.",
        columns,
        rows,
        notes=["The folds share most of their training images, so the deviation over folds is no standard error."],
    )
