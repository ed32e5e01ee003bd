"""Every benchmark runs at a tiny size: what it prints is nobody's test, but that it prints is."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.phantoms.phantom import draw_image
from tests.commands import Forked, command
from tests.conftest import PROJECT

pytestmark = pytest.mark.filterwarnings("ignore")
run_process, Process = subprocess.run, subprocess.Popen

QUICK = ["data.images_per_class=11", "data.image_size=32", "data.phantom_size=96", "trainer.max_epochs=1",
         "trainer.accelerator=cpu", "explain=off", "model=torchvision", "model.backbone=squeezenet1_1",
         "model.weights=random", "features.engine=torch", "split.copies=bytes"]  # fmt: skip

FEATURES = ["model=torchvision", "model.backbone=squeezenet1_1", "data.phantom_size=96", "split.copies=bytes",
            "--images", "33", "--rounds", "1", "--side", "32", "--products", "1", "--head", "32", "--epochs", "2",
            "--folds", "1", "--fills", "8"]  # fmt: skip

SCALING = ["trainer.max_epochs=1", "explain=off", "features.engine=torch", "split.copies=bytes"]

SIDES = ["--sides", "96", "96", "128", "128"]

TINY = {
    "audit": ["--clean", "1", "--planted", "1", "--per-class", "11", "--faults", "1"],
    "coverage": ["--studies", "2", "--patients", "4", "--images", "1"],
    "dicom": ["checkpoint={run}", "--images", "2", "--side", "256"],
    "explain": ["--rounds", "1", "--side", "64"],
    "features": FEATURES,
    "fold": QUICK,
    "gate": ["--phantoms", "18", "--per-kind", "1", "--parts", "3", "--side", "32"],
    "overlap": ["{images}", "--phantoms", "6"],
    "reading": ["--images", "2", "--sides", "96", "--rounds", "1"],
    "scaling": ["fold=0", *SCALING, "--images", "150"],
    "serving": ["checkpoint={run}", "--clients", "1", "--requests", "3", "--bad-side", "256", *SIDES],
    "sweep": ["fold=0", "seed=0", *QUICK],
}
"""The arguments of each script."""

SLOW = {"audit", "dicom", "explain", "features", "fold", "gate", "overlap", "scaling", "serving", "sweep"}
"""They start commands, or use a whole network many times."""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", PROJECT / f"benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for n in range(6):
        place = root / CLASSES[n % 3] / f"person{n}_virus_1.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(draw_image(CLASSES[n % 3], 7000 + n, 0, size=96).image).save(place)
    return root


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("fold=3", "model=cnn", "explain=off", "trainer.max_epochs=1")


def test_every_benchmark_is_named_here() -> None:
    assert {path.stem for path in (PROJECT / "benchmarks").glob("*.py")} == set(TINY)


@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_uses_public_names_alone(name: str) -> None:
    tree = ast.parse((PROJECT / f"benchmarks/{name}.py").read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            used |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    private = {word for word in used - own if word.startswith("_") and not word.endswith("__")}
    assert not private


def quicker(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, with the imports of our commands made once: no test reads how long they take."""
    if words[:2] == [sys.executable, "-m"] and words[2].startswith("covidnet."):
        return command(*words[2:], cwd=Path.cwd())
    if words == [sys.executable, "-c", "import pytorch_lightning"]:
        words[2] = ""
    return run_process(words, **options)


def begun_quicker(words: list[str], **options: Any) -> Any:
    """As `subprocess.Popen`, in the same way."""
    if words[:2] == [sys.executable, "-m"] and words[2] in ("covidnet.app", "covidnet.train"):
        return Forked(*words[2:], cwd=Path.cwd(), env=options["env"])
    return Process(words, **options)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TINY])
def test_a_benchmark_runs_at_a_tiny_size(
    name: str, images: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = TINY[name]
    given = {"images": images, "run": request.getfixturevalue("run") if "{run}" in " ".join(words) else ""}
    monkeypatch.setattr(sys, "argv", [name, *(word.format(**given) for word in words)])
    monkeypatch.setattr(subprocess, "run", quicker)
    monkeypatch.setattr(subprocess, "Popen", begun_quicker)
    module = load(name)
    if name == "scaling":
        whole = module.run

        def run(command: str, *words: str) -> tuple[float, float, float]:
            """As `quicker`; what is measured is the help, in a process of its own."""
            done = quicker([sys.executable, "-m", f"covidnet.{command}", *words])
            assert done.returncode == 0, done.stderr
            return whole(command, "--help") if command == "crossval" else (1.0, 1.0, 1.0)

        monkeypatch.setattr(module, "run", run)
    if name == "features":
        monkeypatch.setattr(module, "peak_memory", lambda images: module.fill_small(images) or module.own_peak())
    module.main()
    assert any(character.isdigit() for character in capsys.readouterr().out)
