"""The threads that run the network, one for each core; films that wait together are shared out and go together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from covidnet.errors import ImageRefusedError

if TYPE_CHECKING:
    from covidnet.data.images import Film
    from covidnet.serving.answers import FilmAnswer

BATCH = 4
"""Films per pass of the network, at most: more would let the first of them wait for little gain."""


class LeftError(Exception):
    """Nobody waits for the answer any more, or nobody will give it."""


class Answers(Protocol):
    """What the worker needs of `covidnet.serving.answers.Answering`."""

    def answer(self, films: Sequence[Film], *, heat: bool = False) -> Sequence[FilmAnswer | ImageRefusedError]:
        """One answer or refusal for each film."""


@dataclass(eq=False)
class _Task:
    """One film; without one it asks whether a thread is free."""

    film: Film | None
    heat: bool
    future: Future[Any] = field(default_factory=Future)


class Worker:
    """Answers films one batch after the other, until it is closed.

    Two passes of the network side by side, on a core each, take less time than one after the other on both.

    Args:
        answering: called from this worker's threads alone.
        count: of these threads.
    """

    def __init__(self, answering: Answers, count: int = 1) -> None:
        self._answering = answering
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name=f"network-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, film: Film, heat: bool) -> Future[FilmAnswer | ImageRefusedError]:
        """Have a film answered. A future that is cancelled in time costs nothing.

        Args:
            film: as `decode_film` gives it.
            heat: whether a heat map is wanted.
        """
        return self._put(_Task(film, heat))

    def free(self) -> Future[None]:
        """A future that is done as soon as a thread takes up something new."""
        return self._put(_Task(None, False))

    def close(self, seconds: float = 2.0) -> None:
        """End after the batch at work, or without it; films that still wait get a `LeftError` at once.

        Args:
            seconds: to wait for the batch.
        """
        self._closed = True
        self._turn_away()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))

    def _put(self, task: _Task) -> Future[Any]:
        self._tasks.put(task)
        if self._closed:
            self._turn_away()
        return task.future

    def _turn_away(self) -> None:
        """Tell all who wait that nobody answers; a mark of the end among them is for a thread."""
        marks = 0
        with suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                marks += task is None
                if task is not None and task.future.set_running_or_notify_cancel():
                    task.future.set_exception(LeftError())
        for _ in range(marks):
            self._tasks.put(None)

    def _run(self) -> None:
        while (first := self._tasks.get()) is not None:
            batch = [first]
            # Those that wait are for the other threads too.
            share = -(-(self._tasks.qsize() + 1) // len(self._threads))
            while len(batch) < min(BATCH, share) and (task := self._next()) is not None:
                batch.append(task)
            tasks = [task for task in batch if task.future.set_running_or_notify_cancel()]
            for task in tasks:
                if task.film is None:
                    task.future.set_result(None)
            for heat in (True, False):
                if chosen := [task for task in tasks if task.film is not None and task.heat is heat]:
                    self._answer(chosen, heat)

    def _next(self) -> _Task | None:
        """A film that waits; None where there is none, or the end is next."""
        try:
            task = self._tasks.get_nowait()
        except queue.Empty:
            return None
        if task is None:
            # It is for a thread that has no batch.
            self._tasks.put(None)
        return task

    def _answer(self, tasks: list[_Task], heat: bool) -> None:
        try:
            answers = self._answering.answer([task.film for task in tasks if task.film is not None], heat=heat)
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
