"""The worklist: predictions of a folder, verdicts of readers, and what may go wrong with their file."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError
from covidnet.serving.audit_log import AuditLog
from covidnet.serving.web import worklist as module
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.server import create_app
from covidnet.serving.web.worklist import UNSURE, Worklist
from tests.serving.web.fakes import FakeDecoders, FakeModel, FakePredictor
from tests.serving.web.servers import client, image_png


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.05)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two labelled images, one without a label, a file that is no image and an odd name."""
    folder = tmp_path / "images"
    for number, name in enumerate(["Normal/a.png", "COVID19/b.png", "other/=c.png", "other/page.jpg"]):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"<html>" if name.endswith("page.jpg") else image_png(seed=number))
    return folder


def made(tmp_path: Path, given: Path | str, model: str = "one", **limits: Any) -> Worklist:
    return Worklist(tmp_path / "made" / "verdicts.sqlite", str(given), model, CLASSES, WebLimits(**limits))


def app_of(found: Worklist, predictor: Any = None) -> TestClient:
    app = create_app(FakeModel(), predictor or FakePredictor(), FakeDecoders(), WebLimits(), worklist=found)
    return TestClient(app, raise_server_exceptions=False)


def until(read: Callable[[], Any], done: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + 20
    while not done(found := read()) and time.monotonic() < end:
        time.sleep(0.02)
    assert done(found), found
    return found


def listed(ask: TestClient, count: int, reader: str = "") -> dict[str, dict[str, Any]]:
    url = f"/v1/worklist?reader={reader}"
    found = until(lambda: ask.get(url).json(), lambda answer: answer["done"] == answer["total"] == count)
    return {item["name"]: item for item in found["items"]}


def said(item: dict[str, Any], verdict: str, reader: str = "Ada", **others: Any) -> dict[str, Any]:
    return {"sha256": item["sha256"], "reader": reader, "verdict": verdict, "saw_model": False, **others}


def test_the_images_of_a_folder_are_listed_with_predictions_and_refusals(tmp_path: Path, images: Path) -> None:
    with app_of(made(tmp_path, images)) as ask:
        items = listed(ask, 4)
        assert sorted(items) == ["=c.png", "a.png", "b.png", "page.jpg"]
        for name in ("a.png", "b.png", "=c.png"):
            assert items[name]["prediction"] in CLASSES
            assert sum(items[name]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert items[name]["thumbnail"].startswith("data:image/jpeg;base64,")
            assert items[name]["refused"] is None
            whole = ask.get(f"/v1/worklist/{items[name]['number']}").json()
            assert whole["sha256"] == items[name]["sha256"]
            assert whole["probabilities"] == items[name]["probabilities"]
            assert whole["heat"]["image"].startswith("data:image/png")
        assert items["page.jpg"]["refused"]["cause"] == "not an image: HTML"
        assert ask.get("/v1/worklist?since=3").json()["items"][0]["number"] == 4
        assert ask.get("/v1/worklist/99").json()["error"]["code"] == "not_found"


def test_new_and_changed_images_are_found_and_nothing_is_predicted_twice(tmp_path: Path, images: Path) -> None:
    predictor = FakePredictor()
    with app_of(made(tmp_path, images), predictor) as ask:
        before = listed(ask, 4)
        (images / "Normal" / "d.png").write_bytes(image_png(seed=9))
        (images / "Normal" / "a.png").write_bytes(image_png(seed=10, side=100))
        (images / "other" / "page.jpg").unlink()
        after = until(lambda: listed(ask, 4), lambda items: items["a.png"]["sha256"] != before["a.png"]["sha256"])
    assert sorted(after) == ["=c.png", "a.png", "b.png", "d.png"]
    assert after["a.png"]["key"] == before["a.png"]["key"]
    assert sum(predictor.batches) == 3 + 2
    again, other = FakePredictor(), FakePredictor()
    with app_of(made(tmp_path, images), again) as ask:
        listed(ask, 4)
    assert again.batches == []
    with app_of(made(tmp_path, images, model="another"), other) as ask:
        listed(ask, 4)
    assert sum(other.batches) == 4


def test_verdicts_are_kept_beside_the_prediction_and_the_last_one_counts(tmp_path: Path, images: Path) -> None:
    with app_of(made(tmp_path, images)) as ask:
        items = listed(ask, 4)
        posts = [
            said(items["a.png"], "COVID-19", saw_model=True, remark="=cmd|calc"),
            said(items["a.png"], "Normal", remark="=cmd|calc"),
            said(items["b.png"], "COVID-19"),
            said(items["=c.png"], UNSURE),
            said(items["a.png"], "Normal", reader="Ben"),
        ]
        assert [ask.post("/v1/verdicts", json=post).status_code for post in posts] == [204] * 5
        assert listed(ask, 4, "Ada")["a.png"]["verdict"] == "Normal"
        assert listed(ask, 4)["a.png"]["verdict"] is None
        answer = ask.get("/v1/verdicts")
        agreement = ask.get("/v1/agreement").json()
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["reader"], row["name"], row["label"], row["verdict"]) for row in rows] == [
        ("Ada", "Normal/a.png", "Normal", "Normal"),
        ("Ada", "COVID19/b.png", "COVID-19", "COVID-19"),
        ("Ada", "other/=c.png", "", UNSURE),
        ("Ben", "Normal/a.png", "Normal", "Normal"),
    ]
    assert rows[0]["remark"] == "'=cmd|calc"
    assert rows[0]["saw_model"] == "0"
    assert {row["prediction"] for row in rows} <= set(CLASSES)
    assert float(rows[0]["p_covid19"]) == items["a.png"]["probabilities"]["COVID-19"]
    assert (agreement["verdicts"], agreement["unsure"], agreement["saw_model"]) == (4, 1, 0)
    assert [(row["first"], row["second"], row["images"]) for row in agreement["pairs"]] == [
        ("Ada", "Ben", 1), ("Ada", "model", 2), ("Ben", "model", 1),
    ]  # fmt: skip
    of = {(row["reader"], row["class"], row["rater"]): row for row in agreement["rates"]}
    assert of["Ada", "Normal", "reader"]["sensitivity"] == 1
    assert of["Ada", "Pneumonia", "reader"]["sensitivity"] is None
    if os.name == "posix":
        assert (tmp_path / "made" / "verdicts.sqlite").stat().st_mode & 0o777 == 0o600
    # The earlier verdict is not lost.
    with sqlite3.connect(tmp_path / "made" / "verdicts.sqlite") as known:
        assert known.execute("SELECT count(*) FROM verdicts").fetchone() == (5,)
    known.close()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"verdict": "Fracture"}, "the verdict is not a class"),
        ({"reader": "  "}, "no reader is named"),
        ({"reader": "A" * 101}, "reader has over 100 characters"),
        ({"saw_model": "perhaps"}, "saw_model: Input should be a valid boolean, unable to interpret input"),
        ({"sha256": "0" * 64}, "there is no prediction of this image"),
        ({"remark": "x" * 60_000}, "the file is larger than 0.05 MB"),
    ],
)
def test_a_verdict_that_cannot_be_kept_is_refused(
    tmp_path: Path, images: Path, change: dict[str, Any], cause: str
) -> None:
    with app_of(made(tmp_path, images)) as ask:
        answer = ask.post("/v1/verdicts", json=said(listed(ask, 4)["a.png"], "Normal") | change)
        assert answer.json()["error"]["cause"] == cause
        assert answer.status_code in (400, 404, 413)
        for body in (b"{", b""):
            answer = ask.post("/v1/verdicts", content=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_verdict")
        assert len(ask.get("/v1/verdicts").text.splitlines()) == 1


def test_a_verdict_on_an_upload_is_kept_without_the_image(tmp_path: Path) -> None:
    found = made(tmp_path, "")
    with app_of(found) as ask:
        assert not found.file.exists()
        answer = ask.post("/v1/predict", content=image_png()).json()
        assert not found.file.exists()
        post = said(answer, "Pneumonia", name="one.png")
        assert ask.post("/v1/verdicts", json=post).status_code == 204
        (row,) = csv.DictReader(io.StringIO(ask.get("/v1/verdicts").text))
        assert (row["name"], row["prediction"], row["label"]) == ("one.png", answer["prediction"], "")
        assert ask.get("/v1/worklist").json() == {"total": 0, "done": 0, "items": [], "reader": None}
    assert found.file.stat().st_size < 60_000


def test_a_file_that_cannot_be_written_loses_no_verdict_in_silence(
    tmp_path: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = made(tmp_path, images)
    with app_of(found) as ask:
        items = listed(ask, 4)
        found.file.write_bytes(b"not a database, but long enough to be taken for one" * 100)
        answer = ask.post("/v1/verdicts", json=said(items["a.png"], "Normal"))
        assert answer.status_code == 503
        assert answer.json()["error"]["remedy"] == "check the disk of the server; nothing was saved"
        until(lambda: [line for line in caplog.messages if "tried again every" in line], bool)
        time.sleep(0.3)
    # Said once, not at every look.
    assert sum("tried again every" in line for line in caplog.messages) == 1
    with pytest.raises(SettingError, match=r"verdicts=.*must be a worklist's file, or a new one"):
        made(tmp_path, images)
    with pytest.raises(DataError, match="no such file or folder"):
        made(tmp_path / "else", tmp_path / "absent")


@pytest.mark.slow
def test_a_busy_server_delays_the_folder_and_refuses_none_of_it(tmp_path: Path, images: Path) -> None:
    predictor = FakePredictor()
    predictor.open.clear()
    # Each is tried again a second later.
    for name in ("COVID19/b.png", "other/=c.png"):
        (images / name).unlink()
    found = made(tmp_path, images)
    app = create_app(FakeModel(), predictor, FakeDecoders(), WebLimits(queue=1), worklist=found)
    with TestClient(app) as ask:
        until(lambda: predictor.batches, bool)
        predictor.open.set()
        items = listed(ask, 2)
    assert [name for name, item in items.items() if item["refused"]] == ["page.jpg"]


def test_an_image_that_twice_takes_too_long_is_refused_and_a_large_one_at_once(tmp_path: Path, images: Path) -> None:
    found = made(tmp_path, images, max_megabytes=0.001)
    assert found.total == 4
    calls: list[int] = []

    async def never(data: bytes) -> dict[str, Any]:
        calls.append(len(data))
        raise module.WebError(503, "timed_out", "no answer within 1 seconds", "try again later", retry=0)

    async def both() -> list[Any]:
        return [await found._predict(name, never) for name in ("other/page.jpg", "Normal/a.png")]

    held, large = asyncio.run(both())
    assert held == (None, {"cause": "no answer within 1 seconds", "remedy": "try again later"})
    assert len(calls) == 2
    assert large == (None, {"cause": "over 0.001 MB", "remedy": "raise max_megabytes of the server"})


def test_without_a_worklist_there_is_no_such_page(tmp_path: Path) -> None:
    with client() as ask:
        assert ask.get("/worklist").status_code == ask.get("/v1/worklist").status_code == 404
    with app_of(made(tmp_path, "")) as ask:
        assert ask.get("/worklist").status_code == 200
        assert {"/v1/worklist", "/v1/verdicts", "/v1/agreement"} <= set(ask.get("/openapi.json").json()["paths"])
        assert json.loads(ask.get("/v1/agreement").text)["verdicts"] == 0


def test_a_user_reads_under_the_own_name_and_the_audit_log_has_it(tmp_path: Path, images: Path) -> None:
    class AsAda:
        """The guard after the login of a user."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "user": "ada"}, receive, send)

    log = AuditLog(tmp_path / "audit.jsonl")
    guard: Any = create_app(
        FakeModel(), FakePredictor(), FakeDecoders(), WebLimits(), worklist=made(tmp_path, images), audit_log=log
    )
    guard._app.add_middleware(AsAda)
    with TestClient(guard, raise_server_exceptions=False) as ask:
        item = listed(ask, 4)["a.png"]
        assert ask.get(f"/v1/worklist/{item['number']}").status_code == 200
        assert ask.post("/v1/verdicts", json=said(item, "Normal", reader="Somebody Else")).status_code == 204
        answer = ask.get("/v1/worklist?reader=Somebody").json()
        assert answer["reader"] == "ada"
        assert {one["name"]: one["verdict"] for one in answer["items"]}["a.png"] == "Normal"
        (row,) = csv.DictReader(io.StringIO(ask.get("/v1/verdicts").text))
        assert row["reader"] == "ada"
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    noted = [(line["event"], line["user"], line["sha256"]) for line in lines if line["event"] in ("image", "verdict")]
    assert noted == [("image", "ada", item["sha256"]), ("verdict", "ada", item["sha256"])]
