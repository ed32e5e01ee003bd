"""The web application: its routes and its parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from covidnet import __version__
from covidnet.data.loading.transforms import SquareFit
from covidnet.serving.audit_log import AuditLog
from covidnet.serving.facts import NOTICE, ModelFacts
from covidnet.serving.web import schema
from covidnet.serving.web.guard import Access, Guard
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.metrics import Metrics
from covidnet.serving.web.rate import RateLimit, client_of
from covidnet.serving.web.recorder import Recorder
from covidnet.serving.web.request_handler import RequestHandler
from covidnet.serving.web.upload import Memory, read_upload
from covidnet.serving.web.web_error import WebError, internal, place_of
from covidnet.serving.web.worker import Answers
from covidnet.serving.web.worklist_routes import add_worklist

if TYPE_CHECKING:
    from covidnet.data.reading.decoders import Decoders
    from covidnet.serving.web.worklist import Worklist

_LOG = logging.getLogger(__name__)
_MINUTE = 60.0

# All uploads together may use the memory of this many uploads of the largest size.
_UPLOADS = 8

PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/common.js": ("common.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/worklist": ("worklist.html", "text/html; charset=utf-8"),
    "/worklist.js": ("worklist.js", "text/javascript; charset=utf-8"),
    "/worklist.css": ("worklist.css", "text/css; charset=utf-8"),
}

_DESCRIPTION = """Class probabilities of one chest radiograph, and a heat map of the evidence.

`curl --data-binary @image.dcm http://127.0.0.1:8000/v1/predict` or `curl -F file=@image.png …`

Uploads stay in memory and are discarded after the response. Every error is JSON with a code, the cause and the remedy.
"""


class DisplayedModel(Protocol):
    """The attributes of `covidnet.serving.model.ServedModel` that the page displays."""

    facts: ModelFacts
    fit: SquareFit
    explains: bool


def create_app(
    model: DisplayedModel,
    predictor: Answers,
    decoders: Decoders,
    limits: WebLimits | None = None,
    *,
    card: str = "",
    access: Access | None = None,
    notes: Sequence[str] = (),
    workers: int = 1,
    worklist: Worklist | None = None,
    audit_log: AuditLog | None = None,
) -> ASGIApp:
    """The application for an ASGI server.

    Args:
        model: the facts to display.
        predictor: predicts images; called from its own threads.
        decoders: decode images; closed when the application ends.
        limits: on sizes, rates and times.
        card: the model card in Markdown.
        access: who may send requests, and to which host names.
        notes: caveats besides those of the model, such as those of its input gate.
        workers: threads that call `predictor` concurrently.
        worklist: the images of a folder and readers' verdicts; None omits the page.
        audit_log: records every answer; None records nothing.

    Raises:
        WriteError: the audit log cannot be written.
    """
    limits = limits or WebLimits()
    rate = RateLimit(limits.rate, limits.burst)
    memory = Memory(_UPLOADS * limits.max_bytes)
    described = {
        "title": model.facts.title,
        "classes": [{"name": name, "colour": colour} for name, colour in model.facts.classes.colours.items()],
        "facts": model.facts.plain(),
        "trained_on": model.facts.trained_on,
        "notes": [*model.facts.notes(), *notes, *(model.facts.map_notes() if model.explains else [])],
        "calibrated": model.facts.calibrated,
        "explains": model.explains,
        "limits": {name: getattr(limits, name) for name in ("max_megabytes", "max_megapixels", "min_side")},
        "card": card,
        "notice": NOTICE,
    }

    def waiting() -> int:
        handler: RequestHandler | None = getattr(app.state, "handler", None)
        return handler.waiting if handler else 0

    metrics = Metrics(model.facts.title, __version__, waiting)
    recorder = Recorder(audit_log, metrics)
    if audit_log:
        audit_log.write("start", version=__version__, model=described["title"])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(_LogOncePerMinute())
        app.state.handler = RequestHandler(predictor, decoders, model.fit, model.facts, limits, workers)
        filling = asyncio.create_task(_fill(worklist, app.state.handler)) if worklist and worklist.given else None
        yield
        if filling is not None:
            filling.cancel()
        app.state.handler.close()

    app = FastAPI(
        title="covidnet",
        version=__version__,
        description=f"{_DESCRIPTION}\n{NOTICE}",
        lifespan=lifespan,
        # Both pages load scripts from other sites.
        docs_url=None,
        redoc_url=None,
        # Newer releases can send telemetry if environment variables enable it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _add_errors(app)
    _add_pages(app, [path for path in PAGES if worklist is not None or not path.startswith("/worklist")])
    if worklist is not None:
        add_worklist(app, worklist, limits, recorder, explains=model.explains)

    @app.get("/health", response_model=schema.Health)
    async def health() -> Response:
        """Whether the server is up."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", response_model=schema.Health, responses={503: schema.ERRORS[503]})
    async def ready(request: Request) -> Response:
        """Whether a new image would be processed at once."""
        handler: RequestHandler = request.app.state.handler
        await handler.check_ready()
        return JSONResponse({"status": "ok"})

    @app.get("/v1/model", response_model=schema.Model)
    async def facts() -> Response:
        """Facts about the model, and its card."""
        return JSONResponse(described)

    @app.post("/v1/predict", response_model=schema.Answer, responses=schema.ERRORS, openapi_extra=schema.BODY)
    async def predict(request: Request, heat: bool = Query(True, description="false omits the heat map")) -> Response:
        """Class probabilities of one image, and a heat map of the evidence."""
        client = client_of(request.client.host if request.client else "")
        if wait := rate.wait(client):
            cause = f"more than {limits.rate:g} images per second from one address"
            raise WebError(429, "too_many", cause, "wait for the seconds in Retry-After", retry=wait)
        handler: RequestHandler = request.app.state.handler
        handler.check_room()
        with memory.share(client) as share:
            data = await read_upload(request.stream(), request.headers, limits, share)

            def work() -> Awaitable[dict[str, Any]]:
                return handler.answer(data, heat and model.explains, _disconnected(request), client)

            answer = await recorder.answer(work, data, request)
        if worklist is not None:
            worklist.remember(answer)
        return JSONResponse(answer)

    @app.get("/metrics", include_in_schema=False)
    async def measured() -> Response:
        return metrics.response()

    return Guard(app, access, limits.connections, limits.per_address, audit_log, metrics)


class _LogOncePerMinute:
    """Log errors of the event loop itself, each at most once a minute.

    When the process has no file handles left, asyncio reports every connection that it cannot accept, thousands a
    second.
    """

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # Not the error's text, which might reveal parts of an upload; the system's messages do not.
        why = (error.strerror if isinstance(error, OSError) else None) or (place_of(error) if error else "no error")
        text = f"{context['message']}: {why}"
        if loop.time() - self._logged.get(text, -_MINUTE) >= _MINUTE:
            self._logged = {**self._logged, text: loop.time()} if len(self._logged) < 100 else {text: loop.time()}
            _LOG.error("%s; logged at most once a minute", text)


def _disconnected(request: Request) -> Any:
    """A function that returns when the client closes the connection; the body must have been read."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return disconnected


async def _fill(worklist: Worklist, handler: RequestHandler) -> None:
    never = asyncio.Event()
    await worklist.fill(lambda data: handler.answer(data, False, never.wait, "worklist"))


def _add_pages(app: FastAPI, paths: Sequence[str]) -> None:
    folder = files("covidnet.serving.web") / "page"

    def add(path: str, name: str, kind: str) -> None:
        content = (folder / name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=kind)

    for path in paths:
        add(path, *PAGES[path])


def _add_errors(app: FastAPI) -> None:
    async def problem(request: Request, error: Exception) -> Response:
        return error.response() if isinstance(error, WebError) else internal().response()

    async def of_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        if status == 404:
            found = WebError(404, "not_found", "there is no such page", "see /openapi.json for the available ones")
        elif status == 405:
            found = WebError(405, "wrong_method", "this page does not support that method", "see /openapi.json")
        else:
            found = WebError(status, "refused", "the request was refused", "see /openapi.json for valid requests")
        found.headers |= headers or {}
        return found.response()

    async def of_query(request: Request, error: Exception) -> Response:
        return WebError(400, "wrong_query", "heat is neither true nor false", "use heat=true or heat=false").response()

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(WebError, problem)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_query)
    app.add_exception_handler(ClientDisconnect, left)
    # The guard logs it; this only answers it.
    app.add_exception_handler(Exception, problem)
