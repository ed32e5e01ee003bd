"""Films that are windows of other films, whatever was done to them: a coarse look at all, a fine one at the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.data.alignment import COARSE, FINE, MIDDLE, WHOLE, coarse_windows, refine, windows
from covidnet.data.thumbnails import Pixels

NEAR_DUPLICATE = "near-duplicate"

COLUMNS = ("film", "other", "kind", "similarity")

# Films that are compared at the finer levels, for each film that is looked for.
_CANDIDATES = 6

# What is so far below the limit at the middle level does not reach it at the fine one.
_PROMISING = 0.07

# Films at a time: of the larger and of the smaller table, so that memory does not grow with their number.
_REFERENCES, _QUERIES = 256, 128


@dataclass(frozen=True)
class Guise:
    """What was done to a film before it was cropped."""

    mirrored: bool = False
    turns: int = 0

    def undone(self, pixels: Pixels) -> Pixels:
        """(N, 64, 64) as they were before: what comes last is undone first."""
        upright = np.rot90(pixels, -self.turns, axes=(1, 2))
        return np.ascontiguousarray(upright[:, :, ::-1] if self.mirrored else upright)


UPRIGHT = (Guise(), Guise(mirrored=True))
TURNED = tuple(Guise(mirrored, turns) for turns in (1, 2, 3) for mirrored in (False, True))


def search(
    films: Pixels,
    others: Pixels,
    guises: tuple[Guise, ...],
    limit: float,
    *,
    itself: npt.NDArray[np.intp] | None = None,
    tick: Callable[[int], None] = lambda count: None,
    whole: bool = False,
) -> pd.DataFrame:
    """Every film that is found as a window of another.

    Args:
        films: (N, 64, 64).
        others: (M, 64, 64).
        guises: that are tried.
        limit: of the similarity.
        itself: (N,) which of the others a film is, so that it is not compared with itself.
        tick: is told how many of the others were looked at.
        whole: the first guess is the whole film, not a window of it.
    """
    upright = [guise.undone(films) for guise in guises]
    found = _candidates(upright, others, itself, tick, whole)
    film, place = np.nonzero(found.score > -np.inf)
    other, guise, inverted = (part[film, place] for part in (found.other, found.guise, found.inverted))
    window = windows()[found.window[film, place]]
    score = np.empty(len(film))
    for start in range(0, len(film), _QUERIES):
        some = slice(start, start + _QUERIES)
        inner = np.stack([upright[g][f] for g, f in zip(guise[some], film[some], strict=True)])
        inner[inverted[some]] = 255 - inner[inverted[some]]
        outer = others[other[some]]
        score[some], window[some] = refine(inner, outer, window[some], [(COARSE, 3), (MIDDLE, 3)])
        good = np.flatnonzero(score[some] >= limit - _PROMISING)
        at = start + good
        score[some] = -1.0
        score[at], window[at] = refine(inner[good], outer[good], window[at], [(FINE, 4)])
    rows = [
        (film[n], other[n], _kind(guises[guise[n]], bool(inverted[n]), window[n]), min(float(score[n]), 1.0))
        for n in np.flatnonzero(score >= limit)
    ]
    return table_of(rows)


def table_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows as a table of `COLUMNS`, with the same types where there are none.

    Args:
        rows: number of the film, number of the other, kind, similarity.
    """
    kinds = {"film": np.intp, "other": np.intp, "kind": object, "similarity": np.float64}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)


@dataclass(frozen=True)
class _Best:
    """The most promising of the others for each film: (N, candidates) each; the score is -inf where there is none."""

    score: npt.NDArray[np.float32]
    other: npt.NDArray[np.intp]
    guise: npt.NDArray[np.intp]
    inverted: npt.NDArray[np.bool_]
    window: npt.NDArray[np.intp]

    @classmethod
    def empty(cls, count: int) -> _Best:
        shape = (count, _CANDIDATES)
        numbers = [np.zeros(shape, np.intp) for _ in range(3)]
        return cls(np.full(shape, -np.inf, np.float32), numbers[0], numbers[1], np.zeros(shape, np.bool_), numbers[2])

    def take(self, some: slice, first: int, products: npt.NDArray[np.float32]) -> None:
        """Put better ones in the place of worse ones.

        Args:
            some: the films.
            first: number of the first of the others that are compared here.
            products: (guises, films, others, windows) correlations; those of inverted films are negative.
        """
        both = np.stack([products.max(3), -products.min(3)])
        per_other = both.reshape(-1, *both.shape[2:]).max(0)
        joined = np.concatenate([self.score[some], per_other], 1)
        chosen = np.argpartition(-joined, _CANDIDATES - 1, axis=1)[:, :_CANDIDATES]
        for row, places in enumerate(chosen):
            at = some.start + row
            fresh = places[places >= _CANDIDATES] - _CANDIDATES
            if not len(fresh):
                continue
            free = np.setdiff1d(np.arange(_CANDIDATES), places)
            sign, guise = np.divmod(both[:, :, row, fresh].reshape(-1, len(fresh)).argmax(0), both.shape[1])
            self.score[at, free], self.other[at, free] = per_other[row, fresh], first + fresh
            self.guise[at, free], self.inverted[at, free] = guise, sign == 1
            of_windows = products[guise, row, fresh] * np.where(sign == 1, -1, 1)[:, None]
            self.window[at, free] = of_windows.argmax(1)


def _candidates(
    upright: list[Pixels],
    others: Pixels,
    itself: npt.NDArray[np.intp] | None,
    tick: Callable[[int], None],
    whole: bool,
) -> _Best:
    """The films that are worth a closer look, by their windows at the coarse level."""
    small = np.stack([COARSE.of(pixels.astype(np.float32)).reshape(len(pixels), -1) for pixels in upright])
    count = small.shape[1]
    best = _Best.empty(count)
    for first in range(0, len(others), _REFERENCES):
        chunk = others[first : first + _REFERENCES]
        parts = COARSE.of(chunk.astype(np.float32))[:, None] if whole else coarse_windows(chunk)
        shape = parts.shape[:2]
        parts = parts.reshape(shape[0] * shape[1], -1)
        for start in range(0, count, _QUERIES):
            some = slice(start, min(start + _QUERIES, count))
            products = (small[:, some] @ parts.T).reshape(len(small), -1, *shape)
            if itself is not None:
                own = itself[some] - first
                here = np.flatnonzero((own >= 0) & (own < len(chunk)))
                products[:, here, own[here]] = np.nan
            best.take(some, first, products)
        tick(len(chunk))
    return best


def _kind(guise: Guise, inverted: bool, window: npt.NDArray[np.float64]) -> str:
    """What was done to a film, in words."""
    words = [f"rotated by {90 * guise.turns} degrees"] if guise.turns else []
    words += ["mirrored"] if guise.mirrored else []
    words += ["inverted"] if inverted else []
    words += ["cropped"] if min(window[1], window[3]) < WHOLE else []
    if not words:
        return NEAR_DUPLICATE
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[:-1] else words)
