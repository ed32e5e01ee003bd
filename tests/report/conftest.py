"""A summary of a sweep of random predictions; its numbers are scikit-learn's, statsmodels' and NumPy's alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.caveats import Caveat
from covidnet.evaluation.comparison import Comparison
from covidnet.evaluation.results import from_json
from covidnet.report.summary import SweepSummary

CLASSES = ("COVID-19", "Normal", "Pneumonia")
GRID = np.linspace(0.0, 1.0, 101)
Array = np.ndarray[Any, Any]


def sweep(content: Mapping[str, Any]) -> SweepSummary:
    """The summary that the content of a summary.json makes."""
    return from_json(SweepSummary, content)


def of_content(function: Callable[..., Any], kind: Any = SweepSummary) -> Callable[..., Any]:
    """A function of results as one of the content of their JSON; comparisons and other summaries may follow.

    Args:
        function: what is called.
        kind: of its first argument, or of each where that is a list.
    """

    def called(content: Any, *more: Any, **named: Any) -> Any:
        named = {name: _read(one, kind) for name, one in named.items()}
        return function(_read(content, kind), *(_read(one, kind) for one in more), **named)

    return called


def _read(given: Any, kind: Any) -> Any:
    if isinstance(given, list):
        return [_read(one, kind) for one in given]
    if not isinstance(given, dict):
        return given
    return from_json(Comparison if "mcnemar" in given else kind, given)


def ends(estimate: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of an estimate."""
    return None if estimate["ci"] is None else (estimate["ci"][0], estimate["ci"][1])


def _scores(truth: Array, skill: float, rng: np.random.Generator, shift: Array | float = 0.0) -> Array:
    logits = rng.normal(size=(len(truth), 3)) + skill * np.eye(3)[truth] + shift
    logits[:, 0] += 0.4 * skill * (truth == 0)
    exp = np.exp(logits)
    return np.asarray(exp / exp.sum(1, keepdims=True))


def _one_class(truth: Array, scores: Array, at: int) -> dict[str, float]:
    true, called = truth == at, scores.argmax(1) == at
    return {
        "sensitivity": float(sk.recall_score(true, called)),
        "specificity": float(sk.recall_score(~true, ~called)),
        "f1": float(sk.f1_score(true, called)),
        "auc": float(sk.roc_auc_score(true, scores[:, at])),
        "accuracy": float(sk.accuracy_score(true, called)),
    }


def _plain(truth: Array, scores: Array) -> dict[str, Any]:
    classes = {name: _one_class(truth, scores, at) for at, name in enumerate(CLASSES)}
    for numbers in classes.values():
        del numbers["accuracy"]
    macro = {key: float(np.mean([c[key] for c in classes.values()])) for key in classes["Normal"]}
    loss = float(sk.log_loss(truth, scores, labels=[0, 1, 2]))
    accuracy = float(sk.accuracy_score(truth, scores.argmax(1)))
    return {"accuracy": accuracy, "loss": loss, "macro": macro, "classes": classes}


def _estimate(value: float, draws: list[float]) -> dict[str, Any]:
    low, high = np.percentile([*draws, value], [2.5, 97.5])
    return {"value": value, "ci": [float(low), float(high)], "method": "bootstrap"}


def _wilson(successes: int, n: int) -> dict[str, Any]:
    low, high = proportion_confint(successes, n, method="wilson")
    return {"value": successes / n, "ci": [float(low), float(high)], "method": "wilson"}


def _bins(truth: Array, scores: Array) -> list[dict[str, Any]]:
    confidence, right = scores.max(1), scores.argmax(1) == truth
    found = []
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        n = int(inside.sum())
        rate = _wilson(int(right[inside].sum()), n) if n else {"value": None, "ci": None}
        mean = float(confidence[inside].mean()) if n else None
        edges = {"low": float(low), "high": float(low + 0.1)}
        found.append({**edges, "n": n, "confidence": mean, "accuracy": rate["value"], "ci": rate["ci"]})
    return found


def _calibration(truth: Array, scores: Array) -> dict[str, Any]:
    bins = [b for b in _bins(truth, scores) if b["n"]]
    ece = sum(b["n"] / len(truth) * abs(b["accuracy"] - b["confidence"]) for b in bins)
    brier = float(((scores - np.eye(3)[truth]) ** 2).sum(1).mean())
    return {"ece": float(ece), "brier": brier, "bins": _bins(truth, scores)}


def _tempered(scores: Array, temperature: float) -> Array:
    raised = scores ** (1.0 / temperature)
    return np.asarray(raised / raised.sum(1, keepdims=True))


def _calibrations(
    truth: Array, test: list[Array], unseen: list[Array], temperatures: list[float], rng: np.random.Generator
) -> dict[str, Any]:
    """The entry ``calibration`` of a summary; intervals are of five resamples of images."""
    soft = [[_tempered(s, t) for s, t in zip(part, temperatures, strict=True)] for part in (test, unseen)]
    pairs = {
        "pooled": (np.tile(truth, len(test)), np.concatenate(test), np.concatenate(soft[0])),
        "ensemble_unseen": (truth, np.mean(unseen, axis=0), np.mean(soft[1], axis=0)),
    }

    def images(true: Array, scores: Array) -> dict[str, Array]:
        brier = ((scores - np.eye(3)[true]) ** 2).sum(1)
        return {"brier": brier, "loss": -np.log(scores[np.arange(len(true)), true])}

    def band(values: Array) -> list[float]:
        drawn = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(5)]
        return [float(end) for end in np.percentile([*drawn, values.mean()], [2.5, 97.5])]

    def told(true: Array, scores: Array) -> dict[str, Any]:
        return {
            **_calibration(true, scores),
            "loss": float(sk.log_loss(true, scores, labels=[0, 1, 2])),
            "accuracy": float(sk.accuracy_score(true, scores.argmax(1))),
            "ci": {name: band(values) for name, values in images(true, scores).items()},
        }

    found: dict[str, Any] = {
        "temperatures": [{"fold": k, "value": t, "n": len(truth)} for k, t in enumerate(temperatures)],
        "change": {},
    }
    for name, (true, before, after) in pairs.items():
        old, new = images(true, before), images(true, after)
        found[name], found[f"{name}_calibrated"] = told(true, before), told(true, after)
        found["change"][name] = {
            "ece": found[f"{name}_calibrated"]["ece"] - found[name]["ece"],
            **{k: {"value": float((new[k] - old[k]).mean()), "ci": band(new[k] - old[k])} for k in old},
        }
    _, before, after = pairs["ensemble_unseen"]
    found["ensemble_changed"] = int((before.argmax(1) != after.argmax(1)).sum())
    return found


def _scored(truth: Array, scores: Array, rng: np.random.Generator) -> dict[str, Any]:
    plain, n = _plain(truth, scores), len(truth)
    drawn = [rng.integers(0, n, n) for _ in range(5)]
    again = [_plain(truth[i], scores[i]) for i in drawn]
    classes: dict[str, Any] = {}
    for at, name in enumerate(CLASSES):
        true, called = truth == at, scores.argmax(1) == at
        classes[name] = {
            "sensitivity": _wilson(int((true & called).sum()), int(true.sum())),
            "specificity": _wilson(int((~true & ~called).sum()), int((~true).sum())),
            "accuracy": _wilson(int((true == called).sum()), n),
            "support": int(true.sum()),
        }
        for key in ("f1", "auc"):
            classes[name][key] = _estimate(plain["classes"][name][key], [a["classes"][name][key] for a in again])
    macro = {key: _estimate(plain["macro"][key], [a["macro"][key] for a in again]) for key in plain["macro"]}
    calibration = _calibration(truth, scores)
    return {
        "n": n,
        "patients": n - n // 10,
        "accuracy": _estimate(plain["accuracy"], [a["accuracy"] for a in again]),
        "macro": macro,
        "loss": plain["loss"],
        "brier": calibration["brier"],
        "ece": calibration["ece"],
        "confusion": sk.confusion_matrix(truth, scores.argmax(1)).tolist(),
        "classes": classes,
    }


def _curves(truth: Array, scores: Array, rng: np.random.Generator) -> dict[str, Any]:
    found = {}
    for at, name in enumerate(CLASSES):
        true, score = truth == at, scores[:, at]
        roc, pr, areas, average = [], [], [], []
        for draw in range(6):
            i = np.arange(len(truth)) if draw == 0 else rng.integers(0, len(truth), len(truth))
            fpr, tpr, _ = sk.roc_curve(true[i], score[i])
            precision, recall, _ = sk.precision_recall_curve(true[i], score[i])
            roc.append(np.interp(GRID, fpr, tpr))
            pr.append(np.interp(GRID, recall[::-1], precision[::-1]))
            areas.append(float(sk.roc_auc_score(true[i], score[i])))
            average.append(float(sk.average_precision_score(true[i], score[i])))
        bands = [np.percentile(curve, [2.5, 97.5], axis=0) for curve in (roc, pr)]
        found[name] = {
            "roc": {
                "fpr": GRID.tolist(), "tpr": roc[0].tolist(), "low": bands[0][0].tolist(), "high": bands[0][1].tolist(),
                "auc": _estimate(areas[0], areas),
            },
            "pr": {
                "recall": GRID.tolist(), "precision": pr[0].tolist(), "low": bands[1][0].tolist(),
                "high": bands[1][1].tolist(), "average_precision": _estimate(average[0], average),
                "prevalence": float(true.mean()),
            },
        }  # fmt: skip
    return found


def _over(statistic: Callable[[Any], Any], rows: list[Any]) -> Any:
    if isinstance(rows[0], dict):
        return {key: _over(statistic, [row[key] for row in rows]) for key in rows[0]}
    return float(statistic(rows))


def _sd(values: Any) -> float:
    return float(np.std(values, ddof=1))


def _best(p: float, n: int, models: int, rng: np.random.Generator) -> dict[str, Any]:
    best = float((rng.binomial(n, p, size=(2000, models)).max(1) / n).mean())
    return {"accuracy": p, "expected_best": best, "optimism": best - p, "repeats": 2000}


def build_summary(seed: int = 0, folds: int = 10, skill: float = 2.5, per_fold: int = 52, **top: Any) -> dict[str, Any]:
    """The content of summary.json for random predictions.

    Args:
        seed: of everything.
        folds: how many finished.
        skill: how much better than guessing.
        per_fold: images of each class in a fold.
        top: replaces entries of the result.
    """
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], per_fold)
    unseen_shift = rng.normal(size=(len(truth), 3)) * 0.7
    test = [_scores(truth, skill, rng) for _ in range(folds)]
    val = [_scores(truth, skill, rng) for _ in range(folds)]
    unseen = [_scores(truth, skill, rng, unseen_shift) for _ in range(folds)]
    pooled_truth, pooled = np.tile(truth, folds), np.concatenate(test)
    ensemble = np.mean(unseen, axis=0)
    per = [
        {"fold": k, "n": len(truth), "val": _plain(truth, val[k]), "test": _plain(truth, test[k]),
         "unseen": _plain(truth, unseen[k])}
        for k in range(folds)
    ]  # fmt: skip
    accuracies = [row["unseen"]["accuracy"] for row in per]
    chosen = int(np.argmin([row["val"]["loss"] for row in per]))
    paper = int(np.argmax(accuracies))
    mean = float(np.mean(accuracies))
    epochs = list(range(20))
    # Its own, so that the other numbers do not move with it.
    calibration_rng = np.random.default_rng([seed, 1])

    def loss(start: float, end: float) -> list[float]:
        fall = end + (start - end) * np.exp(-np.array(epochs) / 4.0)
        return [float(v) for v in fall + 0.01 * rng.normal(size=len(epochs))]

    summary = {
        "name": "densenet121, fixed copies",
        "paper": True,
        "folder": "multirun/2026-05-04/10-11-12",
        "folds": list(range(folds)),
        "problems": [],
        "notes": [
            str(Caveat.SYNTHETIC),
            str(Caveat.RANDOM_BACKBONE),
        ],
        "data": {
            "name": "phantom", "synthetic": True, "manifest_sha256": "a1" * 32, "split_sha256": "b2" * 32,
            "group": "patient", "validation": "inner", "view": None, "images": 11 * 3 * per_fold, "left_out": 4,
            "refused": 2, "patients": 1600, "unknown_patients": 31, "per_fold": per_fold,
            "classes": {
                name: {"images": 11 * per_fold, "train": 8 * per_fold, "train_augmented": 952, "test": per_fold * folds,
                       "unseen": per_fold, "left_out": at}
                for at, name in enumerate(CLASSES)
            },
        },
        "model": {"name": "densenet121", "weights": "random", "freeze": True, "standardise": True, "dropout": 0.0,
                  "weights_sha256": "c3" * 32},
        "augment": {"mode": "fixed", "target_per_class": 1070, "rotation": 5.0, "zoom": 1.02, "shear": 2.0},
        "training": {"seed": 0, "optim": {"lr": 0.001, "weight_decay": 0.0}, "trainer": {"max_epochs": 20},
                     "monitor": "val/loss"},
        "pooled": _scored(pooled_truth, pooled, rng),
        "per_fold": per,
        "mean": _over(np.mean, [row["test"] for row in per]),
        "sd": _over(_sd, [row["test"] for row in per]) if folds > 1 else _over(lambda _: np.nan, [per[0]["test"]]),
        "unseen": {
            "mean": _over(np.mean, [row["unseen"] for row in per]),
            "sd": _over(_sd, [row["unseen"] for row in per]) if folds > 1 else None,
            "ensemble": _scored(truth, ensemble, rng),
            "selected": _scored(truth, unseen[chosen], rng),
            "paper_selected": _scored(truth, unseen[paper], rng),
        },
        "selection": {
            "rule": "inner", "fold": chosen,
            "label": "selected by inner validation; the unseen fold was not used for selection and has been scored in "
            "10 runs (runs with another cache_dir are not counted)",
            "candidates": [
                {
                    "fold": row["fold"], "val_accuracy": row["val"]["accuracy"], "val_loss": row["val"]["loss"],
                    "val_covid19_sensitivity": row["val"]["classes"]["COVID-19"]["sensitivity"],
                    "unseen_accuracy": row["unseen"]["accuracy"], "unseen_loss": row["unseen"]["loss"],
                    "unseen_covid19_sensitivity": row["unseen"]["classes"]["COVID-19"]["sensitivity"],
                }
                for row in per
            ],
            "paper_fold": paper, "n": len(truth), "models": folds,
            "simulated": _best(mean, len(truth), folds, rng),
            "data": {"best": max(accuracies), "mean": mean, "apparent_optimism": max(accuracies) - mean,
                     "split_half_optimism": 0.011, "repeats": 2000},
            "chance": _best(1 / 3, len(truth), folds, rng),
        },
        "calibration": _calibrations(truth, test, unseen, [1.1 + 0.05 * k for k in range(folds)], calibration_rng),
        "card": {
            "trained": "2026-05-04", "parameters": {"all": 6_956_931, "trained": 3_075},
            "input": {"size": 224, "fit": "squash", "channels": 3, "mean": [0.485, 0.456, 0.406],
                      "std": [0.229, 0.224, 0.225], "min_side": 64, "max_megapixels": 64},
            "source": {"counts": {"phantom": dict.fromkeys(CLASSES, 11 * per_fold)}, "unknown": 0,
                       "n": 33 * per_fold, "share": 1 / 3, "base": 1 / 3},
            "view": None, "gate": None,
        },
        "bootstrap": {"resamples": 2000, "seed": seed},
        "curves": {"pooled": _curves(pooled_truth, pooled, rng), "unseen": _curves(truth, ensemble, rng)},
        "training_curves": [
            {"fold": k, "epoch": epochs, "train_loss": loss(1.1, 0.2), "val_loss": loss(1.0, 0.3), "best": 14 + k % 5}
            for k in range(folds)
        ],
        "versions": {"torch": "2.15.0", "numpy": "2.4.0", "scikit-learn": "1.9.1", "onnxruntime": None},
        "hashes": {"manifest_sha256": "a1" * 32, "split_sha256": "b2" * 32, "weights_sha256": "c3" * 32,
                   "predictions_sha256": {str(k): f"{k:x}" * 64 for k in range(folds)}},
        "git_revision": "0123456789abcdef0123456789abcdef01234567",
        "seconds": {"features": 61.0, "fit": 40.5, "total": 130.25},
        **top,
    }  # fmt: skip
    if folds < 2:
        summary["sd"] = None
    return summary


def hollow(tree: Any) -> Any:
    """The same tree with None for every number, text and list at its ends."""
    if isinstance(tree, dict):
        return {key: hollow(value) for key, value in tree.items()}
    return None


COMPARISON: dict[str, Any] = {
    "a": "densenet121, fixed copies", "b": "densenet121, no copies", "n": 1560, "accuracy_a": 0.9462,
    "accuracy_b": 0.9385, "difference": 0.0077,
    "mcnemar": {"only_a": 40, "only_b": 28, "p": 0.1824},
    "t_test": {"t": 1.31, "df": 9, "p": 0.2226, "mean_difference": 0.0077, "ci": [-0.0056, 0.0210]},
    "delong": {
        name: {"auc_a": 0.991, "auc_b": 0.988, "difference": 0.003, "ci": [0.0004, 0.0056], "z": 2.26, "p": p}
        for name, p in zip(CLASSES, (0.00002, 0.24, 0.03), strict=True)
    },
    "p_holm": {"mcnemar": 0.1824, "t_test": 0.4452, "delong": {"COVID-19": 0.00006, "Normal": 0.24, "Pneumonia": 0.06}},
}  # fmt: skip


def build_explanations(
    seed: int = 0, fold: int = 3, difference: float = 0.2, retained: float = 0.05, poor: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The entry ``explanations`` of a summary, of random numbers.

    Args:
        seed: of everything.
        fold: whose panels are shown.
        difference: of the model to the centre prior.
        retained: in the sanity test; it decides the verdict.
        poor: measures by which the model is no better than the centre prior.
    """
    rng = np.random.default_rng(seed)

    def near(value: float) -> dict[str, Any]:
        middle = value + 0.02 * rng.normal()
        ends = [middle - 0.03 - 0.02 * rng.random(), middle + 0.03 + 0.02 * rng.random()]
        return {"value": middle, "ci": ends, "n": 40, "method": "bootstrap"}

    def measure(name: str, centre: float, n: int) -> dict[str, Any]:
        apart = -0.1 if name in poor else difference
        return {
            "n": n, "model": near(centre + apart), "centre": near(centre), "mean_map": near(centre + 0.05),
            "chance": nothing if name in ("touch", "iou") else near(centre - 0.02),
            "difference": near(apart), "difference_mean_map": near(apart - 0.05),
            "difference_chance": nothing if name in ("touch", "iou") else near(apart + 0.02),
        }  # fmt: skip

    nothing = {"value": None, "ci": None, "n": 0, "method": "bootstrap"}
    names = ("head", "denseblock4", "denseblock3", "denseblock2", "denseblock1", "conv0")
    ends = {"depends": retained < 0.4, "does not depend": retained > 0.6}
    return {
        "method": "gradcam", "weights": "imagenet", "freeze": True, "folds": list(range(10)), "fold": fold,
        "panels": [
            {"title": title, "path": f"fold={fold}/panels/{name}.png"}
            for title, name in (("COVID-19", "unseen-COVID-19"), ("errors", "errors"))
        ],
        "localisation": {
            "n": 40, "films": 60, "patients": 38, "maps": 600, "constant": 0,
            "constant_by_class": {"COVID-19": 0, "Normal": 0},
            "measures": {
                "pointing": measure("pointing", 0.4, 40), "iou": measure("iou", 0.25, 40),
                "lesion_share": measure("lesion_share", 0.2, 40), "lung_share": measure("lung_share", 0.5, 60),
            },
            "not_better": list(poor), "not_better_than_mean_map": list(poor), "better_than_centre": not poor,
            "lungs": {"n": 60, "patients": 58, "not_better": [], "not_better_than_mean_map": [],
                      "better_than_centre": True},
        },
        "sanity": {
            "n": 6,
            "stages": [
                {"stage": name, "ssim": near(0.3 + (0.7 - 0.1 * at) * retained), "rank": near(0.1 + 0.8 * retained)}
                for at, name in enumerate(names)
            ],
            "pairs": {"ssim": near(0.3), "rank": near(0.1)},
            "retained": {"ssim": near(retained), "rank": near(retained)},
            "verdict": next((verdict for verdict, holds in ends.items() if holds), "unclear"),
            "reason": None if any(ends.values()) else "maps change by about half",
        },
    }  # fmt: skip


def tiny_png(red: int = 255, width: int = 3, height: int = 2) -> bytes:
    """A PNG of one colour.

    Args:
        red: of all pixels.
        width: in pixels.
        height: in pixels.
    """
    stream = BytesIO()
    Image.new("RGB", (width, height), (red, 0, 0)).save(stream, format="PNG")
    return stream.getvalue()


@cache
def _built() -> dict[str, Any]:
    return build_summary()


@cache
def _other() -> dict[str, Any]:
    folder = "multirun/2026-05-04/11-00-00"
    return build_summary(1, skill=2.4, name="densenet121, no copies", augment={"mode": "none"}, folder=folder)


@cache
def _one_fold() -> dict[str, Any]:
    return build_summary(2, folds=1)


@pytest.fixture
def summary() -> dict[str, Any]:
    """Ten folds of random predictions; a copy that a test may change."""
    return copy.deepcopy(_built())


@pytest.fixture
def maps_alone(tmp_path: Path) -> dict[str, Any]:
    """A summary of explanations and nothing else, which is drawn fast, and its two panels on disk."""
    found: dict[str, Any] = {"name": "maps", "folder": str(tmp_path / "sweep"), "explanations": build_explanations()}
    for red, panel in enumerate(found["explanations"]["panels"]):
        file = tmp_path / "sweep" / panel["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiny_png(red))
    return found


@pytest.fixture
def explained(summary: dict[str, Any], maps_alone: dict[str, Any]) -> dict[str, Any]:
    """The summary with explanations."""
    return summary | {key: maps_alone[key] for key in ("folder", "explanations")}


@pytest.fixture
def other() -> dict[str, Any]:
    """The same without augmentation, a little worse."""
    return copy.deepcopy(_other())


@pytest.fixture
def comparison() -> dict[str, Any]:
    """How the two compare."""
    return copy.deepcopy(COMPARISON)


@pytest.fixture
def one_fold() -> dict[str, Any]:
    """A sweep of which one fold finished: no deviation over folds."""
    return copy.deepcopy(_one_fold())


@pytest.fixture(scope="session")
def page() -> str:
    """The page of the summary, the other sweep and their comparison; drawn once, for tests that only read it."""
    from covidnet.report.write import report_html

    return str(of_content(report_html)(_built(), [COMPARISON], [_other()]))


@pytest.fixture
def none_everywhere() -> dict[str, Any]:
    """A summary in which every value is None."""
    return dict(hollow(copy.deepcopy(_built())))
