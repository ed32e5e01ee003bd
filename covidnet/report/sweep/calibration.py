"""The part of a report that tells whether probabilities mean what they say, before and after the temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.results import Measured, empty
from covidnet.report.plots.figures import calibration_figure
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Figure, Paragraph, Section, Table
from covidnet.report.summary import CalibrationChange, ScoredCalibration, SweepSummary, Temperature
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value, area, rate
from covidnet.report.words import count, is_locked

SCORES = ("ECE", "Brier score", "Log loss")
"""The measures of calibration, as they are written, in the order of `score_values`."""


@dataclass(frozen=True)
class Part:
    """What is looked at: the pooled test folds, or the ensemble on the unseen fold.

    Args:
        title: how it is written.
        before: the temperature.
        after: the temperature; None where there is none.
        change: after less before.
    """

    title: str
    before: ScoredCalibration | None
    after: ScoredCalibration | None
    change: CalibrationChange | None


def parts(summary: SweepSummary) -> list[Part]:
    """What is looked at; of a single run, which has nothing to pool, its folds; no unseen fold that is locked.

    Args:
        summary: of a sweep or of a single run.
    """
    alone = len(summary.folds) == 1
    found, change = summary.calibration, summary.calibration.change or {}
    test = Part(
        "Test fold" if alone else "Test folds, pooled", found.pooled, found.pooled_calibrated, change.get("pooled")
    )
    unseen = Part(
        "Unseen fold" if alone else "Unseen fold, ensemble",
        found.ensemble_unseen,
        found.ensemble_unseen_calibrated,
        change.get("ensemble_unseen"),
    )
    return [test] if is_locked(summary) else [test, unseen]


def score_values(numbers: ScoredCalibration | None) -> list[Value]:
    """The values of `SCORES`."""
    known = numbers or empty(ScoredCalibration)
    return [
        area(known.ece), area(Measured(known.brier, known.ci.brier)), area(Measured(known.loss, known.ci.loss))
    ]  # fmt: skip


def calibration(summary: SweepSummary) -> Section:
    """Whether the probabilities mean what they say, as predicted and as shown to users.

    Args:
        summary: of a sweep; one from before there were temperatures has the numbers before alone.
    """
    blocks: list[Block] = []
    if words := temperature_words(summary):
        blocks.append(Paragraph(" ".join(words)))
    if words := change_words(summary):
        blocks.append(Bullets(words))
    drawing = calibration_figure(summary)
    if drawing is not None:
        both = any(part.after and part.after.bins for part in parts(summary))
        blocks.append(
            Figure(
                "Reliability: how often predictions of a given confidence are right, with 95% intervals over "
                f"the number of images in each bin{' before the temperature' if both else ''}. On the dotted line "
                "confidence is accuracy; above it the models are under-confident, below it over-confident."
                + (" Filled: as predicted. Hollow: after the temperature." if both else ""),
                "Reliability diagrams. " + " ".join(_spoken(*one) for one in _with_after(summary)),
                drawing,
                [table for one in _with_after(summary) if (table := _bins(*one)) is not None],
            )
        )
    blocks.append(calibration_table(summary))
    if (table := _temperatures(summary.calibration.temperatures)) is not None:
        blocks.append(table)
    return Section("Calibration", "calibration", blocks)


def calibration_table(summary: SweepSummary) -> Table:
    """ECE, Brier score and log loss before and after the temperature, and what it changed.

    Args:
        summary: of a sweep.
    """
    rows: list[list[Cell]] = []
    for part in parts(summary):
        rows.append([f"{part.title}{': before' if part.after else ''}", *_row(part.before)])
        if part.after:
            rows.append([f"{part.title}: after", *_row(part.after)])
        if change := part.change:
            rows.append(
                [f"{part.title}: after less before", "", area(change.ece), area(change.brier), area(change.loss)]
            )
    columns = [Column(""), Column("Accuracy"), *(Column(name) for name in SCORES)]
    return Table(
        "Calibration. Accuracy in percent. ECE: mean distance of accuracy and confidence, weighted by images (0 is "
        "best). Brier: mean squared distance of probabilities and truth, summed over the classes (0 best, 2 worst; "
        "0.667 says one third to each class). Log loss: mean negative natural logarithm of the probability that the "
        "true class was given (0 is best; 1.099 says one third to each class).",
        columns,
        rows,
        notes=[
            "Intervals: bootstrap over patients, the temperatures taken as they are. ECE has none: drawing images "
            "again "
            "makes it larger."
        ],
    )


def temperature_words(summary: SweepSummary) -> list[str]:
    """How the temperatures were fitted, and how far to trust them.

    Args:
        summary: of a sweep.

    Returns:
        Sentences; none where the summary is from before there were temperatures.
    """
    fitted = summary.calibration.temperatures
    if not fitted:
        return []
    values = [one.value for one in fitted if one.value is not None]
    if not values:
        return ["No temperature was fitted: the runs have no validation images. The probabilities are as predicted."]
    validation = summary.data.validation
    where = "its test fold, which the protocol calls validation" if validation == "test" else "its validation images"
    spread = (
        f"It is {_plain(values[0])}"
        if len(values) == 1
        else f"They lie between {_plain(min(values))} and {_plain(max(values))}"
    )
    words = [
        f"Each model's probabilities are divided by a temperature on the scale of logits, fitted on {where} by "
        "maximum likelihood (Guo et al. 2017). Above 1 it lowers the confidence of a model, below 1 it raises it. "
        f"{spread}. It never changes what a single model predicts."
    ]
    if len(values) < len(fitted):
        words.append(
            f"{count(len(fitted) - len(values), 'run')} of {len(fitted)} had no validation images, so there are no "
            "numbers after the temperature."
        )
    if validation == "test":
        words.append(
            "split.validation=test: the temperature was fitted on the test fold, so the numbers of the test folds "
            "after it are optimistic."
        )
    return words


def change_words(summary: SweepSummary) -> list[str]:
    """What the temperature changed, good or bad.

    Args:
        summary: of a sweep.

    Returns:
        Sentences; none where there are no numbers after it.
    """
    words = []
    for part in parts(summary):
        before, after, change = part.before, part.after, part.change
        if before is None or after is None or change is None or change.loss.value is None:
            continue
        words.append(
            f"{part.title}: log loss {_plain(before.loss)} before, {_plain(after.loss)} after, ECE "
            f"{_plain(before.ece)} and {_plain(after.ece)}; {_verdict(change)}."
        )
    found = summary.calibration
    if found.ensemble_changed is not None and len(found.temperatures) > 1:
        ensemble = (
            "The ensemble averages the tempered probabilities, which is another average than that of the untempered "
            "ones: it predicts another class for "
        )
        first, second = found.ensemble_unseen, found.ensemble_unseen_calibrated
        moved = f"{found.ensemble_changed} of the images" if found.ensemble_changed else "none of the images"
        if found.ensemble_changed and first is not None and second is not None:
            moved += (
                f", and its accuracy is {rate(first.accuracy).number}% before and {rate(second.accuracy).number}% after"
            )
        words.append(f"{ensemble}{moved}.")
    return words


def _verdict(change: CalibrationChange) -> str:
    """What changed by more than the choice of patients may explain, and what did not."""
    clear: dict[str, list[str]] = {"worse": [], "better": []}
    unclear = []
    for name, measured in (("log loss", change.loss), ("Brier score", change.brier)):
        ends = measured.ci
        if measured.value is None:
            continue
        if ends is not None and ends[0] * ends[1] > 0.0:
            clear["worse" if ends[0] > 0.0 else "better"].append(name)
        else:
            unclear.append(name)
    words = [f"the temperature made the {' and the '.join(names)} {how}" for how, names in clear.items() if names]
    if unclear:
        words.append(f"the {' and the '.join(unclear)} changed by no more than chance may do")
    return "; ".join(words)


def _plain(value: float | None) -> str:
    return area(value).number


def _with_after(summary: SweepSummary) -> list[tuple[str, Calibration | None]]:
    """The parts, each followed by itself after the temperature where there is that."""
    found: list[tuple[str, Calibration | None]] = []
    for part in parts(summary):
        found.append((f"{part.title}, before" if part.after else part.title, part.before))
        if part.after:
            found.append((f"{part.title}, after", part.after))
    return found


def _row(numbers: ScoredCalibration | None) -> list[Cell]:
    return [rate(None if numbers is None else numbers.accuracy), *score_values(numbers)]


def _spoken(title: str, numbers: Calibration | None) -> str:
    known = numbers or empty(Calibration)
    return f"{title}: ECE {_plain(known.ece)}, Brier score {_plain(known.brier)}."


def _bins(title: str, numbers: Calibration | None) -> Table | None:
    bins = [b for b in numbers.bins if b.n] if numbers else []
    if not bins:
        return None
    rows: list[list[Cell]] = [
        [
            f"{100 * b.low:.0f}\N{EN DASH}{100 * b.high:.0f}",
            Value(b.n),
            rate(b.confidence),
            rate(Measured(b.accuracy, b.ci)),
        ]
        for b in bins
    ]
    columns = [Column("Confidence"), Column("Images"), Column("Mean confidence"), Column("Right")]
    return Table(f"Reliability, {title[:1].lower()}{title[1:]}. Percent.", columns, rows)


def _temperatures(fitted: Sequence[Temperature]) -> Table | None:
    if not any(one.value is not None for one in fitted):
        return None
    folds = [UNDEFINED if one.fold is None else str(one.fold) for one in fitted]
    rows: list[list[Cell]] = [
        ["Temperature", *(Value(one.value, None, 1.0, 2) for one in fitted)],
        ["Images that it was fitted on", *(Value(one.n) for one in fitted)],
    ]
    return Table("Temperatures.", [Column("Model of fold"), *(Column(fold) for fold in folds)], rows)
