r"""Quote paths on a command line that Hydra's grammar would reject."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

DATA_PATHS = ("data.root", "data.table", "data.masks", "data.boxes", "split.unseen", "cache_dir")
"""Settings of the data that are paths, or may hold a second equals sign."""


def quoted(arguments: Sequence[str], names: Iterable[str]) -> list[str]:
    r"""The words of a command line, with paths quoted that Hydra would reject or misread.

    ``checkpoint=sweep/fold=0`` has a second equals sign, ``input=images (1)`` a bracket, ``out=007`` is a number. Kept
    as they are: quoted values, lists, dicts, null, interpolations (``${``), and with ``-m`` values with a comma, which
    separates the values of a sweep.

    Args:
        arguments: the command line without the command.
        names: of the settings that are paths.

    Returns:
        As many words.

    Example:
        >>> quoted(["checkpoint=sweep/fold=0", "input=it's (1).png", "fold=3"], ["checkpoint", "input"])
        ["checkpoint='sweep/fold=0'", "input='it\\'s (1).png'", 'fold=3']
    """
    known = set(names)
    sweep = bool({"-m", "--multirun"} & set(arguments))
    words = []
    for word in arguments:
        name, equals, value = word.partition("=")
        left = not equals or name.lstrip("+") not in known or "${" in value or (sweep and "," in value)
        words.append(word if left or _taken(value) else f"{name}={_in_quotes(value)}")
    return words


def _taken(value: str) -> bool:
    """Whether Hydra reads a value unchanged, or as syntax that was written for Hydra."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    try:
        read = OverridesParser.create().parse_override(f"key={value}")._value
    except HydraException:
        return False
    return read is None or isinstance(read, QuotedString | list | dict) or read == value


def _in_quotes(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()
