"""From settings to the parts of a run: data with folds, network, images of a fold, feature store."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
import numpy as np
import torch
from torch import Tensor, nn

from covidnet.base.classes import ClassList
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.base.names import real_path
from covidnet.base.trust import check_classes
from covidnet.data.collection.annotations import Annotations
from covidnet.data.collection.manifest import CHECKED, check_files
from covidnet.data.collection.prepared import PreparedDataset, find_source, prepare_dataset
from covidnet.data.folds.splits import UNSEEN_FOLD, unseen_fold_of
from covidnet.data.loading.augment import FixedCopies, augmentation_of
from covidnet.data.loading.datamodule import FoldDataModule
from covidnet.data.loading.dataset import FeatureMatrix, ImageDataset
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.feature_store.engines import best_engine, check_engine, engine_of
from covidnet.feature_store.extract import description_of, fold_features, store_description
from covidnet.feature_store.maps import MapStore, map_shape
from covidnet.feature_store.store import FeatureStore
from covidnet.fold.engine import Decision, engine_of_run, engine_of_sweep
from covidnet.fold.starting_weights import settle_weights
from covidnet.gate import fixed_rules
from covidnet.launch.schema import check_values
from covidnet.learning.losses import balanced_weights
from covidnet.learning.module import ClassificationModule
from covidnet.models.backbones import build_backbone
from covidnet.models.networks import network

log = logging.getLogger(__name__)

_Made = TypeVar("_Made")

# Of the group model: where name and weights come from.
_NOT_OF_THE_NETWORK = ("backbone", "download", "weights_from")


_SHARED: dict[str, Any] | None = None


@contextmanager
def shared() -> Iterator[None]:
    """Make what runs in this process have in common once: data set, its check, backbone, store and features."""
    global _SHARED
    if _SHARED is not None:
        yield
        return
    _SHARED = {}
    try:
        yield
    finally:
        _SHARED = None


def _once(kind: str, settings: object, make: Callable[[], _Made]) -> _Made:
    """What `make` gives, once for equal settings while things are `shared`."""
    if _SHARED is None:
        return make()
    key = json.dumps([kind, settings], sort_keys=True, default=str)
    if key not in _SHARED:
        _SHARED[key] = make()
    return cast("_Made", _SHARED[key])


class FoldSetup:
    """The parts of a run, as the settings describe them.

    Args:
        settings: the resolved configuration as a plain dict.

    Raises:
        SettingError: where a setting has a value that is not allowed.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        check_values(settings)
        self.settings = settings
        self.cache = real_path(Path(settings["cache_dir"]).expanduser())
        self.progress = bool(settings["progress"])
        if settings["data"]["image_size"] is None:
            settings["data"]["image_size"] = network(settings["model"]["name"]).spec.size
        # Settings that need no image are refused before any is read or generated.
        self.fit = SquareFit(settings["data"]["image_size"], settings["data"]["fit"])
        augment = self._checked("augment")
        self.augmentation, self.copies = augmentation_of(augment, self.fit.size), None
        custom = augment["mode"] == "custom"
        if augment["mode"] == "fixed" or (custom and augment["target_per_class"] is not None):
            self.copies = FixedCopies(augment["target_per_class"], augment["reference_per_class"], self.augmentation)
        self.online = augment["mode"] == "online" or (custom and self.copies is None)
        check_engine(settings["features"]["engine"])
        self._check_solver()
        if settings["selection"] == "paper" and self.locked:
            raise SettingError("selection", "paper", "inner with unseen=locked", "paper chooses by the unseen fold")
        unseen_fold = unseen_fold_of(settings["split"])
        if unseen_fold != UNSEEN_FOLD and self.locked:
            raise SettingError(
                "unseen", "locked", f"scored with split.unseen_fold={unseen_fold}",
                "the fold that stays locked is the last one; leave split.unseen_fold out",
            )  # fmt: skip

    def _check_solver(self) -> None:
        solver, s = self.settings["optim"].get("solver"), self.settings
        if solver is None:
            return
        l2 = s["optim"].get("l2")
        if not (isinstance(l2, list) and l2 and all(type(one) in (int, float) and 0 <= one < np.inf for one in l2)):
            raise SettingError("optim.l2", l2, "a list of numbers of at least 0, such as [1, 0.1, 0.01]")
        reasons = {
            "it needs the stored features of a frozen backbone": not s["model"]["freeze"]
            or s["features"]["mode"] == "off"
            or self.online
            or bool(s["trainer"].get("fast_dev_run")),
            "validation images choose its penalty": s["split"]["validation"] == "none",
        }
        if reason := next((reason for reason, holds in reasons.items() if holds), None):
            raise SettingError("optim", solver, "adam, adamw or sgd here", f"{solver}: {reason}")
        epochs = s["trainer"]["max_epochs"]
        if epochs not in (-1, None) and epochs < len(l2):
            allowed = f"at least {len(l2)} with optim={solver}, an epoch for each penalty of optim.l2"
            raise SettingError("trainer.max_epochs", epochs, allowed, "raise it, or use optim=adam")

    @cached_property
    def classes(self) -> ClassList:
        """The classes of the study; ``data.classes=auto`` looks for them in the data set.

        Raises:
            DataError: the data set has none.
        """
        data = self.settings["data"]
        return ClassList.declared(data) or find_source(data, self.cache, progress=self.progress).classes

    @property
    def locked(self) -> bool:
        """Whether the unseen fold is kept out of the run."""
        return bool(self.settings["unseen"] == "locked")

    def _checked(self, group: str) -> dict[str, Any]:
        """A group of the settings, all of whose classes may be called."""
        found: dict[str, Any] = self.settings[group]
        check_classes({group: found}, self.settings.get("trust") or ())
        return found

    def seed(self, fold: int) -> int:
        """The seed of one fold: each fold starts with a head and an order of images of its own."""
        return int(np.random.SeedSequence([self.settings["seed"], fold]).generate_state(1)[0])

    def prepared(self) -> PreparedDataset:
        """Manifest and split; their notes are logged."""
        prepared = _once("data", self._of_data(), self._prepared)
        for note in prepared.notes:
            log.info("%s", note)
        return prepared

    def _of_data(self) -> list[object]:
        s = self.settings
        return [str(self.cache), s["data"], s["split"], s["strict"], s.get("reading"), s.get("verify")]

    def _prepared(self) -> PreparedDataset:
        s = self.settings
        return prepare_dataset(
            s["data"],
            s["split"],
            cache_dir=self.cache,
            strict=s["strict"],
            rules=fixed_rules,
            limits=s.get("reading"),
            progress=self.progress,
        )

    def changed_images(self, prepared: PreparedDataset) -> list[ImageRefusedError]:
        """Images in a fold that changed since prepare; each is named in the log.

        Files that have not changed since the last run are not read again, unless ``verify=true``.
        """

        def check() -> list[ImageRefusedError]:
            images = prepared.rows()
            return check_files(
                images[images["fold"] >= 0],
                prepared.root,
                record=prepared.folder.parent / CHECKED,
                verify=bool(self.settings.get("verify")),
                progress=self.progress,
            )

        changed = _once("changed", self._of_data(), check)
        for error in changed:
            log.warning("refused: %s", error)
        return changed

    def module(self) -> ClassificationModule:
        """The network; its head is initialised from the global random state.

        Weights that are still ``auto`` or a folder are decided first, see `settle_weights`.

        Raises:
            SettingError: the loss or the optimizer cannot be used.
        """
        s = self.settings
        settle_weights(s)
        preprocessing = {"fit": s["data"]["fit"], "image_size": s["data"]["image_size"]}
        optim = {name: value for name, value in s["optim"].items() if name != "optimizer"}
        # The numbers of a data set are not known yet; any weights show whether the loss can be called.
        loss = self._loss(torch.ones(len(self.classes)))
        model = {name: value for name, value in s["model"].items() if name not in _NOT_OF_THE_NETWORK}
        classes = self.classes
        drawn: list[Any] = [model.get(name) for name in ("name", "weights", "weights_seed")]
        backbone = (
            _once("backbone", drawn, lambda: build_backbone(*drawn))
            if _SHARED is not None and model["freeze"]
            else None
        )
        return ClassificationModule(
            model,
            optim,
            preprocessing,
            s["monitor"],
            loss,
            self._optimizer(),
            classes.names,
            classes.positive,
            backbone,
        )

    def weigh(self, module: ClassificationModule, datamodule: FoldDataModule) -> None:
        """Give the loss the class weights of a fold's training images, if ``loss.weight=balanced``.

        Args:
            module: the network.
            datamodule: of the fold.
        """
        if (self.settings.get("loss") or {}).get("weight") == "balanced":
            counts = datamodule.counts["train"]
            weights = balanced_weights([counts[label]["inputs"] for label in self.classes])
            module.loss = self._loss(weights)
            named = zip(self.classes, weights, strict=True)
            log.info("loss: class weights %s", ", ".join(f"{label} {weight:.3f}" for label, weight in named))

    def _loss(self, balanced: Tensor) -> nn.Module:
        """The loss, with these class weights in place of ``balanced``."""
        settings, count = {**self._checked("loss")}, len(balanced)
        weight = settings.get("weight")
        if weight == "balanced":
            settings["weight"] = balanced
        elif weight is not None:
            numbers = isinstance(weight, list) and all(type(w) in (int, float) and w >= 0 for w in weight)
            if not numbers or len(weight) != count or not sum(weight) > 0:
                raise SettingError("loss.weight", weight, f"null, balanced or a list of {count} numbers")
            settings["weight"] = torch.tensor(weight, dtype=torch.float32)
        logits = torch.zeros(count, count, requires_grad=True)
        try:
            loss: nn.Module = hydra.utils.instantiate(settings)
            value = loss(logits, torch.arange(count))
            fits = value.ndim == 0 and value.requires_grad and bool(value.isfinite())
            cause = f"it returns {value.detach()}"
        except Exception as error:  # whatever somebody's own class raises
            if isinstance(error.__cause__, SettingError):
                raise error.__cause__ from None
            fits, cause = False, " ".join(str(error.__cause__ or error).split())[:160]
        if not fits:
            allowed = "a loss of logits (N, classes) and labels (N) that returns one number"
            raise SettingError("loss._target_", settings["_target_"], allowed, cause)
        return loss

    def _optimizer(self) -> Callable[..., torch.optim.Optimizer]:
        settings, name = self._checked("optim"), "optim.optimizer._target_"
        if settings.get("solver"):
            # It never steps: Lightning needs one.
            return torch.optim.SGD
        make = hydra.utils.instantiate(settings["optimizer"], _partial_=True)
        try:
            optimizer = make([nn.Parameter(torch.zeros(1))], lr=settings["lr"], weight_decay=settings["weight_decay"])
        except Exception as error:  # torch raises a different type for every argument that is wrong
            cause = " ".join(str(error).split())[:160]
            allowed = "an optimizer that takes lr and weight_decay, with arguments that it accepts"
            raise SettingError(name, settings["optimizer"]["_target_"], allowed, cause) from None
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise SettingError(name, settings["optimizer"]["_target_"], "an optimizer such as torch.optim.AdamW")
        return make

    def datamodule(
        self, prepared: PreparedDataset, module: ClassificationModule, fold: int, changed: list[ImageRefusedError]
    ) -> FoldDataModule:
        """The images of a fold, without changed ones.

        Raises:
            DataError: no image is left in a part.
        """
        s, data, spec = self.settings, self.settings["data"], module.classifier.spec
        datamodule = prepared.fold(
            fold,
            validation=s["split"]["validation"],
            validation_seed=s["split"]["seed"],
            fit=self.fit,
            normalise=Normalise(tuple(spec.mean), tuple(spec.std)),
            copies=self.copies,
            online=self.augmentation if self.online else None,
            batch_size=data["batch_size"],
            num_workers=data["num_workers"],
            seed=self.seed(fold),
            reading={"max_megapixels": data["max_megapixels"], "min_side": data["min_side"]},
            locked=self.locked,
        )
        bad = prepared.split["path"].map(lambda path: str(prepared.root / path)).isin([error.path for error in changed])
        datamodule.drop(set(prepared.split["image_id"][bad]))
        for part in ("train", "test", "unseen"):
            if not len(datamodule.rows[part]):
                raise DataError(f"fold {fold}: no image is left in the {part} split; restore the files")
        return datamodule

    def why_no_features(self, module: ClassificationModule) -> str | None:
        """Why stored features would not be exact for this run; None if they are."""
        s = self.settings
        reasons = {
            "features=off": s["features"]["mode"] == "off",
            "the backbone is not frozen": not module.classifier.frozen,
            f"augment={s['augment']['mode']} changes the images in every epoch": self.online,
            "trainer.fast_dev_run uses a single batch": bool(s["trainer"]["fast_dev_run"]),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def take_features(self, datamodule: FoldDataModule, module: ClassificationModule) -> str | None:
        """Make a datamodule serve stored features; missing ones are computed first.

        Returns:
            None, or why the datamodule still serves images.
        """
        if reason := self.why_no_features(module):
            return reason
        store = self.store(module)
        features = fold_features(
            datamodule,
            lambda: self.engine(module, store),
            store,
            batch_size=self.settings["features"]["batch_size"],
            progress=self.progress,
            trainer=self.settings["trainer"],
            matrix=None if _SHARED is None else _once("features", store.folder, lambda: FeatureMatrix(store.dim)),
        )
        datamodule.use_features(features)
        return None

    def keep_engine(self, folder: Path, *, resumed: bool) -> None:
        """Give ``features.engine=auto`` the value that the run in this folder began with, if it began.

        Args:
            folder: the run folder.
            resumed: whether the run is resumed. The other processes of a run on several devices follow the first one.
        """
        features = self.settings["features"]
        if features["engine"] == "auto" and (resumed or os.environ.get("LOCAL_RANK", "0") != "0"):
            features.update(engine_of_run(folder) or {})

    def settle_engine(self, module: ClassificationModule, sweep: Path | None = None, *, resumed: bool = False) -> None:
        """Replace ``features.engine=auto`` in the settings by an engine; a sweep decides once for each network.

        Args:
            module: the network.
            sweep: the sweep folder, if the run belongs to a sweep.
            resumed: whether the run or its sweep is resumed.

        Raises:
            WriteError: the exported network cannot be written.
            DataError: the sweep's record is damaged.
        """
        features = self.settings["features"]
        if features["engine"] != "auto":
            return
        if reason := self.why_no_features(module):
            features.update({"engine": "torch", "engine_from": f"auto: no features are stored, since {reason}"})
            return
        classifier, size = module.classifier, self.settings["data"]["image_size"]

        def decide(place: str) -> Decision:
            store = self._store(module, "onnx")
            engine, why = best_engine(classifier.backbone.eval(), size, store.folder, self.settings["trainer"])
            if engine == "torch" and not len(store):
                shutil.rmtree(store.folder, ignore_errors=True)
            return {"engine": engine, "engine_from": f"auto, decided for {place}: {why}"}

        if sweep is None:
            found = decide("this run")
        else:
            name = classifier.backbone.name
            network = f"{name}, {size} pixels, weights {self.backbone_hash(module)[:12]}"
            found = engine_of_sweep(sweep, network, decide, name=self.settings["model"]["name"], resumed=resumed)
        features.update(found)
        log.info("features: engine %s (%s)", features["engine"], features["engine_from"])

    def store(self, module: ClassificationModule) -> FeatureStore:
        """The store that fits the data's transforms, the backbone and the engine, which is decided now if it is not."""
        self.settle_engine(module)
        return self._store(module, self.settings["features"]["engine"])

    def _store(self, module: ClassificationModule, engine: str) -> FeatureStore:
        classifier, spec = module.classifier, module.classifier.spec
        normalise = Normalise(tuple(spec.mean), tuple(spec.std))
        weights = self.backbone_hash(module)
        description = description_of(self.fit, normalise, classifier.backbone.name, weights, engine)
        root, dim = self.cache / "features", classifier.backbone.features_dim
        return _once("store", [root, description], lambda: FeatureStore(root, description, dim))

    def backbone_hash(self, module: ClassificationModule) -> str:
        """The hash of the backbone before any training; one that is frozen and shared is hashed once."""
        classifier = module.classifier
        if not classifier.frozen:
            return classifier.backbone_hash()
        # The shared backbone lives as long as this entry, so that no other one gets its id.
        return _once("hash", id(classifier.backbone), lambda: (classifier.backbone_hash(), classifier.backbone))[0]

    def map_store(self, module: ClassificationModule, images: ImageDataset) -> Callable[[str | None], MapStore] | None:
        """A function that gives the store of feature maps of a re-initialised stage, or of the trained network (None).

        Returns:
            None where maps are not stored: ``features=off``, or a trained backbone.
        """
        if self.settings["features"]["mode"] == "off" or not module.classifier.frozen:
            return None
        backbone, root = module.classifier.backbone, self.cache / "features"
        description = store_description(images, backbone.name, self.backbone_hash(module))
        shape = map_shape(backbone.eval(), self.settings["data"]["image_size"])

        def store(stage: str | None) -> MapStore:
            # The first stage re-initialises only the head, which does not affect the maps.
            drawn = {} if stage in (None, "head") else {"randomised": stage, "torch": torch.__version__}
            return MapStore(root, {**description, **drawn}, shape)

        return store

    def annotations(self, prepared: PreparedDataset) -> Annotations:
        """Masks and boxes of the images: ``data.masks`` and ``data.boxes``, or what lies beside the images.

        Raises:
            DataError: where one of them is named and cannot be used.
        """
        data = self.settings["data"]
        reading = {name: data[name] for name in ("max_megapixels", "min_side")} | (self.settings.get("reading") or {})
        return Annotations(prepared.root, masks=data.get("masks"), boxes=data.get("boxes"), reading=reading)

    def engine(self, module: ClassificationModule, store: FeatureStore) -> nn.Module:
        """What runs the backbone: torch, or ONNX Runtime."""
        s = self.settings
        return engine_of(s["features"]["engine"], module.classifier.backbone, s["data"]["image_size"], store.folder)
