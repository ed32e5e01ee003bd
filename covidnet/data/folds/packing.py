"""Pack whole groups of images into folds with exactly equal numbers of every class.

This module works on integers and knows nothing of images, patients or tables. A group is a tuple of image counts, one
per class. Most groups have images of one class. The few that span classes are placed first, then the others, largest
first. Exchanges between bins close the remaining gaps.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Counts = tuple[int, ...]

_ATTEMPTS = 8
_FEW_ATTEMPTS = 2
_MANY_GROUPS = 1000
_COVER_STEPS = 300


@dataclass(frozen=True)
class Packing:
    """The fold of each group, and how many of its images are used.

    Args:
        bin_of: the fold of each group, -1 if the group is left out.
        kept: images used per class of each group; fewer than the group has if it was trimmed.
        per_bin: images of each class in every fold.
    """

    bin_of: list[int]
    kept: list[Counts]
    per_bin: int


def shuffled(names: Sequence[str], *salt: object) -> list[int]:
    """Positions of the names in a random order that depends on the names and the salt, not on the input order.

    Args:
        names: unique names.
        salt: the seed and anything else that distinguishes this order from others.

    Returns:
        A permutation of ``range(len(names))``.

    Example:
        >>> names = ["a", "b", "c", "d"]
        >>> [names[i] for i in shuffled(names, 0)] == [names[::-1][i] for i in shuffled(names[::-1], 0)]
        True
    """
    prefix = "|".join(map(str, salt))
    keys = [hashlib.blake2b(f"{prefix}|{name}".encode(), digest_size=16).digest() for name in names]
    return sorted(range(len(names)), key=keys.__getitem__)


def draw(counts: Sequence[Counts], targets: Sequence[int], order: Sequence[int]) -> list[int]:
    """Take groups in the given order so that every class adds up to its target.

    The walk takes a group unless the remaining groups could then no longer meet the target exactly. So the order
    decides, except for the last few groups, where small ones fit more often than large ones. Classes are processed from
    the scarcest to the largest; a group that spans classes is decided with its scarcest class.

    Args:
        counts: images per class of each group.
        targets: images wanted of each class.
        order: the groups that may be taken, in walking order.

    Returns:
        The taken groups, in walking order within each class. No class exceeds its target. A class stays below it if no
        sum of whole groups meets it, or if a group that spans classes does not fit in its other class.

    Example:
        >>> draw([(3,), (2,), (2,)], [4], [0, 1, 2])
        [1, 2]
        >>> draw([(3,), (2,), (2,)], [6], [0, 1, 2])
        [0, 1]
    """
    left = list(targets)
    totals = [sum(counts[g][c] for g in order) for c in range(len(left))]
    undecided = dict.fromkeys(order)
    taken = []
    for c in sorted(range(len(left)), key=lambda i: (totals[i], i)):
        walk = [g for g in undecided if counts[g][c]]
        within = (1 << (left[c] + 1)) - 1
        sums = [1]  # bit s of the i-th entry from the end: the last i groups can add up to s
        for g in reversed(walk):
            sums.append(sums[-1] | (sums[-1] << counts[g][c]) & within)
        aim = sums.pop().bit_length() - 1
        for g in walk:
            behind = sums.pop()
            rest = aim - counts[g][c]
            if rest >= 0 and behind >> rest & 1 and all(n <= room for n, room in zip(counts[g], left, strict=True)):
                taken.append(g)
                left = [room - n for n, room in zip(counts[g], left, strict=True)]
                aim = rest
            elif not behind >> aim & 1:
                # The group was needed but does not fit in another class: aim for the next lower sum.
                aim = (behind & ((1 << (aim + 1)) - 1)).bit_length() - 1
            del undecided[g]
    return taken


def pack(counts: Sequence[Counts], names: Sequence[str], *, bins: int, seed: int) -> Packing | None:
    """Search for the packing with the most images per class in every bin.

    For each size the search tries whole groups first, then trims some groups, and only then tries a smaller size. The
    search is a heuristic (the problem is NP-hard) and is deterministic.

    Args:
        counts: images per class of each group.
        names: a name for each group; the random draw depends on the names and the seed.
        bins: how many bins.
        seed: another seed gives another draw.

    Returns:
        The packing, or None if not even one image of each class fits in every bin.

    Example:
        >>> found = pack([(2,), (1,), (1,), (3,)], ["a", "b", "c", "d"], bins=2, seed=0)
        >>> found.per_bin, sorted(found.kept)
        (3, [(0,), (1,), (2,), (3,)])
    """
    top = min(sum(column) for column in zip(*counts, strict=True)) // bins
    # With many groups nearly every draw can be packed, and attempts are slow: more attempts would not find more.
    attempts = _ATTEMPTS if len(counts) < _MANY_GROUPS else _FEW_ATTEMPTS
    found = _best(counts, names, bins, top, seed, attempts)
    if found is not None:
        return found
    # With trimming, every size below a feasible one is feasible too, so binary search works. A few attempts suffice for
    # it; the final steps up are worth more.
    low, high = 0, top
    while high - low > 1:
        middle = (low + high) // 2
        if _best(counts, names, bins, middle, seed, _FEW_ATTEMPTS) is None:
            high = middle
        else:
            low = middle
    for per_bin in range(low, top):
        better = _best(counts, names, bins, per_bin, seed, attempts)
        if better is None and per_bin > low:
            break
        found = better
    return found


def _best(
    counts: Sequence[Counts], names: Sequence[str], bins: int, per_bin: int, seed: int, attempts: int
) -> Packing | None:
    """The first packing of whole groups found, else the one that trims the fewest images, else None."""
    if per_bin < 1 or any(
        sum(min(n, per_bin) for n in column) < bins * per_bin for column in zip(*counts, strict=True)
    ):
        return None
    best = None
    least = 0 if _whole_is_possible(counts, bins, per_bin) else 1
    for attempt in range(attempts):
        found = _Bins(counts, bins, per_bin, shuffled(names, seed, attempt)).fill()
        if found is not None and (best is None or _trimmed(counts, found) < _trimmed(counts, best)):
            best = found
        # If whole groups cannot fill the bins, more attempts would save only a few images.
        if best is not None and (_trimmed(counts, best) <= least or (least and attempt + 1 >= _FEW_ATTEMPTS)):
            break
    return best


def _trimmed(counts: Sequence[Counts], packing: Packing) -> int:
    return sum(
        sum(whole) - sum(kept)
        for whole, kept, home in zip(counts, packing.kept, packing.bin_of, strict=True)
        if home >= 0
    )


def _whole_is_possible(counts: Sequence[Counts], bins: int, per_bin: int) -> bool:
    """False if, for some class, no choice of whole groups can fill one bin, or all bins."""
    for c in range(len(counts[0])):
        sizes = Counter(count[c] for count in counts if count[c] and max(count) <= per_bin)
        for goal in (per_bin, bins * per_bin):
            sums = 1
            for size, many in sizes.items():
                for _ in range(min(many, goal // size)):
                    sums |= sums << size & ((1 << (goal + 1)) - 1)
            if not sums >> goal & 1:
                return False
    return True


class _Bins:
    """Bins being filled: the room left per bin and class, and the bin of every group."""

    def __init__(self, counts: Sequence[Counts], bins: int, per_bin: int, order: Sequence[int]) -> None:
        self.counts = counts
        self.per_bin = per_bin
        # A group larger than a bin is cut to the bin's size and comes last, since it cannot be used whole.
        self.sizes = [tuple(min(n, per_bin) for n in count) for count in counts]
        self.order = sorted(order, key=lambda g: self.sizes[g] != counts[g])
        self.room = [[per_bin] * len(counts[0]) for _ in range(bins)]
        self.bin_of = [-1] * len(counts)
        self.kept: list[Counts] = [(0,) * len(counts[0])] * len(counts)

    def fill(self) -> Packing | None:
        """Fill all bins completely, or return None."""
        rank = {g: i for i, g in enumerate(self.order)}
        drawn = draw(self.sizes, [sum(column) for column in zip(*self.room, strict=True)], self.order)
        # Largest first, so that small groups can fill the gaps that large ones leave.
        for g in sorted(drawn, key=lambda g: (-sum(n > 0 for n in self.sizes[g]), -sum(self.sizes[g]), rank[g])):
            self._place(g)
        if not self._cover():
            return None
        self._trim()
        return Packing(self.bin_of, self.kept, self.per_bin)

    def _put(self, g: int, home: int, kept: Counts) -> None:
        self.bin_of[g], self.kept[g] = home, kept
        self.room[home] = [room - n for room, n in zip(self.room[home], kept, strict=True)]

    def _take(self, g: int) -> None:
        home = self.bin_of[g]
        self.room[home] = [room + n for room, n in zip(self.room[home], self.kept[g], strict=True)]
        self.bin_of[g], self.kept[g] = -1, (0,) * len(self.room[home])

    def _place(self, g: int) -> None:
        """Put the group in the bin where the most room remains, or in none if it does not fit."""
        size = self.sizes[g]
        spare = [min(room - n for room, n in zip(rooms, size, strict=True) if n) for rooms in self.room]
        home = max(range(len(spare)), key=spare.__getitem__)
        if spare[home] >= 0:
            self._put(g, home, size)

    def _cover(self) -> bool:
        """Add, move and swap groups until no bin has a gap; bins may overflow. False if the search gets stuck."""
        for _ in range(_COVER_STEPS):
            gaps = [(-room, b, c) for b, rooms in enumerate(self.room) for c, room in enumerate(rooms) if room > 0]
            if not gaps:
                return True
            if not any(self._exchange(b, c) for _, b, c in sorted(gaps)):
                return False
        return False

    def _exchange(self, b: int, c: int) -> bool:
        """Bring a group into bin b, alone or in a swap, so that the sum of squared gaps shrinks most. False if none."""
        # Groups with equal counts in the same bin are interchangeable: try one of each.
        alike = {(self.bin_of[g], self.sizes[g]): g for g in reversed(self.order)}
        incoming = [g for (home, size), g in alike.items() if home != b and size[c]]
        if not incoming:
            return False
        outgoing = [g for (home, _), g in alike.items() if home == b]
        come = np.array([self.sizes[g] for g in incoming])
        go = np.array([(0,) * come.shape[1], *(self.sizes[g] for g in outgoing)])[:, None]
        # The left-out groups count as a bin that never has a gap.
        room = np.array([*self.room, (-(10**9),) * come.shape[1]])
        there = room[[self.bin_of[g] for g in incoming]]

        def gap(rooms: np.ndarray) -> np.ndarray:
            return (np.maximum(rooms, 0) ** 2).sum(axis=-1)

        change = gap(room[b] + go - come) - gap(room[b]) + gap(there + come - go) - gap(there)
        # Break ties by the least overflow, so that little has to be trimmed.
        excess = np.maximum(come - go - room[b], 0).sum(axis=-1)
        best = np.lexsort((excess.ravel(), change.ravel()))[0]
        if change.flat[best] >= 0:
            return False
        out, into = divmod(int(best), len(incoming))
        g, home = incoming[into], self.bin_of[incoming[into]]
        if home >= 0:
            self._take(g)
        if out:
            h = outgoing[out - 1]
            self._take(h)
            if home >= 0:
                self._put(h, home, self.sizes[h])
        self._put(g, b, self.sizes[g])
        return True

    def _trim(self) -> None:
        """Remove the overflow: first whole groups that are not needed, then parts of as few groups as possible."""
        for g in reversed(self.order):
            rooms = self.room[self.bin_of[g]]
            if self.bin_of[g] >= 0 and all(n <= -room for n, room in zip(self.kept[g], rooms, strict=True) if n):
                self._take(g)
        for b, rooms in enumerate(self.room):
            inside = [g for g in self.order if self.bin_of[g] == b]
            for c in range(len(rooms)):
                for g in sorted(inside, key=lambda g: -self.kept[g][c]):
                    cut = min(self.kept[g][c], -self.room[b][c])
                    if not cut:
                        continue
                    kept = tuple(n - cut * (i == c) for i, n in enumerate(self.kept[g]))
                    self._take(g)
                    if any(kept):
                        self._put(g, b, kept)
