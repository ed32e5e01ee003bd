"""Find likely copies by shared landmarks, without comparing all pairs of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from covidnet.data.reading.thumbnails import SIDE, Pixels
from covidnet.data.recognition.alignment import Floats, Level, gaussian

Ints = npt.NDArray[np.intp]

PLACES = 32
"""Landmarks per image: the places with the strongest detail, bright or dark."""

_DETAIL = Level(SIDE, 3.0)
_SMOOTH = 1.0
_MARGIN = 5

# A patch has 12 x 12 points, every second pixel around a landmark, and is described by its lowest frequencies.
_REACH = 11
_ORDER = 5
_WIDTH = 0.35

# Cropping a fifth off each side enlarges patches by a quarter, so patches of the others are read at two zooms.
_ZOOMS = (1.0, 1.18)

# Two patches match above this correlation.
_ALIKE = 0.85

# The most that a landmark moves when an image is cropped, in pixels of the 64.
_FAR = 14

# Only patches with equal hash bits are compared. The number of bits grows with the number of images, so that about
# _SHARE patches have the same bits. Bits shared by more than _COMMON times as many are uninformative and skipped. The
# _FLIPPED least certain bits of a query are tried both ways.
_SHARE = 32
_COMMON = 8
_FLIPPED = 3

# Patches that are whitened at a time, so that memory does not grow with their number.
_PATCHES = 1 << 14

# Patches of equal bits are compared in blocks of so many queries and so many indexed ones, many blocks in one product.
# The larger the index, the fewer queries share their bits, and a product for each code would take most of the time.
_ROWS, _COLUMNS, _BLOCKS = 8, 32, 512


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of N images.

    Args:
        patches: (zooms, N, `PLACES`, D) float32, descriptors of the landmarks, equal for an inverted image.
        at: (N, `PLACES`, 2) int16, row and column in pixels of the 64.
    """

    patches: Floats
    at: npt.NDArray[np.int16]

    @classmethod
    def of(cls, pixels: Pixels, zooms: tuple[float, ...] = (1.0,)) -> Landmarks:
        """Find the landmarks of thumbnails.

        Args:
            pixels: (N, 64, 64) uint8.
            zooms: the factors by which patches are enlarged.
        """
        waves = _waves()[0]
        patches = np.empty((len(zooms), len(pixels), PLACES, waves.shape[1]), np.float32)
        at = np.empty((len(pixels), PLACES, 2), np.int16)
        blur, around = gaussian(SIDE, _SMOOTH), np.arange(-_REACH, _REACH + 1, 2)
        for start in range(0, len(pixels), 64):
            some = slice(start, start + 64)
            detail = blur @ _DETAIL.of(pixels[some].astype(np.float32)) @ blur.T
            row, column = _peaks(np.abs(detail))
            at[some] = np.stack([row, column], -1)
            image = np.arange(len(detail))[:, None]
            sign = np.sign(detail[image, row, column])[..., None]
            wide = np.pad(detail, ((0, 0), (_REACH, _REACH), (_REACH, _REACH)), mode="reflect")
            width = wide.shape[2]
            centre = (image * width + row + _REACH) * width + column + _REACH
            for n, zoom in enumerate(zooms):
                steps = (np.sign(around) * np.round(np.abs(around) / zoom)).astype(np.intp)
                offsets = (steps[:, None] * width + steps).ravel()
                patches[n, some] = (wide.ravel()[centre[..., None] + offsets] * sign) @ waves
        return cls(patches, at)


class LandmarkIndex:
    """The landmarks of many images, looked up by hash bits of their patches.

    The bits are signs of projections; those nearest to 0 are tried both ways. The work per query does not grow with the
    number of images.

    Args:
        pixels: (M, 64, 64) uint8.

    Source: Lv et al. 2007, Multi-probe LSH, https://dl.acm.org/doi/10.5555/1325851.1325958
    """

    def __init__(self, pixels: Pixels) -> None:
        self.count = len(pixels)
        with threadpool_limits(1, "blas"):
            places = Landmarks.of(pixels, _ZOOMS)
        every = places.patches.reshape(-1, places.patches.shape[-1])
        dims = every.shape[1]
        sums = np.zeros((2, dims))
        for start in range(0, len(every), _PATCHES):
            exact = every[start : start + _PATCHES].astype(np.float64)
            sums += exact.sum(0), (exact * exact).sum(0)
        mean, square = sums / max(len(every), 1)
        # The mean of waves that change sign under mirroring is set to 0, so that a mirrored patch is whitened alike.
        self._mean = np.where(_waves()[1] > 0, mean, 0.0).astype(np.float32)
        self._spread = np.sqrt(np.maximum(square - mean * mean, 0.0)).astype(np.float32) + np.float32(1e-6)
        bits = min(dims, max(_FLIPPED, int(np.ceil(np.log2(max(len(every) / _SHARE, 1.0))))))
        turned = np.linalg.qr(np.random.default_rng(0).normal(size=(dims, dims)))[0]
        self._planes = turned[:, :bits].astype(np.float32)
        self._weights = 1 << np.arange(bits)
        # In place and in parts: these are the largest arrays of a search, 5 kB an image.
        codes = np.empty(len(every), np.intp)
        for start in range(0, len(every), _PATCHES):
            some = slice(start, start + _PATCHES)
            every[some] = self._white(every[some])
            codes[some] = (every[some] @ self._planes > 0) @ self._weights
        order = np.argsort(codes, kind="stable")
        # The last block may reach beyond the last patch.
        self._patches = np.zeros((len(every) + _COLUMNS, dims), np.float32)
        np.take(every, order, axis=0, out=self._patches[: len(every)], mode="clip")
        self._starts = np.searchsorted(codes[order], np.arange((1 << bits) + 1))
        place = order % max(self.count * PLACES, 1)
        self._image, self._at = place // PLACES, places.at.reshape(-1, 2)[place]

    def likely(self, pixels: Pixels, count: int, kin: tuple[Ints, Ints] | None = None) -> tuple[Ints, Ints, Ints, Ints]:
        """The indexed images that share most landmarks with each query: as is, inverted or mirrored, whole or cropped.

        Args:
            pixels: (N, 64, 64) uint8, the queries.
            count: the most matches per query.
            kin: (N,) and (M,) the groups of queries and indexed images; images of one group are not matched. Where each
                image is a group of its own, no query matches itself.

        Returns:
            Four arrays of equal length, sorted by image, best match first: the image, the other, 1 if mirrored, and the
            number of matching pairs of landmarks.
        """
        image, other, mirrored, votes = self._shared(Landmarks.of(pixels))
        if kin is not None:
            apart = kin[0][image] != kin[1][other]
            image, other, mirrored, votes = (part[apart] for part in (image, other, mirrored, votes))
        # As one number each, which is faster to sort by than four columns.
        most = votes.max(initial=0)
        order = np.argsort(((image * (most + 1) + most - votes) * self.count + other) * 2 + mirrored)
        sorted_image = image[order]
        kept = order[np.arange(len(order)) - np.searchsorted(sorted_image, sorted_image) < count]
        return image[kept], other[kept], mirrored[kept], votes[kept]

    def _shared(self, places: Landmarks) -> tuple[Ints, Ints, Ints, Ints]:
        """Image, other, mirrored, and matching pairs of landmarks, for all pairs that share one."""
        patches, at = places.patches[0].reshape(-1, places.patches.shape[-1]), places.at.reshape(-1, 2)
        where = np.concatenate([at, at * [1, -1] + [0, SIDE - 1]])
        white = self._white(np.concatenate([patches, patches * _waves()[1]]))
        codes, patch = self._probes(white)
        found = [np.zeros(0, np.intp)]
        for one, two in self._alike(white, codes, patch):
            near = (np.abs(where[one] - self._at[two]) <= _FAR).all(1)
            found.append(one[near] // PLACES * self.count + self._image[two[near]])
        pairs, votes = np.unique(np.concatenate(found), return_counts=True)
        guise, other = np.divmod(pairs, max(self.count, 1))
        mirrored, image = np.divmod(guise, max(len(places.at), 1))
        return image, other, mirrored, votes

    def _alike(self, white: Floats, codes: Ints, patch: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield queries, as rows of `white`, and the indexed patches that match them, for probes sorted by code."""
        cells, begins = np.unique(codes, return_index=True)
        ranges = np.stack([begins, np.append(begins[1:], len(codes)), self._starts[cells], self._starts[cells + 1]])
        size = ranges[3] - ranges[2]
        begin, end, low, high = ranges[:, (size > 0) & (size <= _COMMON * _SHARE)]
        across = -(-(high - low) // _COLUMNS)
        blocks = -(-(end - begin) // _ROWS) * across
        cell = np.repeat(np.arange(len(blocks)), blocks)
        down, right = np.divmod(np.arange(len(cell)) - (np.cumsum(blocks) - blocks)[cell], across[cell])
        row, column = begin[cell] + down * _ROWS, low[cell] + right * _COLUMNS
        shape = (len(self._patches) - _COLUMNS + 1, _COLUMNS, self._patches.shape[1])
        steps = self._patches.strides
        windows = np.lib.stride_tricks.as_strided(self._patches, shape, (steps[0], *steps), writeable=False)
        for start in range(0, len(cell), _BLOCKS):
            some = slice(start, start + _BLOCKS)
            rows = np.minimum(row[some, None] + np.arange(_ROWS), len(patch) - 1)
            products = white[patch[rows]] @ windows[column[some]].swapaxes(1, 2)
            rest, right = np.divmod(np.flatnonzero(products > _ALIKE), _COLUMNS)
            block, down = np.divmod(rest, _ROWS)
            block += start
            one, two = row[block] + down, column[block] + right
            inside = (one < end[cell[block]]) & (two < high[cell[block]])
            yield patch[one[inside]], two[inside]

    def _probes(self, white: Floats) -> tuple[Ints, Ints]:
        """The hash codes to look up, sorted, and the patch of each."""
        side = white @ self._planes
        nearest = np.argpartition(np.abs(side), _FLIPPED - 1, axis=1)[:, :_FLIPPED]
        codes = ((side > 0) @ self._weights)[:, None]
        for flip in self._weights[nearest].T:
            codes = np.concatenate([codes, codes ^ flip[:, None]], 1)
        order = np.argsort(codes.ravel(), kind="stable")
        return codes.ravel()[order], order // codes.shape[1]

    def _white(self, patches: Floats) -> Floats:
        """Whitened patches of length 1: every wave has equal weight, and a product is a correlation."""
        white = (patches - self._mean) / self._spread
        white /= np.maximum(np.linalg.norm(white, axis=-1, keepdims=True), np.float32(1e-9))
        return white


def _peaks(size: Floats) -> tuple[Ints, Ints]:
    """(N, PLACES) rows and columns of the largest local maxima of (N, 64, 64), away from the border."""
    size[:, :_MARGIN] = size[:, -_MARGIN:] = size[:, :, :_MARGIN] = size[:, :, -_MARGIN:] = 0.0
    around = np.stack([cv2.dilate(one, np.ones((5, 5), np.uint8)) for one in size])
    flat = np.where(size == around, size, np.float32(0.0)).reshape(len(size), -1)
    row, column = np.divmod(np.argpartition(-flat, PLACES - 1, axis=1)[:, :PLACES], SIDE)
    return row, column


@lru_cache
def _waves() -> tuple[Floats, Floats]:
    """(points, D) cosine waves of a patch under a bell, and (D,) the sign of each under mirroring."""
    points = _REACH + 1
    point = np.arange(points)
    wave = np.cos(np.pi * (point[:, None] + 0.5) * point / points)
    bell = np.exp(-0.5 * ((point - _REACH / 2) / (_WIDTH * points)) ** 2)
    kept = [(u, v) for u in range(points) for v in range(points) if 0 < u + v <= _ORDER]
    basis = np.stack([np.outer(wave[:, u] * bell, wave[:, v] * bell).ravel() for u, v in kept], 1)
    return basis.astype(np.float32), np.array([(-1.0) ** v for _, v in kept], np.float32)
