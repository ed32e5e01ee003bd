"""The facts of a sweep's model card: network, input, sources of the images, date."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from covidnet.base.classes import ClassList
from covidnet.evaluation.results import from_json
from covidnet.models.inputs import CHEST_SPEC, GREY_SPEC, IMAGENET_SPEC, INCEPTION_SPEC, LITE_SPEC, InputSpec
from covidnet.report.summary import CardFacts, GateFacts, InputFacts, Origin, Parameters
from covidnet.sweep.folder import Run

NETWORKS: Mapping[str, tuple[int, int, InputSpec]] = {
    "densenet121": (6_953_856, 1024, IMAGENET_SPEC),
    "resnet18": (11_176_512, 512, IMAGENET_SPEC),
    "resnet50": (23_508_032, 2048, IMAGENET_SPEC),
    "inception_v3": (21_785_568, 2048, INCEPTION_SPEC),
    "inception_resnet_v2": (54_306_464, 1536, INCEPTION_SPEC),
    "efficientnet_lite0": (3_371_008, 1280, LITE_SPEC),
    "cnn": (97_648, 128, GREY_SPEC),
    "resnet8": (77_104, 64, GREY_SPEC),
    "covidnet_cxr": (11_727_272, 2048, GREY_SPEC),
}
"""Parameters of each backbone, the length of its features, and its input, known without loading the network."""

# Models with another network as backbone, and the number of their outputs in addition to one per class.
_HEADS = {"bayesian_cnn": ("resnet50", 0), "anomaly_resnet": ("resnet18", 1)}

# The first layer of DenseNet121 with chest weights has one input channel instead of three.
_ONE_CHANNEL = -2 * 64 * 7 * 7

_MAX_VALUES = 8
_DATE = re.compile(r"^(\d{4}-\d{2}-\d{2})[ T]\d{2}:", re.MULTILINE)


def card_facts(runs: Sequence[Run]) -> CardFacts:
    """Facts of a sweep for its model card; unknown facts are None.

    Args:
        runs: of the sweep.
    """
    first = runs[0]
    model, data = first.settings.get("model") or {}, first.settings.get("data") or {}
    spec = _spec(model)
    # Older runs do not record their network.
    network = first.environment.get("network") or {}
    images = None if first.split is None else first.split[first.split["fold"] >= 0]
    gate = first.metrics.get("gate")
    return CardFacts(
        trained=max((day for run in runs if (day := _last_day(run))), default=None),
        parameters=Parameters(network["parameters"], network["trained"])
        if network
        else _parameters(model, len(first.classes)),
        input=InputFacts(
            size=data.get("image_size"),
            fit=data.get("fit"),
            channels=network.get("channels", spec and spec.channels),
            mean=network.get("mean", spec and list(spec.mean)),
            std=network.get("std", spec and list(spec.std)),
            min_side=data.get("min_side"),
            max_megapixels=data.get("max_megapixels"),
        ),
        source=None if images is None else _origin(images, "source", first.classes),
        view=None if images is None else _origin(images, "view", first.classes),
        gate=None if gate is None else from_json(GateFacts, gate),
        weights_licence=network.get("weights_licence"),
    )


def _last_day(run: Run) -> str | None:
    file = run.folder / "train.log"
    if not file.is_file():
        return None
    days = _DATE.findall(file.read_text(encoding="utf-8", errors="replace"))
    return str(days[-1]) if days else None


def _spec(model: Mapping[str, Any]) -> InputSpec | None:
    """The input of a model; None if its weights are a file, which may define another."""
    name, weights = str(model.get("name")), model.get("weights")
    if name == "densenet121" and weights == "chest":
        return CHEST_SPEC
    network = NETWORKS.get(_HEADS.get(name, (name, 0))[0])
    return network[2] if network and weights in ("random", "imagenet") else None


def _parameters(model: Mapping[str, Any], classes: int) -> Parameters | None:
    """Numbers of all and of trained parameters, without running statistics."""
    spec, frozen = _spec(model), model.get("freeze")
    if spec is None or not isinstance(frozen, bool):
        return None
    name, more = _HEADS.get(str(model.get("name")), (str(model.get("name")), 0))
    backbone, features_dim, _ = NETWORKS[name]
    backbone += _ONE_CHANNEL if spec is CHEST_SPEC else 0
    head = (features_dim + 1) * (classes + more)
    return Parameters(backbone + head, head if frozen else backbone + head)


def _origin(images: pd.DataFrame, column: str, classes: ClassList) -> Origin | None:
    """The sources or views of the images, and how well these alone predict the class.

    Args:
        images: rows of split.csv.
        column: ``source`` or ``view``.
        classes: of the study.

    Returns:
        None if no image has a value.
    """
    known = images[images[column].notna()]
    if not len(known):
        return None
    counts = pd.crosstab(known[column].astype(str), known["label"]).reindex(columns=list(classes), fill_value=0)
    order = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index
    listed = {str(value): {label: int(counts[label][value]) for label in classes} for value in order[:_MAX_VALUES]}
    if len(order) > _MAX_VALUES:
        rest = counts.loc[order[_MAX_VALUES:]].sum()
        listed[f"{len(order) - _MAX_VALUES} others"] = {label: int(rest[label]) for label in classes}
    n = len(known)
    # If nearly every image has its own value, that predicts the class trivially.
    few = len(order) <= n / 5
    return Origin(
        counts=listed,
        unknown=len(images) - n,
        n=n,
        share=float(counts.max(axis=1).sum() / n) if few else None,
        base=float(counts.sum().max() / n),
    )
