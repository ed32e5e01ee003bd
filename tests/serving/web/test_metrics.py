"""What a server records and counts: the audit log and the counters for Prometheus."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.gate.flags import Flag
from covidnet.serving.audit_log import AuditLog
from covidnet.serving.web.guard import Access
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.lock import Lock
from covidnet.serving.web.server import create_app
from covidnet.serving.web.worklist import Worklist
from tests.serving.web.fakes import FakeDecoders, FakeModel, FakePredictor
from tests.serving.web.servers import client, image_png

TOKEN = "0123456789abcdef"
LOGIN = {"authorization": f"Bearer {TOKEN}"}


def lines(log: AuditLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def counted(ask: Any, **headers: str) -> dict[str, float]:
    """The samples of /metrics by name and labels."""
    answer = ask.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {" ".join([one.name, *one.labels.values()]): one.value for one in samples}


def test_every_answer_is_recorded_with_user_time_hash_and_no_name(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    predictor = FakePredictor(flags=[Flag("dark", "too dark", False)])
    with client(predictor, access=Access(lock=Lock(TOKEN)), audit_log=log) as ask:
        data = image_png()
        said = ask.post("/v1/predict", files={"file": ("muster-anna.png", data)}, headers=LOGIN).json()
        ask.post("/v1/predict", content=b"<html>", headers=LOGIN)
        ask.post("/v1/predict", content=data, headers={"authorization": "Bearer nothing"})
        ask.post("/v1/predict", content=data)
        ask.get("/v1/model", headers=LOGIN)
    start, image, refused, denied = lines(log)
    assert (start["event"], start["model"]) == ("start", "densenet121, 3 models (folds 0, 1, 2)")
    assert set(image) == {
        "time", "event", "user", "address", "sha256", "status", "prediction", "probabilities", "quality",
    }  # fmt: skip
    assert image["user"] == "token"
    assert image["address"] == "testclient"
    assert image["sha256"] == hashlib.sha256(data).hexdigest()
    assert (image["status"], image["quality"]) == (200, ["dark"])
    assert (image["prediction"], image["probabilities"]) == (said["prediction"], said["probabilities"])
    assert (refused["event"], refused["status"], refused["code"]) == ("image", 422, "unreadable_file")
    assert refused["sha256"] == hashlib.sha256(b"<html>").hexdigest()
    assert (denied["event"], set(denied)) == ("denied", {"time", "event", "address"})
    assert not {"anna", "html", TOKEN, "nothing"} & set(log.path.read_text().replace('"', " ").split())
    assert "anna" not in log.path.read_text()


def test_an_image_that_the_gate_refuses_is_recorded_with_its_code(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with client(FakePredictor(refusal=("looks like a photograph", "give a radiograph")), audit_log=log) as ask:
        ask.post("/v1/predict", content=image_png())
    assert {**lines(log)[1], "time": 0, "sha256": 0, "address": 0} == {
        "time": 0, "event": "image", "user": None, "address": 0, "sha256": 0, "status": 422, "code": "unsuitable_image",
    }  # fmt: skip


def test_an_answer_that_cannot_be_recorded_is_not_given(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with client(audit_log=log) as ask:
        log.path.unlink()
        log.path.mkdir()
        answer = ask.post("/v1/predict", content=image_png())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_audit_log")
        assert str(tmp_path) not in answer.text
        assert counted(ask)["covidnet_images_total no_audit_log"] == 1
        log.path.rmdir()
        assert ask.post("/v1/predict", content=image_png()).status_code == 200
    assert any("audit.jsonl: not written" in text for text in caplog.messages)
    assert [line["status"] for line in lines(log)] == [200]


def test_requests_and_answers_are_counted_for_prometheus() -> None:
    predictor = FakePredictor(flags=[Flag("dark", "too dark", False)])
    with client(predictor) as ask:
        for _ in range(2):
            name = ask.post("/v1/predict", content=image_png()).json()["prediction"]
        ask.post("/v1/predict", content=b"<html>")
        ask.get("/anna-muster.png")
        ask.request("ANNA", "/v1/predict")
        found = counted(ask)
        assert "anna" not in ask.get("/metrics").text.lower()
    assert found["covidnet_images_total answered"] == found[f"covidnet_predictions_total {name}"] == 2
    assert found["covidnet_images_total unreadable_file"] == 1
    assert found["covidnet_flags_total dark"] == 2
    assert found["covidnet_answer_seconds_count"] == 2
    assert found["covidnet_waiting_images"] == 0
    assert found["covidnet_responses_total POST /v1/predict 200"] == 2
    assert found["covidnet_responses_total POST /v1/predict 422"] == 1
    assert found["covidnet_responses_total GET none 404"] == 1
    assert any(key.startswith("covidnet_model_info densenet121") for key in found)


def test_metrics_need_the_login_as_every_route_does() -> None:
    with client(access=Access(lock=Lock(TOKEN))) as ask:
        assert ask.get("/metrics").status_code == 401
        assert counted(ask, **LOGIN)["covidnet_responses_total GET none 401"] == 1


def test_what_readers_see_and_decide_in_the_worklist_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "muster-anna.png").write_bytes(image_png())
    log = AuditLog(tmp_path / "audit.jsonl")
    worklist = Worklist(tmp_path / "verdicts.sqlite", str(tmp_path / "images"), "fake", CLASSES, WebLimits())
    access = Access(lock=Lock(TOKEN))
    app = create_app(FakeModel(), FakePredictor(), FakeDecoders(), access=access, worklist=worklist, audit_log=log)
    with TestClient(app, base_url="http://127.0.0.1", headers=LOGIN) as ask:
        while not (items := ask.get("/v1/worklist").json()["items"]):
            time.sleep(0.02)
        ask.get(f"/v1/worklist/{items[0]['number']}")
        said = {"sha256": items[0]["sha256"], "reader": "Ada", "verdict": "Normal", "saw_model": True}
        assert ask.post("/v1/verdicts", json=said).status_code == 204
        ask.get("/v1/verdicts")
    events = {line["event"]: line for line in lines(log)}
    assert list(events) == ["start", "list", "image", "verdict", "export"]
    assert {line.get("user") for line in list(events.values())[1:]} == {"token"}
    assert events["list"]["images"] == 1
    assert events["image"]["sha256"] == events["verdict"]["sha256"] == items[0]["sha256"]
    assert "anna" not in log.path.read_text()
