"""The sections of a report on training, data, settings and intervals, with the command that reproduces it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

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
from covidnet.report.summary import SweepSummary, TrainingCurve
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value
from covidnet.report.words import beside_paper, count


def training(summary: SweepSummary) -> Section | None:
    """The loss by epoch; None without stored curves.

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
        + ". The training loss is an average over the epoch, while the weights change, and includes augmented images."
    )
    last = max((epoch for curve in curves for epoch in curve.epoch), default=0)
    alt = f"Training and validation loss of {count(len(curves), 'model')} over {count(last + 1, 'epoch')}."
    return Section("Training", "training", [Figure(caption, alt, drawing), *_convergence(curves)])


def _convergence(curves: Sequence[TrainingCurve]) -> list[Block]:
    """Whether the head of each fold converged, as far as that is known."""
    known = [curve for curve in curves if curve.gradient is not None]
    if not known:
        return []
    names = ["Fold", "Epochs", "Kept epoch", "Largest gradient entry", "Converged"]
    rows: list[list[Cell]] = [
        [
            f"{curve.fold}", f"{len(curve.epoch)}", "" if curve.best is None else f"{curve.best}",
            f"{curve.gradient:.1e}", "yes" if curve.converged else "no",
        ]
        for curve in known
    ]  # fmt: skip
    notes = ["Epochs are counted from 0. The gradient is that of the mean training loss over all training images."]
    if any(curve.l2 is not None for curve in known):
        notes[0] += (
            " With optim=lbfgs an epoch is a penalty, from strong to weak, and its gradient includes the penalty."
        )
    if falling := sum(curve.still_falling for curve in known):
        remedy = (
            "a weaker penalty (optim.l2) might be better"
            if all(curve.l2 is not None for curve in known)
            else "more epochs (trainer.max_epochs) or optim=lbfgs might be better"
        )
        notes.append(
            f"The last epoch was the best in {falling} of {count(len(known), 'model')}, where training may have ended "
            f"too early: {remedy}."
        )
    if apart := sum(not curve.converged for curve in known):
        notes.append(
            f"{apart} of {count(len(known), 'head')} did not converge: early stopping or the last epoch ended the "
            "training, so that the results also depend on its length. optim=lbfgs trains until convergence."
        )
    return [Table("Convergence of the heads.", [Column(name) for name in names], rows, notes=notes)]


def data(summary: SweepSummary) -> Section:
    """Table 4, and facts on the images and the folds.

    Args:
        summary: of a sweep.
    """
    titles = ("All", "Training", "Training, augmented", "Test", "Unseen")
    columns = [Column("Class"), *(Column(word, title) for title in titles for word in ("ours", "paper"))]
    rows: list[list[Cell]] = []
    beside = beside_paper(summary)
    for name in summary.classes:
        row: list[Cell] = [name]
        for part in PARTS:
            row += [Value(images(summary, name, part)), Value(TABLE4[name][part] if beside else None)]
        rows.append(row)
    table = Table(
        "Images of each class, for one model.",
        columns,
        rows,
        "Table 4 (paper)",
        [
            "Ours, training: without the validation part, which the paper does not have. If our folds differ in size, "
            "our test images are those of all folds together.",
        ],
    )
    if not beside:
        table = without_paper(table)
    split = summary.data
    facts = [
        ("Data set", split.name),
        ("Synthetic", _yes(split.synthetic)),
        ("Images in the folds", split.images),
        ("Images left out to balance the classes", split.left_out),
        ("Files refused", split.refused),
        ("Patients", split.patients),
        ("Images of unknown patient", split.unknown_patients),
        ("Images of each class in a fold", "not equal" if split.unbalanced else split.per_fold),
        *((("Prevalence in the folds", split.prevalence),) if split.unbalanced else ()),
        ("Kept together in one fold (split.group)", split.group),
        ("Validation (split.validation)", split.validation),
        ("View (data.view)", split.view or "all"),
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
    """The command that reproduces this report.

    Args:
        summaries: of the reported sweep, then of any others.
    """
    return Section(
        "How to reproduce this report",
        "again",
        [
            Paragraph(
                "Every number is computed from the predictions.csv of each run, without the images and without a GPU."
            ),
            Code(
                command(
                    [str(s.folder or "DIR") for s in summaries],
                    [str(s.arguments.get("only") or "") for s in summaries],
                )
                + _further_arguments(summaries[0])
            ),
        ],
    )


def _further_arguments(summary: SweepSummary) -> str:
    given = summary.arguments.items()
    return "".join(f" {name}={value}" for name, value in given if value is not None and name != "only")


def command(folders: Sequence[str], only: Sequence[str] = ()) -> str:
    r"""The command line that reproduces a report, quoted for a POSIX shell and for Hydra.

    Args:
        folders: sweep folders, the reported one first.
        only: the setting ``only`` of each folder, empty for all runs; or an empty list.

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
        # A single value with a second equals sign needs no Hydra quotes on this command line, but a list does.
        plain = len(only) == 1 and re.fullmatch(r"[A-Za-z0-9/._=,-]+", only[0])
        words.append(f"only={only[0]}" if plain else _argument("only", only))
    return " ".join(["python -m covidnet.crossval", *words])


def _argument(name: str, values: Sequence[str]) -> str:
    quoted = [_for_hydra(value) for value in values]
    argument = f"{name}={quoted[0] if len(quoted) == 1 else '[' + ','.join(quoted) + ']'}"
    if shlex.quote(argument) == argument:
        return argument
    # Double quotes read better around Hydra's single ones, but only if nothing inside is special to the shell.
    plain = not set(argument) & set('"$`\\!')
    return f'"{argument}"' if plain else shlex.quote(argument)


def _for_hydra(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9/._-]+", text):
        return text
    # In Hydra's quotes a backslash is literal, except before a quote.
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", text)) + "'"


def intervals() -> Section:
    """How the intervals were computed."""
    return Section(
        "Notes on the intervals",
        "intervals",
        [
            Bullets(
                [
                    "All intervals are 95% intervals with the patient as the unit: several images of one patient "
                    "carry less information than the same number of patients. With few patients the intervals are "
                    "conservative.",
                    "Accuracy, sensitivity, specificity and F1: Wilson's score interval (DOI "
                    "10.1080/01621459.1927.10502953) on the effective number of images, which is the number of images "
                    "over the design effect, with Student's t (Korn and Graubard 1998; DOI 10.1093/jssam/smv024). "
                    "F1 is a function of the proportion TP/(TP+FP+FN). With equally many images of each class the mean "
                    "sensitivity equals the accuracy, and the mean specificity is a function of it.",
                    "AUC: DeLong's variance, clustered by patient (DOI 10.2307/2533958), on the logit scale; for "
                    "perfect separation Wilson's. Other means over the classes: a bootstrap that resamples whole "
                    "patients and widens the percentiles for few patients (DOI 10.1080/00031305.2015.1089789). The "
                    "column `method` of the CSV files names the method of each interval.",
                    "The intervals show how the numbers of these trained models would vary with other patients from "
                    "the same population. They do not cover retraining, another hospital, or faults of the protocol.",
                    "McNemar: an exact permutation test on the images that only one sweep classifies correctly, which "
                    "swaps all predictions of a patient together. Corrected t: a t-test of the differences over folds "
                    "with a larger variance, because the folds share training images (Nadeau and Bengio, DOI "
                    "10.1023/A:1024068626366). DeLong: a test of two AUCs on the same images (DOI 10.2307/2531595), "
                    "clustered by patient (DOI 10.2307/2533958). Adjusted p: Holm.",
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
    """A table of names and values.

    Args:
        caption: the caption of the table.
        facts: name and value of each row; None is printed as a dash.
    """
    rows: list[list[Cell]] = [[name, _text(value)] for name, value in facts]
    return Table(caption, [Column(""), Column("")], rows)


def _text(value: Any) -> str:
    if value is None:
        return UNDEFINED
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
