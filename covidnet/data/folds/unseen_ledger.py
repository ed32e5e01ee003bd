"""Records which runs have scored a split's unseen fold, as one small file per run in the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covidnet.base.atomic import make_folder, write_text

log = logging.getLogger(__name__)


class UnseenLedger:
    """The runs that have scored the unseen fold of one split, and the occasions it was opened.

    Each entry is its own file, named after the run: parallel jobs need no lock, and a resumed run finds its own entry.
    The count covers one cache, and is too low if that cache was deleted.

    Args:
        folder: holds the entries; see `of`.
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
        """Write an entry, replacing one of the same name.

        Args:
            kind: ``run`` or ``opening``.
            name: of the run or the opening.
            facts: the entry's content, JSON-serialisable.

        Returns:
            How many entries of this kind there are now; None if the cache cannot be written (logged).
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
        """The names of the entries of a kind; None if there is no readable ledger.

        Args:
            kind: ``run`` or ``opening``.
        """
        try:
            return {file.stem.partition("-")[2] for file in self.folder.iterdir() if file.match(f"{kind}-*.json")}
        except OSError:
            return None

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """The contents of the entries of a kind; damaged entries are skipped.

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
