import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.errors import DataError
from covidnet.evaluation.metrics import (
    ClassMetrics,
    class_metrics,
    confusion,
    cross_entropy,
    run_metrics,
    split_metrics,
)
from covidnet.evaluation.predictions import predictions_table
from covidnet.evaluation.results import to_json

CLASSES = ["COVID-19", "Normal", "Pneumonia"]
P = ["p_covid19", "p_normal", "p_pneumonia"]


def _table(
    n: int = 156,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    called: Sequence[int] = (0, 1, 2),
    split: str = "test",
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = rng.choice(list(classes), n)
    scores = rng.dirichlet([0.6, 0.6, 0.6], n) + 0.4 * (label[:, None] == np.array(CLASSES))
    scores[:, [at for at in range(3) if at not in called]] *= 1e-3
    return predictions_table(
        image_id=[f"{split}{at}" for at in range(n)],
        path=["x"] * n,
        patient_id=[None] * n,
        label=label.tolist(),
        split=split,
        fold=3,
        probabilities=scores / scores.sum(axis=1, keepdims=True),
    )


def _perfect(labels: Sequence[str]) -> pd.DataFrame:
    return predictions_table(
        image_id=[str(at) for at in range(len(labels))],
        path=["x"] * len(labels),
        patient_id=[None] * len(labels),
        label=labels,
        split="test",
        fold=0,
        probabilities=[[float(name == label) for name in CLASSES] for label in labels],
    )


TABLES = {
    **{f"random {seed}": _table(seed=seed, n=10 + 40 * seed) for seed in range(8)},
    "one image": _table(n=1),
    "class absent": _table(classes=["COVID-19", "Pneumonia"]),
    "class never called": _table(called=[0, 2]),
    "class absent and never called": _table(classes=["Normal", "Pneumonia"], called=[1, 2]),
    "one class alone": _table(classes=["Normal"]),
    "one class called": _table(called=[2]),
    "perfect": _perfect(CLASSES * 5),
}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_numbers_equal_scikit_learn_s(table: pd.DataFrame) -> None:
    ours = split_metrics(table)
    truth, called = table["label"].tolist(), table["prediction"].tolist()
    assert ours.n == len(table)
    assert ours.confusion == sk.confusion_matrix(truth, called, labels=CLASSES).tolist()
    assert ours.accuracy == pytest.approx(sk.accuracy_score(truth, called), abs=1e-15)
    scores = table[P].to_numpy(np.float64)
    loss = sk.log_loss(truth, scores / scores.sum(axis=1, keepdims=True), labels=CLASSES)
    assert ours.loss == pytest.approx(loss, abs=1e-6)
    assert list(ours.classes) == CLASSES
    for name in CLASSES:
        is_class, is_called = np.array(truth) == name, np.array(called) == name
        with np.errstate(all="raise"):
            options: dict[str, Any] = {"zero_division": np.nan}
            found = ours.classes[name]
            recall = _or_none(sk.recall_score(is_class, is_called, **options))
            specificity = _or_none(sk.recall_score(~is_class, ~is_called, **options))
            f1 = _or_none(sk.f1_score(is_class, is_called, **options))
        assert found.sensitivity == pytest.approx(recall, abs=1e-15)
        assert found.specificity == pytest.approx(specificity, abs=1e-15)
        assert found.f1 == pytest.approx(f1, abs=1e-15)
        assert found.support == is_class.sum()


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_intervals_are_wilson_s_of_the_right_counts(table: pd.DataFrame) -> None:
    ours = split_metrics(table)
    truth, called = table["label"].to_numpy(), table["prediction"].to_numpy()

    def expected(successes: int, n: int) -> Any:
        # statsmodels is exact at 0 and 1 up to rounding alone.
        return pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12) if n else None

    assert ours.accuracy_ci == expected(int((truth == called).sum()), len(truth))
    for name in CLASSES:
        is_class, is_called = truth == name, called == name
        found = ours.classes[name]
        assert found.sensitivity_ci == expected(int((is_class & is_called).sum()), int(is_class.sum()))
        assert found.specificity_ci == expected(int((~is_class & ~is_called).sum()), int((~is_class).sum()))
        either = int((is_class | is_called).sum())
        if either == 0:
            assert found.f1_ci is None
        else:
            ends = np.array(proportion_confint(int((is_class & is_called).sum()), either, method="wilson"))
            assert found.f1_ci == pytest.approx(2 * ends / (1 + ends), abs=1e-12)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_numbers_are_plain_values_of_the_metrics_file_s_shape(table: pd.DataFrame) -> None:
    ours = run_metrics(table)
    # Strict JSON: NaN and infinity are errors, and numpy numbers are not taken.
    assert json.loads(json.dumps(to_json(ours), allow_nan=False)) == to_json(ours)
    assert list(ours) == ["val", "test", "unseen"]
    for numbers in ours.values():
        assert set(to_json(numbers)) == {"n", "patients", "accuracy", "accuracy_ci", "loss", "confusion", "classes"}
        for found in numbers.classes.values():
            keys = {"sensitivity", "specificity", "f1"}
            assert set(to_json(found)) == keys | {f"{key}_ci" for key in keys} | {"support"}


def class_rows(counts: list[list[int]]) -> dict[str, ClassMetrics]:
    """`class_metrics` of images, each of another patient, that make these counts."""
    pairs = [
        (a, b)
        for a, row in zip(CLASSES, counts, strict=True)
        for b, n in zip(CLASSES, row, strict=True)
        for _ in range(n)
    ]
    return class_metrics([a for a, _ in pairs], [b for _, b in pairs], range(len(pairs)))


def test_a_class_without_images_has_no_sensitivity_and_an_f1_of_0_where_it_is_called() -> None:
    found = class_rows([[0, 0, 0], [2, 8, 0], [0, 0, 5]])["COVID-19"]
    assert (found.support, found.sensitivity, found.sensitivity_ci, found.f1) == (0, None, None, 0.0)


def test_a_class_of_all_images_has_no_specificity() -> None:
    found = class_rows([[9, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert found["COVID-19"].specificity is None
    assert found["COVID-19"].specificity_ci is None
    assert found["Pneumonia"].f1 is None
    assert found["Pneumonia"].f1_ci is None


def test_a_split_without_rows_has_no_values() -> None:
    numbers = run_metrics(_table(split="val"))["unseen"]
    assert numbers.n == 0
    assert numbers.confusion == [[0, 0, 0]] * 3
    assert [getattr(numbers, key) for key in ("accuracy", "accuracy_ci", "loss")] == [None] * 3
    assert numbers.classes["Normal"].sensitivity is None


def test_each_split_is_scored_on_its_own_rows() -> None:
    parts = {split: _table(seed=at, n=30 + at, split=split) for at, split in enumerate(("val", "test", "unseen"))}
    ours = run_metrics(pd.concat(parts.values()).sample(frac=1, random_state=0))
    for split, part in parts.items():
        assert ours[split].n == len(part)
        assert ours[split].accuracy == sk.accuracy_score(part["label"], part["prediction"])


def test_rows_of_several_splits_have_no_common_numbers() -> None:
    with pytest.raises(DataError, match="splits val, test"):
        split_metrics(pd.concat([_table(split="val"), _table(split="test")]))


def test_an_invalid_table_gets_no_numbers() -> None:
    table = _table()
    table.loc[0, "p_normal"] = np.nan
    with pytest.raises(DataError, match=r"row 1 .*p_normal"):
        split_metrics(table)


def test_confusion_has_the_truth_in_rows() -> None:
    assert confusion(["Pneumonia"] * 3, ["Normal"] * 3)[2].tolist() == [0, 3, 0]


def test_confusion_refuses_an_unknown_class_and_different_lengths() -> None:
    with pytest.raises(DataError, match="'TB' is unknown; must be one of COVID-19"):
        confusion(["Normal", "TB"], ["Normal", "Normal"])
    with pytest.raises(DataError, match="1 classes for 2 images"):
        confusion(["Normal", "Normal"], ["Normal"])


def test_loss_of_a_true_class_given_nothing_is_finite_and_of_certainty_is_plain_0() -> None:
    worst = cross_entropy([[0.0, 1.0, 0.0]], ["COVID-19"])
    assert worst == pytest.approx(126 * math.log(2))  # the smallest normal float32 is 2 to the -126
    best = cross_entropy([[1.0, 0.0, 0.0]], ["COVID-19"])
    assert best is not None
    assert math.copysign(1.0, best) == 1.0
    assert best == 0.0


def test_loss_refuses_different_lengths() -> None:
    with pytest.raises(DataError, match="2 classes for 1 rows"):
        cross_entropy([[1.0, 0.0, 0.0]], ["COVID-19", "Normal"])
