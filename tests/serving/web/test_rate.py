"""The rate limit for each address."""

from __future__ import annotations

import pytest

from covidnet.serving.web import rate
from covidnet.serving.web.rate import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_after_a_burst_the_rate_applies() -> None:
    clock = Clock()
    limit = RateLimit(2, 3, clock)
    assert [limit.wait("10.0.0.1") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.5
    assert limit.wait("10.0.0.1") == 0
    assert limit.wait("10.0.0.1") == pytest.approx(0.5)


def test_a_rejected_request_takes_no_token() -> None:
    clock = Clock()
    limit = RateLimit(1, 1, clock)
    limit.wait("10.0.0.1")
    for _ in range(50):
        assert limit.wait("10.0.0.1") == pytest.approx(1)
    clock.now += 1
    assert limit.wait("10.0.0.1") == 0


def test_a_pause_accumulates_at_most_a_burst() -> None:
    clock = Clock()
    limit = RateLimit(5, 2, clock)
    limit.wait("10.0.0.1")
    clock.now += 1000
    assert [limit.wait("10.0.0.1") == 0 for _ in range(3)] == [True, True, False]


def test_addresses_do_not_share_but_those_of_one_ipv6_network_do() -> None:
    limit = RateLimit(1, 1, Clock())
    assert (
        limit.wait("10.0.0.1") == limit.wait("10.0.0.2") == limit.wait("2001:db8::1") == limit.wait("testclient") == 0
    )
    assert limit.wait("2001:db8::ffff") > 0
    assert limit.wait("2001:db8:0:1::1") == 0


def test_no_rate_is_no_limit() -> None:
    limit = RateLimit(0, 1, Clock())
    assert not any(limit.wait("10.0.0.1") for _ in range(1000))


def test_the_number_of_remembered_addresses_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "_CLIENTS", 10)
    limit = RateLimit(1, 1, Clock())
    for number in range(100):
        limit.wait(f"10.0.0.{number}")
    assert len(limit._left) == 10
    assert limit.wait("10.0.0.99") > 0
