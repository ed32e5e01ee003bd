from typing import Any

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.report.card.numbers import calibration, numbers, selection
from covidnet.report.rendering.document import Paragraph, Table
from covidnet.report.values import Value
from tests.report.conftest import ends, of_content

calibration = of_content(calibration)
numbers = of_content(numbers)
selection = of_content(selection)

Summary = dict[str, Any]


def test_every_number_has_its_interval(summary: Summary) -> None:
    table = numbers(summary)
    fold = summary["selection"]["fold"]
    assert [column.name for column in table.columns[1:]] == [
        "Test folds, pooled",
        "Unseen fold, ensemble",
        f"Unseen fold, selected model (fold {fold})",
    ]
    rows = {str(row[0]): row[1:] for row in table.rows}
    parts = (summary["pooled"], summary["unseen"]["ensemble"], summary["unseen"]["selected"])
    for at, part in enumerate(parts):
        expected = {"Accuracy": part["accuracy"]}
        for name in CLASSES:
            words = (("sensitivity", "sensitivity"), ("specificity", "specificity"), ("F1", "f1"), ("AUC", "auc"))
            expected |= {f"{name}: {word}": part["classes"][name][key] for word, key in words}
        for title, estimate in expected.items():
            cell = rows[title][at]
            assert isinstance(cell, Value)
            assert (cell.value, cell.interval) == (estimate["value"], ends(estimate))
        images = rows["Images"][at]
        assert isinstance(images, Value)
        assert images.value == part["n"]


def test_few_resamples_are_reported(summary: Summary) -> None:
    assert "2,000 resamples)" in numbers(summary).notes[0]
    summary["bootstrap"]["resamples"] = 500
    assert "500 resamples; too few for a stable interval" in numbers(summary).notes[0]


def test_a_score_that_the_choice_made_is_named_so(summary: Summary) -> None:
    summary["selection"]["rule"] = "paper"
    assert numbers(summary).columns[-1].name.endswith("a selection score")


def test_without_a_selected_model_its_numbers_are_not_available(summary: Summary) -> None:
    summary["selection"]["fold"] = summary["unseen"]["selected"] = None
    assert {row[-1] for row in numbers(summary).rows} == {"not available"}


def test_calibration_has_values_before_and_after(summary: Summary) -> None:
    *_, text, table = calibration(summary)
    assert isinstance(table, Table)
    assert isinstance(text, Paragraph)
    facts = summary["calibration"]
    for row, key in zip(table.rows, ("pooled", "ensemble_unseen"), strict=True):
        values = [cell.value for cell in row[1:] if isinstance(cell, Value)]
        assert values == [
            facts[part][score] for score in ("ece", "brier", "loss") for part in (key, f"{key}_calibrated")
        ]
    assert "for a rarer disease the probability is too high" in text.text
    del summary["calibration"]
    text, table = calibration(summary)
    assert text == Paragraph("Temperature: not available.")
    assert isinstance(table, Table)
    assert {cell for row in table.rows for cell in row[1:]} == {"not available"}


def test_the_optimism_of_selection_is_listed(summary: Summary) -> None:
    facts = dict(selection(summary))
    data, simulated = summary["selection"]["data"], summary["selection"]["simulated"]
    cost = facts["Optimism of selecting the best by the unseen fold"]
    assert f"{100 * data['split_half_optimism']:.1f} points" in cost
    assert f"{100 * simulated['optimism']:.1f} points" in cost
    assert facts["Rule"] == summary["selection"]["label"]
