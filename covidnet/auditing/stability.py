"""Stability: over seeds and splits, over epochs, and over the number of patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from covidnet.auditing.acquisition import class_means
from covidnet.auditing.closed_form import FOLDS, patient_folds, ridge_classes
from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.errors import CovidnetError
from covidnet.base.names import counted
from covidnet.evaluation.bootstrap import cluster_codes, percentile_interval
from covidnet.evaluation.comparison import mcnemar_by_patient
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.results import Interval
from covidnet.sweep.folder import Sweep, groups_of, read_sweep
from covidnet.sweep.summary import ensemble_predictions, pooled_predictions, training_curve

NAME = "stability"

SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the patients of the learning curve."""

# The validation loss must fall by this much in the last quarter of the epochs to count as falling.
_FALL = 0.05
_DIFFERENCE, _GAIN, _CHANCE = 0.05, 0.02, 0.05
_DRAWS, _LEAST = 3, 10
_SEEDS = ("seed", "split.seed")


def stability(study: Study) -> Answer:
    """Compare seeds, splits and methods of the sweep, look at its curves, and draw a learning curve.

    Raises:
        NotPossibleError: neither the images nor a sweep can be read.
    """
    findings, tables, notes = list[Finding](), dict[str, pd.DataFrame](), list[str]()
    reasons = []
    for what, look in (("training", _training), ("seeds", _seeds), ("the learning curve", _learning_curve)):
        try:
            # Many small products: waiting for another thread costs more than it does.
            with threadpool_limits(1, "blas"):
                found, some, more = look(study)
        except NotPossibleError as error:
            reasons.append(f"{error}")
            notes.append(f"Not possible: {what}; {error}.")
            continue
        findings += found
        tables |= some
        notes += more
    if len(reasons) == 3:
        raise NotPossibleError("; ".join(dict.fromkeys(reasons)))
    return Answer(findings, tables, notes)


Looked = tuple[list[Finding], dict[str, pd.DataFrame], list[str]]


def _training(study: Study) -> Looked:
    """Whether the validation loss was still falling when training ended."""
    rows = []
    for run in study.sweep.runs:
        curve = training_curve(run)
        if curve is None:
            continue
        loss = np.array([np.nan if value is None else value for value in curve.val_loss], np.float64)
        if not np.isfinite(loss).any():
            continue
        best, fall = still_falling(loss)
        rows.append((run.fold, len(loss), curve.epoch[best], loss[best], fall, best == len(loss) - 1))
    if not rows:
        raise NotPossibleError("no run logged a validation loss (curves/metrics.csv)")
    names = ["fold", "epochs", "best_epoch", "best_loss", "fall_in_last_quarter", "best_is_last"]
    table = pd.DataFrame(rows, columns=names)
    cut = table["best_is_last"] & (table["fall_in_last_quarter"] > _FALL)
    shown = table.assign(best_is_last=table["best_is_last"].map({True: "yes", False: "no"}))
    note = (
        f"The lowest validation loss is that of the last epoch for {int(table['best_is_last'].sum())} of "
        f"{counted(len(table), 'model')}, and fell by more than {_FALL:.0%} in the last quarter of its epochs for "
        f"{int(cut.sum())}."
    )
    if cut.mean() <= 0.5:
        return [], {"convergence": shown}, [note]
    what = "Training was cut off; share of the models whose validation loss was still falling at the last epoch."
    meaning = "More epochs give other numbers, and methods that learn at other speeds cannot be compared."
    remedy = "Raise trainer.max_epochs until early stopping ends the training."
    finding = Finding(NAME, "weakens", what, float(cut.mean()), None, (), meaning, remedy)
    return [finding], {"convergence": shown}, [note]


def still_falling(loss: npt.NDArray[np.float64]) -> tuple[int, float]:
    """Where a loss is lowest, and by which share its lowest value fell in the last quarter of the epochs.

    Args:
        loss: (epochs,) at least one of them finite.

    Example:
        >>> still_falling(np.array([1.0, 0.8, 0.5, 0.4]))
        (3, 0.2)
    """
    before = loss[: max(1, int(0.75 * len(loss)))]
    best = int(np.nanargmin(loss))
    least = float(np.nanmin(before)) if np.isfinite(before).any() else np.nan
    return best, round(1 - float(loss[best]) / least, 12) if least > 0 else 0.0


@dataclass(frozen=True)
class _Group:
    """The runs of one method and seed."""

    method: str
    seeds: tuple[object, object]
    sweep: Sweep
    accuracy: float
    interval: Interval


def _seeds(study: Study) -> Looked:
    """The accuracy by seed and split, and the ranks of methods."""
    sweep = study.sweep
    groups: list[_Group] = []
    notes = []
    for name in groups_of(sweep.folder) or [""]:
        try:
            groups.append(_group(read_sweep(sweep.folder, only=name) if name else sweep, name))
        except CovidnetError as error:
            notes.append(f"Not possible: the group {name}; {error}.")
    rows = []
    for one in groups:
        unseen = np.nan
        if one.sweep.has_unseen:
            table = ensemble_predictions(one.sweep.runs)
            unseen = float((table["label"] == table["prediction"]).mean())
        rows.append((one.method, *one.seeds, len(one.sweep.runs), one.accuracy, *one.interval, unseen))
    names = ["method", "seed", "split_seed", "folds", "accuracy", "low", "high", "unseen_accuracy"]
    tables = {"seeds": pd.DataFrame(rows, columns=names)}
    of_method: dict[str, list[_Group]] = defaultdict(list)
    for one in groups:
        of_method[one.method].append(one)
    findings = []
    for method, several in of_method.items():
        if len(several) < 2:
            continue
        values = [one.accuracy for one in several]
        spread = max(values) - min(values)
        of = "" if method == _ALL else f" of {method}"
        notes.append(
            f"Accuracy over {len(values)} seeds or splits{of}: mean {np.mean(values):.1%}, standard deviation "
            f"{100 * np.std(values, ddof=1):.1f} points."
        )
        best, worst = (pick(several, key=lambda one: one.accuracy) for pick in (max, min))
        if spread > _DIFFERENCE and _apart(best, worst, len(several)):
            what = f"The accuracy{of} depends on the seed; how far the best of {len(values)} is above the worst"
            what += f" ({max(values):.1%} and {min(values):.1%})."
            meaning = "The accuracy of one seed is that of a lucky or an unlucky training."
            remedy = "Report mean and standard deviation over seeds, never the best; train longer or on more images."
            findings.append(Finding(NAME, "weakens", what, 100 * spread, None, (), meaning, remedy, "points"))
    for at, (name, setting) in enumerate((("seeds", "'seed=0,1,2'"), ("splits", "'split.seed=0,1,2'"))):
        if all(len({one.seeds[at] for one in several}) < 2 for several in of_method.values()):
            word = name.removesuffix("s")
            notes.append(
                f"Not possible: stability over {name}; the sweep has one {word} (covidnet train -m {setting} has more)."
            )
    more = _ranks(of_method)
    return [*findings, *more[0]], tables | more[1], [*notes, *more[2]]


_ALL = "all runs"


def _apart(best: _Group, worst: _Group, groups: int) -> bool:
    """Whether two of several groups differ by more than chance: on the same images if they have any in common."""
    one, other = (pooled_predictions(group.sweep.runs).set_index("image_id") for group in (best, worst))
    shared = one.index.intersection(other.index)
    if len(shared) < 0.5 * len(one):
        # Another split has other test images.
        return best.interval[0] > worst.interval[1]
    one, other = one.loc[shared], other.loc[shared]
    right, also = ((table["label"] == table["prediction"]).to_numpy(bool) for table in (one, other))
    pairs = groups * (groups - 1) / 2
    return pairs * mcnemar_by_patient(right, also, cluster_codes(one.reset_index())) < _CHANCE


def _group(sweep: Sweep, name: str) -> _Group:
    parts = [part for part in name.split(",") if part.partition("=")[0] not in _SEEDS]
    settings = sweep.runs[0].settings
    split = settings.get("split") or {}
    table = pooled_predictions(sweep.runs)
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    interval = proportion_interval(right, cluster_codes(table))
    assert interval is not None  # a run has test images
    seeds = settings.get("seed", np.nan), split.get("seed", np.nan)
    return _Group(",".join(parts) or _ALL, seeds, sweep, float(right.mean()), interval)


def _ranks(of_method: dict[str, list[_Group]]) -> Looked:
    """Whether the same method is the best with every seed."""
    if len(of_method) < 2:
        return [], {}, []
    table = pd.DataFrame(
        [(method, str(one.seeds), one.accuracy) for method, several in of_method.items() for one in several],
        columns=["method", "seeds", "accuracy"],
    ).pivot_table(index="seeds", columns="method", values="accuracy", sort=False)
    table = table.dropna()
    if len(table) < 2:
        return [], {}, ["Not possible: the rank of the methods over seeds; they have fewer than two seeds in common."]
    ranks = table.rank(axis=1, ascending=False)
    first = table.idxmax(axis=1)
    leader = str(table.mean().idxmax())
    share = float((first == leader).mean())
    means = ranks.mean().sort_values()
    order = ", ".join(f"{name} {rank:.1f}" for name, rank in means.items())
    note = f"Mean rank of the methods over {len(table)} seeds: {order}."
    shown = pd.DataFrame({
        "method": means.index, "mean_rank": means.to_numpy(), "best_rank": ranks.min()[means.index].to_numpy(),
        "worst_rank": ranks.max()[means.index].to_numpy(), "mean_accuracy": table.mean()[means.index].to_numpy(),
    })  # fmt: skip
    if share == 1:
        return [], {"method_ranks": shown}, [note]
    wins = "; ".join(f"{name}: {times}" for name, times in Counter(first).most_common())
    what = (
        f"The best method changes with the seed ({wins}); share of the seeds in which {leader} (best on average) wins."
    )
    meaning = "With one seed another method would have been called the best."
    remedy = "Compare methods over several seeds, with a test on the same images (covidnet crossval)."
    return [Finding(NAME, "weakens", what, share, None, (), meaning, remedy)], {"method_ranks": shown}, [note]


def _learning_curve(study: Study) -> Looked:
    """The balanced accuracy of ridge regression by the share of the patients that it is fitted to."""
    inputs = study.inputs
    names, labels = np.unique(study.images["label"].to_numpy(str)[inputs.rows], return_inverse=True)
    if len(names) < 2:
        raise NotPossibleError("all images are of one class")
    patients = np.unique(study.patients[inputs.rows], return_inverse=True)[1]
    hits, sizes = np.full((len(labels), len(SHARES)), np.nan), np.zeros((2, len(SHARES)))
    rng = np.random.default_rng(study.seed)
    for fit, test in patient_folds(patients, study.seed):
        units = np.unique(patients[fit])
        for at, share in enumerate(SHARES):
            number = round(share * len(units))
            if number < _LEAST:
                continue
            draws = _DRAWS if share < 1 else 1
            right = np.zeros(len(test))
            for _ in range(draws):
                rows = fit[np.isin(patients[fit], rng.permutation(units)[:number])]
                told = ridge_classes(inputs.features[rows], labels[rows, None], inputs.features[test], len(names))[:, 0]
                right += told == labels[test]
                sizes[:, at] += np.array([number, len(rows)]) / draws / FOLDS
            hits[test, at] = right / draws
    kept = np.isfinite(hits).all(0)
    values, drawn = class_means(hits[:, kept], labels, patients, study.resamples, study.seed)
    units_all = int(patients.max()) + 1
    rows_of = []
    for at, share in enumerate(np.array(SHARES)[kept]):
        low, high = percentile_interval(drawn[:, at], units_all) or (np.nan, np.nan)
        rows_of.append((share, *np.round(sizes[:, kept][:, at]).astype(int), values[at], low, high))
    columns = ["share_of_patients", "patients", "images", "balanced_accuracy", "low", "high"]
    table = pd.DataFrame(rows_of, columns=columns)
    basis = f"Learning curve: ridge regression on {inputs.name}, on patients that it was not fitted to. "
    if kept.sum() < 2 or not kept[SHARES.index(0.5)]:
        return [], {"learning_curve": table}, [f"{basis}Not possible: half of the patients are too few."]
    gain = float(values[-1] - values[-2])
    interval = percentile_interval(drawn[:, -1] - drawn[:, -2], units_all)
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    basis += f"From half of the patients to all it rises by {100 * gain:.1f} points{ends}"
    if interval is not None and interval[0] > 0 and gain >= _GAIN:
        what = "More images would help; rise of ridge regression's balanced accuracy from half of the patients to all"
        what += f" ({values[-2]:.1%} to {values[-1]:.1%})."
        meaning = "With more patients the models would probably be better than these."
        remedy = "Collect more patients, or report the learning curve beside the numbers."
        ends_of = 100 * interval[0], 100 * interval[1]
        finding = Finding(NAME, "information", what, 100 * gain, ends_of, (), meaning, remedy, "points")
        return [finding], {"learning_curve": table}, [f"{basis}."]
    # Without an interval all resamples agree, or some of them lack a class.
    little = np.isfinite(drawn).all() and (interval[1] if interval else gain) < _GAIN
    so = "more images of the same kind would help little" if little else "whether more would help cannot be told"
    return [], {"learning_curve": table}, [f"{basis}: {so}."]
