"""``python -m covidnet.train fold=3``: one fold, from films to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.config import checked_fold, launch
from covidnet.sweep_report import report_ended_sweeps

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(cfg: DictConfig) -> float | None:
    """Train one fold, test the best checkpoint on the test fold and the unseen fold, write the run folder.

    Args:
        cfg: the composed configuration ``config``.

    Returns:
        The monitored value of the chosen checkpoint, for sweepers; None where nothing was monitored.
    """
    # Before the heavy imports, so that a slip of the finger is answered at once.
    checked_fold(cfg.fold)
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from covidnet.fold_run import FoldRun

    settings = OmegaConf.to_container(cfg, resolve=True)
    return FoldRun(cast("dict[str, Any]", settings), Path(HydraConfig.get().runtime.output_dir)).run()


if __name__ == "__main__":
    launch(main, after=report_ended_sweeps)
