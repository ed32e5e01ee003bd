"""Random predictions tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.predictions import predictions_table


def random_table(
    n: int = 120,
    seed: int = 0,
    *,
    skill: float = 1.0,
    per_patient: int = 1,
    labels: tuple[str, ...] = CLASSES.names,
    ties: bool = False,
    fold: int = 3,
) -> pd.DataFrame:
    """A table of n images; `per_patient` images of each patient share most of their error; ties rounds the scores."""
    rng = np.random.default_rng(seed)
    patients = np.arange(n) // per_patient
    truth = np.array([labels[p % len(labels)] for p in patients])
    shared = rng.normal(size=(patients.max() + 1, 3))[patients]
    logits = skill * np.eye(3)[[CLASSES.index(t) for t in truth]] + 0.9 * shared + 0.4 * rng.normal(size=(n, 3))
    scores = np.exp(logits)
    scores /= scores.sum(1, keepdims=True)
    if ties:
        scores = np.round(scores * 4) + 0.25
        scores /= scores.sum(1, keepdims=True)
    return predictions_table(
        image_id=[f"i{k:04d}" for k in range(n)], path=[f"{k}.png" for k in range(n)],
        patient_id=[f"p{p}" for p in patients], label=list(truth), split="test", fold=fold, probabilities=scores,
    )  # fmt: skip
