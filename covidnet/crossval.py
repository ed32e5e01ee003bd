"""``python -m covidnet.crossval sweep_dir=DIR``: the report of ten folds, from their saved predictions only."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.errors import SettingError
from covidnet.launch.arguments import quoted
from covidnet.launch.command import launch
from covidnet.sweep.reports import report_sweeps

if TYPE_CHECKING:
    from omegaconf import DictConfig


log = logging.getLogger(__name__)

PATHS = ("sweep_dir", "report_dir", "only", "cache_dir")
"""Settings with characters that Hydra's grammar rejects, such as the second equals sign of only=seed=1."""


def main(cfg: DictConfig) -> None:
    """Report one sweep, or report and compare several.

    Args:
        cfg: the composed configuration ``crossval``.

    Raises:
        SettingError: a setting is not allowed.
        DataError: a sweep cannot be reported, or two of them have different splits.
    """
    from omegaconf import OmegaConf

    from covidnet.auditing.short import audited_sweep

    def listed(name: str) -> list[str]:
        value: Any = None if OmegaConf.is_missing(cfg, name) else cfg[name]
        found = list(value) if OmegaConf.is_list(value) else [] if value is None else [value]
        return [str(item) for item in found]

    folders = listed("sweep_dir")
    if not folders or not all(folder.strip() for folder in folders):
        # sweep_dir=$DIR with DIR unset would mean the current folder.
        raise SettingError("sweep_dir", "", "the folder of a sweep, with fold=0/ and so on", "give sweep_dir=DIR")
    report_sweeps(
        [Path(folder) for folder in folders],
        names=listed("names"),
        only=listed("only"),
        report_dir=None if cfg.report_dir is None else Path(cfg.report_dir),
        selection=cfg.selection,
        resamples=cfg.resamples,
        seed=cfg.seed,
        unseen=cfg.unseen,
        cache_dir=cfg.cache_dir,
        paper=cfg.paper,
        audit=audited_sweep,
    )


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "crossval")
