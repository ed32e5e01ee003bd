"""Heat maps of any images by one model: pictures, a table, and a comparison with known lesions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from covidnet.base.atomic import make_folder, write_text
from covidnet.base.caveats import Caveat
from covidnet.base.classes import label_of
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.base.names import listed, shown
from covidnet.base.progress import progress_bar
from covidnet.data.collection.annotations import Annotations
from covidnet.data.collection.inputs import pictures_of
from covidnet.data.collection.manifest import REFUSED_COLUMNS, refused_row, relative_to
from covidnet.data.reading.decoders import DecoderError, shared_decoders
from covidnet.data.reading.images import unreadable
from covidnet.evaluation.explanations import verdicts
from covidnet.evaluation.localisation import localisation_summary, localisation_table
from covidnet.report.plots.panel import draw_image
from covidnet.report.words import EXPLAINERS, MEASURES, count, estimate_text
from covidnet.serving.model import NO_MAPS, ServedModel

log = logging.getLogger(__name__)

# Images per pass of the network; 8 to 16 is best on a CPU.
_BATCH = 8

Radiograph = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]


class ImageMaps:
    """Explain images batch by batch. Heat maps stay in memory only for images with known lesions or lungs.

    Args:
        model: a model that draws heat maps.
        root: the folder that `paths` are relative to.
        paths: posix paths of images.
        out: where everything goes.
        method: of the setting ``explain.method``.
        target: the class whose evidence is drawn; None for the predicted one.
        annotations: known lesions and lungs of the images, or None.
        reading: keyword arguments of `shared_decoders`.
        progress: whether a progress bar is drawn.

    Raises:
        SettingError: there is no such method or class, or the model draws no heat maps.
    """

    def __init__(
        self,
        model: ServedModel,
        root: Path,
        paths: Sequence[str],
        out: Path,
        *,
        method: str = "gradcam",
        target: str | None = None,
        annotations: Annotations | None = None,
        reading: dict[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        given = target
        if method not in EXPLAINERS:
            raise SettingError("explain.method", method, EXPLAINERS)
        if not model.explains_by(method):
            raise SettingError("checkpoint", model.source, "a model that draws heat maps", NO_MAPS)
        self.classes = model.facts.classes
        if target is not None and (target := label_of(target, None, self.classes)) is None:
            raise SettingError("target", given, self.classes)
        self.model = model
        self.facts = model.facts
        """The checkpoint's facts about the model, and the results of its run's tests of the maps."""
        self.root = root
        self.paths = list(paths)
        self.out = out
        self.method = method
        self.target = target
        self.annotations = annotations
        self.decoders = shared_decoders(**(reading or {}))
        self.progress = progress
        self.notes: list[str] = []
        self.unfit: list[str] = []
        self.undrawn = 0
        self.fit = model.fit
        self._pictures = pictures_of(self.paths)
        self._empty: list[str] = []
        self._known: list[tuple[Heat, Any, Any, str, str]] = []

    def run(self) -> list[ImageRefusedError]:
        """Explain all images. A picture that cannot be drawn or written is skipped and counted in `undrawn`.

        Returns:
            The files that were refused; refused.csv lists them.

        Raises:
            DataError: every file was refused.
            WriteError: the folder or a table cannot be written.
        """
        make_folder(self.out)
        refused: list[ImageRefusedError] = []
        rows: list[dict[str, Any]] = []
        with progress_bar(self.progress) as bar:
            task = bar.add_task("explaining images", total=len(self.paths))
            for batch in self._batches(refused):
                rows += self._explain(batch)
                bar.update(task, completed=len(rows) + len(refused))
        if self._empty:
            listed_first = ", ".join(self._empty[:3]) + (", ..." if len(self._empty) > 3 else "")
            log.warning(
                "%s maps: %d of %d maps are constant (no place stands out): %s",
                self.method, len(self._empty), len(rows), listed_first,
            )  # fmt: skip
        # Remove an earlier call's table, which would not match the new pictures.
        (self.out / "refused.csv").unlink(missing_ok=True)
        if refused:
            body = [refused_row(relative_to(error.path, self.root), error) for error in refused]
            table = pd.DataFrame(body, columns=list(REFUSED_COLUMNS))
            write_text(self.out / "refused.csv", table.to_csv(index=False, lineterminator="\n"))
        if not rows:
            raise DataError(
                f"{self.root}: no usable file; {len(refused)} refused, the first because: {refused[0].cause}"
            )
        text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n", float_format="%.6f")
        write_text(self.out / "explanations.csv", text)
        if self._known:
            self._localise()
        elif self.annotations:
            self.notes.append("none of these images has a mask or a box, so the maps were not compared")
        return refused

    def _batches(self, refused: list[ImageRefusedError]) -> Iterator[list[tuple[str, Radiograph]]]:
        batch: list[tuple[str, Radiograph]] = []
        for path in self.paths:
            try:
                batch.append((path, self.decoders.read(self.root / path).pixels))
            except DecoderError:
                raise  # this is not the image's fault
            except Exception as error:
                cause = error if isinstance(error, ImageRefusedError) else unreadable(self.root / path, error)
                log.warning("refused: %s", cause)
                refused.append(cause)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _explain(self, batch: list[tuple[str, Radiograph]]) -> list[dict[str, Any]]:
        squares = np.stack([self.fit(image) for _, image in batch])
        # The same as in `covidnet.predict`.
        outputs = self.model.outputs(squares, maps=True)
        probabilities = outputs.probabilities
        called = probabilities.argmax(1)
        target = [int(one) for one in called] if self.target is None else [self.classes.index(self.target)] * len(batch)
        heats = self.model.heat(squares, outputs, target, self.method)
        self._empty += [path for (path, _), heat in zip(batch, heats, strict=True) if not heat.any()]
        rows = []
        for (path, image), given, explained, heat in zip(batch, probabilities, target, heats, strict=True):
            picture = self._pictures[path]
            regions, fitted = self._regions(path, image)
            caption = f"{EXPLAINERS[self.method]} of {self.classes[explained]}. {self._weights()}"
            try:
                draw_image(
                    self.out / picture,
                    path,
                    image,
                    heat,
                    self.fit,
                    probabilities=given,
                    caption=caption,
                    lesion=regions.get("lesion"),
                    classes=self.classes,
                )
                drawn = listed(picture.as_posix())
            except Exception as error:
                # If drawing one image fails, the table still has the others, and this one's numbers.
                log.warning("%s: its picture is not drawn: %s", shown(path), " ".join(str(error).split())[:200])
                self.undrawn += 1
                drawn = ""
            if regions:
                self._known.append((heat, fitted.get("lesion"), fitted.get("lung"), path, self.classes[explained]))
            rows.append(
                {
                    "path": listed(path),
                    **{name: float(p) for name, p in zip(self.classes.columns, given, strict=True)},
                    "prediction": self.classes[int(given.argmax())],
                    "explained": self.classes[explained],
                    "method": self.method,
                    "picture": drawn,
                }
            )
        return rows

    def _regions(self, path: str, image: Radiograph) -> tuple[dict[str, Any], dict[str, Any]]:
        """The known regions of an image, on the image and on the network's square; a bad mask is skipped."""
        height, width = image.shape
        if self.annotations is None:
            return {}, {}
        try:
            known = self.annotations.regions(path, (height, width))
            return known, self.annotations.fitted(path, (height, width), self.fit)
        except DataError as error:
            log.warning("%s; the image is treated as one without a mask", error)
            self.unfit.append(str(error))
            return {}, {}

    def _weights(self) -> str:
        text = f"Backbone weights: {self.facts.weights}."
        if self.facts.random_weights:
            text += f" {Caveat.RANDOM_MAPS}"
        return text

    def _localise(self) -> None:
        heats, lesions, lungs, paths, labels = zip(*self._known, strict=True)
        table = localisation_table(
            np.stack(heats),
            list(lesions),
            list(lungs),
            [listed(path) for path in paths],
            [None] * len(paths),
            list(labels),
        )
        found = localisation_summary(table)
        # This is the explained class; the true class is unknown here.
        table = table.rename(columns={"label": "explained"})
        write_text(self.out / "localisation.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
        for measure, numbers in found.measures.items():
            if numbers.n:
                named = (("maps", numbers.model), ("centre prior", numbers.centre), ("chance", numbers.chance))
                values = ", ".join(f"{name} {estimate_text(one)}" for name, one in named if one.n)
                self.notes.append(f"{MEASURES[measure]} ({count(numbers.n, 'image')}): {values}")
        if found.constant:
            self.notes.append(
                f"{found.constant} of {count(found.maps, 'map')} constant, no place stands out; where a lesion "
                "is known, such a map counts as a miss"
            )
        self.notes += verdicts(found)
