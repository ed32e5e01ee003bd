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

from omegaconf import DictConfig, OmegaConf

from covidnet.errors import CovidnetError, SettingError

log = logging.getLogger(__name__)

Task = Callable[[DictConfig], Any]


def config_dir() -> Path:
    """The folder of the Hydra configuration: the packaged copy in a wheel, else the one beside the package."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf"


def register_resolvers() -> None:
    """Make ``${token:}`` known: six hexadecimal digits, the same all through one configuration."""
    OmegaConf.register_new_resolver("token", lambda: uuid.uuid4().hex[:6], use_cache=True, replace=True)


def compose(overrides: Sequence[str] = (), name: str = "config") -> DictConfig:
    """The configuration that a command line gives, without running anything.

    Args:
        overrides: as on the command line, such as ``["fold=3", "augment=none"]``.
        name: the primary file: ``config`` (train) or ``prepare``.
    """
    import hydra

    register_resolvers()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return hydra.compose(config_name=name, overrides=list(overrides))


def checked_fold(value: object) -> int:
    """The test fold as a number.

    Raises:
        SettingError: where it is not one of 0..9.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise SettingError("fold", value, "0..9", "fold 10 is the unseen fold and is scored in every run")
    return value


def launch(task: Task, name: str = "config", after: Callable[[], None] | None = None) -> None:
    """Run a Hydra task as a command: exit code 0 only when all work is done, one line for errors the user can mend.

    Args:
        task: takes the composed configuration.
        name: the primary configuration file.
        after: called when all jobs have ended, also where some of them failed; not after Ctrl-C.
    """
    # Set before any import of theirs: neither library may look for updates or ask questions.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("WANDB_SILENT", "true")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    full_error = "HYDRA_FULL_ERROR" in os.environ
    # Hydra prints errors in its own way unless it is told to pass them on.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register_resolvers()
    command = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=name)(_guarded(task))
    try:
        sys.argv += _subfolders(sys.argv[1:])
        try:
            command()
        except Exception:
            # Hydra tells its callbacks of the end of a sweep only where no job failed.
            if after is not None:
                try:
                    after()
                except CovidnetError as error:
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
        sys.exit(_one_line(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _subfolders(arguments: Sequence[str]) -> list[str]:
    """Run folders that tell jobs of a sweep apart by all that it varies, not by the fold alone.

    Args:
        arguments: the command line without the command.

    Returns:
        Nothing, or one more argument such as ``hydra.sweep.subdir='fold=${fold},seed=${seed}'``.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    settings = [word for word in arguments if not word.startswith("-")]
    if not {"-m", "--multirun"} & set(arguments) or any(word.startswith("hydra.sweep.subdir=") for word in settings):
        return []
    varied = [o.key_or_group for o in OverridesParser.create().parse_overrides(settings) if o.is_sweep_override()]
    others = [key for key in varied if key and key != "fold"]
    if not others:
        return []
    parts = ["fold=${fold}"]
    for key in others:
        group = (config_dir() / key).is_dir()
        parts.append(f"{key}=${{hydra:runtime.choices.{key}}}" if group else f"{key}=${{{key}}}")
    return [f"hydra.sweep.subdir='{','.join(parts)}'"]


def _guarded(task: Task) -> Task:
    """The task, with its mendable errors told at once: Hydra's own words wait for a whole sweep to end."""

    @functools.wraps(task)
    def run(cfg: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        try:
            return task(cfg)
        except BrokenPipeError:
            raise
        except (CovidnetError, OSError) as error:
            if cfg.get("debug"):
                raise
            if HydraConfig.get().mode == RunMode.RUN:
                sys.exit(_one_line(error))
            log.error("%s", _one_line(error))
            raise
        except Exception as error:
            # The log of a job has to tell how it ended; the traceback comes when all jobs have.
            log.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
            raise

    return run


def _one_line(error: BaseException) -> str:
    if isinstance(error, CovidnetError):
        text = str(error)
    elif isinstance(error, OSError):
        # What the system refuses is the user's to mend: a full disk, a folder that is not theirs.
        remedy = "give a folder that can be written: cache_dir=DIR, hydra.run.dir=DIR"
        text = f"{error.filename or 'the system'}: {error.strerror or error} (errno {error.errno}); {remedy}"
    else:
        text = f"{error} ({error.__cause__})" if error.__cause__ is not None else str(error)
    return "error: " + " ".join(text.split())
