"""Errors that the user can fix: each is one line with the thing, the cause and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from covidnet.base.names import shown


class CovidnetError(Exception):
    """An error that the user can fix. Commands print its text without a traceback."""


class SettingError(CovidnetError, ValueError):
    """A setting has a value that is not allowed; printed as ``SETTING=VALUE: must be WHAT; REMEDY``.

    Args:
        name: the setting as it is written on the command line, such as ``fold``.
        value: the value received.
        allowed: what it must be: words that follow "must be", or the allowed values.
        remedy: what to do, where the allowed values do not say it already.
    """

    def __init__(self, name: str, value: object, allowed: str | Iterable[object], remedy: str = "") -> None:
        self.name = name
        self.value = value
        self.allowed = allowed if isinstance(allowed, str) else tuple(allowed)
        self.remedy = remedy
        what = self.allowed
        if not isinstance(what, str):
            what = ("one of " if len(what) > 1 else "") + ", ".join(map(as_given, what))
        super().__init__(f"{name}={as_given(value)}: must be {what}" + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # Exceptions cross process borders by their constructor's arguments, not by their text.
        return type(self), (self.name, self.value, self.allowed, self.remedy)


class UnknownSettingError(CovidnetError, ValueError):
    """A setting that nothing reads; printed as ``SETTING=VALUE: CAUSE; REMEDY``.

    Args:
        name: the setting as it was written.
        value: the value received; an empty text where it was to be deleted.
        cause: why nothing reads it.
        remedy: the name that was meant, or where the names are found.
    """

    def __init__(self, name: str, value: object, cause: str, remedy: str) -> None:
        self.name = name
        self.value = value
        self.cause = cause
        self.remedy = remedy
        super().__init__(f"{name if value == '' else f'{name}={as_given(value)}'}: {cause}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.name, self.value, self.cause, self.remedy)


class DataError(CovidnetError, ValueError):
    """A data set cannot be used."""


class SplitError(DataError):
    """No folds exist that keep the guarantees of the split."""


class ImageRefusedError(CovidnetError, ValueError):
    """One file cannot be used as a radiograph; the other files are still processed.

    Args:
        path: the file.
        cause: what is wrong with it, such as ``truncated``.
        remedy: what the user can do about it.
    """

    def __init__(self, path: str | Path, cause: str, remedy: str) -> None:
        self.path = str(path)
        self.cause = cause
        self.remedy = remedy
        super().__init__(shown(f"{path}: {cause}; {remedy}"))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Exceptions cross process borders by their constructor's arguments, not by their text.
        return type(self), (self.path, self.cause, self.remedy)


class WeightsError(CovidnetError, RuntimeError):
    """Weights are not available, or do not fit the network."""


class StoreError(CovidnetError, RuntimeError):
    """The feature store is damaged or cannot be written."""


def as_given(value: object) -> str:
    """A value as it is written on a command line.

    Example:
        >>> as_given([True, None, 0.5])
        '[true,null,0.5]'
    """
    if isinstance(value, list):
        return f"[{','.join(map(as_given, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
