"""The summary of a sweep; every number is computed from the predictions.csv of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from covidnet.base.caveats import caveats_of
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted, real_path
from covidnet.base.provenance import file_sha256
from covidnet.data.folds.splits import UNSEEN_FOLD
from covidnet.data.folds.unseen_ledger import UnseenLedger
from covidnet.evaluation.bootstrap import RESAMPLES, cluster_codes
from covidnet.evaluation.explanations import verdicts
from covidnet.evaluation.results import from_json, to_json
from covidnet.evaluation.scores import PointScores, SplitScores, point_scores, scored, scored_curves
from covidnet.evaluation.selection import RULES, Candidate, choose, selection_report
from covidnet.learning.monitor import direction
from covidnet.report.summary import (
    Bootstrap,
    ClassCounts,
    DataFacts,
    FoldScores,
    Hashes,
    Selection,
    Settings,
    SweepCurves,
    SweepSummary,
    TrainingCurve,
    UnseenScores,
    UnseenUse,
)
from covidnet.report.words import count
from covidnet.sweep.calibration import averaged, common_images, sweep_calibration
from covidnet.sweep.card_facts import card_facts
from covidnet.sweep.explanations import explanations_of
from covidnet.sweep.folder import Run, Sweep

DEFAULTS = {"resamples": RESAMPLES, "seed": 0}
"""Defaults of `covidnet.crossval`, which a printed command omits."""


def summarise(sweep: Sweep, *, selection: str | None = None, resamples: int = RESAMPLES, seed: int = 0) -> SweepSummary:
    """All numbers of a sweep.

    Args:
        sweep: the sweep.
        selection: ``inner`` or ``paper``; None for the setting of the runs.
        resamples: number of bootstrap resamples of patients.
        seed: of the bootstrap and the simulations.

    Raises:
        SettingError: selection, resamples or seed is not allowed.
    """
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 100:
        raise SettingError("resamples", resamples, "an integer of at least 100")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingError("seed", seed, "an integer of at least 0")
    runs, first = sweep.runs, sweep.runs[0]
    rule = selection or first.settings.get("selection") or "inner"
    if rule not in RULES:
        raise SettingError("selection", rule, RULES)
    if rule == "paper" and not sweep.has_unseen:
        remedy = f"the unseen fold is locked; python -m covidnet.crossval sweep_dir={sweep.folder} unseen=open opens it"
        raise SettingError("selection", rule, "inner", remedy)
    pooled, ensemble = pooled_predictions(runs), ensemble_predictions(runs) if sweep.has_unseen else None
    numbers, classes = {"resamples": resamples, "seed": seed}, sweep.classes
    options: dict[str, Any] = {**numbers, "classes": classes}
    scores = scored(pooled, **options)
    per_fold = [fold_scores(run) for run in runs]
    tested = [row.test for row in per_fold]
    data = _data(sweep)
    use = unseen_use(sweep)
    chosen = _selection(sweep, per_fold, rule, data, use.words or "", seed)
    by_fold = {run.fold: run for run in runs}
    explained = explanations_of(sweep, chosen.fold, **numbers)
    verdict = [] if explained is None else verdicts(explained.localisation, explained.sanity)

    def unseen_of(fold: int | None) -> SplitScores | None:
        return None if fold is None else scored(by_fold[fold].rows("unseen"), **options)

    unseen = unseen_curves = None
    if ensemble is not None:
        models = [row.unseen for row in per_fold]
        unseen = UnseenScores(
            mean=_over(np.mean, models),
            sd=_over(_sd, models),
            ensemble=scored(ensemble, **options),
            selected=unseen_of(chosen.fold),
            paper_selected=unseen_of(chosen.paper_fold),
        )
        unseen_curves = scored_curves(ensemble, unseen.ensemble, **options)
    return SweepSummary(
        name=sweep.name,
        folder=str(sweep.folder),
        folds=sweep.folds,
        problems=sweep.problems,
        notes=_notes(runs, data, rule) + _shared_notes(sweep.images) + use.notes + verdict,
        data=data,
        model=_model(first),
        augment=first.settings.get("augment") or {},
        training={key: first.settings.get(key) for key in ("seed", "loss", "optim", "trainer", "features", "monitor")},
        pooled=scores,
        per_fold=per_fold,
        mean=_over(np.mean, tested),
        sd=_over(_sd, tested),
        unseen=unseen,
        unseen_use=use,
        selection=chosen,
        explanations=explained,
        calibration=sweep_calibration(runs, pooled, _unseen_together(runs) if sweep.has_unseen else None, **numbers),
        curves=SweepCurves(scored_curves(pooled, scores, **options), unseen_curves),
        card=card_facts(runs),
        training_curves=[curve for run in runs if (curve := training_curve(run))],
        bootstrap=Bootstrap(**numbers),
        arguments={
            "only": sweep.only or None,
            "selection": selection,
            **{k: v for k, v in numbers.items() if v != DEFAULTS[k]},
        },
        versions=first.environment.get("versions") or {},
        git_revision=first.environment.get("git_revision"),
        hashes=Hashes(
            manifest_sha256=data.manifest_sha256,
            split_sha256=data.split_sha256,
            weights_sha256=first.environment.get("weights_sha256"),
            predictions_sha256={str(run.fold): file_sha256(run.folder / "predictions.csv") for run in runs},
        ),
        seconds={
            key: float(sum((run.metrics.get("seconds") or {}).get(key) or 0.0 for run in runs))
            for key in ("features", "fit", "panels", "total")
        },
        class_names=classes.record().get("classes"),
        positive=classes.record().get("positive"),
    )


def pooled_predictions(runs: Sequence[Run]) -> pd.DataFrame:
    """Every image of the test folds once, predicted by the model that was not trained on it."""
    return pd.concat([run.rows("test") for run in runs], ignore_index=True)


def ensemble_predictions(runs: Sequence[Run]) -> pd.DataFrame:
    """Predictions of the ensemble, the models' mean probabilities, on the unseen fold.

    Returns:
        A predictions table with split ``unseen`` and fold 10, with a row for each image that all models predicted.
    """
    return averaged(_unseen_together(runs), runs[0].classes)


def _unseen_together(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Each model's predictions of the unseen images that all models predicted, in the same order."""
    tables = common_images([run.rows("unseen") for run in runs])
    if not len(tables[0]):
        raise DataError("no image of the unseen fold was predicted by all models; report only runs of one split")
    return tables


def fold_scores(run: Run) -> FoldScores:
    """The scores of one model on its validation images, its test fold and the unseen fold."""
    val, test, unseen = (run.rows(part) for part in ("val", "test", "unseen"))
    points = (point_scores(rows, run.classes) if len(rows) else None for rows in (val, test, unseen))
    return FoldScores(run.fold, len(test), *points)


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _over(statistic: Callable[[Any], Any], folds: Sequence[PointScores | None]) -> PointScores:
    """A statistic of every metric over the folds; None if no fold has it."""
    return from_json(PointScores, _reduce(statistic, [to_json(fold) for fold in folds]))


def _reduce(statistic: Callable[[Any], Any], values: Sequence[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: _reduce(statistic, [value[key] for value in values]) for key in values[0]}
    known = [value for value in values if value is not None]
    result = statistic(known) if known else None
    return None if result is None else float(result)


def unseen_use(sweep: Sweep) -> UnseenUse:
    """How often the unseen fold has been scored, as far as known.

    Args:
        sweep: the sweep.
    """
    runs = sweep.runs
    kept = [run.environment.get("unseen") or {} for run in runs]
    here = [entry.get("run_id") for run, entry in zip(runs, kept, strict=True) if len(run.rows("unseen"))]
    entered = {str(run_id) for run_id in here if run_id}
    ledgers = [UnseenLedger(Path(entry["ledger"])) for entry in kept if entry.get("ledger")]
    names = ledgers[0].names("run") if ledgers else None
    unnamed = len(here) - len(entered)
    recorded = max((entry.get("scored_in") or 0 for entry in kept), default=0)
    known = max(len((names or set()) | entered) + unnamed, recorded)
    exact = names is not None and entered <= names and not unnamed and known == len(names)
    if not known:
        words = "has been scored in an unknown number of runs"
    elif exact:
        words = f"has been scored in {count(known, 'run')} (runs with another cache_dir are not counted)"
    else:
        words = f"has been scored in at least {count(known, 'run')} (the cache does not have all of them)"
    home = real_path(sweep.folder)
    times = set(sweep.openings)
    if ledgers:
        times |= {e["time"] for e in ledgers[0].entries("opening") if e.get("sweep") == str(home) and e.get("time")}
    locked = any(run.locked for run in runs)
    return UnseenUse(
        setting="locked" if locked else "scored",
        here=len(here),
        openings=sorted(times),
        runs=known or None,
        exact=exact,
        words=words,
        notes=_opening_notes(sweep.folder, sorted(times), bool(here), known) if locked else [],
    )


def _opening_notes(folder: Path, times: Sequence[str], scored_here: bool, known: int) -> list[str]:
    if not scored_here:
        others = f"the cache counts {count(known, 'other run')} that did" if known else "whether others did is unknown"
        return [
            f"unseen=locked: no run of this sweep has scored the unseen fold ({others}); "
            f"python -m covidnet.crossval sweep_dir={folder} unseen=open scores it."
        ]
    if not times:
        return ["The unseen fold was locked and has been opened; when and how often is unknown."]
    if len(times) == 1:
        return [f"The unseen fold was locked during training and has been opened once ({times[0][:10]})."]
    return [
        f"The unseen fold was locked during training and has been opened {len(times)} times (first {times[0][:10]}, "
        f"last {times[-1][:10]}); what was changed after the first opening may depend on it."
    ]


def _selection(
    sweep: Sweep, per_fold: Sequence[FoldScores], rule: str, data: DataFacts, words: str, seed: int
) -> Selection:
    runs = sweep.runs
    candidates = candidates_of(per_fold, sweep.classes)
    validated = all(candidate.val_accuracy is not None for candidate in candidates)
    fold = choose(candidates, rule) if rule == "paper" or validated else None
    if rule == "paper":
        label = "selection score: the unseen fold both selects and scores this model, so the score is optimistic"
    elif not validated:
        label = "no model is selected: the runs have no validation images"
    elif data.validation == "test":
        label = "selected by each model's own test fold, which the protocol calls validation"
    else:
        label = "selected by inner validation"
    if not sweep.has_unseen:
        label += "; the unseen fold is locked"
    elif rule == "paper":
        label += f"; the fold {words}"
    else:
        label += f"; the unseen fold was not used for selection and {words}"
    report: dict[str, Any] = dict.fromkeys(("n", "simulated", "chance", "data")) | {"models": len(runs)}
    if sweep.has_unseen:
        tables = _unseen_together(runs)
        right = np.array([(table["prediction"] == table["label"]).to_numpy() for table in tables])
        report = vars(selection_report(right, cluster_codes(tables[0]), seed=seed, classes=len(sweep.classes)))
    return Selection(
        rule=rule,
        fold=fold,
        label=label,
        candidates=candidates,
        paper_fold=choose(candidates, "paper") if sweep.has_unseen else None,
        **report,
    )


def candidates_of(per_fold: Sequence[FoldScores], classes: ClassList) -> list[Candidate]:
    """The models of a sweep among which one is selected.

    Args:
        per_fold: the scores of each.
        classes: of the sweep.
    """
    return [_candidate(row, classes) for row in per_fold]


def _candidate(row: FoldScores, classes: ClassList) -> Candidate:
    numbers: dict[str, float | None] = {}
    name = "covid19" if classes == DEFAULT_CLASSES else "positive"
    for part, scores in (("val", row.val), ("unseen", row.unseen)):
        if scores is not None:
            numbers |= {f"{part}_accuracy": scores.accuracy, f"{part}_loss": scores.loss}
            numbers[f"{part}_{name}_sensitivity"] = scores.classes[classes.positive].sensitivity
    return Candidate(row.fold, **numbers)


def _data(sweep: Sweep) -> DataFacts:
    first = sweep.runs[0]
    recorded = first.metrics.get("data") or {}
    settings, split_settings = first.settings.get("data") or {}, first.settings.get("split") or {}
    name = recorded.get("name") or settings.get("name")
    split = first.split
    used = left_out = None
    if split is not None:
        used, left_out = split[split["fold"] >= 0], split[split["fold"] < 0]
    counts = recorded.get("counts") or {}
    classes = {}
    for label in sweep.classes:
        train, val = ((counts.get(part) or {}).get(label) or {} for part in ("train", "val"))
        classes[label] = ClassCounts(
            images=None if used is None else int((used["label"] == label).sum()),
            train=train.get("films"),
            val=val.get("films"),
            train_augmented=train.get("inputs"),
            test=int((first.rows("test")["label"] == label).sum()),
            unseen=_unseen_count(first, label),
            left_out=None if left_out is None else int((left_out["label"] == label).sum()),
        )
    return DataFacts(
        name=name,
        synthetic=name == "phantom",
        manifest_sha256=recorded.get("manifest_sha256"),
        split_sha256=recorded.get("split_sha256"),
        group=recorded.get("group") or split_settings.get("group"),
        validation=recorded.get("validation") or split_settings.get("validation"),
        view=settings.get("view"),
        refused=recorded.get("refused"),
        images=None if used is None else len(used),
        left_out=None if left_out is None else len(left_out),
        patients=None if used is None else int(used["patient_id"].nunique()),
        unknown_patients=None if used is None else int(used["patient_id"].isna().sum()),
        per_fold=None if used is None else _per_fold(used[used["fold"] == first.fold], sweep.classes),
        classes=classes,
    )


def _per_fold(fold: pd.DataFrame, classes: ClassList) -> int | None:
    """Images of each class in a fold; None if the classes differ."""
    counts = {int((fold["label"] == label).sum()) for label in classes}
    return counts.pop() if len(counts) == 1 else None


def _unseen_count(run: Run, label: str) -> int | None:
    """Images of a class in the unseen fold, from split.csv while it is locked."""
    rows = run.rows("unseen")
    if not len(rows):
        rows = run.split[run.split["fold"] == UNSEEN_FOLD] if run.split is not None else rows
    return int((rows["label"] == label).sum()) if len(rows) else None


def _model(run: Run) -> Settings:
    model: Settings = dict(run.settings.get("model") or {})
    model["weights_sha256"] = run.environment.get("weights_sha256")
    model.setdefault("name", None)
    model.setdefault("weights", None)
    return model


def notes_of(sweep: Sweep, rule: str = "inner") -> list[str]:
    """Caveats of the settings of a sweep, and what its files say of the data.

    Args:
        sweep: the sweep.
        rule: by which a model is selected.
    """
    return _notes(sweep.runs, _data(sweep), rule)


def _notes(runs: Sequence[Run], data: DataFacts, rule: str) -> list[str]:
    model = runs[0].settings.get("model") or {}
    notes: list[str] = [
        *caveats_of(
            synthetic=data.synthetic is True,
            weights=model.get("weights"),
            weights_from=model.get("weights_from"),
            freeze=model.get("freeze"),
            validation=data.validation,
            group=data.group,
            balanced=not data.unbalanced,
            selection=rule,
            fast_dev_run=any((run.settings.get("trainer") or {}).get("fast_dev_run") for run in runs),
        )
    ]
    if data.refused:
        notes.append(f"{counted(data.refused, 'file was', 'files were')} refused; see refused.csv in the run folders.")
    if data.view not in (None, "frontal"):
        notes.append(
            f"data.view={data.view}: images with another known view were left out; images of unknown view were kept."
        )
    return notes


def _shared_notes(images: pd.DataFrame) -> list[str]:
    """Images and patients in several folds, whatever the settings, and the number of unknown patients."""
    notes = []
    for column, unit in (("image_id", "image"), ("patient_id", "patient")):
        folds = images.groupby(column)["fold"].nunique()
        if several := int((folds > 1).sum()):
            total = count(len(folds), f"known {unit}" if unit == "patient" else unit)
            notes.append(
                f"{several} of {total} {'is' if several == 1 else 'are'} in more than one fold, so in both training "
                "and test; the numbers are optimistic."
            )
    if unknown := int(images["patient_id"].isna().sum()):
        notes.append(
            f"The patient of {unknown} of {count(len(images), 'image')} is unknown; each of these images counts as its "
            "own patient. If some belong to the same patient, the folds leak and the intervals are too narrow."
        )
    return notes


def training_curve(run: Run) -> TrainingCurve | None:
    """The losses that a run logged, by epoch.

    Args:
        run: of a sweep.

    Returns:
        None without ``curves/metrics.csv``, or if it cannot be read.
    """
    file = run.folder / "curves/metrics.csv"
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError):
        return None
    if "epoch" not in table or "train/loss" not in table:
        return None
    # Training and validation are logged in separate rows; the last value of an epoch counts.
    columns = {"train_loss": "train/loss", "val_loss": "val/loss"}
    losses = {
        key: table.dropna(subset=[c]).groupby("epoch")[c].last() if c in table else pd.Series(dtype=float)
        for key, c in columns.items()
    }
    epochs = [int(epoch) for epoch in losses["train_loss"].index]
    if not epochs:
        return None
    val = [_finite(losses["val_loss"].get(epoch)) for epoch in epochs]
    monitor = str(run.settings.get("monitor") or "val/loss")
    return TrainingCurve(
        fold=run.fold,
        epoch=epochs,
        train_loss=[_finite(losses["train_loss"][epoch]) for epoch in epochs],
        val_loss=val,
        best=_best_epoch(table, monitor),
        **{name: value for name, value in (run.metrics.get("convergence") or {}).items() if name != "tolerance"},
    )


def _best_epoch(table: pd.DataFrame, monitor: str) -> int | None:
    """The epoch whose weights were kept: the first with the best monitored value; None if that was not logged."""
    if monitor not in table:
        return None
    values = table.dropna(subset=[monitor]).groupby("epoch")[monitor].last()
    values = values[np.isfinite(values)]
    if values.empty:
        return None
    try:
        lower = direction(monitor, classes=None) == "min"
    except SettingError:
        # Runs of older versions may have monitored any metric.
        return None
    return int(values.idxmin() if lower else values.idxmax())


def _finite(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
