"""The configuration: it composes, its errors are one line, and help is quick because nothing heavy is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from covidnet.cli import COMMANDS
from covidnet.launch.command import compose, config_dir, subfolders
from covidnet.serving.web.limits import WebLimits
from tests.commands import command

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


def test_defaults_are_those_of_the_contract() -> None:
    cfg = compose()
    assert cfg.fold == 0
    assert cfg.seed == 0
    assert cfg.data.name == "phantom"
    assert cfg.data.images_per_class == 572
    assert cfg.split.group == "patient+copies"
    assert cfg.split.validation == "inner"
    assert cfg.augment.target_per_class == 1070
    assert cfg.model.freeze is True


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_is_headed_by_its_command(experiment: str) -> None:
    cfg = compose([f"experiment={experiment}"])
    assert OmegaConf.to_container(cfg, resolve=True)
    text = (config_dir() / "experiment" / f"{experiment}.yaml").read_text()
    assert "python -m covidnet.train" in text.splitlines()[1]
    assert f"experiment={experiment}" in text.splitlines()[1]


def test_monitor_is_written_once() -> None:
    cfg = compose(["monitor=train/loss"])
    assert cfg.callbacks.best.monitor == cfg.callbacks.early_stopping.monitor == "train/loss"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("fold=11", "fold=11: must be 0 to 9"),
        ("fold=-1", "fold=-1: must be 0 to 9"),
        ("fold=three", "fold=three: must be 0 to 9"),
        ("fodl=3", "fodl=3: no such setting; did you mean fold?"),
        ("+losses=focal", "losses=focal: no such setting"),
        ("data=kagle", "data=kagle: must be one of folder, kaggle, phantom; did you mean kaggle?"),
        ("data.root=DIR", "data.root=DIR: data=phantom does not use it; data=folder and data=kaggle do"),
        ("data=folder", "data.root=null"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: must be"),
        ("data.images_per_class=5", "data.images_per_class=5"),
        ("features=sometimes", "features=sometimes: must be one of auto, off"),
    ],
)
def test_a_slip_on_the_command_line_is_one_line_and_a_failure(tmp_path: Path, override: str, words: str) -> None:
    done = command("covidnet.train", override, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode != 0
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = command("covidnet.train", "fold=11", "debug=true", cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


HELP = {
    "crossval": ["sweep_dir"],
    "evaluate": ["checkpoint=RUN|SWEEP"],
    "explain": ["relative to the input folder", "without lesion/", "all-black mask", "of the class drawn"],
    "app": [
        "curl --data-binary", "Research use only; not a medical device.", "host: 127.0.0.1", "port: 8000",
        *(f" {name}: " for name in ("checkpoint", "hosts", "users", "token", "certificate", "key", "proxies")),
        *(f" {name}: " for name in WebLimits.__dataclass_fields__),
    ],
}  # fmt: skip


# Each in an interpreter of its own: one command that trains and one that reads tables stand for the others.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("train", "crossval"))) for name in COMMANDS]
)
def test_help_names_the_settings_and_imports_nothing_heavy(tmp_path: Path, name: str) -> None:
    """Within two seconds on a quiet machine, which is a matter of what is imported."""
    heavy = {"torch", "torchvision", "pytorch_lightning", "cv2", *(() if name == "crossval" else ("pandas", "scipy"))}
    code = (
        f"import sys; sys.argv = ['x', '--help']; import runpy\n"
        f"try: runpy.run_module('covidnet.{name}', run_name='__main__')\n"
        f"finally: print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
    said = " " + " ".join(done.stdout.split())
    for words in (f"python -m covidnet.{name}", *HELP.get(name, ())):
        assert words in said
    if name in ("train", "prepare"):
        assert re.search(r"^  images_per_class: 572 +# Phantoms of each class$", done.stdout, re.M)
        assert re.search(r"^  copies: near +# .*\(near, bytes, off\)$", done.stdout, re.M)
        assert "cache_dir: ${oc.env:COVIDNET_CACHE," in done.stdout
        assert "data: folder, kaggle, phantom" in done.stdout
        assert ("model: anomaly_resnet, " in done.stdout) is (name == "train")  # prepare has no such group


def test_two_runs_of_one_second_have_folders_of_their_own() -> None:
    folders = set()
    for _ in range(2):
        cfg = compose()
        # The interpolations of Hydra's own node are resolved with a fixed clock.
        node = OmegaConf.create({"a": "${token:}", "b": "${token:}"})
        assert node.a == node.b
        folders.add(node.a)
        assert cfg.cache_dir
    assert len(folders) == 2
    text = (config_dir() / "config.yaml").read_text()
    assert text.count("${token:}") == 2


@pytest.mark.parametrize(
    ("arguments", "subfolder"),
    [
        (["fold=3"], None),
        (["-m", "fold=range(0,10)", "seed=1"], None),
        (["-m", "fold=range(0,10)", "hydra.sweep.subdir=x", "seed=1,2"], None),
        (["--multirun", "fold=0,1", "seed=1,2"], "fold=${fold},seed=${seed}"),
        (["-m", "fold=0,1", "model=cnn,resnet8"], "fold=${fold},model=${hydra:runtime.choices.model}"),
        (["seed=0", "optim.lr=1e-3,1e-4", "-m"], "fold=${fold},optim.lr=${optim.lr}"),
    ],
)
def test_jobs_of_a_sweep_are_told_apart_by_all_that_it_varies(arguments: list[str], subfolder: str | None) -> None:
    expected = [] if subfolder is None else [f"hydra.sweep.subdir='{subfolder}'"]
    assert subfolders(arguments) == expected


def test_experiments_of_the_tables_differ_from_strict_in_what_they_are_about() -> None:
    strict, without, cnn, narin, paper = (
        compose([f"experiment={name}"]) for name in ("strict", "no_augmentation", "cnn", "narin", "paper")
    )
    assert (strict.split.group, strict.split.validation, strict.selection) == ("patient+copies", "inner", "inner")
    assert (paper.split.group, paper.split.validation, paper.selection) == ("image", "test", "paper")
    assert {cfg.data.name for cfg in (strict, without, cnn, narin, paper)} == {"kaggle"}
    assert (without.augment.mode, strict.augment.mode) == ("none", "fixed")
    assert (without.model, without.split) == (strict.model, strict.split)
    assert (cnn.model.name, cnn.model.freeze, cnn.split) == ("cnn", False, strict.split)
    assert (narin.model.name, narin.model.weights, narin.split) == ("resnet50", "imagenet", strict.split)
