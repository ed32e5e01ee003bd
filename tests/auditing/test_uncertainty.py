"""Prediction sets against crepes; a shifted test fold and confidence that says nothing are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from crepes import ConformalClassifier
from crepes.extras import hinge

from covidnet.auditing.study import NotPossibleError, Study
from covidnet.auditing.uncertainty import COVERAGE, conformal_thresholds, uncertainty
from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.evaluation.ranking import roc_auc
from tests.sweeps import random_probabilities, split_table, write_sweep

COLUMNS = list(DEFAULT_CLASSES.columns)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("uncertainty") / "sweep"
    return Study(None, sweep_dir=write_sweep(folder, split=split_table(per_fold=24), skill=2.0))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_are_those_of_crepes(coverage: float) -> None:
    rng = np.random.default_rng(0)
    names = np.array(DEFAULT_CLASSES)
    labels, new = rng.integers(0, 3, 150), rng.integers(0, 3, 60)
    known, asked = (random_probabilities(names[rows], 1.5, rng) for rows in (labels, new))
    thresholds = conformal_thresholds(known, labels, coverage)
    model = ConformalClassifier().fit(hinge(known, np.arange(3), labels), bins=labels)
    bins = np.tile(np.arange(3), (60, 1))
    p = np.stack(
        [model.predict_p(hinge(asked)[:, [one]], bins[:, one], smoothing=False)[:, 0] for one in range(3)], axis=1
    )
    assert ((asked >= thresholds) == (p > 1 - coverage + 1e-12)).all()


def test_too_few_images_promise_nothing() -> None:
    scores = np.tile([0.5, 0.5], (8, 1))
    assert conformal_thresholds(scores, np.zeros(8, int), 0.9).tolist() == [-np.inf, -np.inf]
    assert conformal_thresholds(np.tile([0.5, 0.5], (9, 1)), np.zeros(9, int), 0.9)[0] == 0.5


def test_a_clean_sweep_is_silent_and_covers_what_it_promises(study: Study) -> None:
    answer = uncertainty(study)
    assert not answer.findings
    table = answer.tables["prediction_sets"].set_index(["part", "class"])
    assert len(table) == 8
    assert (table["high"] > COVERAGE).all()
    run = study.sweep.runs[0]
    val, test = run.rows("val"), run.rows("test")
    least = conformal_thresholds(val[COLUMNS].to_numpy(), np.array([*map(DEFAULT_CLASSES.index, val["label"])]), 0.9)
    alone = uncertainty(Study(None, sweep_dir=run.folder)).tables["prediction_sets"].set_index(["part", "class"])
    sizes = (test[COLUMNS].to_numpy() >= least).sum(1)
    assert alone.loc[("test", "all"), "mean_size"] == pytest.approx(sizes.mean())
    assert alone.loc[("test", "all"), "single"] == pytest.approx((sizes == 1).mean())
    curve = answer.tables["abstention"]
    assert curve["accuracy"].is_monotonic_increasing
    assert curve["errors"].is_monotonic_decreasing
    assert curve["answered_share"].to_numpy() == pytest.approx(curve["wanted_share"].to_numpy(), abs=0.05)
    pooled = pd.concat([run.rows("test") for run in study.sweep.runs])
    area = roc_auc(pooled[COLUMNS].max(axis=1), pooled["label"] == pooled["prediction"])
    assert f"above a wrong one with probability {area:.2f}." in answer.notes[1]


def changed(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], skill: float = 2.0, **more: object
) -> Study:
    folder = write_sweep(tmp_path / "sweep", split=split_table(per_fold=24), skill=skill, change=change, **more)
    return Study(None, sweep_dir=folder)


def test_images_unlike_the_validation_images_are_found(tmp_path: Path) -> None:
    def shift(table: pd.DataFrame) -> pd.DataFrame:
        rng = np.random.default_rng(len(table))
        rows = (table["split"] == "unseen") & (table["label"] == "Normal")
        table.loc[rows, COLUMNS] = random_probabilities(table.loc[rows, "label"], 0.5, rng).astype(np.float32)
        table["prediction"] = np.array(DEFAULT_CLASSES)[table[COLUMNS].to_numpy(float).argmax(1)]
        return table

    (found,) = uncertainty(changed(tmp_path, shift)).findings
    assert found.level == "weakens"
    assert (
        found.what == "Prediction sets made for a coverage of 90% hold the true class of fewer unseen images of Normal."
    )
    assert found.interval[1] < 0.88


def test_confidence_that_says_nothing_is_found(tmp_path: Path) -> None:
    def blind(table: pd.DataFrame) -> pd.DataFrame:
        """The same predictions, with confidences that are drawn at random."""
        rng = np.random.default_rng(len(table))
        sure = rng.uniform(0.5, 1, len(table))
        for name, column in zip(DEFAULT_CLASSES, COLUMNS, strict=True):
            table[column] = np.where(table["prediction"] == name, sure, (1 - sure) / 2)
        return table

    (found,) = uncertainty(changed(tmp_path, blind)).findings
    assert found.level == "weakens"
    assert found.what.startswith("The models are hardly surer where they are right")
    assert found.interval[0] < 0.5 < found.interval[1]


def test_what_cannot_be_verified_is_said(clean: Study, tmp_path: Path) -> None:
    answer = uncertainty(clean)
    assert not answer.findings
    assert answer.notes[0].startswith(
        "Not possible: prediction sets; fold 0 has 3 validation images of COVID-19, 9 are"
    )
    assert "10 right and 10 wrong predictions are needed" in answer.notes[1]

    def same(table: pd.DataFrame) -> pd.DataFrame:
        test = table[table["split"] == "test"]
        return pd.concat([table[table["split"] != "val"], test.assign(split="val")], ignore_index=True)

    answer = uncertainty(changed(tmp_path, same, folds=[0]))
    assert answer.notes[0] == "Not possible: prediction sets; validation images are test images."
    assert "from the test images themselves" in answer.notes[1]
    with pytest.raises(NotPossibleError, match="there is no sweep"):
        uncertainty(Study(None))
