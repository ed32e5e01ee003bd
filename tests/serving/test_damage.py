"""A damaged model file, or one with an invalid record, is rejected in one line and never predicts."""

from __future__ import annotations

import base64
import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from covidnet.base.errors import CovidnetError, WeightsError
from covidnet.base.trust import archive_damage
from covidnet.data.reading.thumbnails import read_arrays, write_arrays
from covidnet.gate.gate import InputGate
from covidnet.learning.checkpoints import content_sha256, read_checkpoint
from covidnet.learning.module import ClassificationModule
from covidnet.serving.exported import exported
from covidnet.serving.model import Outputs, ServedModel
from covidnet.serving.onnx_model import SHA256, _gate
from covidnet.serving.open_model import open_model
from covidnet.serving.record import add_record, serving_record

Content = dict[str, Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network, with everything that a run adds to it."""
    torch.manual_seed(0)
    optim = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
    preprocessing = {"image_size": 32, "fit": "squash"}
    module = ClassificationModule(
        {"name": "cnn", "weights": "random", "freeze": False}, optim, preprocessing, "val/loss"
    ).eval()
    file = tmp_path_factory.mktemp("model") / "best.ckpt"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, file)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 64, 64), np.uint8)
    features = random.normal(size=(24, module.classifier.backbone.features_dim)).astype(np.float32)
    gate = InputGate.fit(pixels, features)
    training = {"name": "phantom", "films": {"COVID-19": 8, "Normal": 8, "Pneumonia": 8}}
    add_record(file, serving_record(fold=3, temperature=1.5, gate=gate, training=training))
    return file


@pytest.fixture(scope="module")
def onnx_file(checkpoint: Path) -> Path:
    file = checkpoint.with_name("model.onnx")
    file.write_bytes(exported(open_model(checkpoint)))  # type: ignore[arg-type]
    return file


def changed(checkpoint: Path, file: Path, change: Callable[[Content], object], *, seal: bool) -> Path:
    """The checkpoint with a change, with or without a matching hash."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    if isinstance(content["serving"], dict):
        content["serving"].pop("sha256", None)
        if seal:
            content["serving"]["sha256"] = content_sha256(content)
    torch.save(content, file)
    return file


def refused(file: Path, words: str) -> None:
    with pytest.raises(CovidnetError, match=words) as told:
        open_model(file)
    assert file.name in str(told.value)
    assert "\n" not in str(told.value)


def test_an_undamaged_model_opens_without_a_log_line(checkpoint: Path, onnx_file: Path, caplog: Any) -> None:
    for file in (checkpoint, onnx_file):
        model = open_model(file)
        assert model.example is not None
        assert model.example.shape == (1, 3)
        assert model.gated
    assert caplog.text == ""


@pytest.mark.slow
def test_no_flipped_bit_of_a_checkpoint_predicts(checkpoint: Path, tmp_path: Path) -> None:
    whole, expected = checkpoint.read_bytes(), content_sha256(torch.load(checkpoint, weights_only=True))
    noticed = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / "best.ckpt").write_bytes(damaged)
        try:
            # Some bytes are only padding between the entries.
            assert content_sha256(read_checkpoint(tmp_path / "best.ckpt")) == expected
        except Exception:
            noticed += 1
            with pytest.raises(WeightsError):
                ClassificationModule.from_checkpoint(tmp_path / "best.ckpt")
    assert noticed > 40


def test_changed_weights_settings_and_gate_do_not_match_the_hash(checkpoint: Path, tmp_path: Path) -> None:
    def head(content: Content) -> None:
        content["state_dict"]["classifier.head.linear.weight"][0, 0] += 1e-6

    def settings(content: Content) -> None:
        content["hyper_parameters"]["preprocessing"]["fit"] = "pad"

    def gate(content: Content) -> None:
        content["serving"]["gate"]["limits"] *= 2

    for change in (head, settings, gate):
        content = torch.load(checkpoint, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "best.ckpt")
        refused(tmp_path / "best.ckpt", "damaged .it does not match its hash")


def test_a_checkpoint_without_a_hash_opens_with_one_line(checkpoint: Path, tmp_path: Path, caplog: Any) -> None:
    def old(content: Content) -> None:
        del content["serving"]["example"]

    file = changed(checkpoint, tmp_path / "old.ckpt", old, seal=False)
    with caplog.at_level(logging.WARNING):
        assert open_model(file).facts == open_model(checkpoint).facts
    assert len(caplog.records) == 1
    assert "old.ckpt: has no hash" in caplog.text


def put(*keys: str, value: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        node: Any = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        node: Any = content
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]

    return change


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("state_dict", "classifier.head.linear.bias", value=torch.full((3,), NAN)), "bias is not finite"),
        (put("serving", "format", value=99), "newer covidnet"),
        (put("serving", "format", value="1"), "format=1"),
        (drop("serving", "format"), "format=None"),
        (put("serving", value=[1, 2]), "best.ckpt"),
        (put("serving", "fold", value="three"), "folds"),
        (put("serving", "fold", value=11), "folds"),
        (put("serving", "temperature", value=NAN), "temperatures"),
        (put("serving", "temperature", value=-1.0), "temperatures"),
        (put("serving", "training", value="phantom"), "best.ckpt"),
        (put("serving", "training", "films", value={"COVID-19": [1]}), "training"),
        (put("serving", "versions", value={"torch": 2}), "versions"),
        (put("serving", "maps", value=3), "best.ckpt"),
        (put("serving", "gate", "limits", value=torch.full((4,), NAN)), "limits is not finite"),
        (put("serving", "gate", "numbers", value=torch.full((5,), NAN)), "numbers is not finite"),
        (put("serving", "gate", "limits", value=torch.zeros(3)), "not the arrays"),
        (drop("serving", "gate", "films_mean"), "films_mean"),
        (put("serving", "gate", value={"limits": 3}), "best.ckpt"),
        (put("serving", "gate", "features_mean", value=torch.zeros(7)), "best.ckpt"),
        (put("serving", "example", value=[1.0, 0.0, 0.0]), "its output for the stored example"),
        (put("serving", "example", value=[NAN, NAN, NAN]), "its output for the stored example"),
        (put("serving", "example", value=["x"]), "best.ckpt"),
        (put("hyper_parameters", "preprocessing", "image_size", value=100_000), "image_size=100000"),
        (put("hyper_parameters", "preprocessing", "image_size", value="32"), "image_size=32"),
        (drop("hyper_parameters", "preprocessing", "fit"), "fit"),
        (put("hyper_parameters", "preprocessing", value=None), "best.ckpt"),
    ],
)
def test_an_invalid_record_is_a_one_line_error(
    change: Callable[[Content], None], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Even if its hash is right."""
    refused(changed(checkpoint, tmp_path / "best.ckpt", change, seal=True), words)


@pytest.mark.slow
def test_no_flipped_bit_of_an_exported_model_predicts(onnx_file: Path, tmp_path: Path) -> None:
    whole = onnx_file.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 20).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        (tmp_path / "model.onnx").write_bytes(damaged)
        refused(tmp_path / "model.onnx", "damaged|not an exported covidnet model|newer|classes")


def test_an_exported_model_without_a_hash_is_compared_by_its_example(
    onnx_file: Path, tmp_path: Path, caplog: Any
) -> None:
    file = tmp_path / "model.onnx"

    def save(change: Callable[[Any, Content], object]) -> None:
        graph = onnx.load(onnx_file)
        entries = {entry.key: entry for entry in graph.metadata_props}
        told = json.loads(entries["covidnet"].value)
        change(graph, told)
        entries["covidnet"].value = json.dumps(told)
        graph.metadata_props.remove(entries[SHA256])
        onnx.save(graph, file)

    save(lambda graph, told: told.pop("example"))
    open_model(file)
    assert "model.onnx: has no hash" in caplog.text

    def head(graph: Any, told: Content) -> None:
        (bias,) = (one for one in graph.graph.initializer if one.name.endswith("linear.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([5, -3, 7], np.float32), bias.name))

    save(head)
    refused(file, "its output for the stored example")
    for name, value, words in (
        ("facts", {}, "damaged"),
        ("facts", 3, "damaged"),
        ("format", None, "damaged"),
        ("gate", "AAAA", "damaged"),
        ("gate", 3, "damaged"),
        ("example", [[1.0]], "example"),
    ):
        save(lambda graph, told, name=name, value=value: told.update({name: value}))  # type: ignore[misc]
        refused(file, words)


@pytest.mark.parametrize("row", [[5, -3, 7], [0.2, 0.2, 0.2], [NAN, 0.5, 0.5], [1.5, -0.5, 0.0]])
def test_outputs_that_are_not_probabilities_are_rejected(row: list[float], checkpoint: Path) -> None:
    model: ServedModel = open_model(checkpoint)
    good, bad = np.array([[0.2, 0.3, 0.5]]), np.array([row])
    features = np.zeros((1, 4), np.float32)
    assert model.checked(Outputs(good, good[:, None], features), 1).features is features
    for outputs in (
        Outputs(bad, good[:, None], features),
        Outputs(good, bad[:, None], features),
        Outputs(good, good[:, None], features + np.float32(NAN)),
        Outputs(good, np.stack([good, good], 1), features),
    ):
        with pytest.raises(WeightsError, match=r"best\.ckpt: damaged \(its probabilities"):
            model.checked(outputs, 1)


def bomb(size: int) -> bytes:
    """An archive with an array a thousand times its size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        array = io.BytesIO()
        np.save(array, np.zeros(size, np.uint8))
        archive.writestr("pixels.npy", array.getvalue())
    return stream.getvalue()


def test_archives_that_unpack_to_far_more_than_their_size_are_not_unpacked(
    checkpoint: Path, tmp_path: Path, caplog: Any
) -> None:
    file = tmp_path / "training_images.npz"
    write_arrays(file, pixels=np.zeros(1000, np.uint8))
    assert archive_damage(file) is None
    file.write_bytes(bomb(5_000_000))
    assert read_arrays(file) is None
    assert "would unpack to 5,000," in caplog.text
    with pytest.raises(ValueError, match="unpack"):
        _gate(base64.b64encode(bomb(65_000_000)).decode())
    with zipfile.ZipFile(checkpoint) as whole, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.namelist():
            packed.writestr(entry, whole.read(entry) + bytes(1_000_000))
    with pytest.raises(WeightsError, match=r"training_images\.npz: damaged \(it would unpack to"):
        ClassificationModule.from_checkpoint(file)
