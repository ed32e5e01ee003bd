"""Weights from a file and from torchxrayvision: read without running code, checked and hashed."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from covidnet.base.errors import WeightsError

State = dict[str, Tensor]

CHEST_NAME = "densenet121-res224-all"
"""The torchxrayvision weights that were trained on all of its data sets."""

_ENVELOPES = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "model.", "densenet121.")
_BACKBONE = re.compile(r"^(?P<owner>(?:.*\.)?)backbone\.(?P<name>.+)$")
# Published files use the layer names of torchvision 0.2: https://github.com/pytorch/vision/pull/474
_OLD_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")
OTHER_CLASSES = ("classifier.", "op_threshs", "fc.", "AuxLogits.", "classif.")
"""What the names of layers for the classes that a network was trained on start with."""


def load_state(path: str | Path, left_out: tuple[str, ...] = OTHER_CLASSES) -> State:
    """Read the tensors of a backbone from a file, without running code in it.

    Args:
        path: a ``.safetensors`` file, or a file of ``torch.save`` with a state dict, a state dict under ``state_dict``,
            ``model_state_dict`` or ``model``, or a checkpoint of this package.
        left_out: what the names of layers for other classes start with.

    Returns:
        The tensors on the CPU, named as in `Backbone`: ``features.conv0.weight`` and so on. Prefixes of wrappers are
        removed, old names such as ``norm.1`` become ``norm1``, and layers for other classes (``classifier.*``) are left
        out, as is everything outside the backbone of a checkpoint.

    Raises:
        WeightsError: the file is missing or damaged, has objects other than tensors, or has no backbone.
    """
    path = Path(path).expanduser()
    remedy = "give model.weights=PATH to a .pth or .safetensors file with a state dict of the network"
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; {remedy}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; model.weights is random, imagenet, chest or the path of a file")
    try:
        raw = _read(path)
    except pickle.UnpicklingError as error:
        # Newer pickle protocols fail before any name is read. All of them begin with the byte 0x80.
        if "GLOBAL" in str(error) or _first_byte(path) == b"\x80":
            cause = "has Python objects besides tensors, and is refused because loading it could run code"
            raise WeightsError(f"{path}: {cause}; save only its state_dict(), then {remedy}") from error
        raise WeightsError(f"{path}: damaged, or not a weights file; {remedy}") from error
    # A damaged pickle or zip file can raise nearly anything: KeyError, EOFError, RuntimeError, UnicodeDecodeError …
    except Exception as error:
        if "legacy .tar format" in str(error):
            cause = "is in the .tar format of PyTorch before 0.1.10, which cannot be read without running code"
            raise WeightsError(f"{path}: {cause}; save it again with a newer PyTorch, then {remedy}") from error
        raise WeightsError(f"{path}: damaged, or not a weights file ({_line(error)}); {remedy}") from error
    for envelope in _ENVELOPES:
        if isinstance(raw, Mapping) and isinstance(raw.get(envelope), Mapping):
            raw = raw[envelope]
            break
    if not isinstance(raw, Mapping) or not raw:
        raise WeightsError(f"{path}: has no state dict; {remedy}")
    others = [str(name) for name, value in raw.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise WeightsError(f"{path}: has no state dict ({_few(others)} is not a tensor); {remedy}")
    state = _backbone_part(dict(raw), str(path), left_out)
    if not state:
        raise WeightsError(f"{path}: has no layers of a backbone (it has {_few(raw)}); {remedy}")
    return state


def fit_state(module: nn.Module, state: Mapping[str, Tensor], source: str, name: str = "densenet121") -> None:
    """Load a state into a network if every name and shape matches; otherwise the network is unchanged.

    Args:
        module: the network.
        state: the tensors by name. Only the counters ``num_batches_tracked`` may be absent, as in older files.
        source: the file or name that the tensors came from, for the error.
        name: the network's name, for the error.

    Raises:
        WeightsError: names are missing or unknown, shapes differ, or a tensor has NaN or infinity.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith(".num_batches_tracked")]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} has shape {tuple(value.shape)}, not {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    causes = [f"{len(missing)} tensors are missing ({_few(missing)})"] if missing else []
    causes += [f"{len(unknown)} tensors are unknown ({_few(unknown)})"] if unknown else []
    causes += [f"{len(shapes)} tensors have the wrong shape ({_few(shapes)})"] if shapes else []
    if not causes:
        broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
        causes = [f"{len(broken)} tensors have NaN or infinity ({_few(broken)})"] if broken else []
    if causes:
        remedy = f"give published weights of {name}, or model.weights=random, which needs no file"
        raise WeightsError(f"{source}: does not fit {name}: {' and '.join(causes)}; {remedy}")
    module.load_state_dict(dict(state))


def hash_state(module: nn.Module) -> str:
    """The sha256 over all parameters and buffers of a network: their names, dtypes, shapes and bytes.

    Neither the order of the layers, nor the device, nor the memory format (channels_last) changes it.

    Args:
        module: any network.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> layer = nn.BatchNorm1d(2)
        >>> before = hash_state(layer)
        >>> _ = layer(torch.ones(4, 2))  # changes the running statistics, but no parameter
        >>> hash_state(layer) == before
        False
    """
    tensors: State = {}
    tensors.update(module.named_parameters(remove_duplicate=False))
    tensors.update(module.named_buffers(remove_duplicate=False))
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        # A tensor without dimensions has no byte view, and numpy has no bfloat16.
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def chest_state() -> State:
    """The backbone of torchxrayvision's densenet121 trained on chest radiographs (one input channel).

    The file is a pickled network that torchxrayvision downloads and reads itself: by using these weights you trust that
    package's releases. Source: Cohen et al. 2022, TorchXRayVision, https://arxiv.org/abs/2111.00595

    Returns:
        The tensors, as `load_state` returns them.

    Raises:
        WeightsError: torchxrayvision is not installed, or its weights are unavailable.
    """
    try:
        # Importing it disables all warnings of the process; this restores them.
        with warnings.catch_warnings():
            import torchxrayvision
    except ImportError as error:
        remedy = 'pip install "covidnet[chest]", or use model.weights=random'
        raise WeightsError(f"model.weights=chest: needs torchxrayvision ({_line(error)}); {remedy}") from error
    try:
        # It prints its progress, but standard output is reserved for the commands' results.
        with contextlib.redirect_stdout(sys.stderr):
            network = torchxrayvision.models.DenseNet(weights=CHEST_NAME)
    # Errors differ for no internet access, a damaged file, and a pickle that a newer PyTorch cannot read.
    except Exception as error:
        remedy = (
            "download them on a machine with internet access and copy ~/.torchxrayvision here, "
            "or use model.weights=random, which needs no download"
        )
        raise WeightsError(f"model.weights=chest: {CHEST_NAME} is unavailable ({_line(error)}); {remedy}") from error
    return _backbone_part(network.state_dict(), CHEST_NAME)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        # Ignore the warning that the pickle protocol is newer than torch.save's; the error says the same.
        warnings.simplefilter("ignore", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _backbone_part(state: State, source: str, left_out: tuple[str, ...] = OTHER_CLASSES) -> State:
    found = [match for match in map(_BACKBONE.match, state) if match]
    owners = sorted({match["owner"] for match in found})
    if len(owners) > 1:
        remedy = "save the state_dict() of just one"
        raise WeightsError(f"{source}: has several backbones ({_few(owners)}); {remedy}")
    if found:
        state = {match["name"]: state[match[0]] for match in found}
    while prefix := next((item for item in _WRAPPERS if state and all(key.startswith(item) for key in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    state = {_OLD_NAME.sub(r"\1\2", name): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.startswith(left_out)}


def _few(names: Mapping[str, object] | list[str], count: int = 2) -> str:
    listed = list(names)
    return ", ".join(listed[:count]) + (", …" if len(listed) > count else "")


def _line(error: Exception) -> str:
    # Only the first sentence: torch continues with advice to load code from files.
    first = " ".join(str(error).split()).split(". ")[0]
    return textwrap.shorten(first, 120, placeholder="...") or type(error).__name__
