"""The steps of one fold's run, in their order: data, network, features, fit, test, panels, files."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar

from covidnet.callbacks.gradcam_panels import GradCamPanels
from covidnet.callbacks.prediction_writer import PredictionWriter
from covidnet.data.augment import FixedCopies, operators_of
from covidnet.data.datamodule import FoldDataModule
from covidnet.data.manifest import check_files
from covidnet.data.study import Study, prepare_study
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.errors import DataError, ImageRefusedError, SettingError
from covidnet.features.extract import fold_features, store_description
from covidnet.features.store import FeatureStore
from covidnet.learning.checkpoints import AtomicCheckpointIO
from covidnet.learning.module import ClassificationModule
from covidnet.run_folder import RunFolder

log = logging.getLogger(__name__)

_CHOICES = {"features.mode": ("auto", "off"), "augment.mode": ("fixed", "online", "none")}


class FoldRun:
    """One run of one fold.

    Args:
        settings: the resolved configuration as a plain dict.
        folder: the run folder.
    """

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.cache = Path(settings["cache_dir"]).expanduser().resolve()
        self.progress = bool(settings["progress"])
        self.seconds: dict[str, float] = {}

    def run(self) -> float | None:
        """Do it all.

        Returns:
            The monitored value of the chosen checkpoint.

        Raises:
            CovidnetError: where the user can mend what stands in the way.
        """
        start = time.perf_counter()
        self._check_settings()
        _quieten()
        study = self._study()
        pl.seed_everything(self._seed(), workers=True, verbose=False)
        s = self.settings
        preprocessing = {"fit": s["data"]["fit"], "image_size": s["data"]["image_size"]}
        module = ClassificationModule(s["model"], s["optim"], preprocessing, s["monitor"])
        before = module.classifier.backbone_hash()
        datamodule, changed = self._datamodule(study, module)
        with self._timed("features"):
            from_store = self._features(datamodule, module, before)
        # A linear head is so small that two threads wait for each other longer than they work.
        with _threads(1 if from_store else torch.get_num_threads()):
            trainer = self._trainer()
            with self._timed("fit"):
                trainer.fit(module, datamodule=datamodule)
            self._check_frozen(module, before)
            module, score = self._test(trainer, datamodule, module)
        after = self._check_frozen(module, before)
        self._predictions(trainer).write(self.folder / "predictions.csv", datamodule.rows, s["fold"])
        with self._timed("panels"):
            self._panels(study, datamodule, trainer, module)
        self.seconds["total"] = time.perf_counter() - start
        files = RunFolder(self.folder, s, study, changed)
        metrics = files.metrics(self.seconds)
        files.write(metrics, {"before_fit": before, "after_fit": after})
        files.tell(metrics)
        if files.refused_count and s["strict"]:
            raise DataError(
                f"{files.refused_count} files were refused (strict=true); see {self.folder / 'refused.csv'}"
            )
        return score

    def _check_settings(self) -> None:
        s = self.settings
        for name, allowed in _CHOICES.items():
            value = s
            for part in name.split("."):
                value = value[part]
            if value not in allowed:
                raise SettingError(name, value, allowed)
        if isinstance(s["seed"], bool) or not isinstance(s["seed"], int) or s["seed"] < 0:
            raise SettingError("seed", s["seed"], "a whole number from 0 on")
        if s["split"]["validation"] == "none" and s["monitor"].startswith("val/"):
            log.info("split.validation=none: there is no %s to watch, so train/loss is watched", s["monitor"])
            for holder in (s, *(c for c in s["callbacks"].values() if c and "monitor" in c)):
                holder["monitor"] = "train/loss"

    def _seed(self) -> int:
        # Folds of one seed start from different heads and orders.
        return int(np.random.SeedSequence([self.settings["seed"], self.settings["fold"]]).generate_state(1)[0])

    def _study(self) -> Study:
        s = self.settings
        study = prepare_study(s["data"], s["split"], cache_dir=self.cache, strict=s["strict"], progress=self.progress)
        for note in study.notes:
            log.info("%s", note)
        return study

    def _datamodule(self, study: Study, module: ClassificationModule) -> tuple[FoldDataModule, list[ImageRefusedError]]:
        s, data, augment = self.settings, self.settings["data"], self.settings["augment"]
        spec = module.classifier.spec
        operators = operators_of(augment)
        copies = None
        if augment["mode"] == "fixed":
            copies = FixedCopies(augment["target_per_class"], augment["reference_per_class"], operators)
        split = study.split.merge(study.films[["image_id", "sha256"]], on="image_id", how="left", validate="1:1")
        datamodule = FoldDataModule(
            split,
            root=study.root,
            fold=s["fold"],
            group=s["split"]["group"],
            validation=s["split"]["validation"],
            validation_seed=s["split"]["seed"],
            fit=SquareFit(data["image_size"], data["fit"]),
            normalise=Normalise(tuple(spec.mean), tuple(spec.std)),
            copies=copies,
            online=operators if augment["mode"] == "online" else None,
            batch_size=data["batch_size"],
            num_workers=data["num_workers"],
            seed=self._seed(),
            reading={"max_megapixels": data["max_megapixels"], "min_side": data["min_side"]},
        )
        changed = check_files(split[split["fold"] >= 0], study.root, progress=self.progress)
        for error in changed:
            log.warning("refused: %s", error)
        bad = split["path"].map(lambda path: str(study.root / path)).isin([error.path for error in changed])
        datamodule.drop(set(split["image_id"][bad]))
        for part in ("train", "test", "unseen"):
            if not len(datamodule.rows[part]):
                raise DataError(f"fold {s['fold']}: no film is left in the {part} split; restore the files")
        sizes = ", ".join(f"{part} {len(rows)}" for part, rows in datamodule.rows.items())
        log.info("fold %d: %s images", s["fold"], sizes)
        return datamodule, changed

    def _features(self, datamodule: FoldDataModule, module: ClassificationModule, weights: str) -> bool:
        """Whether the fold's features were taken from the store, which they are wherever that is exact."""
        s = self.settings
        reasons = {
            "features=off": s["features"]["mode"] == "off",
            "the backbone is not frozen": not module.classifier.frozen,
            "augment=online draws anew in every epoch": datamodule.online is not None,
            "trainer.fast_dev_run looks at one batch alone": bool(s["trainer"]["fast_dev_run"]),
        }
        for reason, holds in reasons.items():
            if holds:
                log.info("images go through the whole network in every epoch: %s", reason)
                return False
        description = store_description(datamodule.films(datamodule.rows["test"]), s["model"]["name"], weights)
        store = FeatureStore(self.cache / "features", description, module.classifier.backbone.features_dim)
        features = fold_features(
            datamodule,
            module.classifier.backbone,
            store,
            batch_size=s["features"]["batch_size"],
            progress=self.progress,
            trainer={k: s["trainer"][k] for k in ("accelerator", "devices")},
        )
        datamodule.use_features(features)
        return True

    def _trainer(self) -> pl.Trainer:
        s = self.settings
        callbacks = [hydra.utils.instantiate(callback) for callback in s["callbacks"].values() if callback]
        for callback in callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.dirpath = str(self.folder / "checkpoints")
        if self.progress:
            callbacks.append(RichProgressBar(refresh_rate=10, leave=False))
        loggers = [hydra.utils.instantiate(logger)(save_dir=self.folder) for logger in s["logger"].values() if logger]
        trainer: pl.Trainer = hydra.utils.instantiate(
            s["trainer"],
            callbacks=callbacks,
            logger=loggers or False,
            plugins=[AtomicCheckpointIO()],
            limit_val_batches=0 if s["split"]["validation"] == "none" else s["trainer"].get("limit_val_batches"),
            default_root_dir=self.folder,
            enable_model_summary=False,
            enable_progress_bar=self.progress,
        )
        return trainer

    def _test(
        self, trainer: pl.Trainer, datamodule: FoldDataModule, module: ClassificationModule
    ) -> tuple[ClassificationModule, float | None]:
        """Validate and test the best checkpoint; the test fold and the unseen fold are looked at here alone."""
        score = trainer.callback_metrics.get(self.settings["monitor"])
        best = trainer.checkpoint_callback
        # fast_dev_run writes no checkpoint.
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            module = ClassificationModule.from_checkpoint(best.best_model_path)
            score = best.best_model_score
        if len(datamodule.rows["val"]):
            trainer.validate(module, dataloaders=datamodule.val_dataloader(), verbose=False)
        trainer.test(module, dataloaders=datamodule.test_dataloader(), verbose=False)
        return module, None if score is None else float(score)

    def _check_frozen(self, module: ClassificationModule, before: str) -> str:
        after = module.classifier.backbone_hash()
        if module.classifier.frozen and after != before:
            raise RuntimeError(f"the frozen backbone changed during the run: {before} became {after}")
        return after

    def _predictions(self, trainer: pl.Trainer) -> PredictionWriter:
        for callback in _callbacks(trainer):
            if isinstance(callback, PredictionWriter):
                return callback
        raise SettingError("callbacks.predictions", None, "PredictionWriter", "without predictions no numbers")

    def _panels(
        self, study: Study, datamodule: FoldDataModule, trainer: pl.Trainer, module: ClassificationModule
    ) -> None:
        weights = self.settings["model"]["weights"]
        caption = f"Grad-CAM of the predicted class, unseen fold. Backbone weights: {weights}."
        if weights == "random":
            caption += " With random weights a map says little of any disease."
        if study.synthetic:
            caption += " Synthetic radiographs (phantoms)."
        rows = datamodule.rows["unseen"]
        for callback in _callbacks(trainer):
            if isinstance(callback, GradCamPanels):
                films, folder = datamodule.films(rows), self.folder / "panels"
                callback.draw(module, films, rows, folder, seed=self.settings["seed"], caption=caption)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # Lightning sets it without declaring it


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quieten() -> None:
    """Keep the terminal for what a person needs; warnings that name a fault of the run stay."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        # Few workers are our choice on a machine with few cores.
        ".*does not have many workers.*",
        # The frozen backbone stays in eval mode, and that is the point.
        r".*module\(s\) in eval mode at the start of training.*",
        # Lightning's own use of a deprecated name of torch.
        ".*isinstance.treespec, LeafSpec.*",
        # Small studies have fewer batches than a log interval.
        ".*The number of training batches.*",
    ):
        warnings.filterwarnings("ignore", message=message)
