"""The sections of a report on the unseen fold, and on the optimism of selecting a model by it."""

from __future__ import annotations

from covidnet.base.classes import ClassList
from covidnet.evaluation.results import empty
from covidnet.evaluation.scores import Metric, PointScores, SplitScores
from covidnet.evaluation.selection import ObservedChoice, SimulatedChoice
from covidnet.report.plots.figures import selection_figure
from covidnet.report.rendering.document import Block, Cell, Column, Figure, Paragraph, Section, Table
from covidnet.report.summary import Selection, SweepSummary, UnseenScores
from covidnet.report.sweep.results import curve_blocks
from covidnet.report.terminal import UNDEFINED, percent
from covidnet.report.values import area, rate
from covidnet.report.words import count, estimate_text, is_locked, points

_RATES: tuple[Metric, ...] = ("sensitivity", "specificity")


def unseen_fold(summary: SweepSummary) -> Section:
    """The unseen fold: all models, the selected one, the ensemble, and the paper's selection.

    Args:
        summary: of a sweep.
    """
    unseen, selection = summary.unseen or empty(UnseenScores), summary.selection
    if is_locked(summary):
        return Section("The unseen fold", "unseen", [Paragraph(" ".join(summary.unseen_use.notes))])
    models = len(summary.per_fold)
    classes = summary.classes
    groups = [classes.positive, *([] if classes.binary else ["Mean of the classes"])]
    columns = [Column(""), Column("Accuracy"), *(Column(key, group) for group in groups for key in _RATES),
               Column("Loss")]  # fmt: skip
    rows: list[list[Cell]] = [
        [f"{count(models, 'model')}, mean", *_unseen_row(unseen.mean, classes)],
        [f"{count(models, 'model')}, standard deviation", *_unseen_row(unseen.sd, classes)],
    ]
    fold, paper_fold = selection.fold, selection.paper_fold
    if selection.rule != "paper":
        name = "No model selected" if fold is None else f"Selected model (fold {fold})"
        rows.append([name, *_unseen_row(unseen.selected, classes)])
    rows.append(["Ensemble: mean of the models' probabilities", *_unseen_row(unseen.ensemble, classes)])
    of_fold = "" if paper_fold is None else f" (fold {paper_fold})"
    rows.append(
        [
            f"Selection score: the model with the highest accuracy here{of_fold}, as the paper selects it",
            *_unseen_row(unseen.paper_selected, classes),
        ]
    )
    table = Table(
        f"The unseen fold, {count(unseen.ensemble.n or selection.n, 'image')}. Percent, standard deviations "
        "in percentage points; 95% intervals in brackets; the loss is the mean cross-entropy.",
        columns,
        rows,
        notes=[
            "The selection score is optimistic: the same images select the model and score it. It is here because the "
            "paper selects this way. Do not quote it as a result."
        ],
    )
    notes = " ".join(summary.unseen_use.notes)
    text = "The images of this fold were used neither for training nor for validation."
    return Section(
        "The unseen fold",
        "unseen",
        [
            Paragraph(f"{text} {_chosen(selection)} {notes}".strip()),
            table,
            *curve_blocks(summary.curves.unseen, "ensemble on the unseen fold", classes),
        ],
    )


def _chosen(selection: Selection) -> str:
    label = selection.label
    if selection.fold is None:
        return f"{label[:1].upper()}{label[1:]}." if label else "No model was selected."
    return f"The model of fold {selection.fold}: {label or 'how it was selected is not recorded'}."


def _unseen_row(numbers: SplitScores | PointScores | None, classes: ClassList) -> list[Cell]:
    scores = numbers or empty(PointScores)
    groups = [scores.classes[classes.positive], *([] if classes.binary else [scores.macro])]
    rates = [scores.accuracy, *(group.of(key) for group in groups for key in _RATES)]
    return [*(rate(number) for number in rates), area(scores.loss)]


def selection(summary: SweepSummary) -> Section:
    """How much selecting the best of several models by a fold adds to its score on that fold.

    Args:
        summary: of a sweep.
    """
    chosen = summary.selection
    if is_locked(summary):
        words = "The unseen fold is locked, so the optimism of selecting a model by it was not measured."
        return Section("What selecting the best model adds", "selection", [Paragraph(words)])
    blocks: list[Block] = [Paragraph(text) for text in _selection_words(chosen)]
    drawing = selection_figure(summary)
    if drawing is not None:
        accuracies = [candidate.unseen_accuracy for candidate in chosen.candidates]
        known = [value for value in accuracies if value is not None]
        caption = (
            "The models' scores on the unseen fold (dots), and the distributions by chance alone for models that are "
            "all as good as their mean and have independent errors: of one of them (light), and of the best (dark)."
        )
        alt = (
            f"{count(len(known), 'model')} score from {percent(min(known))} to {percent(max(known))}; the best of as "
            f"many equal models is expected at {percent(chosen.simulated.expected_best if chosen.simulated else None)}."
        )
        blocks.append(Figure(caption, alt, drawing))
    blocks.append(_candidates(chosen, summary.classes.positive))
    return Section("What selecting the best model adds", "selection", blocks)


def _selection_words(chosen: Selection) -> list[str]:
    models, images = chosen.models, count(chosen.n, "image")
    if models is None or models < 2:
        return ["There is at most one model, so nothing was selected and selection adds nothing."]
    simulated, chance = (one or empty(SimulatedChoice) for one in (chosen.simulated, chosen.chance))
    data = chosen.data or empty(ObservedChoice)
    luck = (
        f"{models} models were scored on the same {images}. Each score is partly luck, good or bad. Selecting the best "
        f"of the {models} also selects for good luck, so its score is too high even if all models are equally good."
    )
    numbers = (
        f"How much too high? Simulate {models} models that are each correct in {estimate_text(simulated.accuracy)} "
        f"of cases, let each predict {_as_many(chosen, images)}, and take the best: it scores "
        f"{estimate_text(simulated.expected_best)} on average, "
        f"{points(simulated.optimism)} above the true accuracy of each{_usual(simulated)}. In this sweep the "
        f"best scores {estimate_text(data.best)} and the mean is {estimate_text(data.mean)}: "
        f"{points(data.apparent_optimism)} apart."
    )
    if data.split_half_optimism is not None:
        numbers += (
            " Selecting on one half of this fold's patients and scoring on the other half "
            f"({count(data.repeats, 'random split')}, scaled to the size of the fold) accounts for correlation between "
            f"the models; by this estimate selection adds {points(data.split_half_optimism)}."
        )
    if chance.expected_best is not None:
        numbers += (
            f" The best of as many guessing models, with a true accuracy of {estimate_text(chance.accuracy)}, would "
            f"score {estimate_text(chance.expected_best)}."
        )
    halves, chances = data.split_half_optimism, simulated.optimism
    if halves is not None and chances is not None and halves > chances:
        meaning = (
            "Here the split halves give more than the simulation of independent models: with few patients they are "
            "noisy. "
        )
    else:
        meaning = (
            "The models of a sweep share most of their training images and err on the same hard images, so selecting "
            "among them adds less than among independent models: the simulation is an upper limit, and the split "
            "halves are the better estimate. "
        )
    meaning += "Quote the numbers of the ensemble, or of a model that was selected without the unseen fold."
    return [luck, numbers, meaning]


def _as_many(chosen: Selection, images: str) -> str:
    """The images of the simulation: fewer than the fold has if patients have several."""
    effective = chosen.simulated.n if chosen.simulated else None
    if effective is None or effective == chosen.n:
        return images
    return f"{count(effective, 'image')} (the effective number of these {images})"


def _usual(simulated: SimulatedChoice) -> str:
    """The central 95% of the best score over the simulations; empty without a simulation."""
    ends = simulated.range
    return f", and in 95% of simulations between {estimate_text(ends[0])} and {estimate_text(ends[1])}" if ends else ""


def _candidates(chosen: Selection, positive: str) -> Table:
    columns = [Column("Model of fold"), Column("accuracy", "Validation"), Column("loss", "Validation"),
               Column("accuracy", "Unseen fold"), Column(f"{positive} sensitivity", "Unseen fold"),
               Column("loss", "Unseen fold"), Column("Selected")]  # fmt: skip
    rows: list[list[Cell]] = []
    for candidate in chosen.candidates:
        fold = candidate.fold
        marks = []
        if fold is not None and fold == chosen.fold and chosen.rule != "paper":
            marks.append("selected")
        if fold is not None and fold == chosen.paper_fold:
            marks.append("highest unseen accuracy (paper)")
        rows.append(
            [
                UNDEFINED if fold is None else str(fold),
                rate(candidate.val_accuracy),
                area(candidate.val_loss),
                rate(candidate.unseen_accuracy),
                rate(candidate.unseen_sensitivity),
                area(candidate.unseen_loss),
                ", ".join(marks),
            ]
        )
    return Table("The candidate models. Percent; the loss is the mean cross-entropy.", columns, rows)
