"""What an answer says where there is no result: a code, the cause and the remedy, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse


class WebError(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of HTTP.
        code: one word or two for programs, such as ``too_large``.
        cause: what is wrong, in words.
        remedy: what the client can do about it.
        retry: seconds after which to try again; None says nothing about it.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        cause: str,
        remedy: str,
        *,
        retry: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(cause)
        self.status = status
        self.code = code
        self.cause = cause
        self.remedy = remedy
        self.headers = dict(headers or {})
        if retry is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry)))

    def body(self) -> dict[str, dict[str, str]]:
        """The error as every answer gives it."""
        return {"error": {"code": self.code, "cause": self.cause, "remedy": self.remedy}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def busy(cause: str) -> WebError:
    """The server has too much to do: 503."""
    return WebError(503, "busy", cause, "try again in a moment", retry=2)


def internal() -> WebError:
    """Something that should not happen did: 500, without a word on what it was."""
    return WebError(500, "internal", "the server failed on this request", "try again, and tell who runs the server")


def place_of(error: BaseException) -> str:
    """The type of an error and where it arose, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_globals.get('__name__')}, line {trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"
