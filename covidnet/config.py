"""Where the Hydra configuration lies, and how an entry point starts: help in a moment, errors in one line."""

from __future__ import annotations

import functools
import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import file_config_source
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from covidnet.errors import CovidnetError, SettingError
from covidnet.known_settings import NO_OPTION, KnownSettings
from covidnet.launchers import broken_launcher, check_search, prepare_launch, settle, swept, use_our_presets
from covidnet.learning.monitor import search_direction
from covidnet.names import shown
from covidnet.trust import check_foreign_settings

log = logging.getLogger(__name__)

# Lightning's class; to import it takes seconds.
_MISCONFIGURED = "MisconfigurationException"

Task = Callable[[DictConfig], Any]

# Errors of jobs that the terminal has shown.
_told: set[str] = set()

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
        "callbacks": {"sweep_report": {"_target_": "covidnet.sweep_report.SweepReport"}},
        "run": {"dir": f"outputs/{_STARTED}/fold=${{fold}}"},
        "sweep": {"dir": f"multirun/{_STARTED}", "subdir": "fold=${fold}"},
    },
}
"""What config.yaml of a run has beside the settings to be a command of its own: the looks of the terminal, new folders.
No other settings of Hydra are taken from a folder."""


def config_dir() -> Path:
    """The folder of the Hydra configuration: the packaged copy in a wheel, else the one beside the package."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf"


def register_resolvers() -> None:
    """Make ``${token:}`` and ``${search:}`` known.

    The first is six hexadecimal digits that stay the same within one configuration, the second Optuna's direction.
    """
    OmegaConf.register_new_resolver("token", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)
    OmegaConf.register_new_resolver("search", search_direction, replace=True)


# Here too: a job of a sweep in another process imports this module without going through `launch`.
register_resolvers()


class FileConfigSource(file_config_source.FileConfigSource):
    """Configuration files, of which those from elsewhere may not change what Hydra itself does.

    Every file comes this way, in the process of a job too: the registry of sources travels there. Hydra, which then
    registers its own, leaves one of the same name.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file, checked first where it is none of ours."""
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if file.is_file() and not file.is_relative_to(config_dir().resolve()):
            with file.open(encoding="utf-8", errors="replace") as stream:
                header = ConfigSource._get_header_dict(stream.read(512))
            check_foreign_settings(file, config_path, header["package"], RUN_AGAIN)
        return super().load_config(config_path)


def _prepare_hydra() -> None:
    from hydra._internal.sources_registry import SourcesRegistry

    # Finds Hydra's plugins, which enter their own sources.
    use_our_presets()
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource


def compose(overrides: Sequence[str] = (), name: str = "config") -> DictConfig:
    """The configuration that a command line gives, without running anything.

    Args:
        overrides: as on the command line, such as ``["fold=3", "augment=none"]``.
        name: the primary file: ``config`` (train) or ``prepare``.
    """
    import hydra

    _prepare_hydra()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name=name, overrides=list(overrides))


def checked_fold(value: object) -> int:
    """The test fold as a number.

    Raises:
        SettingError: where it is not one of 0..9.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise SettingError("fold", value, "0..9", "fold 10 is the unseen fold, never a test fold")
    return value


def launch(task: Task, name: str = "config", after: Callable[[], None] | None = None) -> None:
    """Run a Hydra task as a command: exit code 0 only when all work is done, one line for errors the user can mend.

    Args:
        task: takes the composed configuration.
        name: the primary configuration file.
        after: called when all jobs have ended, also where some of them failed; not after Ctrl-C.
    """
    # Before wandb is imported: it prints notes of its own otherwise.
    os.environ.setdefault("WANDB_SILENT", "true")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    full_error = "HYDRA_FULL_ERROR" in os.environ
    # Hydra prints errors in its own way unless it is told to pass them on.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _prepare_hydra()
    launcher = "basic"
    command = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(_guarded(task, name))
    try:
        launcher = prepare_launch(sys.argv[1:])
        sys.argv += subfolders(sys.argv[1:])
        try:
            command()
        except Exception as failure:
            if str(failure).startswith(NO_OPTION):
                raise HydraException(str(failure)) from None
            # Hydra tells its callbacks of the end of a sweep only where no job failed.
            if after is not None:
                try:
                    after()
                except CovidnetError as error:
                    # Where settings could not be composed no job was started, and that is what has to be told. The last
                    # line says the failure: a report that has nothing else to say would repeat it.
                    composed = not isinstance(failure, HydraException)
                    repeated = _one_line(failure).removeprefix("error: ") in str(error)
                    if composed and not repeated and (launcher == "basic" or isinstance(failure, CovidnetError)):
                        log.error("%s", _one_line(error))
            raise
        if after is not None:
            after()
    except BrokenPipeError:
        # Who reads, such as head, has seen enough; Python would complain of it once more when it ends.
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
        # What jobs raise in processes of their own comes as one of the errors above; this is of what starts them.
        if launcher == "basic" or full_error:
            raise
        sys.exit(f"error: hydra/launcher={launcher}: {broken_launcher(error)}")


def subfolders(arguments: Sequence[str]) -> list[str]:
    """Run folders that tell jobs of a sweep apart by all that it varies, not by the fold alone.

    Args:
        arguments: the command line without the command.

    Returns:
        Nothing, or one more argument such as ``hydra.sweep.subdir='fold=${fold},seed=${seed}'``.
    """
    if not {"-m", "--multirun"} & set(arguments) or any(word.startswith("hydra.sweep.subdir=") for word in arguments):
        return []
    if "hydra/sweeper=optuna" in arguments:
        # Trials differ in numbers with sixteen digits, and two of them may be the same.
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
    """The task, with its mendable errors told at once: Hydra's own words wait for a whole sweep to end."""

    @functools.wraps(task)
    def run(cfg: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra, choices = HydraConfig.get(), HydraConfig.get().runtime.choices
        sweep = hydra.mode == RunMode.MULTIRUN
        launcher = choices["hydra/launcher"] if sweep else "basic"
        settle(cfg, launcher)
        try:
            given: Any = OmegaConf.to_container(cfg, resolve=False)
            KnownSettings(config_dir(), name, choices, given).check(given)
            if sweep and choices["hydra/sweeper"] == "optuna":
                check_search(cfg)
            return task(cfg)
        except BrokenPipeError:
            raise
        except Exception as error:
            mendable = isinstance(error, (CovidnetError, OSError)) or _is_of_settings(error) or _lacks_library(error)
            line, debug = _one_line(error), bool(cfg.get("debug"))
            if launcher != "basic":
                # The log of the job is the last place that sees the traceback, and not every error can be sent home.
                log.error("%s", line, exc_info=None if mendable and not debug else error)
                raise CovidnetError(line.removeprefix("error: ")) from None
            if mendable and not debug and not sweep:
                sys.exit(line)
            if not (mendable and debug):
                # The log of a job has to tell how it ended; the traceback comes when all jobs have.
                _tell_once(line)
            raise

    return run


def _tell_once(line: str) -> None:
    """Log an error; one that an earlier job of this sweep had too goes to the job's own log alone."""
    if line not in _told:
        _told.add(line)
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
        # What the system refuses is the user's to mend: a full disk, a folder that is not theirs.
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
