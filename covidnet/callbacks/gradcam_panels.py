"""Draws Grad-CAM panels of unseen films: film, heat map, true class, prediction."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from covidnet.data.dataset import FilmDataset
from covidnet.data.transforms import Normalise
from covidnet.errors import SettingError
from covidnet.labels import CLASSES
from covidnet.learning.module import ClassificationModule
from covidnet.models.saliency import grad_cam
from covidnet.report.panel import film_panels, save_figure

log = logging.getLogger(__name__)


class GradCamPanels(pl.Callback):
    """Write ``panels/unseen-COVID-19.png`` and its kin from a seeded draw of unseen films.

    The panels are drawn by `draw`, after the test loop: inside it Lightning's inference mode forbids the gradients.

    Args:
        per_class: films per class; 0 draws none.
    """

    def __init__(self, per_class: int = 5) -> None:
        if per_class < 0:
            raise SettingError("callbacks.panels.per_class", per_class, "a whole number from 0 on")
        self.per_class = per_class

    def draw(
        self,
        module: ClassificationModule,
        films: FilmDataset,
        rows: pd.DataFrame,
        folder: Path,
        *,
        seed: int,
        caption: str,
        probabilities: Mapping[str, np.ndarray] | None = None,
    ) -> list[Path]:
        """One figure for each class.

        Args:
            module: the chosen model.
            films: the dataset of `rows`.
            rows: films with image_id and label.
            folder: where the PNG files go.
            seed: of the draw of films.
            caption: what a reader must know: the weights, whether the films are synthetic.
            probabilities: what the model gave films, by image_id, where that is known already; the network is asked
                where it is not.

        Returns:
            The files written.
        """
        written = []
        for label, chosen in self._chosen(rows, seed):
            batch = [films[index] for index in chosen]
            images = torch.stack([item["image"] for item in batch]).to(module.device)
            given = [(probabilities or {}).get(item["image_id"]) for item in batch]
            if any(one is None for one in given):
                with torch.no_grad():
                    given = list(module.eval()(images).softmax(1).cpu().numpy())
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                maps = grad_cam(module.classifier, images)
            for warning in told:
                log.warning("panels, %s: %s", label, warning.message)
            figure = film_panels(
                [_grey(item["image"], films.normalise) for item in batch],
                list(maps),
                [_title(label, p) for p in given if p is not None],
                columns=len(batch),
                caption=caption,
            )
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"unseen-{label}.png")
            save_figure(figure, written[-1])
        return written

    def _chosen(self, rows: pd.DataFrame, seed: int) -> Iterator[tuple[str, list[int]]]:
        for number, label in enumerate(CLASSES):
            there = np.flatnonzero((rows["label"] == label).to_numpy())
            if self.per_class and len(there):
                draw = np.random.default_rng([seed, number]).permutation(there)[: self.per_class]
                yield label, [int(index) for index in draw]


def _title(label: str, probabilities: np.ndarray) -> str:
    called = int(probabilities.argmax())
    return f"true {label}\ncalled {CLASSES[called]} {probabilities[called]:.0%}"


def _grey(image: torch.Tensor, normalise: Normalise) -> np.ndarray:
    # The film as the network saw it: every channel is the same film on another scale.
    values = image[0].double().numpy() * normalise.std[0] + normalise.mean[0]
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
