"""One progress bar for all long work: on stderr, and only if that is a terminal."""

from __future__ import annotations

import os

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def progress_bar(visible: bool = True, *, unit: str = "images") -> Progress:
    """A bar with the count, the rate per second and the time left; nothing is drawn unless stderr is a terminal.

    Args:
        visible: False draws nothing anywhere.
        unit: what is counted.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (visible and console.is_terminal),
    )


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{rate(task.speed)} {self.unit}/s" if task.speed else "")


def rate(speed: float) -> str:
    """A rate per second: whole from 10 on, below that with one digit, so that slow work is not shown as 0.

    Example:
        >>> rate(38.2), rate(2.13)
        ('38', '2.1')
    """
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def available_cores() -> int:
    """Cores this process may use: fewer than the machine has under SLURM, taskset or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
