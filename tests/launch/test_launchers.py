"""Sweeps on other engines: the same numbers, one line for what cannot be, and jobs that share one cache."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import load_file

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.reading.images import read_image
from covidnet.launch.command import compose, config_dir
from covidnet.launch.launchers import ALONE, JOBS, check_search, check_sweep, engines_of, settle, share_out, swept
from covidnet.learning.module import ClassificationModule
from tests.commands import Forked, begun, command
from tests.slurm.cluster import cluster, missing

# A run in a moment, were it not for the seconds that the imports take.
TINY = (
    "data.images_per_class=33", "data.image_size=32", "data.phantom_size=96", "data.num_workers=1", "model=cnn",
    "augment=none", "trainer.max_epochs=2", "trainer.accelerator=cpu", "explain=off",
)  # fmt: skip
SLURM = (
    "hydra/launcher=slurm", "hydra.launcher.partition=test", "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=10",
)  # fmt: skip

# Processes that start at the same moment.
AT_ONCE = 4


def train(cwd: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    if "hydra/launcher=local" in arguments:
        # Its pool of processes does not start in one that was forked.
        return subprocess.run(
            [sys.executable, "-m", "covidnet.train", *arguments],
            cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    return command("covidnet.train", *arguments, cwd=cwd, env={**os.environ, **(env or {})})


def needs(plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"{plugin} is not installed")


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two folds, one after the other in one process."""
    folder = tmp_path_factory.mktemp("serial")
    done = train(folder, "-m", "fold=0,1", *TINY, "progress=false", f"hydra.sweep.dir={folder / 'sweep'}")
    assert done.returncode == 0, done.stderr
    return folder / "sweep"


def assert_same_numbers(sweep: Path, serial: Path, folds: Sequence[int] = (0, 1)) -> None:
    for fold in folds:
        for name in ("predictions.csv", "split.csv"):
            assert (sweep / f"fold={fold}" / name).read_bytes() == (serial / f"fold={fold}" / name).read_bytes()
    assert json.loads((sweep / "report/summary.json").read_text())["folds"] == list(folds)


def only_sweep(cwd: Path) -> Path:
    (folder,) = cwd.glob("multirun/*/*")
    return folder


@pytest.mark.slow
def test_joblib_gives_the_serial_numbers_and_names_the_fold_that_failed(serial: Path, tmp_path: Path) -> None:
    needs("hydra_joblib_launcher")
    # Without a sweep folder of ours: the jobs have to find the one that the first process has named. One process of the
    # pool takes the first two, another the rest, which fail before the libraries are loaded.
    pool = ("hydra/launcher=local", "hydra.launcher.n_jobs=2", "hydra.launcher.batch_size=2")
    done = train(tmp_path, "-m", "fold=0,1,11,12", *TINY, *pool)
    sweep = only_sweep(tmp_path)
    assert_same_numbers(sweep, serial)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1] == "error: fold=11: must be 0 to 9; fold 10 is the unseen fold, never a test fold"
    for fold in (11, 12):
        assert any(f"fold={fold}: the run did not finish: fold={fold}: must be 0 to 9" in line for line in lines)
    assert done.stdout.count("Report: ") == 1
    # No job draws a bar.
    assert "Epoch" not in done.stdout + done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_submitit_local_gives_the_serial_numbers_and_names_the_fold_that_failed(serial: Path, tmp_path: Path) -> None:
    needs("hydra_submitit_launcher")
    done = train(tmp_path, "-m", "fold=11,1", *TINY, "hydra/launcher=slurm_local")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: fold=11: must be 0 to 9")
    sweep = only_sweep(tmp_path)
    assert_same_numbers(sweep, serial, folds=[1])
    assert f"slurm_local: what the jobs print is in {sweep / '.submitit'}" in done.stderr
    # A folder for each launch: an id of a job, here a process, that comes again has no result of before.
    (launched,) = (sweep / ".submitit").iterdir()
    assert datetime.strptime(launched.name, "%Y-%m-%d_%H-%M-%S") <= datetime.now()
    assert len(list(launched.glob("*/*_result.pkl"))) == 2
    assert done.stdout.count("Report: ") == 1


@pytest.mark.slow
def test_a_job_of_submitit_that_is_killed_is_one_failed_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("hydra_submitit_launcher")
    import submitit
    from submitit.core.core import Job

    from covidnet.launch.launchers import LostJobError, prepare_launch

    monkeypatch.setattr(Job, "results", Job.results)
    assert prepare_launch(["-m", "fold=0,3", "hydra/launcher=slurm_local"]) == "slurm_local"
    for name in (JOBS, ALONE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Job, "_results_timeout_s", 0)

    # Inside the test, so that the job does not load this file and the libraries.
    def killed(overrides: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    job = submitit.LocalExecutor(tmp_path).submit(killed, ["fold=3", "seed=0"])
    (lost,) = job.results()
    with pytest.raises(LostJobError, match=rf"fold=3: its job {job.job_id} was lost .* its output: {tmp_path}"):
        _ = lost.return_value


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["-m", "fold=0,1", "hydra/launcher=pbs"],
            "hydra/launcher=pbs: must be one of basic, together, local, slurm_local, slurm",
        ),
        (
            ["-m", "fold=0,1", "hydra/launcher=joblib"],
            "hydra/launcher=joblib: must be one of basic, together, local, slurm_local, slurm; "
            "joblib is called local now",
        ),
        (["-m", "fold=0,1", "hydra/sweeper=optna"], "hydra/sweeper=optna: must be one of basic, search"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    done = train(tmp_path, *arguments)
    assert done.returncode != 0
    assert done.stderr.strip() == f"error: {line}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("engine", "extra"),
    [("launcher=local", "joblib"), ("launcher=slurm", "slurm"), ("sweeper=search", "optuna")],
)
def test_an_engine_that_is_not_installed_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=rf"not installed: pip install \"covidnet\[{extra}\]\""):
        engines_of(["-m", f"hydra/{engine}"])


def test_an_engine_of_sweeps_is_not_passed_over_in_a_single_run() -> None:
    needs("hydra_joblib_launcher")
    with pytest.raises(SettingError, match="-m makes it a sweep"):
        engines_of(["fold=3", "hydra/launcher=local"])
    assert engines_of(["--cfg=hydra", "hydra/launcher=local"])["hydra/launcher"] == "local"
    assert engines_of(["fold=3"]) == {"hydra/launcher": "basic", "hydra/sweeper": "basic"}


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covidnet.base.progress.available_cores", lambda: 8)
    monkeypatch.setattr("multiprocessing.set_start_method", lambda method, force: None)
    for name in (JOBS, ALONE, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        # Set first, so that what the code sets is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("arguments", "jobs", "threads"),
    [
        (["fold=range(0,10)"], 8, 1),
        (["fold=0,1"], 2, 4),
        (["fold=0,1", "seed=0,1"], 4, 2),
        (["fold=range(0,10)", "hydra.launcher.n_jobs=3"], 3, 2),
        (["fold=0", "hydra/sweeper=search"], 1, None),
        (["fold=0", "hydra/sweeper=search", "hydra.sweeper.n_jobs=4"], 4, 2),
    ],
)
def test_jobs_side_by_side_share_out_the_cores(arguments: list[str], jobs: int, threads: int | None) -> None:
    share_out(["-m", *arguments], "local")
    assert os.environ[JOBS] == str(jobs)
    # What one job does while the others wait may have all of them.
    assert os.environ[ALONE] == "8"
    cfg = OmegaConf.create({"progress": True, "data": {"num_workers": None}})
    settle(cfg, "local")
    assert os.environ.get("OMP_NUM_THREADS") == (None if threads is None else str(threads))
    assert cfg.data.num_workers == (None if threads is None else threads - 1)
    assert cfg.progress is False


@pytest.mark.usefixtures("eight_cores")
def test_a_job_of_slurm_keeps_to_the_cores_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    cfg = OmegaConf.create({"progress": True, "data": {"num_workers": 5}})
    settle(cfg, "slurm")
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert cfg.data.num_workers == 5


@pytest.mark.usefixtures("eight_cores")
def test_threads_that_the_user_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    share_out(["-m", "fold=range(0,10)"], "local")
    settle(OmegaConf.create({}), "local")
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert ALONE not in os.environ


def test_the_swept_settings_are_those_with_more_than_one_value() -> None:
    assert swept(["-m", "fold=range(0,3)", "optim.lr=interval(1e-4,1e-2)", "seed=1", "model=cnn,resnet8"]) == [
        "fold", "optim.lr", "model",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["cpu", "gpu", "ddp"])
def test_a_trainer_changes_where_the_work_is_done_alone(name: str) -> None:
    default, chosen = (compose([f"trainer={which}"]).trainer for which in ("default", name))
    keys = {key for key in {*default, *chosen} if default.get(key) != chosen.get(key)}
    assert keys == {"ddp": {"strategy", "devices"}}.get(name, {"accelerator"})


@pytest.mark.parametrize("launcher", ["local", "slurm_local", "slurm"])
def test_a_preset_has_every_field_of_its_plugin(launcher: str) -> None:
    needs("hydra_joblib_launcher" if launcher == "local" else "hydra_submitit_launcher")
    cfg = compose([f"hydra/launcher={launcher}"])
    assert cfg.fold == 0
    given = set(OmegaConf.load(config_dir() / "hydra/launcher" / f"{launcher}.yaml"))
    if launcher == "local":
        assert {"n_jobs", "verbose"} <= given
        return
    from dataclasses import fields

    from hydra_plugins.hydra_submitit_launcher import config

    plugin = config.SlurmQueueConf if launcher == "slurm" else config.LocalQueueConf
    assert given == {field.name for field in fields(plugin)}


@pytest.mark.slow
def test_optuna_names_the_best_of_its_trials(tmp_path: Path) -> None:
    needs("hydra_optuna_sweeper")
    done = train(
        tmp_path, "-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=3", "fold=4", *TINY, "progress=false",
        "optim.weight_decay=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sweep = only_sweep(tmp_path)
    # Each trial has a folder, and its own settings in it.
    rates = [OmegaConf.load(sweep / f"trial={n}/config.yaml").optim.lr for n in range(3)]
    assert len(set(rates)) == 3
    curves = [pd.read_csv(sweep / f"trial={n}/curves/metrics.csv") for n in range(3)]
    losses = [table["val/loss"].min() for table in curves]
    best = int(np.argmin(losses))
    found = OmegaConf.load(sweep / "optimization_results.yaml")
    assert found.best_value == pytest.approx(losses[best], abs=1e-6)
    assert set(found.best_params) == {"optim.lr", "model.dropout"}
    line = done.stdout.strip().splitlines()[-1]
    assert line.startswith(f"Best of 3 trials: optim.lr={rates[best]} model.dropout=")
    assert line.endswith(f"(val/loss {found.best_value:.6g}; {sweep / f'trial={best}'})")
    # Runs of different settings are never pooled.
    assert not (sweep / "report").exists()
    assert "Launching" not in done.stderr


@pytest.mark.slow
def test_a_search_never_sees_the_test_fold(tmp_path: Path) -> None:
    needs("hydra_optuna_sweeper")
    done = train(tmp_path, "-m", "hydra/sweeper=search", *TINY, "fold=0,1")
    assert done.returncode != 0
    assert done.stderr.startswith("error: fold=a sweep: must be one value")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("multirun/*/*/trial=*"))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("split.validation=test", "split.validation=test: must be inner with hydra/sweeper=search"),
        ("split.validation=none", "split.validation=none: must be inner"),
        ("split.validation=inner,test", "split.validation=a sweep: must be one value"),
        ("monitor=train/loss", "monitor=train/loss: must be val/loss"),
        ("monitor=val/auc", "monitor=val/auc: must be train/loss"),
        ("hydra.sweeper.direction=maximize", "hydra.sweeper.direction=maximize: must be minimize; it follows from"),
        ("fold=0,1", "fold=a sweep: must be one value"),
    ],
)
def test_what_a_search_refuses(argument: str, words: str) -> None:
    needs("hydra_optuna_sweeper")
    cfg = searched(*([] if "," in argument else [argument]))
    with pytest.raises(SettingError) as refused:
        check_sweep(cfg.hydra, cfg, [argument])
    assert str(refused.value).startswith(words)


def searched(*arguments: str) -> DictConfig:
    """The settings of a search, with Hydra's own."""
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        return hydra.compose("config", ["hydra/sweeper=search", *arguments], return_hydra_config=True)


@pytest.mark.parametrize(("monitor", "direction"), [("val/loss", "minimize"), ("val/accuracy", "maximize")])
def test_a_search_goes_the_way_in_which_its_metric_gets_better(monitor: str, direction: str) -> None:
    needs("hydra_optuna_sweeper")
    assert searched(f"monitor={monitor}").hydra.sweeper.direction == direction


def test_a_search_that_an_experiment_sets_otherwise_is_refused_in_its_trials() -> None:
    with pytest.raises(SettingError, match=r"never chosen by the test fold"):
        check_search(compose(["experiment=paper"]))
    check_search(compose(["experiment=strict"]))


@pytest.mark.slow
def test_several_devices_are_refused_in_a_sweep(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "fold=0,1", *TINY, "trainer=ddp")
    assert done.returncode != 0
    assert done.stderr.startswith("error: trainer.devices=auto: must be 1 in a sweep")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a graphics card")
def test_a_graphics_card_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    tiny = [setting for setting in TINY if not setting.startswith("trainer.accelerator")]
    done = train(tmp_path, "fold=0", *tiny, "trainer=gpu", "progress=false")
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith("error: trainer: No supported gpu backend found; trainer=default ")


@pytest.mark.slow
def test_jobs_started_at_once_share_one_split_and_one_store(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    settings = (
        "data.images_per_class=11", "data.image_size=64", "data.phantom_size=96", "trainer.max_epochs=1",
        "trainer.accelerator=cpu", "explain=off", "progress=false", "model=torchvision",
        "model.backbone=squeezenet1_1", "features.engine=torch",
    )  # fmt: skip
    env = {**os.environ, "COVIDNET_CACHE": str(cache)}
    jobs = [
        begun(
            "covidnet.train", f"fold={fold}", *settings, f"hydra.run.dir='fold={fold}'",
            cwd=tmp_path, env=env, said=[tmp_path / f"{fold}.out", tmp_path / f"{fold}.err"],
        )
        for fold in range(AT_ONCE)
    ]  # fmt: skip
    for job in jobs:
        job.join(300)
    errors = [(tmp_path / f"{fold}.err").read_text() for fold in range(AT_ONCE)]
    assert [job.exitcode for job in jobs] == [0] * AT_ONCE, errors
    splits = {hashlib.sha256((tmp_path / f"fold={fold}/split.csv").read_bytes()).hexdigest() for fold in range(AT_ONCE)}
    assert len(splits) == 1
    # One draw of the phantoms, one manifest, one split, one store.
    for pattern in ("phantoms/*/metadata.csv", "manifests/*/manifest.csv", "manifests/*/*/split.csv", "features/*/"):
        assert len(list(cache.glob(pattern))) == 1, pattern
    assert not list(cache.rglob("*.tmp"))
    segments = [load_file(path)["keys"] for path in cache.glob("features/*/*.safetensors")]
    keys = np.concatenate(segments)
    assert len(np.unique(keys, axis=0)) == len(keys) > 33
    # Who came later found the work of who came before.
    computed = [line for error in errors for line in error.splitlines() if "distinct inputs to compute" in line]
    assert sum(int(line.split()[1]) for line in computed) == len(keys)
    verified = command("covidnet.features", "--verify", *settings, cwd=tmp_path, env=env)
    assert verified.returncode == 0, verified.stderr


@pytest.mark.slow
# One that is trained whole, and one that is frozen, on kept features.
@pytest.mark.parametrize("model", [["model=cnn"], ["model=torchvision", "model.backbone=squeezenet1_1"]])
def test_two_processes_train_one_run_and_every_image_counts_once(tmp_path: Path, model: list[str]) -> None:
    done = train(
        tmp_path, "fold=0", *TINY, *model, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2",
        "progress=false", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    # The second process tells and writes nothing.
    assert done.stdout.count("Run folder: ") == done.stderr.count("fold 0: images of train") == 1
    run = tmp_path / "run"
    table, split = pd.read_csv(run / "predictions.csv"), pd.read_csv(run / "split.csv")
    for part, fold in (("test", 0), ("unseen", 10)):
        rows = table[table["split"] == part]
        assert sorted(rows["image_id"]) == sorted(split[split["fold"] == fold]["image_id"])
    assert not table.duplicated(["split", "image_id"]).any()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["splits"]["test"]["n"] == 9
    # What one process makes of the same checkpoint, read from the files.
    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    fit, normalise = (
        SquareFit(32, "squash"),
        Normalise(tuple(module.classifier.spec.mean), tuple(module.classifier.spec.std)),
    )
    root = Path(json.loads((run / "environment.json").read_text())["data"]["root"])
    images = torch.stack([torch.from_numpy(normalise(fit(read_image(root / path)))) for path in table["path"]])
    with torch.no_grad():
        expected = module(images).softmax(1).numpy()
    np.testing.assert_allclose(table[list(CLASSES.columns)], expected, atol=1e-5)
    curves = pd.read_csv(run / "curves/metrics.csv")
    assert curves["test/accuracy"].dropna().iloc[-1] == pytest.approx(metrics["splits"]["test"]["accuracy"], abs=1e-6)
    assert curves["step"].is_monotonic_increasing


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """A SLURM of one node, on this machine."""
    if absent := missing():
        pytest.skip(f"SLURM is not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder)) as env:
        yield env


@pytest.mark.slow
@pytest.mark.slurm
def test_slurm_that_refuses_the_jobs_is_one_line_of_ours(tmp_path: Path, slurm: dict[str, str]) -> None:
    needs("hydra_submitit_launcher")
    done = train(tmp_path, "-m", "fold=0,1", *TINY, *SLURM, "hydra.launcher.partition=large", env=slurm)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: hydra/launcher=slurm: ")
    assert "invalid partition specified: large" in line


@pytest.mark.slow
@pytest.mark.slurm
def test_an_array_of_slurm_gives_the_serial_numbers_though_a_job_goes_back_into_its_queue(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    needs("hydra_submitit_launcher")
    settings = [
        *TINY, "data.num_workers=0", "trainer.max_epochs=40", "callbacks.early_stopping.patience=40", "progress=false",
    ]  # fmt: skip
    sweep = tmp_path / "sweep"
    parent = Forked(
        "covidnet.train", "-m", "fold=11,0", *settings, *SLURM, f"hydra.sweep.dir={sweep}",
        cwd=tmp_path, env={**os.environ, **slurm},
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not (sweep / "fold=0/checkpoints/resume.ckpt").exists() and time.monotonic() < end:
            time.sleep(0.05)
        (job,) = {path.name for path in sweep.glob(".submitit/*/*_1") if path.is_dir()}
        subprocess.run(["scontrol", "requeue", job], env={**os.environ, **slurm}, check=True)
        # What one process makes of it meanwhile, without a break.
        alone = train(tmp_path, "-m", "fold=0", *settings, f"hydra.sweep.dir={tmp_path / 'serial'}")
        assert alone.returncode == 0, alone.stderr
        errors = parent.stderr.read()
        assert parent.wait(60) != 0
    finally:
        parent.kill()
        parent.stderr.close()
    assert errors.splitlines()[-1].startswith("error: fold=11: must be 0 to 9")
    assert "Traceback" not in errors
    log = (sweep / "fold=0/train.log").read_text()
    assert "resuming at epoch" in log
    curves = pd.read_csv(sweep / "fold=0/curves/metrics.csv")
    assert curves["val/loss"].notna().sum() >= 40
    assert_same_numbers(sweep, tmp_path / "serial", folds=[0])


def test_an_experiment_names_its_sweep_and_the_command_line_replaces_parts_of_it() -> None:
    from covidnet.launch.command import config_dir
    from covidnet.launch.launchers import experiment_sweep

    def words(*given: str) -> list[str]:
        return experiment_sweep(given, config_dir())

    everything = ["fold=range(0,10)", "split.unseen_fold=range(0,11)", "hydra.sweeper.params=null"]
    assert words("-m", "experiment=nested") == everything
    assert words("--multirun", "+experiment=nested", "seed=0,1") == everything
    assert words("-m", "fold=0,1", "experiment=nested") == everything[1:]
    assert words("experiment=nested") == []
    assert words("-m", "experiment=strict") == []
    assert words("-m", "experiment=no_such") == []
    assert words("-m", "fold=0,1") == []
