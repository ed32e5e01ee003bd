from typing import Any

import pytest

from covidnet.report.card.lines import gate, images, lines, network, split, use
from tests.report.conftest import of_content

gate = of_content(gate)
images = of_content(images)
network = of_content(network)
split = of_content(split)
use = of_content(use)

Summary = dict[str, Any]


def test_a_known_none_is_not_unknown(summary: Summary) -> None:
    summary["data"]["refused"] = summary["data"]["left_out"] = 0
    values = dict(line.split(": ", 1) for line in lines(images(summary)).items)
    assert values["Files refused"].startswith("0 (")
    assert values["Images left out to balance the classes"] == "0"
    # No setting and no value are two things.
    assert values["Selected views (data.view)"] == "all"
    assert dict(images({}))["Selected views (data.view)"] is None


def test_folds_are_of_equal_size_only_where_they_are(summary: Summary) -> None:
    assert summary["data"]["images"] == 33 * summary["data"]["per_fold"]
    assert dict(split(summary))["Folds"].startswith("11 of equal size: 10 test folds")
    # A published test set as the unseen fold.
    summary["data"]["images"] += 5
    assert dict(split(summary))["Folds"].startswith("10 test folds")
    summary["data"]["per_fold"] = None
    facts = dict(split(summary))
    assert facts["Folds"].startswith("10 test folds")
    assert facts["Images of each class in a fold"] == "not equal: COVID-19 33.3%, Normal 33.3%, Pneumonia 33.3%"


def test_sources_and_views_are_counted_by_class(summary: Summary) -> None:
    summary["card"]["view"] = {
        "counts": {"PA": {"COVID-19": 3, "Normal": 0}, "AP": {"Normal": 2}}, "unknown": 5,
    }  # fmt: skip
    facts = dict(images(summary))
    assert facts["Views"] == "PA: 3 COVID-19; AP: 2 Normal; unknown: 5"
    assert facts["Sources"] == "phantom: 572 COVID-19, 572 Normal, 572 Pneumonia"


@pytest.mark.parametrize(("freeze", "words"), [(True, "the head;"), (False, "the whole network"), (None, None)])
def test_the_trained_part_is_listed(summary: Summary, freeze: bool | None, words: str | None) -> None:
    summary["model"]["freeze"] = freeze
    facts = dict(network(summary))["Trained"]
    assert facts is None if words is None else words in facts


def test_a_partly_known_input_is_partly_listed(summary: Summary) -> None:
    summary["card"]["input"] |= {"channels": None, "mean": None, "std": None}
    facts = dict(network(summary))
    assert facts["Preprocessing"].endswith("normalisation of grey values not available")
    summary["card"]["input"]["fit"] = None
    assert dict(network(summary))["Preprocessing"] is None


def test_training_images_are_listed_with_their_copies(summary: Summary) -> None:
    assert dict(split(summary))["Training images of one model"] == (
        "416 COVID-19 (952 with copies), 416 Normal (952 with copies), 416 Pneumonia (952 with copies)"
    )
    del summary["data"]["classes"]["Normal"]["train"]
    assert dict(split(summary))["Training images of one model"] is None


def test_the_gate_does_not_claim_to_detect_mirrored_images(summary: Summary) -> None:
    facts = dict(gate(summary))
    assert "mirrored" in facts["Cannot detect"]
    assert "mirrored" not in facts["Refuses, with the cause"]
    summary["card"]["gate"] = {"n": 141, "refused": 4}
    assert dict(gate(summary))["Refused held-out images of the same data"] == "4 of 141 (2.8%)"


def test_no_decision_about_a_patient_is_an_intended_use(summary: Summary) -> None:
    facts = dict(use(summary))
    assert "other than the three classes" in facts["Not intended for"]
    assert "any decision about a patient" in facts["Not intended for"]
    assert "diagnosis" not in facts["Intended for"]
