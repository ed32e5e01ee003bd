"""Do 95% intervals hold the truth in 95% of studies, and do tests of equal models reject in 5%? By simulation.

    python benchmarks/coverage.py                 # the fine grid, about 20 minutes on one core
    python benchmarks/coverage.py --studies 200   # quicker and rougher

A study has three classes, as many patients in each and some images of every patient. Whether a model is right on an
image is beta-binomial: each patient has a probability of their own, whose spread is the intra-patient correlation.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.evaluation.comparison import delong, mcnemar_by_patient
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.metrics import class_metrics
from covidnet.evaluation.ranking import area_estimate

PATIENTS = (7, 20, 50, 100, 200)
"""Of each class."""

IMAGES = (1, 2, 3, 6, 0)
"""Of each patient; 0 is a mixture of 1, 1, 1, 2, 3 and 6."""

CORRELATIONS = (0.0, 0.2, 0.5, 0.8)
ACCURACIES = (0.6, 0.8, 0.9, 0.98)

Flags = npt.NDArray[np.bool_]


def cells(
    patients: tuple[int, ...] = PATIENTS,
    images: tuple[int, ...] = IMAGES,
    correlations: tuple[float, ...] = CORRELATIONS,
    accuracies: tuple[float, ...] = ACCURACIES,
) -> Iterator[tuple[int, int, float, float]]:
    """The grid; with one image of each patient there is no correlation to vary."""
    for k, m, rho, p in itertools.product(patients, images, correlations, accuracies):
        if m != 1 or rho == correlations[0]:
            yield k, m, 0.0 if m == 1 else rho, p


def design(k: int, m: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For each image of a study its patient, and its class as a number."""
    sizes = rng.choice([1, 1, 1, 2, 3, 6], 3 * k) if m == 0 else np.full(3 * k, m)
    patient = np.repeat(np.arange(3 * k), sizes)
    return patient, patient // k


def study(
    k: int, m: int, rho: float, p: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Patients, true classes and predicted classes: the true accuracy, sensitivities and F1 are p.

    A wrong image is called either of the other classes, so that every specificity is (1 + p) / 2.
    """
    patient, truth = design(k, m, rng)
    spread = (1.0 - rho) / rho if rho else 0.0
    own = rng.beta(p * spread, (1.0 - p) * spread, 3 * k) if rho else np.full(3 * k, p)
    right = rng.random(len(patient)) < own[patient]
    return patient, truth, np.where(right, truth, (truth + rng.integers(1, 3, len(patient))) % 3)


def scores_of_two(
    k: int, m: int, rho: float, p: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], Flags, npt.NDArray[np.float64], Flags]:
    """Two equally good models that share half of their variance: patients, positives, scores (2, n), right (2, n).

    A model's score of an image has a part of the patient's own, whose share is rho, on a normal scale.
    """
    patient, truth = design(k, m, rng)

    def noise() -> npt.NDArray[np.float64]:
        own = rng.normal(size=3 * k)[patient]
        return np.asarray(np.sqrt(rho) * own + np.sqrt(1.0 - rho) * rng.normal(size=len(patient)))

    common = noise()
    values = np.sqrt(0.5) * np.stack([common + noise(), common + noise()])
    # Right where the noise is low; for the area a shift of the positives that gives an AUC of p.
    return patient, truth == 0, values + np.sqrt(2.0) * stats.norm.ppf(p) * (truth == 0), values < stats.norm.ppf(p)


def coverage(k: int, m: int, rho: float, p: float, studies: int, seed: int = 0) -> dict[str, float]:
    """In how many studies of 1 each interval of metrics.json holds the truth."""
    rng = np.random.default_rng([seed, k, m, int(100 * rho), int(100 * p)])
    truth = {"accuracy": p, "sensitivity": p, "specificity": (1.0 + p) / 2.0, "f1": p}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    names = np.array(CLASSES.names, object)
    for _ in range(studies):
        patient, real, called = study(k, m, rho, p, rng)
        classes = class_metrics(names[real], names[called], patient).values()
        ends = {name: [getattr(one, f"{name}_ci") for one in classes] for name in ("sensitivity", "specificity", "f1")}
        ends["accuracy"] = [proportion_interval(real == called, patient)]
        for name, value in truth.items():
            held[name] += [low - 1e-12 <= value <= high + 1e-12 for low, high in ends[name]]
    return {name: float(np.mean(flags)) for name, flags in held.items()}


def area_coverage(k: int, m: int, rho: float, p: float, studies: int, seed: int = 0) -> float:
    """In how many studies of 1 the interval of an AUC of p holds it."""
    rng = np.random.default_rng([seed, k, m, int(100 * rho), int(100 * p), 1])
    held = []
    for _ in range(studies):
        patient, positive, scores, _ = scores_of_two(k, m, rho, p, rng)
        low, high = area_estimate(scores[0], positive, patient).ci
        held.append(low - 1e-12 <= p <= high + 1e-12)
    return float(np.mean(held))


def rejections(k: int, m: int, rho: float, p: float, studies: int, seed: int = 0) -> dict[str, float]:
    """In how many studies of 1 the tests call two equally good models different at p < 0.05."""
    rng = np.random.default_rng([seed, k, m, int(100 * rho), int(100 * p), 2])
    called: dict[str, list[bool]] = {"mcnemar": [], "delong": []}
    for _ in range(studies):
        patient, positive, scores, right = scores_of_two(k, m, rho, p, rng)
        called["mcnemar"].append(mcnemar_by_patient(*right, patient) < 0.05)
        value = delong(*scores, positive, patient).p
        called["delong"].append(value is not None and value < 0.05)
    return {name: float(np.mean(flags)) for name, flags in called.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies of each cell of the grid")
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES, help="0: a mixture of 1, 1, 1, 2, 3 and 6")
    given = parser.parse_args()
    rows = []
    for k, m, rho, p in cells(tuple(given.patients), tuple(given.images)):
        row = {"patients": k, "images": m, "rho": rho, "p": p, **coverage(k, m, rho, p, given.studies)}
        row |= rejections(k, m, rho, p, given.studies)
        row["auc"] = area_coverage(k, m, rho, p, given.studies)
        rows.append(row)
        print(
            " ".join(f"{value:.3f}" if isinstance(value, float) else f"{value:5d}" for value in row.values()),
            flush=True,
        )
    table = pd.DataFrame(rows)
    numbers = list(table.columns[4:])
    print("\nlowest, mean and highest over the cells, by patients of a class")
    print(table.groupby("patients")[numbers].agg(["min", "mean", "max"]).round(3).T.to_string())


if __name__ == "__main__":
    main()
