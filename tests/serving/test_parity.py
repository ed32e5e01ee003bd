"""An image has the same result from a checkpoint, the exported file, the command line and the web application."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from starlette.testclient import TestClient

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.reading.decoders import Decoders
from covidnet.export import main as export
from covidnet.launch.command import compose
from covidnet.predict import main as predict
from covidnet.serving.answers import Predictor
from covidnet.serving.open_model import open_model
from covidnet.serving.record import add_record
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.server import create_app
from tests.serving.conftest import IMAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def certain(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep with low temperatures: models trained on few small images give nearly the same output for all."""
    copy = tmp_path_factory.mktemp("certain") / "sweep"
    shutil.copytree(sweep, copy)
    for fold, temperature in ((0, 0.2), (1, 0.3)):
        file = copy / f"fold={fold}/checkpoints/best.ckpt"
        add_record(file, {**torch.load(file, weights_only=True)["serving"], "temperature": temperature})
    return copy


def over_the_network(checkpoint: Path, paths: list[Path]) -> np.ndarray:
    model = open_model(checkpoint)
    decoders = Decoders(2)
    with TestClient(create_app(model, Predictor(model, "warn"), decoders, WebLimits(rate=0))) as client:
        answers = [client.post("/v1/predict", content=path.read_bytes()).json() for path in paths]
    return np.array([[answer["probabilities"][label] for label in CLASSES] for answer in answers])


def on_the_command_line(checkpoint: Path, images: Path, out: Path) -> np.ndarray:
    given = [f"checkpoint='{checkpoint}'", f"input='{images}'", f"out='{out}'", "gate=warn", "progress=false"]
    predict(compose(given, "predict"))
    table = pd.read_csv(out / "predictions.csv")
    assert list(table["path"]) == sorted(path.name for path in images.iterdir())
    return table[list(CLASSES.columns)].to_numpy()


@pytest.fixture(scope="module")
def exported(certain: Path) -> Path:
    export(compose([f"checkpoint='{certain}'", "images=8"], "export"))
    return certain / "model.onnx"


def check(sweep: Path, exported: Path, images: Path, tmp_path: Path) -> None:
    paths = sorted(images.iterdir())
    found = {
        "torch": on_the_command_line(sweep, images, tmp_path / "torch"),
        "onnx": on_the_command_line(exported, images, tmp_path / "onnx"),
        "rest": over_the_network(sweep, paths),
        "rest, onnx": over_the_network(exported, paths),
    }
    for name, probabilities in found.items():
        assert probabilities.shape == (len(paths), len(CLASSES)), name
        np.testing.assert_allclose(probabilities, found["torch"], atol=1e-4, err_msg=name)
        assert (probabilities.argmax(axis=1) == found["torch"].argmax(axis=1)).all(), name
    # Results differ between images.
    assert found["torch"].std(axis=0).min() > 0.03


def test_fifty_phantoms_have_the_same_results_everywhere(
    certain: Path, exported: Path, images: Path, tmp_path: Path
) -> None:
    assert len(list(images.iterdir())) == IMAGES
    check(certain, exported, images, tmp_path)


def test_fifty_real_images_have_the_same_results_everywhere(
    certain: Path, exported: Path, kit: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    chosen = sorted((kit / "Data/test").rglob("*.jpg"))[:: 232 // IMAGES][:IMAGES]
    assert len(chosen) == IMAGES
    for n, path in enumerate(chosen):
        (images / f"{n:02d}.jpg").symlink_to(path)
    check(certain, exported, images, tmp_path)
