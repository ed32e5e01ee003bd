"""The schema covers every setting of every command, agrees with the code, and says what a value must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from covidnet.data.folds.splits import COPIES, GROUPS, VALIDATIONS
from covidnet.data.loading.transforms import FITS, MAX_SIDE
from covidnet.evaluation.selection import RULES
from covidnet.feature_store.engines import ENGINES as BACKBONE_ENGINES
from covidnet.launch.command import compose, config_dir
from covidnet.launch.known_settings import KnownSettings
from covidnet.launch.schema import SCHEMA
from covidnet.models.saliency import METHODS
from covidnet.serving.answers import GATES
from covidnet.serving.open_model import ENGINES
from tests.refusals import refused

GROUPS_OF_FILES = ("data", "split", "augment", "model", "features", "optim", "explain")


def names(tree: Mapping[str, Any], path: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            found.add(f"{path}{key}")
        elif "_target_" not in value:  # its entries are arguments of that class
            found |= names(value, f"{path}{key}.")
    return found


@pytest.mark.parametrize("command", SCHEMA)
def test_every_setting_of_a_command_is_in_its_schema(command: str) -> None:
    # A choice that is not known takes the settings of all options.
    tree = KnownSettings(config_dir(), command, dict.fromkeys(GROUPS_OF_FILES, "?")).tree
    unused = {f"explain.{name}" for name in tree["explain"]} - {"explain.method"} if command == "explain" else set()
    assert names(tree) - unused == set(SCHEMA[command]) - {"trainer.max_epochs"}


@pytest.mark.parametrize("command", SCHEMA)
def test_every_meaning_is_one_sentence(command: str) -> None:
    for name, setting in SCHEMA[command].items():
        assert setting.meaning.endswith("."), name
        assert ". " not in setting.meaning, name


def test_choices_are_those_of_the_code() -> None:
    train, predict = SCHEMA["config"], SCHEMA["predict"]
    assert train["split.group"].choices == GROUPS
    assert train["split.copies"].choices == COPIES
    assert train["split.validation"].choices == VALIDATIONS
    assert train["data.fit"].choices == FITS
    assert train["data.image_size"].most == MAX_SIDE
    assert train["explain.method"].choices == METHODS
    assert train["features.engine"].choices == BACKBONE_ENGINES
    assert train["selection"].choices == SCHEMA["crossval"]["selection"].choices == RULES
    assert predict["gate"].choices == GATES
    assert predict["engine"].choices == ENGINES
    for group in ("augment", "features"):
        assert {file.stem for file in (config_dir() / group).glob("*.yaml")} == set(train[f"{group}.mode"].choices)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        *(("fold", value, "0 to 9") for value in (-1, 10, 11, "three", 1.5, True, None)),
        ("seed", -1, "an integer of at least 0"),
        ("seed", True, "an integer of at least 0"),
        ("strict", "yes", "true or false"),
        ("strict", None, "true or false"),
        ("cache_dir", None, "text"),
        ("optim.lr", float("inf"), "a number of at least 0"),
        ("optim.plateau_factor", 1, "above 0 and below 1"),
        ("data.min_side", 0, "a number above 0"),
        ("data.num_workers", -1, "an integer of at least 0 or null"),
        ("data.labels", "TB", "a mapping, such as {A: B} or null"),
        ("data.faults", "copies", "a list, such as [A,B]"),
        ("split.group", None, GROUPS),
        ("split.group", ["patient"], GROUPS),
        ("trainer.max_epochs", 0, "an integer of at least 1, -1 or null"),
    ],
)
def test_a_value_that_a_setting_cannot_have_is_refused(name: str, value: object, allowed: Any) -> None:
    with refused(name, value, allowed):
        SCHEMA["config"][name].check(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fold", 0),
        ("fold", 9),
        ("fold", "${seed}"),
        ("optim.lr", 1),
        ("data.num_workers", None),
        ("data.ignore", "TB"),
        ("data.min_side", 0.5),
        ("trainer.max_epochs", -1),
        ("trainer.max_epochs", None),
    ],
)
def test_a_value_that_a_setting_can_have_is_taken(name: str, value: object) -> None:
    SCHEMA["config"][name].check(name, value)


def test_a_composed_configuration_is_checked() -> None:
    with refused("explain.sanity_images", "many", "an integer of at least 0"):
        compose(["explain.sanity_images=many"])
    with refused("resamples", 3, "an integer of at least 100"):
        compose(["resamples=3"], "crossval")
