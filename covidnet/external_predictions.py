"""Predictions of films whose class is known, by a model that is served: calibrated, and as the network gave them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.data.decoders import shared_decoders
from covidnet.data.images import Film
from covidnet.data.manifest import REFUSED_COLUMNS, refused_row
from covidnet.errors import ImageRefusedError
from covidnet.evaluation.predictions import EXTERNAL, predictions_table
from covidnet.evaluation.temperature import tempered
from covidnet.progress import progress_bar
from covidnet.serving.answers import Answering, FilmAnswer
from covidnet.serving.stream import answered

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExternalPredictions:
    """What a model says of the films of another data set.

    Args:
        table: predictions of split ``external`` and fold -1, calibrated.
        before: the same films with the probabilities before the temperature; None where a model has none.
        refused: films that were not predicted: path, cause, remedy, and their label.
        flagged: how often each warning was given to a film that was predicted, by its code.
        warned: image ids of the films that were predicted with a warning.
    """

    table: pd.DataFrame
    before: pd.DataFrame | None
    refused: pd.DataFrame
    flagged: dict[str, int]
    warned: frozenset[str] = frozenset()


def predict_external(
    answering: Answering,
    root: Path,
    films: pd.DataFrame,
    *,
    reading: dict[str, Any],
    passes: int = 1,
    progress: bool = True,
) -> ExternalPredictions:
    """Predict films, a few at a time; what the input gate refuses, or changed since it was listed, is left out.

    Args:
        answering: the model and its input gate.
        root: the folder that paths are relative to.
        films: rows of a manifest.
        reading: keyword arguments of `covidnet.data.decoders.shared_decoders`.
        passes: of the network, side by side.
        progress: whether a progress bar is drawn.
    """
    decoders = shared_decoders(**reading)
    temperatures = answering.model.facts.temperatures
    answers: dict[str, FilmAnswer] = {}
    raw: list[npt.NDArray[np.float64]] = []
    refused, flagged = [], Counter[str]()

    def read(row: Any) -> Film:
        film = decoders.read(root / row.path)
        if film.facts.sha256 != row.sha256:
            raise ImageRefusedError(root / row.path, "changed while it was evaluated", "run evaluate again")
        return film

    with progress_bar(progress) as bar:
        task = bar.add_task("predicting", total=len(films))
        listed: Iterator[Any] = films.itertuples()
        rows = answered(answering, listed, read, name=lambda row: str(row.path), passes=passes)
        for row, _, answer in rows:
            bar.advance(task)
            if isinstance(answer, ImageRefusedError):
                log.info("refused: %s: %s", row.path, answer.cause)
                refused.append((*refused_row(row.path, answer), row.label))
                continue
            answers[row.image_id] = answer
            flagged.update(flag.code for flag in answer.flags)
            if answering.model.facts.calibrated:
                raw.append(_untempered(answer.members, temperatures))
    kept = films[films["image_id"].isin(answers)]
    texts: dict[str, Any] = {name: list(kept[name]) for name in ("image_id", "path", "patient_id", "label")}

    def table(probabilities: Sequence[npt.NDArray[np.float64]]) -> pd.DataFrame:
        return predictions_table(**texts, split=EXTERNAL, fold=-1, probabilities=probabilities)

    return ExternalPredictions(
        table([answers[image_id].probabilities for image_id in kept["image_id"]]),
        table(raw) if answering.model.facts.calibrated else None,
        pd.DataFrame(refused, columns=[*REFUSED_COLUMNS, "label"]),
        dict(sorted(flagged.items())),
        frozenset(image_id for image_id, answer in answers.items() if answer.flags),
    )


def _untempered(members: npt.NDArray[np.float64], temperatures: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """The mean over the models as it was before each one's temperature."""
    before = [tempered(one, 1.0 / (t or 1.0)) for one, t in zip(members, temperatures, strict=True)]
    return np.asarray(np.mean(before, axis=0), np.float64)
