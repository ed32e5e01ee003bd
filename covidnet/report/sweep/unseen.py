"""The part of a report that tells of the unseen fold, and what choosing a model by it adds."""

from __future__ import annotations

from covidnet.base.classes import CLASSES
from covidnet.evaluation.results import empty
from covidnet.evaluation.scores import PointScores, SplitScores
from covidnet.evaluation.selection import ObservedChoice, SimulatedChoice
from covidnet.report.plots.figures import selection_figure
from covidnet.report.rendering.document import Block, Cell, Column, Figure, Paragraph, Section, Table
from covidnet.report.summary import Selection, SweepSummary, UnseenScores
from covidnet.report.sweep.results import curve_blocks
from covidnet.report.terminal import UNDEFINED, percent
from covidnet.report.values import area, rate
from covidnet.report.words import count, estimate_text, is_locked, points

_COVID = CLASSES[0]


def unseen_fold(summary: SweepSummary) -> Section:
    """The unseen fold: the models as they are, the selected one, the ensemble, and the paper's choice.

    Args:
        summary: of a sweep.
    """
    unseen, selection = summary.unseen or empty(UnseenScores), summary.selection
    if is_locked(summary):
        return Section("The unseen fold", "unseen", [Paragraph(" ".join(summary.unseen_use.notes))])
    models = len(summary.per_fold)
    columns = [Column(""), Column("Accuracy"), Column("sensitivity", _COVID), Column("specificity", _COVID),
               Column("sensitivity", "Mean of the classes"), Column("specificity", "Mean of the classes"),
               Column("Loss")]  # fmt: skip
    rows: list[list[Cell]] = [
        [f"{count(models, 'model')}, mean", *_unseen_row(unseen.mean)],
        [f"{count(models, 'model')}, standard deviation", *_unseen_row(unseen.sd)],
    ]
    fold, paper_fold = selection.fold, selection.paper_fold
    if selection.rule != "paper":
        name = "No model selected" if fold is None else f"Selected model (fold {fold})"
        rows.append([name, *_unseen_row(unseen.selected)])
    rows.append(["Ensemble: mean of the models' probabilities", *_unseen_row(unseen.ensemble)])
    of_fold = "" if paper_fold is None else f" (fold {paper_fold})"
    rows.append(
        [
            f"Selection score: the model with the highest accuracy here{of_fold}, the paper's choice",
            *_unseen_row(unseen.paper_selected),
        ]
    )
    table = Table(
        f"The unseen fold, {count(unseen.ensemble.n or selection.n, 'image')}. Percent, deviations "
        "in percentage points; 95% intervals in brackets; the loss is the mean cross-entropy.",
        columns,
        rows,
        notes=[
            "The selection score is optimistic: the same images chose the model and score it. It is here because the "
            "paper chooses so, and is not to be quoted as a result."
        ],
    )
    notes = " ".join(summary.unseen_use.notes)
    words = f"The images of this fold were in no training and no validation part. {_chosen(selection)} {notes}".strip()
    return Section(
        "The unseen fold",
        "unseen",
        [Paragraph(words), table, *curve_blocks(summary.curves.unseen, "ensemble on the unseen fold")],
    )


def _chosen(selection: Selection) -> str:
    label = selection.label
    if selection.fold is None:
        return f"{label[:1].upper()}{label[1:]}." if label else "No model was selected."
    return f"The model of fold {selection.fold}: {label or 'how it was selected is not recorded'}."


def _unseen_row(numbers: SplitScores | PointScores | None) -> list[Cell]:
    scores = numbers or empty(PointScores)
    covid = scores.classes[_COVID]
    rates = (scores.accuracy, covid.sensitivity, covid.specificity, scores.macro.sensitivity, scores.macro.specificity)
    return [*(rate(number) for number in rates), area(scores.loss)]


def selection(summary: SweepSummary) -> Section:
    """What choosing the best of several models on the images that score it adds to the score.

    Args:
        summary: of a sweep.
    """
    chosen = summary.selection
    if is_locked(summary):
        words = "The unseen fold is locked, so what choosing a model by it would add was not measured."
        return Section("What choosing the best model adds", "selection", [Paragraph(words)])
    blocks: list[Block] = [Paragraph(text) for text in _selection_words(chosen)]
    drawing = selection_figure(summary)
    if drawing is not None:
        accuracies = [candidate.unseen_accuracy for candidate in chosen.candidates]
        there = [value for value in accuracies if value is not None]
        caption = (
            "The models' scores on the unseen fold (dots), over what chance alone gives to models that are all as "
            "good as their mean and err independently: one of them (light), and the best of them (dark)."
        )
        alt = (
            f"{count(len(there), 'model')} score from {percent(min(there))} to {percent(max(there))}; the best of as "
            f"many equal models is expected at {percent(chosen.simulated.expected_best if chosen.simulated else None)}."
        )
        blocks.append(Figure(caption, alt, drawing))
    blocks.append(_candidates(chosen))
    return Section("What choosing the best model adds", "selection", blocks)


def _selection_words(chosen: Selection) -> list[str]:
    models, images = chosen.models, count(chosen.n, "image")
    if models is None or models < 2:
        return ["There is one model at most, so nothing was chosen, and nothing is added by choosing."]
    simulated, chance = (one or empty(SimulatedChoice) for one in (chosen.simulated, chosen.chance))
    data = chosen.data or empty(ObservedChoice)
    luck = (
        f"{models} models were scored on the same {images}. Each score has some luck in it, good or bad. Who takes "
        f"the best of the {models} and quotes its score takes the luckiest too, and so quotes too much, even where "
        "all models are equally good."
    )
    numbers = (
        f"How much too much? Draw {models} models that are each right in {estimate_text(simulated.accuracy)} "
        f"of cases, let each predict {_as_many(chosen, images)}, and take the best: it scores "
        f"{estimate_text(simulated.expected_best)} on average, "
        f"{points(simulated.optimism)} more than any of them is worth{_usual(simulated)}. In this sweep the "
        f"best scores {estimate_text(data.best)} and the mean is {estimate_text(data.mean)}: "
        f"{points(data.apparent_optimism)} apart."
    )
    if data.split_half_optimism is not None:
        numbers += (
            " Choosing on one half of this fold's patients and scoring on the other half "
            f"({count(data.repeats, 'random deal')}, scaled to the size of the fold) keeps what the models have "
            f"in common; there the choice adds {points(data.split_half_optimism)}."
        )
    if chance.expected_best is not None:
        numbers += (
            f" Models that only guess, with a true accuracy of {estimate_text(chance.accuracy)}, would show "
            f"{estimate_text(chance.expected_best)} in this way."
        )
    halves, chances = data.split_half_optimism, simulated.optimism
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


def _as_many(chosen: Selection, images: str) -> str:
    """The images of the simulation: fewer than there are where patients have several."""
    effective = chosen.simulated.n if chosen.simulated else None
    if effective is None or effective == chosen.n:
        return images
    return f"{count(effective, 'image')} (as many independent ones as these {images} count for)"


def _usual(simulated: SimulatedChoice) -> str:
    """Between which scores the best lies in 95 of 100 simulated studies, where it was simulated."""
    ends = simulated.range
    return f"; 95 of 100 times between {estimate_text(ends[0])} and {estimate_text(ends[1])}" if ends else ""


def _candidates(chosen: Selection) -> Table:
    columns = [Column("Model of fold"), Column("accuracy", "Validation"), Column("loss", "Validation"),
               Column("accuracy", "Unseen fold"), Column("COVID-19 sensitivity", "Unseen fold"),
               Column("loss", "Unseen fold"), Column("Chosen")]  # fmt: skip
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
                rate(candidate.unseen_covid19_sensitivity),
                area(candidate.unseen_loss),
                ", ".join(marks),
            ]
        )
    return Table("The models that could be chosen. Percent; the loss is the mean cross-entropy.", columns, rows)
