"""Errors of settings are compared by what they hold; the printed line is tested where it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from covidnet.base.errors import SettingError

_ANY: Any = object()


@contextmanager
def refused(
    name: str, value: object = _ANY, allowed: str | tuple[object, ...] | list[object] = _ANY, remedy: str = ""
) -> Iterator[None]:
    """Expect a `SettingError`.

    Args:
        name: of the setting.
        value: that is refused; any if it is not given.
        allowed: words that its `allowed` begins with, or the allowed values; any if not given.
        remedy: words in its remedy.
    """
    with pytest.raises(SettingError) as caught:
        yield
    error = caught.value
    assert error.name == name
    assert value is _ANY or error.value == value
    if isinstance(allowed, str):
        assert str(error.allowed).startswith(allowed)
    elif allowed is not _ANY:
        assert error.allowed == tuple(allowed)
    assert remedy in error.remedy
