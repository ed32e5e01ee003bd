"""Nested selection from the saved predictions of a sweep over ``split.unseen_fold``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from covidnet.base.classes import ClassList
from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted
from covidnet.data.folds.splits import N_FOLDS, exchanged, unseen_fold_of
from covidnet.evaluation.nested import NestedScores, OuterFold
from covidnet.evaluation.scores import scored
from covidnet.evaluation.selection import choose
from covidnet.report.sweep.nested import outer_of
from covidnet.sweep.folder import FOLDS, Run, Sweep
from covidnet.sweep.summary import candidates_of, ensemble_predictions, fold_scores, notes_of


@dataclass(frozen=True)
class NestedStudy:
    """Nested selection of one method.

    Args:
        name: the settings that the sweep varies besides, such as ``seed=1``; empty for none.
        scores: its numbers.
        predictions: of the selected models, and below them of the ensembles, on their outer folds: the columns of
            predictions.csv, with ``by`` (``selected`` or ``ensemble``) and ``outer_fold``.
        classes: of the sweep.
    """

    name: str
    scores: NestedScores
    predictions: pd.DataFrame
    classes: ClassList


def nested_study(
    name: str,
    sweeps: Mapping[str, Sweep],
    failed: Mapping[str, Exception] | None = None,
    *,
    selection: str | None = None,
    resamples: int,
    seed: int,
) -> NestedStudy:
    """Score the model that each group of ten runs selects on the fold that the group has not seen.

    An outer fold without its ten models, or of another draw or other settings than the first, is left out and named.

    Args:
        name: of the study.
        sweeps: the runs of each group, by the group's name.
        failed: groups without any run, and why.
        selection: as in `covidnet.sweep.summary.summarise`; only ``inner`` selects without the unseen fold.
        resamples: number of bootstrap resamples of patients.
        seed: of the bootstrap.

    Raises:
        SettingError: the rule selects by the unseen fold.
        DataError: no outer fold is complete.
    """
    rules = {selection} if selection else {str(s.runs[0].settings.get("selection") or "inner") for s in sweeps.values()}
    if "paper" in rules:
        raise SettingError(
            "selection", "paper", "inner for a sweep over split.unseen_fold", "paper selects by the unseen fold"
        )
    problems = [f"{group}: left out: {error}" for group, error in (failed or {}).items()]
    first: Sweep | None = None
    outer: list[OuterFold] = []
    tables: list[pd.DataFrame] = []
    ordered = sorted(sweeps.items(), key=lambda item: int(outer_of(item[0])[1] or 0))
    for group, sweep in ordered:
        number = _unseen_of(sweep.runs[0])
        problems += [f"{group}: {problem}" for problem in sweep.problems]
        if cause := _incomplete(sweep) or (None if first is None else _differs(sweep, first)):
            problems.append(f"{group}: left out: {cause}")
            continue
        first = first or sweep
        fold, rows = _outer_fold(sweep, number)
        outer.append(fold)
        tables += rows
    if first is None:
        raise DataError(f"nested selection: no outer fold is complete: {'; '.join(problems[:2])}")
    missing = [str(fold) for fold in range(N_FOLDS) if fold not in {one.fold for one in outer}]
    if missing:
        problems.append(
            f"The estimate covers {len(outer)} of {N_FOLDS} outer folds; incomplete or missing: {', '.join(missing)}."
        )
    predictions = pd.concat(tables, ignore_index=True)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "classes": first.classes}
    selected, ensemble = (scored(predictions[predictions["by"] == by], **options) for by in ("selected", "ensemble"))
    return NestedStudy(
        name, NestedScores(outer, selected, ensemble, problems, notes_of(first)), predictions, first.classes
    )


def _unseen_of(run: Run) -> int:
    return unseen_fold_of(run.settings.get("split") or {})


def _outer_fold(sweep: Sweep, number: int) -> tuple[OuterFold, list[pd.DataFrame]]:
    runs, per_fold = sweep.runs, [fold_scores(run) for run in sweep.runs]
    # The unseen columns of the candidates are not read by this rule.
    chosen = choose(candidates_of(per_fold, sweep.classes), "inner")
    at = sweep.folds.index(chosen)
    tables = {"selected": runs[at].rows("unseen"), "ensemble": ensemble_predictions(runs)}
    accuracy = {by: float((rows["prediction"] == rows["label"]).mean()) for by, rows in tables.items()}
    fold = OuterFold(
        fold=number,
        n=len(tables["selected"]),
        selected=chosen,
        accuracy=accuracy["selected"],
        ensemble=accuracy["ensemble"],
        models=[_accuracy(row.unseen) for row in per_fold],
        validation=_accuracy(per_fold[at].val),
        test=sum(_accuracy(row.test) for row in per_fold) / len(per_fold),
    )
    return fold, [rows.assign(by=by, outer_fold=number) for by, rows in tables.items()]


def _accuracy(scores: Any) -> float:
    return float(scores.accuracy)


def _incomplete(sweep: Sweep) -> str | None:
    """Why the ten models of an outer fold cannot stand for the whole procedure; None if they can."""
    if len(sweep.runs) < len(FOLDS):
        return f"{len(sweep.runs)} of {len(FOLDS)} models have finished, so selection would be among fewer"
    if not sweep.has_unseen:
        return "its models have not scored the unseen fold; unseen=open scores them"
    if not all(len(run.rows("val")) for run in sweep.runs):
        return "its models have no validation images, by which one is selected"
    return None


def _differs(sweep: Sweep, first: Sweep) -> str | None:
    """How an outer fold contradicts the first one; None if both are of one study and one draw."""
    settings = [
        {key: value for key, value in one.runs[0].compared.items() if key != "split.unseen_fold"}
        for one in (sweep, first)
    ]
    if changed := sorted(key for key in {*settings[0], *settings[1]} if settings[0].get(key) != settings[1].get(key)):
        return f"other settings than the first outer fold ({', '.join(changed[:3])})"
    if _drawn(sweep) != _drawn(first):
        return f"other folds than the first outer fold; train {counted(len(sweep.runs), 'run')} again on the same data"
    return None


def _drawn(sweep: Sweep) -> dict[str, int]:
    """The fold of each image before the exchange of numbers."""
    number, images = _unseen_of(sweep.runs[0]), sweep.images
    return {str(i): exchanged(int(f), number) for i, f in zip(images["image_id"], images["fold"], strict=True)}
