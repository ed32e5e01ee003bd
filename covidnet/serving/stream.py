"""Stream any number of images through a model: read ahead, predict in parallel, return them in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

from covidnet.base.errors import ImageRefusedError, WeightsError
from covidnet.base.progress import available_cores
from covidnet.data.reading.decoders import DecoderError
from covidnet.data.reading.images import Radiograph, unreadable
from covidnet.serving.answers import ImageAnswer, Predictor

BATCH = 8
"""Images per pass of the network; 8 to 16 is fastest on a CPU."""

_MOST_PASSES = 4
_READERS = 2

Item = TypeVar("Item")
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


class Share(NamedTuple):
    """How the cores are divided.

    Args:
        passes: concurrent passes of the network. Two passes on one core each are faster than two consecutive passes on
            both; their number is limited, since each needs its own memory.
        threads: threads of each pass.
    """

    passes: int
    threads: int

    @classmethod
    def of_cores(cls, cores: int | None = None) -> Share:
        """The division of the given number of cores, or of those that this process may use.

        Example:
            >>> Share.of_cores(2), Share.of_cores(64)
            (Share(passes=2, threads=1), Share(passes=4, threads=16))
        """
        count = cores or available_cores()
        passes = min(count, _MOST_PASSES)
        return cls(passes, count // passes)


def answered(
    predictor: Predictor,
    items: Iterable[Item],
    read: Callable[[Item], Radiograph],
    *,
    name: Callable[[Item], str],
    heat: bool = False,
    passes: int = 1,
) -> Iterator[tuple[Item, Radiograph | None, ImageAnswer | ImageRefusedError]]:
    """Predict images, with only a few of them in memory at once.

    Args:
        predictor: the model and its input gate; called from `passes` threads.
        items: one per image, such as its path.
        read: returns the image of an item; called from threads. An exception affects only that image, except a
            DecoderError, which no image causes.
        name: the name of an item's image in a refusal.
        heat: whether to compute heat maps.
        passes: concurrent passes of the network.

    Yields:
        The items in order, each with its image and its answer or refusal; the image is None if it cannot be read.

    Raises:
        Exception: the model failed on every image of a batch.
    """

    def reading(item: Item) -> tuple[Item, Radiograph | ImageRefusedError]:
        try:
            return item, read(item)
        except ImageRefusedError as error:
            return item, error
        except DecoderError:
            # The image is not at fault.
            raise
        except Exception as error:
            return item, unreadable(name(item), error)

    def answer(
        batch: list[tuple[Item, Radiograph | ImageRefusedError]],
    ) -> list[tuple[Item, Radiograph | None, ImageAnswer | ImageRefusedError]]:
        images = [(item, image) for item, image in batch if isinstance(image, Radiograph)]
        try:
            answers = iter(
                predictor.answer([image for _, image in images], names=[name(item) for item, _ in images], heat=heat)
            )
        except WeightsError:
            # The model is damaged, not the image.
            raise
        except Exception as error:
            if len(images) == 1:
                answers = iter([unreadable(name(images[0][0]), error)])
            else:
                # One image must not fail the others of its batch.
                alone = [answer([pair])[0][2] for pair in images]
                if all(isinstance(one, ImageRefusedError) for one in alone):
                    # The model is at fault, not an image.
                    raise
                answers = iter(alone)
        return [(i, image, next(answers)) if isinstance(image, Radiograph) else (i, None, image) for i, image in batch]

    with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(passes) as network:
        images = _ahead(readers, reading, iter(items), 2 * BATCH)
        batches = iter(lambda: list(islice(images, BATCH)), [])
        # One batch is queued for each running one, so that the network never waits.
        for batch in _ahead(network, answer, batches, passes + 1):
            yield from batch


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[_Given], _Found], items: Iterator[_Given], most: int
) -> Iterator[_Found]:
    """The results of some work in the order of its items; at most `most` items are started ahead."""
    begun: deque[Future[_Found]] = deque(pool.submit(work, item) for item in islice(items, most))
    while begun:
        found = begun.popleft().result()
        begun.extend(pool.submit(work, item) for item in islice(items, 1))
        yield found
