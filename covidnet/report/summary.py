"""The content of summary.json, and how its parts are found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

Summary = Mapping[str, Any]
"""The content of summary.json, or a part of it."""


ALL = "All classes"
"""What stands for the class in a row about all of them."""


def at(tree: Any, *keys: str) -> Any:
    """What stands at the end of a path of keys; None where any of them is missing or None.

    Example:
        >>> at({"pooled": {"n": 3, "classes": None}}, "pooled", "n"), at({"pooled": None}, "pooled", "n")
        (3, None)
    """
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
