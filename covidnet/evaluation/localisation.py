"""Whether a heat map lies where the lesions are: measures of one map, and of a model's maps against three baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.classes import CLASSES
from covidnet.base.errors import DataError
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights, percentile_interval
from covidnet.evaluation.results import Interval, Measured

MEASURES: tuple[str, ...] = ("touch", "pointing", "iou", "lesion_share", "lung_share")
"""The measures of a map, in the order of the table's columns."""

MAPS: tuple[str, ...] = ("model", "centre", "mean_map", "chance")
"""Whose map a row of the table measures: the model's, or one of the three baselines that know nothing of the image."""

MIN_PATIENTS = 5
"""With fewer patients there is no verdict: the bootstrap of so few is too narrow."""

# What the verdicts are about. Heat in the lungs finds no lesion, but maps that lie elsewhere have failed.
_JUDGED = ("pointing", "iou", "lesion_share")
_OF_LUNGS = "lung_share"

# Against the lesions; the last measure is against the lungs.
_OF_LESIONS = MEASURES[:-1]

# Model minus baseline.
_DIFFERENCES = {"difference": "centre", "difference_mean_map": "mean_map", "difference_chance": "chance"}

Heat = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MapEstimate(Measured):
    """A mean over heat maps.

    Args:
        n: images with a value.
        method: of the interval.
    """

    n: int | None
    method: str | None

    @property
    def ends(self) -> Interval | None:
        """The interval; a number that is the same in all resamples is its own. None without a number."""
        return self.ci or (None if self.value is None else (self.value, self.value))


@dataclass(frozen=True)
class MeasureSummary:
    """One measure of a model's maps and of maps that have not seen the image, over the same images.

    Args:
        n: images.
        model: of the model's maps.
        centre: of the centre prior.
        mean_map: of the mean of the model's other maps.
        chance: of any place of the image.
        difference: model less centre.
        difference_mean_map: model less mean_map.
        difference_chance: model less chance.
    """

    n: int | None
    model: MapEstimate
    centre: MapEstimate
    mean_map: MapEstimate
    chance: MapEstimate
    difference: MapEstimate
    difference_mean_map: MapEstimate
    difference_chance: MapEstimate


@dataclass(frozen=True)
class RegionVerdict:
    """Whether maps lie on one kind of region more than maps that have not seen the image.

    Args:
        n: images with a known region; of lungs, those whose map is not constant as well.
        patients: of these images.
        not_better: measures whose difference to the centre prior or, where chance has the measure, to chance has no
            interval wholly above 0.
        not_better_than_mean_map: measures whose difference to the mean map has none.
        better_than_centre: whether `not_better` is empty; None without a verdict, with fewer than `MIN_PATIENTS`.
    """

    n: int | None
    patients: int | None
    not_better: list[str]
    not_better_than_mean_map: list[str]
    better_than_centre: bool | None


@dataclass(frozen=True)
class LocalisationSummary:
    """Where the maps of a model lie: the verdict on lesions, that on lungs, and the numbers.

    Args:
        images: all of them.
        maps: of the model, of images with any mask.
        constant: those of the maps that are constant.
        constant_by_class: the same for each class.
        measures: by name.
        lungs: the verdict on heat in the lungs; the other verdict is on pointing, iou and lesion_share.
    """

    images: int | None = field(metadata={"key": "films"})
    maps: int | None
    constant: int | None
    constant_by_class: dict[str, int]
    measures: dict[str, MeasureSummary]
    n: int | None
    patients: int | None
    not_better: list[str]
    not_better_than_mean_map: list[str]
    better_than_centre: bool | None
    lungs: RegionVerdict


def pointing(heat: Heat, mask: Mask) -> float:
    """The pointing game: whether the hottest place lies in the mask.

    Where several pixels share the maximum it is the share of them in the mask, so that no order of pixels decides. No
    tolerance is given; Zhang et al. also count a hit up to 15 pixels away from the mask.

    Args:
        heat: (H, W), 0..1.
        mask: (H, W).

    Returns:
        0..1. NaN where the mask is empty or the map is constant or not finite.

    Raises:
        DataError: the shapes differ.

    Source: Zhang et al. 2018, https://doi.org/10.1007/s11263-017-1059-x

    Example:
        >>> pointing(np.array([[0.1, 0.9], [0.9, 0.0]]), np.array([[False, True], [False, False]]))
        0.5
    """
    if not _comparable(heat, mask):
        return float("nan")
    return float(mask[heat == heat.max()].mean())


def otsu_iou(heat: Heat, mask: Mask) -> float:
    """Intersection over union of the mask and the hot part of the map, as Otsu's threshold cuts it out.

    The map is stretched to 256 levels first. Of thresholds with equal variance between the two parts the lowest is
    taken, and the hot part lies above it.

    Args:
        heat: (H, W), 0..1.
        mask: (H, W).

    Returns:
        0..1. NaN where the mask is empty or the map is constant or not finite.

    Raises:
        DataError: the shapes differ.

    Source: Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076

    Example:
        >>> otsu_iou(np.array([[0.0, 0.1], [0.9, 1.0]]), np.array([[False, False], [False, True]]))
        0.5
    """
    if not _comparable(heat, mask):
        return float("nan")
    # A table that is read again needs no images.
    import cv2

    values = np.asarray(heat, np.float64)
    low, high = values.min(), values.max()
    levels = np.round((values - low) / (high - low) * 255.0).astype(np.uint8)
    hot = np.asarray(cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1], bool)
    return float((hot & mask).sum() / (hot | mask).sum())


def heat_share(heat: Heat, mask: Mask) -> float:
    """The part of all heat that lies in the mask.

    Args:
        heat: (H, W), 0..1.
        mask: (H, W).

    Returns:
        0..1. NaN where the mask is empty or the map is constant or not finite.

    Raises:
        DataError: the shapes differ.

    Example:
        >>> heat_share(np.array([[0.25, 0.5], [0.25, 0.0]]), np.array([[True, True], [False, False]]))
        0.75
    """
    if not _comparable(heat, mask):
        return float("nan")
    return float(np.asarray(heat[mask], np.float64).sum() / np.asarray(heat, np.float64).sum())


def centre_prior(shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A map that knows nothing but where the middle of an image is.

    An isotropic Gaussian with a standard deviation of a quarter of the shorter side. The choice is ours: it covers
    most of both lungs of an image that is taken as usual.

    Args:
        shape: (H, W) of the map.

    Returns:
        float32 (H, W), above 0, 1 at the middle.

    Example:
        >>> centre_prior((3, 5)).argmax()
        np.int64(7)
    """
    height, width = shape
    down = np.arange(height) - (height - 1) / 2
    across = np.arange(width) - (width - 1) / 2
    away = (down[:, None] ** 2 + across[None, :] ** 2) / (min(height, width) / 4) ** 2
    # An even side has no pixel in its middle: the nearest ones are 1.
    return np.exp((away.min() - away) / 2).astype(np.float32)


def localisation_table(
    heats: Heat,
    lesions: Sequence[Mask | None],
    lungs: Sequence[Mask | None],
    image_id: Sequence[str],
    patient_id: Sequence[str | float | None],
    label: Sequence[str],
) -> pd.DataFrame:
    """The measures of one model's maps and of three baselines on the same images.

    The baseline ``centre`` is `centre_prior`. The baseline ``mean_map`` is the mean of the model's maps of all other
    images: it knows where this model likes to look, but has not seen this image. Maps that are constant have no part in
    it. The baseline ``chance`` is any place of the image, each as likely as the other: its hottest place and its share
    of the heat lie in a region as often as the region's share of the map's area says.

    A map without evidence in any place (constant, or not finite) counts as a miss: where a lesion is known its touch,
    pointing, iou and lesion_share are 0. Its lung_share is missing: there is no heat to share.

    Args:
        heats: (N, H, W), 0..1, the model's maps.
        lesions: for each image where its lesions are, (H, W); None where that is unknown, all False where it has none.
        lungs: the same for its lungs.
        image_id: for each image its id.
        patient_id: for each image its patient; None or NaN where unknown.
        label: for each image its class.

    Returns:
        Four rows per image: image_id, patient_id, label, map (of `MAPS`), constant (whether this map says nothing), and
        the `MEASURES`: ``touch`` (whether the hot part of the map has any pixel of a lesion, which is what is asked of
        maps by eye), ``pointing``, ``iou`` and ``lesion_share`` against the lesions, ``lung_share`` against the lungs.
        NaN where a measure is not defined: no mask, an empty mask, ``lung_share`` of a constant map, ``touch`` and
        ``iou`` of chance, and ``mean_map`` of an only image.

    Raises:
        DataError: the arguments differ in length, or a mask and its map in shape.
    """
    heats = np.asarray(heats)
    given = {"lesions": lesions, "lungs": lungs, "image_id": image_id, "patient_id": patient_id, "label": label}
    for name, values in given.items():
        if len(values) != len(heats):
            raise DataError(f"{name}: {len(values)} values for {len(heats)} maps; give one for each map")
    images = list(zip(image_id, patient_id, label, strict=True))
    means = _mean_maps(heats, image_id)
    rows: list[tuple[Any, ...]] = []
    for at, heat in enumerate(heats):
        for name, shown in zip(MAPS, (heat, centre_prior(heat.shape), means[at]), strict=False):
            silent = shown is not None and not _varies(shown)
            rows.append((*images[at], name, silent, *_measured(shown, lesions[at], lungs[at])))
        rows.append((*images[at], "chance", False, *_by_chance(lesions[at], lungs[at])))
    table = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "map", "constant", *MEASURES])
    return table.astype({"constant": bool} | dict.fromkeys(MEASURES, np.float64))


def localisation_summary(table: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> LocalisationSummary:
    """Whether a model's maps lie on the lesions more than maps that have not seen the image.

    An image that is in the table several times, as in the joined tables of several models, is averaged first. Maps are
    compared on the same image: the first row of the model with the first row of a baseline, and so on. All numbers of
    a measure are over the same images: those on which the model and every baseline that has the measure at all have it.
    A map without evidence in any place counts as a miss, see `localisation_table`. Intervals are 95% bootstrap
    intervals over patients.

    Args:
        table: as `localisation_table` makes it, or several of them joined.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    images = table[["image_id", "patient_id"]].drop_duplicates("image_id", ignore_index=True)
    # Rows of one image and map are numbered: tables of several models hold each image once per model.
    keyed = table.assign(turn=table.groupby(["image_id", "map"]).cumcount()).set_index(["image_id", "turn"])
    model = keyed.loc[keyed["map"] == "model"]
    of = {name: keyed.loc[keyed["map"] == name, list(MEASURES)].reindex(model.index) for name in MAPS}
    centre = of["centre"]
    masked = centre.notna().any(axis=1)
    silent = _silent(model) & masked
    # A table that was written before it counted misses has nothing there.
    missed = silent.to_numpy()[:, None] & centre[list(_OF_LESIONS)].notna()
    of["model"] = of["model"].assign(**of["model"][list(_OF_LESIONS)].mask(missed, 0.0))
    of = _over_the_same_images(of)
    # Subtracted before they are averaged: each map is compared with the baselines of its own row.
    of |= {name: of["model"] - of[baseline] for name, baseline in _DIFFERENCES.items()}
    means = {
        name: part.groupby(level="image_id").mean().reindex(images["image_id"]).to_numpy() for name, part in of.items()
    }
    bootstrap = _Bootstrap(images, resamples, seed)
    measures: dict[str, MeasureSummary] = {}
    poor: dict[str, list[str]] = {name: [] for name in _DIFFERENCES}
    for at, measure in enumerate(MEASURES):
        found = {name: bootstrap(values[:, at]) for name, values in means.items()}
        measures[measure] = MeasureSummary(n=found["model"].n, **found)
        for name, baseline in _DIFFERENCES.items():
            if measure not in (*_JUDGED, _OF_LUNGS) or (baseline == "chance" and not found["chance"].n):
                continue
            patients = bootstrap.patients(means[name][:, at])
            if not (patients >= MIN_PATIENTS and _above_zero(found[name])):
                poor[name].append(measure)
    # The centre prior is never constant: it has a measure wherever there is a mask.
    lesion = centre["pointing"].groupby(level="image_id").mean().reindex(images["image_id"]).to_numpy()
    lung = means["model"][:, MEASURES.index(_OF_LUNGS)]
    lesions = _judged(_JUDGED, poor, int(np.isfinite(lesion).sum()), bootstrap.patients(lesion))
    return LocalisationSummary(
        images=len(images),
        maps=int(masked.sum()),
        constant=int(silent.sum()),
        constant_by_class=_by_class(silent, model["label"][masked]),
        measures=measures,
        **vars(lesions),
        lungs=_judged((_OF_LUNGS,), poor, int(np.isfinite(lung).sum()), bootstrap.patients(lung)),
    )


def _judged(measures: Sequence[str], poor: Mapping[str, list[str]], n: int, patients: int) -> RegionVerdict:
    """The verdict on one kind of region: by which measures the maps are no better than which baseline."""
    not_better = [one for one in measures if one in poor["difference"] + poor["difference_chance"]]
    return RegionVerdict(
        n=n,
        patients=patients,
        not_better=not_better,
        not_better_than_mean_map=[one for one in measures if one in poor["difference_mean_map"]],
        better_than_centre=not not_better if patients >= MIN_PATIENTS else None,
    )


class _Bootstrap:
    """Means over images with intervals that know of patients; one draw for all columns with the same images."""

    def __init__(self, images: pd.DataFrame, resamples: int, seed: int) -> None:
        self.images, self.resamples, self.seed = images, resamples, seed
        self.drawn: dict[bytes, tuple[npt.NDArray[np.int32], int]] = {}

    def __call__(self, values: npt.NDArray[np.float64]) -> MapEstimate:
        there = np.isfinite(values)
        n = int(there.sum())
        if not n:
            return MapEstimate(None, None, 0, "bootstrap")
        key = there.tobytes()
        if key not in self.drawn:
            codes = cluster_codes(self.images[there])
            self.drawn[key] = cluster_weights(codes, self.resamples, self.seed), len(np.unique(codes))
        weights, units = self.drawn[key]
        ends = percentile_interval(weights @ values[there] / weights.sum(axis=1), units)
        return MapEstimate(float(values[there].mean()), ends, n, "bootstrap")

    def patients(self, values: npt.NDArray[np.float64]) -> int:
        """How many patients the images with a value are of."""
        return len(set(cluster_codes(self.images[np.isfinite(values)]).tolist()))


def _above_zero(estimate: MapEstimate) -> bool:
    return estimate.ends is not None and estimate.ends[0] > 1e-12


def _comparable(heat: Heat, mask: Mask) -> bool:
    """Whether the two have anything to compare: a map that varies, and a mask that is not empty."""
    if heat.shape != mask.shape:
        raise DataError(f"mask: shape {mask.shape} for a map of {heat.shape}; bring both to one size")
    return bool(mask.any()) and _varies(heat)


def _varies(heat: Heat) -> bool:
    low, high = heat.min(), heat.max()
    return bool(np.isfinite(low) and np.isfinite(high) and low < high)


def _over_the_same_images(of: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The values of each map, each measure NaN where any map that has it at all lacks it."""
    there = pd.DataFrame(True, index=of["model"].index, columns=list(MEASURES))
    for part in of.values():
        there &= part.notna() | part.isna().all()
    return {name: part.where(there) for name, part in of.items()}


def _silent(model: pd.DataFrame) -> pd.Series[bool]:
    """Which maps of a model say nothing; in tables without this column those that have no measure at all."""
    empty = model[list(MEASURES)].isna().all(axis=1)
    told = model.get("constant", empty)
    return told.where(told.notna(), empty).astype(bool)


def _by_class(silent: pd.Series[bool], label: pd.Series[str]) -> dict[str, int]:
    """How many maps of each class that is there say nothing."""
    counts = silent[label.index].groupby(label).sum()
    order = [*(one for one in CLASSES if one in counts), *(one for one in counts.index if one not in CLASSES)]
    return {str(one): int(counts[one]) for one in order}


def _mean_maps(heats: Heat, image_id: Sequence[str]) -> list[npt.NDArray[np.float32] | None]:
    """For each image the mean of the maps of the other images, None where there is none.

    Where all of these are constant, so is their mean.
    """
    speaks = np.array([_varies(heat) for heat in heats], bool)
    ids = np.array(list(image_id), object)
    total = np.asarray(heats[speaks], np.float64).sum(axis=0)
    means: list[npt.NDArray[np.float32] | None] = []
    for at in range(len(heats)):
        same = ids == ids[at]
        own = speaks & same
        rest = total - np.asarray(heats[own], np.float64).sum(axis=0)
        # Rounded to float32, so that the error of the subtraction breaks no ties.
        mean = (np.maximum(rest, 0.0) / max(int(speaks.sum() - own.sum()), 1)).astype(np.float32)
        means.append(None if same.all() else mean)
    return means


def _measured(heat: Heat | None, lesion: Mask | None, lung: Mask | None) -> tuple[float, ...]:
    nan = float("nan")
    on_lesion = (nan,) * len(_OF_LESIONS)
    if heat is None:
        return (*on_lesion, nan)
    if lesion is not None:
        iou = otsu_iou(heat, lesion)
        on_lesion = (float(np.sign(iou)), pointing(heat, lesion), iou, heat_share(heat, lesion))
        if lesion.any() and not _varies(heat):
            on_lesion = (0.0,) * len(_OF_LESIONS)
    return (*on_lesion, nan if lung is None else heat_share(heat, lung))


def _by_chance(lesion: Mask | None, lung: Mask | None) -> tuple[float, ...]:
    """The measures of a place, and of heat, that may be anywhere: a region's share of the area."""
    nan = float("nan")
    of_lesion, of_lung = (nan if mask is None or not mask.any() else float(mask.mean()) for mask in (lesion, lung))
    return (nan, of_lesion, nan, of_lesion, of_lung)
