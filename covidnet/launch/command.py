"""Find the Hydra configuration and start a command: fast help, errors in one line."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins import file_config_source
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from covidnet.base.errors import CovidnetError
from covidnet.base.former import current
from covidnet.base.names import shown
from covidnet.base.trust import check_foreign_settings
from covidnet.launch.known_settings import NO_OPTION, KnownSettings, composed
from covidnet.launch.launchers import (
    broken_launcher,
    check_search,
    default_launcher,
    experiment_sweep,
    one_by_one,
    prepare_launch,
    settle,
    swept,
)
from covidnet.launch.loader import Loader, config_dir, kept
from covidnet.launch.own_modules import import_own
from covidnet.launch.schema import SCHEMA, check_values
from covidnet.learning.monitor import search_direction

log = logging.getLogger(__name__)

# Lightning's class, by name: importing it takes seconds.
_MISCONFIGURED = "MisconfigurationException"

Task = Callable[[DictConfig], Any]

# Our configuration files, pickled, by source, path and time of the last change.
_read: dict[tuple[Any, ...], bytes] = {}

# Errors of jobs that the terminal has shown.
_shown: set[str] = set()

_STARTED = "${now:%Y-%m-%d}/${now:%H-%M-%S}-${token:}"
RUN_AGAIN: dict[str, Any] = {
    "defaults": [
        {"override hydra/job_logging": "plain"},
        {"override hydra/hydra_logging": "none"},
        {"override hydra/help": "covidnet"},
        "_self_",
    ],
    "hydra": {
        "job": {"name": "train"},
        "callbacks": {"sweep_report": {"_target_": "covidnet.sweep.ending.SweepReport"}},
        "run": {"dir": f"outputs/{_STARTED}/fold=${{fold}}"},
        "sweep": {"dir": f"multirun/{_STARTED}", "subdir": "fold=${fold}"},
    },
}
"""Added to the config.yaml of a run so that it can be run again: terminal output and new folders. No other settings of
Hydra are accepted from a folder."""


def register_resolvers() -> None:
    """Register ``${token:}``, ``${search:}``, ``${settings:}`` and ``${groups:}``.

    The first is six hexadecimal digits, constant within a configuration; the second is Optuna's direction; the others
    are the settings and their groups as ``--help`` lists them.
    """
    OmegaConf.register_new_resolver("settings", settings_listed, replace=True)
    OmegaConf.register_new_resolver("groups", groups_listed, replace=True)
    OmegaConf.register_new_resolver("token", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)
    OmegaConf.register_new_resolver("search", search_direction, replace=True)


def settings_listed(*, _root_: DictConfig) -> str:
    """The settings of a command with their values and, beside each, its meaning.

    Args:
        _root_: the configuration, with Hydra's own node.

    Returns:
        Text for Hydra's help template, in which ``$`` is doubled.
    """
    schema = SCHEMA.get(str(_root_.hydra.job.config_name), {})
    values = OmegaConf.to_container(_root_)
    own = {name: value for name, value in cast("dict[str, Any]", values).items() if name != "hydra"}
    lines: list[str] = []
    path: list[str] = []
    for line in OmegaConf.to_yaml(OmegaConf.create(own)).splitlines():
        text = line.lstrip(" ")
        key, colon, _ = text.partition(":")
        if not text.startswith("- ") and colon:
            path = [*path[: (len(line) - len(text)) // 2], key]
            if setting := schema.get(".".join(path)):
                choices = f" ({', '.join(setting.choices)})" if setting.choices else ""
                line = f"{line:<38}  # {setting.meaning.removesuffix('.')}{choices}"
        lines.append(line)
    return "\n".join(lines).replace("$", "$$")


def groups_listed(*, _root_: DictConfig) -> str:
    """The groups that a command takes, each with its options.

    Args:
        _root_: the configuration, with Hydra's own node.
    """
    names = sorted(name for name in _root_.hydra.runtime.choices if not name.startswith("hydra/"))
    return "\n".join(
        f"{name}: {', '.join(sorted(file.stem for file in (config_dir() / name).glob('*.yaml')))}" for name in names
    )


# On import too: jobs of a sweep in other processes import this module without calling `launch`.
register_resolvers()


class FileConfigSource(file_config_source.FileConfigSource):
    """Read configuration files; those from outside the package may not change Hydra's own settings.

    Job processes use it too, because the registry of sources is sent to them, and Hydra does not replace a source that
    is registered under the same name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file. One that is not ours is checked, and takes today's names."""
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if file.is_file() and not file.is_relative_to(config_dir().resolve()):
            with file.open(encoding="utf-8", errors="replace") as stream:
                header = ConfigSource._get_header_dict(stream.read(512))
            check_foreign_settings(file, config_path, header["package"], RUN_AGAIN)
            found = super().load_config(config_path)
            found.config = OmegaConf.create(current(OmegaConf.to_container(found.config)))
            return found
        if not file.is_file():
            return super().load_config(config_path)
        # Hydra reads each of our files several times in a command, and takes the defaults list out of what it gets.
        key = (self.provider, str(file), file.stat().st_mtime_ns)
        return kept(_read, key, lambda: super(FileConfigSource, self).load_config(config_path))


def prepare_hydra() -> None:
    """Let Hydra read and merge our files as `FileConfigSource` and `Loader` do."""
    import hydra._internal.hydra
    from hydra._internal.sources_registry import SourcesRegistry
    from hydra.core.plugins import Plugins

    # Hydra's plugins register their own sources when they are found.
    Plugins.instance()
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
    # The name by which Hydra makes its loader.
    hydra._internal.hydra.ConfigLoaderImpl = Loader  # type: ignore[misc]


def compose(overrides: Sequence[str] = (), name: str = "config") -> DictConfig:
    """The configuration that a command line gives, without running anything.

    Args:
        overrides: as on the command line, such as ``["fold=3", "augment=none"]``.
        name: the primary file: ``config`` (train) or that of another command, such as ``prepare``.

    Raises:
        SettingError: a setting has a value that it cannot have.
    """
    import hydra

    prepare_hydra()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        cfg = hydra.compose(config_name=name, overrides=list(overrides))
    check_values(cast("dict[str, Any]", OmegaConf.to_container(cfg)), name)
    return cfg


def print_lines(lines: Sequence[str]) -> None:
    """Print the results of a command; names in them are shown escaped.

    Args:
        lines: each is wrapped by the terminal, not by us.
    """
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(shown(line), markup=False, emoji=False)


def launch(task: Task, name: str = "config", after: Callable[[], None] | None = None) -> None:
    """Run a Hydra task as a command: exit code 0 only when all work is done, one line for errors that the user can fix.

    Args:
        task: takes the composed configuration.
        name: the primary configuration file.
        after: called when all jobs have ended, even if some failed; not after Ctrl-C.
    """
    # Importing torch and Lightning makes millions of objects that stay: to search them for garbage at Python's usual
    # rate takes a second of every command.
    gc.set_threshold(50_000, 20, 100)
    # Set before wandb is imported: it would print messages of its own.
    os.environ.setdefault("WANDB_SILENT", "true")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    full_error = "HYDRA_FULL_ERROR" in os.environ
    # Makes Hydra raise errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    prepare_hydra()
    launcher = "basic"
    command = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(_guarded(task, name))
    try:
        if name == "config":
            sys.argv += experiment_sweep(sys.argv[1:], config_dir())
        launcher = prepare_launch(sys.argv[1:])
        sys.argv += subfolders(sys.argv[1:])
        if name == "config":
            sys.argv += default_launcher(sys.argv[1:])
        try:
            command()
        except Exception as failure:
            if str(failure).startswith(NO_OPTION):
                raise HydraException(str(failure)) from None
            # Hydra calls its callbacks at the end of a sweep only if no job failed.
            if after is not None:
                try:
                    after()
                except CovidnetError as error:
                    # If composing failed, no job started, and that error is the one to show. The last line names the
                    # failure, so that a report's error which only repeats it is dropped.
                    composed = not isinstance(failure, HydraException)
                    repeated = _one_line(failure).removeprefix("error: ") in str(error)
                    if composed and not repeated and (launcher == "basic" or isinstance(failure, CovidnetError)):
                        log.error("%s", _one_line(error))
            raise
        if after is not None:
            after()
    except BrokenPipeError:
        # The reader, such as head, has closed the pipe; Python would report that again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (CovidnetError, HydraException, OmegaConfBaseException, OSError) as error:
        if full_error or any(argument.lower() == "debug=true" for argument in sys.argv[1:]):
            raise
        if isinstance(error, HydraException):
            known = KnownSettings.of_arguments(config_dir(), name, sys.argv[1:])
            sys.exit(_one_line(known.explained(error, sys.argv[1:])))
        sys.exit(_one_line(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        # Errors from job processes arrive as one of those above; this one comes from the launcher.
        if launcher == "basic" or full_error:
            raise
        sys.exit(f"error: hydra/launcher={launcher}: {broken_launcher(error)}")


def models_of_jobs(cfg: DictConfig, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """The group ``model`` of each job of a sweep, once for jobs that share it.

    Args:
        cfg: the settings of a sweep without those that it varies.
        arguments: the settings of the command line.

    Returns:
        The groups, resolved; those that cannot be composed here, such as of a folder of the user's, are left out.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    fixed: list[str] = []
    varied: list[list[str]] = []
    for word in arguments:
        override = OverridesParser.create().parse_override(word)
        if not override.is_sweep_override():
            fixed.append(word)
        elif str(override.key_or_group).partition(".")[0] in ("model", "experiment"):
            try:
                varied.append([f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()])
            except HydraException:
                continue  # an interval or a glob, whose values the sweeper chooses
    found = []
    for words in itertools.product(*varied):
        try:
            whole = composed(config_dir(), "config", (*fixed, *words)) if varied else cfg
            found.append(OmegaConf.to_container(OmegaConf.create(whole).model, resolve=True))
        except (HydraException, OmegaConfBaseException):
            continue
    return cast("list[dict[str, Any]]", found)


def subfolders(arguments: Sequence[str]) -> list[str]:
    """Name run folders after everything that a sweep varies, not the fold alone.

    Args:
        arguments: the command line without the command.

    Returns:
        An empty list, or one argument such as ``hydra.sweep.subdir='fold=${fold},seed=${seed}'``.
    """
    if not {"-m", "--multirun"} & set(arguments) or any(word.startswith("hydra.sweep.subdir=") for word in arguments):
        return []
    if "hydra/sweeper=search" in arguments:
        # Trials differ in numbers of sixteen digits, and two trials may be equal.
        return ["hydra.sweep.subdir='trial=${hydra.job.num}'"]
    others = [key for key in swept(arguments) if key != "fold"]
    if not others:
        return []
    parts = ["fold=${fold}"]
    for key in others:
        group = (config_dir() / key).is_dir()
        parts.append(f"{key}=${{hydra:runtime.choices.{key}}}" if group else f"{key}=${{{key}}}")
    return [f"hydra.sweep.subdir='{','.join(parts)}'"]


def _guarded(task: Task, name: str) -> Task:
    """Wrap a task so that its errors are shown at once: Hydra shows them only when the whole sweep has ended."""

    @functools.wraps(task)
    def run(cfg: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra, choices = HydraConfig.get(), HydraConfig.get().runtime.choices
        sweep = hydra.mode == RunMode.MULTIRUN
        launcher = one_by_one(choices["hydra/launcher"]) if sweep else "basic"
        settle(cfg, launcher)
        try:
            given: Any = OmegaConf.to_container(cfg, resolve=False)
            KnownSettings(config_dir(), name, choices, given).check(given)
            if sweep and choices["hydra/sweeper"] == "search":
                check_search(cfg)
            import_own(given.get("imports"))
            return task(cfg)
        except BrokenPipeError:
            raise
        except Exception as error:
            mendable = isinstance(error, (CovidnetError, OSError)) or _is_of_settings(error) or _lacks_library(error)
            line, debug = _one_line(error), bool(cfg.get("debug"))
            if launcher != "basic":
                # Only the job's log can hold the traceback: not every error can be pickled.
                log.error("%s", line, exc_info=None if mendable and not debug else error)
                raise CovidnetError(line.removeprefix("error: ")) from None
            if mendable and not debug and not sweep:
                sys.exit(line)
            if not (mendable and debug):
                # The job's log must say how it ended; Hydra shows the traceback after the last job.
                _log_once(line)
            raise

    return run


def _log_once(line: str) -> None:
    """Log an error; one that an earlier job of this sweep had too goes to the job's own log alone."""
    if line not in _shown:
        _shown.add(line)
        log.error("%s", line)
        return
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (line,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _lacks_library(error: BaseException) -> bool:
    """Whether a library of another project is not installed, as on a machine without PyTorch."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "covidnet").partition(".")[0] != "covidnet"


def _is_of_settings(error: BaseException) -> bool:
    """Whether Hydra or Lightning say that settings are wrong or do not go together."""
    return type(error).__module__.partition(".")[0] in ("hydra", "omegaconf") or type(error).__name__ == _MISCONFIGURED


def _one_line(error: BaseException) -> str:
    if isinstance(error, CovidnetError):
        text = str(error)
    elif isinstance(error, OSError) and error.errno is not None:
        # The user can fix what the system refuses: a full disk, missing permissions.
        remedy = "give a folder that can be written: cache_dir=DIR, hydra.run.dir=DIR"
        text = f"{error.filename or 'the system'}: {error.strerror or error} (errno {error.errno}); {remedy}"
    elif _lacks_library(error):
        text = (
            f"{getattr(error, 'name', error)}: not installed; this command needs PyTorch and what comes with it: "
            "pip install covidnet with its dependencies. What runs without PyTorch is in docs/install.md"
        )
    elif (cause := error.__cause__ or error) and type(cause).__name__ == _MISCONFIGURED:
        lacking = any(word in str(cause).lower() for word in ("gpu", "cuda"))
        remedy = "; trainer=default takes a GPU if there is one, else the CPU" if lacking else ""
        text = f"trainer: {str(cause).rstrip('!.')}{remedy}"
    elif _is_of_settings(error):
        text = f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return "error: " + shown(" ".join(text.split()))
