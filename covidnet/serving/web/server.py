"""The web application: its routes, and how it is put together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
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
from covidnet.serving.facts import NOTICE, ModelFacts
from covidnet.serving.web import schema
from covidnet.serving.web.guard import Access, Guard
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.rate import RateLimit, client_of
from covidnet.serving.web.reception import RequestHandler
from covidnet.serving.web.upload import Memory, read_upload
from covidnet.serving.web.web_error import WebError, internal, place_of
from covidnet.serving.web.worker import Answers

if TYPE_CHECKING:
    from covidnet.data.reading.decoders import Decoders

_LOG = logging.getLogger(__name__)
_MINUTE = 60.0

# Uploads of this many times the largest may be in memory at once.
_UPLOADS = 8

_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}

_DESCRIPTION = """Class probabilities of one chest radiograph, and where the evidence lies.

`curl --data-binary @image.dcm http://127.0.0.1:8000/v1/predict` or `curl -F file=@image.png …`

Uploads stay in memory and are forgotten with the answer. Every error is JSON with a code, the cause and the remedy.
"""


class DisplayedModel(Protocol):
    """What the page tells of a model; a `covidnet.serving.model.ServedModel` has it."""

    facts: ModelFacts
    fit: SquareFit
    explains: bool


def create_app(
    model: DisplayedModel,
    answering: Answers,
    decoders: Decoders,
    limits: WebLimits | None = None,
    *,
    card: str = "",
    access: Access | None = None,
    notes: Sequence[str] = (),
    workers: int = 1,
) -> ASGIApp:
    """The application for an ASGI server.

    Args:
        model: what is told of the model.
        answering: answers images; called from threads of its own.
        decoders: decode images; closed when the application ends.
        limits: on sizes, rates and times.
        card: the model card in Markdown.
        access: who may ask, and under which names.
        notes: what has to be known beside the notes of the model, such as how its input gate does.
        workers: threads that call `answering` at once.
    """
    limits = limits or WebLimits()
    rate = RateLimit(limits.rate, limits.burst)
    memory = Memory(_UPLOADS * limits.max_bytes)
    told = {
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

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(_Seldom())
        app.state.reception = RequestHandler(answering, decoders, model.fit, model.facts, limits, workers)
        yield
        app.state.reception.close()

    app = FastAPI(
        title="covidnet",
        version=__version__,
        description=f"{_DESCRIPTION}\n{NOTICE}",
        lifespan=lifespan,
        # Both pages take their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # Newer releases can send traces away where the environment says so.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _add_errors(app)
    _add_pages(app)

    @app.get("/health", response_model=schema.Health)
    async def health() -> Response:
        """Whether the server is up."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", response_model=schema.Health, responses={503: schema.ERRORS[503]})
    async def ready(request: Request) -> Response:
        """Whether an image that came now would be taken up."""
        reception: RequestHandler = request.app.state.reception
        await reception.check_ready()
        return JSONResponse({"status": "ok"})

    @app.get("/v1/model", response_model=schema.Model)
    async def facts() -> Response:
        """What is known of the model, and its card."""
        return JSONResponse(told)

    @app.post("/v1/predict", response_model=schema.Answer, responses=schema.ERRORS, openapi_extra=schema.BODY)
    async def predict(
        request: Request, heat: bool = Query(True, description="false leaves the heat map out")
    ) -> Response:
        """Class probabilities of one image, and where the evidence lies."""
        client = client_of(request.client.host if request.client else "")
        if wait := rate.wait(client):
            cause = f"more than {limits.rate:g} images per second from one address"
            raise WebError(429, "too_many", cause, "wait as long as Retry-After says", retry=wait)
        reception: RequestHandler = request.app.state.reception
        reception.check_room()
        with memory.share(client) as share:
            data = await read_upload(request.stream(), request.headers, limits, share)
            start = time.perf_counter()
            answer = await reception.answer(data, heat and model.explains, _left(request), client)
        return JSONResponse({**answer, "seconds": round(time.perf_counter() - start, 4)})

    return Guard(app, access, limits.connections, limits.per_address)


class _Seldom:
    """Log what fails in the event loop itself, and the same no more than once a minute.

    Without files for new connections asyncio tells so for each that it does not take, thousands of times a second.
    """

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # Not its text, which might tell of what was uploaded; the system's own words do not.
        why = (error.strerror if isinstance(error, OSError) else None) or (place_of(error) if error else "no error")
        text = f"{context['message']}: {why}"
        if loop.time() - self._told.get(text, -_MINUTE) >= _MINUTE:
            self._told = {**self._told, text: loop.time()} if len(self._told) < 100 else {text: loop.time()}
            _LOG.error("%s; said once a minute", text)


def _left(request: Request) -> Any:
    """A function that returns when the client has closed the connection; the body has been read."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return left


def _add_pages(app: FastAPI) -> None:
    folder = files("covidnet.serving.web") / "page"

    def add(path: str, name: str, kind: str) -> None:
        content = (folder / name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=kind)

    for path, (name, kind) in _PAGES.items():
        add(path, name, kind)


def _add_errors(app: FastAPI) -> None:
    async def problem(request: Request, error: Exception) -> Response:
        return error.response() if isinstance(error, WebError) else internal().response()

    async def of_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        if status == 404:
            found = WebError(404, "not_found", "there is no such page", "see /openapi.json for what there is")
        elif status == 405:
            found = WebError(405, "wrong_method", "this page is not asked for in that way", "see /openapi.json")
        else:
            found = WebError(status, "refused", "the request was refused", "see /openapi.json for what is allowed")
        found.headers |= headers or {}
        return found.response()

    async def of_query(request: Request, error: Exception) -> Response:
        return WebError(400, "wrong_query", "heat is neither true nor false", "say heat=true or heat=false").response()

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(WebError, problem)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_query)
    app.add_exception_handler(ClientDisconnect, left)
    # The guard logs it; this is what is answered.
    app.add_exception_handler(Exception, problem)
