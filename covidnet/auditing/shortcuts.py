"""Shortcuts: how well what shows no lung predicts the class: corners, border, and the image without the lungs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.acquisition import balanced_accuracy, graded, model_accuracy, predicted
from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.errors import DataError
from covidnet.base.names import counted
from covidnet.base.progress import available_cores
from covidnet.data.collection.annotations import Annotations
from covidnet.data.loading.transforms import SquareFit
from covidnet.data.reading.thumbnails import SIDE, Pixels
from covidnet.evaluation.results import Interval

NAME = "shortcuts"

_CORNER, _BORDER = 12, 5
# Half axes of the centre ellipse that is masked out where lungs are not known, as shares of a side; how far masks of
# lungs are extended, in pixels of a thumbnail, as a mask may end within the lung; and the pixels that become one.
_AXES, _MARGIN, _POOL = (0.45, 0.45), 2, 4
_WHOLE = "whole image, 8x8"

_MEANING = "No lung is there: a network can reach this score by a mark, a frame or the way an image was made."
_REMEDY = "Look at the images; crop or mask what gives the class away, or take images that do not have it."


def shortcuts(study: Study) -> Answer:
    """Fit a logistic regression to parts of the thumbnails that show no lung.

    Raises:
        NotPossibleError: the images cannot be read, are of one class, or a class has fewer than five patients.
    """
    small, rows = study.data.thumbnails, study.thumbnail_rows
    labels, patients = study.images["label"].to_numpy(str)[rows], study.patients[rows]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise NotPossibleError("all images are of one class")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model, chance = model_accuracy(study), 1 / len(classes)
    patients = np.unique(patients, return_inverse=True)[1]
    table: list[tuple[object, ...]] = []
    findings: list[Finding] = []
    found: dict[str, tuple[Level, str, float, Interval, tuple[str, ...]]] = {}
    marked: list[str] = []
    lungs, known = lungs_of(study)
    outside = "lungs masked out" if lungs is not None else "centre masked out"
    what_of = {
        "corners": "The corners of the images alone predict",
        "border": "The border of the images alone predicts",
        "lungs masked out": "The images with the lungs masked out predict",
        "centre masked out": "The images without their centre predict",
    }
    parts = parts_of(small.pixels)
    parts[outside] = without(small.pixels, centre()[None] if lungs is None else lungs)
    for name, inputs in parts.items():
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500))
        told = predicted(head, inputs, labels, patients, study.seed)
        value, interval = balanced_accuracy(told == labels, labels, patients, study.resamples, study.seed)
        kept = (value - chance) / (model - chance) if model is not None and model > chance else np.nan
        gains = {one: _youden(told, labels, one) for one in classes}
        best = max(gains, key=lambda one: gains[one])
        table.append((name, value, *interval, kept, best, gains[best]))
        level = None if name == _WHOLE else graded(value, interval, chance, model)
        if level is None:
            continue
        if name.endswith(" corner"):
            marked.append(f"the {name} marks {best}")
            continue
        what = f"{what_of[name]} the class; balanced accuracy (guessing: {chance:.1%}"
        what += f"; {kept:.0%} of the model's gain over guessing" if np.isfinite(kept) else ""
        shown = study.paths(rows[np.flatnonzero((labels == best) & (told == labels))][:12])
        found[name] = (level, what, value, interval, shown)
    for name, (level, what, value, interval, shown) in found.items():
        located = f"; {', '.join(marked)}" if name == "corners" and marked else ""
        findings.append(Finding(NAME, level, f"{what}{located}).", value, interval, shown, _MEANING, _REMEDY))
    names = ["part", "balanced_accuracy", "low", "high", "share_of_skill", "best_class", "gain"]
    notes = [
        f"Logistic regressions on thumbnails of {SIDE} pixels: corners of {_CORNER} pixels, a border of {_BORDER}; "
        f"guessing has {chance:.1%}. Gain: sensitivity and specificity of the best class, less 1.",
        known,
    ]
    if model is None:
        notes.append("Not possible: the share of the model's skill; there is no sweep.")
    return Answer(findings, {NAME: pd.DataFrame(table, columns=names)}, notes)


def parts_of(pixels: Pixels) -> dict[str, npt.NDArray[np.float32]]:
    """The corners together, each of them, the border, and the whole image at 8x8 pixels.

    Args:
        pixels: (n, 64, 64).

    Returns:
        (n, features) by name.
    """
    half, n = _pooled(pixels, 2), len(pixels)
    side, edge, rim = half.shape[1], _CORNER // 2, -(-_BORDER // 2)
    corners = {
        f"{down} {across} corner": half[:, rows, columns].reshape(n, -1)
        for down, rows in (("upper", slice(edge)), ("lower", slice(side - edge, side)))
        for across, columns in (("left", slice(edge)), ("right", slice(side - edge, side)))
    }
    border = np.ones((side, side), bool)
    border[rim:-rim, rim:-rim] = False
    whole = _pooled(pixels, 8).reshape(n, -1)
    return {"corners": np.concatenate(list(corners.values()), 1), "border": half[:, border], **corners, _WHOLE: whole}


def lungs_of(study: Study) -> tuple[npt.NDArray[np.bool_] | None, str]:
    """The lungs in the thumbnails, from the masks of the data set.

    Args:
        study: with images.

    Returns:
        (n, 64, 64), extended by a margin; None unless every image has a mask, since a mask for some images alone could
        give their class away. And a sentence on what is masked out.
    """
    images = study.images.iloc[study.thumbnail_rows]
    ellipse = "Masked out is an ellipse in the centre, beside which some lung may show"
    fit = SquareFit(SIDE, "squash")
    try:
        annotations = Annotations(study.data.root, study.masks, images=images["path"].tolist())
        if "lung" not in annotations.folders:
            return None, f"{ellipse}: there are no masks of lungs."

        def look(row: tuple[str, int, int]) -> npt.NDArray[np.bool_]:
            return annotations.fitted(row[0], (int(row[1]), int(row[2])), fit).get("lung", np.zeros((SIDE, SIDE), bool))

        rows = list(zip(images["path"], images["height"], images["width"], strict=True))
        with ThreadPoolExecutor(available_cores()) as pool:
            masks = np.stack(list(pool.map(look, rows)))
    except DataError as error:
        return None, f"{ellipse}: {error}."
    lacking = int((~masks.any((1, 2))).sum())
    if lacking:
        return None, f"{ellipse}: {counted(lacking, 'image')} of {len(masks):,} have no mask of the lungs."
    kernel = np.ones((2 * _MARGIN + 1,) * 2, np.uint8)
    wide = np.stack([cv2.dilate(mask.astype(np.uint8), kernel) for mask in masks]).astype(bool)
    return wide, "Masked out are the lungs, by the masks of the data set."


def centre() -> npt.NDArray[np.bool_]:
    """(64, 64): the ellipse that stands for the lungs where they are not known."""
    place = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    return np.asarray((place[:, None] / _AXES[0]) ** 2 + (place / _AXES[1]) ** 2 <= 1.0)


def without(pixels: Pixels, masked: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Images with a part masked out, at 16x16 pixels: masked pixels get the mean of those that are left.

    Args:
        pixels: (n, 64, 64).
        masked: (n, 64, 64), or (1, 64, 64) for all.

    Returns:
        (n, 256).
    """
    left = np.broadcast_to(~masked, pixels.shape)
    total = np.where(left, pixels, 0).sum((1, 2), dtype=np.float64)
    mean = total / np.maximum(1, left.sum((1, 2)))
    filled = np.where(left, pixels, mean[:, None, None].astype(np.float32))
    return _pooled(filled, _POOL).reshape(len(pixels), -1)


def _pooled(pixels: npt.NDArray[Any], by: int) -> npt.NDArray[np.float32]:
    side = SIDE // by
    return pixels.reshape(len(pixels), side, by, side, by).astype(np.float32).mean((2, 4))


def _youden(told: npt.NDArray[np.str_], labels: npt.NDArray[np.str_], one: str) -> float:
    """Sensitivity and specificity for a class, less 1."""
    return float((told == one)[labels == one].mean() - (told == one)[labels != one].mean())
