"""A run at W&B: opened without a question, logged without a hang, closed in bounded time."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from covidnet.atomic import write_text
from covidnet.errors import SettingError
from covidnet.tracking.wandb_server import REMEDY, Decision, decide, refused

log = logging.getLogger(__name__)

RUN_ID = "wandb/run_id.txt"
"""The file in a run folder that keeps the run's id at W&B, for a run that is gone on with."""

_REFUSAL = re.compile(r"\b40[13]\b|permission|not logged in|unauthorized|forbidden", re.IGNORECASE)


class FoldLogger(WandbLogger):
    """Lightning's logger on an open run; what goes wrong in it is said once and stops the logging, not the training.

    Args:
        run: as `wandb.init` gives it; None in every process but the first.
        folder: the folder that `wandb sync` takes; empty where nothing is kept.
        artifact: whether `log_fold` uploads the best checkpoint.
        patience: seconds that the end of the run may take.
        **names: `WandbLogger`'s own: save_dir, project, name, id.
    """

    def __init__(
        self, run: Any, folder: str = "", *, artifact: bool = False, patience: float = 30.0, **names: Any
    ) -> None:
        super().__init__(experiment=run, **names)
        self.folder = folder
        self.artifact = artifact
        self.patience = patience
        self.broken = False
        self.closed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars; Lightning adds ``epoch`` and the logger ``trainer/global_step``."""
        self.attempt(lambda: WandbLogger.log_metrics(self, metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Nothing: the run has the whole configuration already, of which these are a part."""

    def attempt(self, do: Callable[[], None]) -> bool:
        """Do something with the run, unless it broke before or is closed.

        Args:
            do: what talks to W&B.

        Returns:
            Whether it was done.
        """
        if self.broken or self.closed or self._experiment is None:
            return False
        try:
            do()
        except Exception as error:  # wandb raises whatever its own process and its sockets do
            self.broken = True
            log.warning(
                "W&B: %s; the run goes on, and nothing more of it is logged there",
                " ".join(f"{type(error).__name__} {error}".split())[:200],
            )
        return not self.broken

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """End the run: what is not sent in time stays in the run folder.

        Args:
            exit_code: 0, or what marks the run as failed.
        """
        run = self._experiment
        if run is None or self.closed:
            return
        self.closed = True
        ended: list[BaseException | None] = []

        def finish() -> None:
            try:
                run.finish(exit_code=exit_code)
                ended.append(None)
            except Exception as error:
                ended.append(error)

        # wandb's own limit does not hold while it retries the request before: measured with wandb 0.31.
        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        thread.join(self.patience)
        if ended == [None]:
            return
        # Otherwise this process would wait for it at its own end, and the next run would find it dead.
        stop_service()
        thread.join(5.0)
        if not self.broken:
            log.warning(
                "W&B: not all of the run was sent in %g s; send it with: wandb sync %s",
                self.patience,
                shlex.quote(self.folder),
            )


def wandb_logger(
    save_dir: str | Path,
    project: str = "covidnet",
    entity: str | None = None,
    group: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    mode: str | None = None,
    artifact: bool = False,
    job_type: str = "fold",
    patience: float = 30.0,
    resume: bool = False,
) -> FoldLogger:
    """Open a run.

    Args:
        save_dir: the run folder; W&B's files lie in its ``wandb/``.
        project: of W&B.
        entity: user or team; None for the user's default.
        group: what keeps the folds together; None for the name of the sweep folder.
        name: of the run; None for the run folder's name, such as ``fold=3``.
        tags: beside the experiment's name, the data's and the model's.
        config: all settings, as a plain dict.
        mode: ``online``, ``offline``, ``disabled``, or None: see `covidnet.tracking.wandb_server.decide`.
        artifact: whether the best checkpoint is uploaded.
        job_type: ``fold`` or ``summary``.
        patience: seconds that the end of the run may take; from 20 on nothing is missing on disk afterwards.
        resume: go on with the run that the folder was logged to before.

    Returns:
        A logger for a trainer.

    Raises:
        SettingError: the key is refused, or W&B does not take the settings.
    """
    save_dir, config = Path(save_dir), dict(config or {})
    name = name or _name(save_dir, config)
    # The folder of a run that is part of no sweep lies anywhere.
    group = group or (save_dir.absolute().parent.name if save_dir.name.startswith("fold=") else None)
    names: dict[str, Any] = {"save_dir": str(save_dir), "project": project, "name": name}
    if getattr(rank_zero_only, "rank", 0):
        return FoldLogger(None, artifact=artifact, patience=patience, **names)
    # Before wandb is imported: it prints notes of its own otherwise.
    os.environ.setdefault("WANDB_SILENT", "true")
    decision = decide(mode)
    asked: dict[str, Any] = {
        "dir": str(save_dir),
        "project": project,
        "entity": entity,
        "group": group,
        "name": name,
        "tags": tags_of(tags, config),
        "config": config,
        "job_type": job_type,
        **_identity(save_dir, resume, decision.mode),
    }
    run, mode = _open(asked, decision, patience)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    # Logging a table asks the server whether the name is free, and raises where no answer comes.
    run._cached_public_api = _NoQuestions()
    folder = "" if mode == "disabled" else str(Path(run.dir).parent)
    return FoldLogger(run, folder, artifact=artifact, patience=patience, id=run.id, **names)


def tags_of(tags: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """What a run is found by: the tags given, the experiments, the data and the model, each once.

    Args:
        tags: given ones.
        config: all settings.

    Returns:
        At most 64 letters each, which is what W&B takes.

    Example:
        >>> tags_of(["pilot"], {"data": {"name": "phantom"}, "model": {"name": "cnn"}})
        ['pilot', 'phantom', 'cnn']
    """
    from hydra.core.hydra_config import HydraConfig

    experiments: Any = None
    if HydraConfig.initialized():
        experiments = HydraConfig.get().runtime.choices.get("experiment")
    chosen = [experiments] if isinstance(experiments, str) else list(experiments or [])
    parts = [(config.get(key) or {}).get("name") for key in ("data", "model")]
    words = [str(word)[:64] for word in (*tags, *chosen, *parts) if word and word != "null"]
    return list(dict.fromkeys(words))


def stop_service() -> None:
    """End wandb's own process where it neither ends nor answers, so that this one can end too.

    Runs of this process that are still open at W&B are not sent any further; their files stay.
    """
    import wandb
    from wandb.sdk import wandb_setup

    process: Any = wandb_setup.singleton()
    for part in ("_connection", "_proc", "_process"):
        process = getattr(process, part, None)
    if process is None:
        return
    process.kill()
    process.wait(10)
    # It finds its process gone, and says so; what counts is that it waits for it no longer.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


class _NoQuestions:
    """Stands where wandb keeps the connection that it asks about artifacts: the answers do not matter to a run."""

    def __init__(self) -> None:
        self.settings = {"entity": "", "project": ""}

    def _expected_artifact_type(self, **_: Any) -> None:
        return None

    def _set_artifact_save_handle(self, artifact: Any, handle: Any) -> None:
        artifact._set_save_handle(handle, None)


def _open(asked: dict[str, Any], decision: Decision, patience: float) -> tuple[Any, str]:
    """The run, and the mode that it is in after all."""
    import wandb

    mode, reason = decision.mode, decision.reason
    if mode == "online":
        try:
            return _init(asked, decision.server, mode, patience), mode
        except wandb.errors.UsageError as error:
            raise _not_taken(error) from None
        except wandb.errors.Error as error:
            cause = " ".join(str(error).split())
            if isinstance(error, wandb.errors.AuthenticationError) or _REFUSAL.search(cause):
                raise refused(decision.server, cause[:200]) from None
            mode, reason = "offline", cause[:200]
            asked = {**asked, "resume": None}
    try:
        run = _init(asked, decision.server, mode, patience)
    except wandb.errors.UsageError as error:
        raise _not_taken(error) from None
    except Exception:
        # Its process has died, of the run before perhaps; it begins anew.
        stop_service()
        try:
            run = _init(asked, decision.server, mode, patience)
        except Exception as error:  # a full disk, a folder where nothing may be run
            raise _not_taken(error) from None
    if mode == "offline":
        folder = shlex.quote(str(Path(run.dir).parent))
        log.info("W&B: offline (%s); send the run later with: wandb sync %s", reason, folder)
    return run, mode


def _not_taken(error: Exception) -> SettingError:
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return SettingError("logger", "wandb", "settings that W&B takes", f"{cause}; or use logger=csv")


def _init(asked: dict[str, Any], server: str, mode: Any, patience: float) -> Any:
    import wandb

    settings = wandb.Settings(
        base_url=server,
        mode=mode,
        silent=True,
        quiet=True,
        # The run folder has train.log.
        console="off",
        save_code=False,
        init_timeout=20.0,
        login_timeout=1.0,
        finish_timeout=0.6 * patience,
        finish_timeout_raises=True,
        # environment.json has the revision; wandb would keep the changes of the working tree too.
        disable_git=True,
    )
    return wandb.init(**asked, reinit="create_new", settings=settings)


def _name(save_dir: Path, config: Mapping[str, Any]) -> str:
    if save_dir.name.startswith("fold=") or "fold" not in config:
        return save_dir.name
    return f"fold={config['fold']}"


def _identity(save_dir: Path, resume: bool, mode: str) -> dict[str, Any]:
    """The id of the run at W&B: that of before where it is gone on with, a new one otherwise."""
    # An agent of a W&B sweep has been given an id.
    if mode == "disabled" or os.environ.get("WANDB_SWEEP_ID") or os.environ.get("WANDB_RUN_ID"):
        return {}
    file = save_dir / RUN_ID
    if resume and file.is_file() and (known := file.read_text(encoding="utf-8").strip()):
        return {"id": known, "resume": "allow" if mode == "online" else None}
    new = secrets.token_hex(4)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, new + "\n")
    return {"id": new}


__all__ = ["REMEDY", "RUN_ID", "FoldLogger", "stop_service", "tags_of", "wandb_logger"]
