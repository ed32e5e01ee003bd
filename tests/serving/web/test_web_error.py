"""Errors as responses."""

from __future__ import annotations

import json

import pytest

from covidnet.serving.web.web_error import WebError, busy, internal


def test_a_problem_becomes_json_with_its_status() -> None:
    answer = WebError(418, "teapot", "it is a teapot", "use another", headers={"X-Kind": "brown"}).response()
    assert answer.status_code == 418
    assert json.loads(bytes(answer.body)) == {
        "error": {"code": "teapot", "cause": "it is a teapot", "remedy": "use another"}
    }
    assert answer.headers["x-kind"] == "brown"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize(("seconds", "said"), [(0.01, "1"), (1.0, "1"), (1.2, "2"), (30, "30")])
def test_retry_after_is_at_least_one_whole_second(seconds: float, said: str) -> None:
    assert WebError(429, "x", "y", "z", retry=seconds).response().headers["retry-after"] == said


def test_errors_for_every_request() -> None:
    assert (busy("much to do").status, busy("much to do").cause) == (503, "much to do")
    assert internal().status == 500
