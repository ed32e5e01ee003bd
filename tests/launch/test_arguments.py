"""Paths on a command line arrive as they were typed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from covidnet.launch.arguments import quoted
from covidnet.launch.command import compose

PARSER = OverridesParser.create()


def read(word: str) -> Any:
    """What Hydra takes the value of a word for."""
    value = PARSER.parse_override(word).value()
    assert not isinstance(value, QuotedString)
    return value


# What is a list, a dict or a quoted string as a whole is meant for Hydra; none of these is.
PATHS = [
    "sweep/fold=0", "my images", " leading", "trailing ", "images (1).png", "a[1]", "[1] a", "{a", "a}", "a,b", "C:\\f",
    "it's", 'say "ah"', "Röntgen/ü.png", "back\\", "two\\\\", "a\\'b", "a\\'", "#1", "a#b", "~/images", "007", "1e3",
    "true", "choice(a,b)", "a;b", "a&b", "$x", "images/**/*.dcm", "a?b", "a\\ b", "'a'b'", "  ",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_comes_back_as_it_was_typed(path: str) -> None:
    (word,) = quoted([f"input={path}"], ["input"])
    assert read(word) == path
    assert compose([word], "explain").input == path


def test_any_three_special_characters_come_back() -> None:
    for few in itertools.product(":= ()[]{},'\"ü\\#", repeat=3):
        path = f"x{''.join(few)}"
        (word,) = quoted([f"input={path}"], ["input"])
        assert read(word) == path


@pytest.mark.parametrize(
    "word",
    ["input='a b'", 'input="a=b"', "input=[a,b]", "input={a: 1}", "input=${out}", "input=null", "input=",
     "input=/a/b.png", "fold=range(0,10)", "other=a=b", "-m", "--help", "input"],
)  # fmt: skip
def test_what_is_meant_for_hydra_is_left_as_it_is(word: str) -> None:
    assert quoted([word], ["input"]) == [word]


def test_values_of_a_sweep_stay_apart() -> None:
    words = ["-m", "checkpoint=a,b", "input=x=1"]
    assert quoted(words, ["checkpoint", "input"]) == ["-m", "checkpoint=a,b", "input='x=1'"]
    assert quoted(words[1:], ["checkpoint"])[0] == "checkpoint='a,b'"


def test_a_setting_that_is_added_is_quoted_too() -> None:
    assert quoted(["+input=a=b", "++input=a=b"], ["input"]) == ["+input='a=b'", "++input='a=b'"]
