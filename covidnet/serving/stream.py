"""Any number of films through a model: read ahead of it, answered side by side, and given back in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

from covidnet.data.decoders import DecoderError
from covidnet.data.images import Film, unreadable
from covidnet.errors import ImageRefusedError, WeightsError
from covidnet.progress import available_cores
from covidnet.serving.answers import Answering, FilmAnswer

BATCH = 8
"""Films per pass of the network; 8 to 16 is best on a CPU."""

_MOST_PASSES = 4
_READERS = 2

Item = TypeVar("Item")
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


class Share(NamedTuple):
    """How the cores are shared out.

    Args:
        passes: of the network, side by side. Two on a core each take less time than one after the other on both; each
            has memory of its own, so that there are few of them.
        threads: of each.
    """

    passes: int
    threads: int

    @classmethod
    def of_cores(cls, cores: int | None = None) -> Share:
        """The share of the cores that this process may use, or of some number of them.

        Example:
            >>> Share.of_cores(2), Share.of_cores(64)
            (Share(passes=2, threads=1), Share(passes=4, threads=16))
        """
        count = cores or available_cores()
        passes = min(count, _MOST_PASSES)
        return cls(passes, count // passes)


def answered(
    answering: Answering,
    items: Iterable[Item],
    read: Callable[[Item], Film],
    *,
    name: Callable[[Item], str],
    heat: bool = False,
    passes: int = 1,
) -> Iterator[tuple[Item, Film | None, FilmAnswer | ImageRefusedError]]:
    """Answer for films, a few of which are in memory at once.

    Args:
        answering: the model and its input gate; called from `passes` threads.
        items: what stands for a film, such as its path.
        read: gives the film of an item; called from threads. Whatever it raises costs that film alone, but a
            DecoderError, which is no film's fault.
        name: what a refusal calls the film of an item.
        heat: whether heat maps are drawn.
        passes: of the network, side by side.

    Yields:
        The items in their order, each with its film and its answer, or with None and its refusal where it cannot be
        read, or no answer can be given for it.

    Raises:
        Exception: what the model raises for every film of a batch.
    """

    def reading(item: Item) -> tuple[Item, Film | ImageRefusedError]:
        try:
            return item, read(item)
        except ImageRefusedError as error:
            return item, error
        except DecoderError:
            # No image is to blame.
            raise
        except Exception as error:
            return item, unreadable(name(item), error)

    def answer(
        batch: list[tuple[Item, Film | ImageRefusedError]],
    ) -> list[tuple[Item, Film | None, FilmAnswer | ImageRefusedError]]:
        films = [(item, film) for item, film in batch if isinstance(film, Film)]
        try:
            answers = iter(
                answering.answer([film for _, film in films], names=[name(item) for item, _ in films], heat=heat)
            )
        except WeightsError:
            # The model is damaged, whatever the film.
            raise
        except Exception as error:
            if len(films) == 1:
                answers = iter([unreadable(name(films[0][0]), error)])
            else:
                # One film must not cost the others of its batch.
                alone = [answer([pair])[0][2] for pair in films]
                if all(isinstance(one, ImageRefusedError) for one in alone):
                    # Not a film but the model is at fault.
                    raise
                answers = iter(alone)
        return [(i, film, next(answers)) if isinstance(film, Film) else (i, None, film) for i, film in batch]

    with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(passes) as network:
        films = _ahead(readers, reading, iter(items), 2 * BATCH)
        batches = iter(lambda: list(islice(films, BATCH)), [])
        # One batch waits for each that is at work, so that the network waits for nobody.
        for batch in _ahead(network, answer, batches, passes + 1):
            yield from batch


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[_Given], _Found], items: Iterator[_Given], most: int
) -> Iterator[_Found]:
    """The results of some work in the order of its items, of which at most so many are begun before they are needed."""
    begun: deque[Future[_Found]] = deque(pool.submit(work, item) for item in islice(items, most))
    while begun:
        found = begun.popleft().result()
        begun.extend(pool.submit(work, item) for item in islice(items, 1))
        yield found
