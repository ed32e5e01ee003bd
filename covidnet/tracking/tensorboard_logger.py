"""TensorBoard's logger, or one line where TensorBoard is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger

from covidnet.base.errors import SettingError


def tensorboard_logger(save_dir: str | Path, version: str = "tensorboard", **options: Any) -> TensorBoardLogger:
    """A logger that writes into a folder of the run folder.

    Args:
        save_dir: the run folder.
        version: the folder in it.
        **options: what else `TensorBoardLogger` takes.

    Returns:
        A logger for a trainer; ``tensorboard --logdir RUN_OR_SWEEP_FOLDER`` shows what it writes.

    Raises:
        SettingError: TensorBoard is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        remedy = 'TensorBoard is not installed: pip install "covidnet[tensorboard]"'
        raise SettingError("logger", "tensorboard", ("csv", "wandb", "none"), remedy) from None
    options = {"name": "", "default_hp_metric": False, **options}
    return TensorBoardLogger(save_dir=str(save_dir), version=version, **options)
