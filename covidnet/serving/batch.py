"""Predictions of any number of images by one model or an ensemble: a table that grows on the disk, not in memory."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from covidnet.base.atomic import WriteError, make_folder
from covidnet.base.caveats import Caveat
from covidnet.base.classes import SLUGS
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.base.names import inert, listed, shown
from covidnet.base.progress import progress_bar
from covidnet.data.collection.inputs import pictures_of
from covidnet.data.collection.manifest import REFUSED_COLUMNS, refused_row
from covidnet.data.reading.decoders import shared_decoders
from covidnet.data.reading.dicom import IDENTIFIERS
from covidnet.data.reading.images import Radiograph
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.report.words import count
from covidnet.serving.answers import ImageAnswer, Predictor
from covidnet.serving.model import NO_MAPS
from covidnet.serving.stream import answered

log = logging.getLogger(__name__)

COLUMNS = ("path", *PROBABILITIES, "prediction", "quality")
"""The columns of predictions.csv; those of `ENSEMBLE`, ``picture`` and `IDENTIFIERS` follow where there are such."""

ENSEMBLE = ("agreement", *(f"sd_{slug}" for slug in SLUGS))
"""The share of the models that predict the class of the mean, and the standard deviation over the models."""


class ImagePredictions:
    """Predict images one batch after the other.

    Args:
        predictor: the model and its input gate.
        root: the folder that `paths` are relative to.
        paths: posix paths of images.
        out: where everything goes.
        panels: whether a picture of each image and its heat map is drawn.
        identifiers: whether tables have the columns `covidnet.data.reading.dicom.IDENTIFIERS`, by which archives know
            DICOM files; they identify patients.
        reading: keyword arguments of `shared_decoders`.
        passes: of the network, side by side.
        progress: whether a progress bar is drawn.

    Raises:
        SettingError: panels are asked of a model that draws no heat maps.
    """

    def __init__(
        self,
        predictor: Predictor,
        root: Path,
        paths: Sequence[str],
        out: Path,
        *,
        panels: bool = False,
        identifiers: bool = False,
        reading: dict[str, Any] | None = None,
        passes: int = 1,
        progress: bool = True,
    ) -> None:
        if panels and not predictor.model.explains:
            raise SettingError("panels", True, "false", NO_MAPS)
        self.predictor = predictor
        self.root = root
        self.paths = paths
        self.out = out
        self.panels = panels
        self.identifiers = identifiers
        self.decoders = shared_decoders(**(reading or {}))
        self.passes = passes
        self.progress = progress
        self.predicted = 0
        self.refused = 0
        self.flagged = 0
        self.undrawn = 0
        self._pictures = pictures_of(paths) if panels else {}
        self._first = ""

    def run(self) -> None:
        """Write predictions.csv, where files are refused refused.csv, and the pictures.

        A picture that cannot be drawn or written costs itself alone: its cell stays empty, and `undrawn` counts it.

        Raises:
            DataError: every file was refused.
            WriteError: a table cannot be written. Here and after any other error its rows so far are kept in
                predictions.partial.csv.
        """
        ensemble = self.predictor.model.facts.members > 1
        known_by = IDENTIFIERS if self.identifiers else ()
        columns = [*COLUMNS, *(ENSEMBLE if ensemble else ()), *(["picture"] if self.panels else []), *known_by]
        with (
            _Table(self.out / "predictions.csv", columns) as table,
            _Table(self.out / "refused.csv", [*REFUSED_COLUMNS, *known_by]) as refused,
            progress_bar(self.progress) as bar,
        ):
            task = bar.add_task("predicting", total=len(self.paths))
            for path, image, answer in answered(
                self.predictor,
                self.paths,
                lambda path: self.decoders.read(self.root / path),
                name=lambda path: str(self.root / path),
                heat=self.panels,
                passes=self.passes,
            ):
                if isinstance(answer, ImageRefusedError):
                    log.warning("refused: %s", answer)
                    refused.add([*refused_row(path, answer), *self._identifiers(path)])
                    self._first = self._first or f"the first: {answer.cause}; {answer.remedy}"
                    self.refused += 1
                else:
                    assert image is not None  # an image that cannot be read has no answer
                    table.add([*self._row(path, image, answer, ensemble), *self._identifiers(path)])
                    self.predicted += 1
                    self.flagged += bool(answer.flags)
                bar.advance(task)
        if not self.predicted:
            raise DataError(f"{self.root}: {count(self.refused, 'file')} refused, none is left; {self._first}")

    def _row(self, path: str, image: Radiograph, answer: ImageAnswer, ensemble: bool) -> list[str]:
        row = [listed(path), *(f"{p:.6f}" for p in answer.probabilities), answer.prediction]
        row.append("; ".join(flag.code for flag in answer.flags))
        if ensemble:
            row += [f"{answer.agreement:.3f}", *(f"{sd:.6f}" for sd in answer.spread)]
        if self.panels:
            row.append(self._picture(path, image, answer))
        return row

    def _identifiers(self, path: str) -> list[str]:
        return [inert(value) for value in self.decoders.identifiers(self.root / path)] if self.identifiers else []

    def _picture(self, path: str, image: Radiograph, answer: ImageAnswer) -> str:
        """The cell of an image's picture; empty where it is not drawn."""
        try:
            return listed(self._draw(path, image, answer))
        except Exception as error:
            # Whatever a drawing library makes of one image, its probabilities are known and others wait.
            log.warning("%s: its picture is not drawn: %s", shown(path), " ".join(str(error).split())[:200])
            self.undrawn += 1
            return ""

    def _draw(self, path: str, image: Radiograph, answer: ImageAnswer) -> str:
        # It draws with libraries that a prediction alone does not need.
        from covidnet.report.plots.panel import draw_image

        model, picture = self.predictor.model, self._pictures[path]
        assert answer.heat is not None  # it was asked for
        text = f"Grad-CAM of {answer.prediction}. Backbone weights: {model.facts.weights}."
        if model.facts.random_weights:
            text += f" {Caveat.RANDOM_MAPS}"
        draw_image(
            self.out / picture,
            path,
            image.pixels,
            answer.heat,
            model.fit,
            probabilities=answer.probabilities,
            caption=text,
        )
        return picture.as_posix()


class _Table:
    """A CSV file that is written row by row under a temporary name, and takes its own when it is whole.

    A table without rows is not written, and what an earlier call left under its name is removed. Where the work ends
    early, the rows so far are kept as NAME.partial.csv.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = columns
        self.partial = file.with_suffix(f".partial{file.suffix}")
        self._temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        self._whole = 0
        self.rows = 0

    def __enter__(self) -> _Table:
        make_folder(self.file.parent, self.file)
        try:
            self._temporary.unlink(missing_ok=True)
            self._stream = self._temporary.open("x", encoding="utf-8", newline="")
        except OSError as error:
            raise WriteError(self.file, error.errno or 0, error.strerror or str(error)) from error
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self.add(self.columns)
        self.rows = 0
        return self

    def add(self, row: Sequence[str]) -> None:
        try:
            self._writer.writerow(row)
            # A row is there or not: what a full disk cut off is removed when the table is closed.
            self._stream.flush()
            self._whole = os.fstat(self._stream.fileno()).st_size
        except OSError as error:
            raise WriteError(self.file, error.errno or 0, error.strerror or str(error)) from error
        self.rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                self._stream.close()
            except OSError:
                if kind is None:
                    raise
            if self.rows and kind is not None:
                os.truncate(self._temporary, self._whole)
                self._temporary.replace(self.partial)
                log.warning("%s: the %s that were ready before the error", self.partial, count(self.rows, "row"))
                return
            self.partial.unlink(missing_ok=True)
            if self.rows:
                self._temporary.replace(self.file)
                return
            self._temporary.unlink(missing_ok=True)
            if kind is None:
                self.file.unlink(missing_ok=True)
        except OSError as failure:
            self._temporary.unlink(missing_ok=True)
            raise WriteError(self.file, failure.errno or 0, failure.strerror or str(failure)) from failure
