import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.report.paper.tables import table4, table5, table6, table7
from covidnet.report.summary import ALL
from tests.report.conftest import of_content

table4 = of_content(table4)
table5 = of_content(table5)
table6 = of_content(table6)
table7 = of_content(table7)

Summary = dict[str, Any]


def _cell(frame: pd.DataFrame, **where: str) -> dict[str, Any]:
    rows = frame
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, where
    return dict(rows.iloc[0])


def _same(row: dict[str, Any], estimate: dict[str, Any]) -> None:
    assert row["ours"] == estimate["value"]
    assert [row["ci_low"], row["ci_high"]] == estimate["ci"]
    assert row["method"] == estimate["method"]


def test_table_5_holds_each_class_and_all_together(summary: Summary) -> None:
    frame = table5(summary)
    assert len(frame) == 3 * 4 + 5
    for name in CLASSES:
        numbers = summary["pooled"]["classes"][name]
        for metric in ("sensitivity", "specificity", "f1", "auc"):
            row = _cell(frame, **{"class": name, "metric": metric})
            _same(row, numbers[metric])
            assert row["n"] == {"sensitivity": 520, "specificity": 1040}.get(metric, 1560)
            assert row["name"] == "densenet121, fixed copies"
    _same(_cell(frame, **{"class": ALL, "metric": "accuracy"}), summary["pooled"]["accuracy"])
    _same(_cell(frame, **{"class": ALL, "metric": "auc"}), summary["pooled"]["macro"]["auc"])
    assert _cell(frame, **{"class": "COVID-19", "metric": "f1"})["published"] == 0.977
    assert _cell(frame, **{"class": ALL, "metric": "accuracy"})["published"] == 0.946
    assert np.isnan(_cell(frame, **{"class": "Normal", "metric": "auc"})["published"])
    assert _cell(frame, **{"class": "Normal", "metric": "auc"})["source"] is None


def test_table_4_counts_one_fold_where_the_folds_are_equal(summary: Summary) -> None:
    frame = table4(summary)
    assert len(frame) == 15
    row = _cell(frame, **{"class": "Normal", "part": "test"})
    assert (row["published"], row["ours"]) == (52, 52)
    assert _cell(frame, **{"class": "Normal", "part": "train_augmented"})["ours"] == 952
    summary["data"]["per_fold"] = None
    assert _cell(table4(summary), **{"class": "Normal", "part": "test"})["ours"] == 520


def test_table_6_puts_sweeps_in_the_column_of_their_augmentation(summary: Summary, other: Summary) -> None:
    frame = table6([summary, other])
    assert list(frame["augmentation"]) == ["with"] * 3 + ["without"] * 3
    row = _cell(frame, augmentation="without", metric="specificity")
    _same(row, other["pooled"]["macro"]["specificity"])
    assert row["published"] == 0.960
    assert row["name"] == "densenet121, no copies"
    _same(_cell(frame, augmentation="with", metric="accuracy"), summary["pooled"]["accuracy"])
    assert _cell(frame, augmentation="without", metric="accuracy")["published"] == 0.9384


def test_table_6_of_one_sweep_has_the_other_column_published_only(summary: Summary) -> None:
    frame = table6([summary])
    rows = frame[frame["augmentation"] == "without"]
    assert list(rows["published"]) == [0.9384, 0.940, 0.960]
    assert rows[["ours", "ci_low", "ci_high", "n"]].isna().all(axis=None)
    assert list(rows["name"]) == [None] * 3


def test_online_augmentation_is_augmentation_and_an_unknown_one_neither(summary: Summary) -> None:
    summary["augment"] = {"mode": "online"}
    assert _cell(table6([summary]), augmentation="with", metric="accuracy")["ours"] is not None
    summary["augment"] = {}
    frame = table6([summary])
    rows = frame[frame["augmentation"] == "unknown"]
    assert rows["published"].isna().all()
    assert rows["ours"].notna().all()


def test_table_7_has_ours_beside_the_approach_that_it_repeats(summary: Summary, other: Summary) -> None:
    other["model"]["name"] = "cnn"
    frame = table7([summary, other])
    assert list(frame["approach"].unique()) == ["Our approach", "RT-PCR", "CNN", "Narin et al. (ResNet-50)"]
    covid = summary["pooled"]["classes"]["COVID-19"]
    for metric, published in (("accuracy", 0.985), ("sensitivity", 0.977), ("specificity", 0.989)):
        row = _cell(frame, approach="Our approach", metric=metric)
        _same(row, covid[metric])
        assert row["published"] == published
    cnn = _cell(frame, approach="CNN", metric="accuracy")
    _same(cnn, other["pooled"]["classes"]["COVID-19"]["accuracy"])
    assert cnn["published"] == 0.939
    pcr = _cell(frame, approach="RT-PCR", metric="accuracy")
    assert np.isnan(pcr["published"])
    assert np.isnan(pcr["ours"])
    assert _cell(frame, approach="Narin et al. (ResNet-50)", metric="sensitivity")["published"] == 0.911


def test_two_sweeps_of_one_model_both_stand_in_table_7(summary: Summary, other: Summary) -> None:
    frame = table7([summary, other])
    rows = frame[(frame["approach"] == "Our approach") & (frame["metric"] == "accuracy")]
    assert list(rows["name"]) == [summary["name"], other["name"]]


def test_a_model_of_nobody_in_the_paper_has_a_row_of_its_own(summary: Summary) -> None:
    summary["model"]["name"] = "vit"
    row = _cell(table7([summary]), approach="vit", metric="accuracy")
    assert row["ours"] == summary["pooled"]["classes"]["COVID-19"]["accuracy"]["value"]
    assert np.isnan(row["published"])


@pytest.mark.parametrize("draw", [table4, table5, lambda s: table6([s]), lambda s: table7([s])])
def test_a_csv_gives_the_same_values_back(draw: Callable[[Summary], pd.DataFrame], summary: Summary) -> None:
    frame = draw(summary)
    text = frame.to_csv(index=False, lineterminator="\n")
    again = pd.read_csv(io.StringIO(text), float_precision="round_trip")
    assert list(again.columns) == list(frame.columns)
    for column in frame.columns:
        if column in ("published", "ours", "ci_low", "ci_high", "n"):
            expected = frame[column].astype("float64").to_numpy()
            np.testing.assert_array_equal(again[column].astype("float64").to_numpy(), expected)
        else:
            assert again[column].fillna("").tolist() == frame[column].fillna("").tolist()
    assert "nan" not in text.lower()


@pytest.mark.parametrize("draw", [table4, table5, lambda s: table6([s]), lambda s: table7([s])])
def test_what_does_not_exist_is_empty(
    draw: Callable[[Summary], pd.DataFrame], none_everywhere: Summary, summary: Summary
) -> None:
    for hollow in (none_everywhere, {}, {"pooled": None, "data": None}):
        frame = draw(hollow)
        assert len(frame) >= 9
        assert frame["ours"].isna().all()
        assert frame["published"].notna().any()
    assert draw(summary)["ours"].notna().any()
