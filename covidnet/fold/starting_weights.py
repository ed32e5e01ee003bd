"""Which weights a run starts from: ``model.weights=auto`` is decided once, for a run or a sweep, and recorded."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from covidnet.base.atomic import locked, make_folder, write_text
from covidnet.base.errors import DataError, WeightsError
from covidnet.base.former import current
from covidnet.base.trust import read_yaml
from covidnet.models.networks import network
from covidnet.models.published import file_in, forbidden, path_of

log = logging.getLogger(__name__)

DECISIONS = "weights.json"
"""In a sweep folder: what ``model.weights=auto`` became, by network."""

# Seconds: a machine without internet access should not wait for long in every run.
_PATIENCE = 3.0


def settle_weights(
    settings: dict[str, Any], folder: Path | None = None, sweep: Path | None = None, *, resumed: bool = False
) -> None:
    """Replace ``auto`` and a folder of weights in the settings by the weights themselves; download what is missing.

    A resumed run keeps what was decided for it, and a run of a sweep takes what was decided for the sweep.

    Args:
        settings: the resolved configuration; ``model.weights`` and ``model.weights_from`` are changed.
        folder: the run folder, if there is one.
        sweep: the sweep folder, if the run belongs to a sweep.
        resumed: whether the run or its sweep is resumed.

    Raises:
        WeightsError: the weights are unavailable or damaged.
    """
    model = settings["model"]
    published = network(model["name"]).imagenet
    download, progress = bool(model.get("download", True)), bool(settings.get("progress"))
    if model["weights"] == "auto":
        # The other processes of a run on several devices take what the first one decided.
        found = _of_run(folder) if folder and (resumed or os.environ.get("LOCAL_RANK", "0") != "0") else None
        if found is None and sweep is not None:
            found = _of_sweep(sweep, model, progress, resumed)
        model.update(found or decide(model, progress, "this run"))
    weights = Path(str(model["weights"])).expanduser()
    if model["weights"] == "imagenet" and published is not None:
        path_of(published, download=download, progress=progress)
    elif model["weights"] not in ("random", "imagenet", "chest") and weights.is_dir():
        model["weights"] = str(file_in(weights, published, model["name"]))


def tell_weights(settings: Mapping[str, Any]) -> None:
    """Log what ``model.weights=auto`` became; nothing where the weights were given."""
    model = settings["model"]
    if reason := model.get("weights_from"):
        level = logging.WARNING if model["weights"] == "random" else logging.INFO
        log.log(level, "%s starts from %s weights: %s", model["name"], model["weights"], reason)


def settle_sweep(models: Iterable[Mapping[str, Any]], sweep: Path, progress: bool, resumed: bool) -> list[str]:
    """Decide ``model.weights=auto`` for a sweep before its first job starts.

    Args:
        models: the groups ``model`` of the jobs.
        sweep: the sweep folder; made if it is not there.
        progress: whether progress bars are drawn.
        resumed: whether the sweep is resumed: what was decided stays.

    Returns:
        What was decided, one line for each network.

    Raises:
        WeightsError: a file is damaged.
    """
    lines = {}
    for model in models:
        if model.get("weights") == "auto":
            found = _of_sweep(sweep, model, progress, resumed)
            name = str(model["name"])
            lines[name] = f"{name} starts from {found['weights']} weights: {found['weights_from']}"
    return list(lines.values())


def decide(model: Mapping[str, Any], progress: bool, place: str) -> dict[str, str]:
    """Decide ``model.weights=auto``: the network's ImageNet weights if they are here or can be downloaded, else random.

    Args:
        model: the group ``model`` of the settings.
        progress: whether a progress bar is drawn.
        place: for what it is decided, for the record.

    Returns:
        ``weights`` and ``weights_from``.

    Raises:
        WeightsError: the file on this machine is damaged.
    """
    name = str(model["name"])
    published = network(name).imagenet
    weights, why = "random", f"none are published for {name}"
    if published is not None:
        path = published.find()
        if path is not None:
            weights, why = "imagenet", f"{path.name} was on this machine"
        elif published.online and (forbids := forbidden(bool(model.get("download", True)))):
            why = f"{published.names[0]} is not on this machine and {forbids}"
        else:
            try:
                path = published.download(_PATIENCE, progress)
                weights, why = "imagenet", f"{path.name} was downloaded"
            except WeightsError as error:
                # Nobody asked for imagenet by name.
                log.info("%s", str(error).replace("model.weights=imagenet", "model.weights=auto", 1))
                why = f"{published.names[0]} is not on this machine and could not be downloaded ({_cause(error)})"
    return {"weights": weights, "weights_from": f"auto, decided for {place}: {why}"}


def _cause(error: WeightsError) -> str:
    """Why a download failed, without folders of this machine: reports and model cards say it."""
    cause = error.__cause__
    if cause is None:
        text = str(error).removeprefix("model.weights=imagenet: ").partition(";")[0]
        return text if "://" in text or "/" not in text else "the file was damaged"
    cause = getattr(cause, "reason", None) or cause
    return " ".join(str(getattr(cause, "strerror", None) or cause).split())[:120]


def _of_run(folder: Path) -> dict[str, str] | None:
    """What the config.yaml of a run says."""
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    settings = current(read_yaml(file))
    model = settings.get("model") if isinstance(settings, Mapping) else None
    if not isinstance(model, Mapping) or model.get("weights") not in ("imagenet", "random"):
        return None
    before = "auto, as the run began in an earlier version"
    return {"weights": str(model["weights"]), "weights_from": str(model.get("weights_from") or before)}


def _of_sweep(sweep: Path, model: Mapping[str, Any], progress: bool, resumed: bool) -> dict[str, str]:
    """What was decided for a network of a sweep; the first that asks decides."""
    name, file = str(model["name"]), sweep / DECISIONS
    make_folder(sweep)
    with locked(sweep / f".{DECISIONS}.lock") as unwritable:
        decided = _read(file)
        if name not in decided:
            found = _of_runs(sweep, name) if resumed else None
            decided[name] = found or decide(model, progress, "the sweep")
            if unwritable is None:
                write_text(file, json.dumps(decided, indent=2) + "\n")
    return decided[name]


def _of_runs(sweep: Path, name: str) -> dict[str, str] | None:
    """What the runs of a sweep of an earlier version started from."""
    for folder in sorted(path.parent for path in sweep.glob("*/config.yaml")):
        settings = current(read_yaml(folder / "config.yaml"))
        if isinstance(settings, Mapping) and (settings.get("model") or {}).get("name") == name:
            return _of_run(folder)
    return None


def _read(file: Path) -> dict[str, dict[str, str]]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        # A sweep folder may come from elsewhere: a path in it would be read.
        fine = all(set(one) == {"weights", "weights_from"} for one in found.values())
        if fine and all(one["weights"] in ("imagenet", "random") for one in found.values()):
            return dict(found)
    except (ValueError, AttributeError, TypeError):
        pass
    raise DataError(f"{file}: damaged; restore it, or give model.weights=imagenet or random")
