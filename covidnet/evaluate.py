"""``python -m covidnet.evaluate checkpoint=SWEEP data=folder data.root=DIR``: a trained model on another data set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from covidnet.base.errors import DataError
from covidnet.base.names import counted
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import launch, print_lines
from covidnet.serving.checkpoint_path import ONNX, find_models

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.report.external.summary import ExternalSummary

PATHS = ("checkpoint", "only", "out", *DATA_PATHS)
"""Settings that are paths, with characters that Hydra's grammar may reject."""

_REPEATED = ("checkpoint", "only", "gate", "engine", "resamples", "seed")


def main(cfg: DictConfig) -> None:
    """Search a data set for training images, predict it, and report.

    Args:
        cfg: the composed configuration ``evaluate``.

    Raises:
        SettingError: a setting is not allowed.
        WeightsError: there is no checkpoint, or it is not from covidnet.
        DataError: the data cannot be used, or no image was predicted. With ``strict=true`` also if training images are
            found, the search is incomplete, an image is in two classes, or a file was refused.
    """
    from omegaconf import OmegaConf

    checkpoint = "" if OmegaConf.is_missing(cfg, "checkpoint") else str(cfg.checkpoint)
    only = "" if cfg.only is None else str(cfg.only)
    # Errors that need no network are reported before its libraries are loaded.
    models = find_models(checkpoint, onnx=cfg.engine == "onnx", only=only)
    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    out = Path(settings["out"]).expanduser()
    from covidnet.data.collection.image_table import read_image_table
    from covidnet.data.collection.inputs import check_earlier, check_outside
    from covidnet.gate import fixed_rules

    check_earlier(out, ("summary.json", "predictions.csv", "report.html"), overwrite=cfg.overwrite)
    from covidnet.external.known_images import known_images
    from covidnet.external.validation import ExternalValidation
    from covidnet.serving.answers import Predictor
    from covidnet.serving.open_model import open_model
    from covidnet.serving.stream import Share

    if models[0].suffix != ONNX:
        from covidnet.base.quiet import quieten

        quieten()
    share = Share.of_cores()
    # The model comes first, so that its errors are reported before any image is read or drawn.
    predictor = Predictor(open_model(checkpoint, cfg.engine, share.threads, only), cfg.gate)
    classes = predictor.classes
    images = read_image_table(
        {**settings["data"], "classes": list(classes), "positive": classes.positive},
        cache_dir=Path(settings["cache_dir"]).expanduser(),
        rules=fixed_rules,
        limits=settings["reading"],
        progress=cfg.progress,
    )
    check_outside(out, images.root)
    print_lines(predictor.notes())
    validation = ExternalValidation(images, known_images(models), out, strict=cfg.strict, progress=cfg.progress)
    print_lines(validation.search())
    summary = validation.run(
        predictor,
        models,
        reading={name: settings["data"][name] for name in ("max_megapixels", "min_side")} | settings["reading"],
        passes=share.passes,
        resamples=cfg.resamples,
        seed=cfg.seed,
        arguments=_arguments(settings),
    )
    _print_summary(summary, out, predictor.notes())
    refused = summary.coverage.files_refused
    if refused and cfg.strict:
        raise DataError(f"strict=true: {counted(refused, 'file was', 'files were')} refused; see {out / 'refused.csv'}")


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that repeat the command."""
    data = settings["data"]
    chosen = {f"data.{name}": data[name] for name in ("root", "view") if data.get(name) is not None}
    if data.get("labels"):
        chosen["data.labels"] = "{" + ",".join(f"{name}: {label}" for name, label in data["labels"].items()) + "}"
    drawn = ("images_per_class", "phantom_size", "severity", "seed") if data["name"] == "phantom" else ()
    chosen |= {f"data.{name}": data[name] for name in drawn}
    return {"checkpoint": settings["checkpoint"], "data": data["name"], **chosen,
            **{name: settings[name] for name in _REPEATED[1:]}}  # fmt: skip


def _print_summary(summary: ExternalSummary, out: Path, printed: Sequence[str]) -> None:
    from rich.console import Console

    from covidnet.report.terminal import BRACKETS, metrics_table
    from covidnet.report.words import count
    from covidnet.serving.facts import NOTICE

    console = Console(soft_wrap=True, highlight=False)
    console.print()
    console.print(
        metrics_table(summary.external.flat(), f"External images, {summary.model['title']}", classes=summary.classes)
    )
    console.print()
    lines = [BRACKETS]
    if summary.external_all is not None and summary.external_all.accuracy.value is not None:
        whole = summary.external_all.accuracy.value
        lines.append(f"With the {count(summary.overlap.seen_predicted, 'training image')}: accuracy {whole:.1%}.")
    refused = summary.coverage.files_refused
    if refused:
        lines.append(f"{count(refused, 'file')} refused and excluded from the numbers: {out / 'refused.csv'}")
    # Without the notes on the search and on the model, which were printed before.
    lines += [note for note in summary.notes if note not in (*summary.search_notes, *printed)]
    print_lines([*lines, f"Report: {out / 'report.html'}", NOTICE])


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], PATHS)
    launch(main, "evaluate")
