"""Limits of a server: sizes, rates and times, checked before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from covidnet.base.errors import SettingError


@dataclass(frozen=True)
class WebLimits:
    """Limits of the web application.

    Args:
        max_megabytes: size of one upload, in millions of bytes.
        max_megapixels: size of one image, checked before decoding.
        min_side: minimum of an image's shorter side, in pixels.
        rate: predictions per second and client address in the long run; 0 sets no limit.
        burst: predictions that a client address may request at once.
        queue: images that may wait at once.
        connections: open connections at once.
        per_address: concurrent requests of one client address; it may hold twice as many connections.
        upload_seconds: maximum duration of one upload.
        upload_rate: kB per second; a slower upload is cancelled.
        answer_seconds: maximum time from the complete upload to the response.

    Raises:
        SettingError: a limit is not a number above 0.
    """

    max_megabytes: float = 64.0
    max_megapixels: float = 64.0
    min_side: int = 64
    rate: float = 10.0
    burst: int = 20
    queue: int = 16
    connections: int = 64
    per_address: int = 8
    upload_seconds: float = 60.0
    upload_rate: float = 16.0
    answer_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Reject limits with which a server would answer nothing, or have no limit."""
        for field in fields(self):
            value, whole = getattr(self, field.name), field.type == "int"
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            free = field.name == "rate" and value == 0
            if not number or (value <= 0 and not free) or (whole and value != int(value)):
                allowed = "an integer above 0" if whole else "a number above 0"
                raise SettingError(field.name, value, allowed + (", or 0 for no limit" if field.name == "rate" else ""))

    @property
    def max_bytes(self) -> int:
        """Size of one upload in bytes."""
        return int(self.max_megabytes * 1e6)
