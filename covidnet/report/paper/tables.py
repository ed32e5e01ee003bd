"""The paper's Tables 4 to 7 with our numbers and the published ones, in long form for CSV files.

Every rate is a fraction of 1. An unknown cell is NaN in the frame and empty in the file. `n` is the number of images
that a value is computed from: those of the class for sensitivity, the others for specificity, all for the rest. The
tables are for sweeps with the paper's three classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.evaluation.results import Estimate, empty
from covidnet.evaluation.scores import MACRO, SplitScores
from covidnet.report.paper.published import ACCURACY, APPROACHES, TABLE4, TABLE5, TABLE6, TABLE7
from covidnet.report.summary import ALL, SweepSummary

if TYPE_CHECKING:
    import pandas as pd


PARTS: tuple[str, ...] = ("images", "train", "train_augmented", "test", "unseen")
"""The columns of Table 4."""


_VALUES = ("published", "ours", "ci_low", "ci_high", "method", "n", "name", "source")


def augmentation(summary: SweepSummary) -> str | None:
    """Which column of Table 6 a sweep belongs to.

    Args:
        summary: of a sweep.

    Returns:
        ``with``, ``without``, or None if its settings do not say.
    """
    mode = summary.augment.get("mode")
    return None if mode is None else "without" if str(mode) == "none" else "with"


def approach(summary: SweepSummary) -> str | None:
    """Which column of Table 7 a sweep repeats; None if the paper does not have its model.

    Args:
        summary: of a sweep.
    """
    return APPROACHES.get(str(summary.model.get("name")))


def table4(summary: SweepSummary) -> pd.DataFrame:
    """Table 4: images of each class and part.

    Args:
        summary: of a sweep.

    Returns:
        Columns ``class``, ``part``, ``published``, ``ours``, ``name`` (of the sweep), ``source``; 15 rows with counts
        for one model, as in the paper; see `images`.
    """
    rows = [
        (label, part, TABLE4[label][part], images(summary, label, part), summary.name, "Table 4")
        for label in DEFAULT_CLASSES
        for part in PARTS
    ]
    return _frame(rows, ("class", "part", "published", "ours", "name", "source"), ("published", "ours"))


def images(summary: SweepSummary, label: str, part: str) -> int | None:
    """The images of one cell of Table 4.

    A summary counts the test images of all folds, the paper those of one fold. If the folds are equal in size, as
    balanced folds are, this returns the number for one fold.

    Args:
        summary: of a sweep.
        label: the class.
        part: one of `PARTS`.
    """
    classes = summary.data.classes[label]
    counts = {
        "images": classes.images,
        "train": classes.train,
        "train_augmented": classes.train_augmented,
        "test": classes.test,
        "unseen": classes.unseen,
    }
    count = counts[part]
    per_fold = summary.data.per_fold
    if part == "test" and per_fold is not None and count == per_fold * len(summary.folds):
        return per_fold
    return count


def table5(summary: SweepSummary) -> pd.DataFrame:
    """Table 5: each class against the other two on the pooled test folds, then all classes together.

    Args:
        summary: of a sweep.

    Returns:
        Columns ``class``, ``metric``, ``published``, ``ours``, ``ci_low``, ``ci_high`` (95%), ``method`` (of the
        interval), ``n``, ``name``, ``source``. The paper has no AUC; its accuracy is in section 4, its means are in
        Table 6.
    """
    pooled = summary.pooled
    rows: list[tuple[Any, ...]] = []
    for label in DEFAULT_CLASSES:
        for metric in MACRO:
            published = TABLE5[label].get(metric)
            estimate = pooled.classes[label].of(metric)
            source = "Table 5" if published is not None else None
            rows.append(
                (label, metric, published, *_parts(estimate), _images(pooled, metric, label), summary.name, source)
            )
    means = TABLE6["with"]
    for name, estimate, published, source in (
        ("accuracy", pooled.accuracy, ACCURACY, "Section 4"),
        ("sensitivity", pooled.macro.sensitivity, means["sensitivity"], "Table 6"),
        ("specificity", pooled.macro.specificity, means["specificity"], "Table 6"),
        ("f1", pooled.macro.f1, None, None),
        ("auc", pooled.macro.auc, None, None),
    ):
        rows.append((ALL, name, published, *_parts(estimate), pooled.n, summary.name, source))
    return _frame(rows, ("class", "metric", *_VALUES))


def table6(summaries: Sequence[SweepSummary]) -> pd.DataFrame:
    """Table 6: with and without augmentation, pooled over the test folds.

    Args:
        summaries: of one or several sweeps.

    Returns:
        Columns ``augmentation`` (``with``, ``without``, or ``unknown`` if a sweep's settings do not say), ``metric``
        (accuracy, and the classes' mean sensitivity and specificity) and then as in `table5`. Three rows per sweep;
        three with only the published numbers if no sweep has that kind of augmentation.
    """
    rows: list[tuple[Any, ...]] = []
    for kind in ("with", "without", None):
        sweeps = [summary for summary in summaries if augmentation(summary) == kind]
        published = TABLE6.get(kind, {}) if kind else {}
        for summary in sweeps or ([empty(SweepSummary)] if published else []):
            pooled = summary.pooled
            for metric, estimate in (
                ("accuracy", pooled.accuracy),
                ("sensitivity", pooled.macro.sensitivity),
                ("specificity", pooled.macro.specificity),
            ):
                source = "Table 6" if published else None
                values = (published.get(metric), *_parts(estimate), pooled.n, summary.name, source)
                rows.append((kind or "unknown", metric, *values))
    return _frame(rows, ("augmentation", "metric", *_VALUES))


def table7(summaries: Sequence[SweepSummary]) -> pd.DataFrame:
    """Table 7: COVID-19 against the other two classes, for each approach.

    Args:
        summaries: of one or several sweeps.

    Returns:
        Columns ``approach``, ``metric`` (accuracy, sensitivity, specificity) and then as in `table5`. First the paper's
        four approaches, each once per sweep that repeats it, or with only the published numbers; then sweeps of other
        models, under the model's name and without published numbers.
    """
    rows: list[tuple[Any, ...]] = []
    for name, published in TABLE7.items():
        sweeps = [summary for summary in summaries if approach(summary) == name]
        for summary in sweeps or [empty(SweepSummary)]:
            rows += _covid19(name, summary, published, "Table 7")
    for summary in summaries:
        if approach(summary) is None:
            rows += _covid19(summary.model.get("name") or "unknown model", summary, {}, None)
    return _frame(rows, ("approach", "metric", *_VALUES))


def _covid19(
    name: Any, summary: SweepSummary, published: Mapping[str, float | None], source: str | None
) -> list[tuple[Any, ...]]:
    pooled, label = summary.pooled, DEFAULT_CLASSES[0]
    covid = pooled.classes[label]
    return [
        (
            str(name),
            metric,
            published.get(metric),
            *_parts(estimate),
            _images(pooled, metric, label),
            summary.name,
            source,
        )
        for metric, estimate in (
            ("accuracy", covid.accuracy),
            ("sensitivity", covid.sensitivity),
            ("specificity", covid.specificity),
        )
    ]


def _parts(estimate: Estimate) -> tuple[float | None, float | None, float | None, str | None]:
    low, high = estimate.ci or (None, None)
    return estimate.value, low, high, estimate.method


def _images(pooled: SplitScores, metric: str, label: str) -> int | None:
    n, support = pooled.n, pooled.classes[label].support
    if metric == "sensitivity":
        return support
    if metric == "specificity":
        return None if n is None or support is None else n - support
    return n


def _frame(rows: Sequence[tuple[Any, ...]], columns: Sequence[str], counts: Sequence[str] = ("n",)) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns))
    for column in columns:
        if column in counts:
            # Integers with gaps: as floats they would be written as 52.0.
            frame[column] = frame[column].astype("Int64")
        elif column in ("published", "ours", "ci_low", "ci_high"):
            frame[column] = frame[column].astype("float64")
        else:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), None)
    return frame
