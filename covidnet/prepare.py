"""``python -m covidnet.prepare data=...``: read every film once, write the manifest and the split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.config import launch
from covidnet.errors import DataError
from covidnet.names import counted, shown

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Scan, refuse bad files one by one, split; with ``strict=true`` refused files are an error at the end.

    Args:
        cfg: the composed configuration ``prepare``.

    Raises:
        DataError: where the data cannot be used, or ``strict=true`` and a file was refused.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from covidnet.data.study import prepare_study
    from covidnet.quality import fixed_rules

    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    study = prepare_study(
        settings["data"],
        settings["split"],
        cache_dir=Path(settings["cache_dir"]).expanduser(),
        strict=settings["strict"],
        rescan=True,
        rules=fixed_rules,
        limits=settings["reading"],
        progress=settings["progress"],
    )
    console = Console(soft_wrap=True, highlight=False)
    refused = study.folder.parent / "refused.csv"
    told = [*study.notes, f"manifest: {study.folder.parent / 'manifest.csv'}", f"split:    {study.split_file}"]
    told.append(f"left out: {study.folder / 'left_out.csv'}")
    if len(study.refused):
        told.append(f"refused:  {refused} ({counted(len(study.refused), 'file')})")
    for line in told:
        console.print(shown(line), markup=False, emoji=False)
    if len(study.refused) and settings["strict"]:
        raise DataError(f"{counted(len(study.refused), 'file was', 'files were')} refused (strict=true); see {refused}")


if __name__ == "__main__":
    launch(main, "prepare")
