"""The card of a checkpoint without its folder."""

from __future__ import annotations

import dataclasses

from covidnet.serving.web.card import facts_card
from tests.serving.web.fakes import FACTS


def test_known_facts_are_listed_and_the_rest_is_not_available() -> None:
    card = facts_card(FACTS)
    assert card.startswith("# Model card: densenet121, 3 models (folds 0, 1, 2)\n\nResearch use only")
    assert "| Temperatures | 1.500, 1.200, 1.100 |" in card
    assert "| Training: images | 99 |" in card
    assert "| Training: manifest sha256 | not available |" in card
    assert "Scores: not available" in card


def test_a_checkpoint_without_facts_has_a_card_too() -> None:
    bare = dataclasses.replace(FACTS, folds=(None,), temperatures=(None,), training={}, weights="a|b.pt")
    card = facts_card(bare)
    assert "| Test folds | not available |" in card
    assert "| Temperatures | not available |" in card
    assert "a\\|b.pt" in card
    assert "0 |" not in card.replace("32", "")
