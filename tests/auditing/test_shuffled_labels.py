"""Labels that have nothing to do with the images are found; p values of nothing are uniform."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from covidnet.auditing.closed_form import patient_folds, ridge_classes
from covidnet.auditing.shuffled_labels import exchanged, p_value, shuffled_labels
from covidnet.auditing.study import NotPossibleError, Study
from tests.auditing.conftest import altered, stored
from tests.sweeps import split_table, write_sweep


def test_clean_phantoms_and_a_clean_sweep_are_silent(clean: Study) -> None:
    answer = shuffled_labels(clean)
    assert not answer.findings
    table = answer.tables["shuffled_labels"]
    assert table["accuracy_of"].iloc[1].startswith("thumbnails of 16x16 pixels (the feature store lacks the images)")
    assert answer.notes[0].startswith("Not possible: the unseen fold, by the ensemble; 3 patients have another with")
    assert table["p"].iloc[0] == 1 / 2001
    pooled = [run.rows("test") for run in clean.sweep.runs]
    right = np.concatenate([table["label"] == table["prediction"] for table in pooled])
    assert table["accuracy"].iloc[0] == pytest.approx(right.mean())


def test_a_sweep_that_learned_nothing_is_found(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", skill=0.0)
    answer = shuffled_labels(Study(None, sweep_dir=folder, why_no_images="gone"))
    first = answer.findings[0]
    assert first.level == "blocks"
    assert first.what.startswith("The accuracy on the test folds is no better than with labels exchanged between")
    assert first.interval[0] < 1 / 3 < first.interval[1]
    assert answer.notes[0] == "Not possible: the images; the images cannot be read: gone."
    assert list(answer.tables["shuffled_labels"]["accuracy_of"]) == ["test folds", "unseen fold, by the ensemble"]


def test_labels_exchanged_behind_the_back_of_good_features_are_found(clean: Study, tmp_path: Path) -> None:
    good = stored(replace(clean, sweep_dir=None), tmp_path, skill=2.0)
    answer = shuffled_labels(good)
    assert not answer.findings
    assert answer.tables["shuffled_labels"]["accuracy_of"].iloc[0].startswith("stored features of tiny, ridge regr")
    assert answer.tables["shuffled_labels"]["p"].iloc[0] == 1 / 201
    labels = good.images["label"].to_numpy(str)
    codes = np.unique(labels, return_inverse=True)[1]
    wrong = np.unique(labels)[exchanged(codes, good.patients, 1, 3)[:, 0]]
    (found,) = shuffled_labels(altered(good, label=wrong)).findings
    assert found.level == "weakens"
    assert "predicts the class no better than with labels exchanged" in found.what
    # What a sweep has learned is in the images: the store of its backbone is not.
    (found,) = shuffled_labels(replace(altered(good, label=wrong), sweep_dir=clean.sweep_dir)).findings
    assert found.level == "information"


def test_of_several_stores_that_of_the_sweep_is_taken(clean: Study, tmp_path: Path) -> None:
    file = next(Path(clean.sweep_dir).glob("*/environment.json"))
    assert '"weights_sha256": "' + "b" * 64 in file.read_text()
    stored(clean, tmp_path, 1.0, "b" * 64)
    newest = stored(clean, tmp_path, 9.0)
    of_sweep = newest.inputs.features
    assert of_sweep.max() < 6
    assert replace(newest, sweep_dir=None).inputs.features.max() > 8
    (tmp_path / "features/damaged").mkdir()
    (tmp_path / "features/damaged/store.json").write_text("{")
    assert (replace(newest).inputs.features == of_sweep).all()


def test_labels_stay_together_and_go_to_patients_with_as_many_images() -> None:
    patients = np.array([0] * 3 + [1] * 2 + [2] * 2 + list(range(3, 15)))
    labels = np.array([0, 1, 2, 1, 1, 0, 2] + [0, 1, 2] * 4)
    drawn = exchanged(labels, patients, 50, 0)
    assert (drawn[:3] == labels[:3, None]).all()
    assert {tuple(pair) for pair in drawn[3:5].T.tolist()} == {(1, 1), (0, 2)}
    assert all(Counter(column) == Counter(labels.tolist()) for column in drawn.T.tolist())
    with pytest.raises(NotPossibleError, match="2 patients have another with as many images and other labels, at lea"):
        exchanged(labels[:7], patients[:7], 5, 0)


def test_p_values_of_nothing_are_uniform() -> None:
    rng, found = np.random.default_rng(1), []
    patients = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    for seed in range(60):
        labels, told = rng.integers(0, 3, 60)[patients], rng.integers(0, 3, 60)[patients]
        null = (exchanged(labels, patients, 99, seed) == told[:, None]).mean(0)
        found.append(p_value((labels == told).mean(), null))
    assert min(found) >= 0.01
    # Accuracies are discrete, so that p values of nothing may be larger than uniform ones, never smaller.
    assert stats.kstest(found, "uniform", alternative="greater").pvalue > 0.01


def test_ridge_regression_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, (90, 2), p=[0.6, 0.3, 0.1])
    fit = rng.normal(size=(90, 5)).astype(np.float32) + labels[:, :1]
    test = rng.normal(1, 2, size=(40, 5)).astype(np.float32)
    scaler = StandardScaler().fit(fit)
    expected = []
    for column in labels.T:
        target = (column[:, None] == np.arange(3)) / np.bincount(column, minlength=3) * len(column)
        model = Ridge(alpha=5.0).fit(scaler.transform(fit), target)  # a penalty of 1 for inputs of length 1
        expected.append(model.predict(scaler.transform(test)).argmax(1))
    assert (ridge_classes(fit, labels, test, 3) == np.stack(expected, 1)).all()
    assert set(ridge_classes(fit, labels, test, 4).ravel()) <= {0, 1, 2}


def test_folds_keep_patients_together_and_need_ten() -> None:
    patients = np.repeat(np.arange(12), 2)
    for fit, test in patient_folds(patients, 0):
        assert not set(patients[fit]) & set(patients[test])
    with pytest.raises(NotPossibleError, match="there are images of 1 patient, at least 10 are needed"):
        list(patient_folds(np.zeros(5, int), 0))


def test_what_cannot_be_tested_is_said(clean: Study, tmp_path: Path) -> None:
    alone = replace(clean, sweep_dir=None)
    with pytest.raises(NotPossibleError, match=r"there is no sweep; .*; all images are of one class"):
        shuffled_labels(altered(alone, label="Normal"))
    few = write_sweep(tmp_path / "sweep", folds=[0], split=split_table(per_fold=2))
    with pytest.raises(NotPossibleError, match="patients have another with as many images"):
        shuffled_labels(Study(None, sweep_dir=few, why_no_images="gone"))
