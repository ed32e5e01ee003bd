"""The console script: each command under one name, the same as its module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from covidnet import __version__
from covidnet.cli import COMMANDS, main
from tests.conftest import PROJECT


def run(*arguments: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "covidnet.cli", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_help_names_every_command_and_every_module_with_a_main_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = {
        file.stem
        for file in (PROJECT / "covidnet").glob("*.py")
        if "\n    launch(main" in file.read_text(encoding="utf-8")
    }
    assert modules == set(COMMANDS)
    for arguments in ([], ["--help"], ["-h"]):
        monkeypatch.setattr(sys, "argv", ["covidnet", *arguments])
        main()
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["covidnet", "--version"])
    main()
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(("name", "hint"), [("trian", "did you mean train?"), ("xyz", "see covidnet --help")])
def test_an_unknown_command_is_one_line_with_the_nearest_name(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["covidnet", name])
    with pytest.raises(SystemExit, match=f"^error: {name}: must be one of prepare, .*; {hint}$".replace("?", "[?]")):
        main()


def test_a_command_has_the_help_the_errors_and_the_exit_code_of_its_module() -> None:
    done = run("train", "--help")
    module = subprocess.run(
        [sys.executable, "-m", "covidnet.train", "--help"], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert done.stdout == module.stdout
    wrong = run("train", "fold=11")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: fold=11: ")
    assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_is_the_same_as_by_its_module(tmp_path: Path) -> None:
    done = run("prepare", "data.images_per_class=11", f"cache_dir='{tmp_path}/cache'", "progress=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache").glob("manifests/*/*/split.csv"))) == 1
