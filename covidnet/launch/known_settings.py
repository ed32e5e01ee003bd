"""Which settings a command reads: others are refused by name, and so is deleting one that it needs."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from covidnet.base.errors import CovidnetError, SettingError, UnknownSettingError
from covidnet.base.former import SETTINGS as FORMER
from covidnet.launch.loader import Loader
from covidnet.launch.schema import check_values

# Groups with arbitrary entries, each built from its own `_target_`.
_OPEN = ("callbacks", "logger")
# The setting that names a group's option, for configurations that were not composed from the groups' files.
_OPTION_OF = {"data": "name", "model": "name", "augment": "mode", "features": "mode"}
# Arguments that a run sets itself.
_OWN = {
    "trainer": ("callbacks", "logger", "plugins", "default_root_dir", "enable_model_summary", "enable_progress_bar"),
    "callbacks": ("dirpath",),
    "optim": ("params", "lr", "weight_decay"),
    "logger": ("save_dir",),
}
# Settings of a shared group that a command does not use, and why.
_UNUSED = {
    "evaluate": {
        **dict.fromkeys(("data.classes", "data.positive", "data.image_size", "data.fit"), "the model's own counts"),
        **dict.fromkeys(("data.batch_size", "data.masks", "data.boxes"), "leave it out"),
    },
    "explain": dict.fromkeys(
        [f"explain.{name}" for name in ("per_class", "errors", "localisation_images", "sanity_images", "sanity_draws")],
        "training alone reads it",
    ),
}
# Settings that may be deleted.
_OPTIONAL = ("data.view", "data.ignore", "imports", "trust", "split.copies", "split.balance")
NO_OPTION = "Config group override"
"""How the message begins that Hydra raises, as a plain Python error, for an option such as ``logger=null``."""
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(?P<name>[^'=]+)=(?P<value>[^']*)'")
_REFUSED = re.compile(r"Could not (?:override|delete from config\.) '(?P<name>[^']+)'")

Tree = dict[str, Any]


class KnownSettings:
    """The settings of a command under a choice of groups.

    Args:
        folder: of the configuration files.
        command: the primary file, such as ``config`` or ``predict``.
        choices: the options of groups, such as ``{"data": "folder"}``. A group without one, or with an option from
            elsewhere, has the settings of all its options.
        settings: a composed configuration, from which missing choices are read.
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
        # A run's own config.yaml has no groups; empty settings of older versions are accepted.
        self._foreign = settings is not None and not set(groups) <= set(choices)
        # Such a config.yaml may come from a version with fewer settings. Commands without a split never read one.
        self._whole = bool(set(groups) & set(choices)) or "split" not in groups
        self.chosen: dict[str, str] = {}
        self.tree: Tree = {}
        words = []
        for group in set(groups) - {"experiment"}:
            named = _at(settings, f"{group}.{_OPTION_OF[group]}") if group in _OPTION_OF else None
            if group == "model" and named is not None:
                named = str(named).partition("/")[0]  # timm/NAME
            known = [option for option in (choices.get(group), named) if option in self._options[group]]
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
        """The settings that a command line selects, even one that cannot be composed."""
        known = cls(folder, command, {})
        pairs = [word.partition("=") for word in arguments]
        groups = [f"{group}={option}" for group, _, option in pairs if (folder / group / f"{option}.yaml").is_file()]
        groups = [word for word in groups if word.startswith("hydra/") or word.partition("=")[0] in known._options]
        hydra = known._composed(groups)["hydra"]
        known = cls(folder, command, hydra["runtime"]["choices"])
        known._hydra = hydra
        return known

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a setting that nothing reads, that was deleted, or that has a value which its schema does not allow.

        The arguments of targets are left to `check_arguments`.

        Args:
            settings: the composed configuration, not resolved.

        Raises:
            CovidnetError: naming the first one, and the nearest that there is.
        """
        for name, value in _unknown(settings, self.tree):
            if not (self._foreign and value in (None, [])):
                raise self.refusal(name, value)
        for name, default in _defaults(self.tree):
            if default is not None and name not in _OPTIONAL and self._is_missing(name, settings):
                if self._whole:
                    raise CovidnetError(f"{name}: is needed and must not be deleted; leave out ~{name}")
                raise CovidnetError(f"{name}: is missing from a configuration of an older version; add +{name}=VALUE")
        check_values(_without_null(settings) if self._foreign else settings, self.command)
        for name, why in _UNUSED.get(self.command, {}).items():
            group, _, key = name.partition(".")
            given, default = (tree.get(group, {}).get(key) for tree in (settings, self.tree))
            if given != default:
                raise UnknownSettingError(name, given, f"covidnet.{self.command} does not use it", why)

    def _is_missing(self, name: str, settings: Mapping[str, Any]) -> bool:
        parent, _, key = name.rpartition(".")
        group = name.partition(".")[0]
        if parent and group in self._options and group not in self.chosen:
            return False  # an option from elsewhere
        node = _at(settings, parent) if parent else settings
        return isinstance(node, Mapping) and key not in node

    def refusal(self, name: str, value: object) -> CovidnetError:
        """The error for a setting that does not exist.

        Args:
            name: as on the command line.
            value: as given there.
        """
        if isinstance(value, Mapping):
            value = ""
        if value == "" and name in _names(self.tree):
            # Hydra cannot delete a setting that is null.
            return CovidnetError(f"{name}: is null and cannot be deleted; leave out ~{name}")
        if new := FORMER.get(name):
            return UnknownSettingError(name, value, "no such setting", f"it is called {new} now")
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
        """Translate Hydra's error about an unknown setting or option; other errors are returned unchanged.

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
        return composed(self._folder, self.command, tuple(words))


@functools.cache
def composed(folder: Path, command: str, words: tuple[str, ...]) -> Tree:
    """A command's configuration under some choices, not resolved. It is cached: do not change it.

    Args:
        folder: of the configuration files.
        command: the primary file.
        words: settings as on the command line.
    """
    # Hydra's public `compose` holds one configuration at a time, and a command already runs inside one.
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    loader = Loader(create_config_search_path(str(folder)))
    composed = loader.load_configuration(command, list(words), run_mode=RunMode.RUN)
    found: Any = OmegaConf.to_container(composed, resolve=False)
    return found


def check_arguments(settings: Mapping[str, Any], path: str = "") -> None:
    """Refuse an argument that a node's target does not take, or that the run sets itself.

    Args:
        settings: a configuration; nodes with ``_target_`` are looked for at any depth. Their modules are imported, so
            that `covidnet.base.trust.check_classes` has to have seen them.
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
        elif isinstance(known[key], Mapping) and not ("_target_" in known[key] and isinstance(value, Mapping)):
            if isinstance(value, Mapping):
                yield from _unknown(value, known[key], f"{name}.")
            elif key not in _OPEN or value is not None:
                yield name, value


def _defaults(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings and groups with their values, groups first; without arguments of targets and arbitrary entries."""
    for key, value in tree.items():
        yield f"{path}{key}", value
        if isinstance(value, Mapping) and "_target_" not in value and f"{path}{key}" not in _OPEN:
            yield from _defaults(value, f"{path}{key}.")


def _without_null(tree: Mapping[str, Any]) -> Tree:
    return {
        key: _without_null(value) if isinstance(value, Mapping) else value
        for key, value in tree.items()
        if value is not None
    }


def _names(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{path}{key}.")


def _nearest(name: str, known: Sequence[str]) -> str:
    """The name that was most likely meant; empty if none is close."""
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
