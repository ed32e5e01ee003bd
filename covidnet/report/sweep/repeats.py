"""Repeats of a cross-validation: other splits (``split.seed``) and other seeds of training (``seed``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from covidnet.evaluation.repeats import Spread, spread
from covidnet.evaluation.results import Estimate
from covidnet.report.plots.drawing import WIDTH, new_figure
from covidnet.report.plots.repeats import repeats_axes
from covidnet.report.rendering.document import Bullets, Cell, Column, Document, Figure, Notice, Section, Table
from covidnet.report.summary import SweepSummary
from covidnet.report.sweep.content import numbered
from covidnet.report.sweep.grid import headline_metrics
from covidnet.report.values import Value, rate
from covidnet.report.words import count

if TYPE_CHECKING:
    import pandas as pd

SPLIT, SEED = "split.seed=", "seed="

# A 95% interval is so many standard errors wide.
_WIDTH = 2 * NormalDist().inv_cdf(0.975)


def repeat_of(group: str) -> tuple[str, str, str]:
    """Method, split and seed in the name of a group of runs.

    Args:
        group: such as ``model=cnn,split.seed=0,seed=1``.

    Example:
        >>> repeat_of("model=cnn,split.seed=0,seed=1"), repeat_of("seed=1")
        (('model=cnn', '0', '1'), ('all runs', '', '1'))
    """
    parts = group.split(",")
    split, seed = (next((p.removeprefix(of) for p in parts if p.startswith(of)), "") for of in (SPLIT, SEED))
    return ",".join(p for p in parts if not p.startswith((SPLIT, SEED))) or "all runs", split, seed


def repeats_note(group: str, groups: Sequence[str]) -> str | None:
    """What the report of one repeat has to say: that it is one of several, of which none may be picked.

    Args:
        group: the reported one.
        groups: all groups of the sweep.

    Returns:
        A sentence; None if nothing was repeated.
    """
    same = [one for one in groups if repeat_of(one)[0] == repeat_of(group)[0]]
    if len(same) < 2 or group not in same:
        return None
    return (
        f"This is one of {len(same)} repeats of one study with other splits or seeds. Report their mean and spread "
        "(repeats.html); the best of them, chosen by its result, is too good."
    )


def repeated(summaries: Mapping[str, SweepSummary]) -> dict[str, dict[str, dict[str, list[Estimate]]]]:
    """The estimates of the repeats, by method, metric and split; methods that were not repeated are left out.

    Args:
        summaries: by group of runs.
    """
    methods: dict[str, list[tuple[str, SweepSummary]]] = {}
    for group, summary in summaries.items():
        method, split, _ = repeat_of(group)
        methods.setdefault(method, []).append((split, summary))
    found: dict[str, dict[str, dict[str, list[Estimate]]]] = {}
    for method, repeats in methods.items():
        if len(repeats) < 2:
            continue
        for split, summary in repeats:
            for metric, estimate in headline_metrics(summary.pooled, summary.classes.positive).items():
                if estimate.value is not None:
                    of_metric = found.setdefault(method, {}).setdefault(metric, {})
                    of_metric.setdefault(split or "the same", []).append(estimate)
    return found


def spread_of(by_split: Mapping[str, Sequence[Estimate]]) -> Spread:
    """The spread of one metric.

    Args:
        by_split: its estimates.
    """
    values = {split: [float(one.value) for one in found if one.value is not None] for split, found in by_split.items()}
    intervals = [one.ci for found in by_split.values() for one in found if one.ci is not None]
    return spread(values, [(high - low) / _WIDTH for low, high in intervals])


def repeats_table(summaries: Mapping[str, SweepSummary]) -> pd.DataFrame:
    """The spread of every method and metric that was repeated.

    Args:
        summaries: by group of runs.

    Returns:
        Columns ``method``, ``metric``, ``repeats``, ``splits``, ``mean``, ``low``, ``high``, ``sd_split``, ``sd_seed``
        and ``sd_images`` (fractions of 1, NaN where one of them cannot be told).
    """
    import pandas as pd

    rows = []
    for method, metrics in repeated(summaries).items():
        for metric, by_split in metrics.items():
            found = spread_of(by_split)
            names = ("repeats", "splits", "mean", "low", "high")
            sds = {f"sd_{part}": getattr(found, part) for part in ("split", "seed", "images")}
            rows.append({"method": method, "metric": metric, **{n: getattr(found, n) for n in names}, **sds})
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name.startswith("sd_")})


def repeats_document(summaries: Mapping[str, SweepSummary]) -> Document | None:
    """The report of the repeats; None if nothing was repeated.

    Args:
        summaries: by group of runs.
    """
    methods = repeated(summaries)
    if not methods:
        return None
    columns = [Column("Metric"), Column("Mean"), Column("Worst"), Column("Best")]
    columns += [Column(name, "Standard deviation, points") for name in ("split", "seed", "images")]
    notice = Notice(
        "Report the mean, never the best repeat",
        ["Repeats differ only by splits and seeds. The best of them, chosen by its result, is too good; the report of "
         "each says so."],
    )  # fmt: skip
    sections = [Section("", "repeats", [notice])]
    for method, metrics in methods.items():
        rows: list[list[Cell]] = []
        for metric, by_split in metrics.items():
            found = spread_of(by_split)
            sds = [Value(sd, None, 100.0, 2) for sd in (found.split, found.seed, found.images)]
            rows.append([metric, *map(rate, (found.mean, found.low, found.high)), *sds])
        accuracy = metrics["accuracy"]
        found = spread_of(accuracy)
        what = f"{count(found.repeats, 'repeat')} on {count(found.splits, 'split')}"
        figure = new_figure(WIDTH, 2.4)
        values = {split: [float(e.value) for e in of if e.value is not None] for split, of in accuracy.items()}
        repeats_axes(values, found, figure.add_subplot(), "Accuracy, pooled test folds")
        notes = [
            "Seed: what initialises the head and orders the images, within a split. Split: the draw of the folds, "
            "without the part that seeds explain; with one seed in each split it includes the seed.",
            "Images: the draw of patients, from the width of the 95% intervals. All repeats share it, and more repeats "
            "do not lower it.",
        ]
        table = Table(f"Pooled test folds of {what}, in percent.", columns, rows, notes=notes)
        caption = "A dot is a repeat. The line is the mean, the band one standard error of the images around it."
        alt = f"Accuracy of {what}."
        title = "Repeats" if method == "all runs" else method
        sections.append(Section(title, f"method-{len(sections)}", [table, Figure(caption, alt, figure)]))
    limits = Bullets([
        "Repeats use the same images, so that they tell how stable the study is, not how well it holds elsewhere.",
        "Two or three repeats give a rough standard deviation only.",
    ])  # fmt: skip
    sections.append(Section("Limits", "limits", [limits]))
    return Document("Repeated cross-validation", "Other splits and seeds of one study.", numbered(sections))
