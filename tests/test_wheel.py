"""The wheel holds all that a run needs: it is built, unpacked elsewhere, and runs from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, quickly

pytestmark = pytest.mark.slow

# The configuration and the templates of reports are no Python files, and are there all the same.
SHIPPED = """
from covidnet.launch.command import config_dir
from covidnet.evaluation.results import from_json
from covidnet.report.summary import SweepSummary
from covidnet.report.write import report_html
print(config_dir())
print(report_html(from_json(SweepSummary, {})).splitlines()[0])
"""


def test_the_wheel_runs_from_an_empty_directory(tmp_path: Path) -> None:
    wheels, site, empty = tmp_path / "wheels", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, PROJECT], check=True, cwd=tmp_path
    )
    (wheel,) = wheels.glob("covidnet-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, cwd=tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", SHIPPED],
        cwd=empty, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.split("\n")[:2] == [str(site / "covidnet/conf"), "<!DOCTYPE html>"]
    done = subprocess.run(
        [sys.executable, "-m", "covidnet.train", *quickly("fold=0", "trainer.fast_dev_run=true")],
        cwd=empty, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Run folder" in done.stdout
