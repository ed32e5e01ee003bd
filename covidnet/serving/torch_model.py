"""Checkpoints in PyTorch: one model, or the models of a sweep, which share one pass of a frozen backbone."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from covidnet.base.errors import WeightsError
from covidnet.data.loading.transforms import Normalise
from covidnet.evaluation.temperature import tempered
from covidnet.gate.gate import InputGate
from covidnet.learning.module import ClassificationModule
from covidnet.models.classifier import Classifier
from covidnet.models.saliency import MapWarning, saliency
from covidnet.serving.facts import FORMAT, ModelFacts, maps_of_members, of_members, weights_name
from covidnet.serving.model import Outputs, ServedModel, Squares

log = logging.getLogger(__name__)

_WEIGHTS = ("random", "imagenet", "chest")

# Warning filters belong to the whole process; they are changed for a few milliseconds per heat map.
_ONE_AT_A_TIME = threading.Lock()


class TorchModel(ServedModel):
    """One model or several that predict together.

    Args:
        modules: in eval mode; all with the same preprocessing.
        source: what they were loaded from.
        threads: threads of one call; None for PyTorch's setting.

    Raises:
        WeightsError: the models need different inputs, or have different settings.
    """

    def __init__(self, modules: Sequence[ClassificationModule], source: Path, threads: int | None = None) -> None:
        records = [module.serving for module in modules]
        first = modules[0]
        spec, preprocessing = first.classifier.spec, first.hparams["preprocessing"]
        for module in modules[1:]:
            if module.hparams["preprocessing"] != preprocessing or module.classifier.spec != spec:
                raise WeightsError(f"checkpoint={source}: its models need different inputs; give one of them")
            if module.classes != first.classes:
                both = " and ".join(", ".join(one.classes) for one in (first, module))
                raise WeightsError(f"checkpoint={source}: its models have different classes ({both}); give one of them")
            if (differs := _difference(module.hparams["model"], first.hparams["model"])) is not None:
                raise WeightsError(
                    f"checkpoint={source}: its models differ in model.{differs} and are never pooled; give one of them"
                )
        facts = ModelFacts(
            network=first.hparams["model"]["name"],
            weights=weights_name(first.hparams["model"]["weights"]),
            frozen=first.classifier.frozen,
            image_size=preprocessing["image_size"],
            fit=preprocessing["fit"],
            mean=tuple(spec.mean),
            std=tuple(spec.std),
            folds=tuple(record.get("fold") for record in records),
            temperatures=tuple(record.get("temperature") for record in records),
            training=of_members(records),
            versions=dict(records[0].get("versions") or {}),
            maps=maps_of_members(records),
            class_names=first.classes.names,
            positive=first.classes.positive,
        )
        answers = [record.get("example") for record in records]
        example = None if any(answer is None for answer in answers) else np.array(answers, np.float64)
        super().__init__(facts, _gate(records[0]), source, example)
        self.threads = threads
        self.normalise = Normalise(facts.mean, facts.std)
        self.classifiers = [module.classifier.eval() for module in modules]
        self.explains = all(one.backbone.spatial for one in self.classifiers)
        self.shared = _share_backbones(self.classifiers)
        # Grad-CAM of the mean logit needs one backward pass, Grad-CAM of each member one per member.
        self._explained = (
            [Classifier(self.classifiers[0].backbone, MeanHead([one.head for one in self.classifiers])).eval()]
            if self.shared and len(self.classifiers) > 1
            else self.classifiers
        )

    @classmethod
    def open(cls, files: Sequence[Path], source: Path, threads: int | None = None) -> TorchModel:
        """Load checkpoints.

        Args:
            files: the checkpoints.
            source: as in the class.
            threads: as in the class.

        Raises:
            WeightsError: one of them is damaged or not from covidnet, or they cannot be combined.
        """
        modules: list[ClassificationModule] = []
        for file in files:
            modules.append(ClassificationModule.from_checkpoint(file, modules[0] if modules else None))
        for file, module in zip(files, modules, strict=True):
            _check_record(module.serving, file)
        old = [file for file, module in zip(files, modules, strict=True) if "sha256" not in module.serving]
        if old:
            log.warning("%s: has no hash, so some damage goes unnoticed; train again to add one", old[0])
        try:
            model = cls(modules, source, threads)
            model.check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            cause = " ".join(str(error).split())[:160]
            raise WeightsError(f"{source}: damaged ({cause}); copy it again, or train again") from None
        return model

    def explains_by(self, method: str) -> bool:
        """Whether `heat` works with a method: gradients of the image need no maps."""
        return self.explains or method == "gradient"

    def images(self, squares: Squares) -> Tensor:
        """Squares (N, S, S) as input of the network: float32 (N, C, S, S)."""
        stacked = np.stack([self.normalise(square) for square in squares])
        return torch.from_numpy(stacked).to(memory_format=torch.channels_last)

    def outputs(self, squares: Squares, maps: bool = False) -> Outputs:
        """Predict, see `ServedModel.outputs`."""
        self._take_threads()
        images = self.images(squares)
        logits, found, features = [], [], None
        with torch.inference_mode():
            for number, classifier in enumerate(self.classifiers):
                if number == 0 or not self.shared:
                    pooled_maps = classifier.backbone.feature_maps(images)
                    pooled = classifier.backbone.pool(pooled_maps)
                    found.append(pooled_maps if maps else None)
                    features = pooled.float().numpy() if features is None else features
                logits.append(classifier.classify(pooled).double())
        members = np.stack(
            [
                tempered(scores.softmax(1).numpy(), 1.0 if temperature is None else temperature)
                for scores, temperature in zip(logits, self.facts.temperatures, strict=True)
            ],
            axis=1,
        )
        assert features is not None  # there is at least one model
        outputs = Outputs(members.mean(axis=1), members, features, (images, found) if maps else None)
        return self.checked(outputs, len(squares))

    def heat(
        self, squares: Squares, outputs: Outputs, target: Sequence[int], method: str = "gradcam"
    ) -> npt.NDArray[np.float32]:
        """The map of the mean logit if the models share a backbone, else the mean of their maps."""
        self._take_threads()
        images, maps = outputs.maps
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            # A map without evidence is all 0, which is visible enough.
            warnings.simplefilter("ignore", MapWarning)
            heats = [
                saliency(classifier, images, list(target), method, known)
                for classifier, known in zip(self._explained, maps, strict=True)
            ]
        mean = np.mean(heats, axis=0, dtype=np.float32)
        top = mean.max(axis=(1, 2), keepdims=True)
        return np.asarray(np.divide(mean, top, out=np.zeros_like(mean), where=top > 0), np.float32)

    def _take_threads(self) -> None:
        # PyTorch keeps this number per calling thread.
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


class MeanHead(nn.Module):
    """The mean of the logits of several heads on one backbone.

    Args:
        heads: from features (N, D) to logits (N, classes).
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to logits (N, classes)."""
        return torch.stack([head(features) for head in self.heads]).mean(0)


def _share_backbones(classifiers: Sequence[Classifier]) -> bool:
    """Whether all have the same backbone; if so, they share it and its copies are freed."""
    first = classifiers[0]
    if all(one.backbone is first.backbone for one in classifiers):
        return True
    if len({(one.backbone.name, one.backbone_hash()) for one in classifiers}) > 1:
        return False
    for other in classifiers[1:]:
        other.backbone = first.backbone
    return True


def _check_record(record: Mapping[str, Any], file: Path) -> None:
    """Reject a serving record that is invalid or newer than this release; `ModelFacts` checks its content."""
    version = record.get("format", 1 if not record else None)
    if type(version) is not int or version < 1:
        raise WeightsError(f"{file}: damaged (format={str(version)[:40]}); copy it again, or train again")
    if version > FORMAT:
        raise WeightsError(f"{file}: was written by a newer covidnet (format {version}); update covidnet")


def _gate(record: Mapping[str, Any]) -> InputGate | None:
    arrays = record.get("gate")
    return InputGate.from_arrays({name: value.numpy() for name, value in arrays.items()}) if arrays else None


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first setting of the network that differs; files of initial weights may have other names."""
    kinds = [weights if (weights := model.get("weights")) in _WEIGHTS else "a file" for model in (one, other)]
    names = sorted({*one, *other} - {"weights"})
    differs = next((name for name in names if one.get(name) != other.get(name)), None)
    return differs or ("weights" if kinds[0] != kinds[1] else None)
