"""Predictions of labelled images of another data set, before and after temperature scaling."""

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

from covidnet.base.errors import ImageRefusedError
from covidnet.base.progress import progress_bar
from covidnet.data.collection.manifest import REFUSED_COLUMNS, refused_row
from covidnet.data.reading.decoders import shared_decoders
from covidnet.data.reading.images import Radiograph
from covidnet.evaluation.predictions import EXTERNAL, predictions_table
from covidnet.evaluation.temperature import tempered
from covidnet.serving.answers import ImageAnswer, Predictor
from covidnet.serving.stream import answered

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExternalPredictions:
    """A model's predictions for the images of another data set.

    Args:
        table: predictions with split ``external`` and fold -1, after temperature scaling.
        before: the same before temperature scaling; None if a model has no temperature.
        refused: images that were not predicted: path, cause, remedy and label.
        flagged: number of predicted images by code of the warning.
        warned: ids of the images that were predicted with a warning.
    """

    table: pd.DataFrame
    before: pd.DataFrame | None
    refused: pd.DataFrame
    flagged: dict[str, int]
    warned: frozenset[str] = frozenset()


def predict_external(
    predictor: Predictor,
    root: Path,
    images: pd.DataFrame,
    *,
    reading: dict[str, Any],
    passes: int = 1,
    progress: bool = True,
) -> ExternalPredictions:
    """Predict images in small batches, without those that the input gate refuses or that changed since listing.

    Args:
        predictor: the model and its input gate.
        root: the folder that paths are relative to.
        images: rows of a manifest.
        reading: keyword arguments of `covidnet.data.reading.decoders.shared_decoders`.
        passes: number of parallel forward passes.
        progress: whether to draw a progress bar.
    """
    decoders = shared_decoders(**reading)
    temperatures = predictor.model.facts.temperatures
    answers: dict[str, ImageAnswer] = {}
    raw: list[npt.NDArray[np.float64]] = []
    refused, flagged = [], Counter[str]()

    def read(row: Any) -> Radiograph:
        image = decoders.read(root / row.path)
        if image.facts.sha256 != row.sha256:
            raise ImageRefusedError(root / row.path, "changed while it was evaluated", "run evaluate again")
        return image

    with progress_bar(progress) as bar:
        task = bar.add_task("predicting", total=len(images))
        listed: Iterator[Any] = images.itertuples()
        rows = answered(predictor, listed, read, name=lambda row: str(row.path), passes=passes)
        for row, _, answer in rows:
            bar.advance(task)
            if isinstance(answer, ImageRefusedError):
                log.info("refused: %s: %s", row.path, answer.cause)
                refused.append((*refused_row(row.path, answer), row.label))
                continue
            answers[row.image_id] = answer
            flagged.update(flag.code for flag in answer.flags)
            if predictor.model.facts.calibrated:
                raw.append(_untempered(answer.members, temperatures))
    kept = images[images["image_id"].isin(answers)]
    texts: dict[str, Any] = {name: list(kept[name]) for name in ("image_id", "path", "patient_id", "label")}

    def table(probabilities: Sequence[npt.NDArray[np.float64]]) -> pd.DataFrame:
        return predictions_table(
            **texts, split=EXTERNAL, fold=-1, probabilities=probabilities, classes=predictor.classes
        )

    return ExternalPredictions(
        table([answers[image_id].probabilities for image_id in kept["image_id"]]),
        table(raw) if predictor.model.facts.calibrated else None,
        pd.DataFrame(refused, columns=[*REFUSED_COLUMNS, "label"]),
        dict(sorted(flagged.items())),
        frozenset(image_id for image_id, answer in answers.items() if answer.flags),
    )


def _untempered(members: npt.NDArray[np.float64], temperatures: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """The mean over the models before temperature scaling."""
    before = [tempered(one, 1.0 / (t or 1.0)) for one, t in zip(members, temperatures, strict=True)]
    return np.asarray(np.mean(before, axis=0), np.float64)
