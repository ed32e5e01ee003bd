"""Every model of conf/model trains a step through the real run, and its checkpoint predicts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from covidnet.base.trust import read_yaml
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.reading.images import read_image
from covidnet.evaluation.predictions import EXTRAS, columns_of, read_predictions
from covidnet.launch.command import config_dir
from covidnet.learning.module import ClassificationModule
from covidnet.models.networks import MODELS, NETWORKS
from covidnet.models.saliency import saliency
from covidnet.serving.exported import exported
from covidnet.serving.open_model import open_model
from tests.conftest import QUICK
from tests.refusals import refused

# Those of any network of a library, or of one's own, have tests of their own.
ANY = {"timm", "torchvision", "custom"}
NAMES = sorted({path.stem for path in (config_dir() / "model").glob("*.yaml")} - ANY)
ONCE = (
    "fold=3",
    "data.images_per_class=11",
    "trainer.max_epochs=1",
    "data.num_workers=0",
    "explain=off",
)
PLAIN = tuple(word for word in QUICK if not word.startswith("data.image_size"))
SMALL = ("cnn", "densenet121", "resnet8")
"""The others are built and trained in `make test-all` alone."""

OWN = {
    "bayesian_cnn": ["predictive_entropy", "mutual_information"],
    "anomaly_resnet": ["anomaly_score"],
}
STANDS_ON = {"bayesian_cnn": "resnet50"}
"""A model whose frozen network is that of another, whose stored features it takes."""


pytestmark = pytest.mark.usefixtures("copies_once")


def least(name: str) -> int:
    return max(NETWORKS[MODELS[name][0]].least, 32)


def once(name: str) -> tuple[str, ...]:
    return (*ONCE, f"model={name}", f"data.image_size={least(name)}", "augment=none")


def test_all_models_of_the_field_are_there() -> None:
    assert sorted(set(MODELS) - {"resnet18"}) == NAMES


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in SMALL)) for n in NAMES])
def test_a_model_trains_a_step_and_its_checkpoint_predicts(
    name: str, trained: Callable[..., Path], cache: Path
) -> None:
    network = NETWORKS[MODELS[name][0]]
    on = STANDS_ON.get(name)
    if on is not None:
        trained(*once(on))
    stored = sorted((cache / "features").rglob("*.safetensors"))
    folder = trained(*once(name))
    if on is not None:
        assert sorted((cache / "features").rglob("*.safetensors")) == stored
    header = list(pd.read_csv(folder / "predictions.csv", nrows=1))
    assert header == [*columns_of(), *OWN.get(name, [])]
    table = read_predictions(folder / "predictions.csv")
    facts = json.loads((folder / "environment.json").read_text())
    frozen = network.imagenet is not None
    assert (facts["backbone_sha256"]["before_fit"] == facts["backbone_sha256"]["after_fit"]) is frozen

    module = ClassificationModule.from_checkpoint(folder / "checkpoints/best.ckpt")
    assert module.hparams["model"]["name"] == name
    rows = table.query("split == 'test'")
    spec = module.classifier.spec
    fit, normalise = SquareFit(least(name), "squash"), Normalise(tuple(spec.mean), tuple(spec.std))
    root = Path(facts["data"]["root"])
    images = torch.stack([torch.from_numpy(normalise(fit(read_image(root / path)))) for path in rows["path"]])
    with torch.no_grad():
        features = module.classifier.features(images)
        found = module.classifier.classify(features).softmax(1).numpy()
        extras = module.classifier.extras(features)
    np.testing.assert_allclose(found, rows[["p_covid19", "p_normal", "p_pneumonia"]], atol=1e-4)
    assert set(extras) == set(OWN.get(name, []))
    for column in extras:
        assert column in EXTRAS
        np.testing.assert_allclose(extras[column], rows[column], atol=1e-3)

    with warnings.catch_warnings():
        # A network after one step may find nothing in an image of 32 pixels, and says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        maps = saliency(module.classifier, images[:1])
    assert maps.shape == (1, least(name), least(name))
    assert 0.0 <= maps.min() <= maps.max() <= 1.0


# Maps that are normalised after their mean, so that the file cannot draw them; and tokens.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "engine"), [("test_convnext", "gradcam", "onnx"), ("test_vit", "gradient", "torch")]
)
def test_a_network_of_a_library_trains_from_the_feature_store_and_is_exported(
    name: str, method: str, engine: str, train: Callable[..., Path]
) -> None:
    pytest.importorskip("onnxruntime")
    words = ["fold=3", "trainer.max_epochs=1", "augment=none", f"features.engine={engine}"]
    words += ["model=timm", f"model.backbone={name}", f"explain.method={method}"]
    words += ["explain.localisation_images=0", "explain.sanity_images=2"]
    folder = train(*words, defaults=PLAIN)
    config = read_yaml(folder / "config.yaml")
    assert (config["data"]["image_size"], config["model"]["name"]) == (160, f"timm/{name}")
    assert list((folder / "panels").glob("*.png"))
    model = open_model(folder)
    assert model.explains is (name != "test_vit")
    assert model.gated
    square = np.random.default_rng(0).integers(0, 256, (2, 160, 160), np.uint8)
    (folder / "model.onnx").write_bytes(exported(model))
    file = open_model(folder / "model.onnx")
    np.testing.assert_allclose(file.outputs(square).members, model.outputs(square).members, atol=1e-4)
    assert not file.explains


def test_a_transformer_is_refused_before_any_image_where_maps_are_wanted(train: Callable[..., Path]) -> None:
    with refused("explain.method", "gradcam", "gradient, or explain=off"):
        train("model=timm", "model.backbone=test_vit", "data=folder", "data.root=/nowhere", defaults=())
