"""``python -m covidnet.explain checkpoint=RUN input=FILE_OR_FOLDER``: where a trained model looks, image by image."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.errors import DataError, ImageRefusedError
from covidnet.base.names import counted
from covidnet.launch.arguments import quoted
from covidnet.launch.command import launch, print_lines
from covidnet.serving.checkpoint_path import ONNX, find_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

PATHS = ("checkpoint", "only", "input", "out", "masks", "boxes")
"""Settings that are paths, which may have characters that Hydra's grammar rejects."""


def main(cfg: DictConfig) -> None:
    """Draw the heat map of every image; write explanations.csv and, for known lesions, localisation.csv.

    Args:
        cfg: the composed configuration ``explain``.

    Raises:
        SettingError: a setting is not allowed.
        WeightsError: there is no checkpoint, or it is not from covidnet.
        DataError: no image could be explained, or none has a mask or box although they were given. With ``strict=true``
            also if one image could not be explained, or its mask or box could not be used.
    """
    from omegaconf import OmegaConf

    given = {name: "" if OmegaConf.is_missing(cfg, name) else str(cfg[name]) for name in ("checkpoint", "input")}
    checkpoint = find_checkpoint(given["checkpoint"], "" if cfg.only is None else str(cfg.only))
    # Errors that need no network are reported before its libraries are loaded.
    from covidnet.data.collection.inputs import check_earlier, check_out, find_images

    out = Path(cfg.out).expanduser()
    check_earlier(out, ("explanations.csv", "refused.csv"), overwrite=cfg.overwrite)
    root, paths = find_images(given["input"])
    check_out(given["input"], out, root, paths)
    from covidnet.data.collection.annotations import Annotations

    reading = {"max_megapixels": cfg.max_megapixels, "min_side": cfg.min_side, **cfg.reading}
    annotations = Annotations(root, masks=cfg.masks, boxes=cfg.boxes, images=paths, reading=reading)
    check_out(given["input"], out, root, paths, annotations.folders.values())
    from covidnet.explaining.image_maps import ImageMaps
    from covidnet.serving.open_model import open_model

    if checkpoint.suffix != ONNX:
        from covidnet.base.quiet import quieten

        quieten()
    explained = ImageMaps(
        open_model(checkpoint),
        root,
        paths,
        out,
        method=cfg.explain.method,
        target=None if cfg.target is None else str(cfg.target),
        annotations=annotations,
        reading=reading,
        progress=cfg.progress,
    )
    print_lines(explained.facts.notes())
    refused = explained.run()
    _print_summary(explained, len(paths), refused)
    if explained.undrawn:
        raise DataError(
            f"{counted(explained.undrawn, 'picture')} of {len(paths) - len(refused)} not drawn, see the log above; the "
            f"table is complete: {explained.out / 'explanations.csv'}"
        )
    if refused and cfg.strict:
        raise DataError(
            f"strict=true: {counted(len(refused), 'file was', 'files were')} refused; see "
            f"{explained.out / 'refused.csv'}"
        )
    if explained.unfit and cfg.strict:
        raise DataError(
            f"strict=true: masks or boxes of {counted(len(explained.unfit), 'image')} cannot be used, the first: "
            f"{explained.unfit[0]}"
        )


def _print_summary(explained: Any, count: int, refused: list[ImageRefusedError]) -> None:
    lines = [*explained.notes, *explained.facts.map_notes()]
    if explained.unfit:
        lines.append(f"masks or boxes of {counted(len(explained.unfit), 'image')} cannot be used, see the log above")
    if refused:
        lines.append(f"{counted(len(refused), 'file')} refused: {explained.out / 'refused.csv'}")
    print_lines([*lines, f"{counted(count - len(refused), 'image')} explained: {explained.out}"])


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "explain")
