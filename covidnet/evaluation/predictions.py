"""The predictions table: one row per image and split, from which every reported number can be recomputed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.atomic import write_text
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import DataError

SPLITS: tuple[str, ...] = ("val", "test", "unseen")
"""The splits of a run, in their order in the file."""

EXTERNAL = "external"
"""The split of images of another data set; their fold is -1. Runs do not have it."""

_ALL = (*SPLITS, EXTERNAL)

EXTRAS: tuple[str, ...] = ("predictive_entropy", "mutual_information", "anomaly_score")
"""Further outputs of some models: columns after those of `columns_of` in their files, and absent from others."""

_SUM_TOLERANCE = 1e-3


def columns_of(classes: ClassList = DEFAULT_CLASSES) -> tuple[str, ...]:
    """The columns of predictions.csv, in their order.

    Args:
        classes: of the study.

    Example:
        >>> columns_of()[5:]
        ('fold', 'p_covid19', 'p_normal', 'p_pneumonia', 'prediction')
    """
    return ("image_id", "path", "patient_id", "label", "split", "fold", *classes.columns, "prediction")


def predictions_table(
    *,
    image_id: Sequence[str],
    patient_id: Sequence[str | float | None],
    label: Sequence[str],
    probabilities: npt.ArrayLike,
    path: Sequence[str] | None = None,
    split: str | Sequence[str] = EXTERNAL,
    fold: int | Sequence[int] = -1,
    extras: Mapping[str, npt.ArrayLike] | None = None,
    classes: ClassList = DEFAULT_CLASSES,
) -> pd.DataFrame:
    """Build a predictions table from its columns; the prediction is the class of the largest probability.

    Args:
        image_id: one id per image.
        patient_id: one per image; None or NaN where unknown.
        label: the true classes, names of `classes`.
        probabilities: (n, classes), in the order of `classes`, each row summing to 1. Kept as float32.
        path: one path per image; the ids if None.
        split: one of `SPLITS` or `EXTERNAL` for all images, or one per image.
        fold: the fold for all images, or one per image; 0..10, or -1 for images in no fold.
        extras: (n,) numbers by names of `EXTRAS`. Kept as float32.
        classes: of the study.

    Returns:
        A valid table with the columns of `columns_of`, then those of `extras`.

    Raises:
        DataError: the columns differ in length, or the table is not valid, see `validate_predictions`.

    Example:
        >>> table = predictions_table(
        ...     image_id=["a"], path=["a.png"], patient_id=[None], label=["Normal"],
        ...     split="test", fold=3, probabilities=[[0.1, 0.7, 0.2]],
        ... )
        >>> table.prediction.item()
        'Normal'
    """
    n = len(image_id)
    scores = np.asarray(probabilities, dtype=np.float32)
    if n == 0:
        scores = scores.reshape(0, len(classes))
    if scores.shape != (n, len(classes)):
        raise DataError(f"probabilities: shape {scores.shape} for {n} images; give ({n}, {len(classes)})")
    given: dict[str, Sequence[object]] = {
        "path": image_id if path is None else path,
        "patient_id": patient_id,
        "label": label,
        "split": [split] * n if isinstance(split, str) else split,
        "fold": [fold] * n if isinstance(fold, int | np.integer) else fold,
    }
    for name, values in given.items():
        if len(values) != n:
            raise DataError(f"{name}: {len(values)} values for {n} images; give one for each image_id")
    columns: dict[str, object] = {"image_id": list(image_id), **{name: list(values) for name, values in given.items()}}
    columns |= {name: scores[:, at] for at, name in enumerate(classes.columns)}
    # argmax gives some class for a row of NaN, which the validation below then rejects.
    columns["prediction"] = [classes[at] for at in scores.argmax(axis=1)]
    for name, extra in (extras or {}).items():
        numbers = np.asarray(extra, dtype=np.float32)
        if len(numbers) != n:
            raise DataError(f"{name}: {len(numbers)} values for {n} images; give one for each image_id")
        columns[name] = numbers
    return validate_predictions(pd.DataFrame(columns), classes=classes)


def validate_predictions(
    table: pd.DataFrame, source: str | Path = "predictions", classes: ClassList = DEFAULT_CLASSES
) -> pd.DataFrame:
    """Check a predictions table and bring it into its standard form.

    Args:
        table: a table with at least the columns of `columns_of`, and any of `EXTRAS`; other columns are dropped.
        source: the name of the table in an error, such as its path.
        classes: of the study.

    Returns:
        A new table: `columns_of` and the present `EXTRAS` in order, rows in the given order and numbered from 0, text
        as str, fold as int64, probabilities and extras as float32, a missing patient_id or extra as NaN.

    Raises:
        DataError: a column or value is missing (patient_id may be), a probability is of another class, a label,
            prediction or split is unknown, a fold is not an integer of -1..10, a probability is outside 0..1, a row
            does not sum to 1 within 0.001, the prediction is not the class of the largest probability (the first of a
            tie), an extra is not a number, or an image occurs twice in a split. Row numbers start at 1 below the
            header.
    """
    usual = columns_of(classes)
    for column in usual:
        if column not in table.columns:
            raise DataError(f"{source}: column {column} is missing; the columns are {', '.join(usual)}")
    for column in map(str, table.columns):
        if column.startswith("p_") and column not in usual:
            raise DataError(f"{source}: column {column} is of none of the classes {', '.join(classes)}")
    allowed_in = {"label": classes.names, "prediction": classes.names, "split": _ALL}
    columns: dict[str, list[str | float] | npt.NDArray[np.generic]] = {}
    ids = list(table["image_id"])

    def invalid(row: int, column: str, cause: str) -> DataError:
        return DataError(f"{source}, row {row + 1} (image_id {ids[row]!r}), column {column}: {cause}")

    for column in usual:
        cells = list(table[column])
        if column == "fold" or column in classes.columns:
            numbers = np.array([_number(cell) for cell in cells], dtype=np.float64)
            if column == "fold":
                valid = np.isin(numbers, np.arange(-1, 11))
                rule = "must be an integer from 0 to 10, or -1 for an image in no fold"
            else:
                # Rounded first: a mean of ones in double precision may be 1 + 2e-16, which is 1 in the file.
                numbers = numbers.astype(np.float32)
                valid = (numbers >= 0.0) & (numbers <= 1.0)
                rule = "must be a number from 0 to 1"
            if not valid.all():
                row = int(np.flatnonzero(~valid)[0])
                raise invalid(row, column, f"{_quoted(cells[row])}: {rule}")
            columns[column] = numbers.astype(np.int64) if column == "fold" else numbers
            continue
        missing = [bool(pd.isna(cell)) or cell == "" for cell in cells]
        allowed = allowed_in.get(column)
        for row, cell in enumerate(cells):
            if missing[row] and column != "patient_id":
                raise invalid(row, column, f"empty; must be {'one of ' + ', '.join(allowed) if allowed else 'text'}")
            if allowed and cell not in allowed:
                raise invalid(row, column, f"{cell!r}: must be one of {', '.join(allowed)}")
        columns[column] = [np.nan if empty else str(cell) for cell, empty in zip(cells, missing, strict=True)]

    scores = np.stack([np.asarray(columns[name]) for name in classes.columns], axis=1)
    sums = scores.astype(np.float64).sum(axis=1)
    for row in np.flatnonzero(np.abs(sums - 1.0) > _SUM_TOLERANCE)[:1]:
        raise invalid(int(row), ", ".join(classes.columns), f"sum {sums[row]:.6g}: must be 1; divide the row by it")
    for row, at in enumerate(scores.argmax(axis=1)):
        if columns["prediction"][row] != classes[at]:
            raise invalid(
                row,
                "prediction",
                f"{columns['prediction'][row]!r}: must be {classes[at]!r}, because {classes.columns[at]} is the "
                "largest probability (the first of a tie)",
            )
    seen: dict[tuple[object, object], int] = {}
    for row, key in enumerate(zip(columns["image_id"], columns["split"], strict=True)):
        if seen.setdefault(key, row) != row:
            raise invalid(row, "image_id", f"also in row {seen[key] + 1} of split {key[1]!r}; keep one of the two")
    extras = [name for name in EXTRAS if name in table.columns]
    for name in extras:
        cells = list(table[name])
        columns[name] = np.array([_number(cell) for cell in cells], dtype=np.float32)
        absent = np.array([bool(pd.isna(cell)) or cell == "" for cell in cells], dtype=bool)
        for row in np.flatnonzero(~absent & ~np.isfinite(columns[name]))[:1]:
            raise invalid(int(row), name, f"{_quoted(cells[row])}: must be a number, or empty if unknown")
    return pd.DataFrame(columns, columns=[*usual, *extras])


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _quoted(cell: object) -> str:
    return repr(cell) if isinstance(cell, str) else str(cell)


def write_predictions(table: pd.DataFrame, path: str | Path, classes: ClassList = DEFAULT_CLASSES) -> None:
    """Write predictions.csv atomically; the same rows in any order give the same bytes.

    Rows are ordered by split (val, test, unseen, external), then image_id. Nine digits identify every float32.

    Args:
        table: a predictions table; it is validated first.
        path: the file, in an existing folder.
        classes: of the study.

    Raises:
        DataError: the table is not valid.
        WriteError: the file cannot be written; an existing file stays as it was.
    """
    checked = validate_predictions(table, classes=classes)
    rank = checked["split"].map({name: at for at, name in enumerate(_ALL)})
    keys = list(zip(rank, checked["image_id"], strict=True))
    ordered = checked.iloc[sorted(range(len(keys)), key=keys.__getitem__)]
    write_text(path, ordered.to_csv(index=False, float_format="%.9g", lineterminator="\n"))


def read_predictions(path: str | Path, classes: ClassList = DEFAULT_CLASSES) -> pd.DataFrame:
    """Read and check a predictions.csv.

    Args:
        path: the file.
        classes: of the study.

    Returns:
        The table in the form of `validate_predictions`: ids are text (``007``, ``NA``), probabilities the float32
        values that were written.

    Raises:
        DataError: the file cannot be read, has no rows, or is not a valid predictions table.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
    except OSError as error:
        raise DataError(f"{path}: cannot be read, {error.strerror}; give the predictions.csv of a run") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a valid CSV file, {error}; write it again from its run") from error
    header, body = (rows[0], [row for row in rows[1:] if row]) if rows else ([], [])
    for at, row in enumerate(body):
        if len(row) != len(header):
            raise DataError(
                f"{path}, row {at + 1}: {len(row)} values for {len(header)} columns; write it again from its run"
            )
    if header and not body:
        raise DataError(f"{path}: no predictions; write it again from its run")
    return validate_predictions(pd.DataFrame(body, columns=header, dtype=object), path, classes)
