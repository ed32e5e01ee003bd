"""Records what a server answers to whom, in the audit log, and counts it for Prometheus."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from covidnet.base.atomic import WriteError
from covidnet.serving.audit_log import AuditLog
from covidnet.serving.web.metrics import Metrics
from covidnet.serving.web.web_error import WebError

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 60


class Recorder:
    """Records answers.

    Args:
        audit_log: where each answer is recorded; None records nothing.
        metrics: where answers are counted.
    """

    def __init__(self, audit_log: AuditLog | None, metrics: Metrics) -> None:
        self._audit_log = audit_log
        self._metrics = metrics

    async def answer(
        self, work: Callable[[], Awaitable[dict[str, Any]]], data: bytes, request: Request
    ) -> dict[str, Any]:
        """The answer for an image, recorded and counted.

        Args:
            work: predicts the image.
            data: the file's content.
            request: of the user.

        Returns:
            What `work` returns, and ``seconds``.

        Raises:
            WebError: the error of `work`; or the audit log cannot be written, and no answer is given.
            ClientDisconnect: the client has disconnected.
        """
        start = time.perf_counter()
        # Of refused files too, for which `work` returns none.
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()) if self._audit_log else ""
        try:
            answer = await work()
        except (WebError, ClientDisconnect) as problem:
            # A closed connection has no status; 499 is what nginx logs for it.
            status, code = (problem.status, problem.code) if isinstance(problem, WebError) else (499, "disconnected")
            self.note(request, "image", sha256=digest, status=status, code=code)
            self._metrics.failed(code)
            raise
        seconds = round(time.perf_counter() - start, 4)
        codes = [flag["code"] for flag in answer["quality"]]
        said = {name: answer[name] for name in ("prediction", "probabilities")}
        self.note(request, "image", sha256=digest, status=200, **said, quality=codes)
        self._metrics.answered(answer["prediction"], codes, seconds)
        return {**answer, "seconds": seconds}

    def note(self, request: Request, event: str, **values: Any) -> None:
        """Record what a user did.

        Args:
            request: of the user.
            event: what happened.
            values: about it, for JSON.

        Raises:
            WebError: the audit log cannot be written.
        """
        if not self._audit_log:
            return
        peer = request.client.host if request.client else None
        try:
            self._audit_log.write(event, user=request.scope.get("user"), address=peer, **values)
        except WriteError as error:
            _LOG.error("%s", error)
            self._metrics.failed("no_audit_log")
            cause, remedy = "the audit log cannot be written", "inform the server's administrator"
            raise WebError(503, "no_audit_log", cause, remedy, retry=_RETRY_SECONDS) from None
