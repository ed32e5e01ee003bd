"""``python -m covidnet.features``: the store is full before the folds run, and damage to it is told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import command
from tests.conftest import quickly

pytestmark = pytest.mark.slow

SMALL = quickly("data.images_per_class=11", "data.image_size=32")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def features(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # The table of --stats is as wide as the terminal.
    usual = {**os.environ, "COLUMNS": "80"}
    return command("covidnet.features", *SMALL, f"cache_dir={home}", *words, cwd=home, env=usual)


def test_filling_ahead_leaves_no_work_for_any_fold(
    home: Path, train: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    done = features(home)
    assert done.returncode == 0, done.stderr
    assert "distinct inputs for the" in done.stdout
    for fold in (0, 9):
        with caplog.at_level("INFO"):
            words = (f"fold={fold}", f"cache_dir={home}", "trainer.max_epochs=1", "explain=off")
            folder = train(*words, defaults=SMALL)
        assert json.loads((folder / "metrics.json").read_text())["fold"] == fold
    assert "to compute" not in caplog.text
    again = features(home)
    assert "0 were computed now" in again.stdout


def test_stats_and_verify_tell_what_is_there(home: Path) -> None:
    if not (home / "features").is_dir():
        features(home)
    told = features(home, "--stats")
    assert told.returncode == 0, told.stderr
    assert "torchvision/squeezenet" in told.stdout
    # Nothing is cut in 80 columns.
    assert "\N{HORIZONTAL ELLIPSIS}" not in told.stdout
    assert "damaged" not in told.stdout
    assert features(home, "--verify").returncode == 0
    segment = sorted(home.glob("features/*/*.safetensors"))[0]
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-100])
    damaged = features(home, "--verify")
    assert damaged.returncode != 0
    assert damaged.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "damaged" in damaged.stderr
    pruned = features(home, "--prune")
    assert f"removed {segment}" in pruned.stdout
    assert features(home, "--verify").returncode == 0


def test_what_has_no_features_is_refused_in_one_line(home: Path) -> None:
    done = features(home, "augment=online")
    assert done.returncode != 0
    assert "augment=online" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_two_processes_of_one_job_share_the_pass(tmp_path: Path) -> None:
    from covidnet.feature_store.maintenance import summaries

    done = features(tmp_path, "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    (store,) = summaries(tmp_path / "features", verify=True)
    assert store.segments == 2
    assert store.damaged == 0
    # Lightning gives both processes equally many inputs, so an odd one is computed twice and counts once.
    assert f"{store.features} distinct inputs" in done.stdout
