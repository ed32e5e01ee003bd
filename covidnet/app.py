"""``python -m covidnet.app checkpoint=RUN``: a web page to upload an image, and a REST API."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.errors import CovidnetError, SettingError
from covidnet.launch.arguments import quoted
from covidnet.launch.command import launch
from covidnet.serving.checkpoint_path import find_models

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.serving.model import ServedModel
    from covidnet.serving.web.guard import Access
    from covidnet.serving.web.limits import WebLimits

log = logging.getLogger(__name__)

PATHS = ("checkpoint", "only", "worklist", "verdicts", "users", "token", "certificate", "key", "audit_log", "outbox")
"""Settings that are paths, with characters that Hydra's grammar may reject."""

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_GRACE_SECONDS = 3

# File descriptors of the process itself: the model, the decoders' pipes, a log, libraries.
_FILES = 32
_BACKLOG = 64
# Of OpenSSL (X509_V_ERR_...): not yet valid, has expired.
_WRONG_DATES = (9, 10)


def main(cfg: DictConfig) -> None:
    """Serve a model until Ctrl-C.

    Args:
        cfg: the composed configuration ``app``.

    Raises:
        SettingError: a setting is not allowed, or the port is taken.
        WeightsError: there is no checkpoint, or it is not from covidnet.
        CovidnetError: the libraries of the web application are not installed.
    """
    from omegaconf import OmegaConf

    given = "" if OmegaConf.is_missing(cfg, "checkpoint") or cfg.checkpoint is None else str(cfg.checkpoint)
    only = "" if cfg.only is None else str(cfg.only)
    # Errors that need no network are reported before its libraries are loaded.
    models = find_models(given, onnx=cfg.engine == "onnx", only=only)
    images = "" if cfg.worklist is None else str(cfg.worklist)
    if images:
        from covidnet.data.collection.inputs import find_images

        find_images(images)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise CovidnetError(f'the web application needs {names}: pip install "covidnet[app]"')
    from covidnet.data.reading.decoders import Decoders
    from covidnet.serving.audit_log import OFF, AuditLog
    from covidnet.serving.web.guard import access_of
    from covidnet.serving.web.limits import WebLimits
    from covidnet.serving.web.request_handler import READERS
    from covidnet.serving.web.warm import warm_decoders, warm_up

    limits = WebLimits(**{name: cfg[name] for name in WebLimits.__dataclass_fields__})
    host = str(cfg.host)
    access = access_of(host, cfg.hosts, cfg.proxies, cfg.token, cfg.users)
    tls = _tls(cfg.certificate, cfg.key)
    audit_log = None if cfg.audit_log == OFF else AuditLog(cfg.audit_log)
    _check_files(limits.connections)
    from covidnet.serving.dicom.node import NodeSettings

    node = NodeSettings.of(cfg)
    decoders = Decoders(
        READERS,
        max_memory=cfg.reading.max_memory,
        max_seconds=cfg.reading.max_seconds,
        max_megapixels=limits.max_megapixels,
        min_side=limits.min_side,
    )
    # Before the model is loaded, so that a port in use is reported at once.
    listener = _listen(host, cfg.port)
    with listener, ThreadPoolExecutor(1) as aside, decoders, ExitStack() as stack:
        started = aside.submit(warm_decoders, decoders)
        from covidnet.serving.answers import Predictor
        from covidnet.serving.open_model import open_model
        from covidnet.serving.stream import Share
        from covidnet.serving.web.server import create_app
        from covidnet.serving.web.worklist import Worklist

        log.info("loading %s", f"{given} only={only}" if only else given)
        share = Share.of_cores()
        model = open_model(given, cfg.engine, share.threads, only)
        predictor = Predictor(model, cfg.gate)
        worklist = Worklist(Path(cfg.verdicts), images, _identity(models, cfg.gate), model.facts.classes, limits)
        app = create_app(
            model,
            predictor,
            decoders,
            limits,
            card=_card(given, only, model),
            access=access,
            notes=predictor.gate_notes(),
            workers=share.passes,
            worklist=worklist,
            audit_log=audit_log,
        )
        warm_up(model)
        started.result()
        _log_access(host, access, tls is not None, {name: cfg[name] for name in ("users", "token", "key")})
        log.info("audit log: %s", audit_log.path if audit_log else "off, by audit_log=off")
        log.info("%s", model.facts.title)
        for note in [
            *model.facts.notes(),
            *predictor.gate_notes(),
            *(model.facts.map_notes() if model.explains else []),
        ]:
            log.warning("%s", note)
        if node is not None:
            from covidnet.serving.dicom.node import DicomNode
            from covidnet.serving.dicom.outbox import Outbox
            from covidnet.serving.dicom.results import DicomResults

            results, outbox = DicomResults.of_files(predictor, models), stack.enter_context(Outbox(node.outbox))
            stack.enter_context(
                DicomNode(node, results, decoders, limits, outbox, host=host, audit_log=audit_log, workers=share.passes)
            )
        if images:
            log.info("%s", worklist.line())
        address = f"{'https' if tls else 'http'}://{_address(listener)}/{'worklist' if images else ''}"
        log.info("%s  (Ctrl-C ends)", address)
        _serve(app, listener, limits, access, tls)


def _log_access(host: str, access: Access, tls: bool, secrets: Mapping[str, str | None]) -> None:
    """Say who can use the server, and which of its secret files any user of this machine can read."""
    from covidnet.serving.web.guard import is_loopback

    for name, path in secrets.items():
        if path is not None and os.name == "posix" and Path(path).stat().st_mode & stat.S_IROTH:
            log.warning("warning: %s=%s: every user of this machine can read it; chmod 600 %s", name, path, path)
    if is_loopback(host):
        if access.lock is None:
            log.info("no users or token: reachable only from this machine, by all of its users")
        return
    if access.only_proxies:
        log.warning("warning: no users or token: proxies=%s must check who uses the server", ",".join(access.proxies))
    if not tls:
        log.warning("warning: no certificate: images and passwords are not encrypted on their way to host=%s", host)


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    """The settings of TLS; None without a certificate.

    Raises:
        SettingError: a file cannot be read, or they do not belong together.
    """
    if certificate is None:
        if key is not None:
            raise SettingError("key", key, "given with certificate=FILE")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    allowed = "a PEM file with the certificate and those that signed it"
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            if path is not None:
                Path(path).read_bytes()
        except OSError as error:
            raise SettingError(name, path, "a PEM file", f"it cannot be read: {error.strerror}") from None
    try:
        # OpenSSL would ask at the terminal for the password of a key.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        remedy = f"give its private key without a password as key=FILE ({getattr(error, 'reason', None) or error})"
        raise SettingError("certificate", certificate, allowed, remedy) from None
    if fault := _wrong_dates(context, certificate):
        log.warning("warning: certificate=%s: %s; browsers and programs will refuse it", certificate, fault)
    return context


def _wrong_dates(context: ssl.SSLContext, certificate: str) -> str:
    """What a visitor finds wrong with the dates of a certificate; empty if they are right."""
    visitor = ssl.create_default_context(cafile=certificate)
    visitor.check_hostname = False
    visitor.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    for side in (visitor.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)) * 2:
        try:
            side.do_handshake()
        except ssl.SSLCertVerificationError as error:
            return error.verify_message if error.verify_code in _WRONG_DATES else ""
        except ssl.SSLError:
            # The other side's turn.
            continue
    return ""


def _identity(models: Sequence[Path], gate: str) -> str:
    """What the predictions of a worklist depend on besides the images."""
    from covidnet.base.provenance import file_sha256
    from covidnet.data.reading.images import READING

    digests = ",".join(file_sha256(file)[:12] for file in models)
    return f"{digests}; gate={gate}; reading {READING}"


def _listen(host: str, port: Any) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        SettingError: there is no such address, or the port is taken.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise SettingError("port", port, "0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SettingError("host", host, "an address or name of this machine, such as 127.0.0.1") from error
    try:
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingError("port", port, "a free port", f"{port} is in use; try port={port + 1}, or 0") from error
        if error.errno == errno.EACCES:
            raise SettingError("port", port, "1024 or above", "the system reserves lower ones") from error
        raise SettingError("host", host, "an address of this machine", f"{error.strerror}") from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _card(checkpoint: str, only: str, model: ServedModel) -> str:
    """The model card of the checkpoint's folder, else one from the facts in the checkpoint."""
    from covidnet.serving.web.card import facts_card

    if model.card:
        return model.card
    try:
        from covidnet.sweep.reports import card_of

        return card_of(checkpoint, only)
    except (CovidnetError, ImportError):
        # An exported model may be alone, with little more than its engine installed.
        return facts_card(model.facts)


def _check_files(connections: int) -> None:
    """Check that the system's limit on open files allows so many connections.

    Raises:
        SettingError: naming the maximum.
    """
    try:
        import resource
    except ImportError:
        # Windows has no such limit.
        return
    from covidnet.serving.web.protocol import RESERVED

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Accepted connections that are not yet counted have file descriptors too.
    needed = connections + min(connections, _BACKLOG) + RESERVED + _FILES
    if limit != resource.RLIM_INFINITY and needed > limit:
        room = limit - RESERVED - _FILES
        most = max(room // 2, room - _BACKLOG)
        allowed = f"1 to {most} with {limit} open files" if most > 0 else f"0 with {limit} open files"
        raise SettingError("connections", connections, allowed, f"or raise that limit: ulimit -n {needed}")


def _serve(
    app: Any, listener: socket.socket, limits: WebLimits, access: Access, tls: ssl.SSLContext | None = None
) -> None:
    import uvicorn

    from covidnet.serving.web.protocol import UploadProtocol, limit_handshakes

    limit_handshakes()

    class Protocol(UploadProtocol):
        pass

    Protocol.limits, Protocol.access = limits, access
    # The application logs its own errors, without uploads; the others are requests interrupted by Ctrl-C.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        # No log line per request, which would reveal the client.
        access_log=False,
        log_config=None,
        server_header=False,
        # The guard reads them, only from trusted proxies.
        proxy_headers=False,
        # The protocol sets the read size of asyncio's transports.
        loop="asyncio",
        backlog=min(limits.connections, _BACKLOG),
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    config.load()
    config.ssl = tls
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        # The server has shut down and raises the signal again.
        return


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "app")
