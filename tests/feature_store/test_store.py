"""The feature store: what it returns, and how it survives failing disks, processes and bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from covidnet.base.atomic import WriteError
from covidnet.base.errors import StoreError
from covidnet.feature_store.store import FeatureStore, feature_key

DIM = 8
ABOUT = {"weights": "w", "precision": "float32"}


def keys_of(count: int, start: int = 0) -> list[bytes]:
    return [hashlib.sha256(str(n).encode()).digest() for n in range(start, start + count)]


def vectors_of(keys: list[bytes], dim: int = DIM) -> np.ndarray:
    """A vector that belongs to its key, so that a mix-up shows."""
    return np.array([np.random.default_rng(list(key)).random(dim) for key in keys], np.float32).reshape(-1, dim)


def open_store(root: Path, dim: int = DIM) -> FeatureStore:
    return FeatureStore(root, ABOUT, dim)


def segments(store: FeatureStore) -> list[Path]:
    return sorted(store.folder.glob("*.safetensors"))


def test_what_was_appended_is_read_back_in_the_order_asked_for(tmp_path: Path) -> None:
    keys = keys_of(20)
    store = open_store(tmp_path)
    store.append(keys[:12], vectors_of(keys[:12]))
    store.append(keys[12:], vectors_of(keys[12:]))
    asked = [keys[n] for n in (13, 2, 2, 19, 0)]
    for reader in (store, open_store(tmp_path)):
        vectors, found = reader.read(asked)
        assert found.all()
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, vectors_of(asked))
    assert len(store) == 20


def test_an_absent_key_is_reported_and_its_row_is_zero(tmp_path: Path) -> None:
    keys = keys_of(3)
    store = open_store(tmp_path)
    store.append(keys[:2], vectors_of(keys[:2]))
    vectors, found = store.read([keys[2], keys[0]])
    assert found.tolist() == [False, True]
    assert not vectors[0].any()
    assert keys[0] in store
    assert keys[2] not in store


def test_an_empty_store_and_an_empty_question_are_answered(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.append([], np.zeros((0, DIM), np.float32))
    vectors, found = store.read([])
    assert (len(store), vectors.shape, found.shape) == (0, (0, DIM), (0,))
    assert segments(store) == []


def test_vectors_are_mapped_from_the_file_and_not_read_into_memory(tmp_path: Path) -> None:
    keys = keys_of(4)
    open_store(tmp_path).append(keys, vectors_of(keys))
    store = open_store(tmp_path)
    (segment,) = [segment for segment in store._segments.values() if segment is not None]
    assert isinstance(segment.vectors, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        segment.vectors[0] = 0


@pytest.mark.parametrize(
    "other",
    [{"weights": "v", "precision": "float32"}, {"weights": "w", "precision": "bfloat16"}, {"weights": "w"}],
)
def test_another_description_never_meets_these_vectors(tmp_path: Path, other: dict[str, str]) -> None:
    keys = keys_of(2)
    store = open_store(tmp_path)
    store.append(keys, vectors_of(keys))
    assert len(FeatureStore(tmp_path, other, DIM)) == 0


def test_the_order_of_a_description_is_of_no_meaning(tmp_path: Path) -> None:
    assert FeatureStore(tmp_path, dict(reversed(ABOUT.items())), DIM).folder == open_store(tmp_path).folder


def test_the_key_depends_on_the_bytes_and_on_the_operator() -> None:
    keys = {feature_key(sha, operator) for sha in ("a" * 64, "b" * 64) for operator in ("", "zoom", "shear")}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}


def test_vectors_of_another_length_and_keys_of_another_length_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="shape"):
        store.append(keys_of(2), np.zeros((2, DIM + 1), np.float32))
    with pytest.raises(ValueError, match="bytes"):
        store.append([b"\0" * 31, b"\0" * 33], np.zeros((2, DIM), np.float32))
    assert segments(store) == []


def test_opening_a_store_does_not_import_torch() -> None:
    code = "import sys, covidnet.feature_store.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_flipped_byte_of_a_segment_is_ever_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = keys_of(3)
    truth = vectors_of(keys)
    store = open_store(tmp_path)
    store.append(keys, truth)
    (path,) = segments(store)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bits in (0x01, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
            caplog.clear()
            vectors, found = open_store(tmp_path).read(keys)
            np.testing.assert_array_equal(vectors[found], truth[found], err_msg=f"byte {at}")
            # A byte whose change changes no value may pass; whatever is lost is named.
            assert found.all() or str(path) in caplog.text, f"byte {at}"
    # Every byte of the vectors counts.
    vector_bytes = truth.tobytes()
    start = whole.index(vector_bytes)
    for at in (start, start + len(vector_bytes) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert open_store(tmp_path).read(keys)[1].sum() == 2


def test_a_truncated_segment_is_named_passed_over_and_its_features_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = keys_of(6)
    truth = vectors_of(keys)
    store = open_store(tmp_path)
    store.append(keys[:3], truth[:3])
    store.append(keys[3:], truth[3:])
    path = segments(store)[0]
    whole = path.read_bytes()
    for size in (0, 7, 8, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        caplog.clear()
        assert open_store(tmp_path).read(keys)[1].tolist() == [False] * 3 + [True] * 3
        assert str(path) in caplog.text
    again = open_store(tmp_path)
    again.append(keys[:3], truth[:3])
    vectors, found = open_store(tmp_path).read(keys)
    assert found.all()
    np.testing.assert_array_equal(vectors, truth)


def test_a_damaged_vector_is_replaced_by_the_one_that_is_appended_later(tmp_path: Path) -> None:
    keys = keys_of(4)
    truth = vectors_of(keys)
    store = open_store(tmp_path)
    store.append(keys, truth)
    (path,) = segments(store)
    data = bytearray(path.read_bytes())
    data[data.index(truth[2].tobytes()) + 1] ^= 4
    path.write_bytes(bytes(data))
    store = open_store(tmp_path)
    assert store.read(keys)[1].tolist() == [True, True, False, True]
    assert keys[2] not in store
    store.append(keys[2:3], truth[2:3])
    for reader in (store, open_store(tmp_path)):
        vectors, found = reader.read(keys)
        assert found.all()
        np.testing.assert_array_equal(vectors, truth)


def test_a_segment_of_another_dim_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = keys_of(2)
    open_store(tmp_path, DIM).append(keys, vectors_of(keys))
    store = open_store(tmp_path, DIM + 1)
    assert not store.read(keys)[1].any()
    assert str(segments(store)[0]) in caplog.text
    assert f"[2, {DIM + 1}]" in caplog.text


def test_a_foreign_safetensors_file_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(tmp_path)
    save_file({"weights": np.zeros(3, np.float32)}, store.folder / "foreign.safetensors")
    assert len(open_store(tmp_path)) == 0
    assert "foreign.safetensors" in caplog.text


# --- places that cannot be written ----------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"features.*cannot be created.*writable cache_dir") as caught:
        open_store(tmp_path / "features")
    assert "\n" not in str(caught.value)


def test_a_store_without_write_permission_can_be_read_and_names_itself_when_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(3)
    store = open_store(tmp_path)
    store.append(keys, vectors_of(keys))

    real = os.open

    def read_only(path: str, flags: int, *rest: int, **named: int) -> int:
        # Tests may run as root, whom no permission stops.
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr("covidnet.base.atomic.os.fsync", lambda _: (_ for _ in ()).throw(PermissionError(13, "denied")))
    reader = open_store(tmp_path)
    assert reader.read(keys)[1].all()
    with pytest.raises(StoreError, match=str(store.folder)), reader.lock():
        pass
    with pytest.raises(WriteError, match=str(store.folder)):
        reader.append(keys, vectors_of(keys))
    monkeypatch.undo()
    assert len(segments(store)) == 1


def test_a_full_disk_is_named_and_leaves_the_store_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = keys_of(5)
    truth = vectors_of(keys)
    store = open_store(tmp_path)
    store.append(keys[:2], truth[:2])
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("covidnet.base.atomic.os.fsync", full)
    with pytest.raises(WriteError, match=f"{store.folder}.*ENOSPC") as caught:
        store.append(keys[2:], truth[2:])
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before
    assert store.read(keys)[1].tolist() == [True, True, False, False, False]
    store.append(keys[2:], truth[2:])
    assert open_store(tmp_path).read(keys)[1].all()


# --- many processes -------------------------------------------------------------------------------------------------

# One writer: under the lock it appends what is missing, and says so once it is there. Cheap to start: no torch.
WRITER = """
import hashlib, os, signal, sys
import numpy as np
from pathlib import Path
from covidnet.feature_store.store import FeatureStore
root, total, size, die = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
keys = [hashlib.sha256(str(n).encode()).digest() for n in range(total)]
def vectors(keys):
    return np.array([np.random.default_rng(list(key)).random(8) for key in keys], np.float32)
if die:
    owner, name = die.split('.')
    owner = {'os': os, 'Path': Path}[owner]
    setattr(owner, name, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
store = FeatureStore(root, {"weights": "w", "precision": "float32"}, 8)
print("open", flush=True)
with store.lock():
    store.refresh()
    missing = [n for n, key in enumerate(keys) if key not in store]
    for start in range(0, len(missing), size):
        part = [keys[n] for n in missing[start:start + size]]
        store.append(part, vectors(part))
        print(*missing[start:start + size], flush=True)
"""


def writer(root: Path, total: int, size: int, die: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(root), str(total), str(size), die]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(output: str) -> list[int]:
    """Numbers of the keys that a writer says are written; a line that the kill cut off does not count."""
    lines = [line for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [int(number) for line in lines for number in line.split() if number != "open"]


def stored_keys(store: FeatureStore) -> list[bytes]:
    """The keys in the files, counted without the store's own code."""
    return [row.tobytes() for path in segments(store) for row in load_file(path)["keys"]]


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_store_that_opens_and_is_completed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    total = 3000
    keys = keys_of(total)
    truth = vectors_of(keys)
    draw = random.Random(0)
    written: set[int] = set()
    for turn in range(10):
        process = writer(tmp_path, total, 4)
        assert process.stdout is not None
        # Every second writer has written something before its time begins.
        heard = "".join(process.stdout.readline() for _ in range(1 + turn % 2))
        time.sleep(draw.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        written |= set(said(heard + process.communicate()[0]))
        assert process.returncode in (-signal.SIGKILL, 0)
        vectors, found = open_store(tmp_path).read(keys)
        # What the writer said is there, is there; and all that is there is right.
        assert set(np.flatnonzero(found)) >= written
        np.testing.assert_array_equal(vectors[found], truth[found])
    assert written
    process = writer(tmp_path, total, total)
    process.communicate()
    assert process.returncode == 0
    store = open_store(tmp_path)
    vectors, found = store.read(keys)
    assert found.all()
    np.testing.assert_array_equal(vectors, truth)
    assert sorted(stored_keys(store)) == sorted(keys)
    assert caplog.text == ""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["os.fsync", "Path.replace"])
def test_a_writer_killed_within_a_write_leaves_nothing_that_is_read(tmp_path: Path, moment: str) -> None:
    keys = keys_of(6)
    store = open_store(tmp_path)
    store.append(keys[:2], vectors_of(keys[:2]))
    process = writer(tmp_path, 6, 6, moment)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    # The moment was within the write: its temporary file is there.
    assert [path for path in store.folder.iterdir() if path.suffix == ".tmp"]
    again = open_store(tmp_path)
    assert again.read(keys)[1].tolist() == [True] * 2 + [False] * 4
    with again.lock():
        again.append(keys[2:], vectors_of(keys[2:]))
    assert open_store(tmp_path).read(keys)[1].all()


@pytest.mark.slow
def test_two_writers_take_turns_and_write_nothing_twice(tmp_path: Path) -> None:
    total = 600
    keys = keys_of(total)
    pair = [writer(tmp_path, total, 50) for _ in range(2)]
    numbers = [said(process.communicate()[0]) for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    assert sorted(numbers[0] + numbers[1]) == list(range(total))
    store = open_store(tmp_path)
    assert sorted(stored_keys(store)) == sorted(keys)
    vectors, found = store.read(keys)
    assert found.all()
    np.testing.assert_array_equal(vectors, vectors_of(keys))


@pytest.mark.slow
def test_readers_see_whole_segments_while_a_writer_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    total = 120
    keys = keys_of(total)
    truth = vectors_of(keys)
    reader = open_store(tmp_path)
    process = writer(tmp_path, total, 2)
    assert process.stdout is not None
    heard: set[int] = set()
    for line in process.stdout:
        heard |= set(said(line))
        reader.refresh()
        for store in (reader, open_store(tmp_path)):
            vectors, found = store.read(keys)
            assert set(np.flatnonzero(found)) >= heard
            np.testing.assert_array_equal(vectors[found], truth[found])
    assert process.wait() == 0
    process.stdout.close()
    assert len(heard) == total
    assert caplog.text == ""
