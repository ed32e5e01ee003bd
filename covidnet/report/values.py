"""A measured number as a report prints it."""

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
        value: the number, or None where it does not exist.
        interval: its ends, or None.
        scale: what it is multiplied with before it is shown: 100 makes a fraction a percentage.
        digits: behind the decimal point.
        unit: behind the number where it stands outside a table column that names it.
    """

    value: float | None
    interval: Sequence[float] | None = None
    scale: float = 1.0
    digits: int = 0
    unit: str = ""

    @property
    def number(self) -> str:
        """The number alone; a dash where there is none."""
        return UNDEFINED if self.value is None else self._shown(self.value)

    @property
    def ends(self) -> str:
        """The interval in brackets; empty where there is none."""
        if self.value is None or self.interval is None:
            return ""
        low, high = self.interval
        return f"[{self._shown(low)}, {self._shown(high)}]"

    def _shown(self, value: float) -> str:
        text = f"{self.scale * value:,.{self.digits}f}"
        # A difference of -0.00004 is no difference of -0.0.
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
    """A rate of the paper in percent, with the digits that it is printed with: one, or two where it has two.

    Args:
        fraction: of 1, or None.

    Example:
        >>> printed(0.946).number, printed(0.9384).number
        ('94.6', '93.84')
    """
    whole = fraction is None or abs(1000 * fraction - round(1000 * fraction)) < 1e-6
    return Value(fraction, None, 100.0, 1 if whole else 2, "%")


def area(estimate: Measured | float | None) -> Value:
    """An estimate of an area under a curve, or a score, as it is, with three digits."""
    return Value(*split(estimate), 1.0, 3)


def split(estimate: Measured | float | None) -> tuple[float | None, tuple[float, float] | None]:
    """The number and its interval."""
    if estimate is None or isinstance(estimate, int | float):
        return estimate, None
    return estimate.value, estimate.ci


_REORDERING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object) -> str:
    r"""A text on one line, without characters that a page cannot hold or that change the order of others.

    Args:
        text: anything; names of files may hold every character but the zero byte.

    Example:
        >>> clean("a\nb"), clean("x\x1b[31m"), clean("caf\udce9")
        ('a b', 'x [31m', 'caf\\udce9')
    """
    whole = str(text).encode("utf-8", "backslashreplace").decode()
    # Beside control characters: those that no XML can hold.
    bad = ("\ufffe", "\uffff")
    kept = ["" if c in _REORDERING or c in bad else " " if unicodedata.category(c) == "Cc" else c for c in whole]
    return " ".join("".join(kept).split())
