"""Files that came from elsewhere run no code, and are read within bounds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from covidnet.base.errors import DataError, SettingError
from covidnet.base.trust import MAX_YAML_BYTES, check_classes, check_links, read_yaml
from covidnet.fold.resume import resumed_arguments
from covidnet.launch.command import RUN_AGAIN, FileConfigSource, compose
from tests.commands import command

EVIL = {"_target_": "pandas.read_pickle", "filepath_or_buffer": "x.pkl"}


def settings(*overrides: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(compose(overrides), resolve=True)
    return found


def test_what_the_configuration_ships_is_allowed() -> None:
    for logger in ("csv", "wandb", "tensorboard", "many", "none"):
        check_classes(settings(f"logger={logger}"))


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.SGD", "torch.optim.lr_scheduler.StepLR", "torch.nn.Dropout", "torchmetrics.MeanMetric",
        "albumentations.HorizontalFlip", "pytorch_lightning.callbacks.StochasticWeightAveraging",
        "covidnet.callbacks.gradcam_panels.GradCamPanels",
    ],
)  # fmt: skip
def test_classes_of_the_right_kind_are_allowed(target: str) -> None:
    check_classes({"callbacks": {"one": {"_target_": target}}})


@pytest.mark.parametrize(
    "target",
    [
        "pandas.read_pickle", "torch.load", "torch.hub.load", "albumentations.load", "albumentations.from_dict",
        "pytorch_lightning.callbacks.os.system", "torch.optim.optimizer.functools.partial",
        "covidnet.base.trust.read_yaml",
        "covidnet.learning.module.ClassificationModule", "covidnet.learning.module.torch.load", "torch.nn",
        "builtins.eval", "pytorch_lightning.loggers.MLFlowLogger", "hydra.utils.get_method", "torch.optim.nowhere", "",
        None, 3, ["x"], EVIL,
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_anything_else_is_refused_wherever_it_stands(target: Any, nested: bool) -> None:
    node: Any = {"_target_": target}
    if nested:
        node = {"_target_": "torch.nn.Dropout", "p": [{"deep": node}]}
    with pytest.raises(SettingError, match=r"_target_=.*trust=\["):
        check_classes({"callbacks": {"one": node}})


def test_trust_names_further_packages() -> None:
    given = {"callbacks": {"one": {"_target_": "mine.models.Watch"}}}
    check_classes(given, ["mine"])
    check_classes(given, "mine.models")
    with pytest.raises(SettingError, match=r"trust=\[mine\]"):
        check_classes(given, ["min", "mine.model"])


def test_an_interpolation_that_hydra_would_resolve_later_is_refused() -> None:
    with pytest.raises(SettingError, match=r"without \$\{"):
        check_classes({"callbacks": {"one": {"_target_": "torch.nn.Dropout", "p": "${oc.create:${evil}}"}}})


def test_a_run_checks_its_classes_before_anything_else(tmp_path: Path) -> None:
    from covidnet.fold.run import FoldRun

    given = settings("resume=x")
    given["callbacks"]["evil"] = EVIL
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(SettingError, match="pandas"):
        FoldRun(given, tmp_path).run()


def run_folder(folder: Path, **changes: Any) -> Path:
    """A config.yaml as a run writes it, with changes."""
    from covidnet.fold.folder import RunFolder

    folder.mkdir(exist_ok=True)
    RunFolder(folder, settings("trust=[mine]"), prepared=None).write_settings()  # type: ignore[arg-type]
    content = yaml.safe_load((folder / "config.yaml").read_text())
    assert content["trust"] == []
    (folder / "config.yaml").write_text(yaml.safe_dump({**content, **changes}))
    return folder


def load(folder: Path, name: str = "config") -> Any:
    return FileConfigSource("main", str(folder)).load_config(name).config


def test_the_configuration_of_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    assert load(run_folder(tmp_path)).fold == 0


@pytest.mark.parametrize(
    "change",
    [
        {"hydra": {**RUN_AGAIN["hydra"], "callbacks": {"evil": EVIL}}},
        {"hydra": {"searchpath": ["pkg://evil"]}},
        {"hydra": {"job_logging": {"handlers": {"x": {"()": "os.system", "command": "true"}}}}},
        {"hydra": None},
        {"defaults": [{"override hydra/job_logging": "evil"}]},
        {"defaults": [{"model@hydra.callbacks": "evil"}]},
        {"defaults": [{"model@${where}": "evil"}]},
        {"trust": ["pandas"]},
    ],
)
def test_a_folder_changes_nothing_in_hydra(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.yaml: sets (hydra|trust); give .* on the command line"):
        load(run_folder(tmp_path, **change))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("hydra/job_logging/plain.yaml", "version: 1"),
        ("experiment/mine.yaml", "# @package hydra.callbacks\nevil: {}"),
        ("experiment/hydra.yaml", "# @package _name_\ncallbacks: {}"),
        ("experiment/mine.yaml", "# @package _global_\nhydra: {callbacks: {}}"),
    ],
)
def test_no_file_of_a_folder_reaches_hydra_by_its_place(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match="sets hydra"):
        load(tmp_path, file.removesuffix(".yaml"))


@pytest.mark.slow
def test_commands_run_nothing_that_a_folder_names(tmp_path: Path) -> None:
    """Through Hydra itself, with a logging handler that would make a file, and a callback that would read a pickle."""
    handler = {"()": "pathlib.Path.touch", "self": str(tmp_path / "ran")}
    folder = run_folder(tmp_path / "run", hydra={"job_logging": {"version": 1, "handlers": {"x": handler}}})
    for name in ("covidnet.predict", "covidnet.train"):
        done = command(name, "--config-dir", str(folder), "--config-name", "config", cwd=tmp_path)
        assert done.returncode != 0
    assert "sets hydra" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    folder = run_folder(tmp_path / "other", callbacks={"evil": EVIL})
    done = command("covidnet.train", "--config-dir", str(folder), "--config-name", "config", cwd=tmp_path)
    assert done.returncode != 0
    assert "callbacks.evil._target_=pandas.read_pickle" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists()


def resumable(folder: Path, task: list[str], hydra: list[str] | None = None) -> str:
    """A folder with the command line of a run, or of a sweep where Hydra's settings are given."""
    content = {"hydra": {"overrides": {"task": task, "hydra": hydra or []}, "runtime": {"cwd": str(folder)}}}
    file = folder / ("multirun.yaml" if hydra is not None else ".hydra/hydra.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    if hydra is None:
        (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(task))
    return f"resume={folder}"


@pytest.mark.parametrize(
    "word",
    [
        "+callbacks.evil._target_=pandas.read_pickle", "++fold=3", "hydra.job_logging.version=1", "hydra/launcher=evil",
        "optim@hydra.callbacks=adam", "hydra.launcher.setup=[touch x]", "hydra.launcher.partition='a\nb'",
        "trust.0=pandas", "~trust", "hydra.sweeper.storage=sqlite:///x", "--config-dir=x", "-m",
        "hydra.sweep.subdir=../../x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("sweep", [False, True])
def test_the_command_line_in_a_folder_adds_nothing(word: str, sweep: bool, tmp_path: Path) -> None:
    with pytest.raises((SettingError, DataError), match="resume="):
        resumed_arguments([resumable(tmp_path, ["fold=3"] if sweep else [word], [word] if sweep else None)])


def test_what_is_said_again_and_harmless_settings_of_hydra_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = ["fold=range(0,10)", "seed=1,2", "trust=[pandas]"]
    former = ["hydra/launcher=joblib"]  # as an older version wrote it
    ours = ["hydra/launcher=local", "hydra.launcher.n_jobs=2", "hydra.sweep.subdir='fold=${fold},seed=${seed}'"]
    got = resumed_arguments([resumable(tmp_path, plain, [*former, *ours[1:], "hydra.mode=MULTIRUN"])])
    assert got[:5] == ["-m", *plain[:2], *ours[:2]]
    again = ["hydra.launcher.partition=gpu", "+trainer.gradient_clip_val=1", "trust=[mine]"]
    got = resumed_arguments([resumable(tmp_path, [*plain, again[1]], [*ours, again[0]]), *again])
    assert got[3:-2] == [*ours[:2], *again]
    # All of them in one error, as they are to be typed.
    with pytest.raises(SettingError, match=rf"repeat them: resume={tmp_path} {re.escape(' '.join(again[1::-1]))}$"):
        resumed_arguments([resumable(tmp_path, [*plain, again[1]], [*ours, again[0]])])


@pytest.mark.parametrize("text", ["", "hydra: 3", "hydra: {overrides: []}", "[1, 2]", "a: *b", "{"])
def test_a_malformed_command_line_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text(text)
    with pytest.raises(DataError, match=r"multirun\.yaml: "):
        resumed_arguments([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: &a [*a]",
        "[" * 200 + "]" * 200,
        "a: 1\n" + "# \n" * MAX_YAML_BYTES,
        "a: [1",
        "a: \x00",
    ],
    ids=["aliases", "endless", "deep", "large", "cut", "control"],
)
def test_a_yaml_file_that_expands_or_is_damaged_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml: ") as refused:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_nothing_is_imported_from_the_working_folder(tmp_path: Path) -> None:
    """``python -m`` puts it on the path; its own process, since one that has loaded Hydra would not import it again."""
    (tmp_path / "hydra_plugins").mkdir()
    for name in ("omegaconf.py", "hydra_plugins/evil.py"):
        (tmp_path / name).write_text("raise SystemExit('ran')")
    done = subprocess.run(
        [sys.executable, "-m", "covidnet.predict", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_links_that_lead_out_of_a_folder_are_named(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    (run / "checkpoints").mkdir(parents=True)
    other.mkdir()
    (run / "inside").symlink_to("checkpoints")
    check_links(run)
    (tmp_path / "itself").symlink_to(run)
    check_links(tmp_path / "itself")
    log = run / "wandb/offline-run-20261128_232237-e22ed964/logs/debug-core.log"
    log.parent.mkdir(parents=True)
    log.symlink_to(other / "core-debug.log")
    check_links(run)
    (run / "checkpoints/best.ckpt").symlink_to(other / "thesis.pdf")
    with pytest.raises(DataError, match=r"best\.ckpt: a link that leads out"):
        check_links(run)
    (run / "checkpoints/best.ckpt").unlink()
    (run / "report").symlink_to(other)
    with pytest.raises(DataError, match="report: a link"):
        check_links(tmp_path / "itself")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "link"),
    [
        (["hydra.run.dir={}"], "train.log"),
        (["hydra.run.dir={}"], ".hydra/config.yaml"),
        (["-m", "fold=0,1", "hydra.sweep.dir={}"], "multirun.yaml"),
        (["-m", "fold=0,1", "hydra.sweep.dir={}"], "fold=0"),
    ],
)
def test_hydra_writes_through_no_link_in_a_folder_either(words: list[str], link: str, tmp_path: Path) -> None:
    """Its log, its ``.hydra/`` and ``multirun.yaml`` are written before a run begins."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    entry = tmp_path / "given" / link
    entry.parent.mkdir(parents=True)
    entry.symlink_to(other if link == "fold=0" else other / "thesis.tex")
    done = command("covidnet.train", *(word.format(tmp_path / "given") for word in words), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {entry}: a link that leads out")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    assert (other / "thesis.tex").read_text() == "mine"
