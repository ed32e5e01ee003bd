"""The loggers of a run: made from its settings before the trainer, closed after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from covidnet.tracking.wandb_logger import FoldLogger, wandb_logger


def make_loggers(settings: Mapping[str, Any], folder: Path, *, resume: bool = False) -> list[Logger]:
    """The loggers that the settings name.

    Args:
        settings: all of them, as a plain dict; each value of ``logger`` is a Hydra partial that takes save_dir.
        folder: the run folder.
        resume: whether the run is gone on with.

    Returns:
        One for each, in their order.

    Raises:
        SettingError: a logger cannot be had; those before it are closed.
    """
    import hydra

    found: list[Logger] = []
    try:
        for node in settings["logger"].values():
            if not node:
                continue
            partial = hydra.utils.instantiate(node)
            more = {"config": settings, "resume": resume} if partial.func is wandb_logger else {}
            found.append(partial(save_dir=folder, **more))
    except BaseException:
        finish(found, failed=True)
        raise
    return found


def finish(loggers: Iterable[Logger], *, failed: bool = False, patience: float | None = None) -> None:
    """Close the runs of W&B and the files of TensorBoard, so that the next fold in this process begins its own.

    Args:
        loggers: of a trainer; those that were closed are left alone.
        failed: whether the run ended with an exception.
        patience: seconds that W&B may take at most, where the process is about to be killed; None for its setting.
    """
    for logger in loggers:
        if isinstance(logger, FoldLogger):
            if patience is not None:
                logger.patience = min(logger.patience, patience)
            logger.close(1 if failed else 0)
        elif isinstance(logger, TensorBoardLogger):
            logger.finalize("failed" if failed else "success")
