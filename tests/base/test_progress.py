"""A progress bar is drawn where somebody watches, and nowhere else."""

from __future__ import annotations

import os

import pytest
from rich.console import Console

from covidnet.base import progress
from covidnet.base.progress import available_cores, progress_bar


def watched(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(
        progress, "Console", lambda **options: Console(**options, force_terminal=terminal, width=120, color_system=None)
    )


def run(visible: bool = True, **options: str) -> list[int]:
    with progress_bar(visible, **options) as bar:
        return list(bar.track(range(30), 30, description="reading images", update_period=0.01))


def test_terminal_sees_what_is_done_on_the_error_stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(monkeypatch, True)
    assert run() == list(range(30))
    captured = capsys.readouterr()
    assert "reading images" in captured.err
    assert "30/30" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(("terminal", "visible"), [(False, True), (True, False), (False, False)])
def test_nothing_is_drawn_where_nobody_watches_or_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, visible: bool
) -> None:
    watched(monkeypatch, terminal)
    assert run(visible) == list(range(30))
    assert capsys.readouterr() == ("", "")


def test_rate_is_told_in_the_unit_that_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(monkeypatch, True)
    clock = iter(range(10_000))
    with progress_bar(unit="folds") as bar:
        bar.get_time = lambda: float(next(clock))  # a second per look, so that there is a speed
        task = bar.add_task("training", total=3)
        for _ in range(3):
            bar.advance(task)
        bar.refresh()
    assert "folds/s" in capsys.readouterr().err


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1
