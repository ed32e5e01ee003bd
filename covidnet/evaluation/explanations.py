"""What a run keeps of its explanations, and what speaks against them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.atomic import write_text
from covidnet.evaluation.localisation import localisation_summary
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
    """What has to be said of a model's maps, in sentences; empty where nothing speaks against them.

    Args:
        content: ``localisation`` and ``sanity``, as in explanations.json or summary.json.
    """
    notes = []
    found = content.get("localisation") or {}
    if found.get("better_than_centre") is False:
        by = ", ".join(_WORDS.get(measure, measure) for measure in found.get("not_better") or [])
        notes.append(
            f"The heat maps are no better than the centre prior or chance at finding the known lesions (by {by})."
        )
    sanity = content.get("sanity") or {}
    verdict = sanity.get("verdict")
    if verdict == "does not depend":
        notes.append("The heat maps fail the sanity test: they hardly change when the network is drawn anew.")
    elif verdict == "unclear":
        reason = sanity.get("reason") or "too few films, or maps that change by about half"
        notes.append(f"The sanity test of the heat maps is unclear: {reason}.")
    return notes
