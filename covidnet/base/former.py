"""What settings and classes were called before, so that run folders of older versions stay readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = {
    "data.film_size": "data.phantom_size",
    "explain.localisation_films": "explain.localisation_images",
    "explain.sanity_films": "explain.sanity_images",
    "films": "images",
}
"""Names of settings and what they are called now."""

PRESETS = {"joblib": "local", "submitit_local": "slurm_local", "submitit_slurm": "slurm", "optuna": "search"}
"""Names of options of ``hydra/launcher`` and ``hydra/sweeper``, and what they are called now."""

_TARGETS = {
    "covidnet.sweep_report.SweepReport": "covidnet.sweep.ending.SweepReport",
    "covidnet.names.ShownFormatter": "covidnet.base.names.ShownFormatter",
}

# What runs did before the setting existed.
_ADDED: dict[str, Any] = {
    "unseen": "scored",
    "split.copies": "bytes",
    "split.balance": True,
    "features.engine": "torch",
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "optim.optimizer": {"_target_": "torch.optim.Adam", "fused": True},
}


def current(settings: Any) -> Any:
    """The configuration of a run with today's names.

    Args:
        settings: the content of a config.yaml; what is no mapping is returned as it is.

    Example:
        >>> current({"data": {"name": "phantom", "film_size": 96}})
        {'data': {'name': 'phantom', 'phantom_size': 96}}
    """
    if not isinstance(settings, Mapping):
        return settings
    found = _renamed(settings, "")
    if "fold" not in found:
        # A part of a configuration leaves the rest at today's defaults.
        return found
    for name, value in _ADDED.items():
        group, _, key = name.rpartition(".")
        node = found.get(group) if group else found
        if isinstance(node, dict):
            node.setdefault(key, value)
    split = found.get("split")
    if isinstance(split, dict) and split.get("group") == "patient" and split["copies"] != "off":
        split["group"] = "patient+copies"
    return found


def current_override(word: str) -> str:
    """An override of a command line with today's names.

    Example:
        >>> current_override("data.film_size=96"), current_override("hydra/launcher=joblib")
        ('data.phantom_size=96', 'hydra/launcher=local')
    """
    name, equals, value = word.partition("=")
    value = PRESETS.get(value, value) if name in ("hydra/launcher", "hydra/sweeper") else value
    return f"{SETTINGS.get(name, name)}{equals}{value}"


def _renamed(node: Any, path: str) -> Any:
    if isinstance(node, Mapping):
        return {
            SETTINGS.get(f"{path}{key}", f"{path}{key}").removeprefix(path): _renamed(value, f"{path}{key}.")
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_renamed(item, path) for item in node]
    return _TARGETS.get(node, node) if isinstance(node, str) else node
