"""Calibration of a sweep before and after each model's own temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import ClassList
from covidnet.data.folds.splits import UNSEEN_FOLD
from covidnet.evaluation.bootstrap import cluster_codes, percentile_interval, resampled_sums
from covidnet.evaluation.calibration import calibration, image_brier
from covidnet.evaluation.metrics import image_losses
from covidnet.evaluation.predictions import predictions_table
from covidnet.evaluation.results import Interval, Measured
from covidnet.evaluation.temperature import fit_temperature, tempered
from covidnet.report.summary import (
    CalibrationChange,
    ScoredCalibration,
    ScoreIntervals,
    SweepCalibration,
    Temperature,
)
from covidnet.sweep.folder import Run

# Counts of each row in each resample, and the number of patients.
Draws = tuple[npt.NDArray[np.intp], int, int]

Images = npt.NDArray[np.float64]


def common_images(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The rows of the images that all tables have, in the order of the first table.

    Args:
        tables: each model's predictions, with each image once.
    """
    by_image = [table.set_index("image_id") for table in tables]
    common = [image_id for image_id in by_image[0].index if all(image_id in table.index for table in by_image[1:])]
    return [table.loc[common].reset_index() for table in by_image]


def averaged(tables: Sequence[pd.DataFrame], classes: ClassList) -> pd.DataFrame:
    """Predictions of the ensemble, the models' mean probabilities, on the unseen fold.

    Args:
        tables: each model's predictions, of the same images in the same order.
        classes: of the sweep.

    Returns:
        A predictions table with split ``unseen`` and fold 10.
    """
    images = tables[0]
    return predictions_table(
        image_id=list(images["image_id"]),
        path=list(images["path"]),
        patient_id=list(images["patient_id"]),
        label=list(images["label"]),
        split="unseen",
        fold=UNSEEN_FOLD,
        probabilities=np.mean([_scores(table, classes) for table in tables], axis=0),
        classes=classes,
    )


def with_temperature(table: pd.DataFrame, temperature: float, classes: ClassList) -> pd.DataFrame:
    """A predictions table after temperature scaling; its predictions do not change.

    Args:
        table: a checked predictions table of one model.
        temperature: T > 0.
        classes: of the sweep.

    Returns:
        The table with float64 probabilities, because rounding could make two of them equal.
    """
    scores = tempered(_scores(table, classes), temperature)
    return table.assign(**{name: scores[:, at] for at, name in enumerate(classes.columns)})


def sweep_calibration(
    runs: Sequence[Run], pooled: pd.DataFrame, unseen: Sequence[pd.DataFrame] | None, *, resamples: int, seed: int
) -> SweepCalibration:
    """Calibration of a sweep before and after temperature scaling.

    Each model's temperature is fitted on its validation images. Intervals are from a bootstrap over patients with fixed
    temperatures.

    Args:
        runs: of the sweep.
        pooled: the test folds of these runs, concatenated.
        unseen: each run's predictions of the unseen fold, of the same images in the same order; None while it is
            locked.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    classes = runs[0].classes
    temperatures = [
        Temperature(run.fold, fit_temperature(rows, run.classes), len(rows))
        for run, rows in ((run, run.rows("val")) for run in runs)
    ]
    before = {"pooled": pooled}
    if unseen is not None:
        before["ensemble_unseen"] = averaged(unseen, classes)
    draws = {key: _draws(table, resamples, seed) for key, table in before.items()}
    scores = {key: _scored(table, draws[key], classes) for key, table in before.items()}
    scaled_scores: dict[str, ScoredCalibration] = {}
    change = changed = None
    values = [t.value for t in temperatures if t.value is not None]
    if len(values) == len(runs):
        pairs = list(zip(runs, values, strict=True))
        after = {
            "pooled": pd.concat([with_temperature(run.rows("test"), t, classes) for run, t in pairs], ignore_index=True)
        }
        if unseen is not None:
            after["ensemble_unseen"] = averaged(
                [with_temperature(rows, t, classes) for rows, t in zip(unseen, values, strict=True)], classes
            )
            changed = int(
                (
                    after["ensemble_unseen"]["prediction"].to_numpy()
                    != before["ensemble_unseen"]["prediction"].to_numpy()
                ).sum()
            )
        scaled_scores = {key: _scored(table, draws[key], classes) for key, table in after.items()}
        change = {
            key: _change((before[key], scores[key].ece), (after[key], scaled_scores[key].ece), draws[key], classes)
            for key in before
        }
    return SweepCalibration(
        pooled=scores["pooled"],
        pooled_calibrated=scaled_scores.get("pooled"),
        ensemble_unseen=scores.get("ensemble_unseen"),
        ensemble_unseen_calibrated=scaled_scores.get("ensemble_unseen"),
        temperatures=temperatures,
        change=change,
        ensemble_changed=changed,
    )


def _scores(table: pd.DataFrame, classes: ClassList) -> Images:
    return table[list(classes.columns)].to_numpy(np.float64)


def _image_scores(table: pd.DataFrame, classes: ClassList) -> dict[str, Images]:
    """The Brier score and the negative log-likelihood of each image."""
    losses = image_losses(_scores(table, classes), list(table["label"]), classes)
    return {"brier": image_brier(table, classes), "loss": losses}


def _draws(table: pd.DataFrame, resamples: int, seed: int) -> Draws:
    return cluster_codes(table), resamples, seed


def _scored(table: pd.DataFrame, draws: Draws, classes: ClassList) -> ScoredCalibration:
    images = _image_scores(table, classes)
    n = len(table)
    return ScoredCalibration(
        **vars(calibration(table, classes=classes)),
        loss=float(images["loss"].mean()) if n else None,
        accuracy=float((table["label"] == table["prediction"]).mean()) if n else None,
        ci=ScoreIntervals(**{name: _interval(values, draws) for name, values in images.items()}),
    )


def _change(
    before: tuple[pd.DataFrame, float | None],
    after: tuple[pd.DataFrame, float | None],
    draws: Draws,
    classes: ClassList,
) -> CalibrationChange:
    """After minus before, of tables and their ECE; paired by image."""
    (old_table, old_ece), (new_table, new_ece) = before, after
    old, new = _image_scores(old_table, classes), _image_scores(new_table, classes)
    changes = {}
    for name in old:
        images = new[name] - old[name]
        changes[name] = Measured(float(images.mean()) if len(images) else None, _interval(images, draws))
    return CalibrationChange(ece=None if old_ece is None or new_ece is None else new_ece - old_ece, **changes)


def _interval(images: Images, draws: Draws) -> Interval | None:
    """The percentile interval of a mean over images."""
    if not len(images):
        return None
    codes, resamples, seed = draws
    sums, counts = resampled_sums(codes, np.column_stack([images, np.ones(len(images))]), resamples, seed).T
    return percentile_interval(sums / counts, len(np.unique(codes)))
