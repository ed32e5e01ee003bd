"""The section of a report on calibration before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.results import Measured, empty
from covidnet.report.plots.figures import calibration_figure
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Figure, Paragraph, Section, Table
from covidnet.report.summary import CalibrationChange, ScoredCalibration, SweepSummary, Temperature
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value, area, rate
from covidnet.report.words import count, is_locked

SCORES = ("ECE", "Brier score", "Log loss")
"""Display names of the calibration measures, in the order of `score_values`."""


@dataclass(frozen=True)
class Part:
    """The calibration of the pooled test folds, or of the ensemble on the unseen fold.

    Args:
        title: its display name.
        before: before temperature scaling.
        after: after temperature scaling; None without temperatures.
        change: after minus before.
    """

    title: str
    before: ScoredCalibration | None
    after: ScoredCalibration | None
    change: CalibrationChange | None


def parts(summary: SweepSummary) -> list[Part]:
    """The parts of a sweep, without a locked unseen fold.

    Args:
        summary: of a sweep or of a single run.
    """
    single = len(summary.folds) == 1
    of, change = summary.calibration, summary.calibration.change or {}
    test = Part("Test fold" if single else "Test folds, pooled", of.pooled, of.pooled_calibrated, change.get("pooled"))
    unseen = Part(
        "Unseen fold" if single else "Unseen fold, ensemble",
        of.ensemble_unseen,
        of.ensemble_unseen_calibrated,
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
    """How well the probabilities are calibrated, before and after temperature scaling.

    Args:
        summary: of a sweep; an older one has no numbers after temperature scaling.
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
                "Reliability: accuracy by confidence, with 95% intervals, above the number of images in each "
                f"bin{' before temperature scaling' if both else ''}. On the dotted line confidence equals accuracy; "
                "above it the models are under-confident, below it over-confident."
                + (" Filled: as predicted. Hollow: after temperature scaling." if both else ""),
                "Reliability diagrams. " + " ".join(_alt_text(*one) for one in _with_after(summary)),
                drawing,
                [table for one in _with_after(summary) if (table := _bins(*one)) is not None],
            )
        )
    blocks.append(calibration_table(summary))
    if (table := _temperatures(summary.calibration.temperatures)) is not None:
        blocks.append(table)
    return Section("Calibration", "calibration", blocks)


def calibration_table(summary: SweepSummary) -> Table:
    """ECE, Brier score and log loss before and after temperature scaling, and their change.

    Args:
        summary: of a sweep.
    """
    number = len(summary.classes)
    rows: list[list[Cell]] = []
    for part in parts(summary):
        rows.append([f"{part.title}{': before' if part.after else ''}", *_row(part.before)])
        if part.after:
            rows.append([f"{part.title}: after", *_row(part.after)])
        if change := part.change:
            rows.append(
                [f"{part.title}: after minus before", "", area(change.ece), area(change.brier), area(change.loss)]
            )
    columns = [Column(""), Column("Accuracy"), *(Column(name) for name in SCORES)]
    return Table(
        "Calibration. Accuracy in percent. ECE: mean absolute difference of accuracy and confidence, weighted by "
        "images (0 is best). Brier: mean squared error of the probabilities, summed over the classes (0 best, 2 worst; "
        f"{1 - 1 / number:.3f} for equal probabilities). Log loss: mean negative natural logarithm of the probability "
        f"of the true class (0 is best; {log(number):.3f} for equal probabilities).",
        columns,
        rows,
        notes=[
            "Intervals: bootstrap over patients with fixed temperatures. ECE has none, because resampling biases it "
            "upwards."
        ],
    )


def temperature_words(summary: SweepSummary) -> list[str]:
    """How the temperatures were fitted, and how far to trust them.

    Args:
        summary: of a sweep.

    Returns:
        Sentences; none for an older summary without temperatures.
    """
    fitted = summary.calibration.temperatures
    if not fitted:
        return []
    values = [one.value for one in fitted if one.value is not None]
    if not values:
        return ["No temperature was fitted: the runs have no validation images. The probabilities are as predicted."]
    validation = summary.data.validation
    images = "its test fold, which the protocol calls validation" if validation == "test" else "its validation images"
    spread = (
        f"It is {_plain(values[0])}"
        if len(values) == 1
        else f"The temperatures are between {_plain(min(values))} and {_plain(max(values))}"
    )
    words = [
        f"Each model's logits are divided by a temperature, fitted on {images} by maximum likelihood (Guo et al. "
        "2017). A temperature above 1 lowers the confidence of a model, one below 1 raises it. "
        f"{spread}. Temperature scaling never changes the prediction of a single model."
    ]
    if len(values) < len(fitted):
        words.append(
            f"{count(len(fitted) - len(values), 'run')} of {len(fitted)} had no validation images, so there are no "
            "numbers after temperature scaling."
        )
    if validation == "test":
        words.append(
            "split.validation=test: the temperature was fitted on the test fold, so its numbers after temperature "
            "scaling are optimistic."
        )
    return words


def change_words(summary: SweepSummary) -> list[str]:
    """What temperature scaling improved or made worse.

    Args:
        summary: of a sweep.

    Returns:
        Sentences; none without numbers after temperature scaling.
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
    changed, before, after = (
        summary.calibration.ensemble_changed,
        summary.calibration.ensemble_unseen,
        summary.calibration.ensemble_unseen_calibrated,
    )
    if changed is not None and len(summary.calibration.temperatures) > 1:
        text = (
            f"The ensemble averages the scaled probabilities: its prediction changes for {changed or 'none'} of the "
            "images"
        )
        if changed and before is not None and after is not None:
            text += (
                f", and its accuracy is {rate(before.accuracy).number}% before and {rate(after.accuracy).number}% after"
            )
        words.append(f"{text}.")
    return words


def _verdict(change: CalibrationChange) -> str:
    """Which measures changed by more than chance, and which did not."""
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
    words = [f"temperature scaling made the {' and the '.join(names)} {how}" for how, names in clear.items() if names]
    if unclear:
        words.append(f"the {' and the '.join(unclear)} changed no more than by chance")
    return "; ".join(words)


def _plain(value: float | None) -> str:
    return area(value).number


def _with_after(summary: SweepSummary) -> list[tuple[str, Calibration | None]]:
    """The parts before and, with temperatures, after temperature scaling."""
    found: list[tuple[str, Calibration | None]] = []
    for part in parts(summary):
        found.append((f"{part.title}, before" if part.after else part.title, part.before))
        if part.after:
            found.append((f"{part.title}, after", part.after))
    return found


def _row(numbers: ScoredCalibration | None) -> list[Cell]:
    return [rate(None if numbers is None else numbers.accuracy), *score_values(numbers)]


def _alt_text(title: str, numbers: Calibration | None) -> str:
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
    columns = [Column("Confidence"), Column("Images"), Column("Mean confidence"), Column("Accuracy")]
    return Table(f"Reliability, {title[:1].lower()}{title[1:]}. Percent.", columns, rows)


def _temperatures(fitted: Sequence[Temperature]) -> Table | None:
    if not any(one.value is not None for one in fitted):
        return None
    folds = [UNDEFINED if one.fold is None else str(one.fold) for one in fitted]
    rows: list[list[Cell]] = [
        ["Temperature", *(Value(one.value, None, 1.0, 2) for one in fitted)],
        ["Images used to fit it", *(Value(one.n) for one in fitted)],
    ]
    return Table("Temperatures.", [Column("Model of fold"), *(Column(fold) for fold in folds)], rows)
