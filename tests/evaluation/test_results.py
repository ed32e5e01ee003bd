"""Results on their way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from covidnet.base.errors import DataError
from covidnet.evaluation.metrics import SplitMetrics, split_metrics
from covidnet.evaluation.results import Estimate, Interval, empty, from_json, to_json
from covidnet.evaluation.scores import Metric, PointScores, Rates, Scores, SplitScores, scored
from tests.evaluation.tables import random_table


@dataclass(frozen=True)
class Part:
    images: int | None = field(metadata={"key": "films"})
    note: str | None = field(metadata={"omit_none": True})
    estimate: Estimate
    others: dict[str, Estimate]
    ends: list[Interval]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(to_json(value), allow_nan=False))


def test_writing_and_reading_keeps_a_result() -> None:
    table = random_table(60, 3)
    for result in (scored(table, resamples=50), split_metrics(table)):
        again = from_json(type(result), through_json(result))
        assert again == result
        assert through_json(again) == through_json(result)


def test_keys_are_those_of_the_file() -> None:
    part = Part(3, None, Estimate(0.5, (0.4, 0.6), "wilson"), {}, [(0.0, 1.0)])
    assert to_json(part) == {
        "films": 3,
        "estimate": {"value": 0.5, "ci": [0.4, 0.6], "method": "wilson"},
        "others": {},
        "ends": [[0.0, 1.0]],
    }
    assert from_json(Part, through_json(part)) == part


@pytest.mark.parametrize("content", [{}, {"films": None, "estimate": None, "others": None, "ends": None, "new": 1}])
def test_missing_and_unknown_keys_are_not_errors(content: dict[str, Any]) -> None:
    part = from_json(Part, content)
    assert part == Part(None, None, Estimate(None, None, None), {}, [])
    assert part.others["absent"] == Estimate(None, None, None)
    assert "absent" not in part.others


def test_an_empty_result_has_no_values() -> None:
    nothing = empty(SplitScores)
    assert nothing.classes["Normal"].f1.value is nothing.macro.auc.ci is nothing.n is None
    assert empty(PointScores).classes["Normal"].sensitivity is None


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([], "the content"),
        ({"films": "3"}, "films"),
        ({"films": True}, "films"),
        ({"films": 3.5}, "films"),
        ({"estimate": {"value": "high"}}, "estimate.value"),
        ({"others": {"a": {"ci": [0.1]}}}, "others.a.ci"),
        ({"ends": [[0.1, None]]}, r"ends\[0\]\[1\]"),
        ({"ends": 4}, "ends"),
    ],
)
def test_a_damaged_file_raises_and_names_the_place(content: Any, place: str) -> None:
    with pytest.raises(DataError, match=rf"^summary\.json: {place} .*; the file is damaged$"):
        from_json(Part, content, "summary.json")


def test_a_required_value_must_be_present() -> None:
    with pytest.raises(DataError, match=r"^metrics\.json: n is None"):
        from_json(SplitMetrics, {}, "metrics.json")


def test_metrics_are_the_fields_of_scores() -> None:
    names = [one.name for one in fields(Scores)]
    assert names == [one.name for one in fields(Rates)] == list(Metric.__args__)
    scores = scored(random_table(60, 3), resamples=50).macro
    assert [scores.of(name) for name in Metric.__args__] == [getattr(scores, name) for name in names]
