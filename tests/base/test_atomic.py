import errno
import os
import pickle
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from covidnet.base import atomic
from covidnet.base.atomic import WriteError, clear_leftovers, replaced, write_bytes, write_text
from covidnet.base.errors import CovidnetError


def _fail_with(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_written_bytes_are_the_given_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) + b"\r\n\n"
    write_bytes(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    write_text(tmp_path / "text", "é\na\r\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\na\r\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.json"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, call, _fail_with(errno.ENOSPC))
    with pytest.raises(WriteError) as caught:
        write_bytes(file, b"new" * 1000)
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
    assert caught.value.errno == errno.ENOSPC
    text = str(caught.value)
    assert str(file) in text
    assert "28, ENOSPC" in text
    assert "free some space" in text
    assert "\n" not in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_write_that_the_system_itself_refuses_is_reported_with_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "metrics.json"
    file.write_bytes(b"old")
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *_: real_open(Path("/dev/full"), "wb"))
    with pytest.raises(WriteError, match="ENOSPC"):
        write_bytes(file, b"x" * 1_000_000)
    monkeypatch.undo()
    assert file.read_bytes() == b"old"


def test_a_stop_by_the_user_keeps_the_old_file_and_stays_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    file = tmp_path / "a"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_missing_folder_is_an_error_that_names_the_path_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CovidnetError, match=r"nowhere/a\.csv: not written, .*ENOENT.*check that the folder exists"):
        write_text(tmp_path / "nowhere" / "a.csv", "x")


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"old")
    seen: list[tuple[bytes, int]] = []
    real_fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.append((file.read_bytes(), os.fstat(descriptor).st_size))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_bytes(file, b"newer")
    assert seen == [(b"old", 5)]
    assert file.read_bytes() == b"newer"


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert modes[0] == modes[1]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/file").write_bytes(b"thesis")
    for name, target in {"link": "store/file", "nowhere": "store/new", "loop": "loop"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
        with pytest.raises(WriteError, match=rf"{name}: not written, it is a symbolic link .*ELOOP.*remove the link"):
            write_bytes(tmp_path / name, b"x")
        assert (tmp_path / name).is_symlink()
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "store").iterdir()] == [("file", b"thesis")]
    # A folder may be one: results go to another disk.
    (tmp_path / "disk").symlink_to(tmp_path / "store")
    write_bytes(tmp_path / "disk/new", b"x")
    assert (tmp_path / "store/new").read_bytes() == b"x"


def test_a_name_of_the_longest_length_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("n" * 255), b"x")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"x"


def test_the_error_crosses_process_borders_whole() -> None:
    error = WriteError("a.csv", errno.ENOSPC, "No space left on device")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errno, again.path) == (str(error), errno.ENOSPC, "a.csv")


def _killed(file: Path) -> Path:
    """The temporary file that a process leaves which is killed while it writes."""
    child = os.fork()
    if not child:
        with replaced(file) as stream:
            stream.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = file.parent.glob(".*.tmp")
    return left


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks a process")
def test_the_first_write_into_a_folder_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    left = _killed(tmp_path / "table.csv")
    assert not (tmp_path / "table.csv").exists()
    write_text(tmp_path / "other.csv", "a\n")
    assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks a process")
def test_only_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    left = _killed(tmp_path / "table.csv")
    token = left.name.removesuffix(".tmp")
    others = {".env.tmp", f"{token[1:]}.tmp", f"{token}.tmp.bak", f".a{token[1:]}.tmp"}
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".0123456789abcdef.tmp").symlink_to(tmp_path / ".env.tmp")
    (tmp_path / ".fedcba9876543210.tmp").mkdir()
    with replaced(tmp_path / "running.csv") as stream:
        stream.write(b"whole")
        clear_leftovers(tmp_path)
        assert not left.exists()
    assert (tmp_path / "running.csv").read_bytes() == b"whole"
    kept = {*others, ".0123456789abcdef.tmp", ".fedcba9876543210.tmp", "running.csv"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    clear_leftovers(tmp_path / "nowhere")


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []

    def locked(stream: BinaryIO) -> None:
        if not removed:
            removed.append(Path(stream.name))
            removed[0].unlink()

    monkeypatch.setattr(atomic, "_lock", locked)
    write_bytes(tmp_path / "a.csv", b"whole")
    assert (tmp_path / "a.csv").read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
