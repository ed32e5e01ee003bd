"""The predictions that a run collects: of which images, and from which model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch.utils.data import DataLoader

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.callbacks.prediction_writer import PredictionWriter
from covidnet.data.loading.dataset import FeatureDataset, whole_batch
from covidnet.evaluation.predictions import read_predictions
from covidnet.learning.module import ClassificationModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]

DIM = 1024
PARTS = ("train", "val", "test", "unseen")
PROBABILITIES = ["p_covid19", "p_normal", "p_pneumonia"]


def features_of(part: str, count: int = 9) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(PARTS.index(part)))


def rows_of(part: str, count: int = 9) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"{part}-{n}" for n in range(count)],
            "path": [f"images/{part}-{n}.png" for n in range(count)],
            "patient_id": [np.nan if n == 2 else f"patient {n}" for n in range(count)],
            "label": [CLASSES[n * 2 % 3] for n in range(count)],
        }
    )


ROWS = {part: rows_of(part) for part in PARTS}


def loader(part: str) -> DataLoader[Any]:
    return DataLoader(FeatureDataset(features_of(part), ROWS[part]), 4, collate_fn=whole_batch)


def module_of(seed: int = 0) -> ClassificationModule:
    torch.manual_seed(seed)
    optim = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
    return ClassificationModule({"name": "densenet121"}, optim, {}, "val/loss")


def trainer_of(writer: PredictionWriter, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[writer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def expected(module: ClassificationModule, part: str) -> np.ndarray:
    linear = module.classifier.head.linear
    return softmax(features_of(part).numpy() @ linear.weight.detach().numpy().T + linear.bias.detach().numpy(), axis=1)


def test_the_file_holds_the_probabilities_of_every_image_of_the_three_splits(tmp_path: Path) -> None:
    writer, module = PredictionWriter(), module_of()
    trainer = trainer_of(writer)
    trainer.validate(module, loader("val"), verbose=False)
    trainer.test(module, [loader("test"), loader("unseen")], verbose=False)
    path = tmp_path / "predictions.csv"
    given = writer.write(path, ROWS, fold=3)
    table = read_predictions(path)
    assert len(given) == len(table) == 27
    assert list(table.columns) == [
        "image_id", "path", "patient_id", "label", "split", "fold", *PROBABILITIES, "prediction"
    ]  # fmt: skip
    for part in ("val", "test", "unseen"):
        found = table[table["split"] == part].set_index("image_id").loc[list(ROWS[part]["image_id"])]
        np.testing.assert_allclose(found[PROBABILITIES], expected(module, part), atol=1e-6)
        for column in ("path", "patient_id", "label"):
            assert found[column].fillna("none").tolist() == ROWS[part][column].fillna("none").tolist()
        assert found["prediction"].tolist() == [CLASSES[n] for n in expected(module, part).argmax(1)]
        assert set(found["fold"]) == {3}


def test_validation_during_the_fit_is_not_collected() -> None:
    writer = PredictionWriter()
    trainer = trainer_of(writer, max_epochs=2)
    trainer.fit(module_of(), loader("train"), loader("val"))
    assert writer.collected == {}


def test_the_predictions_are_those_of_the_model_that_was_asked_last() -> None:
    writer, other = PredictionWriter(), module_of(1)
    trainer = trainer_of(writer)
    for module in (module_of(0), other):
        trainer.validate(module, loader("val"), verbose=False)
        trainer.test(module, [loader("test"), loader("unseen")], verbose=False)
    table = writer.table(ROWS, fold=0)
    for part in ("val", "test", "unseen"):
        np.testing.assert_allclose(table[table["split"] == part][PROBABILITIES], expected(other, part), atol=1e-6)


def test_images_that_another_model_was_asked_about_are_forgotten() -> None:
    writer, rows = PredictionWriter(), rows_of("test", 4)
    trainer_of(writer).test(module_of(0), [loader("test"), loader("unseen")], verbose=False)
    fewer = DataLoader(FeatureDataset(features_of("test")[:4], rows), 4, collate_fn=whole_batch)
    trainer_of(writer).test(module_of(1), fewer, verbose=False)
    assert writer.table(ROWS, fold=0)["image_id"].tolist() == rows["image_id"].tolist()


def test_what_a_head_says_beside_the_classes_is_written_for_its_own_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    optim = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
    module = ClassificationModule({"name": "bayesian_cnn", "dropout": 0.5, "samples": 20}, optim, {}, "val/loss")
    features = {
        part: torch.randn(9, 2048, generator=torch.Generator().manual_seed(at)) for at, part in enumerate(PARTS)
    }
    loaders = {
        part: DataLoader(FeatureDataset(features[part], ROWS[part]), 4, collate_fn=whole_batch) for part in PARTS
    }
    writer = PredictionWriter()
    trainer = trainer_of(writer)
    trainer.validate(module, loaders["val"], verbose=False)
    trainer.test(module, [loaders["test"], loaders["unseen"]], verbose=False)
    writer.write(tmp_path / "predictions.csv", ROWS, fold=3)
    table = read_predictions(tmp_path / "predictions.csv")
    assert list(table.columns)[-3:] == ["prediction", "predictive_entropy", "mutual_information"]
    # The entropy of the written mean probabilities, from the file alone.
    np.testing.assert_allclose(table["predictive_entropy"], entropy(table[PROBABILITIES].to_numpy(), axis=1), atol=1e-5)
    with torch.no_grad():
        told = module.eval().classifier.head.extras(features["unseen"])["mutual_information"]
    found = table[table["split"] == "unseen"].set_index("image_id").loc[list(ROWS["unseen"]["image_id"])]
    np.testing.assert_allclose(found["mutual_information"], told, atol=1e-5)
    # A plain head asked afterwards has none, and leaves none of the old ones.
    plain = module_of()
    trainer.test(plain, [loader("test"), loader("unseen")], verbose=False)
    assert set(writer.extras) == {"val"}
