"""Images that look the same around some places: a short list of likely copies, without a comparison of all pairs."""

from __future__ import annotations

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
"""Places of an image: the strongest spots of its detail, bright and dark ones."""

_DETAIL = Level(SIDE, 3.0)
_SMOOTH = 1.0
_MARGIN = 5

# A patch has 12 x 12 points, every second pixel around a place, and is described by its lowest frequencies.
_REACH = 11
_ORDER = 5
_WIDTH = 0.35

# A part that lost a fifth of each side shows its patches larger, by a quarter: those of the others are read twice.
_ZOOMS = (1.0, 1.18)

# From this correlation on two patches are alike.
_ALIKE = 0.85

# A place of an image and of a part of it are no further apart than that, in pixels of the 64.
_FAR = 14

# Only patches with equal bits are compared. The number of bits grows with that of the images, so that about as many
# patches share them as before. Bits that many more share tell nothing. Those nearest to the other side are tried both
# ways.
_SHARE = 32
_COMMON = 8
_FLIPPED = 3


@dataclass(frozen=True)
class Landmarks:
    """The places of N images.

    Args:
        patches: (zooms, N, `PLACES`, D) float32, what is around each place, the same for an inverted image.
        at: (N, `PLACES`, 2) int16, row and column in pixels of the 64.
    """

    patches: Floats
    at: npt.NDArray[np.int16]

    @classmethod
    def of(cls, pixels: Pixels, zooms: tuple[float, ...] = (1.0,)) -> Landmarks:
        """Find the places of thumbnails.

        Args:
            pixels: (N, 64, 64) uint8.
            zooms: by which patches are enlarged.
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
    """The places of many images, found again by hash bits of their patches.

    The bits are signs of projections, of which those nearest to 0 are tried both ways; work for an image does not grow
    with the number of images.

    Args:
        pixels: (M, 64, 64) uint8.

    Source: Lv et al. 2007, Multi-probe LSH, https://dl.acm.org/doi/10.5555/1325851.1325958
    """

    def __init__(self, pixels: Pixels) -> None:
        self.count = len(pixels)
        with threadpool_limits(1, "blas"):
            places = Landmarks.of(pixels, _ZOOMS)
        every = places.patches.reshape(-1, places.patches.shape[-1])
        # Of waves that mirroring turns round the mean is 0, so that a mirrored patch has the same whiteness.
        even = _waves()[1] > 0
        self._mean = np.where(even, every.mean(0), 0.0).astype(np.float32) if len(every) else np.float32(0.0)
        self._spread = (every.std(0) if len(every) else np.float32(0.0)) + np.float32(1e-6)
        dims = every.shape[1]
        bits = min(dims, max(_FLIPPED, int(np.ceil(np.log2(max(len(every) / _SHARE, 1.0))))))
        turned = np.linalg.qr(np.random.default_rng(0).normal(size=(dims, dims)))[0]
        self._planes = turned[:, :bits].astype(np.float32)
        self._weights = 1 << np.arange(bits)
        white = self._white(every)
        codes = (white @ self._planes > 0) @ self._weights
        order = np.argsort(codes, kind="stable")
        self._patches = white[order]
        self._starts = np.searchsorted(codes[order], np.arange((1 << bits) + 1))
        place = order % max(self.count * PLACES, 1)
        self._image, self._at = place // PLACES, places.at.reshape(-1, 2)[place]

    def likely(self, pixels: Pixels, count: int, itself: Ints | None = None) -> tuple[Ints, Ints, Ints, Ints]:
        """The images that share most places with others, as they are, inverted or mirrored, whole or in part.

        Args:
            pixels: (N, 64, 64) uint8.
            count: of the others for each image, at most.
            itself: (N,) which of the others an image is, so that it is not told of itself.

        Returns:
            Four arrays of one length, sorted by image, the most alike first: the image, the other, 1 where it was
            mirrored, and how many pairs of places are alike.
        """
        image, other, mirrored, votes = self._shared(Landmarks.of(pixels))
        if itself is not None:
            apart = itself[image] != other
            image, other, mirrored, votes = (part[apart] for part in (image, other, mirrored, votes))
        order = np.lexsort((mirrored, other, -votes, image))
        sorted_image = image[order]
        kept = order[np.arange(len(order)) - np.searchsorted(sorted_image, sorted_image) < count]
        return image[kept], other[kept], mirrored[kept], votes[kept]

    def _shared(self, places: Landmarks) -> tuple[Ints, Ints, Ints, Ints]:
        """Image, other, mirrored, and pairs of places, for all that share one."""
        patches, at = places.patches[0].reshape(-1, places.patches.shape[-1]), places.at.reshape(-1, 2)
        where = np.concatenate([at, at * [1, -1] + [0, SIDE - 1]])
        white = self._white(np.concatenate([patches, patches * _waves()[1]]))
        codes, asked = self._asked(white)
        cells, begins = np.unique(codes, return_index=True)
        ranges = (begins, np.append(begins[1:], len(codes)), self._starts[cells], self._starts[cells + 1])
        found = [np.zeros(0, np.intp)]
        for begin, end, low, high in zip(*(part.tolist() for part in ranges), strict=True):
            if not 0 < high - low <= _COMMON * _SHARE:
                continue
            here = asked[begin:end]
            one, two = np.nonzero(white[here] @ self._patches[low:high].T > _ALIKE)
            one, two = here[one], two + low
            near = (np.abs(where[one] - self._at[two]) <= _FAR).all(1)
            found.append(one[near] // PLACES * self.count + self._image[two[near]])
        pairs, votes = np.unique(np.concatenate(found), return_counts=True)
        guise, other = np.divmod(pairs, max(self.count, 1))
        mirrored, image = np.divmod(guise, max(len(places.at), 1))
        return image, other, mirrored, votes

    def _asked(self, white: Floats) -> tuple[Ints, Ints]:
        """The bits that are looked up, sorted, and the patch of each."""
        side = white @ self._planes
        nearest = np.argpartition(np.abs(side), _FLIPPED - 1, axis=1)[:, :_FLIPPED]
        codes = ((side > 0) @ self._weights)[:, None]
        for flip in self._weights[nearest].T:
            codes = np.concatenate([codes, codes ^ flip[:, None]], 1)
        order = np.argsort(codes.ravel(), kind="stable")
        return codes.ravel()[order], order // codes.shape[1]

    def _white(self, patches: Floats) -> Floats:
        """Patches of length 1 in which every wave tells as much as another, so that a product is a correlation."""
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
    """(points, D) waves of a patch under a bell, and (D,) the sign that mirroring gives each."""
    points = _REACH + 1
    point = np.arange(points)
    wave = np.cos(np.pi * (point[:, None] + 0.5) * point / points)
    bell = np.exp(-0.5 * ((point - _REACH / 2) / (_WIDTH * points)) ** 2)
    kept = [(u, v) for u in range(points) for v in range(points) if 0 < u + v <= _ORDER]
    basis = np.stack([np.outer(wave[:, u] * bell, wave[:, v] * bell).ravel() for u, v in kept], 1)
    return basis.astype(np.float32), np.array([(-1.0) ** v for _, v in kept], np.float32)
