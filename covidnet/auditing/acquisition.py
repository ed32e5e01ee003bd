"""Source and acquisition: how well what is known of an image besides its pixels predicts its class."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy import stats
from threadpoolctl import threadpool_limits

from covidnet.auditing.closed_form import cross_validated, ridge_classes
from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.identity import age_in_years
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.names import counted
from covidnet.data.reading.images import open_image
from covidnet.data.reading.thumbnails import SIDE
from covidnet.evaluation.bootstrap import percentile_interval, resampled_sums
from covidnet.evaluation.comparison import holm
from covidnet.evaluation.intervals import proportion_interval
from covidnet.evaluation.results import Interval
from covidnet.sweep.summary import pooled_predictions

NAME = "acquisition"

DEVICES = ("device", "manufacturer", "manufacturermodelname", "scanner", "machine", "detector", "modality")
SEXES, AGES = ("sex", "gender", "patientsex"), ("age", "patientage")

_PIXELS = ("bytes per pixel", "mean grey", "contrast")
# An association or a gain below these says little, however sure it is.
_WEAK, _STRONG, _GAIN = 0.3, 0.9, 0.15
_FOREST, _FOLDS, _LARGE = 100, 5, 20_000
_RARE = 5

# Images whose contrast is measured at a time.
_IMAGES = 128
# The mean of the table of quality 50.
_MEAN_OF_50 = 57.625
# Images of a class in a source, and the loss in balanced accuracy, from which leaving the source out says something.
_IN_SOURCE, _LOSS = 10, 0.1

_MEANING = "A network can score well by recognising where and how an image was made, without looking at the lung."
_REMEDY = (
    "Compare within one source, balance it over the classes, or validate on a set that mixes it (covidnet evaluate)."
)


def acquisition(study: Study) -> Answer:
    """Predict the class from metadata: each column by Cramér's V, all together by a forest.

    A column is compared over patients, because images of one patient share it. Numbers are compared in quarters;
    unknown is a value of its own, since it may give the class away. Size of the file, mean and contrast also depend on
    the disease, so that they are for information only and not among the columns of the forest.

    Raises:
        NotPossibleError: the images cannot be read, are of one class, or nothing is known of them.
    """
    images = study.images
    labels = images["label"].to_numpy(str)
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise NotPossibleError("all images are of one class")
    facts = facts_of(study)
    if facts.isna().to_numpy().all():
        raise NotPossibleError("sizes, views and sources of the images are not in these files")
    constant = [str(name) for name in facts if len(facts[name].value_counts(dropna=False)) < 2]
    facts = facts.drop(columns=constant)
    findings = _separation(study, labels)
    separated = bool(findings)
    rows = []
    units = pd.DataFrame({"patient": study.patients, "label": labels})
    for name in facts:
        rows.append((str(name), *_association(facts[name], units, study)))
    table = pd.DataFrame(rows, columns=["column", "values", "cramers_v", "low", "high", "p"])
    table["p_holm"] = holm(table["p"].tolist())
    table = table.sort_values("cramers_v", ascending=False, ignore_index=True)
    sure = table[(table["cramers_v"] >= _WEAK) & (table["p_holm"] < 0.001)]
    sure = sure[(sure["column"] != "source") | (not separated)]
    of_pixels = sure["column"].isin(_PIXELS)
    findings += _associated(sure[~of_pixels], _MEANING)
    findings += _associated(sure[of_pixels], "It may be the disease itself, or the machine.")
    notes = []
    recorded = facts.drop(columns=[name for name in _PIXELS if name in facts])
    try:
        found, note = _forest(study, recorded, labels, classes)
        findings += found
        notes.append(note)
    except NotPossibleError as error:
        notes.append(f"Not possible: predicting the class from all columns together; {error}.")
    tables = {"acquisition": table}
    try:
        found, tables["leave_one_source_out"], note = _left_out(study)
        findings += found
        notes.append(note)
    except NotPossibleError as error:
        notes.append(f"Not possible: leaving one source out; {error}.")
    if constant:
        notes.append(f"The same for all images, or unknown: {', '.join(constant)}.")
    absent = [
        name for name, names in (("sex", SEXES), ("age", AGES), ("device", DEVICES)) if study.column(*names) is None
    ]
    if absent:
        notes.append(f"Not possible: {', '.join(absent)}; the table of the images has no such column.")
    return Answer(findings, tables, notes)


def facts_of(study: Study) -> pd.DataFrame:
    """What is known about each image besides its pixels, and three numbers of its pixels.

    Args:
        study: with images.

    Returns:
        A row for each image; text and numbers, unknown is NaN.
    """
    images = study.images
    facts: dict[str, pd.Series] = {name: images[name] for name in ("source", "view")}
    for name, names in (("sex", SEXES), ("device", DEVICES)):
        if (column := study.column(*names)) is not None:
            facts[name] = column
    if (age := study.column(*AGES)) is not None:
        facts["age"] = age.map(age_in_years)
    facts["bit depth and colour"] = images["mode"]
    width, height = images["width"].astype(float), images["height"].astype(float)
    facts |= {"width": width, "height": height, "aspect ratio": width / height}
    facts["JPEG quality"] = pd.Series([jpeg_quality(study.data.root / path) for path in images["path"]], images.index)
    facts["bytes per pixel"] = images["bytes"].astype(float) / (width * height)
    small = study.data.thumbnails
    grey = small.pixels.reshape(len(small.pixels), SIDE * SIDE)
    # In parts, because the standard deviation needs 33 kB an image.
    parts = [grey[start : start + _IMAGES] for start in range(0, len(grey), _IMAGES)]
    contrast = np.concatenate([np.zeros(0), *(part.std(1) for part in parts)])
    for name, values in (("mean grey", grey.mean(1)), ("contrast", contrast)):
        facts[name] = images["image_id"].map(dict(zip(small.image_id, values.tolist(), strict=True)))
    return pd.DataFrame(facts)


def jpeg_quality(file: Path) -> float:
    """The quality that a JPEG was saved with, from its first quantisation table; its pixels are not decoded.

    Args:
        file: any file.

    Returns:
        1..100 on the scale of libjpeg; NaN for what is no JPEG or cannot be opened.

    Source: section K.1 of ITU-T T.81 has the table for 50, and libjpeg's jpeg_quality_scaling the scale.
    """
    try:
        with open_image(file, math.inf) as stream:
            if stream.read(2) != b"\xff\xd8":
                return math.nan
            stream.seek(0)
            with Image.open(stream, formats=["JPEG"]) as image:
                tables = getattr(image, "quantization", {})
    except (OSError, ValueError, SyntaxError):
        return math.nan
    scale = 100 * float(np.mean(tables[min(tables)])) / _MEAN_OF_50 if tables else math.nan
    return float(np.clip(np.rint((200 - scale) / 2 if scale <= 100 else 5000 / scale), 1, 100)) if tables else scale


def cramers_v(counts: npt.ArrayLike, times: int = 1) -> npt.NDArray[np.float64]:
    """Cramér's V of contingency tables, corrected for bias.

    Args:
        counts: (..., R, C) counts.
        times: how often the bias is removed; 2 for a resample, which adds the same bias again.

    Returns:
        (...) 0..1; 0 where a table has a single row or column.

    Source: Bergsma 2013, A bias-correction for Cramér's V and Tschuprow's T, https://doi.org/10.1016/j.jkss.2012.10.002

    Example:
        >>> cramers_v([[[20, 0], [0, 20]], [[10, 10], [10, 10]]]).round(6).tolist()
        [1.0, 0.0]
    """
    table = np.asarray(counts, np.float64)
    n = table.sum((-2, -1))
    expected = table.sum(-1, keepdims=True) * table.sum(-2, keepdims=True) / n[..., None, None]
    excess = np.divide((table - expected) ** 2, expected, out=np.zeros_like(table), where=expected > 0)
    r, c = table.shape[-2:]
    phi = np.maximum(0.0, excess.sum((-2, -1)) / n - times * (r - 1) * (c - 1) / (n - 1))
    most = np.minimum(*(k - (k - 1) ** 2 / (n - 1) for k in (r, c))) - 1
    return np.minimum(1.0, np.sqrt(np.divide(phi, most, out=np.zeros_like(phi), where=most > 0)))


def _association(fact: pd.Series, units: pd.DataFrame, study: Study) -> tuple[int, float, float, float, float]:
    """Number of values, Cramér's V with its interval, and the p value of no association; over patients."""
    keys = [units["patient"].to_numpy(), units["label"].to_numpy()]
    if pd.api.types.is_numeric_dtype(fact):
        values = fact.groupby(keys).median()
        if values.nunique() > 4:
            values = pd.qcut(values, 4, duplicates="drop").astype(object)
    else:
        values = fact.groupby(keys).first()
    words = values.astype(object).where(values.notna(), "unknown").astype(str)
    rare = words.map(words.value_counts()) < _RARE
    words = words.mask(rare, "rare")
    counts = pd.crosstab(words.to_numpy(), words.index.get_level_values(1)).to_numpy()
    if len(counts) < 2:
        return len(counts), 0.0, np.nan, np.nan, 1.0
    n = int(counts.sum())
    drawn = np.random.default_rng(study.seed).multinomial(n, counts.ravel() / n, study.resamples)
    interval = percentile_interval(cramers_v(drawn.reshape(-1, *counts.shape), 2), n) or (np.nan, np.nan)
    p = float(stats.chi2_contingency(counts, correction=False).pvalue)
    return len(counts), float(cramers_v(counts)), *interval, p


def _associated(rows: pd.DataFrame, meaning: str) -> list[Finding]:
    """A finding for columns that are associated with the class, the strongest first."""
    if not len(rows):
        return []
    first = rows.iloc[0]
    named = ", ".join(f"{row.column} ({row.cramers_v:.2f})" for row in rows.itertuples())
    level: Level = "blocks" if first["cramers_v"] >= _STRONG else "weakens"
    level = level if meaning == _MEANING else "information"
    interval = None if np.isnan(first["low"]) else (float(first["low"]), float(first["high"]))
    what = f"The class is associated with {named}; Cram\u00e9r's V (0: not at all, 1: fully) of {first['column']}."
    return [Finding(NAME, level, what, float(first["cramers_v"]), interval, (), meaning, _REMEDY, "")]


def _separation(study: Study, labels: npt.NDArray[np.str_]) -> list[Finding]:
    """Sources that hold one class only."""
    source = study.images["source"]
    known = source.notna().to_numpy(bool)
    if source.nunique() < 2:
        return []
    classes = pd.Series(labels, source.index).groupby(source).nunique()
    single = known & source.map(classes).eq(1).to_numpy(bool)
    if single.sum() <= 0.5 * known.sum():
        return []
    number, interval = study.share(single)
    whole = bool((single == known).all())
    what = (
        f"{int(single.sum()):,} of {int(known.sum()):,} images of known source come from a source with one class only."
    )
    if whole:
        what = (
            f"Source and class cannot be separated in these data: each of {len(classes):,} sources has one class only."
        )
    level: Level = "blocks" if whole else "weakens"
    return [Finding(NAME, level, what, number, interval, (), _MEANING, _REMEDY)]


def _forest(
    study: Study, facts: pd.DataFrame, labels: npt.NDArray[np.str_], classes: list[str]
) -> tuple[list[Finding], str]:
    """The balanced accuracy of a forest on all columns, on patients that it was not fitted to."""
    from sklearn.ensemble import RandomForestClassifier

    if facts.empty or not len(facts.columns):
        raise NotPossibleError("no column differs between images")
    columns = [
        facts[name] if pd.api.types.is_numeric_dtype(facts[name]) else pd.Series(pd.factorize(facts[name])[0])
        for name in facts
    ]
    inputs = np.stack([np.asarray(column, np.float64) for column in columns], 1)
    forest = RandomForestClassifier(
        _FOREST,
        min_samples_leaf=3,
        max_features=None,
        class_weight="balanced",
        max_samples=min(_LARGE, len(labels) // 2),
        random_state=study.seed,
    )
    hits = predicted(forest, inputs, labels, study.patients, study.seed) == labels
    value, interval = balanced_accuracy(hits, labels, study.patients, study.resamples, study.seed)
    chance, model = 1 / len(classes), model_accuracy(study)
    note = f"From {', '.join(map(str, facts))} alone a forest reaches a balanced accuracy of {value:.1%}"
    note += f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]; guessing reaches {chance:.1%}"
    note += f", the model {model:.1%}." if model is not None else "."
    level = graded(value, interval, chance, model)
    if level is None:
        return [], note
    others = f"guessing: {chance:.1%}" + (f"; the model: {model:.1%}" if model is not None else "")
    what = f"Metadata alone predict the class; balanced accuracy ({others})."
    return [Finding(NAME, level, what, value, interval, (), _MEANING, _REMEDY)], note


def _left_out(study: Study) -> tuple[list[Finding], pd.DataFrame, str]:
    """Ridge regression on each source, fitted to all patients but the tested ones, and to other sources alone."""
    if not study.data.thumbnails.image_id:
        raise NotPossibleError("the images are not in these files")
    inputs = study.inputs
    labels = study.images["label"].to_numpy(str)[inputs.rows]
    given = study.images["source"].to_numpy(object)[inputs.rows]
    known, source = pd.notna(given), given.astype(str)
    patients = study.patients[inputs.rows]
    names, codes = np.unique(labels, return_inverse=True)
    counts = pd.crosstab(source[known], labels[known])
    elsewhere = (counts.sum() - counts) >= _IN_SOURCE
    # A source says something if it has two classes, and if other sources have all of its classes.
    two = (counts >= _IN_SOURCE).sum(axis=1) >= 2
    held = [str(name) for name in counts.index[two & (elsewhere | (counts == 0)).all(axis=1)]]
    if not held:
        cause = f"no source has {_IN_SOURCE} images of each of two classes, and its classes in other sources too"
        raise NotPossibleError(f"{cause}: source and class hardly overlap")
    inside = cross_validated(inputs.features, codes[:, None], patients, len(names), study.seed)[:, 0] == codes
    outside = np.zeros(len(codes), bool)
    rows = []
    with threadpool_limits(1, "blas"):
        for name in held:
            mine = known & (source == name)
            fit = known & ~mine & ~np.isin(patients, patients[mine])
            told = ridge_classes(inputs.features[fit], codes[fit, None], inputs.features[mine], len(names))[:, 0]
            outside[mine] = told == codes[mine]
            rows.append((name, int(mine.sum()), inside[mine].mean(), outside[mine].mean()))
    table = pd.DataFrame(rows, columns=["source", "images", "accuracy_with_it", "accuracy_without_it"])
    tested = known & np.isin(source, held)
    loss = inside[tested].astype(float) - outside[tested]
    value, interval = _mean_of_classes(loss, labels[tested], patients[tested], study.resamples, study.seed)
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    note = f"Leaving one source out (ridge regression on {inputs.name}; {counted(len(held), 'source')}): without a "
    note += f"source's images the balanced accuracy on it falls by {100 * value:.1f} points{ends}."
    if interval is None or interval[0] <= 0 or value < _LOSS:
        return [], table, note
    what = "Ridge regression is worse on a source that it was not fitted to; loss of balanced accuracy."
    worst = table["source"].iloc[int((table["accuracy_with_it"] - table["accuracy_without_it"]).argmax())]
    meaning = f"Numbers from these data do not hold for other hospitals; the loss is largest for {worst}."
    ends_of = 100 * interval[0], 100 * interval[1]
    return [Finding(NAME, "weakens", what, 100 * value, ends_of, (), meaning, _REMEDY, "points")], table, note


def graded(value: float, interval: Interval, chance: float, model: float | None) -> Level | None:
    """What it means that the class is predicted from something that is not the lung.

    Args:
        value: balanced accuracy.
        interval: its 95% interval.
        chance: that of guessing.
        model: that of the sweep's models; None without a sweep.

    Returns:
        None unless it is 15 points above guessing, and by as much as its interval is wide, since many parts are tried
        on few patients; ``blocks`` where it is as good as the model.
    """
    if value - chance < max(_GAIN, interval[1] - interval[0]):
        return None
    return "blocks" if value >= _STRONG or (model is not None and value >= model - 0.02) else "weakens"


def predicted(
    model: Any, inputs: npt.NDArray[Any], labels: npt.NDArray[np.str_], patients: npt.NDArray[np.intp], seed: int
) -> npt.NDArray[np.str_]:
    """The classes that a model of scikit-learn predicts for patients that it was not fitted to.

    Args:
        model: a classifier; fitted five times.
        inputs: (n, features).
        labels: (n,) the classes.
        patients: (n,) the patient of each image.
        seed: of the folds.

    Raises:
        NotPossibleError: a class has fewer than five patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fewest = min(len(set(patients[labels == label])) for label in set(labels))
    if fewest < _FOLDS:
        raise NotPossibleError(f"a class has {counted(fewest, 'patient')}, at least {_FOLDS} are needed")
    found = np.empty_like(labels)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for fit, test in folds.split(inputs, labels, patients):
        found[test] = model.fit(inputs[fit], labels[fit]).predict(inputs[test])
    return found


def balanced_accuracy(
    hits: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.str_],
    patients: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> tuple[float, Interval]:
    """The mean of the classes' accuracies, with its interval: the percentiles of a bootstrap over patients.

    Args:
        hits: (n,) whether each prediction is right.
        labels: (n,) the classes.
        patients: (n,) 0..patients-1.
        resamples: B.
        seed: of the bootstrap.
    """
    value, interval = _mean_of_classes(hits, labels, patients, resamples, seed)
    if interval is None:
        # As where every prediction is right: the mean of the classes' intervals is no narrower.
        ends = [proportion_interval(hits[labels == one], patients[labels == one]) for one in np.unique(labels)]
        low, high = np.mean([one for one in ends if one is not None], axis=0)
        interval = float(low), float(high)
    return value, interval


def _mean_of_classes(
    values: npt.NDArray[Any], labels: npt.NDArray[np.str_], patients: npt.NDArray[np.intp], resamples: int, seed: int
) -> tuple[float, Interval | None]:
    """The mean over classes of the mean value, with the percentiles of a bootstrap over patients."""
    at = np.unique(labels, return_inverse=True)[1]
    of = np.unique(patients, return_inverse=True)[1]
    means, drawn = class_means(np.asarray(values, np.float64)[:, None], at, of, resamples, seed)
    return float(means[0]), percentile_interval(drawn[:, 0], int(of.max()) + 1)


def class_means(
    values: npt.NDArray[np.float64],
    labels: npt.NDArray[np.intp],
    patients: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The mean over classes of the columns' means, and the same in resamples of the patients.

    Args:
        values: (n, k).
        labels: (n,) 0..classes-1.
        patients: (n,) 0..patients-1.
        resamples: B.
        seed: of the bootstrap.

    Returns:
        (k,) and (B, k); NaN where a resample lacks a class.
    """
    n, k = values.shape
    classes = int(labels.max()) + 1
    both = np.zeros((n, classes, k + 1))
    both[np.arange(n), labels] = np.column_stack([values, np.ones(n)])
    drawn = resampled_sums(patients, both.reshape(n, -1), resamples, seed).reshape(resamples, classes, k + 1)
    total = both.sum(0)
    with np.errstate(invalid="ignore"):
        return (total[:, :k] / total[:, k:]).mean(0), (drawn[..., :k] / drawn[..., k:]).mean(1)


def model_accuracy(study: Study) -> float | None:
    """The balanced accuracy of the sweep's models on their test folds; None without a sweep."""
    try:
        table = pooled_predictions(study.sweep.runs)
    except NotPossibleError:
        return None
    right = (table["label"] == table["prediction"]).groupby(table["label"]).mean()
    return float(right.mean())
