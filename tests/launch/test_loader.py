from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from covidnet.launch.command import prepare_hydra
from covidnet.launch.loader import Loader, config_dir

WORDS = (
    [],
    ["fold=3", "hydra.run.dir=here"],
    ["fold=4", "~data.view"],
    ["model=resnet8", "trainer.max_epochs=1", "augment=none"],
    ["model=resnet8", "trainer.max_epochs=2", "+optim.optimizer.eps=1", "augment=none"],
    ["experiment=demo", "hydra/launcher=basic"],
)


def loader(kind: type[ConfigLoaderImpl], folder: Path) -> ConfigLoaderImpl:
    prepare_hydra()
    return kind(create_config_search_path(str(folder)))


def test_configurations_are_those_of_hydra_however_often_they_are_asked_for() -> None:
    ours, theirs = (loader(kind, config_dir()) for kind in (Loader, ConfigLoaderImpl))
    for words in (*WORDS, *WORDS):
        expected, found = (one.load_configuration("config", list(words), RunMode.RUN) for one in (theirs, ours))
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        assert OmegaConf.is_struct(found)
        # What a command makes of its own is not what the next one gets.
        found.hydra.job.num = 7
        found.data.name = "changed"


def test_the_jobs_of_a_sweep_are_composed_once_and_their_files_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("load_configuration", "_compose_config_from_defaults_list"):
        of = getattr(ConfigLoaderImpl, name)
        monkeypatch.setattr(ConfigLoaderImpl, name, lambda *a, n=name, of=of, **k: done.append(n) or of(*a, **k))
    one = loader(Loader, config_dir())
    monkeypatch.setattr(Loader, "_merged", {})
    done.clear()
    master = one.load_configuration("config", [], RunMode.MULTIRUN)
    for _ in range(3):
        assert [one.load_sweep_config(master, [f"fold={k}"]).fold for k in range(4)] == [0, 1, 2, 3]
    assert (done.count("load_configuration"), done.count("_compose_config_from_defaults_list")) == (5, 1)
    # Each job of a cluster takes the loader along, without the settings of all others.
    assert len(pickle.dumps(one)) < 20_000


@pytest.mark.parametrize("ours", [False, True])
def test_files_that_have_changed_are_read_anew(ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("loader", "command") if ours else ():
        monkeypatch.setattr(f"covidnet.launch.{module}.config_dir", lambda: tmp_path)
    for value in (1, 2):
        (tmp_path / "own.yaml").write_text(f"number: {value}\n")
        os.utime(tmp_path / "own.yaml", (value, value))
        found: Any = loader(Loader, tmp_path).load_configuration("own", [], RunMode.RUN)
        assert found.number == value


def test_where_classes_of_hydra_are_there_twice_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a job that another process has sent."""
    from hydra._internal.core_plugins import basic_sweeper

    ours, theirs = (loader(kind, config_dir()) for kind in (Loader, ConfigLoaderImpl))
    monkeypatch.setattr(Loader, "_merged", {})
    monkeypatch.setattr(basic_sweeper, "BasicSweeperConf", type("BasicSweeperConf", (), {}))
    for words in WORDS[1:3]:
        expected, found = (one.load_configuration("config", list(words), RunMode.RUN) for one in (theirs, ours))
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
    assert not Loader._merged
