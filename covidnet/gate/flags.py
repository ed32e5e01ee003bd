"""What the input gate has to say of an image, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One thing that is wrong with an image.

    Args:
        code: a short name that programs go by, of `CODES`.
        text: why, in one clause, then what to do, after a semicolon.
        refuses: whether the image must not be predicted; else the flag is a warning.
        learned: whether it compares the image with the training images; else it is a rule about any image.
    """

    code: str
    text: str
    refuses: bool = True
    learned: bool = False


CODES: tuple[str, ...] = (
    "small", "shape", "colour", "lateral", "page", "noise", "dark", "bright", "flat", "ct", "inverted", "rotated_90",
    "rotated_180", "rotated_270", "inverted_and_rotated", "not_frontal", "unlike",
)  # fmt: skip
"""Every code of a `Flag`."""
