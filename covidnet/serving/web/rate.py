"""A rate limit for each client address."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_CLIENTS = 4096


class RateLimit:
    """A token bucket for each client address; the least recently active addresses are forgotten.

    Args:
        rate: requests per second in the long run; 0 sets no limit.
        burst: requests at once after a pause.
        clock: a monotonic clock in seconds.

    Example:
        >>> limit = RateLimit(rate=2, burst=1, clock=lambda: 7.0)
        >>> limit.wait("127.0.0.1"), limit.wait("127.0.0.1")
        (0.0, 0.5)
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Take a token of an address, or return the seconds until there is one; 0.0 means taken."""
        if self.rate == 0:
            return 0.0
        client, now = client_of(address), self._clock()
        left, then = self._left.pop(client, (float(self.burst), now))
        left = min(float(self.burst), left + (now - then) * self.rate)
        taken = left >= 1
        self._left[client] = (left - 1 if taken else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if taken else (1 - left) / self.rate

    def give_back(self, address: str) -> None:
        """Return a token that `wait` took, for a request that turned out not to count."""
        client = client_of(address)
        if client in self._left:
            left, then = self._left[client]
            self._left[client] = (min(float(self.burst), left + 1), then)


def client_of(address: str) -> str:
    """The address, or for IPv6 its /64 network, since one client may use all of its addresses.

    Args:
        address: of a client; returned unchanged if it is not an address.

    Example:
        >>> client_of("10.0.0.7"), client_of("2001:db8::1:2")
        ('10.0.0.7', '2001:db8::/64')
    """
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((int(known) >> 64 << 64, 64)))
