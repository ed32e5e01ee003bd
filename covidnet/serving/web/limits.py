"""What one server takes: sizes, rates and times, checked before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from covidnet.base.errors import SettingError


@dataclass(frozen=True)
class WebLimits:
    """Limits of the web application.

    Args:
        max_megabytes: size of one upload, in millions of bytes.
        max_megapixels: size of one image, checked before it is decoded.
        min_side: an image's shorter side, in pixels.
        rate: predictions per second and client address in the long run; 0 sets no limit.
        burst: predictions that a client address may ask for at once.
        queue: images that may wait for an answer at once.
        connections: open connections at once.
        per_address: requests of one client address at once; it may hold twice as many connections.
        upload_seconds: how long one upload may take.
        upload_rate: kB per second; an upload that falls below it is given up.
        answer_seconds: how long an answer may take once the upload is here.

    Raises:
        SettingError: a limit is no number, or not above 0.
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
        """Refuse what would make a server that answers nothing, or one without limits."""
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
