"""Runs that were stopped at any moment and gone on with give the same numbers, bit for bit."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from covidnet.base.errors import CovidnetError, SettingError, WeightsError
from covidnet.callbacks.curves import curves_so_far, restore_curves
from covidnet.callbacks.resume_point import ResumePoint
from covidnet.fold.resume import Resumption, Terminated, resumed_arguments, termination
from tests.commands import FORKED
from tests.commands import command as run
from tests.refusals import refused

Train = Callable[..., Path]

SMALL = (
    "data.images_per_class=33", "data.phantom_size=96", "data.image_size=32", "trainer.accelerator=cpu", "explain=off",
    "progress=false", "fold=3",
)  # fmt: skip
# A head on kept features.
FROZEN = ("model=torchvision", "model.backbone=squeezenet1_1", "data.image_size=64", "features.engine=torch")
# Trained whole, with a plateau in almost every epoch, so that optimiser and schedule have much to forget.
WHOLE = (*SMALL, "model=cnn", "trainer.max_epochs=6", "optim.plateau_patience=0", "optim.lr=0.01")
KINDS = {
    "whole": WHOLE,
    "online": (*WHOLE, "augment=online", "model.dropout=0.5", "data.batch_size=16", "data.num_workers=1"),
    "head": (
        *SMALL,
        *FROZEN,
        "trainer.max_epochs=20",
        "callbacks.early_stopping.patience=20",
        "model.dropout=0.5",
    ),
}


def _run(folder: str, overrides: tuple[str, ...], resume: bool) -> None:
    """One run in a process of its own."""
    # Loaders start their workers as in any other process, not as this one was started.
    multiprocessing.set_start_method("fork", force=True)
    import warnings

    import torch
    from omegaconf import OmegaConf

    from covidnet.fold.run import FoldRun
    from covidnet.launch.command import compose

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        cfg = compose([*overrides, f"resume='{folder}'" if resume else "resume=null"])
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        FoldRun(settings, Path(folder)).run()


@pytest.fixture(scope="module")
def start() -> Callable[..., multiprocessing.process.BaseProcess]:
    def begin(folder: Path, overrides: tuple[str, ...], resume: bool = False) -> multiprocessing.process.BaseProcess:
        folder.mkdir(parents=True, exist_ok=True)
        process = FORKED.Process(target=_run, args=(str(folder), overrides, resume))
        process.start()
        return process

    return begin


def same(one: Path, other: Path) -> None:
    """That two runs came to the same, to the last bit."""
    assert (one / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    told = [json.loads((folder / "metrics.json").read_text())["splits"] for folder in (one, other)]
    assert told[0] == told[1]
    assert (one / "curves/metrics.csv").read_text() == (other / "curves/metrics.csv").read_text()
    states = [torch.load(f / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for f in (one, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_runs_killed_at_random_moments_and_resumed_are_bit_equal(
    kind: str, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """Three kills of each kind, nine in all, by SIGTERM and SIGKILL in turn, each chain to its end.

    After each kill the run folder is moved.
    """
    plain, length = tmp_path / "plain", 0.0
    # The first draws images, fills the feature store and warms the server of processes; the second tells the time.
    for folder, words in ((tmp_path / "first", (*KINDS[kind], "trainer.max_epochs=1")), (plain, KINDS[kind])):
        begun = time.monotonic()
        first = start(folder, words)
        first.join()
        assert first.exitcode == 0
        length = time.monotonic() - begun
    moments = random.Random(sum(map(ord, kind)))
    stopped, chain = 0, 0
    while stopped < 3:
        chain += 1
        assert chain < 20, "the runs end before they can be stopped"
        folder = tmp_path / f"chain{chain}"
        process = start(folder, KINDS[kind])
        for _ in range(3 - stopped):
            time.sleep(moments.uniform(0.0, length))
            number = signal.SIGKILL if stopped % 2 else signal.SIGTERM
            if process.is_alive():
                os.kill(process.pid, number)
            process.join(60)
            if process.exitcode == 0:
                length *= 0.8  # the machine is less busy than when the time was taken
                break
            # Before the run begins SIGTERM ends the process as the system does.
            assert process.exitcode in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
            stopped += 1
            folder = folder.rename(folder.with_name(f"{folder.name}+"))
            process = start(folder, KINDS[kind], True)
        process.join(120)
        assert process.exitcode == 0
        same(plain, folder)
        assert not (folder / "checkpoints/resume.ckpt").exists()


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_also_where_none_was_due(tmp_path: Path, start: Callable[..., Any]) -> None:
    """A head's checkpoints wait in memory for half a minute; this one is stopped after seconds."""
    folder = tmp_path / "run"
    process = start(folder, (*SMALL, *FROZEN, "trainer.max_epochs=100000", "callbacks.early_stopping.patience=100000"))
    # Written at the start of each epoch, with the rows of those before.
    log = folder / "curves/metrics.csv"
    waited = time.monotonic() + 120
    while (not log.exists() or log.read_text().count("\n") < 10) and time.monotonic() < waited:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM
    point = folder / "checkpoints/resume.ckpt"
    epoch, curves = ResumePoint.read(point)
    assert epoch > 0
    assert len(curves.splitlines()) > 2 * epoch
    assert (folder / "checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize("error", [SystemExit, SystemExit(0), RuntimeError("taken down"), KeyboardInterrupt])
def test_whatever_a_stopped_run_ends_with_its_exit_code_is_that_of_sigterm(error: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        # As in a destructor, which swallows what a signal's handler raises.
        with contextlib.suppress(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        raise error

    with pytest.raises(SystemExit) as ended, termination():
        work()
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(RuntimeError, match="its own"), termination():
        raise RuntimeError("its own")


@pytest.fixture(scope="module")
def finished(train: Train) -> Path:
    return train(*WHOLE, "trainer.max_epochs=1", defaults=())


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    folder = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    from omegaconf import OmegaConf

    from covidnet.fold.run import FoldRun
    from covidnet.launch.command import compose

    settings: Any = OmegaConf.to_container(compose([*WHOLE, "trainer.max_epochs=1", f"resume={folder}"]), resolve=True)
    assert FoldRun(settings, folder).run() is None
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optim.lr=0.02", "optim.lr was 0.01, now 0.02"),
        ("seed=1", "seed was 0, now 1"),
        ("fold=4", "fold was 3, now 4"),
        ("data.images_per_class=22", "data.images_per_class was 33, now 22"),
        ("model.weights_seed=1", "model.weights_seed was 0, now 1"),
    ],
)
def test_other_settings_are_refused_by_name(change: str, words: str, train: Train, stopped: Path) -> None:
    with pytest.raises(SettingError, match=words):
        resume(stopped, change)


@pytest.mark.parametrize("name", ["manifest_sha256", "split_sha256", "weights_sha256"])
def test_other_data_folds_and_weights_are_refused_by_name(name: str, stopped: Path) -> None:
    record = json.loads((stopped / "run.json").read_text())
    (stopped / "run.json").write_text(json.dumps({**record, name: "0" * 64}))
    try:
        with pytest.raises(SettingError, match=f"{name} was 0000"):
            resume(stopped)
    finally:
        (stopped / "run.json").write_text(json.dumps(record))


def test_a_run_that_was_moved_counts_as_a_run_of_its_own(stopped: Path, tmp_path: Path) -> None:
    """It may be a copy."""
    record = json.loads((stopped / "run.json").read_text())
    for folder, same_run in ((stopped, True), (tmp_path, False)):
        (folder / "run.json").write_text(json.dumps(record))
        settings = {**settings_of(stopped), "resume": str(folder)}
        resumption = Resumption(folder, settings)
        resumption.begin({**record, "folder": str(folder.resolve())})
        assert (resumption.run_id == record["run_id"]) is same_run
        assert json.loads((folder / "run.json").read_text())["run_id"] == resumption.run_id


def test_what_does_not_change_numbers_may_change(stopped: Path) -> None:
    Resumption(stopped, {**settings_of(stopped), "progress": True, "strict": True, "resume": "x"}).check_settings()


def test_a_damaged_resume_point_is_named(stopped: Path) -> None:
    point = stopped / "checkpoints/resume.ckpt"
    whole = point.read_bytes()
    point.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(WeightsError, match=r"resume\.ckpt: not a resume point .*delete it"):
            resume(stopped)
    finally:
        point.write_bytes(whole)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Any]) -> Path:
    """A run folder with a resume point and no end."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    process = start(folder, (*WHOLE, "trainer.max_epochs=200", "callbacks.early_stopping.patience=200"))
    waited = time.monotonic() + 60
    while not (folder / "checkpoints/resume.ckpt").exists() and time.monotonic() < waited:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (folder / "checkpoints/resume.ckpt").exists()
    return folder


def settings_of(folder: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    return found


def resume(folder: Path, *changes: str) -> None:
    from omegaconf import OmegaConf

    from covidnet.fold.run import FoldRun
    from covidnet.launch.command import compose

    overrides = [*WHOLE, "trainer.max_epochs=200", "callbacks.early_stopping.patience=200"]
    settings: Any = OmegaConf.to_container(compose([*overrides, *changes, f"resume='{folder}'"]), resolve=True)
    FoldRun(settings, folder).run()


def test_curves_are_those_of_a_logger_that_was_not_stopped(tmp_path: Path) -> None:
    def logger(name: str) -> CSVLogger:
        return CSVLogger(tmp_path, name="", version=name)

    def told(one: CSVLogger, epochs: range) -> None:
        for epoch in epochs:
            one.log_metrics({"lr": 0.1}, 4 * epoch)
            one.log_metrics({"train/loss": 0.3 / (epoch + 1), "epoch": epoch}, 4 * epoch + 3)

    whole, first, second = logger("whole"), logger("first"), logger("second")
    assert curves_so_far([first]) == ""
    assert curves_so_far([]) == ""
    told(whole, range(4))
    told(first, range(2))
    restore_curves(curves_so_far([first]), [second])
    told(second, range(2, 4))
    assert curves_so_far([second]) == curves_so_far([whole])


def test_the_command_line_of_a_run_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, folder = tmp_path / "start", tmp_path / "my run"
    (folder / ".hydra").mkdir(parents=True)
    start.mkdir()
    (folder / ".hydra/overrides.yaml").write_text("- fold=3\n")
    (folder / ".hydra/hydra.yaml").write_text(
        f"hydra:\n  runtime:\n    cwd: {start}\n  overrides:\n    hydra: []\n    task: [fold=3, data.film_size=96]\n"
    )
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for other in ("optim.lr=0.5", "fold=4", "model=cnn", "trainer.max_epochs=9"):
        with refused(*other.split("="), "what resume=my run began with"):
            resumed_arguments(["resume=my run", other])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "fold=3" in resumed_arguments([f"resume={folder}", "fold=3", "logger=none"])
    monkeypatch.chdir(tmp_path)
    got = resumed_arguments(["resume=my run", "progress=false"])
    assert got == [
        "fold=3", "data.phantom_size=96", "progress=false", f"hydra.run.dir='{folder}'", f"resume='{folder}'",
    ]  # fmt: skip
    assert Path.cwd() == start
    assert resumed_arguments(["fold=3", "resume=null"]) == ["fold=3", "resume=null"]


def test_paths_and_the_config_of_a_run_are_put_as_hydra_reads_them(tmp_path: Path) -> None:
    from covidnet.launch.command import config_dir
    from covidnet.train import _arguments

    assert _arguments(["data.root=my images [2]", "fold=3"]) == ["data.root='my images [2]'", "fold=3"]
    assert _arguments(["seed=1", "-m", "fold=0,1"]) == ["-m", "seed=1", "fold=0,1"]
    (tmp_path / "config.yaml").write_text("fold: 3\n")
    expected = ["--config-path", str(tmp_path), "--config-dir", str(config_dir()), "fold=4"]
    assert _arguments(["--config-dir", str(tmp_path), "fold=4"]) == expected
    assert _arguments([f"--config-dir={tmp_path}", "fold=4"]) == expected
    assert _arguments(["-cd", str(tmp_path / "other")]) == ["-cd", str(tmp_path / "other")]


def test_an_empty_resume_is_no_new_run() -> None:
    for empty in ("resume=", "resume=''"):
        with pytest.raises(SettingError, match=r"resume=.*say resume=DIR"):
            resumed_arguments([empty])


def test_a_search_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "trial=0").mkdir()
    with pytest.raises(SettingError, match="a search for hyperparameters cannot be resumed; start it again"):
        resumed_arguments([f"resume={tmp_path}"])


@pytest.mark.parametrize("left", ["train.log", ".hydra/config.yaml"])
def test_a_run_that_was_stopped_before_its_settings_were_written_is_started_again(left: str, tmp_path: Path) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(SettingError, match="stopped before it wrote its settings; give its first command again"):
        resumed_arguments([f"resume={tmp_path}"])


@pytest.mark.parametrize("given", ["nowhere", "plain", "file"])
def test_a_folder_that_cannot_be_gone_on_with_is_named(given: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CovidnetError, match=f"resume=.*{given}: must be a folder that covidnet.train has written"):
        resumed_arguments([f"resume={tmp_path / given}"])


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("covidnet.train", *arguments, cwd=cwd, timeout=300)


@pytest.mark.slow
def test_a_sweep_skips_finished_folds_and_goes_on_with_the_others(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    settings = [word for word in WHOLE if not word.startswith(("fold=", "trainer.max_epochs"))]
    arguments = ["-m", "fold=0,1", *settings, "trainer.max_epochs=1", f"hydra.sweep.dir={sweep}"]
    assert command(*arguments, cwd=tmp_path).returncode == 0
    finished, broken = sweep / "fold=0", sweep / "fold=1"
    expected = (broken / "predictions.csv").read_bytes()
    before = {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.suffix in (".csv", ".json", ".ckpt")
    }
    for name in ("metrics.json", "predictions.csv"):
        (broken / name).unlink()
    done = command(f"resume={sweep}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fold 0 is finished already" in done.stderr
    assert (broken / "predictions.csv").read_bytes() == expected
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (sweep / "report/report.html").is_file()


@pytest.mark.slow
def test_a_run_is_repeated_from_its_own_config(finished: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(finished, first)
    # As an older version wrote it.
    config = (first / "config.yaml").read_text().replace("phantom_size", "film_size").replace("_images:", "_films:")
    config = config.replace("covidnet.sweep.ending.", "covidnet.sweep_report.")
    (first / "config.yaml").write_text(config)
    again = command("--config-dir", str(first), "--config-name", "config", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (second,) = (tmp_path / "outputs").glob("*/*/fold=3")
    assert (second / "predictions.csv").read_bytes() == (first / "predictions.csv").read_bytes()
    assert (second / "train.log").is_file()
    assert second.parent.name.count("-") == 3
