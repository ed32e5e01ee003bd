"""The numbers of a model card: on images that were not trained on, calibration, and what the selection adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from covidnet.base.classes import CLASSES
from covidnet.report.card.lines import UNKNOWN, Facts
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Paragraph, Table
from covidnet.report.summary import Summary, at
from covidnet.report.sweep.calibration import SCORES, change_words, parts, temperature_words
from covidnet.report.values import Value, area, rate
from covidnet.report.words import estimate_of, points

# With fewer resamples the ends of an interval move visibly from seed to seed.
_ROUGH = 1000
_SCORED = (("sensitivity", "sensitivity"), ("specificity", "specificity"), ("F1", "f1"))


def numbers(summary: Summary) -> Table:
    """What the models do on test folds and unseen fold, with intervals.

    Args:
        summary: of a sweep or of a single run.
    """
    unseen, chosen = summary.get("unseen") or {}, summary.get("selection") or {}
    alone = len(summary.get("folds") or []) == 1
    fold = chosen.get("fold")
    title = "Unseen fold, selected model" + ("" if fold is None else f" (fold {fold})")
    if chosen.get("rule") == "paper":
        title += ", a selection score"
    names = [name for name, _ in parts(summary)]
    shown_of = dict(zip(names, (summary.get("pooled"), unseen.get("ensemble"))[: len(names)], strict=True))
    if not alone and len(names) > 1:
        shown_of[title] = unseen.get("selected")

    def row(title: str, shown: Callable[[Any], Value], *keys: str) -> list[Cell]:
        return [title, *(_known(shown(at(scores, *keys))) for scores in shown_of.values())]

    rows = [row("Images", Value, "n"), row("Patients", Value, "patients"), row("Accuracy", rate, "accuracy")]
    for name in CLASSES:
        rows += [row(f"{name}: {word}", rate, "classes", name, key) for word, key in _SCORED]
        rows.append(row(f"{name}: AUC", area, "classes", name, "auc"))
    resamples = at(summary, "bootstrap", "resamples")
    drawn = f"{resamples:,} resamples" if resamples is not None else f"resamples: {UNKNOWN}"
    notes = [
        f"In brackets: 95% intervals with the patient as the unit (means over the classes: bootstrap, {drawn}"
        + ("; so few make it rough" if resamples is not None and resamples < _ROUGH else "")
        + "). They cover other patients of the same kind, not another hospital or another training."
    ]
    return Table(
        "What the models do on images that they were not trained on. Rates in percent, AUC as a fraction.",
        [Column(""), *(Column(title) for title in shown_of)],
        rows,
        "Table 1",
        notes,
    )


def calibration(summary: Summary) -> list[Block]:
    """Calibration before and after the temperature.

    Args:
        summary: of a sweep or of a single run.
    """
    found = summary.get("calibration") or {}
    after = any(at(found, f"{key}_calibrated") is not None for _, key in parts(summary))
    columns = [Column(""), *(Column(f"{name} {when}") for name, _ in SCORES for when in ("before", "after"))]
    rows: list[list[Cell]] = []
    for title, key in parts(summary):
        row: list[Cell] = [title]
        for _, score in SCORES:
            for part in (key, f"{key}_calibrated"):
                ends = at(found, part, "ci", score)
                row.append(_known(area({"value": at(found, part, score), "ci": ends})))
        rows.append(row)
    blocks: list[Block] = [Paragraph(" ".join(temperature_words(summary)) or f"Temperature: {UNKNOWN}.")]
    if words := change_words(summary):
        blocks.append(Bullets(words))
    if after:
        shown = (
            "Prediction and application show the probabilities after the temperature. They hold for images of which a "
            "third is of each class, as in the data here; where a disease is rarer, its probability is too high."
        )
        blocks.append(Paragraph(shown))
    table = Table("Calibration before and after the temperature; 0 is best.", columns, rows, "Table 2")
    return [*blocks, table]


def selection(summary: Summary) -> Facts:
    """How the model was chosen, and what choosing adds to a number.

    Args:
        summary: of a sweep or of a single run.
    """
    chosen = summary.get("selection") or {}
    models, fold = chosen.get("models"), chosen.get("fold")
    if models == 1:
        return [("Rule", "none: there is one model, and nothing was chosen by its numbers here")]
    data = chosen.get("data") or {}
    cost = data.get("split_half_optimism")
    simulated = at(chosen, "simulated", "optimism")
    best = data.get("best")
    return [
        ("Rule", chosen.get("label")),
        ("Model", None if fold is None else f"that of fold {fold}"),
        ("Models to choose from", models),
        (
            "What choosing the best by the unseen fold would add",
            None
            if cost is None or simulated is None
            else f"{points(cost)} by split halves of the images, {points(simulated)} for equally good models in a "
            "simulation; a number chosen in that way is too high by about as much",
        ),
        (
            "Highest accuracy of one model on the unseen fold",
            None if best is None else f"{estimate_of(best, chosen.get('n'))}, not a result",
        ),
    ]


def _known(value: Value) -> Cell:
    return UNKNOWN if value.value is None else value
