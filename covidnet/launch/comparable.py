"""Which settings change what a run computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covidnet.base.classes import DEFAULT_CLASSES

# Settings that change how a run is carried out, not what it computes.
_INCIDENTAL = (
    "fold", "progress", "debug", "strict", "trust", "imports", "verify", "cache_dir", "selection", "logger", "resume",
    "defaults",
    "callbacks.panels", "explain", "data.num_workers", "data.masks", "data.boxes", "trainer.accelerator",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "features.batch_size", "hydra", "reading",
    "model.backbone", "model.download", "model.weights_from", "features.engine_from",
)  # fmt: skip


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat


def compared(settings: Any, also: Sequence[str] = ()) -> dict[str, Any]:
    """Settings that change what a run computes, flat: ``optim.lr`` and so on.

    Args:
        settings: the content of config.yaml.
        also: incidental settings to compare as well, such as ``fold``.
    """
    skipped = [name for name in _INCIDENTAL if name not in also]
    flat = _flat(settings if isinstance(settings, Mapping) else {})
    if flat.get("unseen") == "scored":
        # What runs did before the setting existed.
        del flat["unseen"]
    if flat.get("split.unseen_fold") == 10:
        # Likewise.
        del flat["split.unseen_fold"]
    if list(flat.get("data.classes") or ()) == list(DEFAULT_CLASSES):
        # Likewise.
        del flat["data.classes"]
    # Null and empty settings count as not set: versions differ in which of them they write.
    given = {k: v for k, v in flat.items() if v not in (None, [])}
    return {k: v for k, v in given.items() if not any(k == name or k.startswith(f"{name}.") for name in skipped)}
