"""``python -m covidnet.audit data=...``: what a hostile reviewer would find in a data set and in a sweep on it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import counted, shown
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import launch, print_lines

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.auditing.study import Study

log = logging.getLogger(__name__)

PATHS = ("sweep_dir", "out", "audit.published", *DATA_PATHS)
"""Settings that are paths, with characters that Hydra's grammar may reject."""

FOUND = 3
"""The exit code of ``strict=true`` where a finding blocks or weakens a claim."""


def main(cfg: DictConfig) -> None:
    """Run every check that the files allow, and write the report.

    Args:
        cfg: the composed configuration ``audit``.

    Raises:
        SettingError: a setting is not allowed.
        DataError: the data cannot be used, and there is no sweep.
        SystemExit: with `FOUND`, where ``strict=true`` and something above ``for your information`` is found.
    """
    from omegaconf import OmegaConf

    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    out = Path(str(settings["out"])).expanduser()
    from covidnet.auditing.checks import audited
    from covidnet.auditing.document import FILES, finding_text, verdict, write_audit
    from covidnet.data.collection.inputs import check_earlier, check_outside

    check_earlier(out, FILES, overwrite=cfg.overwrite)
    study = _study(settings)
    if study.table is not None:
        check_outside(out, study.table.root)
    audit = audited(study)
    write_audit(audit, out)
    lines = [f"not possible: {name}: {why}" for name, why in audit.not_possible.items()]
    lines += [finding_text(one) for one in reversed(audit.findings)]
    print_lines([*lines, verdict(audit), f"Audit: {out / FILES[0]}"])
    if audit.serious and cfg.strict:
        text = f"strict=true: {counted(len(audit.serious), 'finding')} above \u201cfor your information\u201d"
        sys.stderr.write(f"{text}; see {shown(out / FILES[0])}\n")
        sys.exit(FOUND)


def _study(settings: dict[str, Any]) -> Study:
    from covidnet.auditing.study import Study
    from covidnet.base.classes import ClassList
    from covidnet.data.collection.image_table import read_image_table, table_columns
    from covidnet.gate import fixed_rules

    data, own = settings["data"], settings["audit"]
    for value in own["prevalence"]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise SettingError("audit.prevalence", own["prevalence"], "a list of numbers above 0 and below 1")
    published = None if own["published"] is None else Path(str(own["published"])).expanduser()
    if published is not None and not published.is_file():
        raise SettingError("audit.published", published, "a CSV file of published numbers", "there is no such file")
    folder = None if settings["sweep_dir"] is None else Path(str(settings["sweep_dir"])).expanduser()
    if folder is not None:
        check_sweep(folder, data["name"])
    options: dict[str, Any] = {
        "sweep_dir": folder, "prevalences": own["prevalence"], "sensitivity": own["sensitivity"],
        "published": published, "resamples": settings["resamples"], "seed": settings["seed"],
        "progress": settings["progress"], "cache_dir": Path(settings["cache_dir"]).expanduser(),
    }  # fmt: skip
    try:
        images = read_image_table(
            data,
            cache_dir=Path(settings["cache_dir"]).expanduser(),
            rules=fixed_rules,
            limits=settings["reading"],
            progress=settings["progress"],
        )
    except DataError as error:
        # The images of a sweep may be gone; its files can still be audited.
        if folder is None:
            raise
        return Study(None, why_no_images=str(error), **options)
    if folder is not None:
        check_images(folder, set(images.images["image_id"]))
    declared = ClassList.declared(data)
    classes = declared or ClassList(tuple(sorted(set(images.images["label"]))), data.get("positive") or "")
    return Study(images, table_columns(data, images), classes=classes, masks=data.get("masks"), **options)


def check_sweep(folder: Path, name: str) -> None:
    """Refuse the default phantoms beside a sweep on other data, and nested selection; a wrong folder is an error too.

    Args:
        folder: of the sweep.
        name: of the data set.

    Raises:
        SettingError: the sweep cannot be audited with these data.
    """
    from covidnet.base.trust import read_yaml
    from covidnet.report.sweep.nested import outer_of
    from covidnet.sweep.folder import groups_of

    if not folder.is_dir():
        raise SettingError(
            "sweep_dir", folder, "the folder of a sweep, with fold=0/ and so on", "there is no such folder"
        )
    if any(outer_of(group)[1] for group in groups_of(folder)):
        # Its runs share no split, and test every image several times: as they should.
        remedy = "audit a sweep over the folds alone, on the same data"
        raise SettingError("sweep_dir", folder, "a sweep with one unseen fold, not nested selection", remedy)
    for file in [folder / "config.yaml", *sorted(folder.glob("*/config.yaml"))]:
        if file.is_file():
            settings = read_yaml(file)
            of = (settings.get("data") or {}).get("name") if isinstance(settings, dict) else None
            if name == "phantom" and of not in (None, "phantom"):
                raise SettingError("data", name, f"the data set of the sweep, data={of}", "say where its images are")
            return


def check_images(folder: Path, given: set[str]) -> None:
    """Refuse a data set without any image of the sweep; images that are gone are counted in a warning.

    Args:
        folder: of the sweep.
        given: the ids of the data set's images.

    Raises:
        SettingError: they have none in common.
    """
    from covidnet.data.collection.prepared import read_split

    file = next((one for one in [folder / "split.csv", *sorted(folder.glob("*/split.csv"))] if one.is_file()), None)
    if file is None:
        return
    try:
        ids = set(read_split(file)["image_id"])
    except DataError:
        # The check of the split says it.
        return
    if lost := len(ids - given):
        if lost == len(ids):
            remedy = "no image of its split.csv is in this data set; give data and data.root as for training"
            raise SettingError("sweep_dir", folder, "a sweep on these images", remedy)
        log.warning("%d of the %d images of the sweep are not in this data set", lost, len(ids))


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "audit")
