"""Choosing a model, and what choosing adds: exact values, simulation, and ten coins."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from covidnet.base.errors import DataError, SettingError
from covidnet.evaluation.selection import (
    Candidate,
    choose,
    expected_best,
    selection_report,
    simulated_best,
    split_half_optimism,
)
from tests.refusals import refused


def candidate(fold: int, accuracy: float, sensitivity: float = 0.5, loss: float = 1.0) -> Candidate:
    val, unseen = ((0.5 + sign * accuracy / 10, loss, sensitivity) for sign in (1.0, -1.0))
    return Candidate(fold, *val, *unseen)


def test_inner_and_paper_use_different_images() -> None:
    models = [candidate(0, 1.0), candidate(1, 2.0), candidate(2, -1.0)]
    assert choose(models, "inner") == 1
    assert choose(models, "paper") == 2


def test_ties_go_to_sensitivity_then_loss_then_the_lower_fold() -> None:
    assert choose([candidate(0, 1, 0.5), candidate(1, 1, 0.9)], "inner") == 1
    assert choose([candidate(0, 1, 0.5, 2.0), candidate(1, 1, 0.5, 1.0)], "paper") == 1
    assert choose([candidate(4, 1), candidate(3, 1)], "inner") == 3
    unknown = replace(candidate(0, 1), val_covid19_sensitivity=None)
    assert choose([unknown, candidate(1, 1, 0.0)], "inner") == 1


def test_impossible_selections_raise() -> None:
    with pytest.raises(SettingError, match="selection=best"):
        choose([candidate(0, 1)], "best")
    with pytest.raises(SettingError, match="no val predictions"):
        choose([replace(candidate(0, 1), val_accuracy=None)], "inner")
    with refused("selection", "paper", "inner", "the runs have no unseen predictions"):
        choose([replace(candidate(0, 1), unseen_accuracy=None)], "paper")
    with pytest.raises(DataError, match="no model"):
        choose([], "paper")


def test_the_expected_best_equals_enumeration() -> None:
    # Two models, two images: 16 outcomes.
    p = 0.3
    total = 0.0
    for flips in product([0, 1], repeat=4):
        chance = np.prod([p if flip else 1 - p for flip in flips])
        total += chance * max(sum(flips[:2]), sum(flips[2:])) / 2
    assert expected_best(p, 2, 2) == pytest.approx(total)
    assert expected_best(0.7, 30, 1) == pytest.approx(0.7)
    assert expected_best(1.0, 30, 10) == 1.0
    with pytest.raises(SettingError):
        expected_best(0.5, 0, 10)


@pytest.mark.parametrize("accuracy", [1 / 3, 0.86, 0.946])
def test_simulation_agrees_with_the_exact_value(accuracy: float) -> None:
    drawn = simulated_best(accuracy, 156, 10, repeats=20000, seed=1)
    assert drawn.mean() == pytest.approx(expected_best(accuracy, 156, 10), abs=4 * drawn.std() / np.sqrt(20000))


def test_the_best_of_ten_guessing_models_is_above_chance_and_the_report_says_why() -> None:
    """Guessing models on 156 images of three classes: the best looks better than chance, but is not."""
    bests, optimisms = [], []
    for seed in range(75):
        right = np.random.default_rng(seed).random((10, 156)) < 1 / 3
        told = selection_report(right, np.arange(156), seed=seed)
        bests.append(told.data.best)
        optimisms.append(told.data.split_half_optimism)
        assert told.data.best == right.mean(1).max()
        assert told.data.apparent_optimism == pytest.approx(right.mean(1).max() - right.mean(1).mean())
        assert told.chance.accuracy == pytest.approx(1 / 3)
        assert told.models == 10
        assert told.n == 156
    # The observed best is as the report expects for guessing models: well above chance.
    assert np.mean(bests) == pytest.approx(told.chance.expected_best, abs=0.01)
    assert np.mean(bests) > 1 / 3 + 0.04
    # On images that played no part in the selection it is at chance.
    assert np.mean(bests) - np.mean(optimisms) == pytest.approx(1 / 3, abs=0.01)
    assert np.mean(optimisms) > 0.03


def test_identical_models_gain_nothing_by_selection() -> None:
    right = np.tile(np.random.default_rng(0).random(156) < 0.8, (10, 1))
    told = selection_report(right, np.arange(156))
    assert told.data.apparent_optimism == pytest.approx(0.0)
    assert told.data.split_half_optimism == pytest.approx(0.0, abs=0.005)
    # The simulation of independent models is an upper bound there.
    assert told.simulated.optimism > 0.03


def test_one_patient_cannot_be_split() -> None:
    assert split_half_optimism(np.ones((3, 5), bool), np.zeros(5, np.intp), repeats=20) is None


def test_no_common_images_raise() -> None:
    with pytest.raises(DataError, match="no unseen image"):
        selection_report(np.ones((3, 0), bool), np.zeros(0, np.intp))


def test_correlated_images_add_more_optimism() -> None:
    """With three copies of every image the simulation uses a third of them, and selection adds as much as without."""
    right = np.random.default_rng(0).random((10, 52)) < 0.9
    once = selection_report(right, np.arange(52))
    copies = selection_report(np.repeat(right, 3, axis=1), np.repeat(np.arange(52), 3))
    assert once.simulated.n == once.n == 52
    assert copies.n == 156
    assert copies.simulated.n == 52
    assert copies.simulated.optimism == pytest.approx(once.simulated.optimism)
