"""Images of one data set inside another: the same file, or the same image in another guise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.progress import progress_bar
from covidnet.data.reading.thumbnails import Pixels
from covidnet.data.recognition.image_search import COLUMNS, TURNED, UPRIGHT, search, table_of
from covidnet.data.recognition.landmarks import LandmarkIndex

SIMILARITY = 0.72
"""Correlation at 64 x 64 pixels from which on two images are taken for one, where images are as different as people
are.

Of 1,157 radiographs of 774 patients no two of different people reach it: of 668,000 pairs the most alike have 0.68, but
for three pairs of one patient who is listed twice. Of planted copies 99% to 100% of each kind do
(`benchmarks/overlap.py`).
"""

HIGHEST = 0.95
"""No limit is above this: where images resemble each other more than that, they cannot be told apart."""

SAME_FILE = "same file"

COPY_COLUMNS = ("path", "label", "other_path", "other_label", "kind", "similarity")
"""Columns of copies.csv."""

METHOD = 2
"""Is raised where `find_copies` finds other pairs than before, so that what was kept is not used any more."""

# Images from which it is measured how alike those of one set are.
_SAMPLE = 200


@dataclass(frozen=True)
class ImageSet:
    """The images of one side, as they are recognised.

    Args:
        sha256: (N,) hashes of the files, hexadecimal.
        pixels: (N, 64, 64) uint8 thumbnails.
    """

    sha256: npt.NDArray[np.str_]
    pixels: Pixels

    def __len__(self) -> int:
        return len(self.pixels)


def find_overlap(images: ImageSet, others: ImageSet, *, progress: bool = True) -> pd.DataFrame:
    """Which images are there among others, and how they were changed.

    Found are the same bytes; the same image saved again, resized, with another brightness, contrast or gamma; mirrored,
    inverted, or both; cropped by up to a fifth of each side, wherever the part lies, and the other way round; all of
    that together; and turned by 90, 180 or 270 degrees where it is not cropped. Images of one patient that were taken
    within a short time may be as alike as that.

    Local mean and contrast are taken out of each thumbnail. An index tells which images look the same around some
    places (`LandmarkIndex`); of the 24 likeliest all windows are compared at 16 x 16 pixels, the best six are aligned
    by least squares, and the correlation at 64 x 64 pixels decides. It is compared with `likeness_limit` of the others.

    Args:
        images: that are looked for.
        others: among which.
        progress: whether a progress bar is drawn.

    Returns:
        At most one row per image, the best: ``image`` and ``other`` (numbers of rows), ``kind`` (``same file``,
        ``near-duplicate``, or what was done, such as ``mirrored and inverted``) and ``similarity`` (0..1), sorted by
        image. ``cropped`` images show a part of the other; the other shows a part of ``uncropped`` ones.
    """
    found = [_same_files(images, others), *_searches(images, others, alone=False, progress=progress)]
    table = pd.concat(found, ignore_index=True)
    # The same file is told of where there is one, and otherwise the most alike.
    table = table.sort_values("similarity", ascending=False, kind="stable").drop_duplicates("image")
    return table.sort_values("image", ignore_index=True)


def find_copies(images: ImageSet, *, progress: bool = True) -> pd.DataFrame:
    """Images of one set that are there more than once, in any guise that `find_overlap` knows.

    Args:
        images: of the set.
        progress: whether a progress bar is drawn.

    Returns:
        One row per pair, in the form of `find_overlap`, with ``image`` below ``other``; which of the two was changed is
        not told. Of many copies of one image not all pairs are told, but each copy is in one.
    """
    found = [_same_files(images, images, alone=True), *_searches(images, images, alone=True, progress=progress)]
    table = pd.concat(found, ignore_index=True)
    table = table.sort_values("similarity", ascending=False, kind="stable")
    pairs = np.sort(table[["image", "other"]].to_numpy(np.intp), axis=1)
    table = table.assign(image=pairs[:, 0], other=pairs[:, 1]).drop_duplicates(["image", "other"])
    return table.sort_values(["image", "other"], ignore_index=True)


def named_copies(found: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The pairs of `find_copies` as they stand in copies.csv.

    Args:
        found: as `find_copies` returns them.
        images: rows with path and label, in the order of the `ImageSet`.

    Returns:
        Columns `COPY_COLUMNS`.
    """
    first, second = images.iloc[found["image"].tolist()], images.iloc[found["other"].tolist()]
    columns = {
        "path": first["path"].tolist(),
        "label": first["label"].tolist(),
        "other_path": second["path"].tolist(),
        "other_label": second["label"].tolist(),
        "kind": found["kind"].tolist(),
        "similarity": found["similarity"].tolist(),
    }
    return pd.DataFrame(columns, columns=list(COPY_COLUMNS))


def likeness_limit(images: ImageSet) -> float:
    """The similarity from which on two images are one: `SIMILARITY`, or more where images of the set are more alike.

    Drawn images (phantoms) are. Of up to 200 images the similarity to the nearest other one is measured; the limit is
    three robust standard deviations above its median, so that copies within the set do not raise it.

    Args:
        images: of the set among which others are looked for.

    Returns:
        `SIMILARITY` to `HIGHEST`.
    """
    return _limit(images.pixels, LandmarkIndex(images.pixels))


def _limit(pixels: Pixels, index: LandmarkIndex) -> float:
    if len(pixels) < 2:
        return SIMILARITY
    sample = np.unique(np.linspace(0, len(pixels) - 1, min(_SAMPLE, len(pixels))).round().astype(np.intp))
    found = search(pixels[sample], pixels, index, UPRIGHT, -1.0, itself=sample)
    # An image that shares no place with another is like none.
    nearest = found.groupby("image")["similarity"].max().reindex(range(len(sample)), fill_value=0.0).to_numpy()
    median = float(np.median(nearest))
    spread = 1.4826 * float(np.median(np.abs(nearest - median)))
    return float(np.clip(median + 3.0 * spread, SIMILARITY, HIGHEST))


def _same_files(images: ImageSet, others: ImageSet, alone: bool = False) -> pd.DataFrame:
    first: dict[str, int] = {}
    rows = []
    if not alone:
        for n, sha256 in enumerate(others.sha256.tolist()):
            first.setdefault(sha256, n)
    for n, sha256 in enumerate(images.sha256.tolist()):
        if sha256 in first:
            # Above every correlation, so that it comes first.
            rows.append((n, first[sha256], SAME_FILE, 1.0))
        elif alone:
            first[sha256] = n
    return table_of(rows)


def _searches(images: ImageSet, others: ImageSet, *, alone: bool, progress: bool) -> Iterator[pd.DataFrame]:
    """Tables of images as parts of the others, of turned images, and of others as parts of images."""
    if not (len(images) and len(others)):
        return
    itself = np.arange(len(images)) if alone else None
    turns = len(UPRIGHT) + len(TURNED)
    with progress_bar(progress) as bar:
        task = bar.add_task("looking for copies", total=turns * len(images) + (0 if alone else len(others)))

        def tick(count: int) -> None:
            bar.advance(task, count)

        index = LandmarkIndex(others.pixels)
        limit = _limit(others.pixels, index)
        yield search(images.pixels, others.pixels, index, UPRIGHT, limit, itself=itself, tick=tick)
        yield search(images.pixels, others.pixels, index, TURNED, limit, itself=itself, tick=tick)
        if not alone:
            index = LandmarkIndex(images.pixels)
            table = search(others.pixels, images.pixels, index, UPRIGHT, limit, tick=tick)
            # Where both show the whole image, the first search has found it.
            table = table[table["kind"].str.contains("cropped")].rename(columns={"image": "other", "other": "image"})
            yield table.assign(kind=table["kind"].str.replace("cropped", "uncropped"))[list(COLUMNS)]
