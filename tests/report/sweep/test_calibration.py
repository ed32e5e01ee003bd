"""The section on calibration: before and after, good or bad, and old summaries."""

from typing import Any

import pytest

from covidnet.report.rendering.document import Bullets, Figure, Paragraph, Table
from covidnet.report.sweep.calibration import calibration, calibration_table, change_words, temperature_words
from covidnet.report.values import Value
from tests.report.conftest import of_content

calibration = of_content(calibration)
calibration_table = of_content(calibration_table)
change_words = of_content(change_words)
temperature_words = of_content(temperature_words)

Summary = dict[str, Any]


def _words(summary: Summary) -> str:
    blocks = calibration(summary).blocks
    texts = [block.text for block in blocks if isinstance(block, Paragraph)]
    return " ".join([*texts, *(line for block in blocks if isinstance(block, Bullets) for line in block.items)])


def _old(summary: Summary) -> Summary:
    kept = {
        key: {name: summary["calibration"][key][name] for name in ("ece", "brier", "bins")}
        for key in ("pooled", "ensemble_unseen")
    }
    return summary | {"calibration": kept}


def _change(summary: Summary, loss: list[float], brier: list[float]) -> None:
    for part in summary["calibration"]["change"].values():
        part["loss"] = {"value": sum(loss) / 2, "ci": loss}
        part["brier"] = {"value": sum(brier) / 2, "ci": brier}


def test_the_table_has_before_after_and_the_difference(summary: Summary) -> None:
    table = calibration_table(summary)
    told = summary["calibration"]
    assert [str(row[0]).split(": ")[1] for row in table.rows] == ["before", "after", "after minus before"] * 2
    for at, key in ((0, "pooled"), (3, "ensemble_unseen")):
        for row, part in ((table.rows[at], told[key]), (table.rows[at + 1], told[f"{key}_calibrated"])):
            cells = [cell for cell in row if isinstance(cell, Value)]
            assert [cell.value for cell in cells] == [part[name] for name in ("accuracy", "ece", "brier", "loss")]
            assert [cell.interval for cell in cells] == [
                None,
                None,
                tuple(part["ci"]["brier"]),
                tuple(part["ci"]["loss"]),
            ]
        change = told["change"][key]
        cells = [cell for cell in table.rows[at + 2] if isinstance(cell, Value)]
        assert [cell.value for cell in cells] == [change["ece"], change["brier"]["value"], change["loss"]["value"]]


def test_the_figure_distinguishes_before_and_after(summary: Summary) -> None:
    (figure,) = [block for block in calibration(summary).blocks if isinstance(block, Figure)]
    told = summary["calibration"]
    for key in ("pooled", "pooled_calibrated", "ensemble_unseen", "ensemble_unseen_calibrated"):
        assert f"ECE {told[key]['ece']:.3f}" in figure.alt
    assert len(figure.instead) == 4
    assert "after temperature scaling" in figure.caption


def test_temperatures_are_told_fold_by_fold(summary: Summary) -> None:
    table = [block for block in calibration(summary).blocks if isinstance(block, Table)][-1]
    assert [column.name for column in table.columns[1:]] == [str(fold) for fold in range(10)]
    values = [cell.value for cell in table.rows[0] if isinstance(cell, Value)]
    assert values == [one["value"] for one in summary["calibration"]["temperatures"]]
    assert "between 1.100 and 1.550" in _words(summary)


@pytest.mark.parametrize(
    ("loss", "brier", "words"),
    [
        ([0.01, 0.03], [0.002, 0.004], "temperature scaling made the log loss and the Brier score worse"),
        ([-0.03, -0.01], [-0.004, -0.002], "temperature scaling made the log loss and the Brier score better"),
        ([-0.03, -0.01], [0.002, 0.004], "made the Brier score worse; temperature scaling made the log loss better"),
        ([-0.01, 0.03], [-0.004, 0.002], "the log loss and the Brier score changed no more than by chance."),
        ([0.0, 0.0], [0.002, 0.004], "made the Brier score worse; the log loss changed no more than by chance."),
    ],
)
def test_worse_is_called_worse(summary: Summary, loss: list[float], brier: list[float], words: str) -> None:
    _change(summary, loss, brier)
    assert words in change_words(summary)[0]


def test_changed_predictions_of_the_ensemble_are_reported(summary: Summary) -> None:
    summary["calibration"]["ensemble_changed"] = 2
    summary["calibration"]["ensemble_unseen"]["accuracy"] = 0.75
    summary["calibration"]["ensemble_unseen_calibrated"]["accuracy"] = 0.722
    assert "its prediction changes for 2 of the images, and its accuracy is 75.0% before and 72.2% after" in _words(
        summary
    )
    summary["calibration"]["ensemble_changed"] = 0
    assert "its prediction changes for none of the images." in _words(summary)


def test_one_model_has_no_ensemble(one_fold: Summary) -> None:
    words = _words(one_fold)
    assert "ensemble" not in words.lower()
    assert "It is 1.100." in words
    assert words.count("Test fold:") == 1


def test_a_temperature_from_the_test_fold_is_called_optimistic(summary: Summary) -> None:
    assert "optimistic" not in _words(summary)
    summary["data"]["validation"] = "test"
    assert "fitted on its test fold" in _words(summary)
    assert "after temperature scaling are optimistic" in _words(summary)


def test_runs_without_validation_images_are_named(summary: Summary) -> None:
    told = summary["calibration"]
    told["temperatures"][3]["value"] = None
    told |= {"pooled_calibrated": None, "ensemble_unseen_calibrated": None, "change": None, "ensemble_changed": None}
    assert "1 run of 10 had no validation images" in _words(summary)
    assert len(calibration_table(summary).rows) == 2
    for one in told["temperatures"]:
        one["value"] = None
    assert "No temperature was fitted" in _words(summary)


def test_an_old_summary_is_reported_as_before(summary: Summary) -> None:
    old = _old(summary)
    assert temperature_words(old) == change_words(old) == []
    section = calibration(old)
    assert [type(block) for block in section.blocks] == [Figure, Table]
    rows = calibration_table(old).rows
    assert [row[0] for row in rows] == ["Test folds, pooled", "Unseen fold, ensemble"]
    # An old summary has no log loss.
    assert isinstance(rows[0][-1], Value)
    assert rows[0][-1].value is None
    assert calibration({}).blocks
