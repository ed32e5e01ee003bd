"""Predictions of any number of images by one model or an ensemble: a table that grows on the disk, not in memory."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from covidnet.base.atomic import WriteError, make_folder, replaced, write_text
from covidnet.base.caveats import Caveat
from covidnet.base.classes import SLUGS
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.base.names import counted, inert, listed, shown
from covidnet.base.progress import progress_bar
from covidnet.base.provenance import file_sha256
from covidnet.data.collection.inputs import partial_of, pictures_of
from covidnet.data.collection.manifest import REFUSED_COLUMNS, refused_row
from covidnet.data.reading.decoders import shared_decoders
from covidnet.data.reading.dicom import IDENTIFIERS
from covidnet.data.reading.images import Radiograph, open_image, reading
from covidnet.evaluation.predictions import PROBABILITIES
from covidnet.report.words import count
from covidnet.serving.answers import ImageAnswer, Predictor
from covidnet.serving.model import NO_MAPS
from covidnet.serving.stream import BATCH, answered

log = logging.getLogger(__name__)

COLUMNS = ("path", *PROBABILITIES, "prediction", "quality")
"""The columns of predictions.csv; those of `ENSEMBLE`, ``picture`` and `IDENTIFIERS` follow where there are such."""

ENSEMBLE = ("agreement", *(f"sd_{slug}" for slug in SLUGS))
"""The share of the models that predict the class of the mean, and the standard deviation over the models."""

KEY = "row"
"""The last column of a partial table: a hash of the model, the settings, the file's name and its bytes."""


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
        resume: whether rows of a stopped call are kept, where bytes, model and settings are the same.
        made_by: the model and the settings that rows depend on, as JSON takes them.

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
        resume: bool = False,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        if panels and not predictor.model.explains:
            raise SettingError("panels", True, "false", NO_MAPS)
        self.predictor = predictor
        self.root = root
        self.paths = paths
        self.out = out
        self.panels = panels
        self.identifiers = identifiers
        limits = reading or {}
        self.decoders = shared_decoders(**limits)
        self.max_megapixels = limits.get("max_megapixels", 64.0)
        self.passes = passes
        self.progress = progress
        self.resume = resume
        self.made_by = dict(made_by or {})
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
            WriteError: a table cannot be written. However the work ends early, its rows so far are in
                predictions.partial.csv.
        """
        ensemble = self.predictor.model.facts.members > 1
        known_by = IDENTIFIERS if self.identifiers else ()
        columns = [*COLUMNS, *(ENSEMBLE if ensemble else ()), *(["picture"] if self.panels else []), *known_by]
        table = _Table(self.out / "predictions.csv", columns)
        refused = _Table(self.out / "refused.csv", [*REFUSED_COLUMNS, *known_by])
        kept, order = self._kept(table, refused) if self.resume else self._none_kept(table, refused)
        todo = [path for path in self.paths if path not in kept]
        place = {path: n for n, path in enumerate(self.paths)} if self.resume else {}
        try:
            with progress_bar(self.progress) as bar:
                task = bar.add_task("predicting", total=len(self.paths), completed=len(kept))
                for path, image, answer in answered(
                    self.predictor,
                    todo,
                    lambda path: self.decoders.read(self.root / path),
                    name=lambda path: str(self.root / path),
                    heat=self.panels,
                    passes=self.passes,
                ):
                    if isinstance(answer, ImageRefusedError):
                        log.warning("refused: %s", answer)
                        key = self._key(path, self._sha256(path))
                        refused.add([*refused_row(path, answer), *self._identifiers(path)], key)
                        self._first = self._first or f"the first: {answer.cause}; {answer.remedy}"
                        self.refused += 1
                    else:
                        assert image is not None  # an image that cannot be read has no answer
                        key = self._key(path, image.facts.sha256)
                        table.add([*self._row(path, image, answer, ensemble), *self._identifiers(path)], key)
                        self.predicted += 1
                        self.flagged += bool(answer.flags)
                    if order is not None:
                        order[key] = place[path]
                    bar.advance(task)
            refused.end(order)
            table.end(order)
        except BaseException:
            refused.stop()
            table.stop()
            raise
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

    @staticmethod
    def _none_kept(table: _Table, refused: _Table) -> tuple[frozenset[str], None]:
        table.begin()
        refused.begin()
        return frozenset(), None

    def _kept(self, table: _Table, refused: _Table) -> tuple[frozenset[str], dict[str, int]]:
        """Begin the tables with the rows that are kept: their paths, and the place of each row by its key.

        The last digits of a probability may depend on the other images of its batch. Whole batches are kept, so that
        the batches that are left are those of an uninterrupted call.
        """
        done, failed = table.kept(), refused.kept()
        picture = table.columns.index("picture") if self.panels else None
        order: dict[str, int] = {}
        for start in range(0, len(self.paths), BATCH):
            keys = [self._key(path, self._sha256(path)) for path in self.paths[start : start + BATCH]]
            if all(key in failed or (key in done and self._drawn(done[key], picture)) for key in keys):
                order |= {key: start + n for n, key in enumerate(keys)}
        for one, rows in ((table, done), (refused, failed)):
            one.begin([row for key, row in rows.items() if key in order])
        self.predicted, self.refused = table.rows, refused.rows
        quality = table.columns.index("quality")
        self.flagged = sum(bool(row[quality]) for key, row in done.items() if key in order)
        if refused.rows:
            _, cause, remedy = next(row for key, row in failed.items() if key in order)[:3]
            self._first = f"the first: {cause}; {remedy}"
        log.info("resume=true: %s kept, %d to predict", counted(len(order), "image"), len(self.paths) - len(order))
        return frozenset(self.paths[n] for n in order.values()), order

    def _drawn(self, row: Sequence[str], picture: int | None) -> bool:
        """Whether the picture that a row names in that column exists; true without such a column."""
        return picture is None or (bool(row[picture]) and (self.out / row[picture]).is_file())

    def _key(self, path: str, sha256: str | None) -> str:
        """What identifies a row: the file's name and bytes, and everything else that its values depend on."""
        # A file that cannot be read cannot be compared: its row is never kept.
        known = sha256 or secrets.token_hex(32)
        return hashlib.sha256(json.dumps([self.made_by, path, known], sort_keys=True).encode()).hexdigest()

    def _sha256(self, path: str) -> str | None:
        """The hash of a file's bytes; None if it cannot be read, is no plain file, or is too large for an image."""
        file = self.root / path
        try:
            open_image(file, self.max_megapixels).close()
            with reading(file):
                return file_sha256(file)
        except ImageRefusedError:
            return None

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
    """A CSV file that grows row by row as NAME.partial.csv, and takes its own name when it is whole.

    Beside its columns the partial table has `KEY`, by which a later call finds the rows that it can keep. A table
    without rows is not written, and an earlier file of its name is removed. However the work ends early, the rows so
    far are in the partial table.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = [*columns, KEY]
        self.partial = partial_of(file)
        self.rows = 0
        self._whole = 0
        self._stream: BinaryIO | None = None

    def kept(self) -> dict[str, list[str]]:
        """The rows of a partial table with these columns, by their keys, without a last row that was cut off."""
        try:
            text = self.partial.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return {}
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        if header != self.columns:
            return {}
        if not text.endswith("\n"):
            rows = rows[:-1]
        return {row[-1]: row for row in rows if len(row) == len(header)}

    def begin(self, rows: Sequence[list[str]] = ()) -> None:
        """Start the partial table with some rows; an earlier one is replaced."""
        make_folder(self.file.parent, self.file)
        if rows:
            write_text(self.partial, _csv([self.columns, *rows]))
        else:
            with _written(self.file):
                self.partial.unlink(missing_ok=True)
        self.rows = len(rows)

    def add(self, row: Sequence[str], key: str) -> None:
        """Add a row, which is in the file when this returns."""
        with _written(self.file):
            if self._stream is None:
                self._stream = self.partial.open("ab")
                self._whole = self._stream.tell()
            header = [] if self._whole else [self.columns]
            self._stream.write(_csv([*header, [*row, key]]).encode())
            # A killed process leaves the row or nothing of it; `stop` removes what a full disk cut off.
            self._stream.flush()
            self._whole = self._stream.tell()
        self.rows += 1

    def end(self, order: Mapping[str, int] | None = None) -> None:
        """Write the whole table under its name, and remove the partial one.

        Args:
            order: place of each row by its key; as they were added if None.
        """
        self._close()
        if not self.rows:
            with _written(self.file):
                self.file.unlink(missing_ok=True)
            return
        with replaced(self.file) as stream, self.partial.open(encoding="utf-8", newline="") as partial:
            rows = csv.reader(partial)
            stream.write(_csv([next(rows)[:-1]]).encode())
            for row in rows if order is None else sorted(rows, key=lambda row: order[row[-1]]):
                stream.write(_csv([row[:-1]]).encode())
        with _written(self.file):
            self.partial.unlink()

    def stop(self) -> None:
        """Keep the rows so far."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            if not self.rows:
                self.partial.unlink(missing_ok=True)
            elif self._whole:
                os.truncate(self.partial, self._whole)
        if self.rows:
            log.warning(
                "%s: the %s so far; resume=true out='%s' continues",
                self.partial, count(self.rows, "row"), self.file.parent,
            )  # fmt: skip

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@contextmanager
def _written(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(file, error.errno or 0, error.strerror or str(error)) from error
