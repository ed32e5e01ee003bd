"""What a run says of itself."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from covidnet.base import provenance
from covidnet.base.provenance import environment
from tests.conftest import PROJECT


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit and a tag, which the package seems to be run from."""
    home = tmp_path / "checkout"
    (home / "covidnet/base").mkdir(parents=True)
    (home / "covidnet" / "base" / "provenance.py").write_text("1\n")
    git(home.parent, "init", "-q", str(home))
    git(home, "add", ".")
    git(home, "commit", "-q", "-m", "first")
    git(home, "tag", "-a", "v1", "-m", "a tag")
    monkeypatch.setattr(provenance, "__file__", str(home / "covidnet" / "base" / "provenance.py"))
    return home


def test_versions_machine_and_command_are_told_and_fit_into_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "fold=3"])
    facts = json.loads(json.dumps(environment()))
    assert set(facts) == {"python", "platform", "versions", "git_revision", "cores", "threads", "gpu", "command"}
    assert facts["python"] == platform.python_version()
    assert facts["command"] == ["train.py", "fold=3"]
    assert facts["cores"] >= 1
    for name in ("torch", "torchvision", "pytorch-lightning", "numpy", "albumentations", "opencv-python-headless"):
        assert facts["versions"][name] == version(name), name


def test_every_dependency_of_the_package_is_told() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=\[ ]", text)[0] for text in project["dependencies"]}
    # What draws, logs, waits, limits threads or paints a bar has no part in a number.
    silent = {"filelock", "jinja2", "joblib", "lazy_loader", "matplotlib", "rich", "threadpoolctl", "wandb"}
    assert needed - set(environment()["versions"]) <= silent


def test_a_package_that_is_not_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("torch", "no-such-package-of-ours"))
    assert environment()["versions"] == {"torch": version("torch"), "no-such-package-of-ours": None}


def test_the_revision_is_that_of_the_commit_and_says_where_files_differ(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert environment()["git_revision"] == head
    assert len(head) == 40
    (checkout / "covidnet" / "base" / "provenance.py").write_text("2\n")
    assert environment()["git_revision"] == f"{head}-dirty"


def test_an_installed_package_in_the_repository_of_somebody_else_has_no_revision(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = checkout / "venv" / "covidnet" / "base"
    inside.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(inside / "provenance.py"))
    assert environment()["git_revision"] is None


@pytest.mark.usefixtures("checkout")
def test_without_git_there_is_no_revision_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["git_revision"] is None


def test_a_repository_that_git_refuses_has_no_revision_and_no_error(checkout: Path) -> None:
    (checkout / ".git" / "HEAD").write_text("damaged\n")
    assert environment()["git_revision"] is None
