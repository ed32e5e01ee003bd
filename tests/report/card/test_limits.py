from typing import Any

from covidnet.report.card.limits import limits
from tests.report.conftest import of_content

limits = of_content(limits)

Summary = dict[str, Any]


def _of(summary: Summary, word: str) -> str:
    (line,) = [line for line in limits(summary) if f"the {word}" in line.lower() or f"same {word}" in line]
    return line


def test_a_source_that_predicts_the_class_is_reported_as_confounded(summary: Summary) -> None:
    summary["card"]["source"] = {
        "counts": {"a": {"COVID-19": 90}, "b": {"Normal": 60, "Pneumonia": 60}}, "unknown": 0, "n": 210,
        "share": 150 / 210, "base": 90 / 210,
    }  # fmt: skip
    line = _of(summary, "source")
    assert "71.4% of them (210 images" in line
    assert "42.9%" in line
    assert "confounded" in line
    summary["card"]["source"]["share"] = 95 / 210
    assert "says little about the class" in _of(summary, "source")


def test_a_single_source_is_reported(summary: Summary) -> None:
    assert "All images have the same source" in _of(summary, "source")


def test_an_unknown_source_is_reported(summary: Summary) -> None:
    assert "not available. The model may have learned how the image was taken" in _of(summary, "view")
    assert len(limits({})) == len(limits(summary))


def test_external_validation_is_never_claimed(summary: Summary) -> None:
    assert any(line.startswith("No external validation") for line in limits(summary))


def test_problems_of_other_folds_do_not_concern_one_model(summary: Summary) -> None:
    summary["problems"] = ["folds 1 to 9: no finished run", "x"]
    assert limits(summary)[0] == "The report names 2 problems of the runs."
    summary["folds"] = [0]
    assert "problem" not in limits(summary)[0]
