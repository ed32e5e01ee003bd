"""A logger for W&B that never prompts, never blocks training, and closes in bounded time."""

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

from covidnet.base.atomic import write_text
from covidnet.base.errors import SettingError
from covidnet.tracking.wandb_server import REMEDY, Decision, decide, refused

log = logging.getLogger(__name__)

RUN_ID = "wandb/run_id.txt"
"""The file in a run folder with the run's W&B id, for resuming."""

_REFUSAL = re.compile(r"\b40[13]\b|permission|not logged in|unauthorized|forbidden", re.IGNORECASE)


class FoldLogger(WandbLogger):
    """Lightning's logger for an open run; its first failure is logged and stops the logging, but not the training.

    Args:
        run: from `wandb.init`; None in every process but the first.
        folder: the folder for `wandb sync`; empty if nothing is stored.
        artifact: whether `log_fold` uploads the best checkpoint.
        patience: seconds that ending the run may take.
        **names: arguments of `WandbLogger`: save_dir, project, name, id.
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
        """Do nothing: the run has the whole configuration already."""

    def attempt(self, do: Callable[[], None]) -> bool:
        """Call a function that uses the run, unless the run has failed or is closed.

        Args:
            do: the function.

        Returns:
            Whether it succeeded.
        """
        if self.broken or self.closed or self._experiment is None:
            return False
        try:
            do()
        except Exception as error:  # wandb passes on all errors of its process and sockets
            self.broken = True
            log.warning(
                "W&B: %s; training continues without logging there",
                " ".join(f"{type(error).__name__} {error}".split())[:200],
            )
        return not self.broken

    @rank_zero_only
    def close(self, exit_code: int = 0) -> None:
        """End the run; data that is not uploaded in time stays in the run folder.

        Args:
            exit_code: 0, or nonzero to mark the run as failed.
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

        # wandb 0.31 exceeds finish_timeout while it retries an earlier request.
        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        thread.join(self.patience)
        if ended == [None]:
            return
        # wandb.teardown, which runs at exit too, waits without a limit for the upload of a table.
        stop_service()
        thread.join(5.0)
        if not self.broken:
            log.warning(
                "W&B: the upload did not finish within %g s; upload the rest with: wandb sync %s",
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
        save_dir: the run folder; W&B's files are in its ``wandb/``.
        project: of W&B.
        entity: user or team; None for the user's default.
        group: the group of the folds; None for the name of the sweep folder.
        name: of the run; None for the run folder's name, such as ``fold=3``.
        tags: in addition to the names of experiment, data and model.
        config: all settings, as a plain dict.
        mode: ``online``, ``offline``, ``disabled``, or None: see `covidnet.tracking.wandb_server.decide`.
        artifact: whether the best checkpoint is uploaded.
        job_type: ``fold`` or ``summary``.
        patience: seconds that ending the run may take; with at least 20 everything is on disk afterwards.
        resume: continue the run that the folder was logged to before.

    Returns:
        A logger for a trainer.

    Raises:
        SettingError: W&B refuses the key or the settings.
    """
    save_dir, config = Path(save_dir), dict(config or {})
    name = name or _name(save_dir, config)
    # The parent of a single run's folder is not a sweep folder.
    group = group or (save_dir.absolute().parent.name if save_dir.name.startswith("fold=") else None)
    names: dict[str, Any] = {"save_dir": str(save_dir), "project": project, "name": name}
    if getattr(rank_zero_only, "rank", 0):
        return FoldLogger(None, artifact=artifact, patience=patience, **names)
    # Set before wandb is imported, which otherwise prints notes.
    os.environ.setdefault("WANDB_SILENT", "true")
    decision = decide(mode)
    options: dict[str, Any] = {
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
    run, mode = _open(options, decision, patience)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    # Logging a table otherwise asks the server whether its name is free, and raises without an answer.
    run._cached_public_api = _NoQueries()
    folder = "" if mode == "disabled" else str(Path(run.dir).parent)
    return FoldLogger(run, folder, artifact=artifact, patience=patience, id=run.id, **names)


def tags_of(tags: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """The tags of a run: those given, then the experiments, the data and the model, without duplicates.

    Args:
        tags: the given tags.
        config: all settings.

    Returns:
        Tags of at most 64 characters, W&B's limit.

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
    """Kill wandb's service process, which may hang, so that this process can end.

    Uploads of open runs stop; their files stay in the run folders.
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
    # It raises because its process is gone, but no longer waits for it.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


class _NoQueries:
    """Replaces the API that wandb queries about artifacts; a run does not need the answers."""

    def __init__(self) -> None:
        self.settings = {"entity": "", "project": ""}

    def _expected_artifact_type(self, **_: Any) -> None:
        return None

    def _set_artifact_save_handle(self, artifact: Any, handle: Any) -> None:
        artifact._set_save_handle(handle, None)


def _open(options: dict[str, Any], decision: Decision, patience: float) -> tuple[Any, str]:
    """The run, and its actual mode."""
    import wandb

    mode, reason = decision.mode, decision.reason
    if mode == "online":
        try:
            return _init(options, decision.server, mode, patience), mode
        except wandb.errors.UsageError as error:
            raise _rejected(error) from None
        except wandb.errors.Error as error:
            cause = " ".join(str(error).split())
            if isinstance(error, wandb.errors.AuthenticationError) or _REFUSAL.search(cause):
                raise refused(decision.server, cause[:200]) from None
            mode, reason = "offline", cause[:200]
            options = {**options, "resume": None}
    try:
        run = _init(options, decision.server, mode, patience)
    except wandb.errors.UsageError as error:
        raise _rejected(error) from None
    except Exception:
        # The service process may have died with an earlier run: start a new one.
        stop_service()
        try:
            run = _init(options, decision.server, mode, patience)
        except Exception as error:  # such as a full disk, or a folder without execute permission
            raise _rejected(error) from None
    if mode == "offline":
        folder = shlex.quote(str(Path(run.dir).parent))
        log.info("W&B: offline (%s); send the run later with: wandb sync %s", reason, folder)
    return run, mode


def _rejected(error: Exception) -> SettingError:
    cause = " ".join(str(error).split())[:200] or type(error).__name__
    return SettingError("logger", "wandb", "settings that W&B accepts", f"{cause}; or use logger=csv")


def _init(options: dict[str, Any], server: str, mode: Any, patience: float) -> Any:
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
        # environment.json has the revision; wandb would upload uncommitted changes too.
        disable_git=True,
    )
    return wandb.init(**options, reinit="create_new", settings=settings)


def _name(save_dir: Path, config: Mapping[str, Any]) -> str:
    if save_dir.name.startswith("fold=") or "fold" not in config:
        return save_dir.name
    return f"fold={config['fold']}"


def _identity(save_dir: Path, resume: bool, mode: str) -> dict[str, Any]:
    """The id of the run at W&B: the earlier one if it is resumed, else a new one."""
    # An agent of a W&B sweep already has an id.
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
