"""Predictions of films whose class is known, by a model that is served: calibrated, and as the network gave them."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.data.images import Film, read_film
from covidnet.data.manifest import REFUSED_COLUMNS
from covidnet.errors import ImageRefusedError
from covidnet.evaluation.predictions import EXTERNAL, predictions_table
from covidnet.evaluation.temperature import tempered
from covidnet.progress import progress_bar
from covidnet.serving.answers import Answering, FilmAnswer

log = logging.getLogger(__name__)

_BATCH = 8
_READERS = 2


@dataclass(frozen=True)
class ExternalPredictions:
    """What a model says of the films of another data set.

    Args:
        table: predictions of split ``external`` and fold -1, calibrated.
        before: the same films with the probabilities before the temperature; None where a model has none.
        refused: films that were not predicted: path, cause, remedy, and their label.
        flagged: how often each warning was given to a film that was predicted, by its code.
    """

    table: pd.DataFrame
    before: pd.DataFrame | None
    refused: pd.DataFrame
    flagged: dict[str, int]


def predict_external(
    answering: Answering, root: Path, films: pd.DataFrame, *, reading: dict[str, Any], progress: bool = True
) -> ExternalPredictions:
    """Predict films, a few at a time; what the input gate refuses, or changed since it was listed, is left out.

    Args:
        answering: the model and its input gate.
        root: the folder that paths are relative to.
        films: rows of a manifest.
        reading: keyword arguments of `covidnet.data.images.read_film`.
        progress: whether a progress bar is drawn.
    """
    temperatures = answering.model.facts.temperatures
    answers: dict[str, FilmAnswer] = {}
    raw: list[npt.NDArray[np.float64]] = []
    refused, flagged = [], Counter[str]()
    with progress_bar(progress) as bar:
        task = bar.add_task("predicting", total=len(films))
        for batch in _batches(root, films, reading):
            for row, answer in _answered(answering, batch):
                bar.advance(task)
                if isinstance(answer, ImageRefusedError):
                    log.info("refused: %s: %s", row.path, answer.cause)
                    refused.append((row.path, answer.cause, answer.remedy, row.label))
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
    )


def _untempered(members: npt.NDArray[np.float64], temperatures: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """The mean over the models as it was before each one's temperature."""
    before = [tempered(one, 1.0 / (t or 1.0)) for one, t in zip(members, temperatures, strict=True)]
    return np.asarray(np.mean(before, axis=0), np.float64)


def _batches(
    root: Path, films: pd.DataFrame, reading: dict[str, Any]
) -> Iterator[list[tuple[Any, Film | ImageRefusedError]]]:
    """Films as they were read, a few ahead of the network, which waits for no disk."""

    def read(row: Any) -> Film | ImageRefusedError:
        path = root / row.path
        try:
            film = read_film(path, **reading)
        except ImageRefusedError as error:
            return error
        if film.facts.sha256 != row.sha256:
            return ImageRefusedError(path, "changed while it was evaluated", "run evaluate again")
        return film

    left = films.itertuples()
    with ThreadPoolExecutor(_READERS) as readers:
        ahead: deque[tuple[Any, Future[Film | ImageRefusedError]]] = deque(
            (row, readers.submit(read, row)) for row in islice(left, 2 * _BATCH)
        )
        while ahead:
            batch: list[tuple[Any, Film | ImageRefusedError]] = []
            while ahead and len(batch) < _BATCH:
                row, future = ahead.popleft()
                batch.append((row, future.result()))
                ahead.extend((row, readers.submit(read, row)) for row in islice(left, 1))
            yield batch


def _answered(
    answering: Answering, batch: Sequence[tuple[Any, Film | ImageRefusedError]]
) -> Iterator[tuple[Any, FilmAnswer | ImageRefusedError]]:
    films = [(row, film) for row, film in batch if isinstance(film, Film)]
    answers = iter(answering.answer([film for _, film in films], names=[row.path for row, _ in films]))
    for row, film in batch:
        yield row, next(answers) if isinstance(film, Film) else film
