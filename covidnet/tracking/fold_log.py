"""Logging the end of a fold: confusion matrices, predictions, panels, final numbers, the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from covidnet.evaluation.predictions import SPLITS
from covidnet.report.plots.confusion import confusion_axes
from covidnet.tracking.wandb_logger import FoldLogger

if TYPE_CHECKING:
    import numpy.typing as npt

PRIVATE = ("path", "patient_id")
"""Columns of predictions.csv that are never uploaded: names of files and patients."""

ROWS = 100_000
"""The largest number of table rows that a browser still shows."""


def log_fold(
    loggers: Iterable[Logger],
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    pictures: Mapping[str, Path],
    checkpoint: Path | None = None,
    step: int = 0,
) -> None:
    """Log the end of a fold to W&B and TensorBoard.

    Args:
        loggers: of the fold's trainer; other loggers are skipped.
        metrics: the content of metrics.json.
        predictions: the content of predictions.csv.
        pictures: PNG files by name, such as ``panels/unseen-Normal``.
        checkpoint: the best one, uploaded to W&B if its logger has ``artifact=true``.
        step: the trainer's global step.
    """
    for logger in loggers:
        if isinstance(logger, FoldLogger):
            _log_to_wandb(logger, metrics, predictions, pictures, checkpoint)
        elif isinstance(logger, TensorBoardLogger):
            _log_to_tensorboard(logger, metrics, pictures, step)


def final_values(splits: Mapping[str, Any]) -> dict[str, float]:
    """Every metric of a run by its logged name; the ends of its interval have the suffixes ``_low`` and ``_high``.

    Args:
        splits: that part of metrics.json, or ``{"pooled": ...}`` of scores in the same form.

    Returns:
        Values by name, without undefined ones.

    Example:
        >>> final_values({"test": {"n": 4, "accuracy": 0.75, "accuracy_ci": [0.3, 0.95], "loss": None, "classes": {}}})
        {'test/n': 4, 'test/accuracy': 0.75, 'test/accuracy_low': 0.3, 'test/accuracy_high': 0.95}
    """
    values: dict[str, float] = {}
    for split, numbers in splits.items():
        if not numbers or not numbers.get("n"):
            continue
        _flat(
            values, f"{split}/", {key: value for key, value in numbers.items() if key not in ("classes", "confusion")}
        )
        for label, of_class in numbers["classes"].items():
            _flat(values, f"{split}/{label}/", of_class)
    return values


def _flat(found: dict[str, float], prefix: str, numbers: Mapping[str, Any]) -> None:
    for key, value in numbers.items():
        if isinstance(value, list | tuple):
            name = prefix + key.removesuffix("_ci")
            found |= {f"{name}_low": float(value[0]), f"{name}_high": float(value[1])}
        elif isinstance(value, int | float):
            found[prefix + key] = value


def _log_to_wandb(
    logger: FoldLogger,
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    pictures: Mapping[str, Path],
    checkpoint: Path | None,
) -> None:
    import wandb

    def upload() -> None:
        run: Any = logger.experiment
        media: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in pictures.items()}
        for split in SPLITS:
            rows = predictions[predictions["split"] == split]
            if len(rows):
                classes = list(metrics["splits"][split]["classes"])
                media[f"confusion/{split}"] = wandb.plot.confusion_matrix(
                    y_true=[classes.index(label) for label in rows["label"]],
                    preds=[classes.index(label) for label in rows["prediction"]],
                    class_names=classes,
                    title=f"Confusion matrix, {split}",
                )
        media["predictions"] = wandb_table(predictions.drop(columns=list(PRIVATE), errors="ignore").head(ROWS))
        run.log(media)
        run.summary.update({**final_values(metrics["splits"]), "seconds": dict(metrics.get("seconds") or {})})

    def upload_checkpoint() -> None:
        run: Any = logger.experiment
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata={"fold": metrics.get("fold")})
        artifact.add_file(str(checkpoint), name="best.ckpt")
        run.log_artifact(artifact, aliases=["best"])

    if logger.attempt(upload) and logger.artifact and checkpoint is not None and checkpoint.is_file():
        logger.attempt(upload_checkpoint)


def wandb_table(frame: pd.DataFrame) -> Any:
    """A W&B table with None for missing values.

    Args:
        frame: any table of numbers and text.
    """
    import wandb

    plain = frame.astype(object).where(frame.notna(), None)
    return wandb.Table(
        columns=[str(column) for column in frame.columns],
        data=[[value.item() if isinstance(value, np.generic) else value for value in row] for row in plain.to_numpy()],
        allow_mixed_types=True,
    )


def _log_to_tensorboard(
    logger: TensorBoardLogger, metrics: Mapping[str, Any], pictures: Mapping[str, Path], step: int
) -> None:
    from PIL import Image

    board = logger.experiment
    for name, path in pictures.items():
        with Image.open(path) as image:
            board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
    splits = {split: numbers for split, numbers in metrics["splits"].items() if numbers and numbers.get("n")}
    for split, numbers in splits.items():
        board.add_image(f"confusion/{split}", _confusion(numbers, split), step, dataformats="HWC")
    # Columns of the hyperparameter table, which compares runs.
    logger.log_hyperparams({}, {f"final/{name}": value for name, value in final_values(splits).items()}, step)
    board.flush()


def _confusion(numbers: Mapping[str, Any], split: str) -> npt.NDArray[np.uint8]:
    canvas: Any = confusion_axes(
        numbers["confusion"], title=f"Confusion matrix, {split}", classes=list(numbers["classes"])
    ).figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
