"""The model card of a sweep or of one run: what to know before using the model.

The order follows Mitchell et al. 2019, Model cards for model reporting, https://doi.org/10.1145/3287560.3287596.
"""

from __future__ import annotations

from dataclasses import replace

from covidnet.base.caveats import Caveat
from covidnet.report.card.limits import limits
from covidnet.report.card.lines import UNKNOWN, gate, images, lines, network, split, use, versions
from covidnet.report.card.numbers import calibration, numbers, selection
from covidnet.report.paper.published import PAPER, Source
from covidnet.report.rendering.document import Block, Bullets, Code, Document, Notice, Paragraph, References, Section
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.notices import warnings_of
from covidnet.report.words import FOLDS, count, model_name, sweep_name

MODEL_CARDS = Source(
    "Mitchell, Wu, Zaldivar, Barnes, Vasserman, Hutchinson, Spitzer, Raji, Gebru",
    "Model cards for model reporting",
    2019,
    doi="10.1145/3287560.3287596",
)
"""The source of the card's structure."""


def model_card(summary: SweepSummary) -> str:
    """The model card as Markdown.

    Args:
        summary: of a sweep or of a single run; missing facts are ``not available``.

    Returns:
        The text, without paths of the machine.
    """
    return markdown_of(card_document(summary))


def card_document(summary: SweepSummary) -> Document:
    """The model card as a document.

    Args:
        summary: as for `model_card`.
    """
    sections = [
        Section("", "card", [Notice(Caveat.RESEARCH_ONLY, _first(summary))]),
        Section("Model", "model", [lines(network(summary))]),
        Section("Intended use", "use", [lines(use(summary))]),
        Section("Data", "data", [lines(images(summary))]),
        Section("Split", "split", [lines(split(summary))]),
        Section("Numbers", "numbers", [numbers(summary)]),
        Section("Calibration", "calibration", calibration(summary)),
        Section("Model selection", "selection", [lines(selection(summary))]),
        Section("Input gate", "gate", [lines(gate(summary))]),
        Section("Limits", "limits", [Paragraph("In addition to the notes at the top:"), Bullets(limits(summary))]),
        Section("How to run it", "run", _commands(summary)),
        Section("Versions and licence", "versions", [lines(versions(summary))]),
        Section("About this card", "about", [References([MODEL_CARDS, PAPER])]),
    ]
    folds = summary.folds
    kind = f"the model of fold {folds[0]}" if len(folds) == 1 else f"{count(len(folds), 'model')}, one for each fold"
    named = ", ".join(summary.classes)
    subtitle = f"{model_name(summary)}: {kind if folds else f'models {UNKNOWN}'}. Classes: {named}."
    return Document(f"Model card: {sweep_name(summary)}", subtitle, sections)


def _first(summary: SweepSummary) -> list[str]:
    folds = summary.folds
    # Problems contain paths of the machine, and missing folds are reported below.
    notes = warnings_of(replace(summary, problems=[], folds=list(range(FOLDS))))
    if len(folds) == 1:
        notes.append("This card is of one model: its test fold has a tenth of the images, and its intervals are wide.")
    elif len(folds) != FOLDS:
        notes.append(f"{len(folds)} of {FOLDS} folds finished; every pooled number covers only these.")
    return notes or ["No caveats were recorded; the limits below still apply."]


def _commands(summary: SweepSummary) -> list[Block]:
    alone = len(summary.folds) == 1
    folder = "the run folder" if alone else "the sweep folder (the mean of its models), or one of its run folders"
    return [
        Paragraph(f"FOLDER is {folder}."),
        Code("python -m covidnet.predict checkpoint=FOLDER input=FILE_OR_FOLDER"),
        Code("python -m covidnet.app checkpoint=FOLDER"),
        Code("python -m covidnet.evaluate checkpoint=FOLDER data=folder data.root=DIR"),
    ]
