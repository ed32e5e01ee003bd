"""Draw panels of image, heat map, true class and prediction: some images of each class, and the worst errors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from covidnet.base.atomic import WriteError, make_folder
from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import CovidnetError, SettingError
from covidnet.base.names import shown
from covidnet.data.loading.dataset import ImageDataset
from covidnet.data.loading.transforms import Normalise
from covidnet.learning.module import ClassificationModule
from covidnet.models.classifier import Classifier
from covidnet.models.saliency import METHODS, MapWarning, saliency
from covidnet.report.plots.sheet import image_panels, save_figure, title

log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


class GradCamPanels(pl.Callback):
    """Write panels such as ``panels/unseen-COVID-19.png`` from a seeded draw of images, and ``panels/errors.png``.

    `draw` must be called after the test loop: inside it Lightning's inference mode disables gradients.

    Args:
        per_class: images per class; 0 draws none.
        errors: how many of the worst errors to draw: misclassified images with the lowest probability for their true
            class; 0 draws none.
        method: of `covidnet.models.saliency.METHODS`.

    Raises:
        SettingError: a number is below 0, or there is no such method.
    """

    def __init__(self, per_class: int = 5, errors: int = 5, method: str = "gradcam") -> None:
        for name, value in (("per_class", per_class), ("errors", errors)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SettingError(f"explain.{name}", value, "an integer of at least 0")
        if method not in METHODS:
            raise SettingError("explain.method", method, METHODS)
        self.per_class = per_class
        self.errors = errors
        self.method = method
        self.constant = (0, 0)
        """In the last panels: the number of constant maps, and of all maps."""

    def draw(
        self,
        module: ClassificationModule,
        images: ImageDataset,
        rows: pd.DataFrame,
        folder: Path,
        *,
        seed: int,
        caption: str,
        probabilities: Mapping[str, npt.NDArray[np.floating]] | None = None,
        maps: Callable[[Sequence[int]], Tensor] | None = None,
        outline: Callable[[int], Mask | None] | None = None,
        part: str = "unseen",
    ) -> list[Path]:
        """Draw a figure for each class, and one of the worst errors.

        Args:
            module: the chosen model.
            images: the dataset of `rows`.
            rows: images with image_id, path and label.
            folder: where the PNG files go.
            seed: of the draw of images.
            caption: what a reader must know: the weights, whether the images are synthetic.
            probabilities: the model's probabilities by image_id, if already known; the network computes missing ones.
                Only images with known probabilities can be among the errors.
            maps: returns the backbone's maps of some images, if already known; if None, the network computes them.
            outline: returns the known lesion of an image (H, W), or None.
            part: the part of the split that the images belong to; file names begin with it.

        Returns:
            The files written.
        """
        known = dict(probabilities or {})
        figures = [
            (f"{part}-{label}", chosen)
            for label, chosen in seeded_draw(rows["label"], self.per_class, seed, module.classes)
        ]
        if worst := worst_errors(rows, known, self.errors, module.classes):
            figures.append(("errors", worst))
        written = []
        empty = EmptyMaps("panels")
        for name, drawn in figures:
            batch, chosen = _readable(images, drawn, name)
            if not chosen:
                continue
            tensors = torch.stack([item["image"] for item in batch]).to(module.device)
            given = [known.get(item["image_id"]) for item in batch]
            if any(one is None for one in given):
                with torch.no_grad():
                    given = list(module.eval()(tensors).softmax(1).cpu().numpy())
            known_maps = maps(chosen).to(module.device) if maps else None
            ids = [item["image_id"] for item in batch]
            heats = empty.compute(ids, module.classifier, tensors, None, self.method, known_maps)
            titles = [
                title(rows["label"].iloc[i], p, heat, module.classes)
                for i, p, heat in zip(chosen, given, heats, strict=True)
                if p is not None
            ]
            if name == "errors":
                titles = [f"{t}\n{shown(Path(rows['path'].iloc[i]).name)}" for i, t in zip(chosen, titles, strict=True)]
            figure = image_panels(
                [grey(item["image"], images.normalise) for item in batch],
                list(heats),
                titles,
                columns=len(batch),
                caption=caption,
                outlines=[outline(index) if outline else None for index in chosen],
                stacked=True,
            )
            try:
                make_folder(folder)
                save_figure(figure, folder / f"{name}.png")
            except WriteError as error:
                # By now the model is trained and evaluated: a full disk must cost only this sheet.
                log.warning("panel %s was not drawn: %s", name, error)
                continue
            written.append(folder / f"{name}.png")
        self.constant = empty.report()
        return written


def _readable(images: ImageDataset, chosen: Sequence[int], sheet: str) -> tuple[list[dict[str, Any]], list[int]]:
    """The images of a sheet that can still be read, and their indices; unreadable images are left out."""
    batch, places = [], []
    for index in chosen:
        try:
            batch.append(images[index])
            places.append(index)
        except (CovidnetError, OSError) as error:
            log.warning("panel %s was drawn without an image: %s", sheet, error)
    return batch, places


def seeded_draw(
    labels: Iterable[str], per_class: int, seed: int, classes: ClassList = DEFAULT_CLASSES
) -> list[tuple[str, list[int]]]:
    """Draw some images of each class; a smaller draw is a prefix of a larger one.

    Args:
        labels: of the images, in their order.
        per_class: how many of each class, or all if there are fewer.
        seed: of the draw.
        classes: of the labels.

    Returns:
        The name and the drawn indices of each class that has images.

    Example:
        >>> [(label, len(places)) for label, places in seeded_draw(["Normal", "COVID-19", "Normal"], 1, seed=0)]
        [('COVID-19', 1), ('Normal', 1)]
    """
    names = np.asarray(list(labels), dtype=object)
    found = []
    for number, label in enumerate(classes):
        there = np.flatnonzero(names == label)
        if per_class and len(there):
            draw = np.random.default_rng([seed, number]).permutation(there)[:per_class]
            found.append((label, [int(index) for index in draw]))
    return found


def worst_errors(
    rows: pd.DataFrame,
    probabilities: Mapping[str, npt.NDArray[np.floating]],
    count: int,
    classes: ClassList = DEFAULT_CLASSES,
) -> list[int]:
    """Indices of misclassified images, in ascending order of the probability of their true class.

    Args:
        rows: images with image_id and label.
        probabilities: (classes,) by image_id; images without any are skipped.
        count: the most to return.
        classes: of the labels.
    """
    found = []
    for place, (image_id, label) in enumerate(zip(rows["image_id"], rows["label"], strict=True)):
        given = probabilities.get(image_id)
        if given is not None and int(given.argmax()) != classes.index(label):
            found.append((float(given[classes.index(label)]), place))
    return [place for _, place in sorted(found)[:count]]


class EmptyMaps:
    """Compute maps and count those that show nothing, to log them in one line per part of the work.

    Args:
        part: what the maps are for.
        expected: whether constant maps say nothing against the model, so that the line is for debugging.
    """

    def __init__(self, part: str, *, expected: bool = False) -> None:
        self.part = part
        self._level = logging.DEBUG if expected else logging.WARNING
        self._maps = 0
        self._empty: dict[bool, list[str]] = {False: [], True: []}

    def compute(
        self,
        names: Sequence[str],
        classifier: Classifier,
        images: Tensor,
        target: Sequence[int] | None,
        method: str,
        maps: Tensor | None = None,
    ) -> npt.NDArray[np.float32]:
        """Call `covidnet.models.saliency.saliency` and count empty maps; other warnings are logged at once.

        Args:
            names: of the images, for the log: an image id or a path each.
            classifier: the network.
            images: (N, C, H, W).
            target: classes, or None for the predicted ones.
            method: of `METHODS`.
            maps: of the backbone, if known.

        Returns:
            float32 (N, H, W), 0..1.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = saliency(classifier, images, target, method, maps)
        self._maps += len(names)
        for warning in caught:
            if isinstance(warning.message, MapWarning):
                self._empty[warning.message.broken] += [names[place] for place in warning.message.places]
            else:
                log.warning("%s: %s", self.part, warning.message)
        return found

    def report(self) -> tuple[int, int]:
        """Log a line for constant maps and one for maps with NaN, each naming at most three images.

        Returns:
            The number of constant maps, including those with NaN, and of all maps.
        """
        for broken, names in self._empty.items():
            if names:
                images = list(dict.fromkeys(names))
                what = "had NaN and were set to 0" if broken else "are constant (no place stands out)"
                listed = ", ".join(images[:3]) + (", ..." if len(images) > 3 else "")
                log.log(self._level, "%s: %d of %d maps %s: %s", self.part, len(names), self._maps, what, listed)
        return sum(len(names) for names in self._empty.values()), self._maps


def log_pictures(loggers: Iterable[Logger], pictures: Mapping[str, Path], step: int) -> None:
    """Log pictures to the loggers that support it: W&B and TensorBoard.

    Args:
        loggers: of a trainer.
        pictures: PNG files by name, such as ``panels/unseen-Normal``.
        step: the trainer's global step.
    """
    from PIL import Image

    for logger in loggers:
        for name, path in pictures.items():
            if isinstance(logger, WandbLogger):
                logger.log_image(key=name, images=[str(path)])
            elif isinstance(logger, TensorBoardLogger):
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
                logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.flush()


def grey(image: Tensor, normalise: Normalise) -> npt.NDArray[np.uint8]:
    """An image as the network saw it, (H, W). All input channels are the same image at different scales.

    Args:
        image: (C, H, W), normalised.
        normalise: the transform that normalised it.
    """
    # In numpy: on a busy machine the threads of PyTorch take longer to start than this takes.
    values = image[0].numpy().astype(np.float64) * normalise.std[0] + normalise.mean[0]
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
