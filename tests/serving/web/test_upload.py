"""Reading one file of a request, with all limits enforced while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from covidnet.serving.web import upload
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.upload import Memory, read_upload
from covidnet.serving.web.web_error import WebError

SMALL = WebLimits(max_megabytes=0.001)
FORM = {"content-type": "multipart/form-data; boundary=cut"}


def part(data: bytes, name: str = "file", more: str = "") -> bytes:
    head = f'--cut\r\nContent-Disposition: form-data; name="{name}"; filename="anna.png"\r\n{more}\r\n'
    return head.encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--cut--\r\n"


def read(
    pieces: Iterable[bytes],
    headers: dict[str, str] | None = None,
    limits: WebLimits = SMALL,
    memory: Memory | None = None,
    pause: float = 0.0,
) -> bytes:
    taken = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal taken
        for piece in pieces:
            taken += len(piece)
            assert taken <= 200_000, "read on after it was too much"
            await asyncio.sleep(pause)
            yield piece

    async def run() -> bytes:
        with (memory or Memory(10**9)).share() as share:
            return await read_upload(stream(), headers or {}, limits, share)

    return asyncio.run(run())


def refusal(pieces: Iterable[bytes], headers: dict[str, str] | None = None, **options: object) -> WebError:
    with pytest.raises(WebError) as caught:
        read(pieces, headers, **options)  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


def endless() -> Iterable[bytes]:
    while True:
        yield bytes(500)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_a_body_is_the_file_whatever_its_declared_type() -> None:
    for kind in (
        "",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "image/png",
        "application/json",
        "?",
    ):
        assert read([b"ab", b"", b"c"], {"content-type": kind}) == b"abc"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_gives_its_file_in_pieces_of_any_size(size: int) -> None:
    data = bytes(range(256)) + b"\r\n--cu\r\n--" + bytes(100)
    assert read(cut(form(part(data)), size), FORM) == data


def test_a_form_with_text_after_its_end_is_read_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert read([form(part(b"abc", more="Content-Type: image/png\r\n")) + b"an epilogue"], FORM) == b"abc"
    refusal([b"a preamble\r\n" + form(part(b"abc"))], FORM)
    assert not caplog.records


@pytest.mark.parametrize("headers", [{}, FORM])
def test_an_endless_stream_is_rejected_at_the_limit(headers: dict[str, str]) -> None:
    pieces = endless()
    if headers:
        pieces = (piece for source in ([part(b"")[:-2]], endless()) for piece in source)
    found = refusal(pieces, headers)
    assert (found.status, found.code) == (413, "too_large")
    assert "0.001 MB" in found.cause


def test_a_too_large_length_is_rejected_unread() -> None:
    def unread() -> Iterable[bytes]:
        pytest.fail("read")
        yield b""

    for said in ("70000", "1" * 5000):
        assert refusal(unread(), {"content-length": said}).status == 413


@pytest.mark.parametrize("said", ["3", "-1", "many", ""])
def test_a_wrong_length_changes_nothing(said: str) -> None:
    assert refusal(endless(), {"content-length": said}).status == 413
    assert read([b"abc"], {"content-length": said}) == b"abc"


def test_the_limit_itself_is_allowed_in_both_ways() -> None:
    data = bytes(1000)
    assert read([data]) == read([form(part(data))], FORM) == data
    assert refusal([data + b"1"]).status == 413
    assert refusal([form(part(data + b"1"))], FORM).status == 413


def test_a_slow_upload_is_cancelled() -> None:
    found = refusal(endless(), limits=WebLimits(upload_seconds=0.1), pause=0.03)
    assert (found.status, found.code) == (408, "too_slow")


@pytest.mark.parametrize(("rate", "given_up"), [(100.0, True), (0.001, False)])
def test_an_upload_below_the_minimum_rate_is_cancelled(
    rate: float, given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PATIENCE_SECONDS", 0.1)
    limits = WebLimits(upload_rate=rate)
    if given_up:
        found = refusal(cut(bytes(500), 10), limits=limits, pause=0.01)
        assert (found.status, found.code) == (408, "too_slow")
        assert "100 kB per second" in found.cause
    else:
        assert read(cut(bytes(500), 10), limits=limits, pause=0.01) == bytes(500)


@pytest.mark.parametrize(("pieces", "headers"), [([], {}), ([b""], {}), ([form(part(b""))], FORM), ([form()], FORM)])
def test_an_empty_upload_is_rejected(pieces: list[bytes], headers: dict[str, str]) -> None:
    found = refusal(pieces, headers)
    assert (found.status, found.code) == (400, "empty")


@pytest.mark.parametrize(
    "body",
    [
        b"no form at all",
        part(b"abc"),  # no end
        form(part(b"abc"))[:-5],
        b"--cut\r\nno header\r\n\r\nabc\r\n--cut--",
        b"--cut\r\nContent-Disposition form-data\r\n\r\n",
        form(part(b"abc", more="X: " + "y" * 10_000 + "\r\n")),
        form(part(b"abc", more="".join(f"X-{n}: y\r\n" for n in range(100)))),
        b"\0" * 500,
    ],
)
def test_a_malformed_form_is_rejected(body: bytes) -> None:
    found = refusal([body], FORM)
    assert (found.status, found.code) == (400, "malformed")
    assert "curl -F" in found.remedy


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "x" * 5000])
def test_a_form_needs_a_boundary_of_sensible_length(boundary: str) -> None:
    assert refusal([b"abc"], {"content-type": f"multipart/form-data{boundary}"}).code == "malformed"


def test_other_multipart_bodies_are_refused() -> None:
    assert refusal([b"abc"], {"content-type": "multipart/mixed; boundary=cut"}).status == 415


def test_two_files_and_other_fields_are_refused() -> None:
    assert refusal([form(part(b"a"), part(b"b"))], FORM).code == "several_files"
    assert refusal([form(part(b"a", name="image"))], FORM).code == "wrong_part"
    assert refusal([form(part(b"a"), part(b"x", name="heat"))], FORM).code == "several_files"
    assert refusal([b"--cut\r\nX: y\r\n\r\nabc\r\n--cut--\r\n"], FORM).code == "wrong_part"


def test_a_compressed_body_is_rejected() -> None:
    assert refusal([b"abc"], {"content-encoding": "gzip"}).status == 415
    assert read([b"abc"], {"content-encoding": "identity"}) == b"abc"


def test_uploads_share_a_memory_limit_and_release_it() -> None:
    memory = Memory(1800)
    assert read([bytes(900)], memory=memory) == bytes(900)
    assert memory.used == 0
    with memory.share("10.0.0.1") as first, memory.share("10.0.0.2") as second:
        first.take(700)
        second.take(300)
        found = refusal([bytes(500), bytes(400)], memory=memory)
        assert (found.status, found.code) == (503, "busy")
        assert int(found.headers["Retry-After"]) >= 1
        assert memory.used == 1000
        with pytest.raises(WebError, match="uploads from one address"):
            first.take(201)
        second.take(600)
    assert memory.used == 0
    assert not memory.used_by
