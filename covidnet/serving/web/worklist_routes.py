"""The routes of the worklist."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from covidnet.serving.web import schema
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.lock import TOKEN_USER
from covidnet.serving.web.rate import client_of
from covidnet.serving.web.recorder import Recorder
from covidnet.serving.web.upload import Memory, read_upload
from covidnet.serving.web.web_error import WebError

if TYPE_CHECKING:
    from covidnet.serving.web.request_handler import RequestHandler
    from covidnet.serving.web.worklist import Worklist

_VERDICT_MEGABYTES = 0.05
_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": schema.Verdict.model_json_schema()}}}
}


def add_worklist(app: FastAPI, worklist: Worklist, limits: WebLimits, recorder: Recorder, *, explains: bool) -> None:
    """Add the worklist's routes to the application.

    They are plain functions where they wait for the file, so that they run in threads and hold up no other request.

    Args:
        app: the application; its state has the request handler.
        worklist: the images and verdicts.
        limits: of the server.
        recorder: records what users do.
        explains: whether the model draws heat maps.
    """
    limits = replace(limits, max_megabytes=_VERDICT_MEGABYTES)
    memory = Memory(16 * limits.max_bytes)

    @app.get("/v1/worklist", response_model=schema.Items)
    def items(
        request: Request, since: int = Query(0, description="only items with a larger number"), reader: str = ""
    ) -> Response:
        """The images of the folder with their predictions, and one reader's verdicts."""
        user = _user(request)
        with _readable():
            found = worklist.items(since, user or reader)
        if found["items"]:
            recorder.note(request, "list", images=len(found["items"]))
        return JSONResponse({**found, "reader": user})

    @app.get("/v1/worklist/{number}", response_model=schema.Answer, responses=schema.ERRORS)
    async def item(number: int, request: Request) -> Response:
        """The whole answer for one image of the folder, with its heat map."""
        with _readable():
            data = await asyncio.to_thread(worklist.content, number)
        handler: RequestHandler = request.app.state.handler
        client = client_of(request.client.host if request.client else "")

        def work() -> Awaitable[dict[str, Any]]:
            return handler.answer(data, explains, asyncio.Event().wait, client)

        return JSONResponse(await recorder.answer(work, data, request))

    @app.post("/v1/verdicts", status_code=204, response_class=Response, responses=schema.ERRORS, openapi_extra=_BODY)
    async def verdict(request: Request) -> Response:
        """Save a reader's verdict on an image that was predicted."""
        with memory.share(client_of(request.client.host if request.client else "")) as share:
            body = await read_upload(request.stream(), request.headers, limits, share, empty=True)
        try:
            given = schema.Verdict.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            cause = f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}"
            raise WebError(400, "wrong_verdict", cause, "see /openapi.json") from None
        said = given.model_dump() | {"reader": _user(request) or given.reader}
        recorder.note(request, "verdict", sha256=given.sha256, verdict=given.verdict)
        with _readable():
            await asyncio.to_thread(worklist.decide, **said)
        return Response(status_code=204)

    @app.get("/v1/verdicts")
    def verdicts(request: Request) -> Response:
        """The last verdict of each reader on each image, as CSV."""
        recorder.note(request, "export")
        with _readable():
            headers = {"Content-Disposition": 'attachment; filename="verdicts.csv"'}
            return Response(worklist.verdicts_csv(), media_type="text/csv; charset=utf-8", headers=headers)

    @app.get("/v1/agreement")
    def agreement() -> Response:
        """Kappa of each two raters; sensitivity and specificity of each reader, the model and either."""
        with _readable():
            found: dict[str, Any] = worklist.agreement()
        return JSONResponse(found)


def _user(request: Request) -> str | None:
    """The name that a user logged in with, who can then read under no other name."""
    user = request.scope.get("user")
    return None if user in (None, TOKEN_USER) else str(user)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        cause = f"the file of verdicts cannot be used ({error})"
        raise WebError(503, "no_file", cause, "check the disk of the server; nothing was saved") from None
