"""Which engine fills the feature store: ``features.engine=auto`` is decided once for a run or sweep, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from covidnet.base.atomic import locked, make_folder, write_text
from covidnet.base.errors import DataError
from covidnet.base.former import current
from covidnet.base.trust import read_yaml

DECISIONS = "engines.json"
"""In a sweep folder: what ``features.engine=auto`` became, by network."""

Decision = dict[str, str]
"""``engine`` and ``engine_from``, as in the group ``features`` of the settings."""


def engine_of_run(folder: Path) -> Decision | None:
    """The engine that the config.yaml of a run names; None if the run has not got so far.

    Args:
        folder: the run folder.
    """
    settings = _settings(folder)
    features = (settings or {}).get("features")
    if not isinstance(features, Mapping) or features.get("engine") not in ("torch", "onnx"):
        return None
    before = "given, or as the run began in an earlier version"
    return {"engine": str(features["engine"]), "engine_from": str(features.get("engine_from") or before)}


def engine_of_sweep(
    sweep: Path, network: str, decide: Callable[[str], Decision], *, name: str, resumed: bool
) -> Decision:
    """What was decided for a network of a sweep. The first job that asks decides, while the others wait.

    It is a job that decides, since the machine that starts a sweep may have other devices than those that run its jobs.

    Args:
        sweep: the sweep folder; made if it is not there.
        network: names the network with its weights and the size of its input.
        decide: takes for what it decides and returns the decision.
        name: ``model.name``, to find runs of the sweep that began in an earlier version.
        resumed: whether the sweep is resumed.

    Raises:
        DataError: the record is damaged.
    """
    file = sweep / DECISIONS
    make_folder(sweep)
    with locked(sweep / f".{DECISIONS}.lock") as unwritable:
        decided = _read(file)
        if network not in decided:
            found = _of_runs(sweep, name) if resumed else None
            decided[network] = found or decide("the sweep")
            if unwritable is None:
                write_text(file, json.dumps(decided, indent=2) + "\n")
    return decided[network]


def _of_runs(sweep: Path, name: str) -> Decision | None:
    for folder in sorted(path.parent for path in sweep.glob("*/config.yaml")):
        if ((_settings(folder) or {}).get("model") or {}).get("name") == name and (found := engine_of_run(folder)):
            return found
    return None


def _settings(folder: Path) -> Mapping[str, Any] | None:
    file = folder / "config.yaml"
    found = current(read_yaml(file)) if file.is_file() else None
    return found if isinstance(found, Mapping) else None


def _read(file: Path) -> dict[str, Decision]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if all(set(one) == {"engine", "engine_from"} and one["engine"] in ("torch", "onnx") for one in found.values()):
            return dict(found)
    except (ValueError, AttributeError, TypeError):
        pass
    raise DataError(f"{file}: damaged; restore it, or give features.engine=torch or onnx")
