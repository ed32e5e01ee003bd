from typing import Any

import pytest

from covidnet.report.card.lines import gate, images, lines, network, split, use
from tests.report.conftest import of_content

gate = of_content(gate)
images = of_content(images)
network = of_content(network)
split = of_content(split)

Summary = dict[str, Any]


def test_what_is_known_to_be_none_is_no_gap(summary: Summary) -> None:
    summary["data"]["refused"] = summary["data"]["left_out"] = 0
    values = dict(line.split(": ", 1) for line in lines(images(summary)).items)
    assert values["Files refused"].startswith("0 (")
    assert values["Images left out of the balanced draw"] == "0"
    # No setting and no value are two things.
    assert values["Views asked for (data.view)"] == "all"
    assert dict(images({}))["Views asked for (data.view)"] is None


def test_sources_and_views_are_counted_by_class(summary: Summary) -> None:
    summary["card"]["view"] = {
        "counts": {"PA": {"COVID-19": 3, "Normal": 0}, "AP": {"Normal": 2}}, "unknown": 5,
    }  # fmt: skip
    told = dict(images(summary))
    assert told["Views"] == "PA: 3 COVID-19; AP: 2 Normal; unknown: 5"
    assert told["Sources"] == "phantom: 572 COVID-19, 572 Normal, 572 Pneumonia"


@pytest.mark.parametrize(("freeze", "words"), [(True, "the head alone"), (False, "the whole network"), (None, None)])
def test_what_was_trained_is_told(summary: Summary, freeze: bool | None, words: str | None) -> None:
    summary["model"]["freeze"] = freeze
    told = dict(network(summary))["Trained"]
    assert told is None if words is None else words in told


def test_an_input_that_is_half_known_is_half_told(summary: Summary) -> None:
    summary["card"]["input"] |= {"channels": None, "mean": None, "std": None}
    told = dict(network(summary))
    assert told["Preprocessing"].endswith("normalisation of grey values not available")
    summary["card"]["input"]["fit"] = None
    assert dict(network(summary))["Preprocessing"] is None


def test_images_of_one_model_are_told_with_their_copies(summary: Summary) -> None:
    assert dict(split(summary))["Images that one model was trained on"] == (
        "416 COVID-19 (952 with copies), 416 Normal (952 with copies), 416 Pneumonia (952 with copies)"
    )
    del summary["data"]["classes"]["Normal"]["train"]
    assert dict(split(summary))["Images that one model was trained on"] is None


def test_the_gate_claims_nothing_of_mirrored_images(summary: Summary) -> None:
    told = dict(gate(summary))
    assert "mirrored" in told["Cannot tell"]
    assert "mirrored" not in told["Meant to refuse, with the reason"]
    summary["card"]["gate"] = {"n": 141, "refused": 4}
    assert dict(gate(summary))["Held-out images of the same data that it refused"] == "4 of 141 (2.8%)"


def test_no_decision_about_a_patient_is_an_intended_use() -> None:
    told = dict(use())
    assert "any decision about a patient" in told["Not made for"]
    assert "diagnosis" not in told["Made for"]
