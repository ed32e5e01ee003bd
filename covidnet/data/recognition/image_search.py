"""Find images that are windows of other images, however transformed: an index, then coarse and fine comparison."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from covidnet.base.progress import available_cores
from covidnet.data.reading.thumbnails import SIDE, Pixels
from covidnet.data.recognition.alignment import COARSE, FINE, MIDDLE, WHOLE, coarse_windows, refine, windows
from covidnet.data.recognition.landmarks import Ints, LandmarkIndex
from covidnet.data.recognition.tilt import ANGLES, ROUGH, centres, similarity, straightened

NEAR_DUPLICATE = "near-duplicate"

COLUMNS = ("image", "other", "kind", "similarity")

CANDIDATES = 6
"""Candidates per image that are compared at the finer levels."""

# Candidates per image whose windows are compared: those that share most landmarks.
_LIKELY = 24

# A rotated image is matched as a whole, so it shares most of its landmarks.
_LIKELY_TURNED, _SHARED_TURNED = 3, 8

# Candidates per image that may be tilted: those that share most landmarks.
_TILTED, _SHARED_TILTED = 6, 4

# A smaller angle is no tilt, in degrees.
_STRAIGHT = 1.0

# A pair whose best window is this far below the limit at the coarse level does not reach the limit.
_ROUGH = 0.17

# A pair this far below the limit at the middle level does not reach it at the fine level.
_PROMISING = 0.07

# Chunk sizes of images, others and pairs, so that memory does not grow with their number.
_IMAGES, _OTHERS, _PAIRS = 512, 64, 128


@dataclass(frozen=True)
class Guise:
    """How an image was transformed before it was cropped: mirrored first, then turned or tilted."""

    mirrored: bool = False
    turns: int = 0
    tilted: bool = False


_WHOLE_WINDOW = np.array([0.0, SIDE, 0.0, SIDE])


UPRIGHT = (0,)
"""The turns by 90 degrees to try, mirrored and not."""

TURNED = (1, 2, 3)


def search(
    images: Pixels,
    others: Pixels,
    index: LandmarkIndex,
    turns: tuple[int, ...],
    limit: float,
    *,
    tilted: float | None = None,
    kin: tuple[Ints, Ints] | None = None,
    tick: Callable[[int], None] = lambda count: None,
) -> pd.DataFrame:
    """Find every image that is a window of another, or, turned, the whole of another.

    Args:
        images: (N, 64, 64).
        others: (M, 64, 64).
        index: of the others.
        turns: the turns to try: `UPRIGHT` or `TURNED`.
        limit: the lowest similarity of a match.
        tilted: that of an image turned by up to 10 degrees; None leaves these out.
        kin: (N,) and (M,) the groups of images and others; those of one group are not compared.
        tick: called with the number of images just searched.
    """
    # There are many small products: BLAS threads within each would only wait for one another.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(available_cores()) as pool:
        tables = []
        for turn in turns:
            upright = np.ascontiguousarray(np.rot90(images, -turn, axes=(1, 2)))
            pairs = _likely(upright, index, turn, kin, pool, tick)
            tables.append(_compared(upright, others, pairs, limit, pool))
            if tilted is not None and not turn:
                tables.append(_tilted(upright, others, pairs.without(tables[-1]), tilted, pool))
    return pd.concat(tables, ignore_index=True)


def table_of(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows as a table of `COLUMNS`, with the same types even without rows.

    Args:
        rows: index of the image, index of the other, kind, similarity.
    """
    kinds = {"image": np.intp, "other": np.intp, "kind": object, "similarity": np.float64}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)


@dataclass(frozen=True)
class _Pairs:
    """Pairs to compare, by image and the likeliest first.

    Indices of image and other, whether the image is mirrored, shared landmarks, and the image's turns by 90 degrees.
    """

    image: Ints
    other: Ints
    mirrored: npt.NDArray[np.bool_]
    votes: Ints
    turns: int

    def without(self, found: pd.DataFrame) -> _Pairs:
        """The pairs that may be tilted, without those that were found as they are."""
        rank = np.arange(len(self.image)) - np.searchsorted(self.image, self.image)
        known = set(zip(found["image"], found["other"], strict=True))
        new = [pair not in known for pair in zip(self.image.tolist(), self.other.tolist(), strict=True)]
        left = (rank < _TILTED) & (self.votes >= _SHARED_TILTED) & np.array(new, bool)
        return _Pairs(self.image[left], self.other[left], self.mirrored[left], self.votes[left], self.turns)


def _likely(
    upright: Pixels,
    index: LandmarkIndex,
    turns: int,
    kin: tuple[Ints, Ints] | None,
    pool: ThreadPoolExecutor,
    tick: Callable[[int], None],
) -> _Pairs:
    """The candidate pairs from the index, by image."""

    def look(start: int) -> tuple[int, tuple[Ints, Ints, Ints, Ints]]:
        some = slice(start, start + _IMAGES)
        count = _LIKELY_TURNED if turns else _LIKELY
        return start, index.likely(upright[some], count, None if kin is None else (kin[0][some], kin[1]))

    found = [np.zeros((4, 0), np.intp)]
    for start, (image, other, mirrored, votes) in pool.map(look, range(0, len(upright), _IMAGES)):
        found.append(np.stack([image + start, other, mirrored, votes]))
        tick(min(_IMAGES, len(upright) - start))
    image, other, mirrored, votes = np.concatenate(found, axis=1)
    sure = votes >= (_SHARED_TURNED if turns else 1)
    return _Pairs(image[sure], other[sure], mirrored[sure] == 1, votes[sure], turns)


def _compared(upright: Pixels, others: Pixels, pairs: _Pairs, limit: float, pool: ThreadPoolExecutor) -> pd.DataFrame:
    """The pairs that reach the limit, refined from their best window at the coarse level."""
    rough, first = _coarse(upright, others, pairs, pool)
    order = np.lexsort((-np.abs(rough), pairs.image))
    rank = np.arange(len(order)) - np.searchsorted(pairs.image[order], pairs.image[order])
    kept = order[(rank < CANDIDATES) & (np.abs(rough[order]) >= limit - _ROUGH)]
    image, other, mirrored, inverted = pairs.image[kept], pairs.other[kept], pairs.mirrored[kept], rough[kept] < 0

    def align(start: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        some = slice(start, start + _PAIRS)
        inner, outer = upright[image[some]], others[other[some]]
        inner[mirrored[some]] = inner[mirrored[some]][:, :, ::-1]
        inner[inverted[some]] = 255 - inner[inverted[some]]
        score, window = refine(inner, outer, windows()[first[kept[some]]], [(COARSE, 3), (MIDDLE, 3)])
        good = np.flatnonzero(score >= limit - _PROMISING)
        fine = np.full(len(inner), -1.0)
        if len(good):
            fine[good], window[good] = refine(inner[good], outer[good], window[good], [(FINE, 4)])
        return fine, window

    rows = []
    for start, (score, window) in zip(
        range(0, len(kept), _PAIRS), pool.map(align, range(0, len(kept), _PAIRS)), strict=True
    ):
        for n in np.flatnonzero(score >= limit):
            guise = Guise(bool(mirrored[start + n]), pairs.turns)
            kind = _kind(guise, bool(inverted[start + n]), window[n])
            rows.append((image[start + n], other[start + n], kind, min(float(score[n]), 1.0)))
    return table_of(rows)


def _tilted(upright: Pixels, others: Pixels, pairs: _Pairs, limit: float, pool: ThreadPoolExecutor) -> pd.DataFrame:
    """The pairs of which one is the other turned by a few degrees."""
    starts = range(0, len(others), _IMAGES)
    squares = [np.zeros((0, COARSE.side**2), np.float32)]
    squares += pool.map(lambda start: centres(others[start : start + _IMAGES]), starts)
    middle = np.concatenate(squares)

    def look(start: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        some = slice(*np.searchsorted(pairs.image, [start, start + _OTHERS]))
        for n in range(2):
            here = np.flatnonzero(pairs.mirrored[some] == n) + some.start
            wanted, place = np.unique(pairs.image[here], return_inverse=True)
            if not len(wanted):
                continue
            shown = np.ascontiguousarray(upright[wanted][:, :, :: 1 - 2 * n])
            products = np.einsum("pad,pd->pa", straightened(shown)[place], middle[pairs.other[here]])
            best = np.abs(products).argmax(1)
            rough = products[np.arange(len(best)), best]
            for at in np.flatnonzero(np.abs(rough) >= ROUGH):
                inverted = bool(rough[at] < 0)
                image = 255 - shown[place[at]] if inverted else shown[place[at]]
                score, angle = similarity(image, others[pairs.other[here[at]]], ANGLES[best[at]])
                if score >= limit:
                    guise = Guise(bool(n), 0, abs(angle) >= _STRAIGHT)
                    kind = _kind(guise, inverted, _WHOLE_WINDOW)
                    rows.append((pairs.image[here[at]], pairs.other[here[at]], kind, min(score, 1.0)))
        return rows

    return table_of([row for rows in pool.map(look, range(0, len(upright), _OTHERS)) for row in rows])


def _coarse(
    upright: Pixels, others: Pixels, pairs: _Pairs, pool: ThreadPoolExecutor
) -> tuple[npt.NDArray[np.float32], Ints]:
    """The correlation of each pair at its best window (negative if inverted), and the index of that window."""
    small = np.empty((2, len(upright), COARSE.side**2), np.float32)
    for start in range(0, len(upright), _IMAGES):
        some = slice(start, start + _IMAGES)
        squares = COARSE.of(upright[some].astype(np.float32))
        small[0, some], small[1, some] = (part.reshape(len(part), -1) for part in (squares, squares[:, :, ::-1]))
    score, window = np.zeros(len(pairs.image), np.float32), np.zeros(len(pairs.image), np.intp)
    order = np.argsort(pairs.other, kind="stable")
    wanted, begins = np.unique(pairs.other[order], return_index=True)
    ends = np.append(begins[1:], len(order))

    def compare(start: int) -> None:
        some = slice(start, start + _OTHERS)
        chunk = others[wanted[some]]
        # A turned image is matched as a whole, so its smaller windows are not tried.
        parts = COARSE.of(chunk.astype(np.float32)).reshape(len(chunk), 1, -1) if pairs.turns else coarse_windows(chunk)
        for part, begin, end in zip(parts, begins[some].tolist(), ends[some].tolist(), strict=True):
            here = order[begin:end]
            products = small[pairs.mirrored[here].astype(np.intp), pairs.image[here]] @ part.T
            best = np.abs(products).argmax(1)
            score[here], window[here] = products[np.arange(len(here)), best], best

    for _ in pool.map(compare, range(0, len(wanted), _OTHERS)):
        pass
    return score, window


def _kind(guise: Guise, inverted: bool, window: npt.NDArray[np.float64]) -> str:
    """How an image was transformed, in words."""
    words = [f"rotated by {90 * guise.turns} degrees"] if guise.turns else []
    words += ["tilted"] if guise.tilted else []
    words += ["mirrored"] if guise.mirrored else []
    words += ["inverted"] if inverted else []
    words += ["cropped"] if min(window[1], window[3]) < WHOLE else []
    if not words:
        return NEAR_DUPLICATE
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[:-1] else words)
