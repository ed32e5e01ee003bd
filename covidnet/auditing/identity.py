"""Patient identity: ids that may be one patient, ids that may be several, and images of unknown patients."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from covidnet.auditing.finding import Answer, Finding, Level
from covidnet.auditing.study import Study
from covidnet.base.names import counted
from covidnet.data.collection.sources import patient_from_name
from covidnet.data.reading.decoders import shared_decoders

NAME = "identity"

AGES_APART = 20.0
"""Years between two images of one patient from which they count as those of two."""

# A larger share of images without a patient weakens every interval.
_FEW_UNKNOWN = 0.05

_SEXES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "w": "F", "woman": "F"}
_FOLDS = "Folds that keep patients together keep only equal ids together: such a patient can be in training and test."


def identity(study: Study) -> Answer:
    """Compare patient ids with each other, with sex and age, with file names and with copies of images.

    Raises:
        NotPossibleError: the images cannot be read.
    """
    images = study.images
    ids = images["patient_id"]
    unknown = ids.isna().to_numpy(bool)
    findings: list[Finding | None] = [_unknown(study, unknown)] if unknown.any() else []
    notes: list[str] = []
    if unknown.all():
        return Answer([_unknown(study, unknown)], {}, ["Not possible: comparing ids; no patient is known."])
    spelled = _groups([id_key(one) if isinstance(one, str) else None for one in ids], ids)
    findings.append(_several_ids(study, spelled, "differ only in case, spaces, zeros or punctuation", "spelling"))
    named = _groups([patient_from_name(path) for path in images["path"]], ids)
    findings.append(_several_ids(study, named, "are given to files whose names say one patient", "file name"))
    pairs = study.copies
    apart = [isinstance(a, str) and isinstance(b, str) and a != b for a, b in _both(ids, pairs)]
    pairs = pairs[np.array(apart, bool)]
    same = [list(pair) for pair in pairs[["image", "other"]].to_numpy(np.intp)]
    findings.append(_several_ids(study, same, "are given to copies of one image", "copy"))
    header = _header_ids(study)
    if header.notna().any():
        own = _groups(header.where(header.notna(), None).tolist(), ids)
        findings.append(_several_ids(study, own, "are given to files with one PatientID in their headers", "header"))
        several = "files with several PatientIDs in their headers"
        findings.append(_several_patients(study, header, lambda values: len(set(values)) > 1, several, "header"))
    sex, age = study.column("sex", "gender", "patientsex"), study.column("age", "patientage")
    if sex is None:
        notes.append("Not possible: two sexes of one patient; the table has no column sex.")
    else:
        known = sex.map(lambda cell: _SEXES.get(str(cell).strip().casefold()))
        findings.append(_several_patients(study, known, lambda values: len(set(values)) > 1, "two sexes", "sex"))
    if age is None:
        notes.append("Not possible: ages of one patient; the table has no column age.")
    else:
        years = age.map(age_in_years)
        far = f"ages {AGES_APART:.0f} years or more apart"
        findings.append(
            _several_patients(study, years, lambda values: max(values) - min(values) >= AGES_APART, far, "age")
        )
    labels = images["label"]
    findings.append(_several_patients(study, labels, lambda values: len(set(values)) > 1, "images of two classes", ""))
    found = [finding for finding in findings if finding is not None]
    rows = [(n, finding.what, path) for n, finding in enumerate(found, 1) for path in finding.images]
    notes.append(f"{counted(ids.nunique(), 'patient id')} on {counted(int((~unknown).sum()), 'image')}.")
    table = pd.DataFrame(rows, columns=["finding", "what", "path"])
    table["patient_id"] = table["path"].map(dict(zip(images["path"], ids, strict=True)))
    return Answer(found, {"identity": table} if len(table) else {}, notes)


def _header_ids(study: Study) -> pd.Series:
    """The PatientID in the header of each DICOM file; NaN where there is none."""
    images = study.images
    dicom = images["mode"].astype(str).str.startswith("MONOCHROME").to_numpy(bool)
    if not dicom.any():
        return pd.Series(np.nan, images.index, dtype=object)
    decoders = shared_decoders()
    found = [
        (decoders.identifiers(study.data.root / path)[0] or np.nan) if read else np.nan
        for path, read in zip(images["path"], dicom, strict=True)
    ]
    return pd.Series(found, images.index, dtype=object)


def id_key(patient: str) -> tuple[str | int, ...]:
    """What two spellings of one id have in common: its runs of letters, and its numbers without leading zeros.

    Args:
        patient: an id.

    Example:
        >>> id_key("P01") == id_key("p1 ") == id_key("P-01"), id_key("1-12") == id_key("11-2")
        (True, False)
    """
    text = unicodedata.normalize("NFKC", patient).casefold()
    return tuple(int(run) if run.isdecimal() else run for run in re.findall(r"\d+|[^\W\d_]+", text))


def age_in_years(cell: object) -> float:
    """An age as tables and DICOM headers write it, in years; NaN if unknown.

    Example:
        >>> age_in_years("63"), age_in_years("063Y"), age_in_years("006M"), age_in_years("?")
        (63.0, 63.0, 0.5, nan)
    """
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*([YMWD]?)\s*", str(cell).upper())
    if match is None:
        return float("nan")
    return float(match[1]) / {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[match[2]]


def _unknown(study: Study, unknown: np.ndarray) -> Finding:
    known = study.images.loc[~unknown, "patient_id"].value_counts()
    level: Level = "weakens" if unknown.mean() > _FEW_UNKNOWN else "information"
    meaning = (
        "Each counts as a patient of its own: if some are of one patient, folds can leak and intervals are too narrow"
    )
    if len(known) and (size := float((known**2).sum() / known.sum())) > 1:
        meaning += (
            f". The known patients have {size:.1f} images each (weighted by images): if the others are like them, "
            f"intervals can be too narrow by a factor of up to {np.sqrt(size):.1f}"
        )
    what = f"The patient is unknown for {int(unknown.sum()):,} of {len(unknown):,} images."
    remedy = "Give patient ids in the table of the images (column patient_id)."
    return Finding(NAME, level, what, float(unknown.mean()), None, (), f"{meaning}.", remedy)


def _both(values: pd.Series, pairs: pd.DataFrame) -> list[tuple[object, object]]:
    return list(zip(values.iloc[pairs["image"].tolist()], values.iloc[pairs["other"].tolist()], strict=True))


def _groups(keys: Sequence[Hashable | None], ids: pd.Series) -> list[list[int]]:
    """The rows of each key that has several known ids."""
    rows = defaultdict[Hashable, list[int]](list)
    for n, key in enumerate(keys):
        if key and isinstance(ids.iloc[n], str):
            rows[key].append(n)
    return [found for found in rows.values() if len(set(ids.iloc[found])) > 1]


def _several_ids(study: Study, groups: Sequence[Sequence[int]], what: str, of: str) -> Finding | None:
    """Several ids that may be one patient."""
    if not groups:
        return None
    rows = list(dict.fromkeys(n for group in groups for n in group))
    names = study.images["patient_id"].iloc[rows].nunique()
    apart = [group for group in groups if len({study.folds[n] for n in group if study.folds[n] >= 0}) > 1]
    hits = np.isin(np.arange(len(study.images)), rows)
    number, interval = study.share(hits)
    some = " and ".join(dict.fromkeys(study.images["patient_id"].iloc[list(groups[0])].tolist()))
    text = f"{counted(names, 'patient id')} {what}, such as {some}; {counted(len(rows), 'image')} concerned."
    meaning = f"They may be one patient. {_FOLDS}"
    if apart:
        meaning += f" {counted(len(apart), 'such group is', 'such groups are')} in more than one fold of the sweep."
    remedy = "Give each patient one id, draw the split again and train again."
    if of == "copy":
        remedy = "Look at the pairs; give both the same patient_id or delete one. " + remedy
    return Finding(NAME, "blocks" if apart else "weakens", text, number, interval, study.paths(rows), meaning, remedy)


def _several_patients(
    study: Study, values: pd.Series, contradicts: Callable[[list[Any]], bool], what: str, of: str
) -> Finding | None:
    """One id that may be several patients; without `of` only a fact to know."""
    ids = study.images["patient_id"]
    known = values[values.notna() & ids.notna()]
    odd = [one for one, cells in known.groupby(ids[known.index]) if contradicts(cells.tolist())]
    if not odd:
        return None
    hits = ids.isin(odd).to_numpy(bool)
    number, interval = study.share(hits)
    text = f"{counted(len(odd), 'patient id has', 'patient ids have')} {what}, such as {odd[0]}."
    rows = np.flatnonzero(hits)
    rows = rows[np.argsort(ids.iloc[rows].to_numpy(str), kind="stable")]
    if not of:
        meaning = "A patient can fall ill or recover; otherwise one of the labels, or the id, is wrong."
        remedy = "Compare the labels of these patients with their records."
        return Finding(NAME, "information", text, number, interval, study.paths(rows), meaning, remedy)
    meaning = "Different patients may share an id: they then share a fold and count as one, and intervals are too wide."
    remedy = f"Compare id and {of} of these images with their source, and give each patient an id of their own."
    return Finding(NAME, "weakens", text, number, interval, study.paths(rows), meaning, remedy)
