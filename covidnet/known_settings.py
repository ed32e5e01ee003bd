"""Which settings a command reads, and of what kind: others are refused by name, as are deleted ones that it needs."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from covidnet.errors import CovidnetError, SettingError, UnknownSettingError

# Groups whose entries are free: each is made from its own `_target_`.
_OPEN = ("callbacks", "logger")
# The setting that tells which option a group has, where the configuration does not come from the groups' files.
_TELLS = {"data": "name", "model": "name", "augment": "mode", "features": "mode"}
# Arguments that a run sets itself.
_OWN = {
    "trainer": ("callbacks", "logger", "plugins", "default_root_dir", "enable_model_summary", "enable_progress_bar"),
    "callbacks": ("dirpath",),
    "logger": ("save_dir",),
}
# Settings of a shared group that a command has no use for, and why.
_UNUSED = {
    "evaluate": {
        **dict.fromkeys(("data.image_size", "data.fit"), "the model's own counts"),
        **dict.fromkeys(("data.batch_size", "data.masks", "data.boxes"), "leave it out"),
    },
    "explain": dict.fromkeys(
        [f"explain.{name}" for name in ("per_class", "errors", "localisation_films", "sanity_films", "sanity_draws")],
        "training alone reads it",
    ),
}
# Numbers that need not be whole, whatever the default is.
_FRACTIONS = ("max_megapixels", "min_side", "max_megabytes", "rate", "upload_seconds", "answer_seconds")
_ABOVE_ZERO = ("max_megapixels", "min_side")
# As `covidnet.data.decoders.check_limits` has them, whose libraries are not needed to read settings.
_LEAST = {"reading.max_memory": 0.25, "reading.max_seconds": 0.1}
# What settings are read without, and which take null or a text too; what is said of a fold is more than its kind.
_OPTIONAL = ("data.view", "data.ignore", "trust", "split.copies")
_ALSO: dict[str, tuple[type, ...]] = {
    "data.view": (type(None),),
    "data.ignore": (type(None), str),
    "trust": (type(None), str),
    "fold": (object,),
}
NO_OPTION = "Config group override"
"""So begins what Hydra says, as an error of Python, of an option that is no text, such as ``logger=null``."""
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(?P<name>[^'=]+)=(?P<value>[^']*)'")
_REFUSED = re.compile(r"Could not (?:override|delete from config\.) '(?P<name>[^']+)'")

Tree = dict[str, Any]


class KnownSettings:
    """The settings of a command under a choice of groups.

    Args:
        folder: of the configuration files.
        command: the primary file, such as ``config`` or ``predict``.
        choices: of groups, such as ``{"data": "folder"}``. Others, and options that are not among our files, have all
            settings of all options of their group.
        settings: a composed configuration, asked for the choices that are not told.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        choices: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self.command = command
        default = self._composed([])
        self._hydra: Tree = default["hydra"]
        groups = [group for group in self._hydra["runtime"]["choices"] if not group.startswith("hydra/")]
        self._options = {group: sorted(file.stem for file in (folder / group).glob("*.yaml")) for group in groups}
        # A run's own config.yaml has no groups: empty settings of older versions are let pass.
        self._foreign = settings is not None and not set(groups) <= set(choices)
        # Such a config.yaml may be of a version that had fewer settings. Commands without a split never run one.
        self._whole = bool(set(groups) & set(choices)) or "split" not in groups
        self.chosen: dict[str, str] = {}
        self.tree: Tree = {}
        words = []
        for group in set(groups) - {"experiment"}:
            told = _at(settings, f"{group}.{_TELLS[group]}") if group in _TELLS else None
            known = [option for option in (choices.get(group), told) if option in self._options[group]]
            if known or (settings is None and group not in choices):
                usual = str(self._hydra["runtime"]["choices"][group])
                self.chosen[group] = str(known[0]) if known else usual
                words += [f"{group}={self.chosen[group]}"] if self.chosen[group] != usual else []
        for group in set(groups) - {"experiment"} - set(self.chosen):
            for option in self._options[group]:
                self.tree = _merged(self.tree, self._composed([*words, f"{group}={option}"]))
        self.tree = _merged(self.tree, self._composed(words))
        self.tree.pop("hydra", None)

    @classmethod
    def of_arguments(cls, folder: Path, command: str, arguments: Sequence[str]) -> KnownSettings:
        """The settings that a command line chooses, which may itself be one that cannot be composed."""
        known = cls(folder, command, {})
        pairs = [word.partition("=") for word in arguments]
        groups = [f"{group}={option}" for group, _, option in pairs if (folder / group / f"{option}.yaml").is_file()]
        groups = [word for word in groups if word.startswith("hydra/") or word.partition("=")[0] in known._options]
        hydra = known._composed(groups)["hydra"]
        known = cls(folder, command, hydra["runtime"]["choices"])
        known._hydra = hydra
        return known

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a setting that nothing reads, that is of another kind than its default, or that was deleted.

        The arguments of targets are left to `check_arguments`, and what a default of null may become to who reads it.

        Args:
            settings: the composed configuration, not resolved.

        Raises:
            CovidnetError: naming the first one, and the nearest that there is.
        """
        for name, value in _unknown(settings, self.tree):
            if not (self._foreign and value in (None, [])):
                raise self.refusal(name, value)
        for name, default in _defaults(self.tree):
            self._check_kind(name, default, settings)
        for name, why in _UNUSED.get(self.command, {}).items():
            group, _, key = name.partition(".")
            given, default = (tree.get(group, {}).get(key) for tree in (settings, self.tree))
            if given != default:
                raise UnknownSettingError(name, given, f"covidnet.{self.command} does not use it", why)

    def _check_kind(self, name: str, default: object, settings: Mapping[str, Any]) -> None:
        parent, _, key = name.rpartition(".")
        group = name.partition(".")[0]
        if parent and group in self._options and group not in self.chosen:
            return  # An option that is none of ours.
        node = _at(settings, parent) if parent else settings
        if not isinstance(node, Mapping):
            return
        if key not in node:
            if default is not None and self._whole and name not in _OPTIONAL:
                raise CovidnetError(f"{name}: is needed and must not be deleted; leave out ~{name}")
        elif not (self._foreign and node[key] is None) and (what := _must_be(name, default, node[key])):
            raise CovidnetError(f"{name}={_written(node[key])}: must be {what}")

    def refusal(self, name: str, value: object) -> CovidnetError:
        """What to say of a setting that there is not.

        Args:
            name: as on the command line.
            value: that it was given.
        """
        if isinstance(value, Mapping):
            value = ""
        if value == "" and name in _names(self.tree):
            # Hydra finds no value in a setting that is null.
            return CovidnetError(f"{name}: is null and cannot be deleted; leave out ~{name}")
        group, _, key = name.partition(".")
        others = [option for option in self._options.get(group, ()) if key and self._has(group, option, key)]
        if others and self.chosen.get(group) not in (None, *others):
            do = " and ".join(f"{group}={option}" for option in others) + (" do" if len(others) > 1 else " does")
            return UnknownSettingError(name, value, f"{group}={self.chosen[group]} does not use it", do)
        home, _, leaf = name.rpartition(".")
        if key and isinstance(node := _at(self.tree, home), Mapping) and "_target_" in node:
            near = difflib.get_close_matches(leaf, list(node), 1, 0.8)
            add = f"if {node['_target_']} takes it, say +{name}={value}"
            remedy = f"did you mean {home}.{near[0]}?" if near else add
            return UnknownSettingError(name, value, "no such setting", remedy)
        if nearest := _nearest(name, [*_names(self.tree), *self._options, *_names(self._hydra, "hydra.")]):
            return UnknownSettingError(name, value, "no such setting", f"did you mean {nearest}?")
        siblings = self.tree.get(group)
        listed = f"{group} has {', '.join(siblings)}" if isinstance(siblings, Mapping) and key and siblings else ""
        return UnknownSettingError(name, value, "no such setting", listed or "--help lists the settings")

    def explained(self, error: BaseException, arguments: Sequence[str]) -> BaseException:
        """Hydra's error of an unknown setting or option in our words; any other error as it is.

        Args:
            error: what Hydra raised.
            arguments: the command line without the command.
        """
        from hydra.errors import MissingConfigException, OverrideParseException

        if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
            group, _, option = error.missing_cfg_file.rpartition("/")
            near = difflib.get_close_matches(option, error.options, 1)
            return SettingError(group, option, sorted(error.options), f"did you mean {near[0]}?" if near else "")
        if str(error).startswith(NO_OPTION):
            for group, _, option in (word.lstrip("+").partition("=") for word in arguments):
                if group in self._options and option not in self._options[group]:
                    return SettingError(group, option, self._options[group])
        if found := _AMBIGUOUS.match(str(error)):
            remedy = f"a sweep over them needs -m, a list is {found['name']}=[{found['value']}]"
            return SettingError(found["name"], found["value"], "one value", remedy)
        if isinstance(error, OverrideParseException):
            name, equals, value = error.override.partition("=")
            if not equals:
                return CovidnetError(f"{name}: not a setting; write NAME=VALUE, --help lists the settings")
            plain = name.lstrip("+~")
            if plain in {*_names(self.tree), *self._options} or plain.startswith("hydra."):
                return SettingError(name, value, "a value that Hydra can read", f"quote it: \"{name}='{value}'\"")
            return self.refusal(plain, value)
        if found := _REFUSED.match(str(error)):
            given = [word.partition("=") for word in arguments if word.lstrip("+~").partition("=")[0] == found["name"]]
            return self.refusal(found["name"], given[-1][2].strip("'\"") if given else "")
        return error

    def _has(self, group: str, option: str, key: str) -> bool:
        node = _at(self._composed([f"{group}={option}"]), group) if group != "experiment" else None
        return isinstance(node, Mapping) and "_target_" not in node and key.partition(".")[0] in node

    def _composed(self, words: Sequence[str]) -> Tree:
        return _composed(self._folder, self.command, tuple(words))


@functools.cache
def _composed(folder: Path, command: str, words: tuple[str, ...]) -> Tree:
    """A command's configuration under some choices, not resolved; it is shared, and never changed."""
    # Hydra's public way of composing holds one configuration at a time, and a command runs inside of one.
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(str(folder)))
    composed = loader.load_configuration(command, list(words), run_mode=RunMode.RUN)
    found: Any = OmegaConf.to_container(composed, resolve=False)
    return found


def check_arguments(settings: Mapping[str, Any], path: str = "") -> None:
    """Refuse an argument that the target of a node does not take, or that a run sets itself.

    Args:
        settings: a configuration; nodes with ``_target_`` are looked for at any depth. Their modules are imported, so
            that `covidnet.trust.check_classes` has to have seen them.
        path: of the configuration in a larger one.

    Raises:
        CovidnetError: naming it, and the nearest that the target takes.
    """
    from hydra._internal.utils import _locate

    target = settings.get("_target_")
    takes = None
    if target is not None:
        try:
            takes = inspect.signature(_locate(target)).parameters
        except (ValueError, ImportError, AttributeError, TypeError) as error:
            raise CovidnetError(f"{path}._target_={target}: cannot be used ({' '.join(str(error).split())})") from None
    free = takes is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    for key, value in settings.items():
        name = f"{path}.{key}" if path else key
        if takes is not None and not (key.startswith("_") and key.endswith("_")):
            if key in _OWN.get(path.partition(".")[0], ()):
                raise UnknownSettingError(name, value, "the run sets it itself", "leave it out")
            if not free and key not in takes:
                near = difflib.get_close_matches(key, list(takes), 1)
                listed = f"did you mean {path}.{near[0]}?" if near else f"it takes {', '.join(takes)}"
                raise UnknownSettingError(name, value, f"{target} has no such argument", listed)
        if isinstance(value, Mapping):
            check_arguments(value, name)


def _unknown(settings: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = f"{path}{key}"
        if path.removesuffix(".") in _OPEN:
            if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                raise CovidnetError(f"{name}: nothing can be made of it without a class; say {name}._target_=CLASS")
        elif key not in known:
            yield name, value
        elif isinstance(known[key], Mapping) and "_target_" not in known[key]:
            if isinstance(value, Mapping):
                yield from _unknown(value, known[key], f"{name}.")
            elif key not in _OPEN or value is not None:
                yield name, value


def _defaults(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings and groups with their values, groups first; without what a target takes and what is free."""
    for key, value in tree.items():
        yield f"{path}{key}", value
        if isinstance(value, Mapping) and "_target_" not in value and f"{path}{key}" not in _OPEN:
            yield from _defaults(value, f"{path}{key}.")


def _must_be(name: str, default: object, value: object) -> str:
    """What a setting must be, where its value is of another kind than its default; else empty."""
    later = isinstance(value, str) and ("${" in value or value == "???")
    if default is None or default == "???" or isinstance(default, Mapping) or later:
        return ""
    leaf = name.rpartition(".")[2]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _LEAST:
        return "" if isinstance(value, int | float) and number and value >= _LEAST[name] else f"{_LEAST[name]} or more"
    if leaf in _ABOVE_ZERO:
        return "" if isinstance(value, int | float) and number and value > 0 else "a number above 0"
    if isinstance(default, bool):
        fits, what = isinstance(value, bool), "true or false"
    elif isinstance(default, int) and leaf not in _FRACTIONS:
        fits, what = number and isinstance(value, int), "a whole number"
    elif isinstance(default, int | float):
        fits, what = number, "a number"
    elif isinstance(default, str):
        fits, what = isinstance(value, str), "text"
    else:
        fits, what = isinstance(value, list), "a list, such as [A,B]"
    return "" if fits or isinstance(value, _ALSO.get(name, ())) else what


def _written(value: object) -> str:
    """A value as it is on a command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _names(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{path}{key}.")


def _nearest(name: str, known: Sequence[str]) -> str:
    """The name that was most likely meant; empty where none is near."""
    parent, dot, leaf = name.rpartition(".")
    beside = [other for other in known if other.rpartition(".")[0] == parent]
    if near := difflib.get_close_matches(name, beside, 1, 0.8 if dot else 0.6):
        return near[0]
    if near := difflib.get_close_matches(leaf, [other.rpartition(".")[2] for other in beside], 1):
        return f"{parent}{dot}{near[0]}"
    ours = [other for other in known if not other.startswith("hydra.")]
    if near := difflib.get_close_matches(name, ours if not name.startswith("hydra.") else list(known), 1, 0.8):
        return near[0]
    if dot:
        return ""
    # lr for optim.lr
    leaves = {other.rpartition(".")[2]: other for other in reversed(ours)}
    near = difflib.get_close_matches(leaf, list(leaves), 1, 0.7)
    return leaves[near[0]] if near else ""


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> Tree:
    both = dict(one)
    for key, value in other.items():
        known = both.get(key)
        both[key] = _merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return both
