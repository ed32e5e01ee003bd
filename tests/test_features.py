"""``python -m covidnet.features``: the store is full before the folds run, and damage to it is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def features(home: Path, quick: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    return command("covidnet.features", *quick, f"cache_dir={home}", *words, cwd=home, timeout=300)


def test_filling_ahead_leaves_no_work_for_any_fold(
    home: Path, quick: tuple[str, ...], train: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    done = features(home, quick)
    assert done.returncode == 0, done.stderr
    assert "distinct inputs for the" in done.stdout
    for fold in (0, 9):
        with caplog.at_level("INFO"):
            folder = train(f"fold={fold}", f"cache_dir={home}", "trainer.max_epochs=1", "explain=off")
        assert json.loads((folder / "metrics.json").read_text())["fold"] == fold
    assert "to compute" not in caplog.text
    again = features(home, quick)
    assert "0 were computed now" in again.stdout


def test_stats_and_verify_tell_what_is_there(home: Path, quick: tuple[str, ...]) -> None:
    if not (home / "features").is_dir():
        features(home, quick)
    told = features(home, quick, "--stats")
    assert told.returncode == 0, told.stderr
    assert "densenet121" in told.stdout
    assert "unchecked" in told.stdout
    assert features(home, quick, "--verify").returncode == 0
    segment = sorted(home.glob("features/*/*.safetensors"))[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-100])
    damaged = features(home, quick, "--verify")
    assert damaged.returncode != 0
    assert damaged.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "damaged" in damaged.stderr
    pruned = features(home, quick, "--prune")
    assert f"removed {segment}" in pruned.stdout
    assert features(home, quick, "--verify").returncode == 0


def test_what_has_no_features_is_refused_in_one_line(home: Path, quick: tuple[str, ...]) -> None:
    done = features(home, quick, "augment=online")
    assert done.returncode != 0
    assert "augment=online" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_two_processes_of_one_job_share_the_pass(tmp_path: Path, quick: tuple[str, ...]) -> None:
    from covidnet.feature_store.maintenance import summaries

    done = features(tmp_path, quick, "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    (store,) = summaries(tmp_path / "features", verify=True)
    assert store.segments == 2
    assert store.damaged == 0
    # Lightning gives both processes equally many inputs, so an odd one is computed twice and counts once.
    assert f"{store.features} distinct inputs" in done.stdout
