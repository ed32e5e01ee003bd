"""Weights: what is read, what is refused and with which message, and what the hash covers."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import densenet121

from covidnet.base.errors import WeightsError
from covidnet.models.backbones import build_backbone
from covidnet.models.networks import NETWORKS
from covidnet.models.published import WebFile, path_of
from covidnet.models.weights import chest_state, fit_state, hash_state, load_state

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def published() -> State:
    """A state as torchvision's own network has it, with its ImageNet classifier."""
    torch.manual_seed(5)
    return densenet121(weights=None).state_dict()


@pytest.fixture(scope="module")
def wanted(published: State) -> State:
    return {name: value for name, value in published.items() if name.startswith("features.")}


def publish(patch: pytest.MonkeyPatch, url: str) -> WebFile:
    """Give densenet121's ImageNet weights another address."""
    file = WebFile(url)
    patch.setitem(NETWORKS, "densenet121", replace(NETWORKS["densenet121"], imagenet=file))
    return file


def refusal(call: object, *args: object) -> str:
    with pytest.raises(WeightsError) as caught:
        call(*args)  # type: ignore[operator]
    text = str(caught.value)
    assert "\n" not in text
    assert ";" in text, "the remedy follows the cause"
    return text


def same(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def as_first_published(state: State) -> State:
    """The names of the files that torchvision still offers: norm.1 for norm1, and no counters."""
    renamed = {}
    for name, value in state.items():
        for layer in ("norm1", "conv1", "norm2", "conv2"):
            name = name.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.") if "denselayer" in name else name
        if not name.endswith("num_batches_tracked"):
            renamed[name] = value
    return renamed


def named_file(folder: Path, content: bytes) -> Path:
    """Write a file under a name that carries the start of its sha256, as torchvision does."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"densenet121-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"module." + name: value for name, value in state.items()},
        lambda state: {"module.model." + name: value for name, value in state.items()},
        lambda state: {
            "state_dict": {"module.densenet121." + name: value for name, value in state.items()},
            "epoch": 3,
        },
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"backbone." + name: value for name, value in state.items()},
    ],
    ids=["plain", "DataParallel", "two wrappers", "CheXNet", "with an optimizer", "backbone"],
)
def test_wrappers_around_a_state_are_taken_off(wrap, published: State, wanted: State, tmp_path: Path) -> None:
    assert same(load_state(saved(wrap(published), tmp_path / "weights.pth")), wanted)


@pytest.mark.parametrize("owner", ["classifier.", "model.", "network.classifier.", ""])
def test_a_checkpoint_of_this_package_gives_its_backbone_alone(owner: str, wanted: State, tmp_path: Path) -> None:
    state = {f"{owner}backbone.{name}": value for name, value in wanted.items()}
    state |= {f"{owner}head.linear.weight": torch.zeros(3, 1024), "loss.weight": torch.ones(3)}
    checkpoint = {"epoch": 1, "state_dict": state, "hyper_parameters": {"seed": 0}, "optimizer_states": [{}]}
    assert same(load_state(saved(checkpoint, tmp_path / "best.ckpt")), wanted)


def test_a_checkpoint_with_two_backbones_is_refused(tmp_path: Path) -> None:
    state = {f"{owner}.backbone.features.conv0.weight": torch.zeros(1) for owner in ("teacher", "student")}
    text = refusal(load_state, saved(state, tmp_path / "two.pth"))
    assert "teacher" in text
    assert "student" in text


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "format before PyTorch 1.6"])
def test_both_formats_of_torch_save_load(zipped: bool, published: State, wanted: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(published, path, _use_new_zipfile_serialization=zipped)
    assert same(load_state(path), wanted)


def test_safetensors_load(published: State, wanted: State, tmp_path: Path) -> None:
    save_file(published, tmp_path / "weights.safetensors")
    assert same(load_state(tmp_path / "weights.safetensors"), wanted)


def test_old_layer_names_load_and_give_the_same_features(published: State, tmp_path: Path) -> None:
    old = as_first_published(published)
    assert "features.denseblock2.denselayer3.conv.2.weight" in old
    assert not old.keys() >= published.keys()
    reference = densenet121(weights=None)
    reference.load_state_dict(published)
    reference.classifier = nn.Identity()
    backbone = build_backbone(weights=saved(old, tmp_path / "old.pth")).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference.eval()(images), atol=1e-5, rtol=1e-5)


class Bomb:
    """A pickle that creates a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["plain pickle", "torch.save", "beside a good state"])
def test_a_pickle_with_code_is_refused_and_its_code_not_run(kind: str, published: State, tmp_path: Path) -> None:
    bomb, path = Bomb(tmp_path / "ran"), tmp_path / "bomb.pth"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb if kind == "torch.save" else {"state_dict": published, "extra": bomb}, path)
    text = refusal(build_backbone, "densenet121", path)
    assert str(path) in text
    assert "could run code" in text
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    assert "save only its state_dict()" in refusal(load_state, saved(nn.Linear(2, 2), tmp_path / "network.pth"))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off", b"\x80\x02}q\x00("])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused_by_name(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    text = refusal(load_state, path)
    assert text.startswith(f"{path}: damaged")


def test_a_file_cut_in_half_is_refused(published: State, tmp_path: Path) -> None:
    path = saved(published, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged" in refusal(load_state, path)


def test_a_missing_file_names_the_weights_that_need_none(tmp_path: Path) -> None:
    text = refusal(build_backbone, "densenet121", "imagnet")
    assert "imagnet: no such file" in text
    assert "imagenet" in text.replace("imagnet", "")
    assert "is a folder" in refusal(load_state, tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(2), {1: torch.zeros(2)}])
def test_a_file_without_a_state_is_refused(content: object, tmp_path: Path) -> None:
    assert "has no state dict" in refusal(load_state, saved(content, tmp_path / "odd.pth"))


def test_a_file_with_a_classifier_alone_is_refused(tmp_path: Path) -> None:
    state = {"classifier.weight": torch.zeros(3, 4)}
    assert "no layers of a backbone" in refusal(load_state, saved(state, tmp_path / "head.pth"))


@pytest.mark.slow
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(wanted: State) -> None:
    name = "features.denseblock4.denselayer2.norm1.running_var"
    backbone = build_backbone()
    before = hash_state(backbone)
    cases = {
        f"1 tensors are missing ({name})": {key: value for key, value in wanted.items() if key != name},
        "1 tensors are unknown (features.extra)": wanted | {"features.extra": torch.zeros(1)},
        f"1 tensors have the wrong shape ({name} has shape (2,), not (": wanted | {name: torch.zeros(2)},
        f"1 tensors have NaN or infinity ({name})": wanted | {name: torch.full_like(wanted[name], torch.nan)},
    }
    for cause, state in cases.items():
        text = refusal(fit_state, backbone, state, "some.pth")
        assert text.startswith("some.pth: does not fit densenet121")
        assert cause in text
        assert hash_state(backbone) == before


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    text = refusal(build_backbone, "densenet121", saved(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth"))
    assert "tensors are missing (features.conv0.weight" in text
    assert "2 tensors are unknown (weight, bias)" in text


def test_imagenet_from_the_hub_cache_equals_the_same_file_given_as_a_path(
    hub: Path, published: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = saved(as_first_published(published), tmp_path / "content.pth").read_bytes()
    path = named_file(hub, content)
    publish(monkeypatch, f"http://127.0.0.1:9/{path.name}")
    from_cache, from_path = build_backbone(weights="imagenet"), build_backbone(weights=path)
    assert hash_state(from_cache) == hash_state(from_path) != hash_state(build_backbone())
    assert from_cache.spec == from_path.spec
    assert (from_cache.weights, from_path.weights) == ("imagenet", str(path))


def test_a_damaged_copy_in_the_hub_cache_is_refused(
    hub: Path, published: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = named_file(hub, saved(published, tmp_path / "content.pth").read_bytes())
    saved({name: value + 1 for name, value in published.items()}, path)
    file = publish(monkeypatch, f"http://127.0.0.1:9/{path.name}")
    text = refusal(path_of, file)
    assert str(path) in text
    assert "delete it" in text


def test_imagenet_is_downloaded_once_and_kept_and_leftovers_of_killed_downloads_are_removed(
    hub: Path,
    served: tuple[Path, str],
    published: State,
    wanted: State,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    folder, address = served
    path = named_file(folder, saved(published, tmp_path / "content.pth").read_bytes())
    file = publish(monkeypatch, f"{address}/{path.name}")
    hub.mkdir(parents=True)
    (hub / ".0123456789abcdef.tmp").write_bytes(b"half")
    assert same(load_state(path_of(file)), wanted)
    assert [item.name for item in hub.iterdir()] == [path.name]
    path.unlink()
    assert same(load_state(path_of(file)), wanted)


def test_a_download_that_is_not_what_its_name_says_leaves_no_file(
    hub: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    (folder / "densenet121-a639ec97.pth").write_bytes(b"please log in to this network")
    file = publish(monkeypatch, f"{address}/densenet121-a639ec97.pth")
    assert "a file that does not match its name" in refusal(path_of, file)
    assert not hub.exists()


def test_imagenet_without_a_network_names_the_remedies_in_one_line(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, "http://127.0.0.1:9/densenet121-a639ec97.pth")
    text = refusal(build_backbone, "densenet121", "imagenet")
    assert "http://127.0.0.1:9/densenet121-a639ec97.pth cannot be reached" in text
    assert str(hub) in text
    assert "model.weights=PATH" in text
    assert "model.weights=random" in text


def test_imagenet_does_not_wait_for_a_server_that_never_answers(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/densenet121-a639ec97.pth"
        file = publish(monkeypatch, address)
        assert "timed out" in refusal(path_of, file, 0.2)


def fake_torchxrayvision(network: object) -> types.ModuleType:
    package = types.ModuleType("torchxrayvision")
    package.models = types.SimpleNamespace(DenseNet=network)  # type: ignore[attr-defined]
    return package


def test_chest_takes_the_convolutions_of_torchxrayvision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(11)
    reference = densenet121(num_classes=18)
    reference.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    reference.register_buffer("op_threshs", torch.full((18,), torch.nan))
    asked = []

    def network(weights: str) -> nn.Module:
        asked.append(weights)
        torch.rand(3)
        return reference

    monkeypatch.setitem(sys.modules, "torchxrayvision", fake_torchxrayvision(network))
    state = torch.get_rng_state()
    backbone = build_backbone(weights="chest").eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert asked == ["densenet121-res224-all"]
    assert backbone.spec.channels == 1
    reference.classifier = nn.Identity()
    images = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference.eval()(images), atol=1e-5, rtol=1e-5)


def test_a_one_channel_file_gets_the_input_of_chest(tmp_path: Path) -> None:
    reference = densenet121(num_classes=18)
    reference.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    reference.register_buffer("op_threshs", torch.full((18,), torch.nan))
    spec = build_backbone(weights=saved(reference.state_dict(), tmp_path / "chest.pth")).spec
    assert (spec.channels, spec.mean, spec.std) == (1, (0.5,), (0.5 / 1024,))


def test_chest_without_torchxrayvision_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    assert 'pip install "covidnet[chest]"' in refusal(build_backbone, "densenet121", "chest")


def test_chest_without_a_network_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def network(weights: str) -> nn.Module:
        print("Downloading weights...")
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "torchxrayvision", fake_torchxrayvision(network))
    text = refusal(chest_state)
    assert "no route to host" in text
    assert "model.weights=random" in text
    assert capsys.readouterr().out == ""


def test_importing_torchxrayvision_leaves_warnings_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torchxrayvision.py").write_text("import warnings\nwarnings.filterwarnings('ignore')\nmodels = None\n")
    monkeypatch.delitem(sys.modules, "torchxrayvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(warnings.filters)
    refusal(chest_state)
    assert sys.modules.pop("torchxrayvision").models is None
    assert list(warnings.filters) == before


class Small(nn.Module):
    def __init__(self, names: tuple[str, str] = ("first", "second")) -> None:
        super().__init__()
        made = {"first": nn.Conv2d(2, 4, 3), "second": nn.BatchNorm2d(4)}
        for name in names:
            self.add_module(name, made[name])
        self.register_buffer("scale", torch.tensor(2.0, dtype=torch.bfloat16), persistent=False)


def test_the_hash_does_not_depend_on_order_or_memory_format() -> None:
    torch.manual_seed(0)
    one = Small()
    other = Small(names=("second", "first"))
    other.load_state_dict(one.state_dict())
    assert hash_state(one) == hash_state(other)
    assert hash_state(one) == hash_state(one.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("place", ["first.weight", "second.running_var", "second.num_batches_tracked", "scale"])
def test_the_hash_sees_every_parameter_and_buffer(place: str) -> None:
    network = Small()
    before = hash_state(network)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    with torch.no_grad():
        tensors[place].view(-1)[0] += 1
    assert hash_state(network) != before


def test_the_hash_sees_shapes_and_dtypes() -> None:
    def hashed(value: Tensor) -> str:
        network = nn.Module()
        network.register_buffer("value", value)
        return hash_state(network)

    zeros = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64), torch.zeros(4, dtype=torch.int32)]
    assert len({hashed(value) for value in zeros}) == 4
