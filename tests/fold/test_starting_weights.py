"""What model.weights=auto becomes: once for a run or a sweep, recorded, and never by an unasked request."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from covidnet.base.errors import DataError, WeightsError
from covidnet.base.trust import read_yaml
from covidnet.fold import starting_weights
from covidnet.fold.starting_weights import DECISIONS, decide, settle_sweep, settle_weights
from covidnet.launch.command import compose, models_of_jobs
from covidnet.models.backbones import build_backbone
from covidnet.models.networks import NETWORKS
from covidnet.models.published import Published, WebFile
from covidnet.models.weights import hash_state

# A network that is written in a moment stands for one with published weights.
MODEL: dict[str, Any] = {"name": "resnet8", "weights": "auto", "weights_from": None}


def settings(**model: object) -> dict[str, Any]:
    return {"progress": False, "model": {**MODEL, **model}}


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[[Published | None], None]:
    def place(published: Published | None) -> None:
        monkeypatch.setitem(NETWORKS, "resnet8", replace(NETWORKS["resnet8"], imagenet=published))

    return place


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Published weights under their name."""
    torch.save(build_backbone("resnet8", seed=5).features.state_dict(), tmp_path / "content")
    content = (tmp_path / "content").read_bytes()
    path = tmp_path / f"resnet8-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that are opened; none answers."""
    found: list[str] = []

    def refuse(url: str, timeout: float) -> None:
        found.append(url)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return found


def test_auto_takes_weights_that_are_on_this_machine(hub: Path, publish, asked: list[str], named: Path) -> None:
    hub.mkdir(parents=True)
    named.rename(hub / named.name)
    publish(WebFile(f"https://example.org/{named.name}"))
    found = settings()
    settle_weights(found)
    assert found["model"]["weights"] == "imagenet"
    assert found["model"]["weights_from"] == f"auto, decided for this run: {named.name} was on this machine"
    assert asked == []


def test_auto_downloads_them_where_it_may(hub: Path, publish, served, named: Path) -> None:
    folder, address = served
    named.rename(folder / named.name)
    publish(WebFile(f"{address}/{named.name}"))
    found = settings()
    settle_weights(found)
    assert found["model"]["weights"] == "imagenet"
    assert found["model"]["weights_from"].endswith(f"{named.name} was downloaded")
    assert hash_state(build_backbone("resnet8", "imagenet")) == hash_state(build_backbone("resnet8", hub / named.name))


@pytest.mark.parametrize("by", ["COVIDNET_OFFLINE", "HF_HUB_OFFLINE", "model.download"])
@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_nothing_is_asked_of_the_network_where_that_is_forbidden(
    by: str, weights: str, hub: Path, publish, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(WebFile("https://example.org/resnet8-00000000.pth"))
    if by != "model.download":
        monkeypatch.setenv(by, "1")
    found = settings(weights=weights, download=by != "model.download")
    if weights == "imagenet":
        with pytest.raises(WeightsError, match=rf"^model\.weights=imagenet: .*{by}=\w+ forbids a download; [^\n]*$"):
            settle_weights(found)
    else:
        settle_weights(found)
        assert found["model"]["weights"] == "random"
        assert f"{by}=" in found["model"]["weights_from"]
    assert asked == []


def test_the_default_asks_the_weights_host_alone(hub: Path, asked: list[str]) -> None:
    found = decide({"name": "densenet121"}, False, "this run")
    assert asked == ["https://download.pytorch.org/models/densenet121-a639ec97.pth"]
    assert found["weights"] == "random"
    assert "could not be downloaded (Network is unreachable)" in found["weights_from"]
    assert decide({"name": "efficientnet_lite0"}, False, "this run")["weights"] == "imagenet"
    assert decide({"name": "cnn"}, False, "this run")["weights_from"].endswith("none are published for cnn")
    assert len(asked) == 1


def test_a_server_that_does_not_answer_is_not_waited_for(hub: Path, publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting_weights, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        publish(WebFile(f"http://127.0.0.1:{server.getsockname()[1]}/resnet8-00000000.pth"))
        assert "timed out" in decide(MODEL, False, "this run")["weights_from"]


def test_a_damaged_copy_is_an_error_and_no_reason_for_random_weights(hub: Path, publish) -> None:
    hub.mkdir(parents=True)
    (hub / "resnet8-00000000.pth").write_bytes(b"damaged")
    publish(WebFile("https://example.org/resnet8-00000000.pth"))
    with pytest.raises(WeightsError, match="damaged"):
        settle_weights(settings())


@pytest.mark.slow
def test_a_sweep_decides_once_and_its_jobs_follow(hub: Path, publish, served, named: Path, tmp_path: Path) -> None:
    folder, address = served
    publish(WebFile(f"{address}/{named.name}"))
    sweep = tmp_path / "sweep"
    (line,) = settle_sweep([MODEL, MODEL, {**MODEL, "weights": "random"}], sweep, False, False)
    assert line.startswith("resnet8 starts from random weights: auto, decided for the sweep: ")
    before = (sweep / DECISIONS).read_text()
    # The server has them now, which changes nothing.
    named.rename(folder / named.name)
    job = settings()
    settle_weights(job, sweep / "fold=0", sweep)
    assert job["model"]["weights"] == "random"
    assert settle_sweep([MODEL], sweep, False, True) == [line]
    # A network that the sweep did not foresee is decided by the first job.
    other = settings(name="cnn")
    settle_weights(other, sweep / "fold=0", sweep)
    assert json.loads(before)["resnet8"] == json.loads((sweep / DECISIONS).read_text())["resnet8"]
    assert json.loads((sweep / DECISIONS).read_text())["cnn"]["weights"] == "random"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["run", "sweep"])
def test_what_was_resumed_keeps_what_it_began_with(place: str, hub: Path, publish, named: Path, tmp_path: Path) -> None:
    """Also where an earlier version, whose default was random, recorded no decision."""
    run = tmp_path / "sweep/fold=0"
    run.mkdir(parents=True)
    OmegaConf.save({"fold": 0, "model": {"name": "resnet8", "weights": "random"}}, run / "config.yaml")
    hub.mkdir(parents=True)
    named.rename(hub / named.name)
    publish(WebFile(f"https://example.org/{named.name}"))
    found = settings()
    if place == "run":
        settle_weights(found, run, resumed=True)
    else:
        settle_sweep([MODEL], run.parent, False, True)
        settle_weights(found, run.parent / "fold=1", run.parent, resumed=True)
    assert found["model"]["weights"] == "random"
    assert "earlier version" in found["model"]["weights_from"]
    fresh = settings()
    settle_weights(fresh, run)
    assert fresh["model"]["weights"] == "imagenet"


@pytest.mark.parametrize(
    "content", ['{"resnet8": {"weights": "/etc/x.pth", "weights_from": "me"}}', "[]", "{", "{1: 2}"]
)
def test_a_planted_decision_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / DECISIONS).write_text(content)
    with pytest.raises(DataError, match=r"weights\.json: damaged; restore it"):
        settle_weights(settings(), tmp_path / "fold=0", tmp_path)


def test_a_folder_of_weights_serves_a_machine_without_a_network(publish, asked: list[str], named: Path) -> None:
    publish(WebFile(f"https://example.org/{named.name}"))
    found = settings(weights=str(named.parent))
    settle_weights(found)
    assert found["model"]["weights"] == str(named)
    assert hash_state(build_backbone("resnet8", named.parent)) == hash_state(build_backbone("resnet8", named))
    named.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="damaged"):
        settle_weights(settings(weights=str(named.parent)))
    named.unlink()
    with pytest.raises(WeightsError, match=rf"^model\.weights={named.parent}: has no {named.name} for resnet8; "):
        settle_weights(settings(weights=str(named.parent)))
    assert asked == []


def test_the_models_of_all_jobs_are_known_before_the_first() -> None:
    def names(*words: str) -> list[str]:
        fixed = [word for word in words if "," not in word]
        return [model["name"] for model in models_of_jobs(compose(fixed), list(words))]

    assert names("fold=0,1", "model=resnet50") == ["resnet50"]
    assert names("fold=0,1", "seed=0,1", "model=cnn,resnet50") == ["cnn", "resnet50"]
    assert names("experiment=demo,strict", "fold=0") == ["efficientnet_lite0", "densenet121"]
    (first, second) = models_of_jobs(compose([]), ["model.weights=auto,random"])
    assert (first["weights"], second["weights"]) == ("auto", "random")
    assert names("model=nothing,cnn") == ["cnn"]


@pytest.mark.slow
def test_a_run_says_everywhere_that_auto_found_no_weights(
    train: Callable[..., Path], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from covidnet.report.sweep.notices import warnings_of
    from covidnet.sweep.folder import read_sweep
    from covidnet.sweep.summary import summarise

    with caplog.at_level(logging.INFO):
        folder = train(
            "model=densenet121", "data.images_per_class=11", "data.image_size=32", "augment=none",
            "trainer.max_epochs=1", "explain=off",
        )  # fmt: skip
    why = "auto, decided for this run: densenet121-a639ec97.pth is not on this machine and COVIDNET_OFFLINE=1"
    assert f"densenet121 starts from random weights: {why}" in caplog.text
    said = "model.weights=auto had no published weights to start from, and took random ones."
    assert said in " ".join(capsys.readouterr().out.split())
    model = read_yaml(folder / "config.yaml")["model"]
    assert model["weights"] == "random"
    assert model["weights_from"].startswith(why)
    assert json.loads((folder / "environment.json").read_text())["weights_from"] == model["weights_from"]
    (folder.parent / "sweep").mkdir()
    folder.rename(folder.parent / "sweep/fold=0")
    summary = summarise(read_sweep(folder.parent / "sweep"))
    assert said in warnings_of(summary)
