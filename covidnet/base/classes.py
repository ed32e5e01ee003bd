"""The classes of a study: their order, column names and colours, and the folder names that mean them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

from covidnet.base.errors import SettingError

AUTO = "auto"
"""The value of ``data.classes`` that takes the classes from the data set."""

MOST_CLASSES = 50
"""A study has 2 classes to this many."""

# The three classes keep their colours wherever they are. Okabe and Ito's palette, safe for colour-blind readers, comes
# first; then each colour is the one farthest from all before it, and from white, in OKLab.
_OWN_COLOURS = {"COVID-19": "#d55e00", "Normal": "#009e73", "Pneumonia": "#0072b2"}
_PALETTE = (
    *_OWN_COLOURS.values(), "#e69f00", "#56b4e9", "#cc79a7", "#000000", "#660022", "#9900ff", "#000099",
    "#005500", "#55dd00", "#ff22ff", "#aa1177", "#2222ff", "#775544", "#660099", "#113344", "#ff0066", "#7777ff",
    "#99cc99", "#ddaaff", "#aa0000", "#998800", "#334488", "#886699", "#ff9999", "#bb55dd", "#447700", "#6644cc",
    "#889999", "#006666", "#dd00aa", "#cccc00", "#ff77dd", "#443300", "#00bb44", "#00ddee", "#440066", "#aa00bb",
    "#0066ff", "#bbbbcc", "#773366", "#bb5566", "#dd0011", "#ff6666", "#0099bb", "#33bbaa", "#3322bb", "#bb88ff",
)  # fmt: skip

# A name is part of metric names, file names and messages.
_NAME = re.compile(r"[\w(](?:[\w +&().'-]{0,58}[\w)+])?")
_RESERVED = {"all", "mean", "accuracy", "loss"}


def key_of(name: str) -> str:
    """The form in which names are compared, and in which they are in column names: lower-case letters and digits only.

    Args:
        name: of a folder, a label or a class.

    Example:
        >>> key_of("Lung_Opacity") == key_of("lung opacity")
        True
    """
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFC", name).lower())


def _named(name: str, names: Iterable[str]) -> str | None:
    """The one of some names that has the same letters and digits."""
    key = key_of(name)
    return next((one for one in names if key and key_of(one) == key), None)


@dataclass(frozen=True)
class ClassList(Sequence[str]):
    """The classes of a study, in the order of every table, confusion matrix and logit.

    It is a sequence of the names: ``len(classes)``, ``classes[0]``, ``classes.index("Normal")``.

    Args:
        names: 2 to 50 names.
        positive: the class that short tables, headlines and an anomaly score are about; the first if empty. A study of
            two classes is reported as a binary one: the sensitivity is that of the positive class, and the specificity
            the sensitivity of the other one.

    Raises:
        SettingError: too few or too many names, a name that cannot be used, two names that differ in spaces, letter
            case and punctuation only, or a positive class that is not among them.

    Example:
        >>> classes = ClassList(("COVID-19", "Lung Opacity"))
        >>> classes.columns, classes.positive
        (('p_covid19', 'p_lungopacity'), 'COVID-19')
    """

    names: tuple[str, ...]
    positive: str = ""

    def __post_init__(self) -> None:
        """Refuse names that cannot be used."""
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        given = list(self.names)
        if not 2 <= len(given) <= MOST_CLASSES:
            raise SettingError("data.classes", given, f"2 to {MOST_CLASSES} names", f"{len(given)} given")
        for name in given:
            if not _NAME.fullmatch(name) or not key_of(name) or key_of(name) in _RESERVED:
                raise SettingError(
                    "data.classes", given,
                    "names of at most 60 letters, digits, spaces and + & ( ) . ' -, and not one of "
                    + ", ".join(sorted(_RESERVED)), f"rename {name!r}",
                )  # fmt: skip
        for key, count in Counter(self.slugs).items():
            if count > 1:
                same = " and ".join(repr(name) for name in given if key_of(name) == key)
                raise SettingError("data.classes", given, "names that differ", f"{same} both become p_{key}")
        if not self.positive:
            object.__setattr__(self, "positive", given[0])
        elif (found := _named(self.positive, given)) is None:
            raise SettingError("data.positive", self.positive, given)
        else:
            object.__setattr__(self, "positive", found)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[str]: ...
    def __getitem__(self, at: int | slice) -> str | Sequence[str]:
        return self.names[at]

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def index(self, name: Any, start: int = 0, stop: int = MOST_CLASSES) -> int:
        """The place of a class; a ValueError if there is no such class."""
        return self.names.index(name, start, stop)

    @cached_property
    def slugs(self) -> tuple[str, ...]:
        """The names as they are in column names."""
        return tuple(map(key_of, self.names))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The probability columns of predictions.csv, such as p_covid19."""
        return tuple(f"p_{slug}" for slug in self.slugs)

    @cached_property
    def colours(self) -> dict[str, str]:
        """One colour per class in every figure; COVID-19, Normal and Pneumonia always have the same ones."""
        own = {name: _OWN_COLOURS[name] for name in self.names if name in _OWN_COLOURS}
        free = (colour for colour in _PALETTE if colour not in own.values())
        return {name: own.get(name) or next(free) for name in self.names}

    @property
    def binary(self) -> bool:
        """Whether there are two classes, a positive and a negative one."""
        return len(self.names) == 2

    @property
    def reported(self) -> tuple[str, ...]:
        """The classes whose rates are reported: all, or the positive one of two, because the other's mirror them."""
        return (self.positive,) if self.binary else self.names

    def record(self) -> dict[str, Any]:
        """Plain values for a file; empty for the default classes, which files of older versions have too."""
        if self == DEFAULT_CLASSES:
            return {}
        return {"classes": list(self.names)} | ({"positive": self.positive} if self.positive != self.names[0] else {})

    @staticmethod
    def of(record: Mapping[str, Any] | None) -> ClassList:
        """The classes of the settings under ``data``, or of a `record`; the default ones where it names none.

        Raises:
            SettingError: as in the class, or the classes are a text and not a list.
        """
        names, positive = (record or {}).get("classes"), str((record or {}).get("positive") or "")
        if isinstance(names, str):
            raise SettingError("data.classes", names, f"a list of 2 to {MOST_CLASSES} names, or {AUTO}")
        if names is None and not positive:
            return DEFAULT_CLASSES
        return ClassList(tuple(names if names is not None else DEFAULT_CLASSES.names), positive)

    @staticmethod
    def declared(data: Mapping[str, Any]) -> ClassList | None:
        """The classes that the settings under ``data`` name; None for ``auto``, which only the data set can answer.

        Raises:
            SettingError: as in the class.
        """
        return None if data.get("classes") == AUTO else ClassList.of(data)


DEFAULT_CLASSES = ClassList(("COVID-19", "Normal", "Pneumonia"))
"""The paper's three classes, used where ``data.classes`` names no others."""

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


def label_of(
    name: str, spellings: Mapping[str, str] | None = None, classes: ClassList | None = DEFAULT_CLASSES
) -> str | None:
    """The class that a folder or a metadata cell means; None if unknown.

    Args:
        name: a folder name or a label as written, such as ``COVID19``.
        spellings: more names and the class they mean (the setting ``data.labels``); they take precedence.
        classes: the classes to choose from; None takes any name as the name of a class.

    Returns:
        One of `classes`, or None. Usual spellings count where the class that they mean is one of them.

    Example:
        >>> label_of("COVID19"), label_of("No_findings"), label_of("tuberculosis")
        ('COVID-19', 'Normal', None)
        >>> label_of("TB", {"tb": "Pneumonia"})
        'Pneumonia'
        >>> label_of("viral pneumonia", classes=ClassList(("Viral Pneumonia", "Normal")))
        'Viral Pneumonia'
    """
    own = {key_of(key): value for key, value in (spellings or {}).items()}
    key, usual = key_of(name), _SPELLINGS.get(key_of(name), "")
    if classes is None:
        # COVID19 is COVID-19 by its letters; healthy might be a class beside Normal.
        return own.get(key) or _named(name, DEFAULT_CLASSES.names) or name.strip() or None
    mapped = own.get(key)
    if mapped is None and _named(name, classes.names) is None:
        mapped = own.get(key_of(usual))
    written = [mapped] if mapped is not None else [name, usual]
    # data.labels may name a class by a usual spelling too.
    written += [_SPELLINGS.get(key_of(one), "") for one in written]
    return next((found for one in written if (found := _named(one, classes.names))), None)
