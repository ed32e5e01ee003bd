"""The paper's Figures 4 and 5 as tables: measurements of what it shows as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import pandas as pd

from covidnet.evaluation.localisation import LocalisationSummary, MapEstimate, MeasureSummary
from covidnet.evaluation.results import empty
from covidnet.evaluation.sanity import SanitySummary
from covidnet.report.summary import SweepExplanations, SweepSummary

Map = Literal["model", "centre", "mean_map", "chance", "difference", "difference_chance"]
"""The model's maps, the baselines, and the model minus the centre prior and minus chance."""

MAPS: tuple[Map, ...] = get_args(Map)

_COLUMNS = ["measure", "map", "published", "ours", "ci_low", "ci_high", "method", "n", "name", "source"]

# On five images each map covers "at least one or more of the critical regions".
_PUBLISHED = {("touch", "model"): 1.0}


def figure4(summary: SweepSummary) -> pd.DataFrame:
    """Heat in the lungs, and the similarity that maps retain when the network is re-initialised.

    Args:
        summary: of a sweep.

    Returns:
        One row per measure and map, in the columns of the paper's other tables; the paper gives no numbers.
    """
    rows = [_row(summary, "lung_share", name, "Figure 4") for name in MAPS]
    sanity = (summary.explanations or empty(SweepExplanations)).sanity or empty(SanitySummary)
    for estimate, name in (
        (sanity.retained.ssim, "similarity left when re-initialised, SSIM"),
        (sanity.retained.rank, "similarity left when re-initialised, rank correlation"),
    ):
        rows.append(_cells(summary, name, "model", replace(estimate, n=sanity.n), "Figure 4"))
    return pd.DataFrame(rows, columns=_COLUMNS)


def figure5(summary: SweepSummary) -> pd.DataFrame:
    """Localisation of known lesions: the paper's own criterion first, then stricter ones.

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
            # Chance has no hot part that could touch or overlap.
            if measure not in ("touch", "iou") or "chance" not in name
        ],
        columns=_COLUMNS,
    )


def _row(summary: SweepSummary, measure: str, name: Map, source: str) -> Sequence[Any]:
    localisation = (summary.explanations or empty(SweepExplanations)).localisation or empty(LocalisationSummary)
    found = localisation.measures.get(measure, empty(MeasureSummary))
    estimates: dict[Map, MapEstimate] = {
        "model": found.model,
        "centre": found.centre,
        "mean_map": found.mean_map,
        "chance": found.chance,
        "difference": found.difference,
        "difference_chance": found.difference_chance,
    }
    return _cells(summary, measure, name, replace(estimates[name], n=found.n), source)


def _cells(summary: SweepSummary, measure: str, name: Map, estimate: MapEstimate, source: str) -> Sequence[Any]:
    low, high = estimate.ci or (None, None)
    published = _PUBLISHED.get((measure, name))
    return [
        measure, name, published, estimate.value, low, high, estimate.method, estimate.n, summary.name, source
    ]  # fmt: skip
