"""What a check returns: findings with their level, the tables behind them, and what it could not look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from covidnet.auditing.study import Study
from covidnet.evaluation.results import Interval
from covidnet.report.summary import LEVELS, Level


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Args:
        check: the name of the check.
        level: ``blocks`` or ``weakens`` a claim made from these data, or ``information``.
        what: one sentence on what was found.
        number: the number behind it; None if undefined.
        interval: its 95% interval, the patient as the unit; None where there is none, as for a count.
        images: paths of the images concerned, the worst first.
        meaning: what it means for a claim.
        remedy: what to do.
        unit: ``%`` where the number is a fraction of 1.
    """

    check: str
    level: Level
    what: str
    number: float | None
    interval: Interval | None
    images: tuple[str, ...]
    meaning: str
    remedy: str
    unit: str = "%"


@dataclass(frozen=True)
class Answer:
    """The answer of a check that could run.

    Args:
        findings: none if it found nothing.
        tables: the tables behind them, by the name of their CSV file.
        notes: what was looked at, and what could not be.
        on_page: whether the page shows the first rows of its tables; if not, it names their files.
    """

    findings: Sequence[Finding] = ()
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    notes: Sequence[str] = ()
    on_page: bool = True


@dataclass(frozen=True)
class Check:
    """A check: its name in audit.json, its title, the question that it answers, and the function that answers it.

    The function raises `covidnet.auditing.study.NotPossibleError` where the files do not allow an answer.
    """

    name: str
    title: str
    question: str
    run: Callable[[Study], Answer]


__all__ = ["LEVELS", "Answer", "Check", "Finding", "Level"]
