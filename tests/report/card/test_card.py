"""The model card: it says what is known, that the rest is not available, and no path."""

import re
from typing import Any

import pytest

from covidnet.report.card.card import card_document, model_card
from covidnet.report.rendering.document import Bullets
from tests.report.conftest import of_content

card_document = of_content(card_document)
model_card = of_content(model_card)

Summary = dict[str, Any]
HEADINGS = ["Model", "Intended use", "Data", "Split", "Numbers", "Calibration", "Model selection",
            "Input gate", "Limits", "How to run it", "Versions and licence", "About this card"]  # fmt: skip


def test_a_card_has_the_parts_of_mitchell_et_al(summary: Summary) -> None:
    text = model_card(summary)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert text.index("Research use only; not a medical device.") < text.index("## Model")
    assert "https://doi.org/10.1145/3287560.3287596" in text
    for note in summary["notes"]:
        assert text.index(note) < text.index("## Model")


def test_a_card_identifies_model_data_and_split(summary: Summary) -> None:
    text = model_card(summary)
    for value in ("DenseNet121", "c3" * 32, "a1" * 32, "b2" * 32, "6,956,931, of which 3,075", "224 x 224",
                  "2026-05-04", "torch 2.15.0", "MIT", "0123456789abcdef"):  # fmt: skip
        assert value in text
    # A library that was not there has no version.
    assert "onnxruntime" not in text


def test_unknown_facts_are_not_available(none_everywhere: Summary) -> None:
    for hollow in ({}, none_everywhere):
        text = model_card(hollow)
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
        assert "None" not in text
        lines = [line for s in card_document(hollow).sections for b in s.blocks if isinstance(b, Bullets)
                 for line in b.items]  # fmt: skip
        told = dict(line.split(": ", 1) for line in lines if ": " in line)
        for name in ("Architecture", "Parameters", "Patients", "Images of Normal in the folds", "Files refused",
                     "Images of each class in a fold", "Hash of the split (SHA-256)", "Date of training", "Versions",
                     "Seed", "Refused held-out images of the same data", "Rule"):  # fmt: skip
            assert told[name] == "not available"
        cells = re.findall(r"^\| (?:Images|Accuracy|.*: (?:F1|AUC)) \|(.*)\|$", text, re.MULTILINE)
        assert cells
        assert all(cell.strip() == "not available" for row in cells for cell in row.split("|"))


def test_no_path_of_the_machine_is_in_a_card(summary: Summary) -> None:
    summary["folder"] = "/home/anna/sweeps/one"
    summary["model"]["weights"] = "/home/anna/weights/chexnet.pt"
    summary["problems"] = ["fold 7: run it with hydra.run.dir='/home/anna/sweeps/one/fold=7'"]
    text = model_card(summary)
    assert "/home" not in text
    assert "chexnet.pt" in text
    assert "The report names 1 problem of the runs" in text


def test_the_card_of_one_model_is_not_that_of_ten(one_fold: Summary, summary: Summary) -> None:
    one, ten = model_card(one_fold), model_card(summary)
    assert "This card is of one model" in one
    assert "the model of fold 0" in one
    assert "ensemble" not in one.lower()
    assert "there is only one model" in one
    assert "10 models, one for each fold" in ten
    assert "Unseen fold, ensemble" in ten


def test_a_sweep_that_is_not_whole_says_so(summary: Summary) -> None:
    assert "folds finished" not in model_card(summary)
    summary["folds"] = list(range(7))
    assert "7 of 10 folds finished" in model_card(summary)


@pytest.mark.parametrize("name", ["# x", "a|b", "<b>", "a\n\n## Model"])
def test_a_name_cannot_change_the_card(summary: Summary, name: str) -> None:
    summary["data"]["name"] = summary["name"] = name
    text = model_card(summary)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert "<b>" not in text


def test_the_same_summary_gives_the_same_card(summary: Summary) -> None:
    assert model_card(summary) == model_card(summary)
