"""A data set without folds: any number of images per class, including none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.atomic import locked
from covidnet.data.collection.manifest import Manifest, Rules, manifest_hash, scan
from covidnet.data.collection.manifest_files import (
    filter_view,
    kept_thumbnails,
    manifest_home,
    read_current_manifest,
    write_manifest,
)
from covidnet.data.collection.metadata import read_columns
from covidnet.data.collection.prepared import find_source, given_table
from covidnet.data.reading.thumbnails import Thumbnails

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTable:
    """A data set without a split.

    Attributes:
        name: phantom, kaggle or folder.
        root: the folder that paths are relative to.
        images: the manifest's rows after the view filter (columns of `covidnet.data.collection.manifest.COLUMNS`).
        refused: files that cannot be used: path, cause, remedy.
        manifest_sha256: hash of the images' contents, labels, patients and views.
        thumbnails: of `images`, in their order; an image that changed while it was read has none.
        notes: what a reader of the numbers must know about the data, in sentences.
    """

    name: str
    root: Path
    images: pd.DataFrame
    refused: pd.DataFrame
    manifest_sha256: str
    thumbnails: Thumbnails
    notes: list[str] = field(default_factory=list)

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms."""
        return self.name == "phantom"


def read_image_table(
    data: Mapping[str, Any],
    *,
    cache_dir: Path,
    rules: Rules | None = None,
    limits: Mapping[str, float] | None = None,
    progress: bool = True,
) -> ImageTable:
    """The images of a data set: from the cache if nothing changed, otherwise read now.

    Args:
        data: the group ``data`` of the configuration.
        cache_dir: where manifests are kept. An outdated manifest is left as it is: a study may depend on it.
        rules: as in `covidnet.data.collection.manifest.scan`.
        limits: the settings under ``reading``.
        progress: whether progress bars are drawn.

    Raises:
        DataError: the data cannot be used, in one line.
    """
    source = find_source(data, cache_dir, progress=progress)
    home = manifest_home(data, source, cache_dir, flagged=rules is not None)
    with locked(home / ".lock"):
        manifest = read_current_manifest(home, source, progress=progress)
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
                log.info("%s: changed since its manifest was written; images were read again", source.root)
    images, notes = filter_view(manifest.images, data.get("view"))
    small = kept_thumbnails(home, source.root, progress=progress) if kept else _new_thumbnails(manifest)
    return ImageTable(
        name=manifest.name,
        root=manifest.root,
        images=images,
        refused=manifest.refused,
        manifest_sha256=manifest_hash(images),
        thumbnails=select_thumbnails(small, images),
        notes=[*source.notes, *notes],
    )


def table_columns(data: Mapping[str, Any], images: ImageTable) -> pd.DataFrame:
    """What the table of a data set says about its images besides label, patient, view and source, such as sex and age.

    Args:
        data: the group ``data`` of the configuration.
        images: read with the same settings.

    Returns:
        A row for each of ``images.images``, by path; text, unknown is NaN.

    Raises:
        DataError: the table cannot be read.
    """
    return read_columns(images.root, images.images["path"].tolist(), given_table(data))


def _new_thumbnails(manifest: Manifest) -> Thumbnails:
    assert manifest.thumbnails is not None  # a scan makes them
    return manifest.thumbnails


def select_thumbnails(small: Thumbnails, images: pd.DataFrame) -> Thumbnails:
    """The thumbnails of some images, in their order; an image that has none is left out.

    Args:
        small: of a manifest.
        images: rows with image_id.
    """
    place = {image_id: n for n, image_id in enumerate(small.image_id)}
    chosen = [place[image_id] for image_id in images["image_id"] if image_id in place]
    return Thumbnails([small.image_id[n] for n in chosen], small.pixels[chosen], small.aspects[chosen])
