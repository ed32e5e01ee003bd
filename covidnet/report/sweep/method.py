"""The part of a report that tells how the numbers came about, and how to get them again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from covidnet.base.classes import CLASSES
from covidnet.evaluation.results import to_json
from covidnet.report.paper.published import TABLE4
from covidnet.report.paper.tables import PARTS, images
from covidnet.report.plots.figures import training_figure
from covidnet.report.rendering.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    without_paper,
)
from covidnet.report.summary import SweepSummary
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value
from covidnet.report.words import beside_paper, count


def training(summary: SweepSummary) -> Section | None:
    """The loss by epoch; None where no curves were kept.

    Args:
        summary: of a sweep.
    """
    drawing = training_figure(summary)
    if drawing is None:
        return None
    curves = summary.training_curves
    marked = (
        "the epoch with the lowest validation loss"
        if any(curve.best is not None for curve in curves)
        else "the epoch at which training stopped"
        if any(curve.stopped is not None for curve in curves)
        else ""
    )
    fold = summary.selection.fold
    caption = (
        f"Loss by epoch, {'one line for each of ' if len(curves) > 1 else ''}{count(len(curves), 'model')}"
        + (f"; thick: the model of fold {fold}" if fold is not None else "")
        + (f"; dots: {marked}" if marked else "")
        + ". The training loss is taken while the weights still change, and with augmented images."
    )
    last = max((epoch for curve in curves for epoch in curve.epoch), default=0)
    alt = f"Training and validation loss of {count(len(curves), 'model')} over {count(last + 1, 'epoch')}."
    return Section("Training", "training", [Figure(caption, alt, drawing)])


def data(summary: SweepSummary) -> Section:
    """Table 4, and what the images and the folds are.

    Args:
        summary: of a sweep.
    """
    titles = ("All", "Training", "Training, augmented", "Test", "Unseen")
    columns = [Column("Class"), *(Column(word, title) for title in titles for word in ("ours", "paper"))]
    rows: list[list[Cell]] = []
    for name in CLASSES:
        row: list[Cell] = [name]
        for part in PARTS:
            row += [Value(images(summary, name, part)), Value(TABLE4[name][part])]
        rows.append(row)
    table = Table(
        "Images of each class, as one model sees them.",
        columns,
        rows,
        "Table 4 (paper)",
        [
            "Ours, training: without the validation part, which the paper does not have. Where our folds are not "
            "all of one size, our test images are those of all folds together.",
        ],
    )
    if not beside_paper(summary):
        table = without_paper(table)
    described = summary.data
    facts = [
        ("Data set", described.name),
        ("Synthetic", _yes(described.synthetic)),
        ("Images in the folds", described.images),
        ("Images left out of the balanced draw", described.left_out),
        ("Files refused", described.refused),
        ("Patients", described.patients),
        ("Images of unknown patient", described.unknown_patients),
        ("Images of each class in a fold", described.per_fold),
        ("Kept together in one fold (split.group)", described.group),
        ("Validation (split.validation)", described.validation),
        ("View (data.view)", described.view or "all"),
    ]
    return Section("Data and split", "data", [table, facts_table("Data and split.", facts)])


def method(summary: SweepSummary) -> Section:
    """Settings, versions, hashes and times.

    Args:
        summary: of a sweep.
    """
    parts = (("model", summary.model), ("augment", summary.augment), ("training", summary.training))
    settings = [(name, value) for key, part in parts for name, value in _flat(part, key)]
    hashes = [
        (name.replace("predictions_sha256.", "predictions_sha256, fold "), value)
        for name, value in _flat(to_json(summary.hashes), "")
    ]
    seconds = [(f"{name}, seconds", value) for name, value in summary.seconds.items()]
    versions = list(summary.versions.items())
    blocks: list[Block] = [facts_table("Settings.", settings)]
    if versions:
        blocks.append(facts_table("Versions.", versions))
    blocks.append(
        facts_table(
            "Hashes (SHA-256), revision and times, summed over the runs.",
            [*hashes, ("git revision", summary.git_revision), *seconds],
        )
    )
    return Section("Settings, versions and hashes", "method", blocks)


def again(summaries: Sequence[SweepSummary]) -> Section:
    """The command that makes this report again.

    Args:
        summaries: of the sweep that is reported, and of others beside it.
    """
    return Section(
        "How to compute this again",
        "again",
        [
            Paragraph(
                "Every number comes from the predictions.csv of each run; neither the images nor a GPU is needed."
            ),
            Code(
                command(
                    [str(s.folder or "DIR") for s in summaries],
                    [str(s.asked.get("only") or "") for s in summaries],
                )
                + _asked(summaries[0])
            ),
        ],
    )


def _asked(summary: SweepSummary) -> str:
    """What the report was asked for beside its folders, as further settings."""
    return "".join(f" {name}={value}" for name, value in summary.asked.items() if value is not None and name != "only")


def command(folders: Sequence[str], only: Sequence[str] = ()) -> str:
    r"""The command line that reports sweeps again, quoted for a POSIX shell and for Hydra.

    Args:
        folders: sweep folders, the reported one first.
        only: what their run folders were chosen by, one text for each, empty for all; or none.

    Example:
        >>> command(["multirun/a"])
        'python -m covidnet.crossval sweep_dir=multirun/a'
        >>> command(["my sweeps", "b"])
        'python -m covidnet.crossval "sweep_dir=[\'my sweeps\',b]"'
        >>> command(["a"], ["model=cnn,seed=1"])
        'python -m covidnet.crossval sweep_dir=a only=model=cnn,seed=1'
    """
    words = [_argument("sweep_dir", folders)]
    if any(only):
        # One text with a second equals sign needs no quotes of Hydra's on this command line, a list does.
        plain = len(only) == 1 and re.fullmatch(r"[A-Za-z0-9/._=,-]+", only[0])
        words.append(f"only={only[0]}" if plain else _argument("only", only))
    return " ".join(["python -m covidnet.crossval", *words])


def _argument(name: str, values: Sequence[str]) -> str:
    quoted = [_for_hydra(value) for value in values]
    argument = f"{name}={quoted[0] if len(quoted) == 1 else '[' + ','.join(quoted) + ']'}"
    if shlex.quote(argument) == argument:
        return argument
    # Double quotes read better around Hydra's single ones, where nothing in between means something to the shell.
    plain = not set(argument) & set('"$`\\!')
    return f'"{argument}"' if plain else shlex.quote(argument)


def _for_hydra(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9/._-]+", text):
        return text
    # In Hydra's quotes a backslash means itself, except before a quote.
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def intervals() -> Section:
    """What the brackets mean."""
    return Section(
        "Notes on the intervals",
        "intervals",
        [
            Bullets(
                [
                    "All intervals are 95% intervals with the patient as the unit: several images of one patient "
                    "count for less than as many patients. With few patients they are wide rather than narrow.",
                    "Accuracy, sensitivity, specificity and F1: Wilson's score interval (DOI "
                    "10.1080/01621459.1927.10502953) on the effective number of images, which is the number of images "
                    "over the design effect, with Student's t (Korn and Graubard 1998; DOI 10.1093/jssam/smv024). "
                    "F1 is a function of the proportion TP/(TP+FP+FN). With as many images of each class the mean "
                    "sensitivity is the accuracy, and the mean specificity a function of it.",
                    "AUC: DeLong's variance, clustered by patient (DOI 10.2307/2533958), on the logit scale; for "
                    "perfect separation Wilson's. Other means over the classes: a bootstrap that draws patients, "
                    "with all of their images, with replacement, and widens the percentiles for few patients (DOI "
                    "10.1080/00031305.2015.1089789). The column `method` of the CSV files says which it is.",
                    "The intervals are of the images: they say how the numbers would vary with other patients of the "
                    "same kind, for these trained models. They do not cover another training, another hospital, or "
                    "faults of the protocol.",
                    "McNemar: of the images that one sweep alone has right, as an exact permutation test that swaps "
                    "all "
                    "answers on a patient together. Corrected t: of the differences over "
                    "folds, with the variance enlarged because the folds share training images (Nadeau and Bengio, "
                    "DOI 10.1023/A:1024068626366). DeLong: of the areas under two ROC curves of the same images (DOI "
                    "10.2307/2531595), clustered by patient (DOI 10.2307/2533958). Adjusted p: Holm.",
                    "The CSV files give fractions of 1; this report gives percent, and AUC as a fraction.",
                ]
            )
        ],
    )


def _yes(value: Any) -> str | None:
    return {True: "yes", False: "no"}.get(value) if isinstance(value, bool) else None


def _flat(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        rows += _flat(value, name) if isinstance(value, Mapping) else [(name, value)]
    return rows


def facts_table(caption: str, facts: Sequence[tuple[str, Any]]) -> Table:
    """A table of names and what is known by them.

    Args:
        caption: above it.
        facts: name and value of each row; None is shown as a dash.
    """
    rows: list[list[Cell]] = [[name, _said(value)] for name, value in facts]
    return Table(caption, [Column(""), Column("")], rows)


def _said(value: Any) -> str:
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
