"""The LightningModule: its losses, its logged names, and loading from a checkpoint."""

from __future__ import annotations

import csv
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from torch.utils.data import DataLoader

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import WeightsError
from covidnet.data.loading.dataset import FeatureDataset, whole_batch
from covidnet.learning.checkpoints import AtomicCheckpointIO
from covidnet.learning.losses import FocalLoss
from covidnet.learning.module import ClassificationModule
from tests.refusals import refused

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
]

DIM = 1024
OPTIM = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 0}
PREPROCESSING = {"fit": "squash", "image_size": 64}


def module_of(lr: float = 1e-3, **model: Any) -> ClassificationModule:
    torch.manual_seed(0)
    return ClassificationModule(
        {"name": "densenet121", "weights": "random", **model}, {**OPTIM, "lr": lr}, PREPROCESSING, "val/loss"
    )


def part(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    """Features and classes that a linear head can tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    features = rng.normal(0, 1, (count, DIM)) + 0.3 * (np.arange(DIM) % 3 == labels[:, None])
    return torch.from_numpy(features.astype(np.float32)), labels


def loader(count: int, seed: int, batch_size: int = 4) -> DataLoader[Any]:
    features, labels = part(count, seed)
    rows = pd.DataFrame({"image_id": [f"{seed}-{n}" for n in range(count)], "label": [CLASSES[n] for n in labels]})
    return DataLoader(FeatureDataset(features, rows), batch_size, collate_fn=whole_batch)


def trainer_of(folder: Path, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=settings.pop("max_epochs", 3),
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[LearningRateMonitor("epoch")],
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def logged(folder: Path) -> dict[str, list[float]]:
    """For each name in metrics.csv its values in their order."""
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def by_hand(module: ClassificationModule, count: int, seed: int) -> tuple[float, float]:
    """Loss and accuracy with numpy and scikit-learn."""
    features, labels = part(count, seed)
    linear = module.classifier.head.linear
    logits = features.double().numpy() @ linear.weight.detach().double().numpy().T + linear.bias.detach().numpy()
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    return log_loss(labels, probabilities), accuracy_score(labels, probabilities.argmax(1))


def test_losses_and_accuracies_have_their_names_and_are_means_over_images(tmp_path: Path) -> None:
    # A learning rate of zero: the model that was logged is the model that is there. Ten images in batches of four: a
    # mean over batches would differ.
    module = module_of(lr=0.0)
    trainer = trainer_of(tmp_path, max_epochs=1)
    trainer.fit(module, loader(10, 1), loader(7, 2))
    trainer.test(module, [loader(9, 3), loader(6, 4)], verbose=False)
    values = logged(tmp_path)
    for stage, count, seed in (("train", 10, 1), ("val", 7, 2), ("test", 9, 3), ("unseen", 6, 4)):
        loss, accuracy = by_hand(module, count, seed)
        assert values[f"{stage}/loss"] == [pytest.approx(loss, abs=1e-5)], stage
        assert values[f"{stage}/accuracy"] == [pytest.approx(accuracy, abs=1e-6)], stage
    assert set(values) - {"epoch", "step"} == {
        "lr", *(f"{stage}/{name}" for stage in ("train", "val", "test", "unseen") for name in ("loss", "accuracy"))
    }  # fmt: skip


def test_training_lowers_the_loss_and_moves_the_head_alone(tmp_path: Path) -> None:
    module = module_of()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer_of(tmp_path, max_epochs=4).fit(module, loader(30, 1), loader(12, 2))
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.head.linear.weight", "classifier.head.linear.bias"}
    assert logged(tmp_path)["train/loss"][-1] < 0.5 * logged(tmp_path)["train/loss"][0]


def test_the_learning_rate_halves_where_the_monitored_value_stands_still(tmp_path: Path) -> None:
    module = module_of(lr=1e-12)
    trainer_of(tmp_path, max_epochs=4).fit(module, loader(6, 1), loader(6, 2))
    assert logged(tmp_path)["lr"] == pytest.approx([1e-12, 1e-12, 5e-13, 2.5e-13])


def test_weight_decay_and_learning_rate_reach_the_optimizer() -> None:
    module = ClassificationModule({"name": "densenet121"}, {**OPTIM, "weight_decay": 0.25}, PREPROCESSING, "val/loss")
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 0.25)
    assert sum(parameter.numel() for parameter in group["params"]) == 3 * DIM + 3


def test_any_optimizer_gets_the_parameters_learning_rate_and_weight_decay() -> None:
    make = functools.partial(torch.optim.SGD, momentum=0.75)
    module = ClassificationModule("densenet121", {**OPTIM, "weight_decay": 0.25}, PREPROCESSING, optimizer=make)
    optimizer = module.configure_optimizers()["optimizer"]
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (1e-3, 0.25, 0.75)


def test_another_loss_is_for_training_alone_and_prediction_does_not_need_it(tmp_path: Path) -> None:
    weight = torch.tensor([2.0, 1.0, 0.5])
    module = ClassificationModule("densenet121", {**OPTIM, "lr": 0.0}, PREPROCESSING, loss=FocalLoss(2.0, weight))
    plain_loss, _ = by_hand(module, 7, 2)
    trainer_of(tmp_path, max_epochs=1).fit(module, loader(10, 1, 10), loader(7, 2))
    values = logged(tmp_path)
    features, labels = part(10, 1)
    expected = FocalLoss(2.0, weight)(module.classifier.classify(features), torch.from_numpy(labels))
    assert values["train/loss"] == [pytest.approx(expected.item(), abs=1e-5)]
    assert values["val/loss"] == [pytest.approx(plain_loss, abs=1e-5)]
    path = saved(module, tmp_path / "best.ckpt")
    content = torch.load(path, weights_only=True)
    assert "loss.weight" in content["state_dict"]
    assert set(content["hyper_parameters"]) == {"model", "optim", "preprocessing", "monitor"}
    assert_plain(content["hyper_parameters"])
    again = ClassificationModule.from_checkpoint(path)
    assert again.loss is None
    torch.testing.assert_close(again.classifier.classify(features), module.classifier.classify(features))


def test_a_backbone_that_is_not_frozen_is_trained_whole() -> None:
    module = module_of(freeze=False)
    (group,) = module.configure_optimizers()["optimizer"].param_groups
    assert len(group["params"]) == len(list(module.parameters()))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_anomaly_score_adds_its_share_to_the_loss(weight: float) -> None:
    module = module_of(name="anomaly_resnet", anomaly_weight=weight).eval()
    features = torch.randn(9, 512, generator=torch.Generator().manual_seed(0))
    batch = {"features": features, "label": torch.arange(9) % 3}
    out = module.validation_step(batch, 0)
    head = module.classifier.head
    with torch.no_grad():
        scores = (features @ head.anomaly.weight.T + head.anomaly.bias)[:, 0].double().numpy()
        probabilities = head(features).double().softmax(1).numpy()
    covid = np.arange(9) % 3 == 0
    # 5,000 draws of a standard normal have a mean of 0 and a deviation of 1, both to some hundredths.
    deviation = np.where(covid, np.maximum(0.0, 5.0 - scores), np.abs(scores)).mean()
    assert out["loss"].item() == pytest.approx(
        log_loss(np.arange(9) % 3, probabilities) + weight * deviation, abs=1e-5 + weight * 0.1
    )
    np.testing.assert_allclose(out["extras"]["anomaly_score"], scores, atol=1e-5)
    module.training_step(batch, 0)
    for wrong in (-1, "much"):
        with refused("model.anomaly_weight", wrong, "a number of at least 0"):
            module_of(name="anomaly_resnet", anomaly_weight=wrong)


def test_images_too_small_for_a_network_are_refused_and_the_smallest_go_through() -> None:
    for name, least in (("inception_v3", 75), ("densenet121", 32), ("cnn", 16)):
        model = {"name": name, "freeze": name != "cnn"}
        with refused("data.image_size", least - 1, f"{least} or more"):
            ClassificationModule(model, OPTIM, {"fit": "squash", "image_size": least - 1}, "val/loss")
        module = ClassificationModule(model, OPTIM, {"fit": "squash", "image_size": least}, "val/loss").eval()
        with torch.no_grad():
            assert module(torch.zeros(2, module.classifier.spec.channels, least, least)).isfinite().all()


def test_batches_of_features_and_of_images_give_the_same_logits_and_loss() -> None:
    module = module_of().eval()
    images = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        features = module.classifier.features(images)
        from_images = module.validation_step({"image": images, "label": labels}, 0)
        from_features = module.validation_step({"features": features, "label": labels}, 0)
        torch.testing.assert_close(module(images), from_images["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(from_images["logits"], from_features["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(from_images["loss"], from_features["loss"], atol=1e-4, rtol=0)
    assert from_images["logits"].std() > 1e-2


# --- checkpoints ----------------------------------------------------------------------------------------------------


def saved(module: ClassificationModule, path: Path) -> Path:
    trainer = trainer_of(path.parent)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(module_of(dropout=0.25), tmp_path_factory.mktemp("checkpoint") / "best.ckpt")


def assert_plain(value: Any) -> None:
    assert type(value) in (dict, list, str, int, float, bool, type(None)), type(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        assert_plain(item)


def test_settings_in_a_checkpoint_are_plain_whatever_they_were_given_as(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(module_of().classifier.backbone.state_dict(), weights)
    settings = OmegaConf.create({"optim": OPTIM, "preprocessing": {**PREPROCESSING, "nested": {"list": [1, 2]}}})
    module = ClassificationModule(
        {"name": "densenet121", "weights": weights}, settings.optim, settings.preprocessing, "val/loss"
    )
    loaded = torch.load(saved(module, tmp_path / "best.ckpt"), weights_only=True)["hyper_parameters"]
    assert_plain(loaded)
    assert loaded == {
        "model": {"name": "densenet121", "weights": "weights.pth"},
        "optim": OPTIM,
        "preprocessing": {**PREPROCESSING, "nested": {"list": [1, 2]}},
        "monitor": "val/loss",
    }


def test_a_module_comes_back_from_its_checkpoint_alone(checkpoint: Path) -> None:
    first = module_of(dropout=0.25).eval()
    again = ClassificationModule.from_checkpoint(checkpoint)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert not any(part.training for part in again.modules())
    assert again.hparams["preprocessing"] == PREPROCESSING
    assert again.classifier.head.dropout.p == 0.25
    with torch.no_grad():
        torch.testing.assert_close(again(images), first(images), atol=0, rtol=0)


@pytest.mark.parametrize("channels", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_weights_file_of_a_checkpoint_may_be_gone(tmp_path: Path, channels: int) -> None:
    state = module_of(weights_seed=7).classifier.backbone.state_dict()
    if channels == 1:
        state["features.conv0.weight"] = state["features.conv0.weight"].sum(1, keepdim=True)
    weights = tmp_path / "weights.pth"
    torch.save(state, weights)
    first = module_of(weights=str(weights)).eval()
    saved(first, tmp_path / "best.ckpt")
    weights.unlink()
    again = ClassificationModule.from_checkpoint(tmp_path / "best.ckpt")
    assert again.classifier.spec == first.classifier.spec
    assert again.classifier.spec.channels == channels
    assert again.classifier.backbone_hash() == first.classifier.backbone_hash()
    # What is told of the weights is the name of their file, and that stays so when the module is saved again.
    assert again.classifier.backbone.weights == "weights.pth"
    loaded = torch.load(saved(again, tmp_path / "again.ckpt"), weights_only=True)
    assert loaded["hyper_parameters"] == torch.load(tmp_path / "best.ckpt", weights_only=True)["hyper_parameters"]


def test_a_checkpoint_of_imagenet_weights_needs_no_network(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["model"]["weights"] = "imagenet"
    torch.save(content, tmp_path / "best.ckpt")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were asked for")

    monkeypatch.setattr("covidnet.models.backbones.path_of", refuse)
    again = ClassificationModule.from_checkpoint(tmp_path / "best.ckpt")
    assert again.hparams["model"]["weights"] == "imagenet"


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _code(path: Path, sprung: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Trap(sprung)}, path)


def _bare_pickle(path: Path, sprung: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Trap(sprung)}))


def _network(path: Path, sprung: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, path)


def _tensor(path: Path, sprung: Path) -> None:
    torch.save(torch.zeros(3), path)


def _other_layers(path: Path, sprung: Path) -> None:
    settings = {"model": {"name": "densenet121", "weights": "random"}, "optim": OPTIM, "preprocessing": {}}
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": {**settings, "monitor": "val/loss"}}, path)


def _empty(path: Path, sprung: Path) -> None:
    path.touch()


def _text(path: Path, sprung: Path) -> None:
    path.write_text("<html>not found</html>\n")


def _folder(path: Path, sprung: Path) -> None:
    path.mkdir()


def _nothing(path: Path, sprung: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make", [_code, _bare_pickle, _network, _tensor, _other_layers, _empty, _text, _folder, _nothing]
)
def test_what_is_no_checkpoint_is_refused_in_one_line_and_its_code_is_not_run(
    tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    path, sprung = tmp_path / "best.ckpt", tmp_path / "sprung"
    make(path, sprung)
    with pytest.raises(WeightsError, match=r"best\.ckpt: not a covidnet checkpoint .*run folder$") as caught:
        ClassificationModule.from_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not sprung.exists()


def test_half_a_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    whole = checkpoint.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"half\.ckpt"):
        ClassificationModule.from_checkpoint(tmp_path / "half.ckpt")


def test_the_bar_of_an_epoch_does_not_show_the_loggers_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from covidnet.fold.run import _ProgressBar

    shown = {"v_num": "rves", "val/loss": 0.5}
    monkeypatch.setattr(pl.callbacks.RichProgressBar, "get_metrics", lambda *arguments: dict(shown))
    assert _ProgressBar().get_metrics(None, None) == {"val/loss": 0.5}  # type: ignore[arg-type]


def test_a_checkpoint_of_the_default_classes_names_none_and_others_name_theirs(tmp_path: Path) -> None:
    assert set(module_of().hparams) == {"model", "optim", "preprocessing", "monitor"}
    module = ClassificationModule("densenet121", classes=["Rest", "COVID-19"], positive="COVID-19")
    assert module.hparams["classes"] == ["Rest", "COVID-19"]
    assert module.hparams["positive"] == "COVID-19"
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, default_root_dir=tmp_path, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ClassificationModule.from_checkpoint(tmp_path / "last.ckpt")
    assert again.classes == module.classes
    assert again.classifier.head.linear.out_features == 2


def test_the_positive_class_is_the_anomaly() -> None:
    """The loss is the one that the first of three classes has, where the third is moved to the front."""
    losses = []
    for positive, order in (("COVID-19", [0, 1, 2]), ("Pneumonia", [2, 0, 1])):
        torch.manual_seed(0)
        module = ClassificationModule("anomaly_resnet", OPTIM, PREPROCESSING, classes=CLASSES.names, positive=positive)
        module.eval()
        head = module.classifier.head
        with torch.no_grad():
            head.linear.weight.zero_()
            head.linear.bias.zero_()
        features = torch.randn(9, 512, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor(order)[torch.arange(9) % 3]
        losses.append(module.validation_step({"features": features, "label": labels}, 0)["loss"].item())
    assert losses[0] == pytest.approx(losses[1])
