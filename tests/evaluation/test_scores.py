"""All numbers of a table against scikit-learn and statsmodels, and what stands in for a bootstrap that degenerates."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.classes import ClassList
from covidnet.base.errors import DataError
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights
from covidnet.evaluation.intervals import f1_interval, wilson
from covidnet.evaluation.metrics import split_metrics
from covidnet.evaluation.predictions import predictions_table
from covidnet.evaluation.ranking import roc_auc
from covidnet.evaluation.results import Estimate, to_json
from covidnet.evaluation.scores import MACRO, point_scores, scored
from tests.evaluation.tables import random_table

COLUMNS = ["p_covid19", "p_normal", "p_pneumonia"]


@pytest.mark.parametrize(("seed", "ties", "per_patient"), [(0, False, 1), (1, True, 1), (2, False, 3), (3, True, 2)])
def test_every_value_equals_scikit_learn(seed: int, ties: bool, per_patient: int) -> None:
    table = random_table(240, seed, ties=ties, per_patient=per_patient)
    scores = scored(table, resamples=200)
    truth, called = table["label"], table["prediction"]
    probabilities = table[COLUMNS].to_numpy(np.float64)
    assert scores.n == 240
    assert scores.patients == table["patient_id"].nunique()
    assert scores.accuracy.value == pytest.approx(accuracy_score(truth, called))
    assert scores.loss == pytest.approx(
        log_loss(truth, probabilities / probabilities.sum(1, keepdims=True), labels=CLASSES.names), abs=1e-6
    )
    assert scores.confusion == confusion_matrix(truth, called, labels=CLASSES.names).tolist()
    _, sensitivity, f1, support = precision_recall_fscore_support(truth, called, labels=CLASSES.names, zero_division=0)
    areas = [roc_auc_score(truth == label, table[column]) for label, column in zip(CLASSES, COLUMNS, strict=True)]
    for n, label in enumerate(CLASSES):
        numbers = scores.classes[label]
        assert numbers.support == support[n]
        assert numbers.sensitivity.value == pytest.approx(sensitivity[n])
        assert numbers.specificity.value == pytest.approx(recall_score(truth != label, called != label))
        assert numbers.f1.value == pytest.approx(f1[n])
        assert numbers.auc.value == pytest.approx(areas[n])
        assert numbers.accuracy.value == pytest.approx(accuracy_score(truth == label, called == label))
    assert scores.macro.sensitivity.value == pytest.approx(recall_score(truth, called, average="macro"))
    specificities = [recall_score(truth != label, called != label) for label in CLASSES]
    assert scores.macro.specificity.value == pytest.approx(np.mean(specificities))
    assert scores.macro.f1.value == pytest.approx(f1_score(truth, called, average="macro"))
    assert scores.macro.auc.value == pytest.approx(np.mean(areas))


def test_intervals_of_proportions_equal_statsmodels() -> None:
    table = random_table(240, 5)
    scores = scored(table, resamples=200)
    for label in CLASSES:
        positive, called = table["label"] == label, table["prediction"] == label
        counts = {
            "sensitivity": (int((positive & called).sum()), int(positive.sum())),
            "specificity": (int((~positive & ~called).sum()), int((~positive).sum())),
            "accuracy": (int((positive == called).sum()), len(table)),
        }
        for name, (hits, n) in counts.items():
            estimate = getattr(scores.classes[label], name)
            assert estimate.method == "wilson"
            assert estimate.ci == pytest.approx(proportion_confint(hits, n, method="wilson"))


def test_bootstrap_intervals_equal_those_of_resampled_tables() -> None:
    """An independent bootstrap, row by row with scikit-learn, gives the same intervals up to chance."""
    table = random_table(300, 6, per_patient=3)
    # Classes of different size: with equal ones the mean sensitivity has the accuracy's interval.
    table = table[(table["label"] != "Normal") | (table.index % 9 < 6)]
    scores = scored(table, resamples=3000)
    rng = np.random.default_rng(11)
    of_patient = [np.flatnonzero(table["patient_id"] == p) for p in table["patient_id"].unique()]
    label, told = (pd.Categorical(table[name], CLASSES).codes for name in ("label", "prediction"))
    drawn: dict[str, list[float]] = {"sensitivity": [], "f1": []}
    for _ in range(300):
        rows = np.concatenate([of_patient[k] for k in rng.integers(0, len(of_patient), len(of_patient))])
        _, recall, f1, _ = precision_recall_fscore_support(label[rows], told[rows], average="macro")
        drawn["sensitivity"].append(recall)
        drawn["f1"].append(f1)
    for name, values in drawn.items():
        estimate = getattr(scores.macro, name)
        assert estimate.method == "bootstrap"
        low, high = np.percentile(values, [2.5, 97.5])
        assert estimate.ci == pytest.approx([low, high], abs=0.15 * (high - low))


def test_analytic_intervals_are_close_to_a_bootstrap_over_patients() -> None:
    table = random_table(300, 6, per_patient=3)
    scores = scored(table, resamples=50)
    codes = cluster_codes(table)
    weights = cluster_weights(codes, 2000, 1)
    right, is_it = (table["label"] == table["prediction"]).to_numpy(), (table["label"] == "Normal").to_numpy()
    normal = weights[:, is_it]
    drawn = {
        "accuracy": weights @ right / weights.sum(1),
        "sensitivity": normal @ right[is_it] / normal.sum(1),
        "auc": roc_auc(table["p_normal"], is_it, weights),
    }
    areas = [roc_auc(table[c], table["label"] == k, weights) for c, k in zip(COLUMNS, CLASSES, strict=True)]
    drawn["macro"] = np.mean(areas, axis=0)
    for estimate, name in (
        (scores.accuracy, "accuracy"),
        (scores.classes["Normal"].sensitivity, "sensitivity"),
        (scores.classes["Normal"].auc, "auc"),
        (scores.macro.auc, "macro"),
    ):
        low, high = np.percentile(drawn[name], [2.5, 97.5])
        assert estimate.ci == pytest.approx([low, high], abs=0.3 * (high - low))


def test_with_equal_classes_equal_metrics_have_equal_intervals() -> None:
    scores = scored(random_table(300, 6, per_patient=2), resamples=50)
    assert scores.macro.sensitivity.value == pytest.approx(scores.accuracy.value)
    assert scores.macro.sensitivity.ci == scores.accuracy.ci
    assert scores.macro.specificity.value == pytest.approx(1 - (1 - scores.accuracy.value) / 2)
    assert scores.macro.specificity.ci == pytest.approx([1 - (1 - end) / 2 for end in scores.accuracy.ci])


def test_a_run_and_a_sweep_have_the_same_intervals() -> None:
    table = random_table(300, 4, per_patient=3)
    scores, run = scored(table, resamples=50), split_metrics(table)
    assert scores.accuracy.ci == run.accuracy_ci
    for label in CLASSES:
        for name in ("sensitivity", "specificity", "f1"):
            assert getattr(scores.classes[label], name).ci == getattr(run.classes[label], f"{name}_ci")


def test_images_of_one_patient_widen_the_interval() -> None:
    alone = random_table(300, 7)
    # Every image three times, for the same patient.
    again = pd.concat([alone.assign(image_id=alone["image_id"] + x) for x in "abc"], ignore_index=True)
    ends = [scored(t, resamples=1000).accuracy.ci for t in (alone, again)]
    widths = [high - low for low, high in ends]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    narrow = scored(again.assign(patient_id=np.nan), resamples=1000).accuracy.ci
    assert narrow[1] - narrow[0] < 0.7 * widths[1]


def perfect(n: int = 52) -> pd.DataFrame:
    labels = [label for label in CLASSES for _ in range(n)]
    scores = 0.9 * np.eye(3)[[CLASSES.index(label) for label in labels]] + 1 / 30
    return predictions_table(
        image_id=[str(k) for k in range(3 * n)], path=["x"] * 3 * n, patient_id=[None] * 3 * n, label=labels,
        split="unseen", fold=10, probabilities=scores / scores.sum(1, keepdims=True),
    )  # fmt: skip


def test_52_of_52_falls_back_to_wilson() -> None:
    scores = scored(perfect(), resamples=200)
    assert to_json(scores.accuracy) == {"value": 1.0, "ci": list(wilson(156, 156) or ()), "method": "wilson"}
    covid = scores.classes["COVID-19"]
    assert covid.sensitivity.ci == pytest.approx(proportion_confint(52, 52, method="wilson"))
    assert to_json(covid.f1) == {
        "value": 1.0,
        "ci": list(f1_interval([True] * 52, range(52)) or ()),
        "method": "wilson",
    }
    assert covid.auc == Estimate(1.0, wilson(52, 52), "wilson")
    assert scores.macro.sensitivity.ci == scores.accuracy.ci
    for name in ("f1", "auc"):
        estimate = getattr(scores.macro, name)
        assert estimate.method == "wilson"
        assert estimate.ci[0] == pytest.approx(np.mean([getattr(scores.classes[c], name).ci[0] for c in CLASSES]))
        assert estimate.ci[1] == 1.0


def test_an_absent_class_has_no_values_and_means_over_the_classes_are_none() -> None:
    scores = scored(random_table(90, 8, labels=("COVID-19", "Normal")), resamples=200)
    gone = scores.classes["Pneumonia"]
    assert gone.support == 0
    assert to_json(gone.sensitivity) == {"value": None, "ci": None, "method": None}
    assert to_json(gone.auc) == {"value": None, "ci": None, "method": None}
    assert scores.macro.sensitivity.value is None
    assert scores.accuracy.value is not None
    json.dumps(to_json(scores), allow_nan=False)


def test_an_empty_table() -> None:
    scores = scored(random_table(30).iloc[:0], resamples=200)
    assert scores.n == scores.patients == 0
    assert to_json(scores.accuracy) == {"value": None, "ci": None, "method": None}
    assert scores.loss is scores.brier is scores.ece is None
    json.dumps(to_json(scores), allow_nan=False)


def test_one_patient_has_the_widest_interval() -> None:
    scores = scored(random_table(30, 9).assign(patient_id="p"), resamples=200)
    assert scores.accuracy.ci == (0.0, 1.0)
    assert scores.macro.f1.ci == (0.0, 1.0)
    assert scores.macro.auc.ci[1] - scores.macro.auc.ci[0] > 0.7


def test_points_are_the_same_without_intervals() -> None:
    table = random_table(120, 10)
    scores, points = scored(table, resamples=200), point_scores(table)
    assert points.accuracy == scores.accuracy.value
    assert points.loss == scores.loss
    for name in MACRO:
        assert getattr(points.macro, name) == getattr(scores.macro, name).value
        for label in CLASSES:
            assert getattr(points.classes[label], name) == getattr(scores.classes[label], name).value


@pytest.mark.parametrize("names", [("Sick", "Healthy"), ("A", "B", "C", "D", "E")])
def test_any_number_of_classes_has_scikit_learn_s_values(names: tuple[str, ...]) -> None:
    classes, rng = ClassList(names), np.random.default_rng(len(names))
    label = rng.choice(names, 200)
    scores = rng.dirichlet(np.ones(len(names)), 200) + 0.5 * (label[:, None] == np.array(names))
    ids = [f"image{n}" for n in range(200)]
    table = predictions_table(
        image_id=ids, patient_id=[f"p{n // 2}" for n in range(200)], label=list(label), classes=classes,
        probabilities=scores / scores.sum(1, keepdims=True),
    )  # fmt: skip
    found = scored(table, resamples=100, classes=classes)
    truth, called = table["label"], table["prediction"]
    assert list(table)[6:-1] == [f"p_{name.lower()}" for name in names]
    assert found.confusion == confusion_matrix(truth, called, labels=list(names)).tolist()
    _, recall, f1, support = precision_recall_fscore_support(truth, called, labels=list(names))
    for at, name in enumerate(names):
        of = found.classes[name]
        assert of.support == support[at]
        assert of.sensitivity.value == pytest.approx(recall[at])
        assert of.f1.value == pytest.approx(f1[at])
        assert of.specificity.value == pytest.approx(recall_score(truth != name, called != name))
        assert of.auc.value == pytest.approx(roc_auc_score(truth == name, table[classes.columns[at]]))
    assert found.macro.sensitivity.value == pytest.approx(recall.mean())
    given = table[list(classes.columns)].to_numpy(np.float64)
    given = (given / given.sum(1, keepdims=True))[:, np.argsort(names)]
    expected = log_loss(truth, given, labels=sorted(names))
    assert found.loss == pytest.approx(expected, abs=1e-6)
    metrics = to_json(split_metrics(table, classes))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, called))
    with pytest.raises(DataError, match="column p_covid19 is missing"):
        split_metrics(table)


def test_a_probability_of_no_class_is_refused() -> None:
    table = random_table(4, 0).assign(p_tb=0.0)
    with pytest.raises(DataError, match="column p_tb is of none of the classes COVID-19, Normal, Pneumonia"):
        split_metrics(table)
