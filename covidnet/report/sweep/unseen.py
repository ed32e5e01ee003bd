"""The part of a report that tells of the unseen fold, and what choosing a model by it adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from covidnet.base.classes import CLASSES
from covidnet.report.plots.figures import selection_figure
from covidnet.report.rendering.document import Block, Cell, Column, Figure, Paragraph, Section, Table
from covidnet.report.summary import Summary, at
from covidnet.report.sweep.results import curve_blocks
from covidnet.report.terminal import UNDEFINED, percent
from covidnet.report.values import area, rate
from covidnet.report.words import count, estimate_text, is_locked, points

_COVID = CLASSES[0]


def unseen_fold(summary: Summary) -> Section:
    """The unseen fold: the models as they are, the selected one, the ensemble, and the paper's choice.

    Args:
        summary: of a sweep.
    """
    unseen, selection = summary.get("unseen") or {}, summary.get("selection") or {}
    if is_locked(summary):
        return Section("The unseen fold", "unseen", [Paragraph(" ".join(at(summary, "unseen_use", "notes") or []))])
    models = len(summary.get("per_fold") or [])
    columns = [Column(""), Column("Accuracy"), Column("sensitivity", _COVID), Column("specificity", _COVID),
               Column("sensitivity", "Mean of the classes"), Column("specificity", "Mean of the classes"),
               Column("Loss")]  # fmt: skip
    rows: list[list[Cell]] = [
        [f"{count(models, 'model')}, mean", *_unseen_row(at(unseen, "mean"))],
        [f"{count(models, 'model')}, standard deviation", *_unseen_row(at(unseen, "sd"))],
    ]
    fold, paper_fold = selection.get("fold"), selection.get("paper_fold")
    if selection.get("rule") != "paper":
        name = "No model selected" if fold is None else f"Selected model (fold {fold})"
        rows.append([name, *_unseen_row(at(unseen, "selected"))])
    rows.append(["Ensemble: mean of the models' probabilities", *_unseen_row(at(unseen, "ensemble"))])
    of_fold = "" if paper_fold is None else f" (fold {paper_fold})"
    rows.append(
        [
            f"Selection score: the model with the highest accuracy here{of_fold}, the paper's choice",
            *_unseen_row(at(unseen, "paper_selected")),
        ]
    )
    table = Table(
        f"The unseen fold, {count(at(unseen, 'ensemble', 'n') or selection.get('n'), 'image')}. Percent, deviations "
        "in percentage points; 95% intervals in brackets; the loss is the mean cross-entropy.",
        columns,
        rows,
        notes=[
            "The selection score is optimistic: the same images chose the model and score it. It is here because the "
            "paper chooses so, and is not to be quoted as a result."
        ],
    )
    notes = " ".join(at(summary, "unseen_use", "notes") or [])
    words = f"The images of this fold were in no training and no validation part. {_chosen(selection)} {notes}".strip()
    return Section(
        "The unseen fold",
        "unseen",
        [Paragraph(words), table, *curve_blocks(summary, "unseen", "ensemble on the unseen fold")],
    )


def _chosen(selection: Mapping[str, Any]) -> str:
    label = selection.get("label")
    if selection.get("fold") is None:
        return f"{label[:1].upper()}{label[1:]}." if label else "No model was selected."
    return f"The model of fold {selection['fold']}: {label or 'how it was selected is not recorded'}."


def _unseen_row(numbers: Any) -> list[Cell]:
    covid = at(numbers, "classes", _COVID)
    rates = (
        at(numbers, "accuracy"),
        at(covid, "sensitivity"),
        at(covid, "specificity"),
        at(numbers, "macro", "sensitivity"),
        at(numbers, "macro", "specificity"),
    )
    return [*(rate(number) for number in rates), area(at(numbers, "loss"))]


def selection(summary: Summary) -> Section:
    """What choosing the best of several models on the images that score it adds to the score.

    Args:
        summary: of a sweep.
    """
    chosen = summary.get("selection") or {}
    if is_locked(summary):
        words = "The unseen fold is locked, so what choosing a model by it would add was not measured."
        return Section("What choosing the best model adds", "selection", [Paragraph(words)])
    blocks: list[Block] = [Paragraph(text) for text in _selection_words(chosen)]
    drawing = selection_figure(summary)
    if drawing is not None:
        accuracies = [at(candidate, "unseen_accuracy") for candidate in chosen["candidates"]]
        there = [value for value in accuracies if value is not None]
        caption = (
            "The models' scores on the unseen fold (dots), over what chance alone gives to models that are all as "
            "good as their mean and err independently: one of them (light), and the best of them (dark)."
        )
        alt = (
            f"{count(len(there), 'model')} score from {percent(min(there))} to {percent(max(there))}; the best of as "
            f"many equal models is expected at {percent(at(chosen, 'simulated', 'expected_best'))}."
        )
        blocks.append(Figure(caption, alt, drawing))
    blocks.append(_candidates(chosen))
    return Section("What choosing the best model adds", "selection", blocks)


def _selection_words(chosen: Mapping[str, Any]) -> list[str]:
    models, images = chosen.get("models"), count(chosen.get("n"), "image")
    if models is None or models < 2:
        return ["There is one model at most, so nothing was chosen, and nothing is added by choosing."]
    simulated, data, chance = (chosen.get(key) or {} for key in ("simulated", "data", "chance"))
    luck = (
        f"{models} models were scored on the same {images}. Each score has some luck in it, good or bad. Who takes "
        f"the best of the {models} and quotes its score takes the luckiest too, and so quotes too much, even where "
        "all models are equally good."
    )
    numbers = (
        f"How much too much? Draw {models} models that are each right in {estimate_text(simulated.get('accuracy'))} "
        f"of cases, "
        f"let each predict {_as_many(chosen, images)}, and take the best: it scores "
        f"{estimate_text(simulated.get('expected_best'))} on average, "
        f"{points(simulated.get('optimism'))} more than any of them is worth{_usual(simulated)}. In this sweep the "
        f"best scores {estimate_text(data.get('best'))} and the mean is {estimate_text(data.get('mean'))}: "
        f"{points(data.get('apparent_optimism'))} apart."
    )
    if data.get("split_half_optimism") is not None:
        numbers += (
            " Choosing on one half of this fold's patients and scoring on the other half "
            f"({count(data.get('repeats'), 'random deal')}, scaled to the size of the fold) keeps what the models have "
            f"in common; there the choice adds {points(data['split_half_optimism'])}."
        )
    if chance.get("expected_best") is not None:
        numbers += (
            f" Models that only guess, with a true accuracy of {estimate_text(chance.get('accuracy'))}, would show "
            f"{estimate_text(chance['expected_best'])} in this way."
        )
    halves, chances = data.get("split_half_optimism"), simulated.get("optimism")
    if halves is not None and chances is not None and halves > chances:
        meaning = (
            "Here the halves say more than independent models would: with few patients they are noisy, and each half "
            "is small. "
        )
    else:
        meaning = (
            "Real models of one sweep share most of their training images and err on the same hard images, so choosing "
            "among them adds less than among independent ones: the simulation is an upper limit, the halves the "
            "better estimate. "
        )
    meaning += (
        "The numbers to quote are those of the ensemble, or of a model that was selected without a look at the "
        "unseen fold."
    )
    return [luck, numbers, meaning]


def _as_many(chosen: Mapping[str, Any], images: str) -> str:
    """The images of the simulation: fewer than there are where patients have several."""
    effective = at(chosen, "simulated", "n")
    if effective is None or effective == chosen.get("n"):
        return images
    return f"{count(effective, 'image')} (as many independent ones as these {images} count for)"


def _usual(simulated: Mapping[str, Any]) -> str:
    """Between which scores the best lies in 95 of 100 simulated studies, where it was simulated."""
    ends = simulated.get("range")
    return f"; 95 of 100 times between {estimate_text(ends[0])} and {estimate_text(ends[1])}" if ends else ""


def _candidates(chosen: Mapping[str, Any]) -> Table:
    columns = [Column("Model of fold"), Column("accuracy", "Validation"), Column("loss", "Validation"),
               Column("accuracy", "Unseen fold"), Column("COVID-19 sensitivity", "Unseen fold"),
               Column("loss", "Unseen fold"), Column("Chosen")]  # fmt: skip
    rows: list[list[Cell]] = []
    for candidate in chosen.get("candidates") or []:
        fold = at(candidate, "fold")
        marks = []
        if fold is not None and fold == chosen.get("fold") and chosen.get("rule") != "paper":
            marks.append("selected")
        if fold is not None and fold == chosen.get("paper_fold"):
            marks.append("highest unseen accuracy (paper)")
        rows.append(
            [
                UNDEFINED if fold is None else str(fold),
                rate(at(candidate, "val_accuracy")),
                area(at(candidate, "val_loss")),
                rate(at(candidate, "unseen_accuracy")),
                rate(at(candidate, "unseen_covid19_sensitivity")),
                area(at(candidate, "unseen_loss")),
                ", ".join(marks),
            ]
        )
    return Table("The models that could be chosen. Percent; the loss is the mean cross-entropy.", columns, rows)
