"""Whether a heat map lies where the lesions are: measures of one map, and of a model's maps against two priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.errors import DataError
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights, percentile_interval

MEASURES: tuple[str, ...] = ("touch", "pointing", "iou", "lesion_share", "lung_share")
"""The measures of a map, in the order of the table's columns."""

MAPS: tuple[str, ...] = ("model", "centre", "mean_map")
"""Whose map a row of the table measures: the model's, or one of the two priors that know nothing of the film."""

MIN_PATIENTS = 5
"""With fewer patients nothing is called better: the bootstrap of so few is too narrow."""

# What the verdict is about. Heat in the lungs is no finding yet: healthy lungs are lungs too.
_JUDGED = ("pointing", "iou", "lesion_share")

Heat = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


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
    """A map that knows nothing but where the middle of a film is.

    An isotropic Gaussian with a standard deviation of a quarter of the shorter side. The choice is ours: it covers
    most of both lungs of a film that is taken as usual.

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
    """The measures of one model's maps and of the two priors on the same films.

    The prior ``centre`` is `centre_prior`. The prior ``mean_map`` is the mean of the model's maps of all other films:
    it knows where this model likes to look, but has not seen this film. Maps that are constant have no part in it.

    Args:
        heats: (N, H, W), 0..1, the model's maps.
        lesions: for each film where its lesions are, (H, W); None where that is unknown, all False where it has none.
        lungs: the same for its lungs.
        image_id: for each film its id.
        patient_id: for each film its patient; None or NaN where unknown.
        label: for each film its class.

    Returns:
        Three rows per film: image_id, patient_id, label, map (of `MAPS`), and the `MEASURES`: ``touch`` (whether the
        hot part of the map has any pixel of a lesion, which is what is asked of maps by eye), ``pointing``, ``iou`` and
        ``lesion_share`` against the lesions, ``lung_share`` against the lungs. NaN where a measure is not defined: no
        mask, an empty mask, a constant map, and ``mean_map`` of an only film.

    Raises:
        DataError: the arguments differ in length, or a mask and its map in shape.
    """
    heats = np.asarray(heats)
    given = {"lesions": lesions, "lungs": lungs, "image_id": image_id, "patient_id": patient_id, "label": label}
    for name, values in given.items():
        if len(values) != len(heats):
            raise DataError(f"{name}: {len(values)} values for {len(heats)} maps; give one for each map")
    films = list(zip(image_id, patient_id, label, strict=True))
    means = _mean_maps(heats, image_id)
    rows: list[tuple[Any, ...]] = []
    for at, heat in enumerate(heats):
        for name, shown in zip(MAPS, (heat, centre_prior(heat.shape), means[at]), strict=True):
            rows.append((*films[at], name, *_measured(shown, lesions[at], lungs[at])))
    table = pd.DataFrame(rows, columns=["image_id", "patient_id", "label", "map", *MEASURES])
    return table.astype(dict.fromkeys(MEASURES, np.float64))


def localisation_summary(table: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Whether a model's maps lie on the lesions more than maps that have not seen the film.

    An image that is in the table several times, as in the joined tables of several models, is averaged first. Maps are
    compared on the same image: the first row of the model with the first row of a prior, and so on. Intervals are 95%
    bootstrap intervals over patients.

    Args:
        table: as `localisation_table` makes it, or several of them joined.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``n`` (films with a lesion), ``films`` (all), ``patients`` (of the n films), ``constant`` (maps of the model
        that say nothing, among films with any mask), and for each of the `MEASURES` in ``measures`` the number ``n`` of
        films on which model and centre are compared, and for ``model``, ``centre``, ``mean_map``, ``difference`` (model
        - centre) and ``difference_mean_map`` (model - mean_map) the ``value``, its ``ci``, its ``n`` and the
        ``method``; None where there is none. ``not_better`` and ``not_better_than_mean_map`` list those of pointing,
        iou and lesion_share whose difference has no interval wholly above 0. A difference that is the same in all
        resamples is its own interval. With fewer than `MIN_PATIENTS` patients nothing is better.
        ``better_than_centre`` is True if ``not_better`` is empty, and None where no film has a lesion.
    """
    images = table[["image_id", "patient_id"]].drop_duplicates("image_id", ignore_index=True)
    # Rows of one image and map are numbered: tables of several models hold each image once per model.
    keyed = table.assign(turn=table.groupby(["image_id", "map"]).cumcount()).set_index(["image_id", "turn"])
    of = {name: keyed.loc[keyed["map"] == name, list(MEASURES)] for name in MAPS}
    # Subtracted before they are averaged, so that a model's constant map leaves out its own prior too.
    of |= {"difference": of["model"] - of["centre"], "difference_mean_map": of["model"] - of["mean_map"]}
    means = {
        name: part.groupby(level="image_id").mean().reindex(images["image_id"]).to_numpy() for name, part in of.items()
    }
    bootstrap = _Bootstrap(images, resamples, seed)
    measures: dict[str, dict[str, Any]] = {}
    poor: dict[str, list[str]] = {"difference": [], "difference_mean_map": []}
    for at, measure in enumerate(MEASURES):
        found = {name: bootstrap(values[:, at]) for name, values in means.items()}
        measures[measure] = {"n": found["difference"]["n"], **found}
        for name, failed in poor.items():
            patients = bootstrap.patients(means[name][:, at])
            if measure in _JUDGED and not (patients >= MIN_PATIENTS and _above_zero(found[name])):
                failed.append(measure)
    # The prior is never constant: it has a measure wherever there is a mask.
    lesion = means["centre"][:, MEASURES.index("pointing")]
    masked = images["image_id"][np.isfinite(means["centre"]).any(axis=1)]
    silent = of["model"].isna().all(axis=1) & of["model"].index.get_level_values("image_id").isin(masked)
    n = int(np.isfinite(lesion).sum())
    return {
        "n": n,
        "films": len(images),
        "patients": bootstrap.patients(lesion),
        "constant": int(silent.sum()),
        "measures": measures,
        "not_better": poor["difference"],
        "not_better_than_mean_map": poor["difference_mean_map"],
        "better_than_centre": not poor["difference"] if n else None,
    }


class _Bootstrap:
    """Means over images with intervals that know of patients; one draw for all columns with the same images."""

    def __init__(self, images: pd.DataFrame, resamples: int, seed: int) -> None:
        self.images, self.resamples, self.seed = images, resamples, seed
        self.drawn: dict[bytes, npt.NDArray[np.int32]] = {}

    def __call__(self, values: npt.NDArray[np.float64]) -> dict[str, Any]:
        there = np.isfinite(values)
        n = int(there.sum())
        found: dict[str, Any] = {"value": None, "ci": None, "n": n, "method": "bootstrap"}
        if n:
            key = there.tobytes()
            if key not in self.drawn:
                self.drawn[key] = cluster_weights(cluster_codes(self.images[there]), self.resamples, self.seed)
            weights = self.drawn[key]
            ends = percentile_interval(weights @ values[there] / weights.sum(axis=1))
            found |= {"value": float(values[there].mean()), "ci": None if ends is None else list(ends)}
        return found

    def patients(self, values: npt.NDArray[np.float64]) -> int:
        """How many patients the images with a value are of."""
        return len(set(cluster_codes(self.images[np.isfinite(values)]).tolist()))


def _above_zero(estimate: dict[str, Any]) -> bool:
    if estimate["value"] is None:
        return False
    return bool((estimate["ci"] or [estimate["value"]])[0] > 1e-12)


def _comparable(heat: Heat, mask: Mask) -> bool:
    """Whether the two have anything to compare: a map that varies, and a mask that is not empty."""
    if heat.shape != mask.shape:
        raise DataError(f"mask: shape {mask.shape} for a map of {heat.shape}; bring both to one size")
    return bool(mask.any()) and _varies(heat)


def _varies(heat: Heat) -> bool:
    low, high = heat.min(), heat.max()
    return bool(np.isfinite(low) and np.isfinite(high) and low < high)


def _mean_maps(heats: Heat, image_id: Sequence[str]) -> list[npt.NDArray[np.float32]]:
    """For each film the mean of the maps of the other films, all NaN where there is none."""
    speaks = np.array([_varies(heat) for heat in heats], bool)
    ids = np.array(list(image_id), object)
    total = np.asarray(heats[speaks], np.float64).sum(axis=0)
    means = []
    for at in range(len(heats)):
        own = speaks & (ids == ids[at])
        count = int(speaks.sum() - own.sum())
        rest = total - np.asarray(heats[own], np.float64).sum(axis=0)
        # Rounded to float32, so that the error of the subtraction breaks no ties.
        means.append((np.maximum(rest, 0.0) / count if count else np.full_like(rest, np.nan)).astype(np.float32))
    return means


def _measured(heat: Heat, lesion: Mask | None, lung: Mask | None) -> tuple[float, ...]:
    nan = float("nan")
    on_lesion = (nan,) * 4
    if lesion is not None:
        iou = otsu_iou(heat, lesion)
        on_lesion = (float(np.sign(iou)), pointing(heat, lesion), iou, heat_share(heat, lesion))
    return (*on_lesion, nan if lung is None else heat_share(heat, lung))
