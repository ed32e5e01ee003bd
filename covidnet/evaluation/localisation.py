"""Whether heat maps localise lesions: measures of one map, and a model's maps compared with three baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.errors import DataError
from covidnet.evaluation.bootstrap import RESAMPLES, cluster_codes, percentile_interval, resampled_sums
from covidnet.evaluation.results import Interval, Measured

MEASURES: tuple[str, ...] = ("touch", "pointing", "iou", "lesion_share", "lung_share")
"""The measures of a map, in the order of the table's columns."""

MAPS: tuple[str, ...] = ("model", "centre", "mean_map", "chance")
"""The map that a row of the table measures: the model's, or one of three baselines that ignore the image."""

MIN_PATIENTS = 5
"""With fewer patients there is no verdict, because their bootstrap intervals are too narrow."""

# The measures of the verdict on lesions, and of that on lungs. Heat in the lungs does not show that a map finds
# lesions, but a map whose heat lies elsewhere has failed.
_LESION_VERDICT = ("pointing", "iou", "lesion_share")
_LUNG_MEASURE = "lung_share"

_LESION_MEASURES = MEASURES[:-1]

# Model minus baseline.
_DIFFERENCES = {"difference": "centre", "difference_mean_map": "mean_map", "difference_chance": "chance"}

Heat = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MapEstimate(Measured):
    """A mean over heat maps.

    Args:
        n: number of images with a value.
        method: how the interval was computed.
    """

    n: int | None
    method: str | None

    @property
    def ends(self) -> Interval | None:
        """The interval; (value, value) if it is the same in all resamples, None without a value."""
        return self.ci or (None if self.value is None else (self.value, self.value))


@dataclass(frozen=True)
class MeasureSummary:
    """One measure of a model's maps and of the baselines, over the same images.

    Args:
        n: number of images.
        model: the model's maps.
        centre: the centre prior.
        mean_map: the mean of the model's maps of other images.
        chance: a uniformly random place.
        difference: model minus centre.
        difference_mean_map: model minus mean_map.
        difference_chance: model minus chance.
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
    """Whether maps lie on one kind of region more than the baselines do.

    Args:
        n: number of images with a known region; for lungs, only those with a map that is not constant.
        patients: number of patients of these images.
        not_better: measures by which the maps are not significantly better than the centre prior or than chance: the
            interval of a difference is not wholly above 0.
        not_better_than_mean_map: the same against the mean map.
        better_than_centre: whether `not_better` is empty; None (no verdict) with fewer than `MIN_PATIENTS` patients.
    """

    n: int | None
    patients: int | None
    not_better: list[str]
    not_better_than_mean_map: list[str]
    better_than_centre: bool | None


@dataclass(frozen=True)
class LocalisationSummary:
    """Where a model's maps lie: the measures, the verdict on lesions (as in `RegionVerdict`), and that on lungs.

    Args:
        images: number of images.
        maps: number of the model's maps of images with any mask.
        constant: how many of these maps are constant.
        constant_by_class: how many of these maps of each class are constant.
        measures: by name.
        lungs: the verdict on heat in the lungs.
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
    """Intersection over union of the mask and the hot part of the map: all above Otsu's threshold.

    The map is stretched to 256 levels first. Of thresholds with equal between-class variance the lowest is used; the
    hot part lies above it.

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
    # Imported here: reading a table needs no cv2.
    import cv2

    values = np.asarray(heat, np.float64)
    low, high = values.min(), values.max()
    levels = np.round((values - low) / (high - low) * 255.0).astype(np.uint8)
    hot = np.asarray(cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1], bool)
    return float((hot & mask).sum() / (hot | mask).sum())


def heat_share(heat: Heat, mask: Mask) -> float:
    """The fraction of the heat that lies in the mask.

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
    """A baseline map that depends only on the distance from the image centre.

    An isotropic Gaussian with a standard deviation of a quarter of the shorter side. The choice is ours: it covers
    most of both lungs in a usual chest X-ray.

    Args:
        shape: (H, W) of the map.

    Returns:
        float32 (H, W), above 0, 1 at the centre.

    Example:
        >>> centre_prior((3, 5)).argmax()
        np.int64(7)
    """
    height, width = shape
    down = np.arange(height) - (height - 1) / 2
    across = np.arange(width) - (width - 1) / 2
    away = (down[:, None] ** 2 + across[None, :] ** 2) / (min(height, width) / 4) ** 2
    # An even side has no pixel at its centre: the nearest ones get 1.
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

    The baselines are

    - ``centre``: `centre_prior`;
    - ``mean_map``: the mean of the model's maps of all other images, constant maps excepted. It shows where this model
      usually looks, without having seen this image;
    - ``chance``: a place drawn uniformly from the image. Its pointing and lesion_share equal the region's share of the
      area.

    A map that is constant or not finite counts as a miss: its touch, pointing, iou and lesion_share are 0 where a
    lesion is known. Its lung_share is missing, because it has no heat.

    Args:
        heats: (N, H, W), 0..1, the model's maps.
        lesions: for each image its lesion mask, (H, W); None where unknown, all False where there is no lesion.
        lungs: the same for the lungs.
        image_id: for each image its id.
        patient_id: for each image its patient; None or NaN where unknown.
        label: for each image its class.

    Returns:
        Four rows per image: image_id, patient_id, label, map (of `MAPS`), constant (whether this map is constant or not
        finite), and the `MEASURES`: ``touch`` (1 if the hot part of the map overlaps a lesion at all, as a reader
        judges by eye), ``pointing``, ``iou`` and ``lesion_share`` against the lesions, ``lung_share`` against the
        lungs. A measure is NaN where it is undefined: no mask, an empty mask, ``lung_share`` of a constant map,
        ``touch`` and ``iou`` of chance, and ``mean_map`` if there is only one image.

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
        for name, one in zip(MAPS, (heat, centre_prior(heat.shape), means[at]), strict=False):
            constant = one is not None and not _varies(one)
            rows.append((*images[at], name, constant, *_measured(one, lesions[at], lungs[at])))
        rows.append((*images[at], "chance", False, *_measured_by_chance(lesions[at], lungs[at])))
    table = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "map", "constant", *MEASURES])
    return table.astype({"constant": bool} | dict.fromkeys(MEASURES, np.float64))


def localisation_summary(table: pd.DataFrame, resamples: int = RESAMPLES, seed: int = 0) -> LocalisationSummary:
    """Whether a model's maps lie on lesions and lungs more than the baselines do.

    An image with several rows, as in the joined tables of several models, is averaged first. Maps are paired by image:
    the model's first row with the first row of a baseline, and so on. All numbers of a measure are over the same
    images: those with a value for the model and for every baseline that has the measure. Intervals are 95% bootstrap
    intervals over patients.

    Args:
        table: one or several joined tables of `localisation_table`.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    images = table[["image_id", "patient_id"]].drop_duplicates("image_id", ignore_index=True)
    # Joined tables hold each image once per model: a number tells these rows apart.
    keyed = table.assign(copy=table.groupby(["image_id", "map"]).cumcount()).set_index(["image_id", "copy"])
    model = keyed.loc[keyed["map"] == "model"]
    of = {name: keyed.loc[keyed["map"] == name, list(MEASURES)].reindex(model.index) for name in MAPS}
    centre = of["centre"]
    masked = centre.notna().any(axis=1)
    constant = _constant(model) & masked
    # Older tables have NaN for these maps.
    missed = constant.to_numpy()[:, None] & centre[list(_LESION_MEASURES)].notna()
    of["model"] = of["model"].assign(**of["model"][list(_LESION_MEASURES)].mask(missed, 0.0))
    of = _over_the_same_images(of)
    # Before averaging, so that each map is compared with the baselines of its own row.
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
            if measure not in (*_LESION_VERDICT, _LUNG_MEASURE) or (baseline == "chance" and not found["chance"].n):
                continue
            patients = bootstrap.patients(means[name][:, at])
            if not (patients >= MIN_PATIENTS and _above_zero(found[name])):
                poor[name].append(measure)
    # The centre prior is never constant, so it has a value wherever there is a mask.
    lesion = centre["pointing"].groupby(level="image_id").mean().reindex(images["image_id"]).to_numpy()
    lung = means["model"][:, MEASURES.index(_LUNG_MEASURE)]
    lesions = _region_verdict(_LESION_VERDICT, poor, int(np.isfinite(lesion).sum()), bootstrap.patients(lesion))
    return LocalisationSummary(
        images=len(images),
        maps=int(masked.sum()),
        constant=int(constant.sum()),
        constant_by_class=_by_class(constant, model["label"][masked]),
        measures=measures,
        **vars(lesions),
        lungs=_region_verdict((_LUNG_MEASURE,), poor, int(np.isfinite(lung).sum()), bootstrap.patients(lung)),
    )


def _region_verdict(measures: Sequence[str], poor: Mapping[str, list[str]], n: int, patients: int) -> RegionVerdict:
    not_better = [name for name in measures if name in poor["difference"] + poor["difference_chance"]]
    return RegionVerdict(
        n=n,
        patients=patients,
        not_better=not_better,
        not_better_than_mean_map=[name for name in measures if name in poor["difference_mean_map"]],
        better_than_centre=not not_better if patients >= MIN_PATIENTS else None,
    )


class _Bootstrap:
    """Means over images with patient-level intervals; columns with the same images have the same resamples."""

    def __init__(self, images: pd.DataFrame, resamples: int, seed: int) -> None:
        self.images, self.resamples, self.seed = images, resamples, seed

    def __call__(self, values: npt.NDArray[np.float64]) -> MapEstimate:
        present = np.isfinite(values)
        n = int(present.sum())
        if not n:
            return MapEstimate(None, None, 0, "bootstrap")
        codes = cluster_codes(self.images[present])
        both = np.column_stack([values[present], np.ones(n)])
        sums, counts = resampled_sums(codes, both, self.resamples, self.seed).T
        ends = percentile_interval(sums / counts, len(np.unique(codes)))
        return MapEstimate(float(values[present].mean()), ends, n, "bootstrap")

    def patients(self, values: npt.NDArray[np.float64]) -> int:
        """The number of patients with a value."""
        return len(set(cluster_codes(self.images[np.isfinite(values)]).tolist()))


def _above_zero(estimate: MapEstimate) -> bool:
    return estimate.ends is not None and estimate.ends[0] > 1e-12


def _comparable(heat: Heat, mask: Mask) -> bool:
    """Whether a measure is defined: the map varies and the mask is not empty."""
    if heat.shape != mask.shape:
        raise DataError(f"mask: shape {mask.shape} for a map of {heat.shape}; bring both to one size")
    return bool(mask.any()) and _varies(heat)


def _varies(heat: Heat) -> bool:
    low, high = heat.min(), heat.max()
    return bool(np.isfinite(low) and np.isfinite(high) and low < high)


def _over_the_same_images(of: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The values of each map; a measure is NaN wherever one of the maps that have it lacks it."""
    complete = pd.DataFrame(True, index=of["model"].index, columns=list(MEASURES))
    for part in of.values():
        complete &= part.notna() | part.isna().all()
    return {name: part.where(complete) for name, part in of.items()}


def _constant(model: pd.DataFrame) -> pd.Series[bool]:
    """Which maps are constant; in older tables without this column, those without any measure."""
    empty = model[list(MEASURES)].isna().all(axis=1)
    constant = model.get("constant", empty)
    return constant.where(constant.notna(), empty).astype(bool)


def _by_class(constant: pd.Series[bool], label: pd.Series[str]) -> dict[str, int]:
    """The number of constant maps of each class in the table."""
    return {str(name): int(count) for name, count in constant[label.index].groupby(label).sum().items()}


def _mean_maps(heats: Heat, image_id: Sequence[str]) -> list[npt.NDArray[np.float32] | None]:
    """For each image the mean of the maps of the other images that are not constant; None if it is the only image."""
    varies = np.array([_varies(heat) for heat in heats], bool)
    ids = np.array(list(image_id), object)
    total = np.asarray(heats[varies], np.float64).sum(axis=0)
    means: list[npt.NDArray[np.float32] | None] = []
    for at in range(len(heats)):
        same = ids == ids[at]
        own = varies & same
        rest = total - np.asarray(heats[own], np.float64).sum(axis=0)
        # Rounded to float32, so that the rounding error of the subtraction breaks no ties.
        mean = (np.maximum(rest, 0.0) / max(int(varies.sum() - own.sum()), 1)).astype(np.float32)
        means.append(None if same.all() else mean)
    return means


def _measured(heat: Heat | None, lesion: Mask | None, lung: Mask | None) -> tuple[float, ...]:
    nan = float("nan")
    on_lesion = (nan,) * len(_LESION_MEASURES)
    if heat is None:
        return (*on_lesion, nan)
    if lesion is not None:
        iou = otsu_iou(heat, lesion)
        on_lesion = (float(np.sign(iou)), pointing(heat, lesion), iou, heat_share(heat, lesion))
        if lesion.any() and not _varies(heat):
            on_lesion = (0.0,) * len(_LESION_MEASURES)
    return (*on_lesion, nan if lung is None else heat_share(heat, lung))


def _measured_by_chance(lesion: Mask | None, lung: Mask | None) -> tuple[float, ...]:
    """The expected measures of a uniformly random place: a region's share of the area."""
    nan = float("nan")
    of_lesion, of_lung = (nan if mask is None or not mask.any() else float(mask.mean()) for mask in (lesion, lung))
    return (nan, of_lesion, nan, of_lesion, of_lung)
