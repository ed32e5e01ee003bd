"""Predictor: images refused by the gate are not predicted, and results keep the order of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covidnet.base.errors import ImageRefusedError, SettingError
from covidnet.data.reading.images import ImageFacts, Radiograph
from covidnet.gate.flags import Flag
from covidnet.serving.answers import ImageAnswer, Predictor
from covidnet.serving.facts import ModelFacts, maps_of_members
from covidnet.serving.model import Outputs, ServedModel


class _Gate:
    """Refuses dark images before the network and images with a large feature after it; warns about wide ones."""

    def look(self, image: Radiograph) -> list[Flag]:
        flags = []
        if image.pixels.max() < 10:
            flags.append(Flag("too_dark", "too dark; expose it again", True))
        if image.pixels.shape[1] > image.pixels.shape[0]:
            flags.append(Flag("wide", "wider than high", False))
        return flags

    def compare(self, features: np.ndarray) -> list[list[Flag]]:
        return [[Flag("unlike", "unlike the training images; other", True)] if f[0] > 200 else [] for f in features]


class _Model(ServedModel):
    """Predicts from an image's mean, and counts calls."""

    explains = True

    def __init__(self) -> None:
        none: tuple[float | None, ...] = (None, None)
        facts = ModelFacts("none", "random", True, 32, "squash", (0.5,), (0.5,), (0, 1), none)
        super().__init__(facts, _Gate(), Path("none"))  # type: ignore[arg-type]
        self.seen: list[int] = []

    def outputs(self, squares: np.ndarray, maps: bool = False) -> Outputs:
        self.seen.append(len(squares))
        means = squares.reshape(len(squares), -1).mean(axis=1) / 255
        first = np.stack([means, (1 - means) / 2, (1 - means) / 2], axis=1)
        second = np.stack([(1 - means) / 2, means, (1 - means) / 2], axis=1)
        members = np.stack([first, second], axis=1)
        return Outputs(members.mean(axis=1), members, (255 * means[:, None]).astype(np.float32), maps or None)

    def heat(self, squares: np.ndarray, outputs: Outputs, target: object) -> np.ndarray:
        return np.full(squares.shape, 0.5, np.float32)


def image(value: int, shape: tuple[int, int] = (64, 64)) -> Radiograph:
    pixels = np.full(shape, value, np.uint8)
    return Radiograph(pixels, ImageFacts("", shape[1], shape[0], "L", 1), 0.0, None)


def test_answers_and_refusals_come_in_the_order_of_the_images() -> None:
    model = _Model()
    images = [image(120), image(3), image(150), image(250), image(90, (64, 128))]
    found = Predictor(model).answer(images, names=["a", "b", "c", "d", "e"])
    assert [type(one) for one in found] == [
        ImageAnswer, ImageRefusedError, ImageAnswer, ImageRefusedError, ImageAnswer,
    ]  # fmt: skip
    dark, unlike = found[1], found[3]
    assert isinstance(dark, ImageRefusedError)
    assert (dark.path, dark.cause, dark.remedy) == ("b", "too dark", "expose it again")
    assert isinstance(unlike, ImageRefusedError)
    assert (unlike.path, unlike.cause) == ("d", "unlike the training images")
    # The dark image never reached the network.
    assert model.seen == [4]
    first, wide = found[0], found[4]
    assert isinstance(first, ImageAnswer)
    assert first.probabilities[0] == pytest.approx((120 / 255 + (1 - 120 / 255) / 2) / 2)
    assert isinstance(wide, ImageAnswer)
    assert [flag.code for flag in wide.flags] == ["wide"]


def test_a_warning_gate_predicts_everything_and_gives_the_reasons_for_doubt() -> None:
    found = Predictor(_Model(), "warn").answer([image(3), image(250)])
    assert all(isinstance(one, ImageAnswer) for one in found)
    assert [[flag.code for flag in one.flags] for one in found if isinstance(one, ImageAnswer)] == [
        ["too_dark"],
        ["unlike"],
    ]


def test_a_gate_that_is_off_gives_no_flags() -> None:
    found = Predictor(_Model(), "off").answer([image(3), image(250)])
    assert [one.flags for one in found if isinstance(one, ImageAnswer)] == [[], []]


def test_images_that_are_all_refused_do_not_reach_the_network() -> None:
    model = _Model()
    assert isinstance(Predictor(model).answer([image(1)])[0], ImageRefusedError)
    assert model.seen == []
    assert Predictor(model).answer([]) == []


def test_disagreement_of_members_is_reported() -> None:
    (one,) = Predictor(_Model(), "off").answer([image(204)])
    assert isinstance(one, ImageAnswer)
    # One model says COVID-19 at 0.8, the other Normal at 0.8: the mean is a tie, which the first class wins.
    np.testing.assert_allclose(one.probabilities, [0.45, 0.45, 0.1], atol=1e-9)
    assert one.prediction == "COVID-19"
    assert one.agreement == 0.5
    np.testing.assert_allclose(one.spread, np.std([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], axis=0), atol=1e-9)


def test_heat_maps_are_computed_only_if_requested() -> None:
    (without,), (given,) = (Predictor(_Model()).answer([image(100)], heat=heat) for heat in (False, True))
    assert isinstance(without, ImageAnswer)
    assert without.heat is None
    assert isinstance(given, ImageAnswer)
    assert given.heat is not None
    assert given.heat.shape == (32, 32)


def test_an_unknown_gate_is_rejected() -> None:
    with pytest.raises(SettingError, match="refuse, warn, off"):
        Predictor(_Model(), "open")


def test_a_gate_fitted_on_phantoms_does_not_call_a_real_image_lateral() -> None:
    """It names what it compares with, and the remedy; fixed rules keep their texts."""
    lateral = Flag("lateral", "looks like a lateral view, not a frontal one; use the frontal image", learned=True)
    small = Flag("small", "too small: 9 x 9 pixels; use the image at its original size")
    for name, flag, cause, remedy in (
        (
            "phantom", lateral, "unlike the phantoms that the model was trained on (looks like a lateral view, not a "
            "frontal one)", "use gate=warn to predict it",
        ),
        ("phantom", small, "too small: 9 x 9 pixels", "use the image at its original size"),
        ("folder", lateral, "looks like a lateral view, not a frontal one", "use the frontal image"),
    ):  # fmt: skip
        model = _Model()
        model.facts = replace(model.facts, training={"name": name})
        model.gate.look = lambda image, flag=flag: [flag]  # type: ignore[method-assign,misc]
        (refusal,) = Predictor(model).answer([image(120)])
        assert isinstance(refusal, ImageRefusedError)
        assert (refusal.cause, refusal.remedy) == (cause, remedy)
        assert any("gate=warn" in note for note in Predictor(model).notes()) is (name == "phantom")
        (warned,) = Predictor(model, "warn").answer([image(120)])
        assert isinstance(warned, ImageAnswer)
        assert cause in warned.flags[0].text
        assert not any("gate=warn" in note for note in Predictor(model, "warn").notes())


def test_findings_about_maps_of_several_models_are_combined() -> None:
    assert maps_of_members([{"maps": []}, {"maps": []}]) == ()
    assert maps_of_members([{"maps": ["They fail."]}] * 2) == ("They fail.",)
    # Without a recorded test nothing is known.
    assert maps_of_members([{"maps": []}, {}]) is None
