"""``python -m covidnet.prepare data=...``: read every image once, write the manifest and the split."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import launch, print_lines

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.data.collection.prepared import PreparedDataset

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Scan a data set, refusing bad files one by one, split and check it; ``strict=true`` makes refused files an error.

    Args:
        cfg: the composed configuration ``prepare``.

    Raises:
        DataError: the data cannot be used, or a file was refused with ``strict=true``.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from covidnet.data.collection.prepared import prepare_dataset
    from covidnet.gate import fixed_rules

    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    if settings["deidentify"]:
        deidentify(settings)
        return
    prepared = prepare_dataset(
        settings["data"],
        settings["split"],
        cache_dir=Path(settings["cache_dir"]).expanduser(),
        strict=settings["strict"],
        rescan=True,
        rules=fixed_rules,
        limits=settings["reading"],
        progress=settings["progress"],
    )
    refused = prepared.folder.parent / "refused.csv"
    lines = [
        *prepared.notes,
        f"manifest: {prepared.folder.parent / 'manifest.csv'}",
        f"split:    {prepared.split_file}",
    ]
    lines.append(f"left out: {prepared.folder / 'left_out.csv'}")
    if len(prepared.refused):
        lines.append(f"refused:  {refused} ({counted(len(prepared.refused), 'file')})")
    words = [word for word in HydraConfig.get().overrides.task if re.match(r"data[.=]|cache_dir=", word)]
    lines += [*short_form(prepared, settings["data"]), f"all checks: {shlex.join(['covidnet', 'audit', *words])}"]
    print_lines(lines)
    if len(prepared.refused) and settings["strict"]:
        raise DataError(
            f"{counted(len(prepared.refused), 'file was', 'files were')} refused (strict=true); see {refused}"
        )


def deidentify(settings: dict[str, Any]) -> None:
    """Copy the DICOM files of a data set without what identifies patients.

    Args:
        settings: the resolved configuration.

    Raises:
        SettingError: a setting is not allowed.
        DataError: nothing can be copied, or a file was refused with ``strict=true``.
    """
    from covidnet.base.classes import ClassList
    from covidnet.data.collection.deidentified_copy import BURNT_IN, deidentified_copy

    if not settings["out"]:
        raise SettingError("out", settings["out"], "the new folder of the copy", "say out=DIR")
    out, key = Path(str(settings["out"])).expanduser(), Path(settings["key"]).expanduser()
    made = deidentified_copy(
        settings["data"], out, key, ClassList.declared(settings["data"]),
        limits=settings["reading"], progress=settings["progress"],
    )  # fmt: skip
    marked = f"{counted(made.marked, 'image')} may show text; look at them before you share the copy"
    if not made.marked:
        marked = "no marks like text were found; faint or handwritten text can be missed"
    print_lines(
        [
            f"copy:     {out} ({counted(made.images, 'image')} of {counted(made.patients, 'patient')})",
            f"burnt in: {out / BURNT_IN} ({marked})",
            f"key:      {key}",
        ]
    )
    if made.refused:
        text = f"{counted(made.refused, 'file was', 'files were')} not copied"
        if settings["strict"]:
            raise DataError(f"{text} (strict=true); see the lines above")
        log.warning("%s", text)


def short_form(prepared: PreparedDataset, data: dict[str, Any]) -> list[str]:
    """What a reviewer would find in the data set, in a few lines; an error of a check is one of them.

    Args:
        prepared: the data set.
        data: the group ``data`` of the configuration.
    """
    try:
        from covidnet.auditing.short import short_audit

        return short_audit(prepared, data)
    except Exception as error:
        # Manifest and split are written and usable, whatever goes wrong here.
        log.debug("the short audit failed", exc_info=True)
        return [f"not checked: {error}"]


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], (*DATA_PATHS, "out", "key"))
    launch(main, "prepare")
