"""Fake models and decoders, for tests of the server around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from covidnet.base.errors import ImageRefusedError
from covidnet.data.loading.transforms import SquareFit
from covidnet.data.reading.decoders import DecoderError
from covidnet.data.reading.images import Radiograph, decode_radiograph
from covidnet.gate.flags import Flag
from covidnet.serving.answers import ImageAnswer
from covidnet.serving.facts import ModelFacts

FACTS = ModelFacts(
    network="densenet121",
    weights="imagenet",
    frozen=True,
    image_size=32,
    fit="squash",
    mean=(0.5,),
    std=(0.25,),
    folds=(0, 1, 2),
    temperatures=(1.5, 1.2, 1.1),
    training={"name": "phantom", "images": 99, "group": "patient", "validation": "inner"},
)


@dataclass
class FakeModel:
    """The facts that the page displays."""

    facts: ModelFacts = FACTS
    fit: SquareFit = field(default_factory=lambda: SquareFit(32))
    explains: bool = True


@dataclass
class FakePredictor:
    """Returns predefined answers, and counts calls.

    Args:
        seconds: that each batch takes.
        flags: of every image.
        refusal: cause and remedy for every image; None refuses nothing.
        error: raised for an image whose first pixel is 13.
        members: how many models there are.
    """

    seconds: float = 0.0
    flags: Sequence[Flag] = ()
    refusal: tuple[str, str] | None = None
    error: Exception | None = None
    members: int = 3
    batches: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def answer(self, images: Sequence[Radiograph], **options: Any) -> list[ImageAnswer | ImageRefusedError]:
        self.threads.add(threading.get_ident())
        self.batches.append(len(images))
        self.open.wait(20)
        time.sleep(self.seconds)
        if self.error is not None and any(image.pixels[0, 0] == 13 for image in images):
            raise self.error
        return [self._one(image, bool(options.get("heat"))) for image in images]

    def _one(self, image: Radiograph, heat: bool) -> ImageAnswer | ImageRefusedError:
        if self.refusal is not None:
            return ImageRefusedError("image", *self.refusal)
        first = 0.2 + 0.6 * float(image.pixels.mean()) / 255
        members = np.array([[first, 0.9 - first, 0.1]]) + np.linspace(-0.1, 0.1, self.members)[:, None] * [[1, -1, 0]]
        ramp = np.linspace(0, 1, 32, dtype=np.float32)
        picture = np.broadcast_to(ramp, (32, 32)).copy() if heat else None
        return ImageAnswer(members.mean(axis=0), members, list(self.flags), picture)


HOLDS = b"a file that is decoded for ever"


@dataclass
class FakeDecoders:
    """Decodes in the calling thread; `HOLDS` blocks it until it is killed.

    Args:
        error: raised for every file.
    """

    error: Exception | None = None
    max_megapixels: float = 64.0
    min_side: int = 64
    closed: threading.Event = field(default_factory=threading.Event)
    at_work: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def decode(
        self, data: bytes, name: str, *, seconds: float | None = None, left: threading.Event | None = None
    ) -> Radiograph:
        assert seconds is not None
        self.seconds.append(seconds)
        if self.error is not None:
            raise self.error
        if data != HOLDS:
            return decode_radiograph(data, name, max_megapixels=self.max_megapixels, min_side=self.min_side)
        self.at_work.append(name)
        end = time.monotonic() + seconds
        try:
            while not self.closed.is_set() and not (left and left.is_set()):
                if time.monotonic() > end:
                    raise ImageRefusedError(name, "took more than 20 s to decode", "export it again")
                time.sleep(0.005)
            raise DecoderError("decoders: closed; nothing more is decoded")
        finally:
            self.at_work.remove(name)

    def close(self) -> None:
        self.closed.set()
