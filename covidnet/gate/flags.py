"""The input gate's findings about an image."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """One fault of an image.

    Args:
        code: a short name for programs, of `CODES`.
        text: the cause in one clause, a semicolon, then the remedy.
        refuses: whether the image must not be predicted; otherwise the flag is a warning.
        learned: whether it comes from a comparison with the training images; otherwise from a rule for any image.
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
