"""The paper's Figures 4 and 5 as tables: what it shows as pictures, measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from covidnet.report.summary import Summary, at

MAPS = ("model", "centre", "mean_map", "chance", "difference", "difference_chance")
"""The model's maps, the centre prior, the mean of the model's other maps, chance, and the model minus the centre prior
and minus chance."""

_COLUMNS = ["measure", "map", "published", "ours", "ci_low", "ci_high", "method", "n", "name", "source"]

# On five images each map covers "at least one or more of the critical regions".
_PUBLISHED = {("touch", "model"): 1.0}


def figure4(summary: Summary) -> pd.DataFrame:
    """Where the heat of unseen images lies, and how much of the maps is left when the network is re-initialised.

    Args:
        summary: of a sweep.

    Returns:
        One row per measure and map, in the columns of the paper's other tables; the paper gives no number.
    """
    rows = [_row(summary, "lung_share", name, "Figure 4") for name in MAPS]
    retained = at(summary, "explanations", "sanity", "retained") or {}
    images = at(summary, "explanations", "sanity", "n")
    for key, name in (
        ("ssim", "similarity left when re-initialised, SSIM"),
        ("rank", "similarity left when re-initialised, rank correlation"),
    ):
        rows.append(_cells(summary, name, "model", {**(retained.get(key) or {}), "n": images}, "Figure 4"))
    return pd.DataFrame(rows, columns=_COLUMNS)


def figure5(summary: Summary) -> pd.DataFrame:
    """How the maps lie on known lesions: the paper's own criterion first, then those that say more.

    Args:
        summary: of a sweep.

    Returns:
        One row per measure and map, in the columns of the paper's other tables.
    """
    measures = ("touch", "pointing", "iou", "lesion_share")
    return pd.DataFrame(
        [
            _row(summary, measure, name, "Figure 5")
            for measure in measures
            for name in MAPS
            # Chance has no threshold, so no hot part that could touch or overlap.
            if measure not in ("touch", "iou") or "chance" not in name
        ],
        columns=_COLUMNS,
    )


def _row(summary: Summary, measure: str, name: str, source: str) -> Sequence[Any]:
    found = at(summary, "explanations", "localisation", "measures", measure) or {}
    return _cells(summary, measure, name, {**(found.get(name) or {}), "n": found.get("n")}, source)


def _cells(summary: Summary, measure: str, name: str, estimate: dict[str, Any], source: str) -> Sequence[Any]:
    low, high = estimate.get("ci") or (None, None)
    published = _PUBLISHED.get((measure, name))
    return [
        measure, name, published, estimate.get("value"), low, high, estimate.get("method"), estimate.get("n"),
        summary.get("name"), source,
    ]  # fmt: skip
