"""Grey ranks against SciPy's, and their invariances."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from covidnet.gate.ranks import CELLS, ranked, turned


def pictures(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64), np.uint8)


def test_ranks_are_scipys_mean_ranks_of_the_cells() -> None:
    thumbnails = pictures()
    thumbnails[:, :20] = 0  # equal cells
    cells = thumbnails.reshape(5, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(5, -1)
    ranks = rankdata(cells, axis=1) - (CELLS**2 + 1) / 2
    found = ranked(thumbnails).reshape(5, -1)
    assert np.allclose(found, ranks * np.sqrt(12) / 255, atol=1e-5)


def test_a_picture_without_equal_cells_has_mean_0_and_deviation_1() -> None:
    found = ranked((np.add.outer(16 * np.arange(64), np.arange(64)) // 4).astype(np.uint8)[None])
    assert abs(found.mean()) < 1e-5
    ramp = np.repeat(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 4, axis=0), 4, axis=1)
    assert np.isclose(ranked(ramp[None]).std(), np.sqrt((256**2 - 1) / 255**2))


def test_exposure_changes_no_rank_and_inversion_negates_all() -> None:
    flat = np.repeat(np.repeat(np.random.default_rng(1).permutation(256).reshape(16, 16), 4, 0), 4, 1)
    thumbnails = flat.astype(np.uint8)[None]
    darker = np.floor(flat.astype(float) / 2 + 100).astype(np.uint8)[None]
    assert np.abs(ranked(darker) - ranked(thumbnails)).max() <= 0.5 * np.sqrt(12) / 255 + 1e-6  # pairs become equal
    assert np.allclose(ranked(255 - thumbnails), -ranked(thumbnails), atol=1e-6)


def test_turning_the_thumbnail_turns_its_ranks_in_the_stated_order() -> None:
    thumbnails = pictures()
    thumbnails[:, 30:] = 9
    ways = turned(ranked(thumbnails))
    for k in range(4):
        turn = np.rot90(thumbnails, k, axes=(1, 2))
        assert np.allclose(ways[:, k], ranked(turn), atol=1e-6)
        assert np.allclose(ways[:, 4 + k], ranked(255 - turn), atol=1e-6)
