"""Classes that are absent or few: no interval is made up, and it is said why."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights
from covidnet.evaluation.metrics import split_metrics
from covidnet.evaluation.predictions import EXTERNAL, predictions_table
from covidnet.evaluation.ranking import class_curves
from covidnet.evaluation.results import to_json
from covidnet.evaluation.scores import scored
from covidnet.evaluation.sparse import (
    MIN_IMAGES,
    MIN_PATIENTS,
    class_sizes,
    curves_without_sparse,
    sparse_notes,
    split_without_sparse,
    without_sparse,
)


def external(counts: tuple[int, int, int], per_patient: int = 1, seed: int = 0) -> pd.DataFrame:
    """Images of each class, some per patient, with predictions that tend to be correct."""
    rng = np.random.default_rng(seed)
    labels = [label for label, n in zip(CLASSES, counts, strict=True) for _ in range(n)]
    logits = rng.normal(size=(len(labels), 3)) + 1.5 * np.eye(3)[[CLASSES.index(label) for label in labels]]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    patients = [
        f"{label}-{n // per_patient}" for label, count in zip(CLASSES, counts, strict=True) for n in range(count)
    ]
    return predictions_table(
        image_id=[f"i{n}" for n in range(len(labels))],
        path=[f"{n}.png" for n in range(len(labels))],
        patient_id=patients,
        label=labels,
        split=EXTERNAL,
        fold=-1,
        probabilities=scores,
    )


def scores_of(table: pd.DataFrame) -> dict:
    return without_sparse(scored(table, resamples=200), table)


def test_enough_of_every_class_changes_nothing() -> None:
    table = external((MIN_IMAGES, 30, 30))
    assert scores_of(table) == scored(table, resamples=200)
    assert sparse_notes(table) == []
    plain = split_metrics(table)
    assert split_without_sparse(plain, table) == plain


@pytest.mark.parametrize(
    ("counts", "per_patient"),
    [((MIN_IMAGES - 1, 30, 30), 1), ((40, 30, 30), 12)],
    ids=["few images", "few patients"],
)
def test_few_images_or_patients_keep_values_but_not_intervals(counts: tuple[int, int, int], per_patient: int) -> None:
    table = external(counts, per_patient)
    if per_patient > 1:  # the other classes have patients enough
        table["patient_id"] = [p if p.startswith("COVID") else f"{p}-{n}" for n, p in enumerate(table["patient_id"])]
        assert class_sizes(table)["COVID-19"].patients < MIN_PATIENTS
    before, after = scored(table, resamples=200), scores_of(table)
    for name in ("sensitivity", "f1", "auc"):
        old, new = (getattr(scores.classes["COVID-19"], name) for scores in (before, after))
        assert new.value == old.value is not None
        assert new.ci is None
        assert new.method is None
        assert getattr(after.classes["Normal"], name) == getattr(before.classes["Normal"], name)
    # There are enough images of other classes.
    assert after.classes["COVID-19"].specificity == before.classes["COVID-19"].specificity
    assert after.accuracy == before.accuracy
    assert after.macro.f1.value == before.macro.f1.value
    assert after.macro.f1.ci is None
    assert before.classes["COVID-19"].sensitivity.ci is not None  # the original is not changed
    [words] = sparse_notes(table)
    assert words.startswith(f"COVID-19 has {counts[0]} images of ")
    split = split_without_sparse(split_metrics(table), table)
    assert split.classes["COVID-19"].sensitivity_ci is None
    assert split.classes["COVID-19"].specificity_ci is not None
    assert split.accuracy_ci is not None


def test_an_absent_class_has_no_metrics_of_its_own() -> None:
    table = external((0, 30, 30))
    found = scores_of(table)
    covid = found.classes["COVID-19"]
    assert (table["prediction"] == "COVID-19").any()  # its F1 would be 0
    for name in ("sensitivity", "f1", "auc"):
        assert to_json(getattr(covid, name)) == {"value": None, "ci": None, "method": None}
    called = (table["prediction"] == "COVID-19").mean()
    assert covid.specificity.value == pytest.approx(1 - called)
    assert covid.specificity.ci is not None
    assert all(estimate.value is None for estimate in vars(found.macro).values())
    assert found.accuracy.ci is not None
    assert "There are no images of COVID-19: COVID-19 has no sensitivity" in sparse_notes(table)[0]
    (note, *_) = sparse_notes(table, {"COVID-19": "all 7 images of COVID-19 were refused"})
    assert note.startswith("All 7 images of COVID-19 were refused: COVID-19 has no")
    json.dumps(to_json(found), allow_nan=False)


def test_a_single_class_has_sensitivity_but_no_specificity() -> None:
    table = external((0, 40, 0))
    normal = scores_of(table).classes["Normal"]
    assert normal.sensitivity.ci is not None
    assert normal.specificity.value is None
    assert normal.auc.value is None
    assert len(sparse_notes(table)) == 2


def test_few_other_images_remove_the_intervals_of_specificity_and_auc() -> None:
    table = external((0, 40, 4))
    normal = scores_of(table).classes["Normal"]
    assert normal.specificity.value is not None
    assert normal.specificity.ci is None
    assert normal.auc.ci is None
    assert normal.sensitivity.ci is not None


def test_very_few_images_have_no_intervals() -> None:
    table = external((1, 2, 1))
    text = json.dumps(to_json(scores_of(table)))
    assert '"ci": [' not in text
    assert split_without_sparse(split_metrics(table), table).accuracy_ci is None
    assert "COVID-19 has 1 image of 1 patient:" in sparse_notes(table)[0]


def test_an_empty_table() -> None:
    table = external((0, 0, 0))
    found = scores_of(table)
    assert found.n == 0
    assert found.accuracy.value is None
    assert len(sparse_notes(table)) == 3


def test_curves_of_few_images_have_no_band() -> None:
    table = external((5, 30, 30))
    curves = class_curves(table, cluster_weights(cluster_codes(table), 100))
    found = curves_without_sparse(curves, table)
    assert found["COVID-19"].roc.low is None
    assert found["COVID-19"].pr.average_precision.ci is None
    assert found["COVID-19"].roc.tpr == curves["COVID-19"].roc.tpr
    assert found["Normal"] == curves["Normal"]
    assert curves["COVID-19"].roc.low is not None
