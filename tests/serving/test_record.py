"""What a run stores in its checkpoint for prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from covidnet.base.atomic import WriteError
from covidnet.evaluation.predictions import read_predictions
from covidnet.evaluation.temperature import fit_temperature
from covidnet.learning.module import ClassificationModule
from covidnet.serving.record import add_record, serving_record


def test_the_temperature_of_a_run_can_be_fitted_again_from_its_predictions(sweep: Path) -> None:
    for fold in (0, 1):
        run = sweep / f"fold={fold}"
        table = read_predictions(run / "predictions.csv")
        again = fit_temperature(table[table["split"] == "val"].reset_index(drop=True))
        told = json.loads((run / "metrics.json").read_text())["temperature"]
        assert told["value"] == pytest.approx(again, rel=1e-9)
        assert told["n"] == int((table["split"] == "val").sum())
        assert told["split"] == "val"
        record = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt").serving
        assert record["temperature"] == told["value"]
        assert record["fold"] == fold
        assert record["training"]["name"] == "phantom"
        assert sum(record["training"]["films"].values()) > 50


def test_weights_and_settings_stay_unchanged(sweep: Path, tmp_path: Path) -> None:
    original = sweep / "fold=0/checkpoints/best.ckpt"
    content = torch.load(original, weights_only=True)
    file = tmp_path / "best.ckpt"
    torch.save({key: value for key, value in content.items() if key != "serving"}, file)
    add_record(file, serving_record(fold=7, temperature=2.0, gate=None, training={"name": "folder"}))
    after = torch.load(file, weights_only=True)
    assert after["serving"]["temperature"] == 2.0
    assert set(after) == set(content)
    assert after["hyper_parameters"] == content["hyper_parameters"]
    for name, tensor in content["state_dict"].items():
        assert torch.equal(after["state_dict"][name], tensor)


def test_a_full_disk_leaves_the_checkpoint_unchanged(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "best.ckpt"
    file.write_bytes((sweep / "fold=0/checkpoints/best.ckpt").read_bytes())
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise WriteError(file, 28, "No space left on device")

    monkeypatch.setattr("covidnet.learning.checkpoints.write_bytes", full)
    with pytest.raises(WriteError, match="No space left"):
        add_record(file, serving_record(fold=0, temperature=1.0, gate=None, training={}))
    assert file.read_bytes() == before


def test_loading_a_record_runs_no_code(sweep: Path) -> None:
    record = torch.load(sweep / "fold=0/checkpoints/best.ckpt", weights_only=True)["serving"]
    for name, array in record["gate"].items():
        assert isinstance(array, torch.Tensor), name
        assert np.isfinite(array.numpy()).all(), name
