"""The numbers of a model card: on images that were not trained on, calibration, and the optimism of selection."""

from __future__ import annotations

from collections.abc import Callable

from covidnet.evaluation.results import empty
from covidnet.evaluation.scores import Metric, SplitScores
from covidnet.evaluation.selection import ObservedChoice
from covidnet.report.card.lines import UNKNOWN, Facts
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Paragraph, Table
from covidnet.report.summary import SweepSummary, UnseenScores
from covidnet.report.sweep.calibration import SCORES, change_words, parts, score_values, temperature_words
from covidnet.report.values import Value, area, rate
from covidnet.report.words import estimate_of, points

# With fewer resamples the ends of an interval visibly depend on the seed.
_ROUGH = 1000
_SCORED: tuple[tuple[str, Metric], ...] = (
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("F1", "f1"),
    ("AUC", "auc"),
)


def numbers(summary: SweepSummary) -> Table:
    """The metrics of the models on test folds and unseen fold, with intervals.

    Args:
        summary: of a sweep or of a single run.
    """
    unseen, chosen = summary.unseen or empty(UnseenScores), summary.selection
    title = "Unseen fold, selected model" + ("" if chosen.fold is None else f" (fold {chosen.fold})")
    if chosen.rule == "paper":
        title += ", a selection score"
    names = [part.title for part in parts(summary)]
    columns = dict(zip(names, (summary.pooled, unseen.ensemble)[: len(names)], strict=True))
    if len(summary.folds) != 1 and len(names) > 1:
        columns[title] = unseen.selected or empty(SplitScores)

    def row(title: str, value: Callable[[SplitScores], Value]) -> list[Cell]:
        return [title, *(_known(value(scores)) for scores in columns.values())]

    rows = [
        row("Images", lambda scores: Value(scores.n)),
        row(
            "Patients, at most" if summary.data.unknown_patients else "Patients", lambda scores: Value(scores.patients)
        ),
        row("Accuracy", lambda scores: rate(scores.accuracy)),
    ]
    for name in summary.classes.reported:
        for word, key in _SCORED:
            estimates = [scores.classes[name].of(key) for scores in columns.values()]
            rows.append([f"{name}: {word}", *(_known((area if key == "auc" else rate)(one)) for one in estimates)])
    resamples = summary.bootstrap.resamples
    count = f"{resamples:,} resamples" if resamples is not None else f"resamples: {UNKNOWN}"
    notes = [
        f"In brackets: 95% intervals with the patient as the unit (means over the classes: bootstrap, {count}"
        + ("; too few for a stable interval" if resamples is not None and resamples < _ROUGH else "")
        + "). They cover other patients from the same population, not another hospital or retraining."
    ]
    return Table(
        "Metrics on images that the models were not trained on. Rates in percent, AUC as a fraction.",
        [Column(""), *(Column(title) for title in columns)],
        rows,
        "Table 1",
        notes,
    )


def calibration(summary: SweepSummary) -> list[Block]:
    """Calibration before and after temperature scaling.

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
        text = (
            "Prediction and application show the probabilities after temperature scaling. They are calibrated for "
            f"images with {_share(len(summary.classes))} of each class, as in this data; for a rarer disease the "
            "probability is too high."
        )
        blocks.append(Paragraph(text))
    table = Table("Calibration before and after temperature scaling; 0 is best.", columns, rows, "Table 2")
    return [*blocks, table]


def _share(classes: int) -> str:
    return {2: "half", 3: "a third", 4: "a quarter"}.get(classes, f"one in {classes}")


def selection(summary: SweepSummary) -> Facts:
    """How the model was selected, and the optimism of selection.

    Args:
        summary: of a sweep or of a single run.
    """
    chosen = summary.selection
    models, fold = chosen.models, chosen.fold
    if models == 1:
        return [("Rule", "none: there is only one model")]
    data = chosen.data or empty(ObservedChoice)
    cost, best = data.split_half_optimism, data.best
    simulated = chosen.simulated.optimism if chosen.simulated else None
    return [
        ("Rule", chosen.label),
        ("Model", None if fold is None else f"that of fold {fold}"),
        ("Candidate models", models),
        (
            "Optimism of selecting the best by the unseen fold",
            None
            if cost is None or simulated is None
            else f"{points(cost)} by split halves of the images, {points(simulated)} for equally good models in a "
            "simulation; a score selected this way is too high by about as much",
        ),
        (
            "Highest accuracy of one model on the unseen fold",
            None if best is None else f"{estimate_of(best, chosen.n)}, not a result",
        ),
    ]


def _known(value: Value) -> Cell:
    return UNKNOWN if value.value is None else value
