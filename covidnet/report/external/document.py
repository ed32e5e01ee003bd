"""The report of an evaluation on another data set, as HTML, Markdown and summary.json."""

from __future__ import annotations

import shlex
from pathlib import Path

from covidnet.base.atomic import write_text
from covidnet.base.caveats import Caveat
from covidnet.report.external import sections as parts
from covidnet.report.external.summary import ExternalSummary
from covidnet.report.rendering.document import Code, Document, Paragraph, Section
from covidnet.report.rendering.html import json_text, page_of
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.sweep.content import numbered
from covidnet.report.sweep.method import facts_table
from covidnet.report.words import TRAINED_ON, count


def external_document(summary: ExternalSummary) -> Document:
    """The complete report of an evaluation.

    Args:
        summary: of the evaluation.
    """
    sections = [
        Section("", "abstract", [*parts.abstract(summary), parts.notice(summary)]),
        parts.images(summary),
        parts.training_images(summary),
        parts.results(summary),
        parts.beside_the_study(summary),
        parts.calibration(summary),
        _method(summary),
        parts.intervals(),
    ]
    subtitle = (
        f"Model: {summary.model.get('title')}. Data: {summary.data.root}, "
        f"{count(summary.data.images, 'image')}. {Caveat.RESEARCH_ONLY}"
    )
    present = [section for section in sections if section is not None]
    return Document(f"External validation: {summary.name}", subtitle, numbered(present))


def write_external_report(summary: ExternalSummary, folder: Path) -> None:
    """Write report.html, report.md and summary.json, each atomically.

    Args:
        summary: of an evaluation.
        folder: the output folder.

    Raises:
        DataError: a number is NaN or infinite, which JSON cannot hold; nothing is written.
        WriteError: a file cannot be written.
    """
    document = external_document(summary)
    texts = {
        "report.html": page_of(document),
        "report.md": markdown_of(document),
        "summary.json": json_text("summary", summary),
    }
    for name, text in texts.items():
        write_text(folder / name, text)


def _method(summary: ExternalSummary) -> Section:
    model, training = summary.model, summary.model.get("training") or {}
    temperatures = [f"{t:.3f}" if t is not None else "none" for t in model.get("temperatures") or []]
    facts = [
        ("Network", model.get("network")),
        ("Initial weights", model.get("weights")),
        ("Folds of its models", ", ".join(str(fold) for fold in model.get("folds") or [])),
        ("Temperatures", ", ".join(temperatures)),
        ("Trained on", TRAINED_ON.get(str(training.get("name")), training.get("name"))),
        ("Input", f"{model.get('image_size')} pixels, fit={model.get('fit')}"),
        ("Input gate", model.get("gate")),
        ("Data set", summary.data.name),
        ("Bootstrap resamples, seed", f"{summary.bootstrap.resamples}, {summary.bootstrap.seed}"),
    ]
    hashes = [*summary.hashes.items(), ("git revision", summary.git_revision)]
    seconds = [(f"{name}, seconds", value) for name, value in summary.seconds.items()]
    arguments = [f"{name}={value}" for name, value in summary.arguments.items() if value is not None]
    return Section(
        "Model, hashes and how to reproduce this report",
        "method",
        [
            facts_table("Model and data.", facts),
            facts_table("Hashes (SHA-256), revision and times.", [*hashes, *seconds]),
            Paragraph("Every number is computed from predictions.csv and overlap.csv, which this command writes:"),
            Code(" ".join(["python -m covidnet.evaluate", *(shlex.quote(word) for word in arguments)])),
        ],
    )
