"""The numbers of the study that trained a model, to stand beside those of another data set."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.predictions import read_predictions
from covidnet.external.training_results import study_numbers
from tests.sweeps import split_table, write_run, write_sweep

NUMBERS = {"resamples": 100, "seed": 0, "classes": CLASSES}


def test_of_one_run_they_are_its_test_and_unseen_fold(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", split_table(), 3)
    found = study_numbers([run], [None], **NUMBERS)
    assert [found[part].title for part in ("test", "unseen")] == ["Test fold", "Unseen fold"]
    table = read_predictions(run / "predictions.csv")
    for part in ("test", "unseen"):
        rows, scores = table[table["split"] == part], found[part].scores
        assert scores.n == len(rows)
        assert scores.accuracy.value == pytest.approx(accuracy_score(rows["label"], rows["prediction"]))
        recalls = recall_score(rows["label"], rows["prediction"], labels=list(CLASSES), average=None)
        f1s = f1_score(rows["label"], rows["prediction"], labels=list(CLASSES), average=None)
        for label, recall, f1 in zip(CLASSES, recalls, f1s, strict=True):
            assert scores.classes[label].sensitivity.value == pytest.approx(recall)
            assert scores.classes[label].f1.value == pytest.approx(f1)


def test_of_a_sweep_the_test_folds_are_pooled_and_the_unseen_fold_is_that_of_the_mean(tmp_path: Path) -> None:
    write_sweep(tmp_path, folds=(0, 1, 2))
    found = study_numbers([tmp_path / f"fold={n}" for n in range(3)], [None] * 3, **NUMBERS)
    tables = [read_predictions(tmp_path / f"fold={n}/predictions.csv") for n in range(3)]
    pooled = pd.concat([table[table["split"] == "test"] for table in tables])
    assert found["test"].scores.n == len(pooled)
    assert found["test"].scores.accuracy.value == pytest.approx((pooled["label"] == pooled["prediction"]).mean())
    unseen = [table[table["split"] == "unseen"].set_index("image_id").sort_index() for table in tables]
    mean = sum(table[list(CLASSES.columns)].astype(float) for table in unseen) / 3
    called = mean.to_numpy().argmax(1)
    truth = [CLASSES.index(label) for label in unseen[0]["label"]]
    assert found["unseen"].scores.accuracy.value == pytest.approx(accuracy_score(truth, called))


def test_temperatures_change_the_probabilities_and_not_the_classes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", split_table(), 3)
    cold, warm = (study_numbers([run], [t], **NUMBERS)["test"].scores for t in (1.0, 3.0))
    assert cold.accuracy == warm.accuracy
    assert cold.loss != warm.loss


@pytest.mark.parametrize("fault", ["no predictions", "damaged", "not of one split", "no run folder"])
def test_where_they_are_not_known_there_are_none(tmp_path: Path, fault: str) -> None:
    write_sweep(tmp_path, folds=(0, 1))
    folders = [tmp_path / "fold=0", tmp_path / "fold=1"]
    if fault == "no predictions":
        (tmp_path / "fold=1/predictions.csv").unlink()
    elif fault == "damaged":
        (tmp_path / "fold=1/predictions.csv").write_text("a,b\n1\n")
    elif fault == "not of one split":
        (tmp_path / "fold=1/predictions.csv").write_bytes((tmp_path / "fold=0/predictions.csv").read_bytes())
    else:
        folders = []
    assert study_numbers(folders, [None, None], **NUMBERS) == {}
