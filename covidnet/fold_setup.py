"""From settings to the parts of a run: data with folds, network, films of a fold, feature store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from covidnet.data.annotations import Annotations
from covidnet.data.augment import FixedCopies, operators_of
from covidnet.data.datamodule import FoldDataModule
from covidnet.data.dataset import FilmDataset
from covidnet.data.manifest import check_files
from covidnet.data.splits import VALIDATIONS
from covidnet.data.study import Study, prepare_study
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.errors import DataError, ImageRefusedError, SettingError
from covidnet.features.engines import ENGINES, check_engine, engine_of
from covidnet.features.extract import fold_features, store_description
from covidnet.features.maps import MapStore, map_shape
from covidnet.features.store import FeatureStore
from covidnet.learning.module import ClassificationModule
from covidnet.quality import fixed_rules

log = logging.getLogger(__name__)

_CHOICES = {
    "features.mode": ("auto", "off"),
    "features.engine": ENGINES,
    "augment.mode": ("fixed", "online", "none"),
    "split.validation": VALIDATIONS,
}
_COUNTS = {"data.batch_size": 1, "features.batch_size": 1, "data.num_workers": 0, "seed": 0, "split.seed": 0}

UNSEEN = ("scored", "locked")
"""What a run does with the unseen fold: it scores it, or leaves it alone."""


class FoldSetup:
    """The parts of a run, as the settings describe them.

    Args:
        settings: the resolved configuration as a plain dict.

    Raises:
        SettingError: where a setting has a value that is not allowed.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.cache = Path(settings["cache_dir"]).expanduser().resolve()
        self.progress = bool(settings["progress"])
        for name, allowed in _CHOICES.items():
            if (value := _value(settings, name)) not in allowed:
                raise SettingError(name, value, allowed)
        for name, least in _COUNTS.items():
            value = _value(settings, name)
            if name == "data.num_workers" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingError(name, value, f"a whole number from {least} on")
        # What needs no image is refused before the first of them is read or drawn.
        self.fit = SquareFit(settings["data"]["image_size"], settings["data"]["fit"])
        augment = settings["augment"]
        self.operators, self.copies = operators_of(augment), None
        if augment["mode"] == "fixed":
            self.copies = FixedCopies(augment["target_per_class"], augment["reference_per_class"], self.operators)
        check_engine(settings["features"]["engine"])
        # Runs of older versions do not have it.
        if (unseen := settings.setdefault("unseen", "scored")) not in UNSEEN:
            raise SettingError("unseen", unseen, UNSEEN)
        if settings["selection"] == "paper" and self.locked:
            raise SettingError("selection", "paper", "inner with unseen=locked", "paper chooses by the unseen fold")

    @property
    def locked(self) -> bool:
        """Whether the unseen fold is kept out of the run."""
        return bool(self.settings["unseen"] == "locked")

    def seed(self, fold: int) -> int:
        """The seed of one fold: folds of one study start from different heads and orders."""
        return int(np.random.SeedSequence([self.settings["seed"], fold]).generate_state(1)[0])

    def study(self) -> Study:
        """Manifest and split; what a reader of the numbers has to know is logged."""
        s = self.settings
        study = prepare_study(
            s["data"],
            s["split"],
            cache_dir=self.cache,
            strict=s["strict"],
            rules=fixed_rules,
            limits=s.get("reading"),
            progress=self.progress,
        )
        for note in study.notes:
            log.info("%s", note)
        return study

    def changed_films(self, study: Study) -> list[ImageRefusedError]:
        """Films in a fold that changed since prepare; each is named in the log."""
        films = _with_hashes(study)
        changed = check_files(films[films["fold"] >= 0], study.root, progress=self.progress)
        for error in changed:
            log.warning("refused: %s", error)
        return changed

    def module(self) -> ClassificationModule:
        """The network, with a head from the global random state."""
        s = self.settings
        preprocessing = {"fit": s["data"]["fit"], "image_size": s["data"]["image_size"]}
        return ClassificationModule(s["model"], s["optim"], preprocessing, s["monitor"])

    def datamodule(
        self, study: Study, module: ClassificationModule, fold: int, changed: list[ImageRefusedError]
    ) -> FoldDataModule:
        """The films of a fold, without those that changed.

        Raises:
            DataError: where none is left to train, test or call unseen.
        """
        s, data, spec = self.settings, self.settings["data"], module.classifier.spec
        split = _with_hashes(study)
        datamodule = FoldDataModule(
            split,
            root=study.root,
            fold=fold,
            group=s["split"]["group"],
            split_copies=s["split"].get("copies", "bytes"),
            validation=s["split"]["validation"],
            validation_seed=s["split"]["seed"],
            fit=self.fit,
            normalise=Normalise(tuple(spec.mean), tuple(spec.std)),
            copies=self.copies,
            online=self.operators if s["augment"]["mode"] == "online" else None,
            batch_size=data["batch_size"],
            num_workers=data["num_workers"],
            seed=self.seed(fold),
            reading={"max_megapixels": data["max_megapixels"], "min_side": data["min_side"]},
            locked=self.locked,
        )
        bad = split["path"].map(lambda path: str(study.root / path)).isin([error.path for error in changed])
        datamodule.drop(set(split["image_id"][bad]))
        for part in ("train", "test", "unseen"):
            if not len(datamodule.rows[part]):
                raise DataError(f"fold {fold}: no film is left in the {part} split; restore the files")
        return datamodule

    def why_no_features(self, module: ClassificationModule) -> str | None:
        """Why this run cannot go by kept features, or None where it can, exactly."""
        s = self.settings
        reasons = {
            "features=off": s["features"]["mode"] == "off",
            "the backbone is not frozen": not module.classifier.frozen,
            "augment=online draws anew in every epoch": s["augment"]["mode"] == "online",
            "trainer.fast_dev_run looks at one batch alone": bool(s["trainer"]["fast_dev_run"]),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def take_features(self, datamodule: FoldDataModule, module: ClassificationModule) -> str | None:
        """Let a datamodule serve the store's features, computed first where they are not there.

        Returns:
            None; why it goes on serving images where features would not be exact.
        """
        if reason := self.why_no_features(module):
            return reason
        store = self.store(module, datamodule)
        features = fold_features(
            datamodule,
            lambda: self.engine(module, store),
            store,
            batch_size=self.settings["features"]["batch_size"],
            progress=self.progress,
            trainer=self.settings["trainer"],
        )
        datamodule.use_features(features)
        return None

    def store(self, module: ClassificationModule, datamodule: FoldDataModule) -> FeatureStore:
        """The store that fits the data's transforms and the backbone."""
        films, s = datamodule.films(datamodule.rows["test"]), self.settings
        engine = s["features"]["engine"]
        backbone = module.classifier.backbone
        description = store_description(films, backbone.name, module.classifier.backbone_hash(), engine)
        return FeatureStore(self.cache / "features", description, module.classifier.backbone.features_dim)

    def map_store(self, module: ClassificationModule, films: FilmDataset) -> Callable[[str | None], MapStore] | None:
        """Gives the store of the backbone's maps, of a stage that is re-initialised or of the network as it is (None).

        Returns:
            None where the maps are not kept: ``features=off``, or a backbone that is trained.
        """
        if self.settings["features"]["mode"] == "off" or not module.classifier.frozen:
            return None
        backbone, root = module.classifier.backbone, self.cache / "features"
        description = store_description(films, backbone.name, module.classifier.backbone_hash())
        shape = map_shape(backbone.eval(), self.settings["data"]["image_size"])

        def store(stage: str | None) -> MapStore:
            # In the network of the first stage the head alone is new, and the maps do not know it.
            drawn = {} if stage in (None, "head") else {"randomised": stage, "torch": torch.__version__}
            return MapStore(root, {**description, **drawn}, shape)

        return store

    def annotations(self, study: Study) -> Annotations:
        """Masks and boxes of the films: ``data.masks`` and ``data.boxes``, or what lies beside the films.

        Raises:
            DataError: where one of them is named and cannot be used.
        """
        data = self.settings["data"]
        reading = {name: data[name] for name in ("max_megapixels", "min_side")} | (self.settings.get("reading") or {})
        return Annotations(study.root, masks=data.get("masks"), boxes=data.get("boxes"), reading=reading)

    def engine(self, module: ClassificationModule, store: FeatureStore) -> nn.Module:
        """What runs the backbone: torch, or ONNX Runtime."""
        s = self.settings
        return engine_of(s["features"]["engine"], module.classifier.backbone, s["data"]["image_size"], store.folder)


def _value(settings: dict[str, Any], name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = value[part]
    return value


def _with_hashes(study: Study) -> pd.DataFrame:
    return study.split.merge(study.films[["image_id", "sha256"]], on="image_id", how="left", validate="1:1")
