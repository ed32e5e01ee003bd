"""The values logged for every class, against scikit-learn."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from sklearn.metrics import f1_score, recall_score
from torch.utils.data import DataLoader

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.callbacks.class_metrics import ClassMetrics
from covidnet.data.loading.dataset import FeatureDataset, whole_batch
from covidnet.learning.module import ClassificationModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]

DIM = 1024
# Classes of different sizes, so that an average over classes or a wrong order shows.
COUNTS = {"train": (9, 6, 3), "val": (5, 9, 7), "test": (11, 4, 8), "unseen": (3, 12, 6)}


def part(stage: str) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(list(COUNTS).index(stage))
    labels = rng.permutation(np.repeat(np.arange(3), COUNTS[stage]))
    # So little signal that every class is taken for every other.
    features = rng.normal(0, 1, (len(labels), DIM)) + 0.08 * (np.arange(DIM) % 3 == labels[:, None])
    return torch.from_numpy(features.astype(np.float32)), labels


def loader(stage: str) -> DataLoader[Any]:
    features, labels = part(stage)
    rows = pd.DataFrame({"image_id": [str(n) for n in range(len(labels))], "label": [CLASSES[n] for n in labels]})
    return DataLoader(FeatureDataset(features, rows), 4, collate_fn=whole_batch)


def module_of() -> ClassificationModule:
    torch.manual_seed(0)
    optim = {"lr": 3e-4, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
    return ClassificationModule({"name": "densenet121"}, optim, {}, "val/loss")


def trainer_of(folder: Path, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[ClassMetrics()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def logged(folder: Path) -> dict[str, list[float]]:
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def reference(module: ClassificationModule, stage: str) -> dict[str, float]:
    """What scikit-learn says of the module's answers; specificity is the recall of not being of the class."""
    features, labels = part(stage)
    linear = module.classifier.head.linear
    called = (features.numpy() @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()).argmax(1)
    values = {}
    for number, name in enumerate(CLASSES):
        values[f"{stage}/{name}/sensitivity"] = recall_score(labels == number, called == number)
        values[f"{stage}/{name}/specificity"] = recall_score(labels != number, called != number)
        values[f"{stage}/{name}/f1"] = f1_score(labels == number, called == number)
    return values


def of_classes(values: dict[str, Any]) -> set[str]:
    return {name for name in values if name.count("/") == 2}


def test_every_class_of_every_split_agrees_with_scikit_learn(tmp_path: Path) -> None:
    module = module_of()
    trainer = trainer_of(tmp_path, max_epochs=2)
    trainer.fit(module, loader("train"), loader("val"))
    trainer.test(module, [loader("test"), loader("unseen")], verbose=False)
    values = logged(tmp_path)
    expected = {}
    for stage in ("val", "test", "unseen"):
        expected |= reference(module, stage)
    assert of_classes(values) == set(expected)
    assert len(expected) == 27
    for name, value in expected.items():
        assert values[name][-1] == pytest.approx(value, abs=1e-6), name
    # The answers are neither all right nor all wrong, so that a wrong count shows.
    assert sum(0.0 < value < 1.0 for value in expected.values()) > 20
    assert len(set(expected.values())) > 15


def test_epochs_and_the_sanity_check_do_not_add_up(tmp_path: Path) -> None:
    module = module_of()
    module.optim["lr"] = 0.0
    trainer_of(tmp_path, max_epochs=3, num_sanity_val_steps=2).fit(module, loader("train"), loader("val"))
    values = logged(tmp_path)
    for name, value in reference(module, "val").items():
        assert values[name] == pytest.approx([value] * 3, abs=1e-6), name


def test_a_second_test_begins_anew(tmp_path: Path) -> None:
    module = module_of()
    trainer = trainer_of(tmp_path)
    trainer.test(module, [loader("unseen"), loader("test")], verbose=False)
    trainer.test(module, [loader("test"), loader("unseen")], verbose=False)
    for stage in ("test", "unseen"):
        for name, value in reference(module, stage).items():
            assert float(trainer.callback_metrics[name]) == pytest.approx(value, abs=1e-6), name


def test_a_test_of_one_loader_logs_nothing_of_the_other(tmp_path: Path) -> None:
    module = module_of()
    trainer = trainer_of(tmp_path)
    trainer.test(module, loader("test"), verbose=False)
    assert of_classes(dict(trainer.callback_metrics)) == set(reference(module, "test"))
