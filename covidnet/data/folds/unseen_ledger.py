"""Which runs have scored the unseen fold of a split: a small file for each, in the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covidnet.base.atomic import make_folder, write_text

log = logging.getLogger(__name__)


class UnseenLedger:
    """The runs that have scored the unseen fold of one split, and the times it was opened.

    Each entry is a file of its own, named by the run: parallel jobs and other processes need no lock, and a run that
    is resumed finds its own entry. The count covers one cache, and is too low where that was deleted.

    Args:
        folder: of the entries; see `of`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, cache_dir: Path, split_sha256: str) -> UnseenLedger:
        """The ledger of a split.

        Args:
            cache_dir: the cache.
            split_sha256: hash of split.csv.
        """
        return cls(cache_dir / "unseen" / split_sha256)

    def add(self, kind: str, name: str, facts: Mapping[str, Any]) -> int | None:
        """Keep an entry; one of the same name is replaced.

        Args:
            kind: ``run`` or ``opening``.
            name: of the run or the opening.
            facts: what is kept of it, as JSON takes it.

        Returns:
            How many entries of this kind there are now; None where the cache cannot be written, which is logged.
        """
        file = self.folder / f"{kind}-{name}.json"
        try:
            make_folder(self.folder)
            write_text(file, json.dumps(dict(facts)) + "\n")
        except OSError as error:
            log.warning("the count of runs that scored the unseen fold is incomplete: %s", error)
            return None
        names = self.names(kind)
        return None if names is None else len(names)

    def names(self, kind: str) -> set[str] | None:
        """The names of the entries of a kind; None where no ledger can be read.

        Args:
            kind: ``run`` or ``opening``.
        """
        try:
            return {file.stem.partition("-")[2] for file in self.folder.iterdir() if file.match(f"{kind}-*.json")}
        except OSError:
            return None

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """What is kept of the entries of a kind; damaged ones are passed over.

        Args:
            kind: ``run`` or ``opening``.
        """
        found = []
        for name in sorted(self.names(kind) or ()):
            try:
                found.append(json.loads((self.folder / f"{kind}-{name}.json").read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue
        return [entry for entry in found if isinstance(entry, dict)]
