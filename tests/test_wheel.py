"""The wheel holds all that a run needs: it is built, unpacked elsewhere, and runs from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT, quickly

pytestmark = pytest.mark.slow

# The configuration and the templates of reports are no Python files, and are there all the same. Then a run.
SHIPPED = """
import runpy
from covidnet.launch.command import config_dir
from covidnet.evaluation.results import from_json
from covidnet.report.summary import SweepSummary
from covidnet.report.write import report_html
print(config_dir())
print(report_html(from_json(SweepSummary, {})).splitlines()[0])
runpy.run_module("covidnet.train", run_name="__main__", alter_sys=True)
"""


def test_the_wheel_runs_from_an_empty_directory(tmp_path: Path) -> None:
    wheels, site, empty = tmp_path / "wheels", tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, PROJECT], check=True, cwd=tmp_path
    )
    (wheel,) = wheels.glob("covidnet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    done = subprocess.run(
        [sys.executable, "-c", SHIPPED, *quickly("model=cnn", "fold=0", "trainer.fast_dev_run=true")],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == [str(site / "covidnet/conf"), "<!DOCTYPE html>"]
    assert "Run folder" in done.stdout
