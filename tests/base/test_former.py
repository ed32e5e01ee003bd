"""Configurations of older versions take today's names."""

from __future__ import annotations

from typing import Any

import pytest

from covidnet.base.former import current


def test_former_names_of_settings_and_classes_become_todays() -> None:
    former: dict[str, Any] = {
        "fold": 3,
        "data": {"name": "phantom", "film_size": 96, "ignore": ["films"]},
        "split": {"group": "patient"},
        "explain": {"localisation_films": 6, "sanity_films": 3},
        "hydra": {"callbacks": {"sweep_report": {"_target_": "covidnet.sweep_report.SweepReport"}}},
    }
    assert current(former) == {
        "fold": 3,
        "data": {"name": "phantom", "phantom_size": 96, "ignore": ["films"]},
        "split": {"group": "patient+copies", "copies": "bytes", "balance": True},
        "explain": {"localisation_images": 6, "sanity_images": 3},
        "hydra": {"callbacks": {"sweep_report": {"_target_": "covidnet.sweep.ending.SweepReport"}}},
        "unseen": "scored",
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    }
    assert "film_size" in former["data"]


@pytest.mark.parametrize(
    ("split", "group"),
    [
        ({"group": "patient", "copies": "near"}, "patient+copies"),
        ({"group": "patient", "copies": "off"}, "patient"),
        ({"group": "image"}, "image"),
    ],
)
def test_a_split_by_patient_is_called_by_what_it_kept_together(split: dict[str, str], group: str) -> None:
    assert current({"fold": 0, "split": split})["split"]["group"] == group


def test_a_part_of_a_configuration_leaves_the_rest_at_todays_defaults() -> None:
    assert current({"split": {"group": "patient"}}) == {"split": {"group": "patient"}}


@pytest.mark.parametrize(
    "settings", [{}, None, ["films"], {"fold": 0, "unseen": "locked", "loss": {}, "data": {"phantom_size": 96}}]
)
def test_what_is_todays_stays_as_it_is(settings: Any) -> None:
    assert current(settings) == settings
