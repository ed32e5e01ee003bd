"""The part of a report that tells whether probabilities mean what they say, before and after the temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covidnet.report.plots.figures import calibration_figure
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Figure, Paragraph, Section, Table
from covidnet.report.summary import Summary, at
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value, area, rate
from covidnet.report.words import count, is_locked

SCORES: tuple[tuple[str, str], ...] = (("ECE", "ece"), ("Brier score", "brier"), ("Log loss", "loss"))
"""The measures of calibration, as they are written and by their keys."""

_AFTER = "_calibrated"


def parts(summary: Summary) -> list[tuple[str, str]]:
    """What is looked at: how it is written, and its key in the summary.

    Args:
        summary: of a sweep, or of a single run, which has nothing to pool.

    Example:
        >>> parts({"folds": [3]})
        [('Test fold', 'pooled'), ('Unseen fold', 'ensemble_unseen')]
    """
    alone = len(summary.get("folds") or []) == 1
    titles = ("Test fold", "Unseen fold") if alone else ("Test folds, pooled", "Unseen fold, ensemble")
    found = list(zip(titles, ("pooled", "ensemble_unseen"), strict=True))
    return found[:1] if is_locked(summary) else found


def calibration(summary: Summary) -> Section:
    """Whether the probabilities mean what they say, as predicted and as shown to users.

    Args:
        summary: of a sweep; one from before there were temperatures has the numbers before alone.
    """
    told = at(summary, "calibration") or {}
    blocks: list[Block] = []
    if words := temperature_words(summary):
        blocks.append(Paragraph(" ".join(words)))
    if words := change_words(summary):
        blocks.append(Bullets(words))
    drawing = calibration_figure(summary)
    if drawing is not None:
        both = any(at(told, key + _AFTER, "bins") for _, key in parts(summary))
        blocks.append(
            Figure(
                "Reliability: how often predictions of a given confidence are right, with 95% intervals over "
                f"the number of images in each bin{' before the temperature' if both else ''}. On the dotted line "
                "confidence is accuracy; above it the models are under-confident, below it over-confident."
                + (" Filled: as predicted. Hollow: after the temperature." if both else ""),
                "Reliability diagrams. " + " ".join(_spoken(told, title, key) for title, key in _with_after(summary)),
                drawing,
                [t for title, key in _with_after(summary) if (t := _bins(told, title, key)) is not None],
            )
        )
    blocks.append(calibration_table(summary))
    if (table := _temperatures(told)) is not None:
        blocks.append(table)
    return Section("Calibration", "calibration", blocks)


def calibration_table(summary: Summary) -> Table:
    """ECE, Brier score and log loss before and after the temperature, and what it changed.

    Args:
        summary: of a sweep.
    """
    told = at(summary, "calibration") or {}
    rows: list[list[Cell]] = []
    for title, key in parts(summary):
        rows.append([f"{title}{': before' if at(told, key + _AFTER) else ''}", *_row(at(told, key))])
        if at(told, key + _AFTER):
            rows.append([f"{title}: after", *_row(at(told, key + _AFTER))])
        if (change := at(told, "change", key)) is not None:
            rows.append([f"{title}: after less before", "", *(area(at(change, score)) for _, score in SCORES)])
    columns = [Column(""), Column("Accuracy"), *(Column(name) for name, _ in SCORES)]
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


def temperature_words(summary: Summary) -> list[str]:
    """How the temperatures were fitted, and how far to trust them.

    Args:
        summary: of a sweep.

    Returns:
        Sentences; none where the summary is from before there were temperatures.
    """
    fitted = at(summary, "calibration", "temperatures")
    if not fitted:
        return []
    known = [one for one in fitted if at(one, "value") is not None]
    if not known:
        return ["No temperature was fitted: the runs have no validation images. The probabilities are as predicted."]
    validation = at(summary, "data", "validation")
    where = "its test fold, which the protocol calls validation" if validation == "test" else "its validation images"
    values = [one["value"] for one in known]
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
    if len(known) < len(fitted):
        words.append(
            f"{count(len(fitted) - len(known), 'run')} of {len(fitted)} had no validation images, so there are no "
            "numbers after the temperature."
        )
    if validation == "test":
        words.append(
            "split.validation=test: the temperature was fitted on the test fold, so the numbers of the test folds "
            "after it are optimistic."
        )
    return words


def change_words(summary: Summary) -> list[str]:
    """What the temperature changed, good or bad.

    Args:
        summary: of a sweep.

    Returns:
        Sentences; none where there are no numbers after it.
    """
    told = at(summary, "calibration") or {}
    words = []
    for title, key in parts(summary):
        before, after = at(told, key), at(told, key + _AFTER)
        if at(told, "change", key, "loss", "value") is None:
            continue
        words.append(
            f"{title}: log loss {_plain(at(before, 'loss'))} before, {_plain(at(after, 'loss'))} after, ECE "
            f"{_plain(at(before, 'ece'))} and {_plain(at(after, 'ece'))}; {_verdict(at(told, 'change', key))}."
        )
    changed = told.get("ensemble_changed")
    if changed is not None and len(told.get("temperatures") or []) > 1:
        ensemble = (
            "The ensemble averages the tempered probabilities, which is another average than that of the untempered "
            "ones: it predicts another class for "
        )
        before, after = (at(told, f"ensemble_unseen{end}", "accuracy") for end in ("", _AFTER))
        moved = f"{changed} of the images" if changed else "none of the images"
        if changed and before is not None and after is not None:
            moved += f", and its accuracy is {rate(before).number}% before and {rate(after).number}% after"
        words.append(f"{ensemble}{moved}.")
    return words


def _verdict(change: Mapping[str, Any]) -> str:
    """What changed by more than the choice of patients may explain, and what did not."""
    clear: dict[str, list[str]] = {"worse": [], "better": []}
    unclear = []
    for name, key in (("log loss", "loss"), ("Brier score", "brier")):
        value, ends = at(change, key, "value"), at(change, key, "ci")
        if value is None:
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


def _with_after(summary: Summary) -> list[tuple[str, str]]:
    """The parts, each followed by itself after the temperature where there is that."""
    found = []
    for title, key in parts(summary):
        after = at(summary, "calibration", key + _AFTER) is not None
        found.append((f"{title}, before" if after else title, key))
        if after:
            found.append((f"{title}, after", key + _AFTER))
    return found


def _row(numbers: Any) -> list[Cell]:
    ends = at(numbers, "ci") or {}
    cells: list[Cell] = [rate(at(numbers, "accuracy"))]
    return [*cells, *(area({"value": at(numbers, score), "ci": ends.get(score)}) for _, score in SCORES)]


def _spoken(told: Mapping[str, Any], title: str, key: str) -> str:
    return f"{title}: ECE {_plain(at(told, key, 'ece'))}, Brier score {_plain(at(told, key, 'brier'))}."


def _bins(told: Mapping[str, Any], title: str, key: str) -> Table | None:
    bins = [b for b in at(told, key, "bins") or [] if b.get("n")]
    if not bins:
        return None
    rows: list[list[Cell]] = [
        [
            f"{100 * b['low']:.0f}\N{EN DASH}{100 * b['high']:.0f}",
            Value(b["n"]),
            rate(b.get("confidence")),
            rate({"value": b.get("accuracy"), "ci": b.get("ci")}),
        ]
        for b in bins
    ]
    columns = [Column("Confidence"), Column("Images"), Column("Mean confidence"), Column("Right")]
    return Table(f"Reliability, {title[:1].lower()}{title[1:]}. Percent.", columns, rows)


def _temperatures(told: Mapping[str, Any]) -> Table | None:
    fitted: Sequence[Mapping[str, Any]] = told.get("temperatures") or []
    if not any(at(one, "value") is not None for one in fitted):
        return None
    folds = [UNDEFINED if at(one, "fold") is None else str(one["fold"]) for one in fitted]
    rows: list[list[Cell]] = [
        ["Temperature", *(Value(at(one, "value"), None, 1.0, 2) for one in fitted)],
        ["Images that it was fitted on", *(Value(at(one, "n")) for one in fitted)],
    ]
    return Table("Temperatures.", [Column("Model of fold"), *(Column(fold) for fold in folds)], rows)
