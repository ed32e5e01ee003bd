"""Errors keep what they say as fields, print it as one line, and survive the way between processes."""

from __future__ import annotations

import pickle

import pytest

from covidnet.base.errors import ImageRefusedError, SettingError, UnknownSettingError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (SettingError("fold", 11, "0 to 9", "10 is the unseen fold"), "fold=11: must be 0 to 9; 10 is the unseen fold"),
        (SettingError("gate", "maybe", ("refuse", "warn", "off")), "gate=maybe: must be one of refuse, warn, off"),
        (SettingError("format", None, ["onnx"]), "format=null: must be onnx"),
        (SettingError("strict", [True, None], "true or false"), "strict=[true,null]: must be true or false"),
        (UnknownSettingError("lr", 3, "no such setting", "say optim.lr"), "lr=3: no such setting; say optim.lr"),
        (UnknownSettingError("lr", "", "no such setting", "say optim.lr"), "lr: no such setting; say optim.lr"),
        (ImageRefusedError("a.png", "truncated", "copy it again"), "a.png: truncated; copy it again"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_crosses_processes_with_its_fields(error: Exception, line: str) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(error) == str(again) == line
    assert vars(again) == vars(error)


def test_the_fields_are_what_was_given() -> None:
    error = SettingError("gate", "maybe", iter(["refuse", "off"]), "see --help")
    assert (error.name, error.value, error.allowed, error.remedy) == ("gate", "maybe", ("refuse", "off"), "see --help")
