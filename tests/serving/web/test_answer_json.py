"""An answer as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from covidnet.base.caveats import Caveat
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.loading.transforms import SquareFit
from covidnet.data.reading.images import ImageFacts
from covidnet.gate.flags import Flag
from covidnet.serving.answers import ImageAnswer
from covidnet.serving.web.answer_json import answer_json
from covidnet.serving.web.schema import Answer
from tests.serving.web.fakes import FACTS as MODEL

FACTS = ImageFacts("0" * 64, 300, 200, "MONOCHROME1", 12)
MEMBERS = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1]])


def found(members: np.ndarray = MEMBERS, heat: np.ndarray | None = None, flags: tuple[Flag, ...] = ()) -> dict:
    answer = ImageAnswer(members.mean(axis=0), members, list(flags), heat)
    return answer_json(answer, FACTS, np.full((20, 30), 9, np.uint8), SquareFit(16), MODEL)


def test_numbers_are_the_answers_by_class() -> None:
    said = found()
    assert list(said["probabilities"]) == list(CLASSES)
    assert list(said["probabilities"].values()) == pytest.approx([0.5, 1.1 / 3, 0.4 / 3], abs=1e-6)
    assert said["prediction"] == "COVID-19"
    assert said["members"]["count"] == 3
    assert said["members"]["agreement"] == pytest.approx(2 / 3)
    assert said["members"]["standard_deviation"]["Normal"] == pytest.approx(np.std([0.2, 0.3, 0.6]), abs=1e-6)
    assert said["image"] == {"width": 300, "height": 200, "mode": "MONOCHROME1"}


def test_one_model_has_no_agreement() -> None:
    assert found(MEMBERS[:1])["members"] == {"count": 1, "agreement": None, "standard_deviation": None}


def test_flags_and_maps_are_included() -> None:
    said = found(heat=np.zeros((16, 16), np.float32), flags=(Flag("dark", "too dark; use another", False),))
    assert said["quality"] == [{"code": "dark", "text": "too dark; use another"}]
    assert said["heat"]["empty"]
    assert said["heat"]["class"] == "COVID-19"
    assert said["heat"]["notes"] == ["No test of this model's heat maps is recorded with it."]
    assert said["notes"][0] == Caveat.TRAINED_ON_SYNTHETIC
    assert not found(heat=np.eye(16, dtype=np.float32))["heat"]["empty"]
    assert found()["heat"] is None


@pytest.mark.parametrize("heat", [None, np.eye(16, dtype=np.float32)])
def test_the_answer_matches_its_schema(heat: np.ndarray | None) -> None:
    said = json.loads(json.dumps({**found(heat=heat), "seconds": 0.1, "sha256": "00" * 32}))
    assert Answer.model_validate(said).model_dump(by_alias=True) == said
    assert Answer.model_config.get("extra") != "allow"
    assert set(said) == set(Answer.model_fields)
