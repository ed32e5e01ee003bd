"""A cache shared by users: those without write access read it, and a group can write to a shared one."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from covidnet.base.atomic import locked
from covidnet.data.collection.prepared import PreparedDataset, prepare_dataset
from covidnet.feature_store.store import FeatureStore
from covidnet.fold.run import FoldRun
from covidnet.launch.command import compose
from tests.conftest import quickly

OTHER = 65534

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can start processes of another user"
)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="covidnet-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_other(call: Callable[[], object]) -> str:
    """What a call gives, or raises, in a process of another user.

    The process is forked: the libraries may lie where the other user cannot read them.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            told = str(call())
        except Exception as error:
            told = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        with os.fdopen(write, "w") as stream:
            stream.write(told)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        told = stream.read()
    os.waitpid(child, 0)
    return told


def settings_of(cache: Path, *overrides: str) -> dict[str, Any]:
    quick = ("explain=off", "trainer.max_epochs=1", "data.images_per_class=11")
    cfg = compose(quickly(*quick, f"cache_dir='{cache}'", *overrides))
    found: Any = OmegaConf.to_container(cfg, resolve=True)
    return found


def prepared(settings: dict[str, Any]) -> PreparedDataset:
    cache = Path(settings["cache_dir"])
    return prepare_dataset(settings["data"], settings["split"], cache_dir=cache, progress=False)


@pytest.mark.slow
def test_a_complete_cache_of_another_user_trains_a_run(shared: Path) -> None:
    settings = settings_of(shared / "cache")
    (shared / "first").mkdir()
    FoldRun(settings, shared / "first").run()
    before = sorted(shared.glob("cache/**/*"))
    (shared / "other").mkdir()
    os.chown(shared / "other", OTHER, OTHER)

    def run() -> str:
        FoldRun(settings, shared / "other").run()
        return "done"

    assert as_other(run) == "done"
    for name in ("predictions.csv", "split.csv"):
        assert (shared / "other" / name).read_bytes() == (shared / "first" / name).read_bytes()
    assert sorted(shared.glob("cache/**/*")) == before


def test_what_a_cache_of_another_user_lacks_is_one_line(shared: Path) -> None:
    prepared(settings_of(shared / "cache"))
    for lacking in ("split.seed=1", "data.min_side=65", "data.images_per_class=12"):
        settings = settings_of(shared / "cache", lacking)
        told = as_other(lambda settings=settings: prepared(settings))
        assert told.startswith(f"PermissionError: [Errno 13] Permission denied: '{shared}/cache/")


@pytest.mark.slow
def test_a_group_shares_a_cache_that_it_may_write(shared: Path) -> None:
    os.chown(shared, -1, OTHER)
    # New folders are of the group of the folder around them.
    shared.chmod(0o2775)
    before = os.umask(0o002)
    try:
        prepared(settings_of(shared / "cache"))
        other = settings_of(shared / "cache", "split.seed=1")
        store = FeatureStore(shared / "cache/features", {}, 2)
        with store.lock():
            pass

        def fill() -> str:
            store = FeatureStore(shared / "cache/features", {}, 2)
            with store.lock():
                store.append([b"k" * 32], np.ones((1, 2), np.float32))
            return prepared(other).split_sha256

        told = as_other(fill)
        # The owner of the cache reads what the other has put there, and goes on.
        assert told == prepared(other).split_sha256
        store.refresh()
        assert b"k" * 32 in store
        with store.lock():
            store.append([b"l" * 32], np.ones((1, 2), np.float32))
    finally:
        os.umask(before)


def test_a_lock_that_the_group_may_not_have_is_named(shared: Path) -> None:
    with locked(shared / ".lock"):
        pass
    shared.chmod(0o777)

    def take() -> None:
        with locked(shared / ".lock"):
            pass

    told = as_other(take)
    assert told.startswith(f"WriteError: {shared}/.lock: not written, it is another user's; chmod g+w")
