"""``python -m covidnet.explain checkpoint=RUN input=FILE_OR_FOLDER``: where a trained model looks, film by film."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.config import launch
from covidnet.errors import DataError, ImageRefusedError, SettingError
from covidnet.labels import CLASSES, label_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Draw the map of every film, write explanations.csv, and where lesions are known localisation.csv.

    Args:
        cfg: the composed configuration ``explain``.

    Raises:
        SettingError: a setting is not allowed.
        WeightsError: there is no checkpoint, or it is none of ours.
        DataError: no film could be explained; or one could not, and ``strict=true``.
    """
    from omegaconf import OmegaConf

    given = {name: "" if OmegaConf.is_missing(cfg, name) else str(cfg[name]) for name in ("checkpoint", "input")}
    target = None if cfg.target is None else label_of(str(cfg.target))
    if cfg.target is not None and target is None:
        raise SettingError("target", cfg.target, CLASSES)
    from covidnet.data.inputs import find_films
    from covidnet.film_explanations import FilmExplanations
    from covidnet.fold_run import quieten
    from covidnet.learning.checkpoints import find_checkpoint
    from covidnet.learning.module import ClassificationModule

    checkpoint = find_checkpoint(given["checkpoint"])
    root, paths = find_films(given["input"])
    quieten()
    explained = FilmExplanations(
        ClassificationModule.from_checkpoint(checkpoint),
        root,
        paths,
        Path(cfg.out),
        method=cfg.explain.method,
        target=target,
        masks=cfg.masks,
        boxes=cfg.boxes,
        reading={"max_megapixels": cfg.max_megapixels, "min_side": cfg.min_side},
        progress=cfg.progress,
    )
    refused = explained.run()
    _tell(explained, len(paths), refused)
    if refused and cfg.strict:
        raise DataError(f"strict=true: {len(refused)} files were refused; see {explained.out / 'refused.csv'}")


def _tell(explained: Any, count: int, refused: list[ImageRefusedError]) -> None:
    from rich.console import Console

    from covidnet.report.words import count as counted

    console = Console(soft_wrap=True, highlight=False)
    for line in explained.notes:
        console.print(line, markup=False, emoji=False)
    if refused:
        console.print(f"{counted(len(refused), 'file')} refused: {explained.out / 'refused.csv'}", markup=False)
    console.print(f"{counted(count - len(refused), 'film')} explained: {explained.out}", markup=False, emoji=False)


if __name__ == "__main__":
    launch(main, "explain")
