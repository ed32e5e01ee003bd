"""Labels: images in two classes, and likely label errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.auditing.finding import Answer, Finding
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.base.names import counted
from covidnet.data.recognition.overlap import named_copies
from covidnet.evaluation.bootstrap import cluster_codes
from covidnet.evaluation.intervals import proportion_interval
from covidnet.sweep.summary import pooled_predictions

NAME = "labels"


def labels(study: Study) -> Answer:
    """Find copies of one image in two classes, and labels that the models contradict with confidence.

    Raises:
        NotPossibleError: neither the images nor a sweep can be read.
    """
    findings, tables, notes = list[Finding](), dict[str, pd.DataFrame](), list[str]()
    reasons = []
    for look in (_contradictory, _likely_errors):
        try:
            found, name, table = look(study)
        except NotPossibleError as error:
            reasons.append(str(error))
            continue
        findings += found
        tables |= {name: table} if len(table) else {}
    if len(reasons) == 2:
        raise NotPossibleError("; ".join(dict.fromkeys(reasons)))
    if study.table is None:
        notes.append(f"Not possible: copies in two classes; {reasons[0]}.")
    elif reasons:
        notes.append(f"Not possible: likely label errors; {reasons[0]}.")
    return Answer(findings, tables, notes)


def _contradictory(study: Study) -> tuple[list[Finding], str, pd.DataFrame]:
    images, pairs = study.images, study.copies
    label = images["label"].to_numpy(str)
    apart = pairs[label[pairs["image"]] != label[pairs["other"]]].sort_values("similarity", ascending=False)
    table = named_copies(apart, images)
    if not len(apart):
        return [], "contradictory_labels", table
    rows = apart[["image", "other"]].to_numpy(np.intp).ravel()
    number, interval = study.share(np.isin(np.arange(len(images)), rows))
    concerned = counted(len(set(rows.tolist())), "image")
    what = f"{counted(len(apart), 'pair')} of copies in two classes; {concerned} concerned."
    meaning = (
        "At least one of the two labels is wrong: a model that is right on one is counted wrong on the other, so that "
        f"accuracy cannot reach more than about {1 - len(apart) / len(images):.2%}."
    )
    remedy = "Look at each pair, and keep the image whose label is right."
    finding = Finding(NAME, "weakens", what, number, interval, study.paths(rows), meaning, remedy)
    return [finding], "contradictory_labels", table


def _likely_errors(study: Study) -> tuple[list[Finding], str, pd.DataFrame]:
    """Confident learning on the out-of-fold probabilities of the sweep.

    Source: Northcutt, Jiang and Chuang 2021, Confident learning, https://doi.org/10.1613/jair.1.12125
    """
    table, classes = pooled_predictions(study.sweep.runs), study.sweep.classes
    chosen = likely_errors(
        np.array([classes.index(label) for label in table["label"]]), table[list(classes.columns)].to_numpy(np.float64)
    )
    columns = ["path", "label", "prediction", *classes.columns]
    found = table.iloc[chosen][columns].reset_index(drop=True)
    if not len(chosen):
        return [], "label_errors", found
    hits = np.isin(np.arange(len(table)), chosen)
    right = (table["label"] == table["prediction"]).to_numpy(bool)
    what = f"{len(chosen):,} of {len(table):,} labels are contradicted by the models with confidence."
    meaning = (
        "These are label errors, or images that the models get wrong with confidence; only looking at them can tell. "
        f"Accuracy is {right.mean():.1%} with them and {right[~hits].mean():.1%} without."
    )
    remedy = (
        "Have a reader look at them without the labels; correct labels, never drop images because a model is wrong."
    )
    interval = proportion_interval(hits, cluster_codes(table))
    paths = tuple(found["path"])
    return (
        [Finding(NAME, "information", what, float(hits.mean()), interval, paths, meaning, remedy)],
        "label_errors",
        found,
    )


def likely_errors(given: npt.NDArray[np.intp], probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The images whose label is likely wrong, the likeliest first.

    Args:
        given: (n,) the label of each image, 0..classes-1.
        probabilities: (n, classes), of models that were not fitted to the image.

    Returns:
        Indices of images.

    Raises:
        NotPossibleError: cleanlab is not installed, or a class has no image.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        raise NotPossibleError('cleanlab is not installed; pip install "covidnet[audit]"') from None
    if len(set(given.tolist())) < probabilities.shape[1]:
        raise NotPossibleError("a class has no test image")
    rows = probabilities / probabilities.sum(1, keepdims=True)
    found = find_label_issues(given, rows, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(found, np.intp)
