"""The files in a run's explanations folder, and the verdicts on its heat maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.atomic import write_text
from covidnet.base.names import counted
from covidnet.evaluation.localisation import (
    MIN_PATIENTS,
    LocalisationSummary,
    MapEstimate,
    RegionVerdict,
    localisation_summary,
)
from covidnet.evaluation.results import from_json, to_json
from covidnet.evaluation.sanity import SanitySummary, sanity_summary

log = logging.getLogger(__name__)

FOLDER = "explanations"
"""The folder of a run's localisation.csv, sanity.csv and explanations.json."""

TABLES = ("localisation", "sanity")

# Names of the measures in a sentence.
_MEASURE_NAMES = {"pointing": "pointing game", "iou": "IoU", "lesion_share": "heat in the lesion"}

_TEXT: dict[Any, Any] = dict.fromkeys(("image_id", "patient_id", "label", "map", "stage"), object)


@dataclass(frozen=True)
class RunExplanations:
    """The content of explanations.json: how the heat maps of a run were made, and how they scored.

    Args:
        method: a method of `covidnet.models.saliency`.
        weights: the initial weights of the backbone.
        freeze: whether the backbone was frozen.
        part: the split of the images; None means ``unseen``.
        panels: PNG files, relative to the run folder.
        constant_maps: by use of the maps, the number of constant maps and the number of maps.
    """

    method: str | None = None
    weights: str | None = None
    freeze: bool | None = None
    part: str | None = None
    panels: tuple[str, ...] = ()
    constant_maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    localisation: LocalisationSummary | None = None
    sanity: SanitySummary | None = None


def write_explanations(
    folder: Path, facts: RunExplanations, localisation: pd.DataFrame | None, sanity: pd.DataFrame | None
) -> RunExplanations:
    """Write localisation.csv, sanity.csv and explanations.json, which summarises the two tables.

    Args:
        folder: the output folder.
        facts: everything but the summaries.
        localisation: a table, or None.
        sanity: a table, or None.

    Returns:
        The content of explanations.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("localisation", localisation), ("sanity", sanity)):
        if table is not None:
            write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    content = replace(
        facts,
        localisation=None if localisation is None else localisation_summary(localisation),
        sanity=None if sanity is None else sanity_summary(sanity),
    )
    write_text(folder / "explanations.json", json.dumps(to_json(content), indent=2) + "\n")
    return content


def read_explanations(run: Path) -> tuple[RunExplanations | None, dict[str, pd.DataFrame]]:
    """Read the explanations of a run folder; damaged files are ignored with a warning.

    Args:
        run: the run folder.

    Returns:
        The content of explanations.json, None without that file; and the tables by name.
    """
    folder = run / FOLDER
    content: RunExplanations | None = None
    tables: dict[str, pd.DataFrame] = {}
    try:
        if (file := folder / "explanations.json").is_file():
            content = from_json(RunExplanations, json.loads(file.read_text(encoding="utf-8")), str(file))
        for name in TABLES:
            if (file := folder / f"{name}.csv").is_file():
                tables[name] = pd.read_csv(file, dtype=_TEXT, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        log.warning("%s is damaged and ignored (%s)", file, error)
    return content, tables


def verdicts(localisation: LocalisationSummary | None, sanity: SanitySummary | None = None) -> list[str]:
    """The faults of a model's heat maps, one sentence each; empty if they have none.

    The run log, the report, the model card, ``covidnet.explain`` and the web page all print these sentences.

    Args:
        localisation: None if it was not measured.
        sanity: None if it was not tested.
    """
    lines = []
    if localisation is not None:
        maps = localisation.maps
        if maps and localisation.constant == maps:
            lines.append(f"All {maps:,} heat maps are constant: no place stands out.")
        lines += [lesion_verdict(localisation), lung_verdict(localisation)]
    if sanity is not None:
        lines.append(sanity_verdict(sanity))
    return [line for line in lines if line]


def map_notes(content: RunExplanations) -> list[str]:
    """The verdicts on a model's maps, and the tests that were not done.

    Args:
        content: the content of explanations.json.
    """
    notes = verdicts(content.localisation, content.sanity)
    if content.localisation is None:
        notes.append("Whether the heat maps lie on lesions or lungs was not measured.")
    if content.sanity is None:
        notes.append("Whether the heat maps depend on the trained weights was not tested.")
    return notes


def lesion_verdict(summary: LocalisationSummary) -> str:
    """The fault of the maps at finding known lesions; empty if they beat both baselines.

    Args:
        summary: from `localisation_summary`.
    """
    if summary.better_than_centre is None and summary.n:
        return _too_few(summary, "lesions")
    if summary.better_than_centre is not False:
        return ""
    poor = summary.not_better
    text = (
        f"On {_images(summary.n)} with known lesions the heat maps are no better than the centre prior or chance at "
        f"finding them (by {_named(poor)})."
    )
    measures = {name: summary.measures[name] for name in poor}
    for baseline, differences in (
        ("the centre prior", {name: one.difference for name, one in measures.items()}),
        ("chance", {name: one.difference_chance for name, one in measures.items()}),
    ):
        if worse := [name for name, difference in differences.items() if _side(difference) < 0]:
            text += f" They are worse than {baseline}" + ("." if worse == poor else f" by {_named(worse)}.")
    return text


def lung_verdict(summary: LocalisationSummary) -> str:
    """The fault of the maps where lungs are known: no more heat in the lungs than a baseline has.

    Args:
        summary: from `localisation_summary`.
    """
    lungs = summary.lungs
    if lungs.better_than_centre is None and lungs.n:
        return _too_few(lungs, "lungs")
    if lungs.better_than_centre is not False:
        return ""
    numbers = summary.measures["lung_share"]
    parts = []
    for difference, against, baseline in (
        (numbers.difference, numbers.centre, "the centre prior, a blob in the middle of every image"),
        (numbers.difference_chance, numbers.chance, "chance"),
    ):
        if difference.value is None or _side(difference) > 0:
            continue
        how = "less" if _side(difference) < 0 else "no more"
        parts.append(f"{how} than {baseline} ({_percent(against.value)}; difference {_points(difference)})")
    share = _percent(numbers.model.value)
    return f"On {_images(lungs.n)} with known lungs {share} of the heat lies in the lungs, {' and '.join(parts)}."


def sanity_verdict(sanity: SanitySummary) -> str:
    """The fault of the maps in the sanity test; empty if they pass it or were not tested.

    Args:
        sanity: from `sanity_summary`.
    """
    if sanity.verdict == "does not depend":
        return (
            f"On {_images(sanity.n)} the heat maps fail the sanity test: re-initialising the network hardly changes "
            "them."
        )
    if sanity.verdict == "unclear":
        reason = sanity.reason or "too few images, or maps that change by about half"
        return f"The sanity test of the heat maps on {_images(sanity.n)} is unclear: {reason}."
    return ""


def _too_few(verdict: LocalisationSummary | RegionVerdict, what: str) -> str:
    n, patients = verdict.n, verdict.patients
    if patients is not None and n is not None and patients < n:
        return (
            f"Heat maps: too few patients with known {what} ({patients}, with {_images(n)}) for a verdict; at least "
            f"{MIN_PATIENTS} are needed."
        )
    return f"Heat maps: too few images with known {what} ({n}) for a verdict; at least {MIN_PATIENTS} are needed."


def _side(difference: MapEstimate) -> int:
    """1 if the whole interval is above 0, -1 if all of it is below, 0 otherwise."""
    low, high = difference.ends or (0.0, 0.0)
    return 1 if low > 1e-12 else -1 if high < -1e-12 else 0


def _named(measures: Sequence[str]) -> str:
    return ", ".join(_MEASURE_NAMES.get(measure, measure) for measure in measures)


def _images(n: int | None) -> str:
    return "an unknown number of images" if n is None else counted(n, "image")


def _percent(fraction: float | None) -> str:
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.1f}%"


def _points(difference: MapEstimate) -> str:
    ends = difference.ci
    text = f"{100 * (difference.value or 0.0):.1f} points"
    text += f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
    return text.replace("-", "\N{MINUS SIGN}")
