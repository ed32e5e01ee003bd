"""What the study that trained a model said of it: the numbers that stand beside those of another data set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from covidnet.base.classes import ClassList
from covidnet.base.errors import CovidnetError
from covidnet.evaluation.scores import scored
from covidnet.report.external.summary import StudyScores
from covidnet.sweep.calibration import averaged, common_images, with_temperature
from covidnet.sweep.folder import run_predictions

log = logging.getLogger(__name__)


def study_numbers(
    folders: Sequence[Path], temperatures: Sequence[float | None], *, resamples: int, seed: int, classes: ClassList
) -> dict[str, StudyScores]:
    """The scores of the models' own test folds and of their unseen fold, from the predictions of their runs.

    Args:
        folders: the run folder of each model.
        temperatures: of each model.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        classes: of the models.

    Returns:
        ``test`` and ``unseen``; empty where a model has no run folder with a predictions.csv. Of several models the
        test folds are pooled, and the unseen fold is that of their mean; it is absent while it is locked.
    """
    if len(folders) != len(temperatures) or not all((folder / "predictions.csv").is_file() for folder in folders):
        return {}
    try:
        tables = [run_predictions(folder, classes) for folder in folders]
        known = [t for t in temperatures if t is not None]
        if len(known) == len(tables):
            tables = [with_temperature(table, t, classes) for table, t in zip(tables, known, strict=True)]
        pooled = pd.concat([table[table["split"] == "test"] for table in tables], ignore_index=True)
        unseen = _unseen(tables, classes)
    except CovidnetError as error:
        log.warning("the study's own numbers are left out: %s", error)
        return {}
    if pooled["image_id"].duplicated().any():
        log.warning("the study's own numbers are left out: its runs are not the folds of one split")
        return {}
    several = len(tables) > 1
    titles = {
        "test": "Test folds, pooled" if several else "Test fold",
        "unseen": "Unseen fold, ensemble" if several else "Unseen fold",
    }
    found = {"test": pooled, "unseen": unseen}
    return {
        part: StudyScores(titles[part], scored(table, resamples=resamples, seed=seed, classes=classes))
        for part, table in found.items()
        if len(table)
    }


def _unseen(tables: Sequence[pd.DataFrame], classes: ClassList) -> pd.DataFrame:
    same = common_images([table[table["split"] == "unseen"] for table in tables])
    return averaged(same, classes) if len(same) > 1 and len(same[0]) else same[0]
