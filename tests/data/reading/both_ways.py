"""Decodes bytes in this process and in a worker: pixels, facts and refusals must be the same."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import numpy as np

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.decoders import Decoders
from covidnet.data.reading.images import Radiograph, decode_radiograph


@functools.cache
def _decoders(max_megapixels: float) -> Decoders:
    return Decoders(1, max_megapixels=max_megapixels)


def decoded_or_refused(decode: Callable[[], Radiograph]) -> Radiograph | ImageRefusedError:
    """What a call returns, or the refusal that it raises."""
    try:
        return decode()
    except ImageRefusedError as error:
        return error


def pixels_both_ways(data: bytes, name: str, *, max_megapixels: float = 64.0, min_side: int = 64) -> np.ndarray:
    """The pixels; a refusal is raised. Decoders with unusual limits are closed after the call."""
    limits = {"max_megapixels": max_megapixels, "min_side": min_side}
    with contextlib.ExitStack() as stack:
        usual = max_megapixels in (64, 4) and min_side == 64
        decoders = _decoders(max_megapixels) if usual else stack.enter_context(Decoders(1, **limits))  # type: ignore[arg-type]
        theirs = decoded_or_refused(lambda: decoders.decode(data, name))
    ours = decoded_or_refused(lambda: decode_radiograph(data, name, **limits))  # type: ignore[arg-type]
    if isinstance(ours, ImageRefusedError):
        assert str(theirs) == str(ours)
        assert isinstance(theirs, ImageRefusedError)
        assert (theirs.path, theirs.cause, theirs.remedy) == (ours.path, ours.cause, ours.remedy)
        raise ours
    assert isinstance(theirs, Radiograph), theirs
    assert np.array_equal(theirs.pixels, ours.pixels)
    assert theirs.pixels.flags.writeable
    assert theirs.pixels.flags.c_contiguous
    assert (theirs.facts, theirs.colour) == (ours.facts, ours.colour)
    assert (theirs.view, theirs.patient_id) == (ours.view, ours.patient_id)
    return ours.pixels
