"""Reporting checklists: CLAIM 2024, TRIPOD+AI and PROBAST+AI, filled in from what the files say."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.auditing.acquisition import AGES, DEVICES, SEXES
from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.identity import age_in_years
from covidnet.auditing.leaks import leaks
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.errors import CovidnetError
from covidnet.base.names import counted
from covidnet.report.card import lines
from covidnet.report.summary import SweepSummary
from covidnet.report.words import estimate_text, patients_words
from covidnet.sweep.summary import summarise

NAME = "reporting"

ANSWERS = {"filled": "filled in", "part": "in part", "authors": "authors"}
"""What a row of a checklist says: filled in by the program, in part, or open for the authors."""

# Intervals that the checklists quote need no resampling.
_RESAMPLES = 100
_TRAINING = ("seed", "loss", "optim", "trainer.max_epochs", "monitor")
_FILES = {"CLAIM 2024": "claim_2024", "TRIPOD+AI": "tripod_ai", "PROBAST+AI": "probast_ai"}


def reporting(study: Study) -> Answer:
    """Fill in what the files say; what only the authors can say stays open and is counted.

    An item is open too where the files lack what the program would fill in. Nothing is judged: PROBAST+AI's questions
    get the facts that an assessor needs. Items are paraphrased; the numbers are those of the publications.

    Raises:
        NotPossibleError: neither the images nor a sweep can be read.

    Source: Tejani et al. 2024, CLAIM 2024 update, https://doi.org/10.1148/ryai.240300; Collins et al. 2024, TRIPOD+AI,
    https://doi.org/10.1136/bmj-2023-078378; Moons et al. 2025, PROBAST+AI, https://doi.org/10.1136/bmj-2024-082505
    """
    known = known_facts(study)
    tables, notes, still_open, number = {}, [], 0, 0
    for name, file in _FILES.items():
        rows = []
        for item in items():
            if item["checklist"] != name:
                continue
            said = [known[fact] for fact in item["facts"].split() if fact in known]
            answered = ANSWERS[item["answered"] if said else "authors"]
            rows.append((item["item"], item["topic"], answered, ". ".join(said)))
        table = pd.DataFrame(rows, columns=["item", "topic", "answered", "what_the_files_say"])
        tables[file] = table
        counts = table["answered"].value_counts()
        filled, part, left = (int(counts.get(word, 0)) for word in ANSWERS.values())
        still_open, number = still_open + left, number + len(table)
        notes.append(f"{name}: {filled} of {len(table)} items filled in, {part} in part, {left} open for the authors.")
    notes.append(f"Each item with what the files say: {', '.join(f'{file}.csv' for file in tables)}.")
    notes.append("Items are paraphrased. Complete the official forms for a submission; for PROBAST+AI judge each item.")
    what = f"Only the authors can answer {still_open:,} of the {number:,} items."
    meaning = "For each item, the tables have what the files of the study say. They judge nothing."
    remedy = "Complete the tables, and add the pages of the manuscript."
    finding = Finding(NAME, "information", what, still_open / number, None, (), meaning, remedy)
    return Answer([finding], tables, notes, on_page=False)


@cache
def items() -> tuple[Mapping[str, str], ...]:
    """The items of all checklists: checklist, item, topic, how far facts can answer it, and which facts."""
    text = Path(__file__).with_name("checklists.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def known_facts(study: Study) -> dict[str, str]:
    """What the files say, by the name of the fact; a fact that they lack is absent.

    Args:
        study: with images, a sweep or both.

    Raises:
        NotPossibleError: it has neither.
    """
    found: dict[str, str | None] = {}
    reasons = []
    for look in (_of_images, _of_sweep):
        try:
            found |= look(study)
        except (NotPossibleError, CovidnetError) as error:
            reasons.append(str(error))
    if len(reasons) == 2:
        raise NotPossibleError("; ".join(reasons))
    return {name: text for name, text in found.items() if text}


def _of_images(study: Study) -> dict[str, str | None]:
    """The facts that the images and their table give."""
    images = study.images
    assert study.table is not None  # images can be read
    classes = images["label"].value_counts()
    unknown = {
        "patient": int(images["patient_id"].isna().sum()), "view": int(images["view"].isna().sum()),
        "source": int(images["source"].isna().sum()),
    }  # fmt: skip
    patients = patients_words(len(set(study.patients.tolist())), images["patient_id"].nunique(), unknown["patient"])
    people = {"sex": study.column(*SEXES), "age": study.column(*AGES)}
    unknown |= {name: int(column.isna().sum()) for name, column in people.items() if column is not None}
    device = study.column(*DEVICES)
    found: dict[str, str | None] = {
        "classes": f"Classes as labelled: {_counts(classes)}",
        "sources": f"Data set {study.table.name}; sources: {_counts(images['source'].value_counts()) or 'unknown'}",
        "eligibility": f"{counted(len(images), 'image')} used, {counted(len(study.table.refused), 'file')} refused, "
        "each with its cause",
        "flow": f"{counted(len(images), 'image')} of {patients}: "
        f"{_counts(classes)}; {counted(len(study.table.refused), 'file')} refused",
        "missing": "Images of unknown "
        + ", ".join(f"{name}: {number:,}" for name, number in unknown.items())
        + "; an image of unknown patient counts as a patient of its own",
        "acquisition": "; ".join(
            f"{name}: {_counts(column.value_counts()) or 'unknown'}"
            for name, column in (("Views", images["view"]), ("Devices", device))
            if column is not None
        ),
        "predictors": "The pixels of one image, and nothing else",
        "hashes": f"The manifest's SHA-256 is {study.table.manifest_sha256}",
    }
    tested = study.sweep_dir is not None
    sources = images["source"].nunique()
    if tested and sources > 1:
        found["clusters"] = f"{sources:,} sources; accuracy by source: the check Subgroups"
    described = []
    if (sex := people["sex"]) is not None:
        described.append(f"Sex: {_counts(sex.value_counts())}")
    if (age := people["age"]) is not None:
        years = age.map(age_in_years).groupby(images["label"]).mean()
        described.append("mean age: " + ", ".join(f"{name} {value:.0f}" for name, value in years.items()))
    if described:
        found["demographics"] = f"{'; '.join(described)} (all partitions together)"
        found["fairness"] = "Accuracy by sex and age band: the check Subgroups" if tested else None
    return found


def _of_sweep(study: Study) -> dict[str, str | None]:
    """The facts that the files of a sweep give."""
    summary, models = summarise(study.sweep, resamples=_RESAMPLES), len(study.sweep.runs)
    network, images, split = (dict(part(summary)) for part in (lines.network, lines.images, lines.split))
    pooled, unseen, settings = summary.pooled, summary.unseen, _flat(summary.training)
    epochs, rule = settings.get("trainer.max_epochs"), summary.selection.rule
    augment = _flat(summary.augment)
    copies = augment.get("target_per_class")
    temperature = [run.metrics.get("temperature") for run in study.sweep.runs]
    frozen = summary.model.get("freeze")
    patients = patients_words(pooled.patients or 0, summary.data.patients, summary.data.unknown_patients)
    test = f"{counted(int(pooled.n or 0), 'test image')} of {patients}"
    sources = _said(images, "Name", "Synthetic", "Sources")
    broken, checked = _broken(study), dict(lines.gate(summary)) if summary.card.gate else {}
    prepared = _said(network, "Input", "Preprocessing", "Features standardised before the linear layer")
    shown: dict[str, str | None] = {
        "technology": _said(network, "Architecture", "Trained"),
        "sources": sources,
        "eligibility": _said(
            images, "Selected views (data.view)", "Files refused", "Images left out to balance the classes"
        ),
        "preprocessing": f"{prepared}; the same for all images" if prepared else None,
        "augmentation": "Augmentation of training images alone: " + _listed(augment) if augment else None,
        "partitions": _said(
            split, "Folds", "Images of each class in a fold", "Training images of one model",
            "Validation (split.validation)",
        ),
        "disjoint": _said(split, "Kept together (split.group)"),
        "leaks": None if broken is None
        else f"Rules of the folds that the files break: {broken or 'none'} (the check Leaks of the split)",
        "test_size": f"{test}; accuracy {estimate_text(pooled.accuracy)}, in brackets the 95% interval",
        "model": _said(network, "Architecture", "Parameters", "Trained", "Input", "Output"),
        "software": ", ".join(f"{name} {version}" for name, version in summary.versions.items() if version) or None,
        "initialisation": _said(
            network, "Initial weights", "Choice of the initial weights", "Hash of the initial weights (SHA-256)", "Seed"
        ),
        "training": _listed({name: value for name, value in settings.items() if name.startswith(_TRAINING)}) or None,
        "selection": f"Of each model the epoch with the best {settings.get('monitor') or 'val/loss'}; among models the "
        f"rule {rule}" if rule and settings else None,
        "ensemble": f"On the unseen fold the mean probabilities of {counted(models, 'model')}" if unseen else None,
        "metrics": "Accuracy, sensitivity, specificity, F1 and AUC of each class, Brier score, calibration error and "
        "reliability curves (report/); predictive values and net benefit (the check Clinical reading)",
        "uncertainty": "95% intervals with the patient as the unit; exact tests of two methods, adjusted after Holm; "
        "the p value of exchanged labels (the check Shuffled labels)",
        "robustness": f"Standard deviation of the accuracy over {counted(models, 'fold')}: "
        f"{100 * summary.sd.accuracy:.1f} points; seeds and training size: the check Stability"
        if summary.sd.accuracy is not None else None,
        "explanations": f"Heat maps ({summary.explanations.method}) with tests of where they look and what they need "
        "(report/)" if summary.explanations and summary.explanations.method else None,
        "internal": f"Test folds: accuracy {estimate_text(pooled.accuracy)}"
        + (f"; unseen fold, ensemble: {estimate_text(unseen.ensemble.accuracy)}" if unseen else ""),
        "performance": "; ".join(
            f"{name}: sensitivity {estimate_text(of.sensitivity)}, specificity {estimate_text(of.specificity)}"
            for name, of in pooled.classes.items()
        ),
        "failures": _failures(summary),
        "flow": _said(
            images, *(f"Images of {name} in the folds" for name in summary.classes), "Patients", "Files refused",
            "Images left out to balance the classes",
        ),
        "imbalance": "Folds have equally many images of each class" if summary.data.per_fold is not None
        else "Folds are as unbalanced as the data set" if summary.data.unbalanced else None,
        "updating": "A temperature for each model, fitted to its validation images, is stored with it; the numbers of "
        "the report are of probabilities without it" if any(temperature) else None,
        "calculation": "Probabilities of every test image are in predictions.csv; covidnet predict checkpoint=RUN "
        "gives those of new images" if frozen is not None else None,
        "output": f"{network['Output']}; the class is the most probable one" if network.get("Output") else None,
        "same_set": "Training and test images are of the same data set" if sources else None,
        "code": f"covidnet {summary.versions['covidnet']}, revision {summary.git_revision}"
        if summary.versions.get("covidnet") and summary.git_revision else None,
        "gate": _said(checked, "Refuses, with the cause", "Refused held-out images of the same data"),
        "hashes": _said(images, "Hash of the manifest (SHA-256)"),
        "overfitting": f"Trained: {network['Trained']}; at most {epochs} epochs"
        if network.get("Trained") and epochs is not None else None,
        "apparent": None if broken is None or broken else "Every test image is predicted by a model that was not "
        "trained on it" + ("; no model was trained on the unseen fold" if unseen else "")
        + ("; but the test fold chose the epoch" if summary.data.validation == "test" else ""),
        "resampling": "Each of the models is trained anew: standardisation, augmentation and the choice of the epoch "
        "are inside its training and validation images" if summary.data.validation == "inner" else None,
    }  # fmt: skip
    if study.table is None:
        shown |= {"missing": _said(images, "Images without a known patient"), "acquisition": _said(images, "Views")}
    if copies and shown["imbalance"]:
        shown["imbalance"] += f"; training images are augmented up to {copies:,} of a class, test images never"
    return shown


def _broken(study: Study) -> int | None:
    try:
        return len(leaks(study).findings)
    except NotPossibleError:
        return None


def _failures(summary: SweepSummary) -> str | None:
    names, counts = list(summary.classes), summary.pooled.confusion
    if not counts:
        return None
    wrong = [
        (int(counts[row][column]), f"{of} called {told}")
        for row, of in enumerate(names)
        for column, told in enumerate(names)
        if row != column and counts[row][column]
    ]
    most = ", ".join(f"{text} {number:,}" for number, text in sorted(wrong, reverse=True)[:3])
    return f"Most frequent errors: {most or 'none'}; images that are wrong with confidence: the check Labels"


def _counts(values: pd.Series) -> str:
    """How often the most frequent values occur; of equals in the order of their names."""
    values = values.sort_index().sort_values(ascending=False, kind="stable")
    shown = ", ".join(f"{name} {number:,}" for name, number in values.head(8).items())
    return f"{shown} and {len(values) - 8} others" if len(values) > 8 else shown


def _said(facts: Mapping[str, Any], *names: str) -> str | None:
    given = [(name, facts.get(name)) for name in names]
    return "; ".join(f"{name}: {value}" for name, value in given if value is not None) or None


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their whole names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
