"""``python -m covidnet.predict checkpoint=RUN input=FILE_OR_FOLDER``: class probabilities of any images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from covidnet.base.errors import DataError, SettingError
from covidnet.launch.arguments import quoted
from covidnet.launch.command import launch, print_lines
from covidnet.report.words import count
from covidnet.serving.checkpoint_path import find_models

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.serving.batch import ImagePredictions
    from covidnet.serving.dicom.web_archive import WebArchive

PATHS = ("checkpoint", "only", "input", "out")
"""Settings that are paths, with characters that Hydra's grammar may reject."""


def main(cfg: DictConfig) -> None:
    """Predict images batch by batch and write predictions.csv.

    Args:
        cfg: the composed configuration ``predict``.

    Raises:
        SettingError: a setting is not allowed.
        WeightsError: there is no checkpoint, or it is not from covidnet.
        DataError: every file was refused, or with ``strict=true`` any file.
    """
    from omegaconf import OmegaConf

    if cfg.output not in ("csv", "dicom"):
        raise SettingError("output", cfg.output, ("csv", "dicom"))
    given = {name: "" if OmegaConf.is_missing(cfg, name) else str(cfg[name]) for name in ("checkpoint", "input")}
    only = "" if cfg.only is None else str(cfg.only)
    from covidnet.serving.answers import GATES

    if cfg.gate not in GATES:
        raise SettingError("gate", cfg.gate, GATES)
    in_dicom = cfg.output == "dicom"
    if in_dicom:
        from covidnet.serving.dicom.results import check_libraries

        check_libraries("output", cfg.output)
    from covidnet.serving.dicom.web_archive import WebArchive

    archive = WebArchive.of(given["input"])
    if cfg.send and not (in_dicom and archive):
        remedy = "results are stored where the images come from: input=dicomweb://HOST:PORT/studies/UID output=dicom"
        raise SettingError("send", True, "false", remedy)
    if archive is not None:
        from covidnet.serving.dicom.results import check_libraries

        check_libraries("input", given["input"])
    # Errors that need no network are reported before its libraries are loaded.
    models = find_models(given["checkpoint"], onnx=cfg.engine == "onnx", only=only)
    from covidnet.data.collection.inputs import PARTIAL_RECORD, check_earlier, find_images

    out = Path(cfg.out).expanduser()
    table, refused = out / "predictions.csv", out / "refused.csv"
    if cfg.resume and not out.is_dir():
        remedy = f"there is no folder {out}; leave out resume to start"
        raise SettingError("resume", True, "true with out=DIR of a stopped command", remedy)
    resume = bool(cfg.resume) and (out / PARTIAL_RECORD).exists()
    check_earlier(out, (PARTIAL_RECORD, table.name, refused.name), overwrite=cfg.overwrite or resume)
    if archive is None:
        _predict(cfg, models, resume, *find_images(given["input"]), None)
        return
    with TemporaryDirectory(prefix="covidnet-") as folder:
        _predict(cfg, models, resume, Path(folder), archive.fetch(Path(folder)), archive)


def _predict(
    cfg: DictConfig, models: Sequence[Path], resume: bool, root: Path, paths: Sequence[str], archive: WebArchive | None
) -> None:
    """Predict the images in a folder; `archive` is where they come from, if they do."""
    from covidnet.data.collection.inputs import check_out
    from covidnet.serving.answers import Predictor
    from covidnet.serving.batch import DICOM_SUFFIXES, ImagePredictions
    from covidnet.serving.dicom.results import DicomResults
    from covidnet.serving.open_model import open_model
    from covidnet.serving.stream import Share

    out, only, in_dicom = Path(cfg.out).expanduser(), "" if cfg.only is None else str(cfg.only), cfg.output == "dicom"
    check_out(str(cfg.input), out, root, paths, suffixes=(".png", *(DICOM_SUFFIXES.values() if in_dicom else ())))
    share = Share.of_cores()
    predictor = Predictor(open_model(str(cfg.checkpoint), cfg.engine, share.threads, only), cfg.gate)
    # Before the predictions: these notes may explain why every file is refused.
    print_lines([*predictor.notes(), *(predictor.model.facts.map_notes() if cfg.panels or in_dicom else [])])
    predictions = ImagePredictions(
        predictor,
        root,
        paths,
        out,
        panels=bool(cfg.panels),
        dicom=DicomResults.of_files(predictor, models) if in_dicom else None,
        store=archive.store if archive is not None and cfg.send else None,
        identifiers=bool(cfg.identifiers),
        reading={"max_megapixels": cfg.max_megapixels, "min_side": cfg.min_side, **cfg.reading},
        passes=share.passes,
        progress=cfg.progress,
        resume=resume,
        made_by=_made_by(cfg, models),
    )
    predictions.run()
    _print_summary(predictions)
    failed = {
        f"{count(predictions.undrawn, 'picture')} of {predictions.predicted} not drawn": predictions.undrawn,
        f"{count(predictions.unwritten, 'image')} of {predictions.predicted} without results in DICOM": (
            predictions.unwritten
        ),
        f"results of {count(predictions.unsent, 'image')} of {predictions.predicted} not stored": predictions.unsent,
    }
    for what, number in failed.items():
        if number:
            raise DataError(f"{what}, see the log above; the table is complete: {out / 'predictions.csv'}")
    if predictions.refused and cfg.strict:
        raise DataError(f"strict=true: {predictions.refused} files were refused; see {out / 'refused.csv'}")


def _made_by(cfg: DictConfig, models: Sequence[Path]) -> dict[str, object]:
    """What the rows depend on besides the images, by the name that an error gives it."""
    from omegaconf import OmegaConf

    from covidnet import __version__
    from covidnet.base.provenance import file_sha256
    from covidnet.data.reading.images import READING

    names = ["gate", "output", "send", "panels", "identifiers", "max_megapixels", "min_side", "reading"]
    settings = OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)
    assert isinstance(settings, dict)
    digests = ", ".join(file_sha256(file)[:12] for file in models)
    return {"checkpoint": digests, **settings, "covidnet": f"{__version__}, reading {READING}"}


def _print_summary(predictions: ImagePredictions) -> None:
    from covidnet.serving.facts import NOTICE

    model, out = predictions.predictor.model, predictions.out
    lines = []
    if predictions.refused:
        lines.append(f"{count(predictions.refused, 'file')} refused: {out / 'refused.csv'}")
    if predictions.flagged:
        lines.append(f"{count(predictions.flagged, 'image')} predicted with a warning: see the column quality")
    lines.append(f"{count(predictions.predicted, 'image')} predicted by {model.facts.title}: {out / 'predictions.csv'}")
    print_lines([*lines, NOTICE])


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "predict")
