"""The numbers of a model card: on images that were not trained on, calibration, and what the selection adds."""

from __future__ import annotations

from collections.abc import Callable

from covidnet.base.classes import CLASSES
from covidnet.evaluation.results import empty
from covidnet.evaluation.scores import Metric, SplitScores
from covidnet.evaluation.selection import ObservedChoice
from covidnet.report.card.lines import UNKNOWN, Facts
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Paragraph, Table
from covidnet.report.summary import SweepSummary, UnseenScores
from covidnet.report.sweep.calibration import SCORES, change_words, parts, score_values, temperature_words
from covidnet.report.values import Value, area, rate
from covidnet.report.words import estimate_of, points

# With fewer resamples the ends of an interval move visibly from seed to seed.
_ROUGH = 1000
_SCORED: tuple[tuple[str, Metric], ...] = (
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("F1", "f1"),
    ("AUC", "auc"),
)


def numbers(summary: SweepSummary) -> Table:
    """What the models do on test folds and unseen fold, with intervals.

    Args:
        summary: of a sweep or of a single run.
    """
    unseen, chosen = summary.unseen or empty(UnseenScores), summary.selection
    alone = len(summary.folds) == 1
    fold = chosen.fold
    title = "Unseen fold, selected model" + ("" if fold is None else f" (fold {fold})")
    if chosen.rule == "paper":
        title += ", a selection score"
    names = [part.title for part in parts(summary)]
    shown_of = dict(zip(names, (summary.pooled, unseen.ensemble)[: len(names)], strict=True))
    if not alone and len(names) > 1:
        shown_of[title] = unseen.selected or empty(SplitScores)

    def row(title: str, value: Callable[[SplitScores], Value]) -> list[Cell]:
        return [title, *(_known(value(scores)) for scores in shown_of.values())]

    rows = [
        row("Images", lambda scores: Value(scores.n)),
        row("Patients", lambda scores: Value(scores.patients)),
        row("Accuracy", lambda scores: rate(scores.accuracy)),
    ]
    for name in CLASSES:
        for word, key in _SCORED:
            estimates = [scores.classes[name].of(key) for scores in shown_of.values()]
            rows.append([f"{name}: {word}", *(_known((area if key == "auc" else rate)(one)) for one in estimates)])
    resamples = summary.bootstrap.resamples
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


def calibration(summary: SweepSummary) -> list[Block]:
    """Calibration before and after the temperature.

    Args:
        summary: of a sweep or of a single run.
    """
    after = any(part.after for part in parts(summary))
    columns = [Column(""), *(Column(f"{name} {when}") for name in SCORES for when in ("before", "after"))]
    rows: list[list[Cell]] = []
    for part in parts(summary):
        both = zip(score_values(part.before), score_values(part.after), strict=True)
        rows.append([part.title, *(_known(value) for pair in both for value in pair)])
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


def selection(summary: SweepSummary) -> Facts:
    """How the model was chosen, and what choosing adds to a number.

    Args:
        summary: of a sweep or of a single run.
    """
    chosen = summary.selection
    models, fold = chosen.models, chosen.fold
    if models == 1:
        return [("Rule", "none: there is one model, and nothing was chosen by its numbers here")]
    data = chosen.data or empty(ObservedChoice)
    cost, best = data.split_half_optimism, data.best
    simulated = chosen.simulated.optimism if chosen.simulated else None
    return [
        ("Rule", chosen.label),
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
            None if best is None else f"{estimate_of(best, chosen.n)}, not a result",
        ),
    ]


def _known(value: Value) -> Cell:
    return UNKNOWN if value.value is None else value
