"""``python -m covidnet.export checkpoint=RUN``: a trained model in one file, for machines without PyTorch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covidnet.arguments import quoted
from covidnet.checkpoint_path import ONNX, exported_name, find_models
from covidnet.config import launch
from covidnet.errors import CovidnetError, DataError, ImageRefusedError, SettingError, WeightsError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.serving.torch_model import TorchModel

log = logging.getLogger(__name__)

PATHS = ("checkpoint", "only", "out", "check")
"""Settings that are paths, with characters that Hydra's grammar may not take."""

FORMATS = ("onnx",)


def main(cfg: DictConfig) -> None:
    """Export, check the file against PyTorch on films, and write it only if the two agree.

    Args:
        cfg: the composed configuration ``export``.

    Raises:
        SettingError: a setting is not allowed, or a library is not installed.
        WeightsError: there is no checkpoint, or what was exported does not agree with it.
        DataError: no film is there to check it on.
        WriteError: the file cannot be written.
    """
    from omegaconf import OmegaConf

    given = "" if OmegaConf.is_missing(cfg, "checkpoint") else str(cfg.checkpoint)
    only = "" if cfg.only is None else str(cfg.only)
    if cfg.format not in FORMATS:
        raise SettingError("format", cfg.format, FORMATS)
    if isinstance(cfg.films, bool) or not isinstance(cfg.films, int) or cfg.films < 1:
        raise SettingError("films", cfg.films, "a whole number from 1 on")
    files = find_models(given, only=only)
    if files[0].suffix == ONNX:
        raise SettingError("checkpoint", given, "a best.ckpt, a run folder or a sweep folder", "it is exported already")
    out = _target(given, cfg.out, only)
    if out.exists() and not cfg.overwrite:
        raise SettingError("out", out, "a file that is not there yet", "give another one, or overwrite=true")
    from rich.console import Console

    from covidnet.atomic import make_folder, write_bytes
    from covidnet.report.words import count
    from covidnet.serving.exported import TOLERANCE, exported
    from covidnet.serving.facts import NOTICE
    from covidnet.serving.onnx_model import OnnxModel
    from covidnet.serving.torch_model import TorchModel

    model = TorchModel.open(files, Path(given))
    squares, where = _films(model, files, cfg)
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
    told = [*model.facts.notes()]
    told.append(
        f"Probabilities differ from PyTorch's by {difference:.1e} at most, on {count(len(squares), 'film')} {where}"
    )
    told.append(f"{model.facts.title}, {len(content) / 1e6:.1f} MB: {out}")
    told.append(f"Use it: python -m covidnet.predict checkpoint='{out}' input=FILE_OR_FOLDER")
    for line in [*told, NOTICE]:
        console.print(line, markup=False, emoji=False)


def _card(given: str, only: str, model: TorchModel) -> str:
    """The card of the run or sweep, with its scores; what the checkpoint says where its folder is not there."""
    from covidnet.crossval import card_of
    from covidnet.serving.web.card import facts_card

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


def _films(model: TorchModel, files: Sequence[Path], cfg: DictConfig) -> tuple[list, str]:
    """Some films as squares, and whose they are: those that were given, else those of the run's own unseen fold."""
    from covidnet.data.decoders import shared_decoders

    root, paths = _given_films(cfg.check) if cfg.check is not None else _unseen_films(files[0])
    where = f"of {cfg.check}" if cfg.check is not None else "of the unseen fold"
    decoders, found, first = shared_decoders(**cfg.reading), [], ""
    # Spread over the list, which is ordered by class.
    step = max(1, len(paths) // cfg.films)
    for path in paths[::step]:
        try:
            found.append(model.fit(decoders.read(root / path).pixels))
        except ImageRefusedError as error:
            first = first or str(error)
        if len(found) == cfg.films:
            break
    if not found:
        cause = first or "the training films are not on this machine"
        raise DataError(f"no film to check the exported model on ({cause}); give some with check=FOLDER")
    return found, where


def _given_films(check: str) -> tuple[Path, list[str]]:
    from covidnet.data.inputs import find_films

    return find_films(str(check))


def _unseen_films(checkpoint: Path) -> tuple[Path, list[str]]:
    """The films of the unseen fold, where the run folder and the data are still there."""
    import json

    from covidnet.data.splits import UNSEEN_FOLD
    from covidnet.data.study import read_split

    run = checkpoint.parents[1] if len(checkpoint.parents) > 1 else checkpoint.parent
    try:
        root = Path(json.loads((run / "environment.json").read_text(encoding="utf-8"))["data"]["root"])
        split = read_split(run / "split.csv")
    except (OSError, KeyError, TypeError, ValueError):
        return run, []
    paths = list(split.loc[split["fold"] == UNSEEN_FOLD, "path"])
    return root, [path for path in paths if (root / path).is_file()]


def _difference(model: TorchModel, exported: object, squares: list) -> float:
    """The largest difference of two engines' probabilities, of the mean and of every member."""
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
