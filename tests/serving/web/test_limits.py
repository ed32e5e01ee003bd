"""Limits of the server."""

from __future__ import annotations

import pytest

from covidnet.base.errors import SettingError
from covidnet.serving.web.limits import WebLimits


@pytest.mark.parametrize("name", list(WebLimits.__dataclass_fields__))
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "8", None, True])
def test_an_invalid_limit_is_rejected_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"{name}=.*must be an? .*above 0"):
        WebLimits(**{name: value})  # type: ignore[arg-type]


def test_only_the_rate_limit_can_be_0() -> None:
    assert WebLimits(rate=0).rate == 0
    with pytest.raises(SettingError, match="queue=0"):
        WebLimits(queue=0)


def test_counts_are_integers() -> None:
    with pytest.raises(SettingError, match=r"queue=1\.5: must be an integer"):
        WebLimits(queue=1.5)  # type: ignore[arg-type]


def test_megabytes_are_millions_of_bytes() -> None:
    assert WebLimits(max_megabytes=1.5).max_bytes == 1_500_000
