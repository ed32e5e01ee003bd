"""Answers for films: what the gate refuses is not predicted, and everything comes back in its order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from covidnet.data.images import Film, ImageFacts
from covidnet.errors import ImageRefusedError, SettingError
from covidnet.quality.flags import Flag
from covidnet.serving.answers import Answering, FilmAnswer
from covidnet.serving.facts import ModelFacts, maps_of_members
from covidnet.serving.model import Outputs, ServedModel


class _Gate:
    """Refuses dark films before the network, and those whose feature is large after it; wide ones get a warning."""

    def look(self, film: Film) -> list[Flag]:
        flags = []
        if film.pixels.max() < 10:
            flags.append(Flag("too_dark", "too dark; expose it again", True))
        if film.pixels.shape[1] > film.pixels.shape[0]:
            flags.append(Flag("wide", "wider than high", False))
        return flags

    def compare(self, features: np.ndarray) -> list[list[Flag]]:
        return [[Flag("unlike", "unlike the training films; other", True)] if f[0] > 200 else [] for f in features]


class _Model(ServedModel):
    """Calls a film by its mean, and counts what it is asked."""

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


def film(value: int, shape: tuple[int, int] = (64, 64)) -> Film:
    pixels = np.full(shape, value, np.uint8)
    return Film(pixels, ImageFacts("", shape[1], shape[0], "L", 1), 0.0, None)


def test_answers_and_refusals_come_in_the_order_of_the_films() -> None:
    model = _Model()
    films = [film(120), film(3), film(150), film(250), film(90, (64, 128))]
    found = Answering(model).answer(films, names=["a", "b", "c", "d", "e"])
    assert [type(one) for one in found] == [
        FilmAnswer, ImageRefusedError, FilmAnswer, ImageRefusedError, FilmAnswer,
    ]  # fmt: skip
    dark, unlike = found[1], found[3]
    assert isinstance(dark, ImageRefusedError)
    assert (dark.path, dark.cause, dark.remedy) == ("b", "too dark", "expose it again")
    assert isinstance(unlike, ImageRefusedError)
    assert (unlike.path, unlike.cause) == ("d", "unlike the training films")
    # The dark film never reached the network.
    assert model.seen == [4]
    first, wide = found[0], found[4]
    assert isinstance(first, FilmAnswer)
    assert first.probabilities[0] == pytest.approx((120 / 255 + (1 - 120 / 255) / 2) / 2)
    assert isinstance(wide, FilmAnswer)
    assert [flag.code for flag in wide.flags] == ["wide"]


def test_a_gate_that_warns_predicts_everything_and_says_why_not_to_trust_it() -> None:
    found = Answering(_Model(), "warn").answer([film(3), film(250)])
    assert all(isinstance(one, FilmAnswer) for one in found)
    assert [[flag.code for flag in one.flags] for one in found if isinstance(one, FilmAnswer)] == [
        ["too_dark"],
        ["unlike"],
    ]


def test_a_gate_that_is_off_says_nothing() -> None:
    found = Answering(_Model(), "off").answer([film(3), film(250)])
    assert [one.flags for one in found if isinstance(one, FilmAnswer)] == [[], []]


def test_films_that_are_all_refused_do_not_reach_the_network() -> None:
    model = _Model()
    assert isinstance(Answering(model).answer([film(1)])[0], ImageRefusedError)
    assert model.seen == []
    assert Answering(model).answer([]) == []


def test_disagreement_of_members_is_told() -> None:
    (one,) = Answering(_Model(), "off").answer([film(204)])
    assert isinstance(one, FilmAnswer)
    # One model says COVID-19 at 0.8, the other Normal at 0.8: the mean is a tie, which the first class wins.
    np.testing.assert_allclose(one.probabilities, [0.45, 0.45, 0.1], atol=1e-9)
    assert one.prediction == "COVID-19"
    assert one.agreement == 0.5
    np.testing.assert_allclose(one.spread, np.std([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], axis=0), atol=1e-9)


def test_heat_maps_are_made_where_they_are_asked_for() -> None:
    (without,), (given,) = (Answering(_Model()).answer([film(100)], heat=heat) for heat in (False, True))
    assert isinstance(without, FilmAnswer)
    assert without.heat is None
    assert isinstance(given, FilmAnswer)
    assert given.heat is not None
    assert given.heat.shape == (32, 32)


def test_a_gate_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingError, match="refuse, warn, off"):
        Answering(_Model(), "open")


def test_a_gate_of_phantoms_does_not_call_a_real_film_lateral() -> None:
    """It says what it compares with, and the remedy; rules about any film keep their words."""
    lateral = Flag("lateral", "looks like a lateral view, not a frontal one; use the frontal film", learned=True)
    small = Flag("small", "too small: 9 x 9 pixels; use the film at its original size")
    for name, flag, cause, remedy in (
        (
            "phantom", lateral, "unlike the phantoms that the model was trained on (looks like a lateral view, not a "
            "frontal one)", "use gate=warn to predict it",
        ),
        ("phantom", small, "too small: 9 x 9 pixels", "use the film at its original size"),
        ("folder", lateral, "looks like a lateral view, not a frontal one", "use the frontal film"),
    ):  # fmt: skip
        model = _Model()
        model.facts = replace(model.facts, training={"name": name})
        model.gate.look = lambda film, flag=flag: [flag]  # type: ignore[method-assign,misc]
        (refusal,) = Answering(model).answer([film(120)])
        assert isinstance(refusal, ImageRefusedError)
        assert (refusal.cause, refusal.remedy) == (cause, remedy)
        assert any("gate=warn" in note for note in Answering(model).notes()) is (name == "phantom")
        (warned,) = Answering(model, "warn").answer([film(120)])
        assert isinstance(warned, FilmAnswer)
        assert cause in warned.flags[0].text
        assert not any("gate=warn" in note for note in Answering(model, "warn").notes())


def test_maps_of_several_models_are_told_of_together() -> None:
    assert maps_of_members([{"maps": []}, {"maps": []}]) == ()
    assert maps_of_members([{"maps": ["They fail."]}] * 2) == ("They fail.",)
    # Of a checkpoint that tells of no test nothing is known.
    assert maps_of_members([{"maps": []}, {}]) is None
