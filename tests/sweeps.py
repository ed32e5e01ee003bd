"""Sweep folders made of random predictions, for tests that need no training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.classes import ClassList
from covidnet.data.folds.splits import exchanged
from covidnet.evaluation.explanations import RunExplanations, write_explanations
from covidnet.evaluation.localisation import localisation_table
from covidnet.evaluation.predictions import predictions_table, write_predictions
from covidnet.evaluation.sanity import sanity_table

SETTINGS: dict[str, Any] = {
    "fold": 0,
    "seed": 0,
    "selection": "inner",
    "data": {"name": "phantom", "view": None},
    "split": {"group": "patient", "validation": "inner", "seed": 0},
    "augment": {"mode": "fixed", "target_per_class": 1070},
    "model": {"name": "densenet121", "weights": "random", "freeze": True},
    "optim": {"lr": 1e-3},
    "trainer": {"max_epochs": 20, "fast_dev_run": False},
}


def split_table(per_fold: int = 6, seed: int = 0) -> pd.DataFrame:
    """A split of eleven folds with `per_fold` images of each class; patients have one to three images in one fold."""
    rng = np.random.default_rng(seed)
    rows = []
    for fold in range(11):
        for at, label in enumerate(CLASSES):
            patient = -1
            for n in range(per_fold):
                patient += int(n == 0 or rng.random() < 0.6)
                rows.append((f"{seed:04x}{fold:02d}{at}{n:03d}{0:06x}", f"{label}/{fold}-{n}.png", label,
                             f"p{fold}-{at}-{patient}", "PA", "here", fold))  # fmt: skip
    columns = ["image_id", "path", "label", "patient_id", "view", "source", "fold"]
    return pd.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)


def random_probabilities(
    labels: Iterable[str], skill: float, rng: np.random.Generator, classes: ClassList = CLASSES
) -> np.ndarray:
    """(n, classes) probabilities that favour the true class by `skill` on the scale of logits; 0 is guessing."""
    truth = np.array([classes.index(label) for label in labels])
    logits = rng.normal(size=(len(truth), len(classes))) + skill * np.eye(len(classes))[truth]
    scores = np.exp(logits)
    return scores / scores.sum(1, keepdims=True)


def write_run(
    folder: Path,
    split: pd.DataFrame,
    fold: int,
    *,
    skill: float = 1.5,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    change: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    classes: ClassList = CLASSES,
) -> Path:
    """One run folder with random predictions.

    Args:
        folder: the run folder.
        split: as `split_table` gives it.
        fold: the test fold.
        skill: how much better than guessing.
        seed: of the predictions.
        settings: of config.yaml, on top of `SETTINGS`.
        change: what is done to the predictions before they are written.
        classes: of the split.
    """
    rng = np.random.default_rng([seed, fold])
    folder.mkdir(parents=True)
    parts = {"test": fold, "unseen": 10, "val": (fold + 1) % 10}
    tables = []
    for name, number in parts.items():
        images = split[split["fold"] == number]
        tables.append(
            predictions_table(
                image_id=list(images["image_id"]),
                path=list(images["path"]),
                patient_id=list(images["patient_id"]),
                label=list(images["label"]),
                split=name,
                fold=fold,
                probabilities=random_probabilities(images["label"], skill, rng, classes),
                classes=classes,
            )
        )
    table = pd.concat(tables, ignore_index=True)
    write_predictions(change(table) if change else table, folder / "predictions.csv", classes)
    own = OmegaConf.merge(SETTINGS, settings or {}, {"fold": fold})
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(own))
    split.to_csv(folder / "split.csv", index=False)
    counts = {part: {label: {"films": 40, "inputs": 90} for label in classes} for part in ("train", "val")}
    metrics = {
        "fold": fold, "seed": 0, "splits": {}, "seconds": {"features": 0.1, "fit": 2.0, "total": 3.0},
        "data": {
            "name": "phantom", "manifest_sha256": "a" * 64, "split_sha256": f"{len(split):064x}", "group": "patient",
            "validation": own.split.validation, "refused": 0, "counts": counts,
        },
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "environment.json").write_text(json.dumps({"versions": {"torch": "2.15"}, "weights_sha256": "b" * 64}))
    return folder


def write_sweep(folder: Path, folds: Iterable[int] = range(10), split: pd.DataFrame | None = None, **run: Any) -> Path:
    """A sweep folder; arguments of `write_run` are passed on."""
    if split is not None or run:
        table = split_table() if split is None else split
        for fold in folds:
            write_run(folder / f"fold={fold}", table, fold, **run)
        return folder
    for fold in folds:
        place = folder / f"fold={fold}"
        place.mkdir(parents=True)
        for name, content in _plain_run(fold).items():
            (place / name).write_bytes(content)
    return folder


@cache
def _plain_run(fold: int) -> dict[str, bytes]:
    """The files of a run without settings of its own, which most tests begin with."""
    with TemporaryDirectory() as folder:
        run = write_run(Path(folder) / "run", split_table(), fold)
        return {file.name: file.read_bytes() for file in run.iterdir()}


def write_nested(
    root: Path,
    outer: Sequence[int] = range(11),
    split: pd.DataFrame | None = None,
    skip: tuple[int, int] = (-1, -1),
    **run: Any,
) -> Path:
    """The sweep over folds and unseen folds; `skip` is the outer fold and the fold of a run that failed."""
    drawn = split_table() if split is None else split
    for number in outer:
        table = drawn.assign(fold=drawn["fold"].map(lambda fold, u=number: exchanged(fold, u)))
        for fold in range(10):
            if (number, fold) != skip:
                folder = root / f"fold={fold},split.unseen_fold={number}"
                write_run(folder, table, fold, seed=number, settings={"split": {"unseen_fold": number}}, **run)
    return root


def explain_run(folder: Path, images: int = 12, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Random explanations of a run: maps that lean towards a known lesion, and a sanity test of two stages.

    Args:
        folder: the run folder.
        images: how many, two of each patient.
        seed: of the maps.

    Returns:
        The tables of localisation.csv and sanity.csv.
    """
    rng = np.random.default_rng(seed)
    lesion = np.zeros((16, 16), bool)
    lesion[2:6, 3:9] = True
    heats = 0.3 * lesion + rng.random((images, 16, 16))
    heats /= heats.max((1, 2), keepdims=True)
    ids = [f"image{n}" for n in range(images)]
    lungs = [np.ones((16, 16), bool)] * images
    labels = [CLASSES[n % 3] for n in range(images)]
    localisation = localisation_table(
        heats, [lesion] * images, lungs, ids, [f"p{n // 2}" for n in range(images)], labels
    )
    stages = {stage: rng.random((images, 16, 16)) for stage in ("head", "conv0")}
    sanity = sanity_table(heats, stages, ids)
    (folder / "panels").mkdir(exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / "panels/unseen-Normal.png")
    facts = RunExplanations(method="gradcam", weights="random", freeze=True, panels=("panels/unseen-Normal.png",))
    write_explanations(folder / "explanations", facts, localisation, sanity)
    return localisation, sanity
