"""The threads that run the network, one per core; waiting images are divided among them and batched."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from covidnet.base.errors import ImageRefusedError

if TYPE_CHECKING:
    from covidnet.data.reading.images import Radiograph
    from covidnet.serving.answers import ImageAnswer

BATCH = 4
"""The largest batch: with a larger one the first image would wait longer for little gain."""


class AbandonedError(Exception):
    """The client no longer waits for the answer, or the server is closing."""


class Answers(Protocol):
    """The part of `covidnet.serving.answers.Predictor` that the worker needs."""

    def answer(self, images: Sequence[Radiograph], *, heat: bool = False) -> Sequence[ImageAnswer | ImageRefusedError]:
        """One answer or refusal for each image."""


@dataclass(eq=False)
class _Task:
    """One image; without an image, a check whether a thread is free."""

    image: Radiograph | None
    heat: bool
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """Predict images batch by batch, until it is closed.

    Two concurrent passes of the network on one core each are faster than two consecutive passes on both.

    Args:
        predictor: called only from this worker's threads.
        count: the number of threads.
    """

    def __init__(self, predictor: Answers, count: int = 1) -> None:
        self._predictor = predictor
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"network-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, image: Radiograph, heat: bool) -> Future[ImageAnswer | ImageRefusedError]:
        """Queue an image. If its future is cancelled in time, it is not predicted.

        Args:
            image: the decoded image.
            heat: whether to compute a heat map.
        """
        return self._put(_Task(image, heat))

    def free(self) -> Future[None]:
        """A future that is done as soon as a thread is free."""
        return self._put(_Task(None, False))

    def close(self, seconds: float = 2.0) -> None:
        """Stop after the current batches, or without them; waiting images get an `AbandonedError` at once.

        Args:
            seconds: to wait for the current batches.
        """
        self._closed = True
        self._reject_waiting()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))

    def _put(self, task: _Task) -> Future[Any]:
        self._tasks.put(task)
        if self._closed:
            self._reject_waiting()
        return task.future

    def _reject_waiting(self) -> None:
        """Fail all waiting images; end marks in the queue are put back for the threads."""
        marks = 0
        with suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                marks += task is None
                if task is not None and task.future.set_running_or_notify_cancel():
                    task.future.set_exception(AbandonedError())
        for _ in range(marks):
            self._tasks.put(None)

    def _run(self) -> None:
        while (first := self._tasks.get()) is not None:
            batch = [first]
            # Leave a share of the waiting images to the other threads.
            share = -(-(self._tasks.qsize() + 1) // len(self._threads))
            while len(batch) < min(BATCH, share) and (task := self._next()) is not None:
                batch.append(task)
            tasks = [task for task in batch if task.future.set_running_or_notify_cancel()]
            for task in tasks:
                if task.image is None:
                    task.future.set_result(None)
            for heat in (True, False):
                if chosen := [task for task in tasks if task.image is not None and task.heat is heat]:
                    self._answer(chosen, heat)

    def _next(self) -> _Task | None:
        """A waiting image; None if there is none, or if the end mark is next."""
        try:
            task = self._tasks.get_nowait()
        except queue.Empty:
            return None
        if task is None:
            # The end mark is for a thread without a batch.
            self._tasks.put(None)
        return task

    def _answer(self, tasks: list[_Task], heat: bool) -> None:
        try:
            answers = self._predictor.answer([task.image for task in tasks if task.image is not None], heat=heat)
            for task, answer in zip(tasks, answers, strict=True):
                task.future.set_result(answer)
        except Exception as error:
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
                return
            # One of them may be the cause; the others get their answers.
            for task in tasks:
                if not task.future.done():
                    self._answer([task], heat)
