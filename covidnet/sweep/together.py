"""``hydra/launcher=together``: the jobs of a sweep one after the other, after their heads have trained together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from omegaconf import OmegaConf, open_dict

NAME = "hydra_plugins.covidnet.TogetherLauncher"
"""The name in conf/hydra/launcher/together.yaml: Hydra takes launchers of ``hydra_plugins`` only."""


class TogetherLauncher(BasicLauncher):
    """Hydra's basic launcher, before which heads that read the same features train together."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train what can train together, then run the jobs one after the other."""
        setup_globals()
        jobs = [job for n, words in enumerate(job_overrides) if (job := self._job(words, initial_job_idx + n))]
        if len(jobs) < 2:
            return super().launch(job_overrides, initial_job_idx)
        from covidnet.fold.setup import shared
        from covidnet.fold.together import train_together

        assert self.config is not None
        with shared():
            count = train_together(jobs, Path(str(self.config.hydra.sweep.dir)).absolute())
            if count:
                sys.stderr.write(f"{count} heads trained together (hydra/launcher=basic trains them one by one)\n")
            return super().launch(job_overrides, initial_job_idx)

    def _job(self, overrides: Sequence[str], number: int) -> tuple[dict[str, Any], Path] | None:
        """The settings of a job and its run folder; None where its own run will say what is wrong with them."""
        assert self.hydra_context is not None
        assert self.config is not None
        before = HydraConfig.instance().cfg
        try:
            whole = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(whole):
                whole.hydra.job.id = whole.hydra.job.num = number
            HydraConfig.instance().set_config(whole)
            folder = Path(str(whole.hydra.sweep.dir)) / str(whole.hydra.sweep.subdir)
            task = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
            return cast("dict[str, Any]", OmegaConf.to_container(task, resolve=True)), folder.absolute()
        except Exception:  # composing raises a different type for every fault, and raises it again in the job
            return None
        finally:
            HydraConfig.instance().cfg = before


def register() -> None:
    """Make the launcher known to Hydra under `NAME`."""
    Plugins.instance().class_name_to_class[NAME] = TogetherLauncher
