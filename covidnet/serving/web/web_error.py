"""Error responses: a code, the cause and the remedy, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse


class WebError(Exception):
    """An error response to a request.

    Args:
        status: the HTTP status.
        code: one or two words for programs, such as ``too_large``.
        cause: what is wrong.
        remedy: what the client can do about it.
        retry: seconds for the header Retry-After; None omits it.
        headers: further headers of the response.
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
        """The error as JSON."""
        return {"error": {"code": self.code, "cause": self.cause, "remedy": self.remedy}}

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


def busy(cause: str) -> WebError:
    """503: the server is overloaded or closing."""
    return WebError(503, "busy", cause, "try again in a moment", retry=2)


def internal() -> WebError:
    """500: an unexpected error, without details."""
    return WebError(500, "internal", "the server failed on this request", "try again, and inform its administrator")


def place_of(error: BaseException) -> str:
    """The type of an error and where it was raised, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_globals.get('__name__')}, line {trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"
