"""Where the jobs of a sweep run: launchers and sweepers, what each needs, and each job's share of the machine."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.classes import ClassList
from covidnet.base.errors import CovidnetError, SettingError
from covidnet.base.former import PRESETS
from covidnet.learning.monitor import direction, search_direction

if TYPE_CHECKING:
    from omegaconf import DictConfig

# For each preset, the plugin that has to be installed and the extra that brings it. Presets are not named like those of
# the plugins: Hydra would merge the two and warn.
ENGINES: dict[str, dict[str, tuple[str, str] | None]] = {
    "hydra/launcher": {
        "basic": None,
        "together": None,
        "local": ("hydra_joblib_launcher", "joblib"),
        "slurm_local": ("hydra_submitit_launcher", "slurm"),
        "slurm": ("hydra_submitit_launcher", "slurm"),
    },
    "hydra/sweeper": {"basic": None, "search": ("hydra_optuna_sweeper", "optuna")},
}

JOBS = "COVIDNET_JOBS"
"""Environment variable: how many jobs of this sweep run at once on this machine."""

ALONE = "COVIDNET_CORES_ALONE"
"""Environment variable: threads for work that the other jobs wait for, such as filling the feature store."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_NOT_SEARCHED = ("fold", "split", "monitor", "data")
_SHOWS = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion"}


def prepare_launch(arguments: Sequence[str]) -> str:
    """Prepare the launcher and the sweeper before Hydra starts the jobs of a command line.

    Args:
        arguments: the command line without the command.

    Returns:
        The launcher.

    Raises:
        SettingError: as `engines_of`.
    """
    engines = engines_of(arguments)
    launcher = one_by_one(engines["hydra/launcher"])
    share_out(arguments, launcher)
    if launcher.startswith("slurm"):
        _wait_for_lost_jobs()
    if engines["hydra/sweeper"] == "search":
        _quieten_search()
    return launcher


def one_by_one(launcher: str) -> str:
    """``basic`` for every launcher that runs jobs in this process one after the other."""
    return "basic" if launcher == "together" else launcher


def default_launcher(arguments: Sequence[str]) -> list[str]:
    """The launcher of a sweep whose command line names none, as an argument.

    Args:
        arguments: the command line without the command.
    """
    named = any(word.lstrip("+").startswith(("hydra/launcher=", "hydra/sweeper=search")) for word in arguments)
    return ["hydra/launcher=together"] if _is_sweep(arguments) and not named else []


def engines_of(arguments: Sequence[str]) -> dict[str, str]:
    """The launcher and the sweeper that a command line names.

    Args:
        arguments: the command line without the command.

    Raises:
        SettingError: there is no such engine, its plugin is not installed, or it would have nothing to do.
    """
    found = dict.fromkeys(ENGINES, "basic")
    for group, engines in ENGINES.items():
        for word in arguments:
            key, _, name = word.lstrip("+").partition("=")
            if key != group:
                continue
            if name not in engines:
                former = f"{name} is called {PRESETS[name]} now" if PRESETS.get(name) in engines else ""
                raise SettingError(group, name, engines, former)
            found[group] = name
        if (needs := engines[found[group]]) is None:
            continue
        plugin, extra = needs
        if importlib.util.find_spec("hydra_plugins") is None or not importlib.util.find_spec(f"hydra_plugins.{plugin}"):
            raise SettingError(
                group, found[group], engines, f'its plugin is not installed: pip install "covidnet[{extra}]"'
            )
        if not _is_sweep(arguments) and not _SHOWS & {word.partition("=")[0] for word in arguments}:
            raise SettingError(group, found[group], "basic for a single run", "-m makes it a sweep")
    return found


def share_out(arguments: Sequence[str], launcher: str) -> None:
    """Set environment variables to how many jobs run at once here; `settle` reads them in each job.

    Args:
        arguments: the command line without the command.
        launcher: the one that it names.
    """
    for name in (JOBS, ALONE):
        os.environ.pop(name, None)
    if launcher not in ("local", "slurm_local"):
        return
    from covidnet.base.progress import available_cores

    cores = available_cores()
    jobs = _job_count(arguments, cores)
    if launcher == "local":
        asked = _setting(arguments, "hydra.launcher.n_jobs")
        jobs = min(jobs, asked if asked and asked > 0 else cores)
    os.environ[JOBS] = str(jobs)
    # A number of threads that the user has set is kept.
    if not any(name in os.environ for name in _THREADS):
        os.environ[ALONE] = str(cores)


def settle(cfg: DictConfig, launcher: str) -> None:
    """Set a job's share of the cores and switch its progress bars off, before heavy imports.

    Args:
        cfg: the settings of the job; changed.
        launcher: the one that started it.
    """
    if launcher == "basic":
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # Of the processes of one run, only the first logs.
            logging.getLogger().setLevel(logging.ERROR)
            cfg.progress = False
        return
    from covidnet.base.progress import available_cores

    if launcher == "local":
        # Torch's data loaders cannot use joblib's start method.
        multiprocessing.set_start_method(None, force=True)
    cores = available_cores()
    if launcher == "slurm":
        # SLURM names a job's cores even where it does not enforce them.
        share = min(cores, int(os.environ.get("SLURM_CPUS_PER_TASK") or cores))
    else:
        share = max(1, cores // int(os.environ.get(JOBS) or 1))
    if share < cores:
        for name in _THREADS:
            os.environ.setdefault(name, str(share))
        if "data" in cfg and "num_workers" in cfg.data and cfg.data.num_workers is None:
            cfg.data.num_workers = share - 1
    if "progress" in cfg:
        cfg.progress = False


def experiment_sweep(arguments: Sequence[str], config_dir: Path) -> list[str]:
    """What an experiment sweeps over, as arguments: its ``hydra.sweeper.params`` that the command line does not set.

    Args:
        arguments: the command line without the command.
        config_dir: the folder of the Hydra configuration.

    Returns:
        Such as ``["fold=range(0,10)"]`` and, because Hydra would sweep over both, an argument that empties the
        experiment's own; nothing for a single run.
    """
    names = [word.lstrip("+").removeprefix("experiment=") for word in arguments if "experiment=" in word[:12]]
    file = config_dir / "experiment" / f"{names[-1]}.yaml" if names else None
    if file is None or not _is_sweep(arguments) or not file.is_file():
        return []
    from covidnet.base.trust import read_yaml

    found: Any = read_yaml(file)
    params = ((found.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    given = {word.lstrip("+").partition("=")[0] for word in arguments}
    missing = [f"{name}={values}" for name, values in params.items() if name not in given]
    return [*missing, "hydra.sweeper.params=null"] if params else []


def check_nested(cfg: DictConfig) -> None:
    """Refuse a sweep over the unseen fold whose selection would see that fold, or that could not be scored.

    Args:
        cfg: the settings that all jobs have.

    Raises:
        SettingError: naming the setting.
    """
    if cfg.unseen == "locked":
        raise SettingError(
            "unseen", cfg.unseen, "scored in a sweep over split.unseen_fold",
            "each fold is once the unseen one, and its score is the result",
        )  # fmt: skip
    if cfg.split.unseen is not None:
        raise SettingError(
            "split.unseen", cfg.split.unseen, "null in a sweep over split.unseen_fold",
            "published test images are always the unseen fold",
        )  # fmt: skip
    if cfg.selection != "inner":
        raise SettingError(
            "selection", cfg.selection, "inner in a sweep over split.unseen_fold", "paper selects by the unseen fold"
        )
    if cfg.split.validation == "none":
        raise SettingError(
            "split.validation",
            "none",
            "inner or test in a sweep over split.unseen_fold",
            "validation selects the model",
        )


def check_sweep(hydra: DictConfig, cfg: DictConfig, arguments: Sequence[str]) -> None:
    """Check a sweep before its first job starts.

    Args:
        hydra: Hydra's own settings.
        cfg: the settings that all jobs have.
        arguments: the settings of the command line.

    Raises:
        SettingError: it cannot be done.
    """
    launcher = hydra.runtime.choices["hydra/launcher"]
    trainer = cfg.get("trainer") or {}
    devices = trainer.get("devices")
    many = "ddp" in str(trainer.get("strategy")) or (isinstance(devices, int) and devices > 1)
    # Lightning starts its other processes with the same command line, here that of the whole sweep.
    if many and not (launcher == "slurm" and hydra.launcher.get("tasks_per_node", 1) > 1):
        raise SettingError(
            "trainer.devices", devices, "1 in a sweep",
            "several devices work on one run at a time: give each job one, or run the folds one by one",
        )  # fmt: skip
    if "split.unseen_fold" in swept(arguments):
        check_nested(cfg)
    if hydra.runtime.choices["hydra/sweeper"] == "search":
        check_search(cfg)
        if hydra.sweeper.direction != search_direction(cfg.monitor):
            raise SettingError(
                "hydra.sweeper.direction", hydra.sweeper.direction, search_direction(cfg.monitor),
                f"it follows from monitor={cfg.monitor}",
            )  # fmt: skip
        for key in (*swept(arguments), *(hydra.sweeper.params or {})):
            if key.partition(".")[0] in _NOT_SEARCHED:
                raise SettingError(
                    key, "a sweep", "one value with hydra/sweeper=search",
                    "Optuna would take the one with the easiest images for the best setting",
                )  # fmt: skip


def check_search(cfg: DictConfig) -> None:
    """Refuse a search that would choose hyperparameters by test or training images.

    Args:
        cfg: the settings of a trial.

    Raises:
        SettingError: its metric comes from those images.
    """
    if cfg.split.validation != "inner":
        raise SettingError(
            "split.validation", cfg.split.validation, "inner with hydra/sweeper=search",
            "hyperparameters are never chosen by the test fold, nor by training images",
        )  # fmt: skip
    direction(cfg.monitor, classes=ClassList.declared(cfg.data))
    if not cfg.monitor.startswith("val/"):
        raise SettingError(
            "monitor",
            cfg.monitor,
            "val/loss with hydra/sweeper=search",
            "training images do not choose hyperparameters",
        )


def swept(arguments: Sequence[str]) -> list[str]:
    """The settings that a command line gives more than one value, such as ``fold``.

    Example:
        >>> swept(["-m", "fold=range(0,10)", "model=cnn", "optim.lr=1e-3,1e-4"])
        ['fold', 'optim.lr']
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    settings = [word for word in arguments if not word.startswith("-")]
    found = OverridesParser.create().parse_overrides(settings)
    return [o.key_or_group for o in found if o.is_sweep_override() and o.key_or_group]


def _wait_for_lost_jobs() -> None:
    """Treat a killed job of submitit as one failed job, and wait for the others.

    Hydra's plugin stops at the first such job while others are still running.
    """
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.core.core import Job
    from submitit.core.utils import FailedJobError, UncompletedJobError

    # Without an accounting database submitit complains at every poll; results are read from files.
    logging.getLogger("submitit").setLevel(logging.ERROR)
    if getattr(Job.results, "waits", False):
        return
    results = Job.results

    def or_lost(job: Any) -> list[Any]:
        try:
            return list(results(job))
        except (UncompletedJobError, FailedJobError):
            overrides = list(job.submission().args[0])
            lost = JobReturn(overrides=overrides, status=JobStatus.FAILED)
            what = " ".join(word for word in overrides if word.startswith("fold=")) or " ".join(overrides)
            lost.return_value = LostJobError(what, job.job_id, job.state, job.paths.stderr)
            return [lost]

    or_lost.waits = True  # type: ignore[attr-defined]
    Job.results = or_lost  # type: ignore[method-assign, assignment]


def broken_launcher(error: Exception) -> str:
    """Why a launcher failed and what to do, in one line.

    Args:
        error: what the launcher itself raised, not a job.
    """
    if type(error).__name__ == "TerminatedWorkerError":
        return (
            "a job was killed, probably for its memory, and took the other running jobs with it; finished runs are "
            "kept: resume=SWEEP_FOLDER runs the rest, hydra.launcher.n_jobs=1 needs less memory"
        )
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{cause[:400]} (HYDRA_FULL_ERROR=1 shows where)"


def _quieten_search() -> None:
    """Silence the messages of Optuna and Hydra about each trial; failures are still logged."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in ("hydra._internal.core_plugins.basic_launcher", "hydra_plugins.hydra_optuna_sweeper"):
        logging.getLogger(name).setLevel(logging.WARNING)


class LostJobError(CovidnetError, RuntimeError):
    """A job disappeared: killed, out of memory or out of time.

    Args:
        what: which job of the sweep it was.
        job: its number.
        state: as the launcher reports it.
        log: the file with its output.
    """

    def __init__(self, what: str, job: str, state: str, log: Path) -> None:
        super().__init__(
            f"{what}: its job {job} was lost ({state}): killed, out of memory or out of time; its output: {log}"
        )


def _is_sweep(arguments: Sequence[str]) -> bool:
    return bool({"-m", "--multirun"} & set(arguments)) or "hydra.mode=MULTIRUN" in arguments


def _setting(arguments: Sequence[str], name: str) -> int | None:
    given = [word.partition("=")[2] for word in arguments if word.partition("=")[0] == name]
    try:
        return int(given[-1]) if given else None
    except ValueError:
        return None


def _job_count(arguments: Sequence[str], many: int) -> int:
    """How many jobs are handed to the launcher together; `many` if unknown."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if any(word == "hydra/sweeper=search" for word in arguments):
        return _setting(arguments, "hydra.sweeper.n_jobs") or 1
    count = 1
    for override in OverridesParser.create().parse_overrides([w for w in arguments if not w.startswith("-")]):
        if override.is_sweep_override():
            try:
                count *= max(1, sum(1 for _ in override.sweep_iterator()))
            except HydraException:
                # A glob, which only Hydra can count.
                count *= many
    return count
