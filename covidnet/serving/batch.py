"""Predictions for any number of images by one model or an ensemble: the table grows on disk, not in memory."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from heapq import merge
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from covidnet.base.atomic import WriteError, make_folder, replaced, write_bytes, write_text
from covidnet.base.caveats import Caveat
from covidnet.base.classes import ClassList
from covidnet.base.errors import CovidnetError, DataError, ImageRefusedError, SettingError
from covidnet.base.names import counted, inert, listed, shown
from covidnet.base.progress import progress_bar
from covidnet.base.provenance import file_sha256
from covidnet.data.collection.inputs import PARTIAL_RECORD, partial_of, pictures_of
from covidnet.data.collection.manifest import REFUSED_COLUMNS, refused_row
from covidnet.data.reading.decoders import shared_decoders
from covidnet.data.reading.dicom import IDENTIFIERS
from covidnet.data.reading.images import Radiograph, open_image, reading
from covidnet.report.words import count
from covidnet.serving.answers import ImageAnswer, Predictor
from covidnet.serving.model import NO_MAPS
from covidnet.serving.stream import BATCH, answered

if TYPE_CHECKING:
    from covidnet.serving.dicom.results import DicomResults

log = logging.getLogger(__name__)

PARTIAL = ("position", "sha256")
"""The last columns of a partial table: the image's place in the listing, from 0, and the hash of the file's bytes."""

DICOM_SUFFIXES = {"sr": ".sr.dcm", "sc": ".sc.dcm"}
"""Columns of the results in DICOM (Structured Report, Secondary Capture), and the suffixes of their files."""

STORED = "stored"
"""The column that is ``true`` where an archive has stored an image's results."""

_UNREADABLE = "unreadable"


class ImagePredictions:
    """Predict images batch by batch.

    Args:
        predictor: the model and its input gate.
        root: the folder that `paths` are relative to.
        paths: posix paths of images.
        out: the folder for all results.
        panels: whether to draw a picture of each image and its heat map.
        dicom: makes the results in DICOM; None writes none. Images that are not DICOM are then refused.
        store: stores the results of an image in an archive; None stores none.
        identifiers: whether to add the columns `covidnet.data.reading.dicom.IDENTIFIERS`, the keys of DICOM files in an
            archive; they identify patients.
        reading: keyword arguments of `shared_decoders`.
        passes: concurrent passes of the network.
        progress: whether to draw a progress bar.
        resume: whether to keep the rows of a stopped call, whose record is in `out`.
        made_by: what rows depend on besides the image (the model, settings), by name, as JSON takes it. `resume` needs
            the same values again.

    Raises:
        SettingError: `panels` or `dicom` with a model that draws no heat maps.
    """

    def __init__(
        self,
        predictor: Predictor,
        root: Path,
        paths: Sequence[str],
        out: Path,
        *,
        panels: bool = False,
        dicom: DicomResults | None = None,
        store: Callable[[list[bytes]], None] | None = None,
        identifiers: bool = False,
        reading: dict[str, Any] | None = None,
        passes: int = 1,
        progress: bool = True,
        resume: bool = False,
        made_by: Mapping[str, Any] | None = None,
    ) -> None:
        if panels and not predictor.model.explains:
            raise SettingError("panels", True, "false", NO_MAPS)
        if dicom is not None and not predictor.model.explains:
            raise SettingError("output", "dicom", "csv", NO_MAPS)
        self.predictor = predictor
        self.root = root
        self.paths = paths
        self.out = out
        self.panels = panels
        self.dicom = dicom
        self.store = store
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
        self.unwritten = 0
        self.unsent = 0
        self._pictures = pictures_of(paths) if panels else {}
        self._results = {name: pictures_of(paths, DICOM_SUFFIXES[name]) for name in DICOM_SUFFIXES} if dicom else {}
        self._sources: dict[str, dict[str, Any]] = {}
        self._first = ""

    def run(self) -> None:
        """Write predictions.csv, refused.csv if files are refused, pictures, results in DICOM, and the model card.

        Until the tables are whole, their rows are in predictions.partial.csv and refused.partial.csv. A picture that
        cannot be drawn or written affects nothing else: its cell stays empty, and `undrawn` counts it; `unwritten`
        counts the images without results in DICOM, and `unsent` those whose results no archive has stored.

        Raises:
            SettingError: with `resume`: the model, a setting, or an image that has a row is not the same as before.
            DataError: every file was refused.
            WriteError: a file cannot be written.
        """
        ensemble = self.predictor.model.facts.members > 1
        known_by = IDENTIFIERS if self.identifiers else ()
        columns = columns_of(self.predictor.classes, ensemble)
        columns += [*(["picture"] if self.panels else []), *self._results, *([STORED] if self.store else []), *known_by]
        table = _Table(self.out / "predictions.csv", columns)
        refused = _Table(self.out / "refused.csv", [*REFUSED_COLUMNS, *known_by])
        done = self._begin(table, refused)
        try:
            with progress_bar(self.progress) as bar:
                task = bar.add_task("predicting", total=len(self.paths), completed=done)
                answers = answered(
                    self.predictor,
                    self.paths[done:],
                    self._read,
                    name=lambda path: str(self.root / path),
                    heat=self.panels or self.dicom is not None,
                    passes=self.passes,
                )
                for position, (path, image, answer) in enumerate(answers, done):
                    place = [str(position), self._sha256(path) if image is None else image.facts.sha256]
                    if isinstance(answer, ImageRefusedError):
                        log.warning("refused: %s", answer)
                        refused.add([*refused_row(path, answer), *self._identifiers(path), *place])
                        self._first = self._first or f"the first: {answer.cause}; {answer.remedy}"
                        self.refused += 1
                    else:
                        assert image is not None  # an image that cannot be read has no answer
                        table.add([*self._row(path, image, answer, ensemble), *self._identifiers(path), *place])
                        self.predicted += 1
                        self.flagged += bool(answer.flags)
                    bar.advance(task)
            table.end()
            refused.end()
            if self.predicted and self.predictor.model.card:
                write_text(self.out / "model_card.md", self.predictor.model.card)
            # The record first: partial tables without it are never used.
            for file in (self.out / PARTIAL_RECORD, table.partial, refused.partial):
                with _written(file):
                    file.unlink(missing_ok=True)
        except BaseException:
            table.stop()
            refused.stop()
            if table.rows or refused.rows:
                log.warning("the rows so far: %s; resume=true out='%s' continues", table.partial, self.out)
            else:
                with suppress(OSError):
                    (self.out / PARTIAL_RECORD).unlink(missing_ok=True)
            raise
        if not self.predicted:
            raise DataError(f"{self.root}: {count(self.refused, 'file')} refused, none is left; {self._first}")

    def _begin(self, table: _Table, refused: _Table) -> int:
        """Start the partial tables, or keep their rows; the number of images that are done."""
        make_folder(self.out, table.file)
        record = self.out / PARTIAL_RECORD
        now = json.loads(json.dumps(self.made_by))
        if not self.resume:
            # Partial tables without a record are never used: it is removed first and written last.
            with _written(record):
                record.unlink(missing_ok=True)
            table.begin(0)
            refused.begin(0)
            write_text(record, json.dumps(now, indent=2) + "\n")
            return 0
        try:
            before = dict(json.loads(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{record}: damaged ({error}); overwrite=true starts again") from None
        differ = [name for name in now if before.get(name) != now[name]]
        if differ:
            self._refuse("; ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in differ))
        done = self._unchanged(table, refused)
        if done < len(self.paths):
            # The last digits of a probability can depend on the other images of its batch: the batches that are left
            # must be those of an uninterrupted call.
            done -= done % BATCH
        table.begin(done)
        refused.begin(done)
        self.predicted, self.refused = table.rows, refused.rows
        for row in table.kept():
            self.flagged += bool(row[table.columns.index("quality")])
            self.undrawn += self.panels and not row[table.columns.index("picture")]
            self.unwritten += self.dicom is not None and not row[table.columns.index("sr")]
            self.unsent += self.store is not None and not row[table.columns.index(STORED)]
        for row in refused.kept():
            self._first = f"the first: {row[1]}; {row[2]}"
            break
        log.info("resume=true: %s done, %d left", counted(done, "image"), len(self.paths) - done)
        return done

    def _unchanged(self, table: _Table, refused: _Table) -> int:
        """The number of images, from the first, that have a row; each must be the same file as before."""
        done = 0
        with progress_bar(self.progress) as bar:
            task = bar.add_task("comparing", total=len(self.paths))
            for row in merge(table.kept(), refused.kept(), key=lambda row: int(row[-2])):
                if int(row[-2]) != done:
                    # After a power failure a row can be missing from one table: the later rows are computed again.
                    break
                path = self.paths[done] if done < len(self.paths) else None
                if path is None or row[0] not in (listed(path), listed(shown(path))):
                    self._refuse(f"image {done + 1} was {row[0]}, now {'none' if path is None else shown(path)}")
                elif row[-1] != self._sha256(path):
                    self._refuse(f"{shown(path)} has changed")
                done += 1
                bar.advance(task)
        return done

    def _refuse(self, difference: str) -> NoReturn:
        raise SettingError(
            "resume", True, "true with the images, model and settings of the stopped command",
            f"{difference}; restore it, or start again with overwrite=true instead",
        )  # fmt: skip

    def _row(self, path: str, image: Radiograph, answer: ImageAnswer, ensemble: bool) -> list[str]:
        row = [listed(path), *(f"{p:.6f}" for p in answer.probabilities), answer.prediction]
        row.append("; ".join(flag.code for flag in answer.flags))
        if ensemble:
            row += [f"{answer.agreement:.3f}", *(f"{sd:.6f}" for sd in answer.spread)]
        if self.panels:
            row.append(self._picture(path, image, answer))
        return row + self._dicom_files(path, image, answer)

    def _read(self, path: str) -> Radiograph:
        if self.dicom is not None:
            self._sources[path] = self.decoders.source(self.root / path)
        return self.decoders.read(self.root / path)

    def _sha256(self, path: str) -> str:
        """The hash of a file's bytes, or that it is unreadable, no plain file, or too large for an image."""
        file = self.root / path
        try:
            open_image(file, self.max_megapixels).close()
            with reading(file):
                return file_sha256(file)
        except ImageRefusedError:
            return _UNREADABLE

    def _identifiers(self, path: str) -> list[str]:
        return [inert(value) for value in self.decoders.identifiers(self.root / path)] if self.identifiers else []

    def _picture(self, path: str, image: Radiograph, answer: ImageAnswer) -> str:
        """The cell of an image's picture; empty if it cannot be drawn."""
        try:
            return listed(self._draw(path, image, answer))
        except Exception as error:
            # Drawing one picture may fail in any way; the probabilities are known, and other images follow.
            log.warning("%s: its picture is not drawn: %s", shown(path), " ".join(str(error).split())[:200])
            self.undrawn += 1
            return ""

    def _dicom_files(self, path: str, image: Radiograph, answer: ImageAnswer) -> list[str]:
        """The cells of an image's results in DICOM; empty if they cannot be made or written."""
        if self.dicom is None:
            return []
        from covidnet.serving.dicom.results import encoded

        try:
            files = [names[path] for names in self._results.values()]
            made = [encoded(one) for one in self.dicom.make(self._sources.pop(path), image, answer)]
            for file, data in zip(files, made, strict=True):
                make_folder((self.out / file).parent)
                write_bytes(self.out / file, data)
        except Exception as error:
            # A header may hold anything; the probabilities are known, and other images follow.
            log.warning("%s: no results in DICOM: %s", shown(path), " ".join(str(error).split())[:200])
            self.unwritten += 1
            self.unsent += self.store is not None
            return [""] * (len(self._results) + (self.store is not None))
        names = [listed(file.as_posix()) for file in files]
        if self.store is None:
            return names
        try:
            self.store(made)
        except CovidnetError as error:
            log.warning("%s: %s", shown(path), error)
            self.unsent += 1
            return [*names, ""]
        return [*names, "true"]

    def _draw(self, path: str, image: Radiograph, answer: ImageAnswer) -> str:
        # The drawing libraries are imported only if needed.
        from covidnet.report.plots.panel import draw_image

        model, picture = self.predictor.model, self._pictures[path]
        assert answer.heat is not None  # it was requested
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
            classes=answer.classes,
        )
        return picture.as_posix()


def columns_of(classes: ClassList, ensemble: bool = False) -> list[str]:
    """The columns of predictions.csv, before ``picture``, `DICOM_SUFFIXES`, `STORED` and `IDENTIFIERS`.

    Args:
        classes: of the model.
        ensemble: whether several models predict together: then the share of them that predict the class of the mean
            follows, and the standard deviation of each probability over them.

    Example:
        >>> columns_of(ClassList(("COVID-19", "Rest")), ensemble=True)
        ['path', 'p_covid19', 'p_rest', 'prediction', 'quality', 'agreement', 'sd_covid19', 'sd_rest']
    """
    spread = ["agreement", *(f"sd_{slug}" for slug in classes.slugs)] if ensemble else []
    return ["path", *classes.columns, "prediction", "quality", *spread]


class _Table:
    """A CSV file that grows row by row as NAME.partial.csv, with the columns `PARTIAL` beside its own.

    A table without rows is not written, and an earlier file of its name is removed.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = [*columns, *PARTIAL]
        self.partial = partial_of(file)
        self.rows = 0
        self._whole = 0
        self._stream: BinaryIO | None = None

    def kept(self) -> Iterator[list[str]]:
        """The whole rows of the partial table, without a last one that was cut off."""
        if not self.partial.is_file():
            return
        with self.partial.open(encoding="utf-8", errors="replace", newline="\n") as stream:
            rows = csv.reader(line for line in stream if line.endswith("\n"))
            if next(rows, None) != self.columns:
                return
            for row in rows:
                if len(row) != len(self.columns) or not row[-2].isdecimal():
                    return
                yield row

    def begin(self, done: int) -> None:
        """Keep the rows of the first images."""
        rows = (row for row in self.kept() if int(row[-2]) < done)
        first = next(rows, None)
        if first is None:
            with _written(self.partial):
                self.partial.unlink(missing_ok=True)
            return
        with replaced(self.partial) as stream:
            stream.write(_csv(self.columns))
            for row in chain([first], rows):
                stream.write(_csv(row))
                self.rows += 1

    def add(self, row: Sequence[str]) -> None:
        """Add a row, which survives a kill from here on."""
        with _written(self.file):
            if self._stream is None:
                self._stream = self.partial.open("ab")
                self._whole = self._stream.tell()
            self._stream.write((b"" if self._whole else _csv(self.columns)) + _csv(row))
            self._stream.flush()
            self._whole = self._stream.tell()
        self.rows += 1

    def end(self) -> None:
        """Write the whole table under its name."""
        with _written(self.file):
            self._close()
            if not self.rows:
                self.file.unlink(missing_ok=True)
                return
        with replaced(self.file) as stream:
            stream.write(_csv(self.columns[: -len(PARTIAL)]))
            for row in self.kept():
                stream.write(_csv(row[: -len(PARTIAL)]))

    def stop(self) -> None:
        """Close the file; what a full disk cut off is removed."""
        with suppress(OSError):
            self._close()
        if self._whole:
            with suppress(OSError):
                os.truncate(self.partial, self._whole)

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _csv(row: Sequence[str]) -> bytes:
    text = io.StringIO()
    # Only characters of the line end are quoted: with CRLF, names that contain either are.
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


@contextmanager
def _written(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(file, error.errno or 0, error.strerror or str(error)) from error
