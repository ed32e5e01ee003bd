"""A real nginx in front of the server, configured as in docs/serving.md and with its defaults."""

from __future__ import annotations

import getpass
import http.client
import re
import shutil
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from covidnet.serving.web.guard import access_of
from tests.conftest import PROJECT
from tests.serving.web.servers import image_png, serving

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None or OPENSSL is None, reason="there is no nginx or openssl on this machine"),
]

WRAPPED = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""
PLAIN = "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{behind}; }} }}"


def documented(folder: Path, port: int, behind: int) -> str:
    """The example of docs/serving.md with ports and files of this test."""
    found = re.search(r"```nginx\n(.*?)```", (PROJECT / "docs/serving.md").read_text(), re.DOTALL)
    assert found is not None
    text = found[1]
    subprocess.run(
        [OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=images.example", "-keyout", folder / "key", "-out", folder / "pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "users").write_text("anna:{PLAIN}secret\n")
    for setting, value in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("/etc/ssl/images.example.pem", f"{folder}/pem"),
        ("/etc/ssl/images.example.key", f"{folder}/key"),
        ("/etc/nginx/images.users", f"{folder}/users"),
        ("http://127.0.0.1:8000", f"http://127.0.0.1:{behind}"),
    ):
        assert text.count(setting) == 1, setting
        text = text.replace(setting, value)
    return text


@contextmanager
def nginx(folder: Path, port: int, server: str) -> Iterator[None]:
    assert NGINX is not None
    config = folder / "nginx.conf"
    config.write_text(WRAPPED.format(user=getpass.getuser(), folder=folder, server=server))
    with subprocess.Popen([NGINX, "-c", config, "-e", folder / "error.log"], stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 10
            while time.monotonic() < end and process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.02)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            yield
        finally:
            process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def post(line: http.client.HTTPConnection, host: str, **more: str) -> int:
    """A request as the page sends it in a browser."""
    scheme = "https" if isinstance(line, http.client.HTTPSConnection) else "http"
    headers = {"Host": host, "Origin": f"{scheme}://{host}", "Sec-Fetch-Site": "same-origin", **more}
    try:
        line.request("POST", "/v1/predict", image_png(side=300), headers)
        answer = line.getresponse()
        answer.read()
        return answer.status
    finally:
        line.close()


def test_the_documented_proxy_lets_the_page_post_and_distinguishes_its_users(tmp_path: Path) -> None:
    port = free_port()
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    known = {"Authorization": "Basic " + b64encode(b"anna:secret").decode()}

    def asked(address: str, **headers: str) -> int:
        line = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting, source_address=(address, 0))
        return post(line, f"images.example:{port}", **headers)

    access = access_of("127.0.0.1", ["images.example"], ["127.0.0.1"])
    with (
        serving(access=access, rate=0.01, burst=1) as behind,
        nginx(tmp_path, port, documented(tmp_path, port, behind)),
    ):
        assert asked("127.0.0.1") == 401
        assert asked("127.0.0.3", **known, Origin="https://evil.example") == 403
        # nginx itself is at 127.0.0.1; its users are not.
        assert [asked(f"127.0.0.{n}", **known) for n in (2, 3, 4)] == [200] * 3
        assert [asked(f"127.0.0.{n}", **known) for n in (2, 3, 4)] == [429] * 3
        assert asked("127.0.0.2", **known, **{"X-Forwarded-For": "192.0.2.5"}) == 429
    # Neither an upload nor a response was written to the disk of the proxy.
    assert [path for path in tmp_path.glob("*/**/*") if path.is_file()] == []


def test_a_proxy_with_its_defaults_lets_the_page_post_if_its_name_is_given(tmp_path: Path) -> None:
    port = free_port()
    with (
        serving(access=access_of("127.0.0.1", ["images.example"])) as behind,
        nginx(tmp_path, port, PLAIN.format(port=port, behind=behind)),
    ):
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        assert post(line, "images.example") == 200
        assert post(line, "images.example", Origin="http://evil.example") == 403
        assert post(line, "images.example", **{"Sec-Fetch-Site": "cross-site"}) == 403
