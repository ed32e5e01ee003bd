"""The ledger of the unseen fold counts each run once, whoever writes, and gives no count if it cannot be kept."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from covidnet.data.folds.unseen_ledger import UnseenLedger


def _enter(cache: Path, names: list[str]) -> None:
    for name in names:
        UnseenLedger.of(cache, "abc").add("run", name, {"fold": 0})


def test_each_run_counts_once_and_splits_are_kept_apart(tmp_path: Path) -> None:
    ledger = UnseenLedger.of(tmp_path, "abc")
    assert ledger.names("run") is None
    assert [ledger.add("run", name, {}) for name in ("a", "b", "a")] == [1, 2, 2]
    assert ledger.add("opening", "c", {"time": "now"}) == 1
    assert ledger.names("run") == {"a", "b"}
    assert ledger.entries("opening") == [{"time": "now"}]
    assert UnseenLedger.of(tmp_path, "def").names("run") is None


def test_processes_that_write_together_lose_no_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    parts = [[f"{process}{n}" for n in range(20)] + ["shared"] for process in range(3)]
    processes = [context.Process(target=_enter, args=(tmp_path, part)) for part in parts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert UnseenLedger.of(tmp_path, "abc").names("run") == {name for part in parts for name in part}


def test_a_cache_that_cannot_be_written_gives_no_count(tmp_path: Path, caplog) -> None:
    (tmp_path / "unseen").write_text("in the way")
    assert UnseenLedger.of(tmp_path, "abc").add("run", "a", {}) is None
    assert "incomplete" in caplog.text
    assert UnseenLedger.of(tmp_path, "abc").names("run") is None


def test_a_damaged_entry_still_counts(tmp_path: Path) -> None:
    ledger = UnseenLedger.of(tmp_path, "abc")
    ledger.add("run", "a", {"fold": 3})
    (ledger.folder / "run-b.json").write_text("{")
    assert ledger.names("run") == {"a", "b"}
    assert ledger.entries("run") == [{"fold": 3}]
