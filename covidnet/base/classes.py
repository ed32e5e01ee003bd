"""The three classes: their order, short names, colours, and the folder names that mean them."""

from __future__ import annotations

import re
from collections.abc import Mapping

CLASSES: tuple[str, ...] = ("COVID-19", "Normal", "Pneumonia")
"""Class names in the order of every table, confusion matrix and logit."""

SLUGS: tuple[str, ...] = ("covid19", "normal", "pneumonia")
"""Class names for column names such as p_covid19, in the order of `CLASSES`."""

COLOURS: dict[str, str] = {"COVID-19": "#d55e00", "Normal": "#009e73", "Pneumonia": "#0072b2"}
"""One colour per class in every figure (Okabe and Ito's palette, safe for colour-blind readers)."""

_SPELLINGS = {
    "covid19": "COVID-19",
    "covid": "COVID-19",
    "covid19positive": "COVID-19",
    "sarscov2": "COVID-19",
    "normal": "Normal",
    "nofinding": "Normal",
    "nofindings": "Normal",
    "healthy": "Normal",
    "negative": "Normal",
    "pneumonia": "Pneumonia",
    "viralpneumonia": "Pneumonia",
    "bacterialpneumonia": "Pneumonia",
}


def key_of(name: str) -> str:
    """The form in which names are compared: lower-case letters and digits only.

    Args:
        name: of a folder, a label or a class.

    Example:
        >>> key_of("Lung_Opacity") == key_of("lung opacity")
        True
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


def label_of(name: str, spellings: Mapping[str, str] | None = None) -> str | None:
    """The class that a folder or a metadata cell means; None if unknown.

    Args:
        name: a folder name or a label as written, such as ``COVID19``.
        spellings: more names and the class they mean (the setting ``data.labels``); they take precedence.

    Returns:
        One of `CLASSES`, or None.

    Example:
        >>> label_of("COVID19"), label_of("No_findings"), label_of("tuberculosis")
        ('COVID-19', 'Normal', None)
        >>> label_of("TB", {"tb": "Pneumonia"})
        'Pneumonia'
    """
    own = {key_of(key): value for key, value in (spellings or {}).items()}
    key = key_of(name)
    found = own.get(key, _SPELLINGS.get(key))
    return _SPELLINGS.get(key_of(found)) if found is not None else None
