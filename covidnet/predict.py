"""``python -m covidnet.predict checkpoint=RUN input=FILE_OR_FOLDER``: class probabilities of any films."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from covidnet.arguments import quoted
from covidnet.checkpoint_path import find_models
from covidnet.config import launch
from covidnet.errors import DataError, SettingError
from covidnet.names import shown
from covidnet.report.words import count

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.film_predictions import FilmPredictions

PATHS = ("checkpoint", "only", "input", "out")
"""Settings that are paths, with characters that Hydra's grammar may not take."""


def main(cfg: DictConfig) -> None:
    """Predict films, one batch after the other, and write predictions.csv.

    Args:
        cfg: the composed configuration ``predict``.

    Raises:
        SettingError: a setting is not allowed.
        WeightsError: there is no checkpoint, or it is none of ours.
        DataError: every file was refused; or with ``strict=true`` any of them.
    """
    from omegaconf import OmegaConf

    given = {name: "" if OmegaConf.is_missing(cfg, name) else str(cfg[name]) for name in ("checkpoint", "input")}
    only = "" if cfg.only is None else str(cfg.only)
    from covidnet.serving.answers import GATES

    if cfg.gate not in GATES:
        raise SettingError("gate", cfg.gate, GATES)
    # What can be said without the network is said before its libraries are loaded.
    find_models(given["checkpoint"], onnx=cfg.engine == "onnx", only=only)
    from covidnet.data.inputs import check_earlier, check_out, find_films

    out = Path(cfg.out).expanduser()
    check_earlier(out, ("predictions.csv", "refused.csv"), overwrite=cfg.overwrite)
    root, paths = find_films(given["input"])
    check_out(given["input"], out, root, paths)
    from covidnet.atomic import write_text
    from covidnet.film_predictions import FilmPredictions
    from covidnet.serving.answers import Answering
    from covidnet.serving.model import open_model
    from covidnet.serving.stream import Share

    share = Share.of_cores()
    answering = Answering(open_model(given["checkpoint"], cfg.engine, share.threads, only), cfg.gate)
    # Before the predictions: where every file is refused, it says why.
    _print([*answering.notes(), *(answering.model.facts.map_notes() if cfg.panels else [])])
    predictions = FilmPredictions(
        answering,
        root,
        paths,
        out,
        panels=bool(cfg.panels),
        identifiers=bool(cfg.identifiers),
        reading={"max_megapixels": cfg.max_megapixels, "min_side": cfg.min_side, **cfg.reading},
        passes=share.passes,
        progress=cfg.progress,
    )
    predictions.run()
    if predictions.answering.model.card:
        write_text(out / "model_card.md", predictions.answering.model.card)
    _tell(predictions)
    if predictions.undrawn:
        raise DataError(
            f"{count(predictions.undrawn, 'picture')} of {predictions.predicted} not drawn, see the log above; the "
            f"table is whole: {out / 'predictions.csv'}"
        )
    if predictions.refused and cfg.strict:
        raise DataError(f"strict=true: {predictions.refused} files were refused; see {out / 'refused.csv'}")


def _tell(predictions: FilmPredictions) -> None:
    from covidnet.serving.facts import NOTICE

    model, out = predictions.answering.model, predictions.out
    told = []
    if predictions.refused:
        told.append(f"{count(predictions.refused, 'file')} refused: {out / 'refused.csv'}")
    if predictions.flagged:
        told.append(f"{count(predictions.flagged, 'film')} predicted with a warning: see the column quality")
    told.append(f"{count(predictions.predicted, 'film')} predicted by {model.facts.title}: {out / 'predictions.csv'}")
    _print([*told, NOTICE])


def _print(lines: Sequence[str]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(shown(line), markup=False, emoji=False)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "predict")
