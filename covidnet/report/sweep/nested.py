"""The report of nested selection: each fold is once the unseen one, on which the selected model is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from covidnet.base.classes import ClassList
from covidnet.evaluation.nested import NestedScores, compared_estimates
from covidnet.report.plots.drawing import WIDTH, new_figure, styled
from covidnet.report.plots.nested import nested_axes
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Document, Figure, Notice, Section, Table
from covidnet.report.sweep.content import numbered
from covidnet.report.values import Value, rate
from covidnet.report.words import count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing

OUTER = "split.unseen_fold="

ROWS = {
    "selected": "Nested selection: the selected models, each on its outer fold",
    "ensemble": "Nested, without selection: the ensembles of ten, each on its outer fold",
    "models": "All models on their outer folds, mean",
    "test": "A single study: the mean of its ten test folds",
    "validation": "A single study: the selected model on its own validation images",
    "best": "A single study: the best of ten models on the unseen fold (selection=paper)",
}
"""The estimates of `covidnet.evaluation.nested.compared_estimates` in words."""


def outer_of(group: str) -> tuple[str, str]:
    """What a group of runs varies besides the unseen fold, and that fold; empty where it does not vary.

    Args:
        group: such as ``split.unseen_fold=3,seed=1``.

    Example:
        >>> outer_of("split.unseen_fold=3,seed=1"), outer_of("seed=1")
        (('seed=1', '3'), ('seed=1', ''))
    """
    parts = group.split(",")
    outer = next((part.removeprefix(OUTER) for part in parts if part.startswith(OUTER)), "")
    return ",".join(part for part in parts if not part.startswith(OUTER)), outer


def outer_note(group: str) -> str | None:
    """What the report of one outer fold has to say: that it is one of eleven, of which none may be picked.

    Args:
        group: the reported one.

    Returns:
        A sentence; None if the sweep does not vary the unseen fold.
    """
    if not outer_of(group)[1]:
        return None
    return (
        f"This is one outer fold of nested selection ({group}). Report the pooled estimate (nested.html); the best "
        "outer fold, chosen by its result, is too good."
    )


def nested_table(studies: Mapping[str, NestedScores]) -> pd.DataFrame:
    """The outer folds of each study.

    Args:
        studies: by name; empty for the only one.

    Returns:
        Columns ``study``, ``outer_fold``, ``images``, ``selected_fold``, ``selected``, ``ensemble``, ``models_mean``,
        ``models_best``, ``test_mean`` and ``validation`` (accuracies as fractions of 1).
    """
    import pandas as pd

    rows = [
        {
            "study": name, "outer_fold": one.fold, "images": one.n, "selected_fold": one.selected,
            "selected": one.accuracy, "ensemble": one.ensemble, "models_mean": sum(one.models) / len(one.models),
            "models_best": max(one.models), "test_mean": one.test, "validation": one.validation,
        }
        for name, scores in studies.items()
        for one in scores.outer
    ]  # fmt: skip
    return pd.DataFrame(rows)


def nested_document(
    studies: Mapping[str, NestedScores], classes: ClassList, sweep: str = "", data: str = "unnamed"
) -> Document:
    """The report.

    Args:
        studies: by name; empty for the only one.
        classes: of the sweep.
        sweep: its name.
        data: the name of its data set.
    """
    notes = list(dict.fromkeys(note for scores in studies.values() for note in scores.notes))
    first = [
        *([Notice("Read this before the numbers", notes)] if notes else []),
        Notice(
            "Report the pooled estimate, never the best outer fold",
            ["Each fold is once the unseen one. A model is selected by validation images of the other ten folds, and "
             "this fold scores it. So the estimate is of the whole procedure, with its selection, on every image in a "
             "fold."],
            calm=True,
        )
    ]  # fmt: skip
    sections = [Section("", "nested", first)]
    for at, (name, scores) in enumerate(studies.items()):
        title = name or "Nested selection"
        sections.append(Section(title, f"study-{at + 1}", _blocks(scores, classes)))
    limits = Bullets([
        "The intervals have the patient as the unit. They pool predictions of different models and take the models as "
        "fixed: they do not contain how much training and selection would vary with other training images.",
        "The outer folds share most of their training images, so their spread is no standard error.",
        "The estimate is unbiased for images from the same source, and only if no setting was chosen by "
        "the estimate itself.",
        "If split.group=image, a patient's images may lie inside and outside an outer fold, and the estimate is "
        "optimistic.",
    ])  # fmt: skip
    sections.append(Section("Limits", "limits", [limits]))
    images = max(scores.selected.n or 0 for scores in studies.values())
    subtitle = (
        f"The selected model, scored by a fold that no part of its making has seen. Data: {data}; "
        f"{count(images, 'image')} in the outer folds."
    )
    return Document(": ".join(filter(None, ("Nested selection", sweep))), subtitle, numbered(sections))


@styled
def _drawn(scores: NestedScores) -> Drawing:
    figure = new_figure(WIDTH, 2.8)
    nested_axes(scores, figure.add_subplot())
    return figure


def _blocks(scores: NestedScores, classes: ClassList) -> list[Block]:
    images, folds = count(scores.selected.n, "image"), count(len(scores.outer), "outer fold")
    estimates = Table(
        f"Accuracy on {images} of {folds}, in percent; 95% intervals in brackets.",
        [Column("Estimate"), Column("Accuracy"), Column("Minus nested selection, points")],
        [
            [ROWS[one.key], rate(one.accuracy), Value(one.optimism, None, 100.0, 1) if one.optimism is not None else ""]
            for one in compared_estimates(scores)
        ],
        notes=[
            "The rows of a single study are means over the outer folds, each of which is such a study. The last column "
            "is the optimism of quoting that number for the selected model: above 0 is too good."
        ],
    )
    metrics = Table(
        f"The selected models and the ensembles, pooled over {folds}, in percent; 95% intervals in brackets.",
        [Column("Class"), *(Column(metric, who) for who in ("Selected models", "Ensembles")
                            for metric in ("Sensitivity", "Specificity", "F1"))],
        [
            [label, *(rate(of.classes[label].of(metric)) for of in (scores.selected, scores.ensemble)
                      for metric in ("sensitivity", "specificity", "f1"))]
            for label in classes
        ],
    )  # fmt: skip
    rows: list[list[Cell]] = [
        [str(one.fold), str(one.n), f"fold={one.selected}",
         *map(rate, (one.validation, one.test, one.accuracy, one.ensemble, sum(one.models) / len(one.models)))]
        for one in scores.outer
    ]  # fmt: skip
    outer = Table(
        "Accuracy by outer fold, in percent.",
        [Column("Outer fold"), Column("Images"), Column("Selected model"), Column("its validation"),
         Column("mean of test folds"), Column("selected model", "On the outer fold"),
         Column("ensemble", "On the outer fold"), Column("mean of ten", "On the outer fold")],
        rows,
        notes=["In the runs of outer fold u, fold 10 is drawn fold u, and fold u is drawn fold 10."],
    )  # fmt: skip
    caption = (
        "Dots: the ten models of each outer fold. Diamonds: the one that validation selected. Solid line and band: "
        "nested selection, pooled, and its interval. Dashed: what the selected models' own validation images say."
    )
    problems = [Notice("Not all of the sweep is here", scores.problems)] if scores.problems else []
    drawing = Figure(caption, f"Accuracy on {folds} of their ten models each.", _drawn(scores))
    return [*problems, estimates, metrics, drawing, outer]
