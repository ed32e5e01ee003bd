"""``python -m covidnet.explain checkpoint=RUN input=FILE_OR_FOLDER``: where a trained model looks, film by film."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.arguments import quoted
from covidnet.checkpoint_path import ONNX, find_checkpoint
from covidnet.config import launch
from covidnet.errors import DataError, ImageRefusedError, SettingError
from covidnet.labels import CLASSES, label_of
from covidnet.names import counted, shown
from covidnet.report.words import EXPLAINERS

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

PATHS = ("checkpoint", "only", "input", "out", "masks", "boxes")
"""Settings that are paths, with characters that Hydra's grammar may not take."""


def main(cfg: DictConfig) -> None:
    """Draw the map of every film, write explanations.csv, and where lesions are known localisation.csv.

    Args:
        cfg: the composed configuration ``explain``.

    Raises:
        SettingError: a setting is not allowed.
        WeightsError: there is no checkpoint, or it is none of ours.
        DataError: no film could be explained, or no film has one of the masks or boxes that were given; or with
            ``strict=true`` a film could not be explained, or its mask or box not be used.
    """
    from omegaconf import OmegaConf

    given = {name: "" if OmegaConf.is_missing(cfg, name) else str(cfg[name]) for name in ("checkpoint", "input")}
    target = None if cfg.target is None else label_of(str(cfg.target))
    if cfg.target is not None and target is None:
        raise SettingError("target", cfg.target, CLASSES)
    if cfg.explain.method not in EXPLAINERS:
        raise SettingError("explain.method", cfg.explain.method, EXPLAINERS)
    checkpoint = find_checkpoint(given["checkpoint"], "" if cfg.only is None else str(cfg.only))
    # What can be said without the network is said before its libraries are loaded.
    from covidnet.data.inputs import check_earlier, check_out, find_films

    out = Path(cfg.out).expanduser()
    check_earlier(out, ("explanations.csv", "refused.csv"), overwrite=cfg.overwrite)
    root, paths = find_films(given["input"])
    check_out(given["input"], out, root, paths)
    from covidnet.data.annotations import Annotations

    reading = {"max_megapixels": cfg.max_megapixels, "min_side": cfg.min_side, **cfg.reading}
    annotations = Annotations(root, masks=cfg.masks, boxes=cfg.boxes, films=paths, reading=reading)
    check_out(given["input"], out, root, paths, annotations.folders.values())
    from covidnet.film_explanations import FilmExplanations
    from covidnet.serving.model import open_model

    if checkpoint.suffix != ONNX:
        from covidnet.fold_run import quieten

        quieten()
    explained = FilmExplanations(
        open_model(checkpoint),
        root,
        paths,
        out,
        method=cfg.explain.method,
        target=target,
        annotations=annotations,
        reading=reading,
        progress=cfg.progress,
    )
    _print(explained.facts.notes())
    refused = explained.run()
    _tell(explained, len(paths), refused)
    if explained.undrawn:
        raise DataError(
            f"{counted(explained.undrawn, 'picture')} of {len(paths) - len(refused)} not drawn, see the log above; the "
            f"table is whole: {explained.out / 'explanations.csv'}"
        )
    if refused and cfg.strict:
        raise DataError(
            f"strict=true: {counted(len(refused), 'file was', 'files were')} refused; see "
            f"{explained.out / 'refused.csv'}"
        )
    if explained.unfit and cfg.strict:
        raise DataError(
            f"strict=true: masks or boxes of {counted(len(explained.unfit), 'film')} cannot be used, the first: "
            f"{explained.unfit[0]}"
        )


def _tell(explained: Any, count: int, refused: list[ImageRefusedError]) -> None:
    lines = [*explained.notes, *explained.facts.map_notes()]
    if explained.unfit:
        lines.append(f"masks or boxes of {counted(len(explained.unfit), 'film')} cannot be used, see the log above")
    if refused:
        lines.append(f"{counted(len(refused), 'file')} refused: {explained.out / 'refused.csv'}")
    _print([*lines, f"{counted(count - len(refused), 'film')} explained: {explained.out}"])


def _print(lines: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(shown(line), markup=False, emoji=False)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "explain")
