"""``python -m covidnet.prepare data=...``: read every image once, write the manifest and the split."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.base.errors import DataError
from covidnet.base.names import counted, shown
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Scan a data set, refusing bad files one by one, and split; with ``strict=true`` refused files are an error.

    Args:
        cfg: the composed configuration ``prepare``.

    Raises:
        DataError: the data cannot be used, or a file was refused with ``strict=true``.
    """
    from omegaconf import OmegaConf
    from rich.console import Console

    from covidnet.data.collection.prepared import prepare_dataset
    from covidnet.gate import fixed_rules

    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    prepared = prepare_dataset(
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
    refused = prepared.folder.parent / "refused.csv"
    lines = [
        *prepared.notes,
        f"manifest: {prepared.folder.parent / 'manifest.csv'}",
        f"split:    {prepared.split_file}",
    ]
    lines.append(f"left out: {prepared.folder / 'left_out.csv'}")
    if len(prepared.refused):
        lines.append(f"refused:  {refused} ({counted(len(prepared.refused), 'file')})")
    for line in lines:
        console.print(shown(line), markup=False, emoji=False)
    if len(prepared.refused) and settings["strict"]:
        raise DataError(
            f"{counted(len(prepared.refused), 'file was', 'files were')} refused (strict=true); see {refused}"
        )


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], DATA_PATHS)
    launch(main, "prepare")
