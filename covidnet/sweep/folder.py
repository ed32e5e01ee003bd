"""Reading a sweep folder: the finished run of each fold, and the problems of the others."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.classes import ClassList
from covidnet.base.errors import CovidnetError, DataError
from covidnet.base.former import current
from covidnet.base.names import counted, real_path
from covidnet.base.trust import read_yaml
from covidnet.data.folds.splits import COLUMNS, UNSEEN_FOLD
from covidnet.evaluation.predictions import read_predictions
from covidnet.fold.folder import UNSEEN
from covidnet.launch.comparable import compared
from covidnet.serving.checkpoint_path import choose_runs, group_names

log = logging.getLogger(__name__)

FOLDS = tuple(range(10))
"""The test folds of a complete sweep."""

REPORT = "report"
"""The folder of the report in a sweep folder."""

OPENINGS = "unseen.json"
"""The file in a sweep folder with the times at which its unseen fold was opened."""

_ERROR_LINE = re.compile(r"^\S+ \S+ (?:ERROR|CRITICAL) \S+: (?P<text>.*)$")


@dataclass(frozen=True)
class Run:
    """A finished run of one fold.

    Args:
        folder: the run folder.
        fold: its test fold, 0..9.
        predictions: the table of predictions.csv.
        split: the table of split.csv; None without it.
        metrics: the content of metrics.json; empty without it.
        settings: the content of config.yaml; empty without it.
        environment: the content of environment.json; empty without it.
    """

    folder: Path
    fold: int
    predictions: pd.DataFrame
    split: pd.DataFrame | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def split_sha256(self) -> str | None:
        """The hash of split.csv; None without it."""
        file = self.folder / "split.csv"
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

    @cached_property
    def classes(self) -> ClassList:
        """The classes of the run; the default ones if neither config.yaml nor metrics.json names others."""
        return _classes(self.settings, self.metrics)

    @property
    def locked(self) -> bool:
        """Whether the run did not score the unseen fold; its predictions exist only after the fold was opened."""
        return bool(self.settings.get("unseen") == "locked")

    @cached_property
    def compared(self) -> dict[str, Any]:
        """The settings, flattened, that runs of different folds must share to be reported together."""
        return compared(self.settings)

    def is_compatible_with(self, other: Run) -> bool:
        """Whether two runs have the same split and settings; missing values never count as a mismatch."""
        splits, settings = (self.split_sha256, other.split_sha256), (self.compared, other.compared)
        same_settings = not all(settings) or settings[0] == settings[1]
        return (None in splits or splits[0] == splits[1]) and same_settings and self.classes == other.classes

    def rows(self, split: str) -> pd.DataFrame:
        """The predictions of one split: val, test or unseen."""
        return self.predictions[self.predictions["split"] == split].reset_index(drop=True)


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep folder.

    Args:
        folder: the sweep folder.
        name: its display name.
        runs: one finished run per fold, in fold order; at least one.
        problems: a line for each missing or faulty fold, and for each run that is left out.
        only: the part of their names that the run folders were selected by; empty for all.
    """

    folder: Path
    name: str
    runs: list[Run]
    problems: list[str]
    only: str = ""

    @property
    def folds(self) -> list[int]:
        """The folds with a run."""
        return [run.fold for run in self.runs]

    @property
    def classes(self) -> ClassList:
        """The classes of its runs."""
        return self.runs[0].classes

    @property
    def has_unseen(self) -> bool:
        """Whether every model has predicted the unseen fold."""
        return all(len(run.rows("unseen")) for run in self.runs)

    @property
    def images(self) -> pd.DataFrame:
        """image_id, patient_id and fold of every image in a fold, from split.csv or else the predictions."""
        columns = ["image_id", "patient_id", "fold"]
        if (split := self.runs[0].split) is not None:
            return split.loc[split["fold"] >= 0, columns].reset_index(drop=True)
        unseen = [run.rows("unseen").assign(fold=UNSEEN_FOLD) for run in self.runs]
        return pd.concat([*(run.rows("test") for run in self.runs), *unseen])[columns].drop_duplicates(
            ["image_id", "fold"], ignore_index=True
        )

    @property
    def openings(self) -> list[str]:
        """The times at which a locked unseen fold was opened, in order."""
        times: set[str] = set()
        # A run may have been opened on its own, or be read on its own from a sweep that was opened.
        for folder in {self.folder, *(place for run in self.runs for place in (run.folder, run.folder.parent))}:
            try:
                times |= set(_json(folder / OPENINGS).get("openings") or ())
            except DataError as error:
                log.warning("%s: %s", folder, error)
        return sorted(times)


def read_sweep(folder: str | Path, name: str = "", only: str | None = None) -> Sweep:
    """Read the saved results of the runs of a sweep, without images and checkpoints.

    Args:
        folder: a sweep folder, or a single run folder.
        name: its display name; the folder's name if empty.
        only: read only run folders with this in their names, such as ``seed=1`` in ``fold=3,seed=1``.

    Returns:
        The runs that can be reported together, and a line for each that cannot.

    Raises:
        SettingError: `only` matches no run folder.
        DataError: the folder does not exist, or has no run that can be reported.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        cause = "is a file" if folder.is_file() else "no such folder"
        raise DataError(f"sweep_dir={folder}: {cause}; give the folder of a sweep, which holds fold=0/ and so on")
    problems: list[str] = []
    runs: list[Run] = []
    for path in _run_folders(folder, only or ""):
        if not (path / "predictions.csv").is_file():
            problems.append(f"{_label(path)}: the run did not finish: {_last_error(path)}")
            continue
        try:
            runs.append(_read_run(path))
        except CovidnetError as error:
            problems.append(f"{_label(path)}: left out: {error}")
    runs = _largest_study(_checked(runs, problems), problems)
    runs = _one_per_fold(runs, problems)
    _check_overlap(runs, problems)
    if not runs:
        more = f"; and {len(problems) - 2} more like these" if len(problems) > 2 else ""
        cause = "; ".join(problems[:2]) + more if problems else "no run folder with a predictions.csv"
        raise DataError(f"{folder}: nothing to report: {cause}")
    unscored = [str(run.fold) for run in runs if not len(run.rows("unseen"))]
    if 0 < len(unscored) < len(runs):
        problems.append(
            f"fold{'' if len(unscored) == 1 else 's'} {', '.join(unscored)}: not scored on the unseen fold, which is "
            "left out for all; unseen=open scores them"
        )
    missing = [fold for fold in FOLDS if fold not in {run.fold for run in runs}]
    if missing:
        folds = ", ".join(str(fold) for fold in missing)
        home = folder.parent if runs[0].folder == folder else folder
        # The name of a grid's job has more settings than the fold, and the report selects runs by these names.
        parts = [part for part in runs[0].folder.name.split(",") if "=" in part and not part.startswith("fold=")]
        job = [f"fold={missing[0]}", *parts]
        place = f"--config-dir '{runs[0].folder}' --config-name config"
        again = f"python -m covidnet.train {place} {job[0]} \"hydra.run.dir='{home}/{','.join(job)}'\""
        problems.append(
            f"{'fold' if len(missing) == 1 else 'folds'} {folds}: no finished run, so the numbers cover "
            f"{len(runs)} of {len(FOLDS)} folds; run {'it' if len(missing) == 1 else 'each'} with the sweep's "
            f"settings, from the folder where the sweep was started: {again}"
        )
    return Sweep(folder, name or real_path(folder).name, runs, problems, only or "")


def _run_folders(folder: Path, only: str) -> list[Path]:
    """The run folders: the folder itself, or those inside it, sorted by name."""
    if _is_run(folder):
        return choose_runs([folder], only, str(folder))
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != REPORT and _is_run(path))
    return choose_runs(inside, only, str(folder))


def groups_of(folder: Path, only: str = "") -> list[str]:
    """The groups of runs in a sweep over more than the folds: their folder names without the fold.

    Args:
        folder: a sweep folder.
        only: selects run folders; see `covidnet.serving.checkpoint_path.choose_runs`.

    Returns:
        Such as ``["seed=0", "seed=1"]``; empty if the sweep varies only the fold.

    Raises:
        SettingError: `only` matches no run folder.
    """
    if not folder.is_dir():
        return []
    return [name for name in group_names(_run_folders(folder, only)) if name]


def chosen_group(folder: Path, only: str) -> str | None:
    """The group that ``only=`` selects completely, whose report is in a folder of that name.

    Args:
        folder: a sweep folder.
        only: as in `groups_of`.

    Returns:
        Such as ``seed=1``; empty if every run folder is selected; None for a part of a group.

    Raises:
        SettingError: `only` matches no run folder.
    """
    chosen = _run_folders(folder, only)
    if chosen == _run_folders(folder, ""):
        return ""
    groups = group_names(chosen)
    whole = len(groups) == 1 and groups[0] and chosen == _run_folders(folder, groups[0])
    return groups[0] if whole else None


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("predictions.csv", "train.log", ".hydra/config.yaml"))


def _label(path: Path) -> str:
    return path.name if path.name.startswith("fold") else f"run {path.name}"


def _last_error(path: Path) -> str:
    """The last error in the log of an unfinished run."""
    log = path / "train.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [match["text"] for match in map(_ERROR_LINE.match, lines) if match]
    if errors:
        return errors[-1].removeprefix("error: ")
    return f"no error in {log}; it was stopped, or is still running" if lines else "it has no log"


def run_predictions(folder: Path, classes: ClassList) -> pd.DataFrame:
    """The predictions of a run, including those of a locked unseen fold that has been opened.

    Args:
        folder: the run folder.
        classes: of the run.

    Raises:
        DataError: a file is damaged.
    """
    files = [file for file in (folder / "predictions.csv", folder / UNSEEN) if file.is_file()]
    return pd.concat([read_predictions(file, classes) for file in files], ignore_index=True)


def _read_run(path: Path) -> Run:
    settings, metrics = _settings(path), _json(path / "metrics.json")
    predictions = run_predictions(path, _classes(settings, metrics))
    folds = sorted({int(fold) for fold in predictions["fold"]})
    if len(folds) != 1 or folds[0] not in FOLDS:
        found = ", ".join(str(fold) for fold in folds)
        raise DataError(f"predictions.csv is of fold {found}; must be one test fold from 0 to 9")
    for split in ("test",) if settings.get("unseen") == "locked" else ("test", "unseen"):
        if not (predictions["split"] == split).any():
            raise DataError(f"predictions.csv has no rows of the {split} split")
    return Run(
        path,
        folds[0],
        predictions,
        split=_split(path / "split.csv"),
        metrics=metrics,
        settings=settings,
        environment=_json(path / "environment.json"),
    )


def _classes(settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> ClassList:
    data = settings.get("data") or {}
    if "classes" in data:
        return ClassList.of(data)
    splits = (metrics.get("splits") or {}).values()
    names = next((list(part["classes"]) for part in splits if isinstance(part, Mapping) and part.get("classes")), None)
    return ClassList.of({"classes": names, "positive": data.get("positive")})


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name} is damaged ({error}); delete it to report the predictions") from error
    return found if isinstance(found, dict) else {}


def _split(file: Path) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    text: dict[Any, Any] = {column: object for column in COLUMNS if column != "fold"}
    try:
        table = pd.read_csv(file, dtype=text, keep_default_na=False, na_values=[""], encoding_errors="surrogateescape")
        return table.astype({"fold": int})[list(COLUMNS)]
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"split.csv is damaged ({' '.join(str(error).split())[:80]}); run the fold again") from error


def _settings(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    if not file.is_file():
        return {}
    try:
        found = current(read_yaml(file))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); restore or delete it") from error
    return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}


def _checked(runs: Iterable[Run], problems: list[str]) -> list[Run]:
    """The runs whose predictions match their split.csv."""
    kept = []
    for run in runs:
        split = run.split
        if split is None:
            problems.append(f"{_label(run.folder)}: no split.csv, so its image ids cannot be checked")
            kept.append(run)
            continue
        if not run.compared:
            problems.append(f"{_label(run.folder)}: no settings in config.yaml, so they cannot be checked")
        if wrong := _foreign(run, split):
            problems.append(f"{_label(run.folder)}: left out: {wrong}; run the fold again")
            continue
        kept.append(run)
        for part, fold in (("test", run.fold), ("unseen", UNSEEN_FOLD)):
            if part == "unseen" and run.locked and not len(run.rows(part)):
                continue
            wanted = set(split.loc[split["fold"] == fold, "image_id"])
            if absent := sorted(wanted - set(run.rows(part)["image_id"])):
                problems.append(
                    f"{_label(run.folder)}: {counted(len(absent), 'image')} of its {part} split without a prediction, "
                    f"such as {absent[0]}"
                )
    for run in kept:
        test = run.rows("test")
        for label in run.classes:
            if not (test["label"] == label).any():
                problems.append(
                    f"{_label(run.folder)}: no images of {label} in its test split, so its sensitivity is undefined"
                )
    return kept


def _foreign(run: Run, split: pd.DataFrame) -> str | None:
    """How a run's predictions contradict its split; None if they agree."""
    test, unseen = split["fold"] == run.fold, split["fold"] == UNSEEN_FOLD
    # Validation is a part of the training folds, or the test fold itself.
    allowed_rows = {"test": test, "unseen": unseen, "val": (split["fold"] >= 0) & ~unseen}
    names = {"test": f"fold {run.fold}", "unseen": f"fold {UNSEEN_FOLD}", "val": "folds 0 to 9"}
    labels, patients = (dict(zip(split["image_id"], split[name], strict=True)) for name in ("label", "patient_id"))
    for part, allowed in allowed_rows.items():
        rows = run.rows(part)
        if foreign := sorted(set(rows["image_id"]) - set(split.loc[allowed, "image_id"])):
            count = len(foreign)
            return f"{count} predictions of the {part} split are of images outside {names[part]}, such as {foreign[0]}"
        changed = rows.loc[rows["label"] != rows["image_id"].map(labels), "image_id"]
        if len(changed):
            return (
                f"{counted(len(changed), 'image')} of the {part} split with another label in split.csv, such as "
                f"{min(changed)}"
            )
        known = rows["image_id"].map(patients)
        changed = rows.loc[(rows["patient_id"] != known) & (rows["patient_id"].notna() | known.notna()), "image_id"]
        if len(changed):
            return (
                f"{counted(len(changed), 'image')} of the {part} split with another patient in split.csv, such as "
                f"{min(changed)}"
            )
    return None


def _largest_study(runs: list[Run], problems: list[str]) -> list[Run]:
    """The compatible runs that cover the most folds; of equals the first."""
    studies: list[list[Run]] = []
    for run in runs:
        for study in studies:
            if all(run.is_compatible_with(other) for other in study):
                study.append(run)
                break
        else:
            studies.append([run])
    if len(studies) < 2:
        return runs
    kept = max(studies, key=lambda study: len({run.fold for run in study}))
    for study in studies:
        if study is not kept:
            names = ", ".join(_label(run.folder) for run in study)
            if study[0].classes.names != kept[0].classes.names:
                own, others = (", ".join(one.classes) for one in (study[0], kept[0]))
                cause = f"other classes than {_label(kept[0].folder)} ({own}, not {others})"
            elif study[0].split_sha256 != kept[0].split_sha256:
                cause = f"another split than {_label(kept[0].folder)}"
            else:
                differences = _differences(study[0].compared, kept[0].compared)
                cause = (
                    f"other settings than {_label(kept[0].folder)} ({differences}); only=PART of their names selects "
                    "them"
                )
            problems.append(f"{names}: left out: {cause}")
    return kept


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    texts = [f"{key}={_short(one.get(key))}, not {_short(other.get(key))}" for key in keys[:3]]
    return "; ".join(texts) + (f"; and {len(keys) - 3} more" if len(keys) > 3 else "")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"


def _one_per_fold(runs: list[Run], problems: list[str]) -> list[Run]:
    newest: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: (run.folder / "predictions.csv").stat().st_mtime_ns):
        if (before := newest.get(run.fold)) is not None:
            problems.append(
                f"fold {run.fold}: two runs, {before.folder.name} and {run.folder.name}; "
                f"the newer, {run.folder.name}, is reported"
            )
        newest[run.fold] = run
    return [newest[fold] for fold in sorted(newest)]


def _check_overlap(runs: list[Run], problems: list[str]) -> None:
    """Leave out runs that share test images with another: these images would count twice."""
    owner: dict[str, int] = {}
    for run in list(runs):
        ids = set(run.rows("test")["image_id"])
        if shared := sorted(ids & owner.keys()):
            problems.append(
                f"fold {run.fold}: left out: {len(shared)} of its test images are in fold {owner[shared[0]]} too, "
                f"such as {shared[0]}; the folds are of different splits"
            )
            runs.remove(run)
        else:
            owner.update(dict.fromkeys(ids, run.fold))
