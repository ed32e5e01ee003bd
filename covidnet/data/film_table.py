"""Films that are looked at as they are, without folds: any number of each class, none included."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.atomic import locked
from covidnet.data.manifest import Manifest, Rules, manifest_hash, scan
from covidnet.data.manifest_files import (
    filter_view,
    kept_thumbnails,
    manifest_home,
    read_current_manifest,
    write_manifest,
)
from covidnet.data.study import find_source
from covidnet.data.thumbnails import Thumbnails

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilmTable:
    """A data set without a split.

    Attributes:
        name: phantom, kaggle or folder.
        root: the folder that paths are relative to.
        films: the manifest's rows after the view filter (columns of `covidnet.data.manifest.COLUMNS`).
        refused: files that cannot be used: path, cause, remedy.
        manifest_sha256: hash of the films' contents, labels, patients and views.
        thumbnails: of `films`, in their order; a film that changed while it was read has none.
        notes: what a reader of the numbers has to know of the data, in sentences.
    """

    name: str
    root: Path
    films: pd.DataFrame
    refused: pd.DataFrame
    manifest_sha256: str
    thumbnails: Thumbnails
    notes: list[str] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        """Whether the films are phantoms."""
        return self.name == "phantom"


def read_film_table(
    data: Mapping[str, Any],
    *,
    cache_dir: Path,
    rules: Rules | None = None,
    limits: Mapping[str, float] | None = None,
    progress: bool = True,
) -> FilmTable:
    """The films of a data set: from the cache where they are as they were, read now otherwise.

    Args:
        data: the group ``data`` of the configuration.
        cache_dir: where manifests are kept. One that is there and does not fit any more is left as it is: a study may
            be built on it.
        rules: as in `covidnet.data.manifest.scan`.
        limits: the settings under ``reading``.
        progress: whether progress bars are drawn.

    Raises:
        DataError: where the data cannot be used, in one line.
    """
    source = find_source(data, cache_dir, progress=progress)
    home = manifest_home(data, source, cache_dir, flagged=rules is not None)
    with locked(home / ".lock"):
        manifest = read_current_manifest(home, source)
        kept = manifest is not None
        if manifest is None:
            manifest = scan(
                source,
                max_megapixels=data["max_megapixels"],
                min_side=data["min_side"],
                limits=limits,
                rules=rules,
                progress=progress,
            )
            if not (home / "manifest.csv").exists():
                write_manifest(home, manifest)
            else:
                log.info("%s: changed since its manifest was made; its films were read again", source.root)
    films, notes = filter_view(manifest.films, data.get("view"))
    small = kept_thumbnails(home, source.root, progress=progress) if kept else _of(manifest)
    return FilmTable(
        name=manifest.name,
        root=manifest.root,
        films=films,
        refused=manifest.refused,
        manifest_sha256=manifest_hash(films),
        thumbnails=_only(small, films),
        notes=[*source.notes, *notes],
    )


def _of(manifest: Manifest) -> Thumbnails:
    assert manifest.thumbnails is not None  # a scan makes them
    return manifest.thumbnails


def _only(small: Thumbnails, films: pd.DataFrame) -> Thumbnails:
    place = {image_id: n for n, image_id in enumerate(small.image_id)}
    chosen = [place[image_id] for image_id in films["image_id"] if image_id in place]
    return Thumbnails([small.image_id[n] for n in chosen], small.pixels[chosen], small.aspects[chosen])
