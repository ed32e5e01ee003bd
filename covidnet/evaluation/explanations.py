"""What a run keeps of its explanations, and what speaks against them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.atomic import write_text
from covidnet.base.names import counted
from covidnet.evaluation.localisation import MIN_PATIENTS, localisation_summary
from covidnet.evaluation.sanity import sanity_summary

log = logging.getLogger(__name__)

FOLDER = "explanations"
"""The folder of a run's localisation.csv, sanity.csv and explanations.json."""

TABLES = ("localisation", "sanity")

# As the report writes them in a sentence.
_WORDS = {"pointing": "pointing game", "iou": "IoU", "lesion_share": "heat in the lesion"}

_TEXT: dict[Any, Any] = dict.fromkeys(("image_id", "patient_id", "label", "map", "stage"), object)


def write_explanations(
    folder: Path,
    facts: Mapping[str, Any],
    localisation: pd.DataFrame | None,
    sanity: pd.DataFrame | None,
) -> dict[str, Any]:
    """Write localisation.csv, sanity.csv and explanations.json, which says what the two tables come to.

    Args:
        folder: where they go.
        facts: method, weights and panels.
        localisation: a table, or None.
        sanity: a table, or None.

    Returns:
        The content of explanations.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("localisation", localisation), ("sanity", sanity)):
        if table is not None:
            write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    content = {
        **facts,
        "localisation": None if localisation is None else localisation_summary(localisation),
        "sanity": None if sanity is None else sanity_summary(sanity),
    }
    write_text(folder / "explanations.json", json.dumps(content, indent=2) + "\n")
    return content


def read_explanations(run: Path) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """What a run folder holds of explanations; what is damaged is named in the log and left out.

    Args:
        run: the run folder.

    Returns:
        The content of explanations.json, and the tables by name; empty where there is none.
    """
    folder = run / FOLDER
    content: dict[str, Any] = {}
    tables: dict[str, pd.DataFrame] = {}
    try:
        if (file := folder / "explanations.json").is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            content = found if isinstance(found, dict) else {}
        for name in TABLES:
            if (file := folder / f"{name}.csv").is_file():
                tables[name] = pd.read_csv(file, dtype=_TEXT, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        log.warning("%s is damaged and left out (%s)", file, error)
    return content, tables


def verdicts(content: Mapping[str, Any]) -> list[str]:
    """What has to be said of a model's maps, in sentences with their n; empty where nothing speaks against them.

    The run log, the report, the model card, ``covidnet.explain`` and the page all say these sentences.

    Args:
        content: ``localisation`` and ``sanity``, as in explanations.json or summary.json.
    """
    found = content.get("localisation") or {}
    maps = found.get("maps")
    empty = f"All {maps:,} heat maps are constant: no place stands out." if maps and found["constant"] == maps else ""
    lines = (empty, lesion_verdict(found), lung_verdict(found), sanity_verdict(content.get("sanity") or {}))
    return [line for line in lines if line]


def map_notes(content: Mapping[str, Any]) -> list[str]:
    """The verdicts on a model's maps, and which tests were not done.

    Args:
        content: as for `verdicts`.
    """
    notes = verdicts(content)
    if not content.get("localisation"):
        notes.append("Whether the heat maps lie on lesions or lungs was not measured.")
    if not content.get("sanity"):
        notes.append("Whether the heat maps depend on the trained weights was not tested.")
    return notes


def lesion_verdict(found: Mapping[str, Any]) -> str:
    """What speaks against maps at finding known lesions; empty where they are better than both baselines.

    Args:
        found: of `covidnet.evaluation.localisation.localisation_summary`.
    """
    n, better = found.get("n"), found.get("better_than_centre")
    if better is None and n:
        return _too_few(found, "lesions")
    if better is not False:
        return ""
    poor = [str(measure) for measure in found.get("not_better") or []]
    text = (
        f"On {_images(n)} with known lesions the heat maps are no better than the centre prior or chance at finding "
        f"them (by {_named(poor)})."
    )
    for key, baseline in _BASELINES:
        worse = [name for name in poor if _side(_difference(found, name, key)) < 0]
        if worse:
            text += f" They are worse than {baseline}" + ("." if worse == poor else f" by {_named(worse)}.")
    return text


def lung_verdict(found: Mapping[str, Any]) -> str:
    """What speaks against maps where lungs are known: no more heat in the lungs than a baseline has.

    Args:
        found: of `covidnet.evaluation.localisation.localisation_summary`.
    """
    lungs = found.get("lungs") or {}
    n, better = lungs.get("n"), lungs.get("better_than_centre")
    if better is None and n:
        return _too_few(lungs, "lungs")
    if better is not False:
        return ""
    numbers = (found.get("measures") or {}).get("lung_share") or {}
    parts = []
    for key, baseline in _BASELINES:
        difference = numbers.get(key) or {}
        if difference.get("value") is None or _side(difference) > 0:
            continue
        how = "less" if _side(difference) < 0 else "no more"
        against = (numbers.get("centre" if key == "difference" else "chance") or {}).get("value")
        parts.append(f"{how} than {baseline} ({_percent(against)}; difference {_points(difference)})")
    share = _percent((numbers.get("model") or {}).get("value"))
    return f"On {_images(n)} with known lungs {share} of the heat of the maps lies in the lungs, {' and '.join(parts)}."


def sanity_verdict(sanity: Mapping[str, Any]) -> str:
    """What speaks against maps in the sanity test; empty where they pass it or were not tested.

    Args:
        sanity: of `covidnet.evaluation.sanity.sanity_summary`.
    """
    verdict, n = sanity.get("verdict"), sanity.get("n")
    if verdict == "does not depend":
        return f"On {_images(n)} the heat maps fail the sanity test: re-initialising the network hardly changes them."
    if verdict == "unclear":
        reason = sanity.get("reason") or "too few images, or maps that change by about half"
        return f"The sanity test of the heat maps on {_images(n)} is unclear: {reason}."
    return ""


_BASELINES = (("difference", "the centre prior"), ("difference_chance", "chance"))


def _too_few(found: Mapping[str, Any], what: str) -> str:
    n, patients = found["n"], found.get("patients")
    if patients is not None and patients < n:
        return (
            f"Heat maps: too few patients with known {what} ({patients}, with {_images(n)}) for a verdict; at least "
            f"{MIN_PATIENTS} are needed."
        )
    return f"Heat maps: too few images with known {what} ({n}) for a verdict; at least {MIN_PATIENTS} are needed."


def _difference(found: Mapping[str, Any], measure: str, key: str) -> Mapping[str, Any]:
    numbers = (found.get("measures") or {}).get(measure) or {}
    return numbers.get(key) or {}


def _side(difference: Mapping[str, Any]) -> int:
    """Whether an interval lies wholly above 0 (1), wholly below it (-1), or neither (0)."""
    value = difference.get("value")
    if value is None:
        return 0
    low, high = difference.get("ci") or (value, value)
    return 1 if low > 1e-12 else -1 if high < -1e-12 else 0


def _named(measures: Sequence[str]) -> str:
    return ", ".join(_WORDS.get(measure, measure) for measure in measures)


def _images(n: int | None) -> str:
    return "an unknown number of images" if n is None else counted(n, "image")


def _percent(fraction: float | None) -> str:
    return "\N{EN DASH}" if fraction is None else f"{100 * fraction:.1f}%"


def _points(difference: Mapping[str, Any]) -> str:
    ends = difference.get("ci")
    text = f"{100 * difference['value']:.1f} points" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else "")
    return text.replace("-", "\N{MINUS SIGN}")
