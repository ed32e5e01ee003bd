"""The REST API and the page: their responses, and that nothing of an upload is kept."""

from __future__ import annotations

import gc
import http.client
import json
import logging
import os
import random
import re
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.decoders import Decoders
from covidnet.gate.flags import Flag
from covidnet.gate.gate import InputGate
from covidnet.serving.answers import Predictor
from covidnet.serving.facts import NOTICE
from covidnet.serving.model import Outputs, ServedModel
from covidnet.serving.web import request_handler
from covidnet.serving.web.guard import HEADERS
from covidnet.serving.web.server import PAGES
from tests.data.reading import hostile
from tests.data.reading.test_dicom import image as dicom_image
from tests.data.reading.test_dicom import written
from tests.data.reading.test_hostile import CASES, Case
from tests.data.reading.test_images import (
    COLOUR,
    GRADIENT12,
    RAMP,
    chunk,
    mutated,
    orientation,
    png,
    png16,
    saved,
    tiff,
)
from tests.serving.web.fakes import FACTS, HOLDS, FakeDecoders, FakeModel, FakePredictor
from tests.serving.web.servers import client, fetched, image_png, serving


class MeanModel(ServedModel):
    """Probabilities from the mean grey value, behind a real input gate."""

    def outputs(self, squares: np.ndarray, maps: bool = False) -> Outputs:
        share = squares.mean(axis=(1, 2)) / 255
        members = np.stack([share / 2, 1 - share, share / 2], axis=1)[:, None]
        return Outputs(members[:, 0], members, np.zeros((len(squares), 4), np.float32))


def gated(gate: str = "refuse") -> Predictor:
    return Predictor(MeanModel(FACTS, InputGate.rules(), Path("none")), gate)


# Responses


def test_an_image_is_answered_with_every_documented_field() -> None:
    with client(FakePredictor(flags=[Flag("dark", "too dark; use another image", False)])) as ask:
        said = ask.post("/v1/predict", content=image_png()).json()
    assert set(said) == {
        "prediction", "probabilities", "calibrated", "members", "quality", "image", "preview", "heat", "notes",
        "notice", "seconds", "sha256",
    }  # fmt: skip
    assert list(said["probabilities"]) == list(CLASSES)
    assert sum(said["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert said["calibrated"] is True
    assert said["quality"] == [{"code": "dark", "text": "too dark; use another image"}]
    assert said["notice"] == NOTICE == "Research use only; not a medical device."
    assert said["heat"]["image"].startswith("data:image/png;base64,")
    assert 0 < said["seconds"] < 5


def test_a_body_and_a_form_get_the_same_answer() -> None:
    data = image_png()
    with client() as ask:
        answers = [
            ask.post("/v1/predict", content=data),
            ask.post("/v1/predict", content=data, headers={"content-type": "application/x-www-form-urlencoded"}),
            ask.post("/v1/predict", files={"file": ("anna.png", data, "text/plain")}),
            ask.post("/v1/predict", files={"file": ("anna.exe", data)}),
        ]
    said = [{**answer.json(), "seconds": 0} for answer in answers]
    assert said[0]["prediction"]
    assert all(one == said[0] for one in said)


@pytest.mark.parametrize(
    ("query", "drawn"), [("", True), ("?heat=true", True), ("?heat=false", False), ("?heat=0", False)]
)
def test_the_map_can_be_omitted(query: str, drawn: bool) -> None:
    with client() as ask:
        assert (ask.post(f"/v1/predict{query}", content=image_png()).json()["heat"] is not None) is drawn


def test_an_engine_without_maps_answers_without() -> None:
    with client(model=FakeModel(explains=False)) as ask:
        assert ask.post("/v1/predict", content=image_png()).json()["heat"] is None
        assert ask.get("/v1/model").json()["explains"] is False


def test_the_model_is_described() -> None:
    with client(max_megabytes=7) as ask:
        said = ask.get("/v1/model").json()
    assert said["classes"] == [{"name": name, "colour": CLASSES.colours[name]} for name in CLASSES]
    assert said["facts"]["network"] == "densenet121"
    assert said["notes"] == [*FACTS.notes(), *FACTS.map_notes()]
    assert said["card"] == "# Model card: fake"
    assert said["limits"] == {"max_megabytes": 7, "max_megapixels": 64, "min_side": 64}
    assert said["notice"] == NOTICE


def test_a_running_server_is_healthy() -> None:
    with client() as ask:
        assert ask.get("/health").json() == {"status": "ok"}
        assert ask.get("/ready").json() == {"status": "ok"}


@pytest.mark.slow
def test_a_slow_file_is_refused_but_not_one_that_only_waited_too_long() -> None:
    # A stopped process stands for a file that never finishes decoding.
    for limits, status, code in (
        ({"max_seconds": 0.5}, 422, "unreadable_file"),
        ({"answer_seconds": 0.5}, 503, "timed_out"),
    ):
        with Decoders(1, max_seconds=limits.pop("max_seconds", 20)) as decoders:
            decoders.decode(image_png(), "image.png")
            with client(decoders=decoders, **limits) as ask:
                assert ask.post("/v1/predict", content=image_png()).status_code == 200
                for child in decoders._children:
                    child._process.send_signal(signal.SIGSTOP)
                answer = ask.post("/v1/predict", content=image_png())
                assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
                if status == 422:
                    assert answer.json()["error"]["cause"] == "took more than 0.5 s to decode"
                end = time.monotonic() + 20
                while ask.post("/v1/predict", content=image_png()).status_code != 200 and time.monotonic() < end:
                    time.sleep(0.1)
                assert ask.get("/ready").status_code == 200


def test_without_a_free_reader_the_server_is_healthy_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_handler, "READY_SECONDS", 0.2)
    decoders = FakeDecoders()
    with serving(decoders=decoders, answer_seconds=20) as port, ExitStack() as held:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(HOLDS)}\r\n\r\n".encode()
        for number in range(request_handler.READERS):
            source = f"127.0.0.{1 + number}", 0
            line = socket.create_connection(("127.0.0.1", port), source_address=source)
            held.enter_context(line).sendall(head + HOLDS)
        while len(decoders.at_work) < request_handler.READERS:
            time.sleep(0.01)
        status, _, answer = fetched(port, "/ready")
        assert status == 503
        assert answer["error"]["cause"] == "no reader is free within 0.2 seconds"
        assert fetched(port, "/health")[0] == 200
        held.close()
        while decoders.at_work:
            time.sleep(0.01)
        assert fetched(port, "/ready")[0] == 200


def test_openapi_describes_both_ways_to_send_an_image_and_every_error() -> None:
    with client() as ask:
        told = ask.get("/openapi.json").json()
    assert set(told["paths"]) == {"/v1/predict", "/v1/model", "/health", "/ready"}
    predict = told["paths"]["/v1/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"application/octet-stream", "multipart/form-data"}
    assert {"200", "400", "403", "408", "413", "415", "422", "429", "503"} <= set(predict["responses"])
    error = predict["responses"]["422"]["content"]["application/json"]["schema"]["$ref"]
    assert error.endswith("/Error")
    assert "class" in told["components"]["schemas"]["Heat"]["properties"]


# Rejections


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/page/../server.py", 404),
        ("GET", "/..%2fserver.py", 404),
        ("GET", "/v1/predict", 405),
        ("PUT", "/v1/predict", 405),
        ("POST", "/", 405),
        ("PUT", "/anna.png", 404),
        ("POST", "/v1/predict?heat=perhaps", 400),
        ("POST", "/v1/predict", 400),
    ],
)
def test_every_error_is_json_with_the_headers(method: str, path: str, status: int) -> None:
    with client() as ask:
        answer = ask.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "cause", "remedy"}
    assert all(answer.json()["error"].values())
    assert "anna" not in answer.text
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    if status == 405:
        assert answer.headers["allow"]


def test_an_image_that_the_gate_refuses_is_a_422_with_its_text() -> None:
    with client(FakePredictor(refusal=("looks like a photograph", "give a radiograph, or use gate=warn"))) as ask:
        answer = ask.post("/v1/predict", content=image_png())
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "unsuitable_image",
        "cause": "looks like a photograph",
        "remedy": "give a radiograph, or start the server with gate=warn",
    }


def test_an_address_beyond_its_rate_gets_a_retry_after() -> None:
    with client(rate=0.5, burst=2) as ask:
        answers = [ask.post("/v1/predict", content=image_png()) for _ in range(3)]
        assert ask.get("/health").status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 2


def test_a_timeout_is_a_503() -> None:
    with client(FakePredictor(seconds=0.5), answer_seconds=0.1) as ask:
        answer = ask.post("/v1/predict", content=image_png())
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_the_limit_on_pixels_names_the_setting_of_the_server() -> None:
    with client(max_megapixels=0.005) as ask:
        said = ask.post("/v1/predict", content=image_png()).json()["error"]
    assert "megapixels, the limit is 0.005" in said["cause"]
    assert "data." not in said["remedy"]
    assert "max_megapixels of the server" in said["remedy"]


def bomb() -> bytes:
    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(1501)) for _ in range(12_000)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 2, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def bad_crc() -> bytes:
    data = bytearray(saved(RAMP, "PNG"))
    data[data.index(b"IDAT") + 5] ^= 1
    return bytes(data)


def many_frames() -> bytes:
    pages = [Image.fromarray(RAMP + number) for number in range(3)]
    return saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])


def no_pixels(modality: str) -> bytes:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.481.5", "1.2.3", modality
    return written(header)


def photograph() -> bytes:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return saved(Image.fromarray(colours).resize((400, 300), Image.Resampling.BICUBIC), "JPEG")


def dicom_frames() -> bytes:
    return written(dicom_image(np.stack([RAMP] * 3), Rows=80, Columns=96, SamplesPerPixel=1, NumberOfFrames=3,
                              PhotometricInterpretation="MONOCHROME2"))  # fmt: skip


BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "empty file": (lambda: b"", 400, "empty"),
    "HTML named jpg": (lambda: b"<!DOCTYPE html><html>404</html>", 422, "HTML"),
    "text named jpg": (lambda: b"no image\n", 422, "text"),
    "JPEG cut in half": (lambda: (data := saved(RAMP, "JPEG"))[: len(data) // 2], 422, "truncated"),
    "JPEG without end marker": (lambda: saved(RAMP, "JPEG")[:-2], 422, "truncated"),
    "PNG with a bad CRC": (bad_crc, 422, "CRC"),
    "1-bit PNG": (lambda: saved(Image.fromarray(RAMP > 80), "PNG"), 422, "1-bit"),
    "alpha 0": (lambda: saved(np.dstack([RAMP] * 3 + [np.zeros_like(RAMP)]), "PNG"), 422, "no information"),
    "float TIFF of no range": (lambda: saved(Image.fromarray(RAMP.astype(np.float32) - 50), "TIFF"), 422, "-50"),
    "multi-frame TIFF": (many_frames, 422, "3 frames"),
    "multi-frame DICOM": (dicom_frames, 422, "3 frames"),
    "144 megapixels in 18 kB": (bomb, 422, "144 megapixels"),
    "400 megapixels": (lambda: png(RAMP, 8, 0, size=(20_000, 20_000)), 422, "400 megapixels"),
    "1 x 1 pixel": (lambda: saved(Image.new("L", (1, 1)), "PNG"), 422, "too small"),
    "under 64 pixels": (lambda: saved(Image.new("L", (63, 200)), "PNG"), 422, "too small"),
    "constant": (lambda: saved(np.full((80, 96), 77, np.uint8), "PNG"), 422, "no information"),
    "DICOM truncated": (lambda: written(dicom_image(RAMP))[:-3000], 422, ""),
    "DICOM without pixels": (lambda: no_pixels("CR"), 422, "no image"),
    "RTPLAN": (lambda: no_pixels("RTPLAN"), 422, "no image"),
    "colour photograph": (photograph, 422, "colour"),
    "ZIP archive": (lambda: b"PK\x03\x04" + bytes(500), 422, "ZIP"),
    "pickle": (lambda: b"\x80\x04\x95" + bytes(500), 422, "not an image"),
}

GOOD: dict[str, Callable[[], bytes]] = {
    "16-bit PNG": lambda: png16(GRADIENT12 * 16),
    "12 bits in 16": lambda: png16(GRADIENT12),
    "EXIF orientation 6": lambda: saved(RAMP, "JPEG", exif=orientation(6)),
    "CMYK JPEG": lambda: saved(Image.fromarray(RAMP).convert("CMYK"), "JPEG"),
    "MONOCHROME1": lambda: written(dicom_image(RAMP, PhotometricInterpretation="MONOCHROME1")),
    "DICOM without preamble": lambda: written(dicom_image(RAMP))[132:],
    "float TIFF": lambda: saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"),
}


def test_every_bad_input_is_refused_with_a_cause_and_the_server_keeps_running() -> None:
    with client(gated(), rate=0) as ask:
        good = draw_png()
        for name, (make, status, words) in BAD.items():
            answer = ask.post("/v1/predict", content=make())
            assert (name, answer.status_code) == (name, status), answer.text
            error = answer.json()["error"]
            assert words in error["cause"], (name, error)
            assert error["remedy"], name
            assert "upload" not in error["cause"], name
            assert ask.post("/v1/predict", content=good).status_code == 200, name


def test_unusual_but_valid_files_are_read() -> None:
    with client(rate=0) as ask:
        for name, make in GOOD.items():
            answer = ask.post("/v1/predict", content=make())
            assert (name, answer.status_code) == (name, 200), answer.text


def draw_png() -> bytes:
    return saved(draw_image("Normal", 1, 0, size=256).image, "PNG")


# Nothing is kept


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """All files in the folders where programs write."""
    for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(tempfile, "tempdir", None)
    return lambda: [path for path in tmp_path.rglob("*") if path.is_file()]


def test_neither_a_file_nor_its_name_is_kept(
    watched: Callable[[], list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[str] = []
    listening = True

    def hook(event: str, arguments: Any) -> None:
        if listening and event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(str(arguments[0]))

    # Larger than what form parsers keep in memory. The audit hook cannot be removed, only disabled.
    big = saved(np.random.default_rng(0).integers(0, 255, (1500, 1500), dtype=np.uint8), "PNG")
    assert len(big) > 2_000_000
    sys.addaudithook(hook)
    try:
        with caplog.at_level(logging.DEBUG), client(gated("warn"), rate=0) as ask:
            for data in (big, image_png(), b"<html>", big[:-9]):
                for answer in (
                    ask.post("/v1/predict", content=data),
                    ask.post("/v1/predict", files={"file": ("anna-muster.png", data)}),
                ):
                    assert answer.status_code in (200, 422)
                    assert "muster" not in answer.text
    finally:
        listening = False
    assert watched() == []
    assert [path for path in opened if not path.startswith(("/dev/", "/proc/"))] == []
    # The test's client logs its own requests.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not any("muster" in text for text in ours)


@pytest.mark.slow
def test_damaged_files_leave_no_failure_no_file_and_no_memory(
    watched: Callable[[], list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    count = 800
    rng = random.Random(7)
    seeds = [
        saved(RAMP, "JPEG", exif=orientation(6)),
        saved(COLOUR, "JPEG", progressive=True),
        saved(COLOUR, "PNG"),
        png16(GRADIENT12, chunk(b"sBIT", b"\x0c")),
        saved(COLOUR, "TIFF", compression="tiff_lzw"),
        tiff(RAMP.tobytes(), 96, 80, {258: (3, 8), 262: (3, 0)}),
        saved(COLOUR, "BMP"),
        written(dicom_image(GRADIENT12, 12, WindowCenter=2000, WindowWidth=3000)),
        draw_png(),
        b"",
    ]
    statuses: list[int] = []
    half = (0, 0)
    with (
        caplog.at_level(logging.ERROR),
        Decoders(2, max_megapixels=4) as decoders,
        client(gated(), decoders=decoders, rate=0, max_megapixels=4) as ask,
    ):
        for number in range(count):
            if number == count // 2:
                half = taken()
            seed = seeds[number % len(seeds)]
            data = mutated(seed, rng) if seed else rng.randbytes(rng.choice([1, 3, 40, 5000]))
            form = number % 3 == 0
            start = time.monotonic()
            answer = (
                ask.post("/v1/predict", files={"file": ("image", data)}) if form
                else ask.post("/v1/predict", content=data)
            )  # fmt: skip
            statuses.append(answer.status_code)
            assert answer.status_code in (200, 400, 422), (number, answer.text)
            assert answer.headers["content-type"] == "application/json"
            assert time.monotonic() - start < 25, number
        assert ask.post("/v1/predict", content=draw_png()).status_code == 200
        memory, files = taken()
    assert statuses.count(422) > 0.3 * count
    assert memory < 1.1 * half[0]
    assert files <= half[1]
    assert not caplog.records
    assert watched() == []


def taken() -> tuple[int, int]:
    """Bytes of memory and open files of this process; (1, 0) if the system does not report them."""
    gc.collect()
    if not Path("/proc/self/statm").exists():
        return 1, 0
    return int(Path("/proc/self/statm").read_text().split()[1]), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
def test_hostile_files_are_refused_while_the_other_reader_works() -> None:
    good, over = image_png(), threading.Event()
    answers: list[int] = []

    def ask(port: int) -> None:
        while not over.wait(0.05):
            answers.append(posted(port, good)[0])

    # No check before decoding refuses the last one, and it exceeds the time limit. All others: test_hostile.py.
    cases = [*CASES[::4], Case("jpeg_scans", (100, 8_000), "took more than 2 s to decode")]
    with Decoders(2, max_seconds=2) as decoders, serving(decoders=decoders, rate=0) as port:
        other = threading.Thread(target=ask, args=(port,))
        other.start()
        try:
            for case in cases:
                data, before = getattr(hostile, case.maker)(*case.sizes), len(answers)
                status, said = posted(port, data)
                if status != 413:
                    assert status == (422 if case.cause else 200), (case, said)
                    assert case.cause in said.get("error", {}).get("cause", ""), (case, said)
            # While it was decoded.
            assert len(answers) > before
            assert fetched(port, "/ready")[0] == 200
        finally:
            over.set()
            other.join()
    assert set(answers) == {200}


def posted(port: int, data: bytes) -> tuple[int, Any]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        line.request("POST", "/v1/predict?heat=false", data)
        answer = line.getresponse()
        return answer.status, json.load(answer)
    finally:
        line.close()


@pytest.mark.slow
def test_100_damaged_forms_leave_no_failure() -> None:
    rng = random.Random(11)
    data = image_png()
    good = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + data + b"\r\n--cut--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=cut"}
    statuses = set()
    with client(rate=0) as ask:
        for _ in range(100):
            body = bytearray(good)
            for _ in range(rng.choice([1, 2, 5])):
                body[rng.randrange(rng.choice([90, len(body)]))] = rng.randrange(256)
            statuses.add(ask.post("/v1/predict", content=bytes(body), headers=headers).status_code)
    assert statuses <= {200, 400, 422}
    assert 400 in statuses


# The page


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "text/html"), ("/app.js", "text/javascript"), ("/common.js", "text/javascript"), ("/style.css", "text/css")],
)
def test_the_page_has_its_type_and_headers(path: str, kind: str) -> None:
    with client() as ask:
        answer = ask.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content == (files("covidnet.serving.web") / "page" / (path[1:] or "index.html")).read_bytes()


def test_the_page_loads_nothing_from_other_sites_and_writes_no_html() -> None:
    folder = files("covidnet.serving.web") / "page"
    texts = {name: (folder / name).read_text() for name, _ in PAGES.values()}
    for name, text in texts.items():
        assert not re.search(r"https?://|@import|url\(", text)
        if name.endswith(".html"):
            assert NOTICE in text
            assert not re.search(r"\son\w+=|style=|<script>|<style", text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", text)


def test_browsers_do_not_guess_the_type_of_an_answer() -> None:
    with client() as ask:
        answer = ask.post("/v1/predict", content=image_png())
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    json.loads(answer.text)
