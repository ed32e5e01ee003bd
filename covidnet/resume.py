"""Going on with what was stopped: ``resume=RUN_FOLDER`` or ``resume=SWEEP_FOLDER``."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from covidnet.config import subfolders
from covidnet.errors import DataError, SettingError
from covidnet.launchers import ENGINES
from covidnet.trust import check_links, read_yaml

log = logging.getLogger(__name__)

RECORD = "run.json"
"""What a run began with: hashes of data, split and weights. Written before the first epoch."""

_POINT = "checkpoints/resume.ckpt"


class Terminated(SystemExit):
    """SIGTERM: the run ends with what it has, and a non-zero exit code."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def resumed_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line of the run or sweep that is to be gone on with, and what was given beside ``resume=``.

    The working directory becomes that of the first command, so that relative paths mean the same.

    Args:
        arguments: a command line without the command.

    Returns:
        The arguments as they were where ``resume`` is not among them.

    Raises:
        SettingError: the folder is that of no run and no sweep.
    """
    given = [word.removeprefix("resume=") for word in arguments if word.startswith("resume=")]
    if not given or given[-1] == "null":
        return list(arguments)
    others = [word for word in arguments if not word.startswith("resume=")]
    text = given[-1].strip("'\"")
    if not text.strip():
        # resume=$DIR with DIR unset: a new run of the defaults is not what was meant.
        raise SettingError("resume", text, "a run folder or a sweep folder", "say resume=DIR")
    folder = Path(text).expanduser().resolve()
    if (folder / ".hydra/overrides.yaml").is_file():
        tasks, hydras, place, mode = _written(folder / ".hydra/hydra.yaml"), [], "hydra.run.dir", []
    elif (folder / "multirun.yaml").is_file():
        tasks, hydras, place, mode = _written(folder / "multirun.yaml"), ["hydra"], "hydra.sweep.dir", ["-m"]
    else:
        cause = "this is a file" if folder.is_file() else "there is no such folder"
        if folder.is_dir():
            cause = "this is neither a run folder, with .hydra/ in it, nor a sweep folder, with multirun.yaml"
            if (folder / "train.log").is_file() or (folder / ".hydra").is_dir():
                cause = "this run was stopped before it wrote its settings; give its first command again"
        raise SettingError("resume", text, "a folder that covidnet.train has written", cause)
    check_links(folder)
    overrides, start = tasks
    _check_beside(others, overrides["task"], text)
    # What is said again is said by the user, not by the folder.
    kept = [word for word in overrides["task"] if not word.startswith(("resume=", "trust=")) and word not in others]
    for word in kept:
        _check_from_folder(word, text)
    if hydras:
        own = ("hydra.mode=", "hydra.sweep.dir=", "hydra.run.dir=", *subfolders([*mode, *kept]))
        found = [word for word in overrides["hydra"] if not word.startswith(own) and word not in others]
        for word in found:
            _check_from_folder(word, text)
        kept += found
    if start and Path(start).is_dir():
        os.chdir(start)
    return [*mode, *kept, *others, f"{place}='{folder}'", f"resume='{folder}'"]


def _check_beside(others: Sequence[str], task: Sequence[str], folder: str) -> None:
    """Refuse settings beside ``resume=`` that would change the run, before Hydra writes them into its folder."""
    from covidnet.sweep import compared

    for word in others:
        name, equals, value = word.lstrip("+~").partition("=")
        if not equals or name.startswith("hydra") or word in task:
            continue
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        if compared(nested, ("fold",)):
            raise SettingError(
                name, value, f"what resume={folder} began with",
                "a run goes on with its own settings; those that change no number, such as progress, logger and "
                "trainer.devices, may be other ones",
            )  # fmt: skip


def _check_from_folder(word: str, folder: str) -> None:
    """Refuse what a folder's command line would add to the settings, or change in Hydra itself: it can run any code.

    Of Hydra's settings the engines that we ship, and numbers such as ``hydra.launcher.timeout_min=240``, are harmless.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        cause = " ".join(str(error).split())[:120]
        raise DataError(f"resume={folder}: its command line holds {word}, which is no setting ({cause})") from None
    key, value = str(override.key_or_group), override.value()
    added = override.is_add() or override.is_force_add()
    if key in ENGINES:
        harmless = isinstance(value, str) and value in ENGINES[key]
    elif key.startswith(("hydra.launcher.", "hydra.sweeper.")):
        harmless = value is None or isinstance(value, int | float)
    else:
        harmless = key.partition(".")[0] not in ("hydra", "trust") and not key.startswith("hydra/")
        harmless &= override.package is None
    if added or not harmless:
        raise SettingError(
            "resume", folder, "a folder of a run without settings that begin with + or hydra",
            f"it has {word}, which can run any code: if you wrote it, say it again beside resume=; see SECURITY.md",
        )  # fmt: skip


def _written(file: Path) -> tuple[dict[str, list[str]], str | None]:
    """The overrides of a command, and the directory in which it was started."""
    try:
        found = read_yaml(file)["hydra"]
        overrides = {name: [str(word) for word in found["overrides"].get(name) or []] for name in ("task", "hydra")}
        cwd = (found.get("runtime") or {}).get("cwd")
    except (KeyError, TypeError, AttributeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{file}: not what Hydra wrote ({cause}); start the run anew in another folder") from None
    return overrides, None if cwd in (None, "???") else str(cwd)


class Resumption:
    """Whether and where one run goes on.

    Args:
        folder: the run folder.
        settings: the resolved configuration.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        # A job that SLURM has put back into its queue starts with the same command in the same folder.
        requeued = os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
        self.wanted = bool(settings.get("resume")) or requeued
        # A resumed run keeps the one that it began with.
        self.run_id = secrets.token_hex(8)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.wanted and (self.folder / "metrics.json").is_file()

    @property
    def point(self) -> Path | None:
        """The state to go on from; None where the run starts anew."""
        file = self.folder / _POINT
        return file if self.wanted and file.is_file() else None

    def check_settings(self) -> None:
        """Refuse to go on with other settings than the run began with.

        Raises:
            SettingError: naming what differs.
        """
        file = self.folder / "config.yaml"
        if not self.wanted or not file.is_file():
            return
        from covidnet.sweep import compared

        before = compared(read_yaml(file), ("fold",))
        now = compared(self.settings, ("fold",))
        differ = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        self._refuse([f"{name} was {before.get(name)}, now {now.get(name)}" for name in differ])

    def begin(self, record: Mapping[str, Any]) -> None:
        """Compare data, split and weights with those that the run began with, or write them down where it begins.

        Args:
            record: their hashes.

        Raises:
            SettingError: naming what differs.
        """
        from covidnet.atomic import write_text
        from covidnet.sweep import UNSEEN

        file = self.folder / RECORD
        if self.wanted and file.is_file():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{file}: is damaged ({error}); start the run anew in another folder") from None
            differ = [name for name in record if name != "folder" and before.get(name) != record[name]]
            self._refuse([f"{name} was {before.get(name)}, now {record[name]}" for name in differ])
            if before.get("folder") == record.get("folder"):
                # A folder elsewhere may be a copy, which counts as a run of its own.
                self.run_id = str(before.get("run_id") or self.run_id)
        if not self.wanted:
            # Predictions of an earlier run in this folder are not this one's.
            (self.folder / UNSEEN).unlink(missing_ok=True)
        if self.point is None:
            for name in ("checkpoints", "curves"):
                # What an earlier start left behind would be taken for this one's.
                if self.wanted:
                    shutil.rmtree(self.folder / name, ignore_errors=True)
        write_text(file, json.dumps({**record, "run_id": self.run_id}, indent=2) + "\n")

    def end(self) -> None:
        """The run is finished: its resume point is of no more use."""
        (self.folder / _POINT).unlink(missing_ok=True)

    def _refuse(self, differ: Sequence[str]) -> None:
        if differ:
            told = "; ".join(differ[:4]) + (f"; and {len(differ) - 4} more" if len(differ) > 4 else "")
            raise SettingError(
                "resume", self.folder, "a run whose data, split, weights and settings are as they were",
                f"{told}. Start a new run, or put it back",
            )  # fmt: skip


@contextmanager
def termination() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` while a run goes on: what waits to be written is written, and the run ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # A second signal must not stop the writing.
        if not stopped.is_set():
            stopped.set()
            raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException as error:
        # What was cut off in the middle may fail while it is taken down; and where the signal fell into code that takes
        # no exception, such as a destructor, Lightning ends the training later, with an exit code of 0.
        if stopped.is_set() and not isinstance(error, Terminated):
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
