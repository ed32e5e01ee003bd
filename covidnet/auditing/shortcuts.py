"""Shortcuts: how well the corners and the border of the images, where no lung is, predict the class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.acquisition import balanced_accuracy, graded, model_accuracy, predicted
from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.data.reading.thumbnails import SIDE, Pixels
from covidnet.evaluation.results import Interval

NAME = "shortcuts"

_CORNER, _BORDER = 12, 5
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
    for name, inputs in parts_of(small.pixels).items():
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
        what = (
            "The corners of the images alone predict"
            if name == "corners"
            else "The border of the images alone predicts"
        )
        what += f" the class: balanced accuracy, where guessing has {chance:.1%}"
        what += f", {kept:.0%} of the model's skill" if np.isfinite(kept) else ""
        shown = study.paths(rows[np.flatnonzero((labels == best) & (told == labels))][:12])
        found[name] = (level, what, value, interval, shown)
    for name, (level, what, value, interval, shown) in found.items():
        located = f"; {', '.join(marked)}" if name == "corners" and marked else ""
        findings.append(Finding(NAME, level, f"{what}{located}.", value, interval, shown, _MEANING, _REMEDY))
    names = ["part", "balanced_accuracy", "low", "high", "share_of_skill", "best_class", "gain"]
    notes = [
        f"Logistic regressions on thumbnails of {SIDE} pixels: corners of {_CORNER} pixels, a border of {_BORDER}; "
        f"guessing has {chance:.1%}. Gain: sensitivity and specificity of the best class, less 1."
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


def _pooled(pixels: Pixels, by: int) -> npt.NDArray[np.float32]:
    side = SIDE // by
    return pixels.reshape(len(pixels), side, by, side, by).astype(np.float32).mean((2, 4))


def _youden(told: npt.NDArray[np.str_], labels: npt.NDArray[np.str_], one: str) -> float:
    """Sensitivity and specificity for a class, less 1."""
    return float((told == one)[labels == one].mean() - (told == one)[labels != one].mean())
