"""``python -m covidnet.export checkpoint=RUN``: a trained model in one file, for machines without PyTorch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covidnet.base.errors import CovidnetError, DataError, ImageRefusedError, SettingError, WeightsError
from covidnet.launch.arguments import quoted
from covidnet.launch.command import launch
from covidnet.serving.checkpoint_path import ONNX, exported_name, find_models

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.serving.model import Squares
    from covidnet.serving.torch_model import TorchModel

log = logging.getLogger(__name__)

PATHS = ("checkpoint", "only", "out", "check")
"""Settings that are paths, which may have characters that Hydra's grammar rejects."""


def main(cfg: DictConfig) -> None:
    """Export, compare with PyTorch on images, and write the file only if both agree.

    Args:
        cfg: the composed configuration ``export``.

    Raises:
        SettingError: a setting is not allowed, or a library is not installed.
        WeightsError: there is no checkpoint, or the exported model disagrees with it.
        DataError: there is no image to check it on.
        WriteError: the file cannot be written.
    """
    from omegaconf import OmegaConf

    given = "" if OmegaConf.is_missing(cfg, "checkpoint") else str(cfg.checkpoint)
    only = "" if cfg.only is None else str(cfg.only)
    files = find_models(given, only=only)
    if files[0].suffix == ONNX:
        raise SettingError("checkpoint", given, "a best.ckpt, a run folder or a sweep folder", "it is already exported")
    out = _target(given, cfg.out, only)
    if out.exists() and not cfg.overwrite:
        raise SettingError("out", out, "a file that does not exist yet", "give another one, or overwrite=true")
    from rich.console import Console

    from covidnet.base.atomic import make_folder, write_bytes
    from covidnet.report.words import count
    from covidnet.serving.exported import TOLERANCE, exported
    from covidnet.serving.facts import NOTICE
    from covidnet.serving.onnx_model import OnnxModel, need_engine
    from covidnet.serving.torch_model import TorchModel

    need_engine()
    model = TorchModel.open(files, Path(given))
    squares, where = _images(model, files, cfg)
    content = exported(model, _card(given, only, model))
    difference = _difference(model, OnnxModel(out, content=content), squares)
    if not difference <= TOLERANCE:
        raise WeightsError(
            f"{out}: not written, its probabilities differ from PyTorch's by {difference:.2g}, more than "
            f"{TOLERANCE:g}; use the checkpoint itself"
        )
    make_folder(out.parent, out)
    write_bytes(out, content)
    console = Console(soft_wrap=True, highlight=False)
    lines = [*model.facts.notes()]
    lines.append(
        f"Probabilities differ from PyTorch's by at most {difference:.1e}, on {count(len(squares), 'image')} {where}"
    )
    lines.append(f"{model.facts.title}, {len(content) / 1e6:.1f} MB: {out}")
    lines.append(f"Use it: python -m covidnet.predict checkpoint='{out}' input=FILE_OR_FOLDER")
    for line in [*lines, NOTICE]:
        console.print(line, markup=False, emoji=False)


def _card(given: str, only: str, model: TorchModel) -> str:
    """The card of the run or sweep with its scores; that of the checkpoint if the folder is missing."""
    from covidnet.serving.web.card import facts_card
    from covidnet.sweep.reports import card_of

    try:
        return card_of(given, only)
    except CovidnetError:
        return facts_card(model.facts)


def _target(given: str, out: str | None, only: str = "") -> Path:
    path = Path(given).expanduser()
    if out is None:
        return path / exported_name(only) if path.is_dir() else path.with_suffix(ONNX)
    target = Path(out).expanduser()
    if target.is_dir() or not target.suffix or str(out).endswith(("/", os.sep)):
        return target / exported_name(only)
    if target.suffix != ONNX:
        raise SettingError("out", out, f"a folder, or a file that ends in {ONNX}", "end a folder's name in /")
    return target


def _images(model: TorchModel, files: Sequence[Path], cfg: DictConfig) -> tuple[list[Squares], str]:
    """Some images as squares, and their origin: the given ones, else those of the run's unseen fold."""
    from covidnet.data.reading.decoders import shared_decoders

    root, paths = _given_images(cfg.check) if cfg.check is not None else _unseen_images(files[0])
    where = f"of {cfg.check}" if cfg.check is not None else "of the unseen fold"
    decoders, found, first = shared_decoders(**cfg.reading), [], ""
    # Spread over the list, which is ordered by class.
    step = max(1, len(paths) // cfg.images)
    for path in paths[::step]:
        try:
            found.append(model.fit(decoders.read(root / path).pixels))
        except ImageRefusedError as error:
            first = first or str(error)
        if len(found) == cfg.images:
            break
    if not found:
        cause = first or "the training images are not on this machine"
        raise DataError(f"no image to check the exported model on ({cause}); give some with check=FOLDER")
    return found, where


def _given_images(check: str) -> tuple[Path, list[str]]:
    from covidnet.data.collection.inputs import find_images

    return find_images(str(check))


def _unseen_images(checkpoint: Path) -> tuple[Path, list[str]]:
    """The images of the unseen fold, if the run folder and the data still exist."""
    import json

    from covidnet.data.collection.prepared import read_split
    from covidnet.data.folds.splits import UNSEEN_FOLD

    run = checkpoint.parents[1] if len(checkpoint.parents) > 1 else checkpoint.parent
    try:
        root = Path(json.loads((run / "environment.json").read_text(encoding="utf-8"))["data"]["root"])
        split = read_split(run / "split.csv")
    except (OSError, KeyError, TypeError, ValueError):
        return run, []
    paths = list(split.loc[split["fold"] == UNSEEN_FOLD, "path"])
    return root, [path for path in paths if (root / path).is_file()]


def _difference(model: TorchModel, exported: object, squares: list[Squares]) -> float:
    """The largest difference between the probabilities of two engines, for the mean and every member."""
    import numpy as np

    found = 0.0
    for start in range(0, len(squares), 8):
        batch = np.stack(squares[start : start + 8])
        ours, theirs = model.outputs(batch), exported.outputs(batch)  # type: ignore[attr-defined]
        found = max(found, float(np.abs(ours.members - theirs.members).max()))
        found = max(found, float(np.abs(ours.probabilities - theirs.probabilities).max()))
    return found


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "export")
