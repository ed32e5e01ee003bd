"""Commands in processes of their own that start in a moment.

To load the libraries takes six seconds of a core, and a test run starts some fifty commands. So they are forked from a
process that has loaded them and done nothing else. What depends on a fresh interpreter, such as the time that
``--help`` takes or a library that must not be loaded, is tested with one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FORKED = multiprocessing.get_context("forkserver")
"""Its processes are forked from one that has loaded the libraries."""
FORKED.set_forkserver_preload(["tests.preloaded"])


def command(
    module: str, *words: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module words`` and wait for its end.

    Args:
        module: such as ``covidnet.train``, or a script, such as ``/place/make.py``.
        words: of the command line.
        cwd: where it is started.
        env: the whole environment; this process's if None.
        timeout: seconds, after which it is killed.
    """
    given = dict(os.environ if env is None else env)
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        process = begun(module, *words, cwd=cwd, env=given, said=said)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([module, *words], timeout)
        out, err = (path.read_text(encoding="utf-8", errors="surrogateescape") for path in said)
    return subprocess.CompletedProcess([module, *words], process.exitcode, out, err)


def begun(
    module: str, *words: str, cwd: Path, env: Mapping[str, str], said: Sequence[Path], session: bool = False
) -> multiprocessing.process.BaseProcess:
    """As `command`, without waiting for its end.

    Args:
        module: as there.
        words: as there.
        cwd: as there.
        env: as there.
        said: the files that standard output and standard error go to.
        session: whether it leads a session of its own, so that its process group can be killed alone.
    """
    given = (module, list(words), str(cwd), dict(env), *map(str, said), session)
    process = FORKED.Process(target=_run, args=given)
    process.start()
    return process


class Forked:
    """As `subprocess.Popen`, but for a command that is forked from the process that has loaded the libraries.

    Args:
        module: as for `command`.
        words: as there.
        cwd: as there.
        env: as there.
        session: as for `begun`.

    What the command writes to standard error is read from `stderr`; what it prints is lost.
    """

    stdin = stdout = None

    def __init__(self, module: str, *words: str, cwd: Path, env: Mapping[str, str], session: bool = False) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pipe = Path(folder) / "stderr"
            os.mkfifo(pipe)
            self._process = begun(module, *words, cwd=cwd, env=env, said=[Path(os.devnull), pipe], session=session)
            # Opened when the other end is.
            self.stderr = pipe.open(encoding="utf-8", errors="surrogateescape")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


def _run(module: str, words: list[str], cwd: str, env: dict[str, str], out: str, err: str, session: bool) -> None:
    if session:
        os.setsid()
    # That of a fresh interpreter: with the method that this process was started by, each command would load them again.
    multiprocessing.set_start_method(None, force=True)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    # The one that this process was started with is known already.
    tempfile.tempdir = None
    os.chdir(cwd)
    sys.argv = [module, *words]
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
