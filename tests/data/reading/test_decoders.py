"""A hostile file affects only itself, and workers decode good files exactly as this process does."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covidnet.base.errors import ImageRefusedError, SettingError
from covidnet.data.reading import images
from covidnet.data.reading.decoders import DecoderError, Decoders, ShortOfMemoryError, _Child, shared_decoders
from covidnet.data.reading.images import read_radiograph
from tests.data.reading import hostile
from tests.data.reading.both_ways import decoded_or_refused
from tests.data.reading.test_images import RAMP, saved

PROC = Path("/proc")


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders(2) as pool:
        yield pool


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.png"
    path.write_bytes(saved(RAMP, "PNG"))
    return path


def children() -> set[int]:
    """This process's decoders."""
    found = set()
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"covidnet.data.reading.decoders" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


def refusal(pool: Decoders, path: Path) -> str:
    with pytest.raises(ImageRefusedError) as caught:
        pool.read(path)
    assert caught.value.path == str(path)
    assert caught.value.remedy
    return caught.value.cause


def stopped(pool: Decoders, good: Path, number: int = signal.SIGSTOP) -> set[int]:
    """Its processes after one image, each sent a signal; by default they stop and never answer."""
    pool.read(good)
    mine = {child._process.pid for child in pool._children}
    for process in mine:
        os.kill(process, number)
    return mine


def test_an_image_that_takes_too_long_affects_only_itself(good: Path) -> None:
    with Decoders(1, max_seconds=0.5) as pool:
        (slow,) = stopped(pool, good)
        start = time.monotonic()
        assert refusal(pool, good) == "took more than 0.5 s to decode"
        assert time.monotonic() - start < 10
        assert not (PROC / str(slow)).exists()
        assert np.array_equal(pool.read(good).pixels, RAMP)


def test_the_time_of_one_call_can_be_less_than_that_of_the_pool(good: Path) -> None:
    with Decoders(1) as pool:
        stopped(pool, good)
        with pytest.raises(ImageRefusedError, match=r"upload: took more than 0\.3 s to decode"):
            pool.decode(good.read_bytes(), "upload", seconds=0.3)


def test_if_no_decoder_is_free_in_time_the_image_is_not_blamed(good: Path) -> None:
    with Decoders(1) as pool, ThreadPoolExecutor(1) as thread:
        (slow,) = stopped(pool, good)
        busy = thread.submit(pool.read, good)
        while pool._idle:
            time.sleep(0.01)
        with pytest.raises(DecoderError, match="none was free within the time limit"):
            pool.decode(good.read_bytes(), "upload", seconds=0.2)
        os.kill(slow, signal.SIGCONT)
        assert np.array_equal(busy.result().pixels, RAMP)


def test_a_decoder_whose_image_is_no_longer_needed_is_killed(good: Path) -> None:
    with Decoders(1) as pool, ThreadPoolExecutor(1) as thread:
        (slow,) = stopped(pool, good)
        left = threading.Event()
        given = {"seconds": 60, "left": left}
        lost = thread.submit(lambda: pool.decode(good.read_bytes(), "upload", **given))  # type: ignore[arg-type]
        while pool._idle:
            time.sleep(0.01)
        start = time.monotonic()
        left.set()
        with pytest.raises(DecoderError, match="the image is no longer needed"):
            lost.result()
        assert time.monotonic() - start < 5
        assert not (PROC / str(slow)).exists()
        assert np.array_equal(pool.decode(good.read_bytes(), "upload", left=threading.Event()).pixels, RAMP)
        with pytest.raises(DecoderError, match="the image is no longer needed"):
            pool.decode(good.read_bytes(), "upload", left=left)


SIDE = 5000


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "memory.png"
    path.write_bytes(hostile.png_large(SIDE))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> list[Path]:
    """Different good files of several formats, bad files and an absent one."""
    paths = [tmp_path / name for name in ("a.png", "absent.png", "b.jpg", "notes.txt", "c.dcm", "d.png", "cut.png")]
    for number, path in enumerate(paths):
        pixels = np.roll(RAMP, number, axis=1)
        if path.suffix == ".dcm":
            path.write_bytes(hostile.written(hostile.image(pixels, PatientID="p7", ViewPosition="AP")))
        elif path.suffix in (".png", ".jpg") and path.name != "absent.png":
            path.write_bytes(saved(pixels, "PNG" if path.suffix == ".png" else "JPEG"))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "d.png").read_bytes()[:-20])
    return paths


def assert_as_one_by_one(pool: Decoders, paths: list[Path]) -> None:
    """Check that several files at once give what each gives when it is decoded in this process."""
    found = list(pool.read_several(paths))
    assert len(found) == len(paths)
    for path, one in zip(paths, found, strict=True):
        expected = decoded_or_refused(lambda path=path: read_radiograph(path))
        if isinstance(one, ImageRefusedError):
            assert str(one) == str(expected)
            continue
        assert not isinstance(expected, ImageRefusedError), expected
        assert np.array_equal(one.pixels, expected.pixels)
        assert one.pixels.flags.writeable
        assert one.pixels.flags.c_contiguous
        assert (one.facts, one.colour) == (expected.facts, expected.colour)
        assert (one.view, one.patient_id) == (expected.view, expected.patient_id)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that records the kind of every message to decoders from now on."""
    ask, kinds = _Child.ask, []

    def noted(child: _Child, message: dict[str, Any], *given: Any) -> Any:
        kinds.append(message["do"])
        return ask(child, message, *given)

    monkeypatch.setattr(_Child, "ask", noted)
    return kinds


def test_several_files_at_once_are_read_as_one_by_one(
    decoders: Decoders, folder: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders.read(folder[4])  # imports its libraries
    kinds = asked(monkeypatch)
    assert_as_one_by_one(decoders, folder)
    assert len(kinds) < len(folder)
    monkeypatch.chdir(folder[0].parent)  # the workers have another current folder
    assert_as_one_by_one(decoders, [Path(path.name) for path in folder])
    assert list(decoders.read_several([])) == []


def test_an_answer_with_several_images_is_bounded(folder: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    large = folder[0].with_name("large.png")
    large.write_bytes(hostile.png_large(3000))
    kinds = asked(monkeypatch)
    with Decoders(1) as pool:
        assert_as_one_by_one(pool, [folder[0], large, large, *folder[2:]])
    assert len(kinds) >= 3  # each large one ends an answer


def test_several_files_without_memory_that_processes_share(folder: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with Decoders(1) as pool:
        assert_as_one_by_one(pool, folder)
        assert np.array_equal(pool.read(folder[0]).pixels, RAMP)


@pytest.mark.slow
def test_of_several_files_only_the_one_that_takes_too_long_is_refused(folder: list[Path]) -> None:
    slow = folder[0].with_name("slow.jpg")
    slow.write_bytes(hostile.jpeg_scans(100, 5_000))
    with Decoders(1, max_seconds=0.5) as pool:
        found = list(pool.read_several([folder[0], slow, folder[5]]))
    assert isinstance(found[1], ImageRefusedError)
    assert (found[1].path, found[1].cause) == (str(slow), "took more than 0.5 s to decode")
    for path, one in ((folder[0], found[0]), (folder[5], found[2])):
        assert not isinstance(one, ImageRefusedError)
        assert np.array_equal(one.pixels, read_radiograph(path).pixels)


def test_of_several_files_only_the_one_that_needs_too_much_memory_is_refused(folder: list[Path], large: Path) -> None:
    with Decoders(1, max_memory=0.25) as pool:
        found = list(pool.read_several([folder[0], large, folder[3], folder[5]]))
    causes = [one.cause if isinstance(one, ImageRefusedError) else "" for one in found]
    assert causes == ["", "needed more than 0.25 GB", "not an image: text", ""]


def test_of_several_files_none_is_refused_when_their_decoder_is_killed(
    folder: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = _Child.ask

    def killed(child: _Child, message: dict[str, Any], *given: Any) -> Any:
        if message["do"] == "several":
            child._process.kill()
        return ask(child, message, *given)

    monkeypatch.setattr(_Child, "ask", killed)
    with Decoders(1) as pool:
        assert_as_one_by_one(pool, folder)


def test_an_image_that_needs_too_much_memory_affects_only_itself(good: Path, large: Path) -> None:
    with Decoders(1, max_memory=0.25) as pool:
        assert refusal(pool, large) == "needed more than 0.25 GB"
        assert np.array_equal(pool.read(good).pixels, RAMP)
    with Decoders(1) as pool:
        assert pool.read(large).pixels.shape == (SIDE, SIDE)


def test_an_image_is_not_blamed_if_the_machine_is_short_of_memory(good: Path, large: Path) -> None:
    resource = pytest.importorskip("resource")
    with Decoders(1) as pool:
        pool.read(good)
        (child,) = pool._children
        # The system allows it less than the pool's limit.
        resource.prlimit(child._process.pid, resource.RLIMIT_AS, (250_000_000, 250_000_000))
        with pytest.raises(ShortOfMemoryError, match="the machine has too little memory left"):
            pool.read(large)
        assert pool.read(large).pixels.shape == (SIDE, SIDE)


def test_an_image_is_not_blamed_if_the_system_kills_its_decoder_twice(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = _Child.ask

    def killed(child: _Child, *given: Any) -> Any:
        child._process.kill()
        return ask(child, *given)

    with Decoders(1) as pool:
        monkeypatch.setattr(_Child, "ask", killed)
        with pytest.raises(ShortOfMemoryError):
            pool.read(good)
        monkeypatch.undo()
        assert np.array_equal(pool.read(good).pixels, RAMP)


def test_a_decoder_that_crashes_affects_only_its_image(good: Path) -> None:
    with Decoders(1) as pool:
        (slow,) = stopped(pool, good)
        with ThreadPoolExecutor(1) as thread:
            lost = thread.submit(refusal, pool, good)
            while pool._idle:
                time.sleep(0.01)
            os.kill(slow, signal.SIGSEGV)
            os.kill(slow, signal.SIGCONT)
            assert lost.result() == "crashed its decoder (SIGSEGV)"
        assert np.array_equal(pool.read(good).pixels, RAMP)


def test_a_decoder_killed_from_outside_affects_no_image(good: Path) -> None:
    with Decoders(2) as pool:
        for process in stopped(pool, good):
            os.kill(process, signal.SIGKILL)
        assert np.array_equal(pool.read(good).pixels, RAMP)


def test_close_ends_busy_decoders_at_once(good: Path) -> None:
    pool = Decoders(1)
    mine = stopped(pool, good)
    with ThreadPoolExecutor(1) as thread:
        lost = thread.submit(pool.read, good)
        while pool._idle:
            time.sleep(0.01)
        start = time.monotonic()
        pool.close()
        with pytest.raises(DecoderError, match="closed"):
            lost.result()
        assert time.monotonic() - start < 5
    assert not mine & children()
    with pytest.raises(DecoderError, match="closed"):
        pool.read(good)


def test_nothing_starts_before_it_is_needed(tmp_path: Path) -> None:
    before = children()
    with Decoders(2) as pool:
        assert refusal(pool, tmp_path / "absent.png") == "no such file"
        assert children() == before
        with pytest.raises(ImageRefusedError):
            pool.decode(b"text", "notes.txt")
        assert len(children() - before) == 1
    assert children() == before


def test_children_end_with_their_parent_even_while_decoding(good: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    script = """
import os, sys, threading, time
from covidnet.data.reading.decoders import Decoders
pool = Decoders(2)
pool.read(sys.argv[1])
(child,) = pool._children
# A process that holds both ends of a pipe waits forever for data.
endless = os.open(sys.argv[2], os.O_RDWR)
work = threading.Thread(target=pool._ask, args=("endless", {"do": "image"}, endless, None))
work.start()
while pool._idle:
    time.sleep(0.01)
pool.read(sys.argv[1])
print(*(child._process.pid for child in pool._children), flush=True)
time.sleep(60)
"""
    words = [sys.executable, "-c", script, str(good), str(tmp_path / "endless")]
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    found = [int(word) for word in parent.stdout.readline().split()]
    assert len(found) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 5
    for child in found:
        # The process that adopts orphans may be slow to reap them.
        while (PROC / str(child)).exists() and "Z" not in (PROC / str(child) / "stat").read_text().rpartition(")")[2]:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_signals_meant_for_the_parent_do_not_end_a_child(good: Path) -> None:
    with Decoders(1) as pool:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            mine = stopped(pool, good, number)
            assert np.array_equal(pool.read(good).pixels, RAMP)
            assert mine <= children()


def test_a_child_imports_what_its_parent_does_and_nothing_from_the_current_folder(good: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("numpy", "json", "covidnet", "PIL"):
        (home / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = """
import os, sys
sys.path.insert(0, os.environ.pop("PYTHONPATH"))
from covidnet.data.reading.decoders import Decoders
os.chdir(sys.argv[2])
with Decoders(1) as pool:
    print(pool.read(sys.argv[1]).pixels.sum(), "torch" in sys.modules)
"""
    words = [sys.executable, "-c", script, str(good), str(home)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.stdout, done.stderr) == (f"{RAMP.sum()} False\n", "")


def test_daemonic_processes_have_decoders_too(good: Path) -> None:
    # Like workers of a DataLoader or of joblib, which may not start multiprocessing children.
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def work() -> None:
        with Decoders(1) as pool:
            queue.put(int(pool.read(good).pixels.sum()))

    process = context.Process(target=work, daemon=True)
    process.start()
    assert queue.get(timeout=60) == RAMP.sum()
    process.join()


def test_pickled_decoders_have_no_children(decoders: Decoders, good: Path) -> None:
    decoders.read(good)
    copy = pickle.loads(pickle.dumps(decoders))
    assert copy._limits == decoders._limits
    assert not copy._children
    copy.close()


def test_only_special_image_properties_are_logged_and_once_each(
    decoders: Decoders, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    images.forget_logged()
    clear = np.dstack([RAMP, np.full_like(RAMP, 9)])
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(saved(Image.fromarray(clear, "LA"), "PNG"))
        decoders.read(tmp_path / f"{n}.png")
    odd = hostile.written(hostile.image(RAMP, PatientID="p", SpecificCharacterSet="ISO_IR 100"))
    decoders.decode(odd.replace(b"ISO_IR 100", b"ISO_IR 999"), "image.dcm")  # pydicom warns about it and logs it
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/0.png: transparency becomes black (further files are not listed)"
    ]
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_many_threads_share_few_decoders(decoders: Decoders, good: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: decoders.read(good).pixels, range(64)))
    assert all(np.array_equal(pixels, RAMP) for pixels in found)
    assert len(decoders._children) <= 2


def test_a_forked_process_has_decoders_of_its_own(good: Path) -> None:
    with Decoders(1) as pool:
        pool.read(good)
        (mine,) = pool._children
        number = str(mine._process.pid)
        process = os.fork()
        if not process:
            code = 1
            with contextlib.suppress(BaseException):
                assert not pool._children
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    gc.collect()
                assert not [one for one in told if number in str(one.message)]
                code = 0 if np.array_equal(pool.read(good).pixels, RAMP) else 2
                pool.close()
            os._exit(code)
        assert os.waitpid(process, 0)[1] == 0
        assert np.array_equal(pool.read(good).pixels, RAMP)
        assert pool._children == {mine}


def test_no_file_descriptor_and_no_shared_memory_is_left(good: Path) -> None:
    def files() -> int:
        return len(list((PROC / "self/fd").iterdir()))

    def shared() -> int:
        return sum("memfd:" in line for line in (PROC / "self/maps").read_text().splitlines())

    with Decoders(1, max_seconds=0.5) as pool:
        stopped(pool, good)
        before = files(), shared()
        with pytest.raises(ImageRefusedError):
            pool.read(good)
        for _ in range(20):
            pool.read(good)
        assert (files(), shared()) == before


@pytest.mark.parametrize(
    ("limits", "named"),
    [({"max_memory": 0.1}, "reading.max_memory=0.1"), ({"max_seconds": 0}, "reading.max_seconds=0")],
)
def test_limits_too_low_to_decode_anything_are_refused(limits: dict[str, float], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        Decoders(**limits)  # type: ignore[arg-type]


def test_the_hash_is_checked_before_anything_is_decoded(decoders: Decoders, tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    path.write_bytes(b"no image at all")
    with pytest.raises(ImageRefusedError, match="does not match the manifest's sha256"):
        decoders.read(path, sha256="0" * 64)


def test_identifiers_and_masks_are_read_within_the_limits_too(good: Path, large: Path, tmp_path: Path) -> None:
    image, mask = tmp_path / "image.dcm", tmp_path / "mask.png"
    image.write_bytes(hostile.written(hostile.image(RAMP, PatientID="p7")))
    mask.write_bytes(saved(np.where(RAMP > 90, 255, 0).astype(np.uint8), "PNG"))
    with Decoders(1, max_memory=0.25, max_seconds=1) as pool:
        assert pool.identifiers(image)[0] == "p7"
        assert pool.identifiers(good) == ["", "", ""]
        assert np.array_equal(pool.mask(mask, RAMP.shape), RAMP > 90)
        with pytest.raises(ImageRefusedError, match=r"needed more than 0\.25 GB"):
            pool.mask(large, (SIDE, SIDE))
        with pytest.raises(ImageRefusedError, match=r"5000 x 5000 pixels, the image has 96 x 80"):
            pool.mask(large, (80, 96))
        stopped(pool, good)
        assert pool.identifiers(image) == ["", "", ""]


def test_without_process_limits_images_are_decoded_in_this_process(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("covidnet.data.reading.decoders.fcntl", None)
    before = children()
    with Decoders(1) as pool:
        expected = read_radiograph(good)
        for found in (pool.read(good), pool.decode(good.read_bytes(), good)):
            assert np.array_equal(found.pixels, expected.pixels)
            assert found.facts == expected.facts
        assert refusal(pool, tmp_path / "absent.png") == "no such file"
    assert children() == before


def test_one_process_shares_its_decoders() -> None:
    assert shared_decoders() is shared_decoders(max_memory=1.5, min_side=64)
    assert shared_decoders() is not shared_decoders(min_side=65)
