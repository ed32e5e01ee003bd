"""Calibration before and after the temperature, against scikit-learn and the definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, log_loss

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.results import to_json
from covidnet.sweep.calibration import averaged, sweep_calibration, with_temperature
from covidnet.sweep.folder import Run, read_sweep
from tests.sweeps import split_table, write_sweep

COLUMNS = ["p_covid19", "p_normal", "p_pneumonia"]
NUMBERS = {"resamples": 200, "seed": 0}


def sharp(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions that are far too sure: of the fourth power."""
    scores = table[COLUMNS].to_numpy(float) ** 4
    return table.assign(**dict(zip(COLUMNS, (scores / scores.sum(1, keepdims=True)).T, strict=True)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("study") / "sweep"
    return read_sweep(write_sweep(folder, range(3), split_table(per_fold=20), change=sharp)).runs


def told(runs: list[Run], **numbers: int) -> dict:
    pooled = pd.concat([run.rows("test") for run in runs], ignore_index=True)
    unseen = [run.rows("unseen") for run in runs]
    return dict(to_json(sweep_calibration(runs, pooled, unseen, **(NUMBERS | numbers))))


def truth(table: pd.DataFrame) -> np.ndarray:
    return np.array([CLASSES.index(label) for label in table["label"]])


def softened(table: pd.DataFrame, temperature: float) -> np.ndarray:
    """By the definition: the softmax of logits over T."""
    logits = np.log(table[COLUMNS].to_numpy(float)) / temperature
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def reference_temperature(table: pd.DataFrame) -> float:
    labels = truth(table)
    return float(
        minimize_scalar(
            lambda t: log_loss(labels, softened(table, t), labels=[0, 1, 2]), bounds=(0.2, 20.0), method="bounded"
        ).x
    )


def test_each_model_has_the_temperature_of_its_own_validation_images(runs: list[Run]) -> None:
    found = told(runs)["temperatures"]
    assert [(one["fold"], one["n"]) for one in found] == [(0, 60), (1, 60), (2, 60)]
    for run, one in zip(runs, found, strict=True):
        assert one["value"] == pytest.approx(reference_temperature(run.rows("val")), rel=1e-3)
        assert one["value"] > 1.5


def test_log_loss_before_and_after_is_scikit_learns(runs: list[Run]) -> None:
    found = told(runs)
    temperatures = [one["value"] for one in found["temperatures"]]
    tests, unseen = ([run.rows(part) for run in runs] for part in ("test", "unseen"))
    labels = np.concatenate([truth(table) for table in tests])
    hard = [table[COLUMNS].to_numpy(float) for table in tests]
    soft = [softened(table, t) for table, t in zip(tests, temperatures, strict=True)]
    mean_hard = np.mean([table[COLUMNS].to_numpy(float) for table in unseen], axis=0)
    mean_soft = np.mean([softened(table, t) for table, t in zip(unseen, temperatures, strict=True)], axis=0)
    expected = {
        "pooled": (labels, np.concatenate(hard)),
        "pooled_calibrated": (labels, np.concatenate(soft)),
        "ensemble_unseen": (truth(unseen[0]), mean_hard),
        "ensemble_unseen_calibrated": (truth(unseen[0]), mean_soft),
    }
    for key, (true, scores) in expected.items():
        scores = scores / scores.sum(1, keepdims=True)
        assert found[key]["loss"] == pytest.approx(log_loss(true, scores, labels=[0, 1, 2]), abs=1e-5)
        assert found[key]["brier"] == pytest.approx(((scores - np.eye(3)[true]) ** 2).sum(1).mean(), abs=1e-5)
        assert found[key]["accuracy"] == pytest.approx(accuracy_score(true, scores.argmax(1)))
        low, high = found[key]["ci"]["loss"]
        assert low < found[key]["loss"] < high
    # Far too sure before, so better after.
    assert found["pooled_calibrated"]["loss"] < found["pooled"]["loss"]
    assert found["pooled_calibrated"]["ece"] < found["pooled"]["ece"]


def test_a_temperature_never_changes_what_a_single_model_predicts(runs: list[Run]) -> None:
    for temperature in (0.05, 0.5, 3.0, 100.0):
        for run in runs:
            before = run.rows("test")
            after = with_temperature(before, temperature, CLASSES)
            assert list(after["prediction"]) == list(before["prediction"])
            assert [CLASSES[k] for k in after[COLUMNS].to_numpy().argmax(1)] == list(before["prediction"])
    found = told(runs)
    assert found["pooled_calibrated"]["accuracy"] == found["pooled"]["accuracy"]
    alone = told(runs[:1])
    assert alone["ensemble_unseen_calibrated"]["accuracy"] == alone["ensemble_unseen"]["accuracy"]
    assert alone["ensemble_changed"] == 0


def test_an_ensemble_of_tempered_models_may_predict_another_class(runs: list[Run]) -> None:
    images = runs[0].rows("unseen").iloc[:1].assign(label="Normal")
    sure = images.assign(p_covid19=0.80, p_normal=0.15, p_pneumonia=0.05, prediction="COVID-19")
    other = images.assign(p_covid19=0.30, p_normal=0.60, p_pneumonia=0.10, prediction="Normal")
    assert averaged([sure, other], CLASSES)["prediction"].item() == "COVID-19"
    after = [with_temperature(sure, 10.0, CLASSES), with_temperature(other, 0.5, CLASSES)]
    assert averaged(after, CLASSES)["prediction"].item() == "Normal"


def test_the_change_is_paired_image_by_image(runs: list[Run]) -> None:
    found = told(runs, resamples=1000)
    change = found["change"]["pooled"]
    assert change["loss"]["value"] == pytest.approx(found["pooled_calibrated"]["loss"] - found["pooled"]["loss"])
    assert change["ece"] == pytest.approx(found["pooled_calibrated"]["ece"] - found["pooled"]["ece"])
    low, high = change["brier"]["ci"]
    assert low < change["brier"]["value"] < high
    # Patients are drawn whole: the interval of a bootstrap written down anew.
    rng = np.random.default_rng(5)
    images = pd.concat([run.rows("test") for run in runs], ignore_index=True)
    soft = np.concatenate(
        [softened(run.rows("test"), t["value"]) for run, t in zip(runs, found["temperatures"], strict=True)]
    )
    eye = np.eye(3)[truth(images)]
    images["d"] = ((soft - eye) ** 2).sum(1) - ((images[COLUMNS].to_numpy(float) - eye) ** 2).sum(1)
    patients = [group["d"].to_numpy() for _, group in images.groupby("patient_id")]
    drawn = [np.concatenate([patients[k] for k in rng.integers(0, len(patients), len(patients))]) for _ in range(1000)]
    expected = np.percentile([values.mean() for values in drawn], [2.5, 97.5])
    np.testing.assert_allclose([low, high], expected, atol=0.2 * (high - low))


def test_without_validation_images_nothing_comes_after(runs: list[Run]) -> None:
    first = runs[0]
    bare = Run(first.folder, first.fold, first.predictions[first.predictions["split"] != "val"])
    found = told([bare, *runs[1:]])
    assert found["temperatures"][0] == {"fold": 0, "value": None, "n": 0}
    assert found["temperatures"][1]["value"] is not None
    for key in ("pooled_calibrated", "ensemble_unseen_calibrated", "change", "ensemble_changed"):
        assert found[key] is None
    assert found["pooled"]["loss"] == told(runs)["pooled"]["loss"]
