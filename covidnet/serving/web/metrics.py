"""Counters of a server for Prometheus: requests, images, answers; nothing about any image or user."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.6, 1, 2, 5, 10, 30)


class Metrics:
    """The counters of one server.

    Args:
        title: of the model.
        version: of covidnet.
        waiting: the number of images that wait at the moment.
    """

    def __init__(self, title: str, version: str, waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        model = Info("covidnet_model", "The model that predicts", registry=self.registry)
        model.info({"title": title, "version": version})
        gauge = Gauge("covidnet_waiting_images", "Images that wait for an answer", registry=self.registry)
        gauge.set_function(waiting)
        self._responses = Counter(
            "covidnet_responses", "Responses", ["path", "method", "status"], registry=self.registry
        )
        self._images = Counter(
            "covidnet_images", "Images, by outcome: answered, or the code of the error", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._predictions = Counter("covidnet_predictions", "Answers by class", ["class"], registry=self.registry)
        self._flags = Counter("covidnet_flags", "Quality warnings by code", ["code"], registry=self.registry)
        self._seconds = Histogram(
            "covidnet_answer_seconds", "From the complete upload to the answer", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def responded(self, scope: Any, status: int) -> None:
        """Count a response.

        Args:
            scope: of the request; its path is counted only if it belongs to a route, since clients may invent others.
            status: of the response.
        """
        path = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._responses.labels(path, method, str(status)).inc()

    def answered(self, prediction: str, flags: Iterable[str], seconds: float) -> None:
        """Count an image that got an answer.

        Args:
            prediction: the class.
            flags: codes of its quality warnings.
            seconds: from the complete upload to the answer.
        """
        self._images.labels("answered").inc()
        self._predictions.labels(prediction).inc()
        self._seconds.observe(seconds)
        for code in flags:
            self._flags.labels(code).inc()

    def failed(self, code: str) -> None:
        """Count an image that got an error.

        Args:
            code: of the error.
        """
        self._images.labels(code).inc()

    def response(self) -> Response:
        """All counters in the text format of Prometheus."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
