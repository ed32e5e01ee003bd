"""Hydra's loader of configurations, which composes and merges nothing twice."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.types import RunMode
from omegaconf import DictConfig

Composed = TypeVar("Composed")


def config_dir() -> Path:
    """The folder of the Hydra configuration: the packaged copy in a wheel, else the one beside the package."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


class Loader(ConfigLoaderImpl):
    """As Hydra's, but quicker: a sweep asks for the settings of each job three times, and a command for its own twice.

    Most of these differ in values alone, which are applied after the files have been merged.

    Args:
        config_search_path: where Hydra finds files. Those from outside the package are merged anew each time.
    """

    # Merged files of ours, by where they are looked for, what the defaults lists name, and times of the last change.
    _merged: ClassVar[dict[tuple[Any, ...], bytes]] = {}

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._composed: dict[tuple[Any, ...], bytes] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Each job of a cluster takes a copy along, and needs its own settings alone.
        return {**self.__dict__, "_composed": {}}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The configuration that a command line gives, composed once."""
        asked = (config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        key = (*map(str, asked), Path.cwd())
        return kept(self._composed, key, lambda: super(Loader, self).load_configuration(*asked))

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        def merged() -> DictConfig:
            return super(Loader, self)._compose_config_from_defaults_list(defaults, repo)

        sources = [(source.scheme(), source.path) for source in repo.get_sources()]
        if any(scheme == "file" and Path(path) != config_dir() for scheme, path in sources):
            return merged()
        files = [config_dir() / f"{default.config_path}.yaml" for default in defaults]
        changed = [file.stat().st_mtime_ns for file in files if file.is_file()]
        return kept(self._merged, (*sources, *map(repr, defaults), *changed), merged)


def kept(known: dict[tuple[Any, ...], bytes], key: tuple[Any, ...], make: Callable[[], Composed]) -> Composed:
    """What was made before under a key, or is made now: each time a copy, because Hydra changes what it gets.

    Args:
        known: what is kept, pickled.
        key: of what is asked for.
        make: makes it.
    """
    if key not in known:
        made = make()
        try:
            known[key] = pickle.dumps(made)
        except pickle.PicklingError:
            # In the job processes of some launchers Hydra's classes are there twice.
            return made
    return cast(Composed, pickle.loads(known[key]))
