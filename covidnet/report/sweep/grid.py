"""Methods and seeds of a sweep over more than the folds: mean and standard deviation over the seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from covidnet.evaluation.results import Estimate, empty
from covidnet.evaluation.scores import SplitScores
from covidnet.report.summary import SweepSummary

if TYPE_CHECKING:
    import pandas as pd


def grid_table(summaries: Mapping[str, SweepSummary]) -> pd.DataFrame:
    """Metrics of the pooled test folds by method, with a column per repeat.

    Args:
        summaries: by group of runs, named after the run folders, such as ``model=cnn,seed=1``.

    Returns:
        Columns ``method``, ``metric``, ``folds`` (the smallest number of a seed), ``seed=0`` and so on (fractions of 1,
        NaN if missing), ``mean``, ``sd`` (over seeds and splits, n - 1; NaN for one) and ``n`` (repeats).
    """
    import pandas as pd

    methods: dict[str, dict[str, SweepSummary]] = {}
    for group, summary in summaries.items():
        parts = group.split(",")
        of_repeat = ("seed=", "split.seed=")
        method = ",".join(part for part in parts if not part.startswith(of_repeat)) or "all runs"
        seed = ",".join(part for part in parts if part.startswith(of_repeat)) or "seed"
        methods.setdefault(method, {})[seed] = summary
    seeds = sorted({seed for of_method in methods.values() for seed in of_method}, key=lambda seed: (len(seed), seed))
    rows: list[dict[str, Any]] = []
    for method, of_method in methods.items():
        folds = min(len(summary.folds) for summary in of_method.values())
        main = next(iter(of_method.values())).classes.positive
        numbers = {
            seed: headline_metrics(of_method[seed].pooled if seed in of_method else empty(SplitScores), main)
            for seed in seeds
        }
        for metric in headline_metrics(empty(SplitScores), main):
            values = {seed: numbers[seed][metric].value for seed in seeds}
            known = [float(value) for value in values.values() if value is not None]
            rows.append(
                {
                    "method": method,
                    "metric": metric,
                    "folds": folds,
                    **{seed: np.nan if value is None else float(value) for seed, value in values.items()},
                    "mean": float(np.mean(known)) if known else np.nan,
                    "sd": float(np.std(known, ddof=1)) if len(known) > 1 else np.nan,
                    "n": len(known),
                }
            )
    return pd.DataFrame(rows)


def headline_metrics(scores: SplitScores, main: str) -> dict[str, Estimate]:
    """The metrics of the tables of methods and of repeats.

    Args:
        scores: of the pooled test folds.
        main: the positive class.
    """
    of_main = scores.classes[main]
    return {
        "accuracy": scores.accuracy,
        "macro sensitivity": scores.macro.sensitivity,
        "macro specificity": scores.macro.specificity,
        f"{main} sensitivity": of_main.sensitivity,
        f"{main} specificity": of_main.specificity,
    }


def grid_latex(table: pd.DataFrame) -> str:
    """The table in LaTeX: percent, mean and standard deviation over n seeds.

    Args:
        table: from `grid_table`.
    """
    lines = [r"\begin{tabular}{llrrr}", r"Method & Metric & Mean (\%) & SD & n \\ \hline"]
    for row in table.to_dict("records"):
        mean, sd = ("--" if np.isnan(row[key]) else f"{100 * row[key]:.1f}" for key in ("mean", "sd"))
        name = str(row["method"]).replace("_", r"\_").replace("%", r"\%").replace("&", r"\&").replace("#", r"\#")
        lines.append(rf"{name} & {row['metric']} & {mean} & {sd} & {row['n']} \\")
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"
