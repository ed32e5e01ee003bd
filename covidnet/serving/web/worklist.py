"""The worklist: the images of a folder with their predictions, and readers' verdicts, in one SQLite file."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import itertools
import json
import logging
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from covidnet.base.classes import ClassList, label_of
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.base.names import counted, inert, listed
from covidnet.data.collection.inputs import find_images
from covidnet.data.reading.images import open_image, reading
from covidnet.evaluation.agreement import Reading, agreements, reader_rates
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.web_error import WebError

log = logging.getLogger(__name__)

THUMBNAIL = 72
"""Length of a thumbnail's longer side in pixels."""

UNSURE = "unsure"
"""The verdict of a reader who names no class; it is kept and counted, but is in no rate."""

AT_ONCE = 4
"""Images of the folder in work at once; uploads are answered between them."""

LOOK_AGAIN = 10.0
"""Seconds between two looks for new images in the folder."""

_KEPT = 2000
_LONGEST = {"reader": 100, "remark": 4000, "name": 300}
_TABLES = """
CREATE TABLE IF NOT EXISTS images (
  number INTEGER PRIMARY KEY AUTOINCREMENT, folder TEXT, path TEXT, size INTEGER, modified INTEGER, model TEXT,
  sha256 TEXT, label TEXT, answer TEXT, refused TEXT, thumbnail TEXT, UNIQUE (folder, path, model));
CREATE TABLE IF NOT EXISTS verdicts (
  number INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT, reader TEXT, sha256 TEXT, name TEXT, label TEXT, verdict TEXT,
  remark TEXT, saw_model INTEGER, model TEXT, prediction TEXT, probabilities TEXT);
CREATE INDEX IF NOT EXISTS verdicts_of ON verdicts (model, reader, sha256);
"""
_COLUMNS = (
    "time", "reader", "name", "sha256", "label", "verdict", "remark", "saw_model", "model", "prediction",
)  # fmt: skip

Answering = Callable[[bytes], Awaitable[dict[str, Any]]]


class Worklist:
    """The images of a folder with their predictions, and verdicts of readers.

    Predictions and verdicts are kept in one SQLite file; the images stay where they are. A verdict is never changed:
    a later one of the same reader on the same image is added and counts instead.

    Args:
        file: the SQLite file; made with the first prediction or verdict.
        given: a folder or pattern of images; empty for a list of uploads alone.
        model: what identifies the model; predictions of another one are computed anew, and verdicts beside another
            model's predictions are not counted.
        classes: of the model.
        limits: of the server; larger files are refused.

    Raises:
        SettingError: the file cannot be a database.
        DataError: there is no such folder, or no image in it.
    """

    def __init__(self, file: Path, given: str, model: str, classes: ClassList, limits: WebLimits) -> None:
        self.file, self.given, self.model, self.classes = file, given, model, classes
        self._max_bytes = limits.max_bytes
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._root, self._paths = self._look()
        if file.exists() and not file.is_file():
            raise SettingError("verdicts", file, "a file")
        try:
            if file.exists():
                with self._database() as known:
                    known.execute("SELECT count(*) FROM images")
        except sqlite3.Error as error:
            raise SettingError("verdicts", file, "a worklist's file, or a new one", str(error)) from None

    @property
    def total(self) -> int:
        """Images in the folder at the last look."""
        return len(self._paths)

    def _look(self) -> tuple[Path, dict[str, str]]:
        """The folder, and the paths of its images by how they are written in the file."""
        if not self.given:
            return Path(), {}
        root, paths = find_images(self.given)
        return root, {listed(path): path for path in paths}

    # Predictions

    async def fill(self, answer: Answering) -> None:
        """Predict the images of the folder, new ones too, until cancelled.

        Args:
            answer: predicts the content of one file, as `covidnet.serving.web.request_handler.RequestHandler.answer`.
        """
        failed = ""
        while True:
            start = asyncio.get_running_loop().time()
            try:
                waiting = iter(await asyncio.to_thread(self._new))
                await asyncio.gather(*(self._predict_all(waiting, answer) for _ in range(AT_ONCE)))
            except (OSError, sqlite3.Error, DataError) as error:
                # A share that is away for a while, or a full disk: the next look tries again.
                if str(error) != failed:
                    log.warning("worklist: %s; tried again every %g seconds", error, LOOK_AGAIN)
                failed = str(error)
            spent = asyncio.get_running_loop().time() - start
            await asyncio.sleep(max(LOOK_AGAIN, spent))

    async def _predict_all(self, waiting: Iterator[tuple[str, int, int]], answer: Answering) -> None:
        for path, size, modified in waiting:
            found, refused = await self._predict(path, answer)
            await asyncio.to_thread(self._add, path, size, modified, found, refused)

    async def _predict(self, path: str, answer: Answering) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
        for attempt in itertools.count(1):
            try:
                return await answer(await asyncio.to_thread(self._read, path)), None
            except ImageRefusedError as error:
                return None, {"cause": error.cause, "remedy": error.remedy}
            except WebError as error:
                if error.status == 503 and not (error.code == "timed_out" and attempt > 1):
                    await asyncio.sleep(float(error.headers.get("Retry-After", 1)))
                    continue
                return None, {"cause": error.cause, "remedy": error.remedy}
        raise AssertionError

    def _new(self) -> list[tuple[str, int, int]]:
        """The images that are not in the file as they are now: path, size and time of the last change."""
        self._root, self._paths = self._look()
        with self._database() as known:
            rows = known.execute(
                "SELECT path, size, modified FROM images WHERE folder = ? AND model = ?", (str(self._root), self.model)
            )
            done = {path: (size, modified) for path, size, modified in rows}
        found = []
        for path in self._paths:
            try:
                facts = (self._root / self._paths[path]).stat()
            except OSError:
                continue
            if done.get(path) != (facts.st_size, facts.st_mtime_ns):
                found.append((path, facts.st_size, facts.st_mtime_ns))
        return found

    def _read(self, path: str) -> bytes:
        place = self._root / self._paths.get(path, path)
        with reading(place), open_image(place, max_megapixels=self._max_bytes / 1e6) as file:
            data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise ImageRefusedError(place, f"over {self._max_bytes / 1e6:g} MB", "raise max_megabytes of the server")
        return data

    def _add(
        self, path: str, size: int, modified: int, answer: dict[str, Any] | None, refused: dict[str, str] | None
    ) -> None:
        folders = Path(path).parts[:-1]
        row: dict[str, Any] = {
            "folder": str(self._root), "path": path, "size": size, "modified": modified, "model": self.model,
            "label": next((found for name in folders if (found := label_of(name, classes=self.classes))), None),
        }  # fmt: skip
        if answer is not None:
            row |= {"sha256": answer["sha256"], "thumbnail": _thumbnail(answer["preview"])}
            row["answer"] = json.dumps({key: answer[key] for key in ("prediction", "probabilities", "quality")})
        else:
            row["refused"] = json.dumps(refused)
        with self._database() as known:
            known.execute(_insert("images", row, or_replace=True), row)

    def remember(self, answer: Mapping[str, Any]) -> None:
        """Keep the prediction of an upload in memory, so that a verdict on it can be saved; not the image."""
        with self._lock:
            kept = {key: answer[key] for key in ("prediction", "probabilities")}
            self._uploads[answer["sha256"]] = kept
            while len(self._uploads) > _KEPT:
                self._uploads.popitem(last=False)

    # What the page asks for

    def items(self, since: int = 0, reader: str = "") -> dict[str, Any]:
        """The images of the folder that were predicted or refused.

        Args:
            since: only those with a larger number.
            reader: whose verdicts to add.

        Returns:
            ``total`` images in the folder, ``done`` of them, and ``items``: number, key (of the path), name,
            probabilities, prediction, quality flags, refusal, thumbnail (JPEG as a data URL), verdict and remark.
        """
        if not self.given:
            return {"total": 0, "done": 0, "items": []}
        names = self._paths
        with self._database() as known:
            said = {row["sha256"]: row for row in self._latest(known) if row["reader"] == reader}
            rows = known.execute(
                "SELECT number, path, sha256, answer, refused, thumbnail FROM images WHERE folder = ? AND model = ?"
                " ORDER BY number", (str(self._root), self.model),
            )  # fmt: skip
            present = [row for row in rows if row["path"] in names]
        found = []
        for row in present:
            if row["number"] <= since:
                continue
            verdict = said.get(row["sha256"])
            found.append(
                {
                    "number": row["number"],
                    "key": hashlib.sha256(row["path"].encode()).hexdigest()[:16],
                    # Not the folder, whose name may be the label.
                    "name": Path(row["path"]).name,
                    "sha256": row["sha256"],
                    **(json.loads(row["answer"]) if row["answer"] else {}),
                    "refused": json.loads(row["refused"]) if row["refused"] else None,
                    "thumbnail": row["thumbnail"],
                    "verdict": verdict["verdict"] if verdict else None,
                    "remark": verdict["remark"] if verdict else "",
                }
            )
        return {"total": len(names), "done": len(present), "items": found}

    def content(self, number: int) -> bytes:
        """The file of an item.

        Raises:
            WebError: there is no such item, or its file is gone or unreadable.
        """
        with self._database() as known:
            row = known.execute(
                "SELECT path FROM images WHERE number = ? AND folder = ?", (number, str(self._root))
            ).fetchone()
        if row is None:
            raise WebError(404, "not_found", "there is no such image in the worklist", "load the page again")
        try:
            return self._read(row["path"])
        except ImageRefusedError as error:
            raise WebError(422, "unreadable_file", error.cause, error.remedy) from None

    def decide(self, sha256: str, reader: str, verdict: str, remark: str, saw_model: bool, name: str = "") -> None:
        """Save a reader's verdict on an image.

        Args:
            sha256: of the file, from the answer.
            reader: who says it.
            verdict: one of the classes, or `UNSURE`.
            remark: any text.
            saw_model: whether the model's result was visible before the verdict.
            name: of an upload; an image of the folder has its path.

        Raises:
            WebError: an invalid value, an unknown image, or the file cannot be written.
        """
        given = {"reader": reader.strip(), "remark": remark.strip(), "name": name}
        for key, longest in _LONGEST.items():
            if len(given[key]) > longest:
                raise WebError(400, "wrong_verdict", f"{key} has over {longest} characters", "shorten it")
        if not given["reader"]:
            raise WebError(400, "wrong_verdict", "no reader is named", "give the reader's name")
        if verdict not in (*self.classes, UNSURE):
            raise WebError(400, "wrong_verdict", "the verdict is not a class", f"use one of {[*self.classes, UNSURE]}")
        with self._lock:
            answer = self._uploads.get(sha256)
        label = None
        with self._database() as known:
            row = known.execute(
                "SELECT path, label, answer FROM images WHERE sha256 = ? AND model = ? AND answer IS NOT NULL"
                " ORDER BY folder = ? DESC, number DESC", (sha256, self.model, str(self._root)),
            ).fetchone()  # fmt: skip
            if row is not None:
                given["name"], label, answer = row["path"], row["label"], json.loads(row["answer"])
            if answer is None:
                raise WebError(404, "not_found", "there is no prediction of this image", "predict it again")
            said = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"), **given, "sha256": sha256, "label": label,
                "verdict": verdict, "saw_model": saw_model, "model": self.model, "prediction": answer["prediction"],
                "probabilities": json.dumps(answer["probabilities"]),
            }  # fmt: skip
            known.execute(_insert("verdicts", said), said)

    def verdicts_csv(self) -> str:
        """The last verdict of each reader on each image, as CSV; cells that a spreadsheet would run are made inert."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *self.classes.columns])
        with self._database() as known:
            for row in self._latest(known):
                shares = json.loads(row["probabilities"])
                texts = [inert(str(row[name])) if row[name] is not None else "" for name in _COLUMNS]
                writer.writerow([*texts, *(shares[name] for name in self.classes)])
        return file.getvalue()

    def agreement(self) -> dict[str, Any]:
        """Kappa of each two raters, and sensitivity and specificity of each reader, the model and either.

        Returns:
            ``pairs`` and ``rates`` as `covidnet.evaluation.agreement` gives them, unknown values null; ``unsure``, the
            verdicts that name no class; ``saw_model``, those given after the model's result was visible.
        """
        with self._database() as known:
            rows = self._latest(known)
        sure = [row for row in rows if row["verdict"] != UNSURE]
        readings = [
            Reading(*(row[key] for key in ("reader", "sha256", "verdict", "prediction", "label"))) for row in sure
        ]
        found = {
            "verdicts": len(rows),
            "unsure": len(rows) - len(sure),
            "saw_model": sum(bool(row["saw_model"]) for row in rows),
            "pairs": agreements(readings, self.classes.names),
            "rates": reader_rates(readings, self.classes.names),
        }
        return {
            key: [_known(row) for row in value] if isinstance(value, list) else value for key, value in found.items()
        }

    def _latest(self, known: sqlite3.Connection) -> Sequence[sqlite3.Row]:
        return known.execute(
            "SELECT * FROM verdicts WHERE number IN"
            " (SELECT max(number) FROM verdicts WHERE model = ? GROUP BY reader, sha256) ORDER BY number",
            (self.model,),
        ).fetchall()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection for one use; what was written is saved at the end."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            # Thumbnails and paths of patients' images: for this user alone. SQLite says what is wrong with the file.
            with suppress(OSError):
                os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600))
            known = sqlite3.connect(self.file, timeout=20)
            try:
                known.row_factory = sqlite3.Row
                known.executescript(_TABLES)
                with known:
                    yield known
            finally:
                known.close()

    def line(self) -> str:
        """What is listed, in a line for the terminal."""
        return f"worklist: {counted(self.total, 'image')} in {listed(self.given)}; verdicts in {self.file}"


def _insert(table: str, row: Mapping[str, Any], *, or_replace: bool = False) -> str:
    verb = "INSERT OR REPLACE" if or_replace else "INSERT"
    return f"{verb} INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})"


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with null in place of NaN, which JSON lacks."""
    return {key: None if isinstance(value, float) and isnan(value) else value for key, value in row.items()}


def _thumbnail(preview: str) -> str:
    data = base64.b64decode(preview.partition(",")[2])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    shrink = THUMBNAIL / max(image.shape)
    size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
    _, packed = cv2.imencode(
        ".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 70]
    )
    return "data:image/jpeg;base64," + base64.b64encode(packed.tobytes()).decode("ascii")
