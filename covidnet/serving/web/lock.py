"""The lock of a server: a token for programs, users with passwords for people, and a limit on failed attempts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import getpass
import hashlib
import hmac
import secrets
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from covidnet.base.errors import CovidnetError, DataError, SettingError
from covidnet.serving.web.rate import RateLimit
from covidnet.serving.web.web_error import WebError

TOKEN_USER = "token"
"""The name under which requests with the token are logged."""

COMMAND = "python -m covidnet.serving.web.lock NAME >> FILE"
"""Makes a line of the file of users."""

# Scrypt as recommended by the OWASP Password Storage Cheat Sheet: 32 MiB and about 0.2 s for each attempt.
_COST, _BLOCK, _PARALLEL = 1 << 15, 8, 3
_SALT, _KEY = 16, 32
_MOST_MEMORY = 1 << 28

_SHORTEST_TOKEN = 16
_SHORTEST_PASSWORD, _LONGEST_PASSWORD = 8, 256
_LONGEST_NAME = 64
_MOST_BYTES = 1 << 20

# Attempts of one address under one name, and of one address under all names: at once, and per second afterwards.
_OF_NAME, _OF_ADDRESS = (10, 1 / 6), (60, 1.0)
_REMEMBERED = 1024


@dataclass(frozen=True)
class Password:
    """A password as scrypt leaves it (RFC 7914).

    Args:
        cost: the parameter N, a power of 2.
        block: the parameter r.
        parallel: the parameter p.
        salt: random bytes.
        key: the result of scrypt.
    """

    cost: int
    block: int
    parallel: int
    salt: bytes
    key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str) -> Password:
        """Hash a password with a new salt."""
        salt = secrets.token_bytes(_SALT)
        return cls(_COST, _BLOCK, _PARALLEL, salt, _scrypt(password.encode(), salt, _COST, _BLOCK, _PARALLEL))

    @classmethod
    def read(cls, text: str) -> Password:
        """The password of a line of the file, after the name.

        Raises:
            ValueError: it is not from `Password.line`.
        """
        kind, *numbers, salt, key = text.split(":")
        cost, block, parallel = map(int, numbers)
        found = cls(cost, block, parallel, _decoded(salt), _decoded(key))
        strong = cost >= 1 << 14 and cost & (cost - 1) == 0 and 1 <= parallel <= 16 and block >= 8
        sizes = len(found.salt) >= _SALT and len(found.key) == _KEY
        if kind != "scrypt" or not strong or not sizes or 128 * cost * block > _MOST_MEMORY:
            raise ValueError
        return found

    def line(self, name: str) -> str:
        """The line of a user in the file."""
        salt, key = (base64.b64encode(part).decode() for part in (self.salt, self.key))
        return f"{name}:scrypt:{self.cost}:{self.block}:{self.parallel}:{salt}:{key}"

    def matches(self, password: bytes) -> bool:
        """Whether this is the password; the comparison takes the same time wherever they differ."""
        return hmac.compare_digest(_scrypt(password, self.salt, self.cost, self.block, self.parallel), self.key)


class Lock:
    """Who may use a server: whoever has the token, and users with their passwords.

    The token is accepted as ``Authorization: Bearer TOKEN``. Without users it is accepted as a password too, under any
    name, so that a browser can ask for it.

    Args:
        token: an empty one is no token.
        users: their passwords by name.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, token: str = "", users: Mapping[str, Password] | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._token = token.encode()
        self._users = dict(users or {})
        # The answer for an unknown name takes as long as that for a wrong password.
        self._nobody = Password(_COST, _BLOCK, _PARALLEL, b"\0" * _SALT, b"\0" * _KEY)
        self._limits = tuple(RateLimit(rate, burst, clock) for burst, rate in (_OF_NAME, _OF_ADDRESS))
        # Browsers send the password with every request; one that was right is recognised by a hash that only this
        # process can compute.
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, str] = OrderedDict()
        self._turn = asyncio.Lock()

    async def user(self, authorization: str, client: str) -> str:
        """The name of the user who sent a request.

        Args:
            authorization: the header, decoded as Latin-1; empty if there is none.
            client: the client's address.

        Raises:
            WebError: 401 if there is no valid login; 429 after too many failed ones.
        """
        if not authorization:
            raise _refused("the server requires a login")
        login = _login(authorization)
        name, secret = login or ("", b"")
        keys = (f"{client} {hashlib.sha256(name.encode()).hexdigest()}", client)
        for limit, key in zip(self._limits, keys, strict=True):
            # Taken before the check, so that guesses sent at once are counted; returned if the login is valid.
            if wait := limit.wait(key):
                raise WebError(
                    429, "too_many_logins", "too many failed logins from this address",
                    "wait for the seconds in Retry-After", retry=wait,
                )  # fmt: skip
        user = await self._checked(name, secret) if login else None
        if user is None:
            raise _refused("the login is not valid")
        for limit, key in zip(self._limits, keys, strict=True):
            limit.give_back(key)
        return user

    async def _checked(self, name: str, secret: bytes) -> str | None:
        if self._token and (not name or not self._users) and hmac.compare_digest(secret, self._token):
            return TOKEN_USER
        if not name or not self._users or len(secret) > 4 * _LONGEST_PASSWORD:
            return None
        digest = hmac.digest(self._secret, name.encode() + b"\0" + secret, "sha256")
        if digest in self._known:
            self._known.move_to_end(digest)
            return name
        # One at a time: each needs 32 MiB and a core.
        async with self._turn:
            right = await asyncio.to_thread(self._users.get(name, self._nobody).matches, secret)
        if not right or name not in self._users:
            return None
        self._known[digest] = name
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return name


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        SettingError: the file cannot be read, or does not contain one token.
    """
    allowed = f"a file with one line of at least {_SHORTEST_TOKEN} letters, digits or signs, without spaces"
    try:
        # Not more than a token's length is read: the path could be a whole disk.
        with path.open("rb") as file:
            token = file.read(4097).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingError("token", path, allowed, f"it cannot be read: {why}") from None
    if not _SHORTEST_TOKEN <= len(token) <= 4096 or not all("!" <= character <= "~" for character in token):
        raise SettingError("token", path, allowed, "write one with: openssl rand -hex 32")
    return token


def read_users(path: Path) -> dict[str, Password]:
    """The users in a file: one in each line, as `COMMAND` writes it; empty lines and lines with # are skipped.

    Raises:
        SettingError: the file cannot be read, or has no user.
        DataError: a line is not valid, or a user is there twice.
    """
    allowed = "a file with a line for each user"
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingError("users", path, allowed, f"it cannot be read: {why}") from None
    users: dict[str, Password] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        try:
            password = Password.read(rest)
        except ValueError:
            # Not the line itself, which might be a password.
            raise DataError(
                f"{path}: line {number} is not a name and a hashed password; write it with: {COMMAND}"
            ) from None
        if not _is_name(name) or name in users:
            raise DataError(f"{path}: the name in line {number} is empty, invalid or used twice; correct that line")
        users[name] = password
    if not users:
        raise SettingError("users", path, allowed, f"write one with: {COMMAND}")
    return users


def main(arguments: list[str] | None = None) -> int:
    """Ask for a password and print the user's line: ``python -m covidnet.serving.web.lock NAME >> FILE``."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if len(given) != 1 or given[0].startswith("-") or not _is_name(given[0]):
            raise CovidnetError(f"usage: {COMMAND}; NAME: 1 to {_LONGEST_NAME} characters without a colon")
        if sys.stdin.isatty():
            password = getpass.getpass(f"Password of {given[0]}: ")
            if password != getpass.getpass("The same again: "):
                raise CovidnetError("the two passwords differ; try again")
        else:
            password = sys.stdin.readline().rstrip("\r\n")
        if not _SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
            allowed = f"{_SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters"
            raise CovidnetError(f"the password must have {allowed}; choose another one")
    except CovidnetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(Password.of(password).line(given[0]) + "\n")
    return 0


def _scrypt(password: bytes, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    # OpenSSL needs somewhat more than the 128 N r bytes of the algorithm.
    return hashlib.scrypt(password, salt=salt, n=cost, r=block, p=parallel, dklen=_KEY, maxmem=2 * _MOST_MEMORY)


def _login(authorization: str) -> tuple[str, bytes] | None:
    """The name and the secret of a header; the name is empty for a token. None if there are none."""
    kind, _, given = authorization.partition(" ")
    if kind.lower() == "bearer":
        return "", given.strip().encode("latin-1")
    if kind.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(given.strip(), validate=True).partition(b":")
        return (name.decode() or " ", password) if colon else None
    except (binascii.Error, ValueError):
        return None


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip() and ":" not in name


def _refused(cause: str) -> WebError:
    return WebError(
        401, "no_login", cause, "send a name and password (curl -u NAME), or the header Authorization: Bearer TOKEN",
        headers={"WWW-Authenticate": 'Basic realm="covidnet", charset="UTF-8"'},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
