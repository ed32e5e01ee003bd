"""Maintain the feature stores of a cache folder: list, verify, prune."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covidnet.feature_store.store import FeatureStore


@dataclass(frozen=True)
class StoreSummary:
    """One feature store.

    Attributes:
        folder: its folder.
        description: what its features depend on.
        features: the number of features.
        segments: the number of files.
        bytes: total size of the files.
        unusable: files that cannot be read.
        damaged: the number of features that do not match their checksum.
    """

    folder: Path
    description: dict[str, Any]
    features: int
    segments: int
    bytes: int
    unusable: tuple[Path, ...]
    damaged: int


def summaries(root: Path, *, verify: bool = False) -> list[StoreSummary]:
    """The stores of a folder.

    Args:
        root: the folder of all stores.
        verify: check every feature against its checksum; otherwise ``damaged`` is 0.
    """
    return [_summary(file.parent, verify) for file in sorted(root.glob("*/store.json"))]


def _summary(folder: Path, verify: bool) -> StoreSummary:
    store = FeatureStore.at(folder)
    files = sorted(folder.glob("*.safetensors"))
    keys = store.keys()
    damaged = int(np.count_nonzero(~store.holds(keys))) if verify else 0
    return StoreSummary(
        folder=folder,
        description=json.loads((folder / "store.json").read_text(encoding="utf-8")),
        features=len(keys),
        segments=len(files),
        bytes=sum(file.stat().st_size for file in files),
        unusable=tuple(store.unusable),
        damaged=damaged,
    )


def prune(root: Path, current: dict[str, Any]) -> list[Path]:
    """Remove what will never be read again.

    That is: files that are not complete segments, temporary files of killed writers, and stores made with other library
    versions than those installed.

    Args:
        root: the folder of all stores.
        current: a store's description as written by this installation, see
            `covidnet.feature_store.extract.store_description`.

    Returns:
        What was removed.
    """
    removed = []
    for summary in summaries(root):
        if _versions(summary.description) != _versions(current):
            shutil.rmtree(summary.folder)
            removed.append(summary.folder)
            continue
        # A writer holds the lock while it fills the store, so any temporary file found now was left behind.
        with FeatureStore.at(summary.folder).lock():
            for file in (*summary.unusable, *summary.folder.glob(".*.tmp")):
                file.unlink(missing_ok=True)
                removed.append(file)
    return removed


def _versions(description: dict[str, Any]) -> dict[str, Any]:
    """The parts of a description that are software versions rather than settings."""
    transforms = {t["name"]: t.get("opencv") for t in description.get("transforms", []) if "opencv" in t}
    return {"reading": description.get("reading"), "transforms": transforms}
