"""Resuming a stopped run or sweep: ``resume=RUN_FOLDER`` or ``resume=SWEEP_FOLDER``."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from covidnet.base.errors import DataError, SettingError
from covidnet.base.former import current, current_override
from covidnet.base.names import real_path
from covidnet.base.trust import check_links, read_yaml
from covidnet.launch.command import subfolders
from covidnet.launch.launchers import ENGINES

log = logging.getLogger(__name__)

RECORD = "run.json"
"""What a run started with: hashes of data, split and weights. Written before the first epoch."""

_POINT = "checkpoints/resume.ckpt"


class Terminated(SystemExit):
    """SIGTERM: the run keeps what it has and ends with a non-zero exit code."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def resumed_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line of the run or sweep to resume, with the settings given beside ``resume=``.

    The working directory becomes that of the first command, so that relative paths keep their meaning.

    Args:
        arguments: a command line without the command.

    Returns:
        The arguments unchanged if ``resume`` is not among them.

    Raises:
        SettingError: the folder is neither a run folder nor a sweep folder.
    """
    given = [word.removeprefix("resume=") for word in arguments if word.startswith("resume=")]
    if not given or given[-1] == "null":
        return list(arguments)
    others = [word for word in arguments if not word.startswith("resume=")]
    text = given[-1].strip("'\"")
    if not text.strip():
        # resume=$DIR with DIR unset must not start a new run of the defaults.
        raise SettingError("resume", text, "a run folder or a sweep folder", "say resume=DIR")
    folder = real_path(Path(text).expanduser())
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
            if any(folder.glob("trial=*")):
                cause = "a search for hyperparameters cannot be resumed; start it again"
        raise SettingError("resume", text, "a folder that covidnet.train has written", cause)
    check_links(folder)
    overrides, start = tasks
    _check_beside(others, overrides["task"], text)
    # Settings repeated beside resume= come from the user, not from the folder.
    kept = [
        word
        for word in overrides["task"]
        if not word.startswith(("resume=", "trust=", "imports=")) and word not in others
    ]
    if hydras:
        own = ("hydra.mode=", "hydra.sweep.dir=", "hydra.run.dir=", *subfolders([*mode, *kept]))
        # What the experiment sweeps over is in the task's settings by now.
        own += ("hydra.sweeper.params=null",)
        found = [word for word in overrides["hydra"] if not word.startswith(own) and word not in others]
        kept += found
    if refused := [word for word in kept if not _is_harmless(word, text)]:
        again = " ".join(map(shlex.quote, refused))
        raise SettingError(
            "resume", text, "a folder of a run without settings that can run code",
            f"its settings that begin with + or hydra can; if you wrote them, repeat them: resume={text} {again}",
        )  # fmt: skip
    if start and Path(start).is_dir():
        os.chdir(start)
    return [*mode, *kept, *others, f"{place}='{folder}'", f"resume='{folder}'"]


def _check_beside(others: Sequence[str], task: Sequence[str], folder: str) -> None:
    """Refuse settings beside ``resume=`` that would change the run, before Hydra writes them into its folder."""
    from covidnet.launch.comparable import compared

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
                "a resumed run keeps its settings; only those that change no number, such as progress, logger and "
                "trainer.devices, may differ",
            )  # fmt: skip


def _is_harmless(word: str, folder: str) -> bool:
    """Whether a word of a folder's command line neither adds settings nor changes Hydra itself: both can run any code.

    Of Hydra's settings, the launchers and sweepers that we ship, and numbers such as
    ``hydra.launcher.timeout_min=240``, are harmless.
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
        harmless = key.partition(".")[0] not in ("hydra", "trust", "imports") and not key.startswith("hydra/")
        harmless &= override.package is None
    return harmless and not added


def _written(file: Path) -> tuple[dict[str, list[str]], str | None]:
    """The overrides of a command, and the directory in which it was started."""
    try:
        found = read_yaml(file)["hydra"]
        overrides = {
            name: [current_override(str(word)) for word in found["overrides"].get(name) or []]
            for name in ("task", "hydra")
        }
        cwd = (found.get("runtime") or {}).get("cwd")
    except (KeyError, TypeError, AttributeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{file}: not what Hydra wrote ({cause}); start a new run in another folder") from None
    return overrides, None if cwd in (None, "???") else str(cwd)


class Resumption:
    """Whether a run is resumed, and from where.

    Args:
        folder: the run folder.
        settings: the resolved configuration.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        # A job that SLURM requeued starts with the same command in the same folder.
        requeued = os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")
        self.wanted = bool(settings.get("resume")) or requeued
        # A resumed run keeps its original id.
        self.run_id = secrets.token_hex(8)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.wanted and (self.folder / "metrics.json").is_file()

    @property
    def point(self) -> Path | None:
        """The state to resume from; None for a new start."""
        return self.place if self.wanted and self.place.is_file() else None

    @property
    def place(self) -> Path:
        """The file of the resume point."""
        return self.folder / _POINT

    def check_settings(self) -> None:
        """Refuse to resume with changed settings.

        Raises:
            SettingError: naming what differs.
        """
        file = self.folder / "config.yaml"
        if not self.wanted or not file.is_file():
            return
        from covidnet.launch.comparable import compared

        before = compared(current(read_yaml(file)), ("fold",))
        now = compared(self.settings, ("fold",))
        differ = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        self._refuse([f"{name} was {before.get(name)}, now {now.get(name)}" for name in differ])

    def begin(self, record: Mapping[str, Any]) -> None:
        """Compare data, split and weights with the record of the run, or write that of a new run.

        Args:
            record: their hashes.

        Raises:
            SettingError: naming what differs.
        """
        from covidnet.base.atomic import write_text
        from covidnet.fold.folder import UNSEEN

        file = self.folder / RECORD
        if self.wanted and file.is_file():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{file}: is damaged ({error}); start a new run in another folder") from None
            differ = [name for name in record if name != "folder" and before.get(name) != record[name]]
            self._refuse([f"{name} was {before.get(name)}, now {record[name]}" for name in differ])
            if before.get("folder") == record.get("folder"):
                # A folder elsewhere may be a copy, which counts as a run of its own.
                self.run_id = str(before.get("run_id") or self.run_id)
        if not self.wanted:
            # Predictions of an earlier run in this folder do not belong to this one.
            (self.folder / UNSEEN).unlink(missing_ok=True)
        if self.point is None:
            for name in ("checkpoints", "curves"):
                # Leftovers of an earlier start would be taken for those of this one.
                if self.wanted:
                    shutil.rmtree(self.folder / name, ignore_errors=True)
        write_text(file, json.dumps({**record, "run_id": self.run_id}, indent=2) + "\n")

    def end(self) -> None:
        """Delete the resume point of the finished run."""
        self.place.unlink(missing_ok=True)

    def _refuse(self, differ: Sequence[str]) -> None:
        if differ:
            named = "; ".join(differ[:4]) + (f"; and {len(differ) - 4} more" if len(differ) > 4 else "")
            raise SettingError(
                "resume", self.folder, "a run whose data, split, weights and settings have not changed",
                f"{named}; start a new run, or restore it",
            )  # fmt: skip


@contextmanager
def termination() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` during a run, so that pending files are written before it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # A second signal must not interrupt the writing.
        if not stopped.is_set():
            stopped.set()
            raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException as error:
        # Interrupted code may fail while it is torn down. If the signal arrived in code that swallows exceptions, such
        # as a destructor, Lightning ends the training later with exit code 0.
        if stopped.is_set() and not isinstance(error, Terminated):
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
