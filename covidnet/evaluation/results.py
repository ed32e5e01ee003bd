"""Conversion of results, which are frozen dataclasses, to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from covidnet.base.errors import DataError

T = TypeVar("T")

Interval = tuple[float, float]
"""The lower and the upper end of a 95% interval."""


@dataclass(frozen=True)
class Measured:
    """A measured number with its 95% interval; None where undefined."""

    value: float | None
    ci: Interval | None


@dataclass(frozen=True)
class Estimate(Measured):
    """A measured number and how its interval was computed.

    Args:
        method: ``wilson``, ``delong`` or ``bootstrap``; None without an interval.
    """

    method: str | None


UNDEFINED_ESTIMATE = Estimate(None, None, None)
"""The estimate of an undefined number."""


def estimate(value: float | None, ci: Interval | None, method: str) -> Estimate:
    """An estimate, without a method where there is no interval."""
    return Estimate(value, ci, None if ci is None else method)


def to_json(value: Any) -> Any:
    """Results as plain values for `json.dumps`; dicts keep the order of the fields.

    A field's metadata ``key`` replaces its name; a None with metadata ``omit_none`` is omitted.

    Args:
        value: a dataclass, or a list, tuple or dict of them; anything else is returned unchanged.

    Example:
        >>> to_json({"accuracy": Estimate(0.5, (0.4, 0.6), "wilson")})
        {'accuracy': {'value': 0.5, 'ci': [0.4, 0.6], 'method': 'wilson'}}
    """
    if is_dataclass(value):
        return {
            one.metadata.get("key") or one.name: to_json(found)
            for one in fields(value)
            if (found := getattr(value, one.name)) is not None or not one.metadata.get("omit_none")
        }
    if isinstance(value, Mapping):
        return {key: to_json(one) for key, one in value.items()}
    return [to_json(one) for one in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], content: object, source: str = "") -> T:
    """Results from the content of a JSON file.

    Unknown keys are ignored. A missing or null key, as in files of older versions, becomes None, an empty list or dict,
    or a dataclass of such values. A dict of dataclasses returns an empty one for a missing key.

    Args:
        kind: a dataclass.
        content: what `json.loads` returned; an instance of `kind` is returned unchanged.
        source: the file, for the error.

    Raises:
        DataError: a value has the wrong type, or is missing where None is not allowed.

    Example:
        >>> from_json(Estimate, {"value": 0.5, "ci": [0.4, 0.6], "n": 8})
        Estimate(value=0.5, ci=(0.4, 0.6), method=None)
    """
    return _read(kind, content, "", source or kind.__name__)


def empty(kind: type[T]) -> T:
    """A result without any values."""
    return from_json(kind, {})


class _ByName(dict[str, Any]):
    def __init__(self, values: dict[str, Any], empty: Any) -> None:
        super().__init__(values)
        self._empty = empty

    def __missing__(self, key: str) -> Any:
        return empty(self._empty)


@cache
def _types(kind: Any) -> list[tuple[str, str, Any]]:
    hints = get_type_hints(kind)
    return [(one.name, one.metadata.get("key") or one.name, hints[one.name]) for one in fields(kind)]


def _read(kind: Any, value: Any, place: str, source: str) -> Any:
    if kind is object or kind is Any:
        return value
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        (kind,) = (one for one in inner if one is not NoneType)
        return None if value is None else _read(kind, value, place, source)
    if is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        given = _checked(Mapping, {} if value is None else value, place, source)
        make: Any = kind
        return make(**{name: _read(of, given.get(key), f"{place}.{key}", source) for name, key, of in _types(make)})
    if origin is dict:
        given = _checked(Mapping, {} if value is None else value, place, source)
        values = {
            str(key): _read(inner[1], one, f"{place}.{key}", source)
            for key, one in given.items()
            if one is not None or inner[1] not in (int, float, str)
        }
        return _ByName(values, inner[1]) if is_dataclass(inner[1]) else values
    if origin in (list, tuple):
        listed = _checked((list, tuple), [] if value is None else value, place, source)
        if origin is tuple and inner[-1] is not ... and len(listed) != len(inner):
            raise DataError(f"{source}: {place[1:]} has {len(listed)} values, not {len(inner)}; the file is damaged")
        return origin(_read(inner[0], one, f"{place}[{at}]", source) for at, one in enumerate(listed))
    return _checked((int, float) if kind is float else kind, value, place, source)


def _checked(kind: Any, value: Any, place: str, source: str) -> Any:
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise DataError(f"{source}: {place[1:] or 'the content'} is {value!r:.40}; the file is damaged")
