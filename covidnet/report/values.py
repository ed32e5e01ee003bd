"""Measured numbers as a report prints them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covidnet.report.terminal import UNDEFINED

if TYPE_CHECKING:
    from covidnet.evaluation.results import Measured


@dataclass(frozen=True)
class Value:
    """A number in a table, with its 95% interval.

    Args:
        value: the number, or None if undefined.
        interval: its ends, or None.
        scale: factor for display: 100 makes a fraction a percentage.
        digits: number of decimals.
        unit: printed after the number, except in a table column that names it.
    """

    value: float | None
    interval: Sequence[float] | None = None
    scale: float = 1.0
    digits: int = 0
    unit: str = ""

    @property
    def number(self) -> str:
        """The number without its interval; a dash if undefined."""
        return UNDEFINED if self.value is None else self._formatted(self.value)

    @property
    def ends(self) -> str:
        """The interval in brackets; empty if there is none."""
        if self.value is None or self.interval is None:
            return ""
        low, high = self.interval
        return f"[{self._formatted(low)}, {self._formatted(high)}]"

    def _formatted(self, value: float) -> str:
        text = f"{self.scale * value:,.{self.digits}f}"
        # -0.00004 is printed as 0.0, not as -0.0.
        text = text.removeprefix("-") if not text.strip("-0.,") else text
        return text.replace("-", "\N{MINUS SIGN}")


def rate(estimate: Measured | float | None) -> Value:
    """An estimate of a fraction, or a plain fraction, in percent with one digit.

    Example:
        >>> from covidnet.evaluation.results import Measured
        >>> rate(Measured(0.946, (0.934, 0.956))).number, rate(None).number
        ('94.6', '–')
    """
    return Value(*split(estimate), 100.0, 1, "%")


def printed(fraction: float | None) -> Value:
    """A rate of the paper in percent, with as many decimals as the paper prints: one or two.

    Args:
        fraction: a fraction of 1, or None.

    Example:
        >>> printed(0.946).number, printed(0.9384).number
        ('94.6', '93.84')
    """
    whole = fraction is None or abs(1000 * fraction - round(1000 * fraction)) < 1e-6
    return Value(fraction, None, 100.0, 1 if whole else 2, "%")


def area(estimate: Measured | float | None) -> Value:
    """An area under a curve, or a score, with three decimals."""
    return Value(*split(estimate), 1.0, 3)


def split(estimate: Measured | float | None) -> tuple[float | None, tuple[float, float] | None]:
    """The number and its interval."""
    if estimate is None or isinstance(estimate, int | float):
        return estimate, None
    return estimate.value, estimate.ci


_REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object) -> str:
    r"""A text on one line, without characters that are invalid in a page or that reorder others.

    Args:
        text: anything; file names may contain any character but the zero byte.

    Example:
        >>> clean("a\nb"), clean("x\x1b[31m"), clean("caf\udce9")
        ('a b', 'x [31m', 'caf\\udce9')
    """
    whole = str(text).encode("utf-8", "backslashreplace").decode()
    # Besides control characters, these are invalid in XML.
    bad = ("\ufffe", "\uffff")
    kept = ["" if c in _REORDERING or c in bad else " " if unicodedata.category(c) == "Cc" else c for c in whole]
    return " ".join("".join(kept).split())
