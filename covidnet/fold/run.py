"""The steps of one fold's run, in their order: data, network, features, fit, test, panels, files."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only

from covidnet.base.caveats import Caveat
from covidnet.base.classes import ClassList
from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import real_path
from covidnet.base.quiet import quieten
from covidnet.base.trust import check_classes, check_links
from covidnet.callbacks.curves import restore_curves
from covidnet.callbacks.gradcam_panels import GradCamPanels
from covidnet.callbacks.prediction_writer import PredictionWriter
from covidnet.callbacks.resume_point import ResumePoint
from covidnet.data.collection.annotations import Annotations
from covidnet.data.collection.prepared import PreparedDataset
from covidnet.data.folds.unseen_ledger import UnseenLedger
from covidnet.data.loading.datamodule import FoldDataModule
from covidnet.data.loading.dataset import FeatureDataset
from covidnet.data.recognition.training_images import write_training_images
from covidnet.evaluation.explanations import FOLDER, RunExplanations, map_notes, verdicts, write_explanations
from covidnet.explaining.fold_maps import Explanations
from covidnet.fold.fitting import gate_of, temperature_of
from covidnet.fold.folder import RunFolder
from covidnet.fold.full_batch import TOLERANCE, full_batch_fit, largest_gradient
from covidnet.fold.resume import Resumption, Terminated, termination
from covidnet.fold.setup import FoldSetup
from covidnet.fold.starting_weights import settle_weights, tell_weights
from covidnet.fold.together import CALLBACKS, recorded_fit
from covidnet.launch.known_settings import check_arguments
from covidnet.learning.checkpoints import AtomicCheckpointIO
from covidnet.learning.module import ClassificationModule, RecordedFit
from covidnet.learning.monitor import direction
from covidnet.models.saliency import check_method
from covidnet.report.words import EXPLAINERS
from covidnet.serving.record import add_record, serving_record
from covidnet.tracking.fold_log import log_fold
from covidnet.tracking.loggers import finish, make_loggers

log = logging.getLogger(__name__)


class FoldRun:
    """One run of one fold.

    Args:
        settings: the resolved configuration as a plain dict.
        folder: the run folder.
        search: whether this is a trial of a search for hyperparameters: it ends after validation and never uses the
            test fold or the unseen fold.
        sweep: the folder of the sweep that the run belongs to.
    """

    def __init__(
        self, settings: dict[str, Any], folder: Path, *, search: bool = False, sweep: Path | None = None
    ) -> None:
        self.settings = settings
        self.search = search
        self.sweep = sweep
        self.folder = folder
        self.setup = FoldSetup(settings)
        self.progress = self.setup.progress
        self.resumption = Resumption(folder, settings)
        self.seconds: dict[str, float] = {}
        self.loggers: list[Logger] = []
        self.callbacks: list[pl.Callback] = []
        self.checkpoints = AtomicCheckpointIO()
        self.chosen_epoch = -1

    def run(self) -> float | None:
        """Run all steps, or the remaining ones of a resumed run.

        Returns:
            The monitored value of the chosen checkpoint; None if the run had already finished.

        Raises:
            CovidnetError: for what the user can fix.
            Terminated: after SIGTERM; what was computed is kept.
        """
        check_classes(self.settings, self.settings.get("trust") or ())
        check_arguments(self.settings)
        check_links(self.folder)
        # Recorded, so that later changes to the folders do not affect this run.
        if "classes" in self.settings["data"]:
            found = self.setup.classes
            self.settings["data"]["classes"] = list(found)
            if found.positive != found.names[0]:
                self.settings["data"]["positive"] = found.positive
        direction(self.settings["monitor"], classes=self.setup.classes)
        self._watch_training()
        settle_weights(self.settings, self.folder, self.sweep, resumed=self.resumption.wanted)
        self.setup.keep_engine(self.folder, resumed=self.resumption.wanted)
        self.resumption.check_settings()
        if self.resumption.finished:
            log.info("fold %d is finished already: %s", self.settings["fold"], self.folder)
            return None
        quieten()
        self._make_callbacks()
        self._check_trainer()
        # Before anything slow, so that a rejected key is reported at once.
        self.loggers = make_loggers(self.settings, self.folder, resume=self.resumption.point is not None)
        failed, patience = True, None
        try:
            with termination():
                try:
                    score = self._run()
                finally:
                    self.checkpoints.flush()
            failed = False
        except Terminated:
            log.error("stopped by SIGTERM; python -m covidnet.train resume='%s' resumes it", self.folder)
            # SIGKILL follows after half a minute.
            patience = 10.0
            raise
        finally:
            finish(self.loggers, failed=failed, patience=patience)
        return score

    def _run(self) -> float | None:
        start = time.perf_counter()
        s, setup = self.settings, self.setup
        seed = setup.seed(s["fold"])
        pl.seed_everything(seed, workers=True, verbose=False)
        # The network needs no data: missing weights are reported before any image is read or generated.
        module = setup.module()
        before, network = setup.backbone_hash(module), module.classifier.description()
        explain = s["explain"]
        if any(explain[name] for name in ("per_class", "errors", "localisation_images", "sanity_images")):
            check_method(module.classifier, explain["method"])
        prepared = setup.prepared()
        changed = setup.changed_images(prepared)
        # Unusable masks are reported before training, not after it.
        annotations = setup.annotations(prepared)
        # After what is wrong with the data is known: it exports the network.
        setup.settle_engine(module, self.sweep, resumed=self.resumption.wanted)
        files = RunFolder(self.folder, s, prepared, changed)
        # Only the first of several processes writes.
        if getattr(rank_zero_only, "rank", 0) == 0:
            self.resumption.begin(files.record(before))
            files.write_settings()
        datamodule = setup.datamodule(prepared, module, s["fold"], changed)
        setup.weigh(module, datamodule)
        sizes = []
        for part, rows in datamodule.rows.items():
            images = rows["image_id"].nunique()
            copies = f" ({len(rows)} with augmented copies)" if len(rows) > images else ""
            sizes.append(f"{part} {images}{copies}")
        log.info("fold %d: images of %s", s["fold"], ", ".join(sizes))
        tell_weights(s)
        with self._timed("features"):
            from_store = self._features(datamodule, module)
        # A linear head is so small that two threads wait for each other longer than they work.
        with _threads(1 if from_store else torch.get_num_threads()):
            # Epochs of a fully trained network take minutes, so that each checkpoint is written at once.
            frozen = module.classifier.backbone.state_dict().values() if module.classifier.frozen else ()
            self.checkpoints = AtomicCheckpointIO(seconds=30.0 if from_store else 0.0, constant=frozen)
            if from_store and self.resumption.point is None:
                module.recorded = recorded_fit(self.folder, module)
                if s["optim"].get("solver"):
                    module.recorded = self._full_batch(module, datamodule)
            trainer = self._trainer(seed, one_step=module.recorded is not None)
            with self._timed("fit"), self._light(module, trainer) if from_store else nullcontext():
                self._fit(trainer, module, datamodule)
            earlier = dict(module.recorded.seconds) if module.recorded else {}
            trainer.limit_val_batches = self._val_batches()
            for name, seconds in earlier.items():
                self.seconds[name] += seconds
            module.recorded = None
            if not from_store:
                self._check_frozen(module, before)
            if trainer.world_size > 1:
                if not self._is_last_process(trainer):
                    return None
                trainer = self._alone(trainer)
            if self.search:
                _, score = self._chosen(trainer, module)
                self._write_checkpoints()
                self.resumption.end()
                log.info("trial: %s %s", s["monitor"], score)
                return score
            unseen = self._enter(prepared)
            module, score = self._test(trainer, datamodule, module)
        after = self._check_frozen(module, before)
        predictions = self._predictions(trainer).write(self.folder / "predictions.csv", datamodule.rows, s["fold"])
        best = trainer.checkpoint_callback
        checkpoint = Path(best.best_model_path) if isinstance(best, ModelCheckpoint) and best.best_model_path else None
        with self._timed("panels"):
            panels, maps = self._explain(prepared, datamodule, trainer, module, annotations)
        with self._timed("serving"):
            temperature = self._make_ready(prepared, datamodule, module, predictions, checkpoint, maps)
        self.seconds["total"] = time.perf_counter() - start + sum(earlier.values())
        self._write_checkpoints()
        metrics = files.metrics(self.seconds, datamodule.counts, temperature)
        if from_store:
            metrics["convergence"] = self._convergence(module, datamodule)
        files.write(metrics, {"before_fit": before, "after_fit": after}, network, unseen)
        log_fold(self.loggers, metrics, predictions, panels, checkpoint, trainer.global_step)
        self.resumption.end()
        files.tell(metrics, unseen)
        if files.refused_count and s["strict"]:
            raise DataError(f"strict=true: {files.refused_count} files were refused; see {self.folder / 'refused.csv'}")
        return score

    def _part(self, datamodule: FoldDataModule, part: str) -> FeatureDataset:
        return FeatureDataset(datamodule.features[part], datamodule.rows[part], self.setup.classes)

    def _full_batch(self, module: ClassificationModule, datamodule: FoldDataModule) -> RecordedFit:
        if self.setup.why_no_features(module) or not len(datamodule.rows["val"]):
            raise SettingError("optim.solver", "lbfgs", "null here", "it needs stored features and validation images")
        train, val = (self._part(datamodule, part) for part in ("train", "val"))
        return full_batch_fit(module, train, val, self.settings["optim"]["l2"])

    def _convergence(self, module: ClassificationModule, datamodule: FoldDataModule) -> dict[str, Any] | None:
        """The gradient of the chosen head; None for a head that is not linear."""
        optim, l2 = self.settings["optim"], 0.0
        if optim.get("solver"):
            l2 = float(sorted(optim["l2"], reverse=True)[self.chosen_epoch])
        gradient = largest_gradient(module, self._part(datamodule, "train"), l2)
        if gradient is None:
            return None
        return {
            "gradient": gradient, "tolerance": TOLERANCE, "converged": gradient <= TOLERANCE,
            "l2": l2 if optim.get("solver") else None,
        }  # fmt: skip

    def _write_checkpoints(self) -> None:
        """Write the checkpoints that still wait, but no resume point: the run is about to end."""
        self.checkpoints.discard(self.resumption.place)
        self.checkpoints.flush()

    @contextmanager
    def _light(self, module: ClassificationModule, trainer: pl.Trainer) -> Iterator[None]:
        """Train the head alone, without its frozen backbone, where no callback of the user's could miss it."""
        known = all(callback["_target_"] in CALLBACKS for callback in self.settings["callbacks"].values() if callback)
        if not known or self.resumption.point is not None or trainer.world_size > 1:
            yield
            return
        with module.classifier.head_alone() as state:
            self.checkpoints.added = {f"classifier.{name}": value for name, value in state.items()}
            try:
                yield
            finally:
                self.checkpoints.added = {}

    def _fit(self, trainer: pl.Trainer, module: ClassificationModule, datamodule: FoldDataModule) -> None:
        point = self.resumption.point
        if point is not None:
            datamodule.epoch, _ = ResumePoint.read(point)
            log.info("resuming at epoch %d", datamodule.epoch)
        try:
            trainer.fit(module, datamodule=datamodule, ckpt_path=point, weights_only=True)
        except Terminated:
            raise
        except SystemExit as leaving:
            # A requeued job exits with a code of its scheduler.
            if leaving.code != 1:
                raise
            # Lightning exits silently on Ctrl-C.
            raise KeyboardInterrupt from None

    def _watch_training(self) -> None:
        """Monitor the training loss where there is no validation part."""
        s = self.settings
        if s["split"]["validation"] == "none" and s["monitor"].startswith("val/"):
            log.info("split.validation=none: there is no %s, so train/loss is monitored", s["monitor"])
            for holder in (s, *(c for c in s["callbacks"].values() if c and "monitor" in c)):
                holder["monitor"] = "train/loss"
                holder.pop("mode", None)

    def _make_callbacks(self) -> None:
        found = self.settings["callbacks"].items()
        self.callbacks = [_callback(name, callback, self.setup.classes) for name, callback in found if callback]
        if not any(isinstance(callback, PredictionWriter) for callback in self.callbacks):
            raise SettingError("callbacks.predictions", None, "PredictionWriter", "without predictions no numbers")

    def _check_trainer(self) -> None:
        """Build a trainer and discard it, so that a missing device is reported before any image is read."""
        # `deterministic` is a switch of the whole process, and computing features does not need it.
        settings = {name: value for name, value in self.settings["trainer"].items() if name != "deterministic"}
        hydra.utils.instantiate(settings, logger=False, enable_checkpointing=False, default_root_dir=self.folder)

    def _features(self, datamodule: FoldDataModule, module: ClassificationModule) -> bool:
        """Use stored features where they are exact; return whether they are used."""
        if reason := self.setup.take_features(datamodule, module):
            log.info("images go through the whole network in every epoch: %s", reason)
            return False
        return True

    def _trainer(self, seed: int, *, one_step: bool = False) -> pl.Trainer:
        s = self.settings
        # First, so that every other callback finds the epoch's random state.
        callbacks: list[pl.Callback] = [ResumePoint(self.folder / "checkpoints", seed)]
        callbacks += self.callbacks
        if not self.loggers:
            # Without a logger it raises.
            callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
        for callback in callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.dirpath = str(self.folder / "checkpoints")
        if self.progress:
            callbacks.append(_ProgressBar(refresh_rate=10, leave=False))
        if (point := self.resumption.point) is not None:
            restore_curves(ResumePoint.read(point)[1], self.loggers)
        own: dict[str, Any] = {"limit_train_batches": 1, "log_every_n_steps": 1} if one_step else {}
        trainer: pl.Trainer = hydra.utils.instantiate(
            {**s["trainer"], **own},
            callbacks=callbacks,
            logger=self.loggers or False,
            plugins=[self.checkpoints],
            # A recorded epoch has been validated already.
            limit_val_batches=0 if one_step else self._val_batches(),
            default_root_dir=self.folder,
            enable_model_summary=False,
            enable_progress_bar=self.progress,
        )
        return trainer

    def _val_batches(self) -> int | float:
        return (
            0
            if self.settings["split"]["validation"] == "none"
            else self.settings["trainer"].get("limit_val_batches") or 1.0
        )

    @staticmethod
    def _is_last_process(trainer: pl.Trainer) -> bool:
        """Shut the process group down; return whether this process continues."""
        trainer.strategy.barrier()
        torch.distributed.destroy_process_group()
        return trainer.is_global_zero

    def _alone(self, trained: pl.Trainer) -> pl.Trainer:
        """A single-process trainer for testing: several processes would count some images twice."""
        trainer: pl.Trainer = hydra.utils.instantiate(
            {**self.settings["trainer"], "devices": 1, "num_nodes": 1, "strategy": "auto"},
            callbacks=_callbacks(trained),
            logger=trained.loggers or False,
            plugins=[LightningEnvironment()],
            default_root_dir=self.folder,
            enable_model_summary=False,
            enable_progress_bar=self.progress,
        )
        # The step that loggers record.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trained.fit_loop.epoch_loop._batches_that_stepped
        return trainer

    def _enter(self, prepared: PreparedDataset) -> dict[str, Any]:
        """Record the run in the ledger of the unseen fold before scoring it; return the entry for the run folder."""
        s, run_id = self.settings, self.resumption.run_id
        ledger = UnseenLedger.of(self.setup.cache, prepared.split_sha256)
        counted = None
        if not self.setup.locked:
            facts = {"folder": str(real_path(self.folder)), "fold": s["fold"], "seed": s["seed"]}
            counted = ledger.add("run", run_id, facts)
        return {"setting": s["unseen"], "run_id": run_id, "ledger": str(ledger.folder), "scored_in": counted}

    def _test(
        self, trainer: pl.Trainer, datamodule: FoldDataModule, module: ClassificationModule
    ) -> tuple[ClassificationModule, float | None]:
        """Validate and test the best checkpoint; only here are the test fold and an unlocked unseen fold scored."""
        module, score = self._chosen(trainer, module)
        if len(datamodule.rows["val"]):
            trainer.validate(module, dataloaders=datamodule.val_dataloader(), verbose=False)
        trainer.test(module, dataloaders=datamodule.test_dataloader(), verbose=False)
        return module, score

    def _chosen(self, trainer: pl.Trainer, module: ClassificationModule) -> tuple[ClassificationModule, float | None]:
        """The network of the best checkpoint, and its monitored value."""
        score = trainer.callback_metrics.get(self.settings["monitor"])
        best = trainer.checkpoint_callback
        # fast_dev_run writes no checkpoint.
        if isinstance(best, ModelCheckpoint) and (path := best.best_model_path):
            # It has not been written yet if training the head took less than half a minute.
            if (waiting := self.checkpoints.waiting(path)) is not None:
                module.take_head(waiting["state_dict"], path)
                self.chosen_epoch = int(waiting["epoch"])
            else:
                module = ClassificationModule.from_checkpoint(path)
            score = best.best_model_score
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

    def _make_ready(
        self,
        prepared: PreparedDataset,
        datamodule: FoldDataModule,
        module: ClassificationModule,
        predictions: pd.DataFrame,
        checkpoint: Path | None,
        maps: list[str] | None,
    ) -> dict[str, Any] | None:
        """Add gate, temperature and provenance to the chosen checkpoint; return the temperature for metrics.json."""
        temperature, images = temperature_of(predictions, prepared.classes)
        thumbnails = prepared.thumbnails(progress=self.progress)
        write_training_images(self.folder, datamodule.rows, thumbnails)
        if checkpoint is not None:
            s = self.settings
            gate = gate_of(module, datamodule, thumbnails, seed=s["seed"], progress=self.progress)
            training = {
                "name": prepared.name,
                "films": {label: counts["films"] for label, counts in datamodule.counts["train"].items()},
                "manifest_sha256": prepared.manifest_sha256,
                "split_sha256": prepared.split_sha256,
                "group": s["split"]["group"],
                "validation": s["split"]["validation"],
                "seed": s["seed"],
            }
            record = serving_record(fold=s["fold"], temperature=temperature, gate=gate, training=training, maps=maps)
            waiting = self.checkpoints.waiting(checkpoint)
            add_record(checkpoint, record, None if waiting is None else (waiting, module))
            self.checkpoints.discard(checkpoint)
        split = {"inner": "val", "test": "test"}.get(self.settings["split"]["validation"])
        return None if temperature is None else {"value": temperature, "n": images, "split": split}

    def _explain(
        self,
        prepared: PreparedDataset,
        datamodule: FoldDataModule,
        trainer: pl.Trainer,
        module: ClassificationModule,
        annotations: Annotations,
    ) -> tuple[dict[str, Path], list[str] | None]:
        """Draw panels of the unseen fold (of the test fold while that is locked), and test the heat maps.

        Returns:
            The panels by name, and notes on the maps; None for the notes if there are no maps.
        """
        part = "test" if self.setup.locked else "unseen"
        explain, rows = self.settings["explain"], datamodule.rows[part]
        callback = next((c for c in _callbacks(trainer) if isinstance(c, GradCamPanels)), None)
        drawn = callback is not None and bool(callback.per_class or callback.errors)
        if not (drawn or explain["localisation_images"] or explain["sanity_images"]):
            return {}, None
        images = datamodule.images(rows)
        explanations = Explanations(
            module,
            images,
            rows.merge(prepared.images[["image_id", "width", "height"]], on="image_id", how="left", validate="1:1"),
            method=explain["method"],
            seed=self.settings["seed"],
            probabilities=self._predictions(trainer).collected.get(part) or {},
            annotations=annotations,
            store=self.setup.map_store(module, images),
            progress=self.progress,
        )
        written = []
        if callback is not None:
            caption = self._caption(callback.method, prepared, part)
            written = explanations.panels(callback, self.folder / "panels", caption, part)
        model = self.settings["model"]
        localisation = explanations.localisation(explain["localisation_images"])
        sanity = explanations.sanity(explain["sanity_images"], explain["sanity_draws"])
        facts = RunExplanations(
            method=explain["method"],
            weights=model["weights"],
            freeze=model["freeze"],
            part=part,
            panels=tuple(f"panels/{path.name}" for path in written),
            constant_maps=explanations.constant,
        )
        found = write_explanations(self.folder / FOLDER, facts, localisation, sanity)
        for verdict in verdicts(found.localisation, found.sanity):
            log.warning("%s", verdict)
        return {f"panels/{path.stem}": path for path in written}, map_notes(found)

    def _caption(self, method: str, prepared: PreparedDataset, part: str) -> str:
        weights, auto = self.settings["model"]["weights"], self.settings["model"].get("weights_from")
        weights += " (model.weights=auto found no others)" if weights == "random" and auto else ""
        caption = f"{EXPLAINERS[method]} of the predicted class, {part} fold. Backbone weights: {weights}."
        if self.settings["model"]["weights"] == "random" and self.settings["model"]["freeze"]:
            caption += f" {Caveat.RANDOM_MAPS}"
        if prepared.synthetic:
            caption += " Synthetic radiographs (phantoms)."
        return caption

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


class _ProgressBar(RichProgressBar):
    """Lightning's bar without the version of the logger, which is always the same."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _callback(name: str, settings: Mapping[str, Any], classes: ClassList) -> pl.Callback:
    """Build a callback; a monitored metric sets its mode.

    Raises:
        SettingError: the metric is not logged, or the mode contradicts it.
    """
    mode = {}
    if monitor := settings.get("monitor"):
        right = direction(monitor, f"callbacks.{name}.monitor", classes)
        if settings.get("mode", right) != right:
            raise SettingError(f"callbacks.{name}.mode", settings["mode"], right, f"it follows from {monitor}")
        if "mode" in inspect.signature(hydra.utils.get_object(settings["_target_"])).parameters:
            mode = {"mode": right}
    callback: pl.Callback = hydra.utils.instantiate(settings, **mode)
    return callback


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
