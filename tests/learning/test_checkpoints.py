"""Checkpoints are complete or absent."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from covidnet.base.atomic import WriteError
from covidnet.learning.checkpoints import AtomicCheckpointIO

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("covidnet.base.atomic.os.fsync", full)


def test_what_is_saved_is_loaded_and_the_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.arange(3)}, "epoch": 2}, path)
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert found["epoch"] == 2
    assert found["state_dict"]["a"].tolist() == [0, 1, 2]
    assert torch.load(path, weights_only=True)["epoch"] == 2
    assert [file.name for file in path.parent.iterdir()] == ["best.ckpt"]


def test_a_full_disk_leaves_the_old_checkpoint_whole_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    before = path.read_bytes()
    fill_the_disk(monkeypatch)
    with pytest.raises(WriteError, match=r"best\.ckpt.*ENOSPC") as caught:
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(WriteError, match=r"checkpoints/best\.ckpt"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "checkpoints" / "best.ckpt")


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.layer(batch[0]).square().mean()

    def on_train_epoch_end(self) -> None:
        self.log("score", -float(self.current_epoch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


def test_a_disk_that_fills_up_during_the_fit_leaves_the_last_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Filling(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 2:
                fill_the_disk(monkeypatch)

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=5,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            Filling(),
            ModelCheckpoint(tmp_path, "best", monitor="score", save_last=True, enable_version_counter=False),
        ],
        plugins=[AtomicCheckpointIO()],
    )
    with pytest.raises(WriteError, match=str(tmp_path)):
        trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(4, 1))))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    for name in ("best.ckpt", "last.ckpt"):
        assert torch.load(tmp_path / name, weights_only=True)["epoch"] == 1


def test_a_checkpoint_that_waits_is_the_one_of_its_moment(tmp_path: Path) -> None:
    path, weights = tmp_path / "best.ckpt", torch.zeros(3)
    waiting = AtomicCheckpointIO(seconds=3600.0)
    waiting.save_checkpoint({"state_dict": {"a": weights}, "epoch": 1}, path)
    weights += 1
    assert not path.exists()
    waiting.flush()
    assert torch.load(path, weights_only=True)["state_dict"]["a"].tolist() == [0.0, 0.0, 0.0]


def test_of_several_that_wait_under_one_name_the_last_is_written(tmp_path: Path) -> None:
    waiting = AtomicCheckpointIO(seconds=3600.0)
    for epoch in range(3):
        waiting.save_checkpoint({"epoch": epoch}, tmp_path / "best.ckpt")
    assert waiting.load_checkpoint(tmp_path / "best.ckpt")["epoch"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_a_checkpoint_that_waits_can_be_removed(tmp_path: Path) -> None:
    waiting = AtomicCheckpointIO(seconds=3600.0)
    waiting.save_checkpoint({"epoch": 1}, tmp_path / "best.ckpt")
    waiting.remove_checkpoint(tmp_path / "best.ckpt")
    waiting.flush()
    assert not list(tmp_path.iterdir())


def test_no_moment_is_without_the_checkpoint_that_waits(tmp_path: Path) -> None:
    """A signal that arrives while a newer one takes its place must find one of them."""
    path, writer, found = tmp_path / "resume.ckpt", AtomicCheckpointIO(seconds=1000.0), []

    class Older:
        def __del__(self) -> None:
            found.append(writer.waiting(path))

    writer.save_checkpoint({"epoch": 1, "older": Older()}, path)
    writer.save_checkpoint({"epoch": 2}, path)
    assert found == [{"epoch": 2}]
