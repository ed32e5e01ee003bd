"""What covidnet accepts from files that it did not write itself. SECURITY.md says which files are trusted."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from covidnet.base.errors import DataError, SettingError
from covidnet.base.former import current
from covidnet.base.names import real_path

MAX_YAML_BYTES = 1_000_000
"""A run's settings take a few kilobytes."""

_MAX_DEPTH = 50

# The groups whose classes Hydra instantiates.
_INSTANTIATED = ("augment", "callbacks", "logger", "loss", "optim", "trainer")

# Allowed functions and classes by name, and for each package the base classes that a class must have. Not everything
# importable: such a package also has functions that open files, as torch.load and albumentations.load do.
_NAMED = (
    "covidnet.learning.losses.FocalLoss",
    "covidnet.tracking.tensorboard_logger.tensorboard_logger",
    "covidnet.tracking.wandb_logger.wandb_logger",
    "pytorch_lightning.loggers.CSVLogger",
    "pytorch_lightning.loggers.TensorBoardLogger",
)
_KINDS = {
    "covidnet": ("pytorch_lightning.Callback",),
    "pytorch_lightning": (
        "pytorch_lightning.Callback",
        "pytorch_lightning.Trainer",
        "pytorch_lightning.profilers.Profiler",
        "pytorch_lightning.strategies.Strategy",
    ),
    "torch.optim": ("torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    "torch.nn": ("torch.nn.Module",),
    "torchmetrics": ("torchmetrics.Metric",),
    "albumentations": ("albumentations.BasicTransform", "albumentations.BaseCompose"),
}


def read_yaml(file: Path) -> Any:
    """Read a YAML file that may come from elsewhere, without resolving its interpolations.

    Args:
        file: such as the config.yaml of a run.

    Returns:
        Plain dicts, lists, text and numbers.

    Raises:
        DataError: the file is no YAML, larger than `MAX_YAML_BYTES`, nested deeply, or has aliases, with which a few
            lines can stand for more than fits into memory.
    """
    import yaml
    from omegaconf import OmegaConf

    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise DataError(f"{file}: has more than {MAX_YAML_BYTES:,} bytes; settings take a few kilobytes")
        depth = 0
        with file.open("rb") as stream:
            for event in yaml.parse(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if isinstance(event, yaml.AliasEvent):
                    raise DataError(f"{file}: has YAML aliases (*{event.anchor}); write out what they stand for")
                depth += isinstance(event, yaml.CollectionStartEvent)
                depth -= isinstance(event, yaml.CollectionEndEvent)
                if depth > _MAX_DEPTH:
                    raise DataError(f"{file}: is nested more than {_MAX_DEPTH} levels deep; settings take a few")
        return OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (DataError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # yaml and OmegaConf raise a different type for every way of being wrong
        raise DataError(f"{file}: damaged ({' '.join(str(error).split())[:120]}); restore or delete it") from error


def archive_damage(file: Path | IO[bytes], limit: int | None = None) -> str | None:
    """What is wrong with a zip archive, as ``torch.save`` and ``numpy.savez`` write them; nothing of it is unpacked.

    Args:
        file: the archive, or its stream.
        limit: bytes that it may unpack to; its own size if None, since neither of the two compresses.

    Returns:
        The cause; None for a whole archive, and for what is no archive at all.
    """
    if not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            packed = file.stat().st_size if isinstance(file, Path) else 0
            if size > (packed if limit is None else limit):
                return f"it would unpack to {size:,} bytes"
            # Reads every entry and compares it with its CRC-32, which torch.load does not.
            wrong = archive.testzip()
            return None if wrong is None else f"{wrong} does not match its checksum"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return " ".join(str(error).split())


def check_classes(settings: Mapping[str, Any], trusted: Sequence[str] | str = ()) -> None:
    """Check that Hydra would instantiate only classes of the allow-list.

    Settings can come from a run folder, and a ``_target_`` in them can name any function of any installed package.

    Args:
        settings: resolved, as a plain dict.
        trusted: further packages or modules, the setting ``trust``.

    Raises:
        SettingError: naming the setting and what it would call.
    """
    further = [trusted] if isinstance(trusted, str) else list(trusted)
    for name, value in _entries({group: settings.get(group) for group in _INSTANTIATED}):
        # Hydra resolves interpolations once more when it instantiates.
        if isinstance(value, str) and "${" in value:
            raise SettingError(name, value, "a value without ${", "write out what it stands for")
    for name, value in _entries(settings):
        if name.rpartition(".")[2] == "_target_" and not _is_allowed(value, further):
            package = str(value).partition(".")[0]
            raise SettingError(
                name, value,
                "a callback, loss, trainer or logger of covidnet or Lightning, or a class of torch.optim, torch.nn, "
                "torchmetrics or albumentations",
                f"it can run any code: if you wrote it, add trust=[{package}] to the command line; see SECURITY.md",
            )  # fmt: skip


def _entries(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _entries(value, f"{name}.{key}" if name else str(key))
            if key == "_target_" and isinstance(value, Mapping | list):
                yield f"{name}._target_", value
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _entries(value, f"{name}.{number}")
    else:
        yield name, node


def _is_allowed(target: Any, further: Sequence[str]) -> bool:
    if not isinstance(target, str):
        return False
    if target in _NAMED or any(target == name or target.startswith(f"{name}.") for name in further):
        return True
    for package, kinds in _KINDS.items():
        if target.startswith(f"{package}."):
            from hydra.utils import get_class

            try:
                found = get_class(target)
                return found.__module__.startswith(package) and issubclass(found, tuple(map(get_class, kinds)))
            except Exception:  # whatever keeps a module from being imported
                return False
    return False


def check_foreign_settings(file: Path, name: str, package: str | None, allowed: Mapping[str, Any]) -> None:
    """Check a configuration file that is none of the package's own, before Hydra reads it.

    ``hydra.*`` would choose what Hydra itself instantiates, logs to and puts into the environment.

    Args:
        file: the file.
        name: as Hydra calls it, such as ``experiment/mine``.
        package: of its header ``# @package``.
        allowed: ``defaults`` and ``hydra`` as config.yaml of a run folder has them.

    Raises:
        DataError: it is no YAML that `read_yaml` takes, or sets ``hydra``, ``trust`` or ``imports``.
    """
    content = current(read_yaml(file))
    settings = content if isinstance(content, dict) else {}
    defaults = [entry for entry in settings.get("defaults") or [] if entry not in allowed["defaults"]]
    hydra = "hydra" in settings and settings["hydra"] != allowed["hydra"]
    place = {*name.split("/"), *(package or "").split(".")}
    if hydra or "hydra" in place or any("hydra" in str(e) or "${" in str(e) for e in defaults):
        raise DataError(f"{file}: sets hydra; give hydra settings on the command line, and see SECURITY.md")
    for key, what in (("trust", "PACKAGE"), ("imports", "FILE")):
        if settings.get(key):
            raise DataError(f"{file}: sets {key}; give {key}=[{what}] on the command line, and see SECURITY.md")


_WANDB_LOG = "wandb/*run-*/logs/debug-core.log"


def check_links(folder: Path, inside: Path | None = None) -> None:
    """Check that no link in a folder leads out of it: whoever writes there would change a file elsewhere.

    A link from each W&B run to the log of wandb's own process is none: nothing is written through it.

    Args:
        folder: that is about to be written to; it need not exist.
        inside: the folder that links may not lead out of; `folder`, which may be a link itself, if None.

    Raises:
        DataError: naming the link.
    """
    home = real_path(inside or folder)
    found = (Path(path, name) for path, folders, files in os.walk(real_path(folder)) for name in (*folders, *files))
    for entry in (folder, *found) if inside else found:
        if entry.is_symlink() and not real_path(entry).is_relative_to(home) and not entry.match(_WANDB_LOG):
            raise DataError(f"{entry}: a link that leads out of {home}; nothing is written through it, remove it")
