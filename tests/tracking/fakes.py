"""A W&B server on this machine, and a reader of the files that wandb writes."""

from __future__ import annotations

import http.server
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEY = "0123456789" * 4


class Server(http.server.ThreadingHTTPServer):
    """Answers as much as a run needs; what it was asked stands in `operations`, what it was sent in `uploads`."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.uploads: dict[str, bytes] = {}
        self.silent = threading.Event()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that gave up are no fault of a test."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.silent.is_set():
            self.server.over.wait(60)
            self.close_connection = True
            return
        told: dict[str, Any] = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            told = {"data": self._data(asked["query"], asked.get("variables") or {})}
        else:
            self.server.uploads[self.path] = self.server.uploads.get(self.path, b"") + body
        content = json.dumps(told).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def _data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        name = next((n for n in ("upsertBucket", "createRunFiles", "createArtifact", "viewer") if n in query), "other")
        self.server.operations.append((name, given))
        if name == "viewer":
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if name == "upsertBucket":
            project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": given.get("name"), "displayName": given.get("displayName"), "config": "{}"}
            return {"upsertBucket": {"bucket": {**bucket, "project": project, "historyLineCount": 0}, "inserted": True}}
        if name == "createRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.server.url}/upload/{n}"} for n in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if name == "createArtifact":
            # As if the server had it already: nothing is uploaded.
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        return {}

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal of the tests."""


@contextmanager
def wandb_server(status: int = 200) -> Iterator[Server]:
    server = Server(status)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        yield f"http://127.0.0.1:{hole.getsockname()[1]}"


class RunFile:
    """What a .wandb file says: LevelDB's log format behind a header of 7 bytes, a protobuf in each record."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.records = list(_records(path))
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.files: set[str] = set()
        self.artifacts: list[Any] = []
        self.metrics: list[Any] = []
        self.config: dict[str, Any] = {}
        self.exit_code: int | None = None
        for record in self.records:
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.run = record.run
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "config":
                self.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            elif kind == "history":
                self.history.append(_nested(record.history.item))
            elif kind == "summary":
                for item in record.summary.update:
                    key = "/".join(item.nested_key) or item.key
                    self.summary[key] = json.loads(item.value_json)
            elif kind == "files":
                self.files |= {item.path for item in record.files.files}
            elif kind == "artifact":
                self.artifacts.append(record.artifact)
            elif kind == "metric":
                self.metrics.append(record.metric)
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    @property
    def names(self) -> set[str]:
        return {name for row in self.history for name in row}


def run_files(folder: Path) -> list[RunFile]:
    import wandb

    # A run that has ended is written to its last byte when wandb's process has ended too.
    wandb.teardown()
    # latest-run is a link to one of them.
    found = [path for path in folder.glob("wandb/*/*.wandb") if not path.parent.is_symlink()]
    return [RunFile(path) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def _nested(items: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        *above, last = list(item.nested_key) or [item.key]
        at = row
        for key in above:
            at = at.setdefault(key, {})
        at[last] = json.loads(item.value_json)
    return row


def _records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B", path
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record
