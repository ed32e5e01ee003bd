"""Find images of one data set in another: the same file, or the same image transformed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covidnet.base.progress import progress_bar
from covidnet.data.reading.thumbnails import SIDE, Pixels
from covidnet.data.recognition import tilt
from covidnet.data.recognition.image_search import (
    CANDIDATES,
    COLUMNS,
    NEAR_DUPLICATE,
    TURNED,
    UPRIGHT,
    search,
    table_of,
)
from covidnet.data.recognition.landmarks import Ints, LandmarkIndex

SIMILARITY = 0.72
"""Two images count as one from this correlation at 64 x 64 pixels, in data sets as diverse as people are.

In 1,157 radiographs of 774 patients, no two images of different people reach it. The highest of 668,000 pairs is 0.68,
apart from three pairs of one patient who is listed twice. Of planted copies, 99% to 100% of each kind reach it
(`benchmarks/overlap.py`).
"""

HIGHEST = 0.95
"""The highest limit. Images that resemble each other even more cannot be distinguished."""

SAME_FILE = "same file"

COPY_COLUMNS = ("path", "label", "other_path", "other_label", "kind", "similarity")
"""Columns of copies.csv."""

METHOD = 4
"""Increased whenever `find_copies` finds different pairs, so that cached results are not reused."""

# Images sampled to measure how similar the images of one set are.
_SAMPLE = 200

# If more images than this share have copies, these raise the limit, which is then measured again without them.
_MANY = 0.25

# A frame: lines at an edge whose grey levels differ by no more than this, and at most so many of the 64.
_FLAT, _WIDEST = 6, 20


@dataclass(frozen=True)
class ImageSet:
    """A set of images, as needed to recognise them.

    Args:
        sha256: (N,) hashes of the files, hexadecimal.
        pixels: (N, 64, 64) uint8 thumbnails.
    """

    sha256: npt.NDArray[np.str_]
    pixels: Pixels

    def __len__(self) -> int:
        return len(self.pixels)


def find_overlap(images: ImageSet, others: ImageSet, *, progress: bool = True) -> pd.DataFrame:
    """Find the images that are among the others, and how they were transformed.

    An image is found if the file is identical, or if the image was saved again, resized, or changed in brightness,
    contrast or gamma; mirrored, inverted or both; cropped by up to a fifth of each side, anywhere, or the other way
    round; any of these together; turned by 90, 180 or 270 degrees without cropping; tilted by up to 10 degrees; or
    given a border of one grey, or rid of it. Two images of one patient taken
    shortly after each other may match too.

    Local mean and contrast are removed from each thumbnail. An index finds the 24 most likely matches by shared
    landmarks (`LandmarkIndex`). All their windows are compared at 16 x 16 pixels, and the best six are aligned by least
    squares. A match needs a correlation at 64 x 64 pixels of at least `likeness_limit` of the others. The six likeliest
    are also compared turned by up to 10 degrees (`covidnet.data.recognition.tilt`), and images with a border of one
    grey are searched for again without it.

    Args:
        images: the images to find.
        others: the images to search.
        progress: whether a progress bar is drawn.

    Returns:
        At most one row per image, the best match: ``image`` and ``other`` (row indices), ``kind`` (``same file``,
        ``near-duplicate``, or the transformation, such as ``mirrored and inverted``) and ``similarity`` (0..1), sorted
        by image. A ``cropped`` image shows a part of the other; of an ``uncropped`` image the other shows a part.
    """
    table = pd.concat([_same_files(images, others), *_between(images, others, progress)], ignore_index=True)
    # Prefer the same file, then the most similar image.
    table = table.sort_values("similarity", ascending=False, kind="stable").drop_duplicates("image")
    return table.sort_values("image", ignore_index=True)


def find_copies(images: ImageSet, *, progress: bool = True) -> pd.DataFrame:
    """Find images that occur more than once in a set, under any transformation that `find_overlap` knows.

    Args:
        images: the set.
        progress: whether a progress bar is drawn.

    Returns:
        One row per pair, as in `find_overlap`, with ``image`` below ``other``. It does not say which of the two was
        transformed. If an image has many copies, not all pairs are listed, but those listed connect all its copies.
    """
    table = pd.concat([same_files(images), *_within(images, progress)], ignore_index=True)
    table = table.sort_values("similarity", ascending=False, kind="stable")
    pairs = np.sort(table[["image", "other"]].to_numpy(np.intp), axis=1)
    table = table.assign(image=pairs[:, 0], other=pairs[:, 1]).drop_duplicates(["image", "other"])
    return table.sort_values(["image", "other"], ignore_index=True)


def named_copies(found: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The pairs of `find_copies` as rows of copies.csv.

    Args:
        found: the result of `find_copies`.
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
    """The similarity from which two images count as one: `SIMILARITY`, or more if the images of the set are more alike.

    Phantoms are more alike. For up to 200 images, the similarity to the nearest other image is measured. The limit is
    three robust standard deviations above the median, so that copies within the set do not raise it.

    Args:
        images: the set that is searched.

    Returns:
        `SIMILARITY` to `HIGHEST`.
    """
    return _limit(images.pixels, LandmarkIndex(images.pixels))


def _limit(pixels: Pixels, index: LandmarkIndex, group: Ints | None = None) -> float:
    if len(pixels) < 2:
        return SIMILARITY
    sample = np.unique(np.linspace(0, len(pixels) - 1, min(_SAMPLE, len(pixels))).round().astype(np.intp))
    group = np.arange(len(pixels)) if group is None else group
    found = search(pixels[sample], pixels, index, UPRIGHT, -1.0, kin=(group[sample], group))
    # An image that shares no landmark with another resembles none.
    nearest = found.groupby("image")["similarity"].max().reindex(range(len(sample)), fill_value=0.0).to_numpy()
    median = float(np.median(nearest))
    spread = 1.4826 * float(np.median(np.abs(nearest - median)))
    return float(np.clip(median + 3.0 * spread, SIMILARITY, HIGHEST))


def same_files(images: ImageSet) -> pd.DataFrame:
    """The pairs of a set that have the same bytes, as `find_copies` lists them; the pixels are not compared.

    Args:
        images: the set.
    """
    found = _same_files(images, images)
    return found[found["image"] != found["other"]].reset_index(drop=True)


def _same_files(images: ImageSet, others: ImageSet) -> pd.DataFrame:
    """Each image with the first of the others that has the same bytes."""
    first: dict[str, int] = {}
    for n, sha256 in enumerate(others.sha256.tolist()):
        first.setdefault(sha256, n)
    # The highest similarity, so that identical files sort first.
    rows = [(n, first[one], SAME_FILE, 1.0) for n, one in enumerate(images.sha256.tolist()) if one in first]
    return table_of(rows)


def _between(images: ImageSet, others: ImageSet, progress: bool) -> Iterator[pd.DataFrame]:
    """Yield the matches of images as parts of the others, of turned images, and of others as parts of images."""
    if not (len(images) and len(others)):
        return
    with progress_bar(progress) as bar:
        task = bar.add_task("looking for copies", total=len(UPRIGHT + TURNED) * len(images) + len(others))

        def tick(count: int) -> None:
            bar.advance(task, count)

        index = LandmarkIndex(others.pixels)
        limit = _limit(others.pixels, index)
        tilted = max(limit, tilt.SIMILARITY)
        yield search(images.pixels, others.pixels, index, UPRIGHT + TURNED, limit, tilted=tilted, tick=tick)
        yield _unframed(images.pixels, others.pixels, limit)
        table = search(others.pixels, images.pixels, LandmarkIndex(images.pixels), UPRIGHT, limit, tick=tick)
        # If both show the whole image, the first search already found the pair.
        table = table[table["kind"].str.contains("cropped")].rename(columns={"image": "other", "other": "image"})
        yield table.assign(kind=table["kind"].str.replace("cropped", "uncropped"))[list(COLUMNS)]


def _within(images: ImageSet, progress: bool) -> Iterator[pd.DataFrame]:
    """Yield the matches among the images of one set, until no group of copies can be joined with another."""
    pixels, count = images.pixels, len(images)
    if not count:
        return
    with progress_bar(progress) as bar:
        task = bar.add_task("looking for copies", total=len(UPRIGHT + TURNED) * count)

        def tick(done: int) -> None:
            bar.advance(task, done)

        index: LandmarkIndex | None
        index = LandmarkIndex(pixels)
        group, limit, queries = np.arange(count), _limit(pixels, index), np.arange(count)
        while len(queries):
            options: dict[str, Any] = {"tilted": max(limit, tilt.SIMILARITY), "kin": (group[queries], group)}
            index = index or LandmarkIndex(pixels)
            # The images and the index are the largest arrays: all images are not copied.
            chosen = pixels if len(queries) == count else pixels[queries]
            table = search(chosen, pixels, index, UPRIGHT + TURNED, limit, tick=tick, **options)
            table["image"] = queries[table["image"]]
            if len(queries) == count:
                # Images without their frames have an index of their own, as large as this.
                index = None
                known = {frozenset(pair) for pair in table[["image", "other"]].to_numpy().tolist()}
                more = _unframed(pixels, pixels, limit, group)
                new = [frozenset(pair) not in known for pair in more[["image", "other"]].to_numpy().tolist()]
                table = pd.concat([table, more[np.array(new, bool)]], ignore_index=True)
            yield table
            joined = _joined(group, table)
            sizes = np.bincount(joined)[joined]
            lower = limit
            if (sizes > 1).mean() > _MANY and len(table):
                index = index or LandmarkIndex(pixels)
                lower = min(limit, _limit(pixels, index, joined))
            # The candidates of an image with many copies may all have been these, and hidden further ones.
            hidden = (sizes > CANDIDATES) & np.isin(joined, joined[table["image"]])
            queries = np.flatnonzero(hidden | (lower < limit))
            group, limit = joined, lower


def _unframed(images: Pixels, others: Pixels, limit: float, group: Ints | None = None) -> pd.DataFrame:
    """The matches of images of which one has a frame, without it; `group` is that of images in one set."""
    here, framed = trimmed(images)
    there, others_framed = (here, framed) if group is not None else trimmed(others)
    found = [table_of([])]
    if framed.any() or others_framed.any():
        index = LandmarkIndex(there)
        # Within one set a pair has a framed image in it, which looks for the other.
        chosen = np.flatnonzero(framed) if group is not None else np.arange(len(here))
        kin = None if group is None else (group[chosen], group)
        table = search(here[chosen], there, index, UPRIGHT, limit, kin=kin)
        table["image"] = chosen[table["image"]]
        found.append(table[framed[table["image"]] | others_framed[table["other"]]])
    table = pd.concat(found, ignore_index=True)
    # A line at the edge of a frame is lost with it, which is not worth the word cropped.
    words = table["kind"].str.split(", | and ", regex=True)
    kinds = [" and ".join(["bordered", *(w for w in one if w not in (NEAR_DUPLICATE, "cropped"))]) for one in words]
    return table.assign(kind=np.array(kinds, object))


def trimmed(pixels: Pixels) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Thumbnails without a frame of one grey, as a border has that was added to an image.

    Args:
        pixels: (N, 64, 64).

    Returns:
        (N, 64, 64), what is inside of the frame at full size; and (N,) whether an image has one.

    Example:
        >>> image = np.arange(4096).reshape(64, 64) % 251
        >>> image[:, :8] = 0
        >>> trimmed(image[None].astype(np.uint8))[1].tolist()
        [True]
    """
    found, framed = pixels.copy(), np.zeros(len(pixels), bool)
    for n, image in enumerate(pixels):
        (top, bottom), (left, right) = (_frame(lines) for lines in (image, image.T))
        inner = image[top : SIDE - bottom, left : SIDE - right]
        if inner.shape != image.shape:
            found[n] = cv2.resize(inner, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            framed[n] = True
    return found, framed


def _frame(lines: Pixels) -> tuple[int, int]:
    """How many lines at the start and the end are a frame, with the line that is partly one."""
    flat, grey = np.ptp(lines.astype(np.intp), axis=1) <= _FLAT, lines.mean(1)
    ends = []
    for order in (slice(None), slice(None, None, -1)):
        inside = ~(flat[order] & (np.abs(grey[order] - grey[order][0]) <= _FLAT))
        count = int(inside.argmax()) if inside.any() else SIDE
        ends.append(count + 1 if 0 < count <= _WIDEST else 0)
    return ends[0], ends[1]


def _joined(group: Ints, pairs: pd.DataFrame) -> Ints:
    """(N,) the groups, joined where a pair connects them."""
    count = len(group)
    edges = coo_array((np.ones(len(pairs)), (group[pairs["image"]], group[pairs["other"]])), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1], np.intp)[group]
