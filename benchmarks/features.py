"""What the feature store saves: python benchmarks/features.py [NAME=VALUE ...] [--images N] [--rounds N]

In one run, on the same phantoms: the machine's matrix-product rate and the limit that follows from it, the bare
backbone on tensors in memory (PyTorch and ONNX Runtime), the store's build with both, the naive path that goes through
the whole network in every epoch, the seconds of a head, the projected cost of the paper's ten folds both ways, and peak
memory.
Everything is measured in turn, `--rounds` times; medians are printed, and ratios of medians. The limit is that of
DenseNet121, whatever network NAME=VALUE choose.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import hydra
import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import LearningRateMonitor
from torch.utils.data import DataLoader

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.progress import available_cores
from covidnet.base.quiet import quieten
from covidnet.callbacks.resume_point import ResumePoint
from covidnet.data.loading.augment import ORIGINAL, FixedCopies
from covidnet.data.loading.datamodule import FoldDataModule
from covidnet.data.loading.dataset import FeatureDataset, ImageDataset, whole_batch
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.feature_store.engines import engine_of
from covidnet.feature_store.extract import fill_store
from covidnet.feature_store.store import FeatureStore
from covidnet.fold import FoldRun
from covidnet.launch.command import compose
from covidnet.learning.checkpoints import AtomicCheckpointIO
from covidnet.models.backbones import build_backbone

MULTIPLY_ADDS = 2.83e9
"""Of DenseNet121 for one image of 224 x 224 pixels (Huang et al. 2017, as counted by torchvision)."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_rate(products: int) -> float:
    """Multiply-adds per second of a large float32 matrix product on all cores."""
    a, b = torch.randn(2, 2048, 2048)
    torch.mm(a, b)
    return products * 2048**3 / seconds(lambda: [torch.mm(a, b) for _ in range(products)])


class Bench:
    def __init__(self, images: int, home: Path, side: int, settings: list[str]) -> None:
        self.home = home
        cfg = compose(
            ["fold=3", f"data.images_per_class={images // 3 // 11 * 11}", "progress=false", "trainer.accelerator=cpu",
             "callbacks.early_stopping=null", "callbacks.panels.per_class=0", f"cache_dir={home}",
             f"data.image_size={side}", "model.weights=random", *settings]
        )  # fmt: skip
        self.run = FoldRun(OmegaConf.to_container(cfg, resolve=True), home / "run")
        setup = self.run.setup
        self.study = setup.prepared()
        self.module = setup.module()
        self.backbone = self.module.classifier.backbone.eval()
        self.fold = setup.datamodule(self.study, self.module, 3, [])
        self.inputs = self.fold.distinct_inputs.sort_values(["sha256", "operator"], ignore_index=True).head(images)
        self.batches = [
            torch.randn(16, 3, side, side).to(memory_format=torch.channels_last) for _ in range(images // 16)
        ]
        self.onnx = engine_of("onnx", self.backbone, side, home)
        self.builds = 0

    def bare(self, engine: torch.nn.Module) -> float:
        with torch.inference_mode():
            engine(self.batches[0])
            return 16 * len(self.batches) / seconds(lambda: [engine(batch) for batch in self.batches])

    def build(self, engine: torch.nn.Module) -> float:
        self.builds += 1
        store = FeatureStore(self.home / "features", {"build": self.builds}, self.backbone.features_dim)
        took = seconds(
            lambda: fill_store(
                self.inputs, self.fold.images, lambda: engine, store, progress=False, trainer={"accelerator": "cpu"}
            )
        )
        return len(self.inputs) / took

    def naive(self) -> float:
        """Images per second of training through the whole network, as usually written: NCHW, batches of 32."""
        train = self.fold.rows["train"]
        rows = train.sample(min(96, len(train)), random_state=0).reset_index(drop=True)
        loader = DataLoader(self.fold.images(rows), 32)
        optimizer = torch.optim.Adam(self.module.classifier.head.parameters())

        def epoch() -> None:
            for batch in loader:
                loss = torch.nn.functional.cross_entropy(self.module.classifier(batch["image"]), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return len(rows) / seconds(epoch)

    def head(self, images: int) -> float:
        """Seconds of all epochs of a head on as many features as the paper has training images, on one thread."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        checkpoints = AtomicCheckpointIO(seconds=30.0)
        # Everything that a run's trainer does after each epoch, but for the loggers.
        callbacks = [c for c in self.run.callbacks if not isinstance(c, LearningRateMonitor)]
        trainer = hydra.utils.instantiate(
            self.run.settings["trainer"],
            callbacks=[ResumePoint(self.run.folder / "checkpoints", 0), *callbacks],
            logger=False,
            plugins=[checkpoints],
            default_root_dir=self.run.folder,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        module = self.run.setup.module()
        train, val = (_features(count, self.backbone.features_dim) for count in (images, 141))
        took = seconds(lambda: (trainer.fit(module, train, val), checkpoints.flush()))
        torch.set_num_threads(before)
        assert trainer.current_epoch == trainer.max_epochs
        return took


def _features(count: int, width: int) -> DataLoader:
    ids = [f"image{n}" for n in range(count)]
    rows = pd.DataFrame({"image_id": ids, "label": [CLASSES[n % 3] for n in range(count)]})
    return DataLoader(FeatureDataset(torch.randn(count, width), rows), 32, shuffle=count > 1000, collate_fn=whole_batch)


def paper_inputs(folds: int, epochs: int) -> tuple[int, int]:
    """Distinct inputs of the paper's folds, and the images that they look at in all epochs and the tests."""
    rows = []
    for label in CLASSES:
        for n in range(572):
            sha256 = hashlib.sha256(f"{label} {n}".encode()).hexdigest()
            rows.append((sha256[:16], "", label, f"{label} {n}", n % 11, sha256))
    split = pd.DataFrame(rows, columns=["image_id", "path", "label", "patient_id", "fold", "sha256"])
    parts, seen = [], 0
    for fold in range(folds):
        datamodule = FoldDataModule(
            split, root=Path(), fold=fold, fit=SquareFit(), normalise=Normalise((0.0,), (1.0,)), copies=FixedCopies()
        )
        parts.append(datamodule.distinct_inputs)
        r = {part: len(table) for part, table in datamodule.rows.items()}
        seen += epochs * (r["train"] + r["val"]) + r["val"] + r["test"] + r["unseen"]
    distinct = pd.concat(parts).drop_duplicates(["sha256", "operator"])
    return len(distinct), seen


def own_peak() -> float:
    """Peak resident memory of this process in GiB (Linux). getrusage would count its parent's, from before the exec."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 2**20


def peak_memory(images: int) -> float:
    """Peak resident memory in GiB of a process that fills a store with so many images."""
    command = [sys.executable, "-W", "ignore", __file__, "--memory", str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def fill_small(images: int) -> None:
    """Fill a store with noise of 64 x 64 pixels, seen at 32 x 32: what matters here is how many there are."""
    with tempfile.TemporaryDirectory() as home:
        rows, noise = [], np.random.default_rng(0)
        for n in range(images):
            data = cv2.imencode(".png", noise.integers(0, 256, (64, 64), np.uint8))[1].tobytes()
            (Path(home) / f"{n}.png").write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            rows.append((sha256[:16], f"{n}.png", CLASSES[n % 3], sha256, ORIGINAL))
        inputs = pd.DataFrame(rows, columns=["image_id", "path", "label", "sha256", "operator"])
        backbone = build_backbone().eval()
        normalise = Normalise(backbone.spec.mean, backbone.spec.std)
        fill_store(
            inputs,
            lambda some: ImageDataset(some, Path(home), fit=SquareFit(32), normalise=normalise),
            lambda: backbone,
            FeatureStore(Path(home) / "features", {"memory": images}, backbone.features_dim),
            progress=False,
            trainer={"accelerator": "cpu"},
        )
    print(own_peak())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help="inputs of every measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--products", type=int, default=25, help="matrix products whose rate is the limit")
    parser.add_argument("--side", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--head", type=int, default=3210, help="images that a head is trained on")
    parser.add_argument("--fills", type=int, nargs="*", default=[300, 3000], help="images of the stores of peak memory")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folds", type=int, default=10, help="of the paper's study, whose cost is projected")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="of the run")
    parser.add_argument("--memory", type=int, help="only fill a store with so many images and print the peak memory")
    arguments = parser.parse_args()
    quieten()
    warnings.filterwarnings("ignore")
    logging.disable()
    if arguments.memory:
        fill_small(arguments.memory)
        return
    with tempfile.TemporaryDirectory() as home:
        settings = [*arguments.settings, f"trainer.max_epochs={arguments.epochs}"]
        bench = Bench(arguments.images, Path(home), arguments.side, settings)
        work: dict[str, Callable[[], float]] = {
            "matrix product": lambda: matrix_rate(arguments.products) / MULTIPLY_ADDS,
            "bare backbone, PyTorch": lambda: bench.bare(bench.backbone),
            "bare backbone, ONNX Runtime": lambda: bench.bare(bench.onnx),
            "store build, PyTorch": lambda: bench.build(bench.backbone),
            "store build, ONNX Runtime": lambda: bench.build(bench.onnx),
            "naive path": bench.naive,
        }
        found: dict[str, list[float]] = {name: [] for name in work}
        heads = []
        for _ in range(arguments.rounds):
            for name, measure in work.items():
                found[name].append(measure())
            heads.append(bench.head(arguments.head))
        rate = {name: statistics.median(values) for name, values in found.items()}
        head = statistics.median(heads)
    memory = own_peak()
    once_more = {images: peak_memory(images) for images in arguments.fills}

    print(f"{available_cores()} cores, torch {torch.__version__}, {arguments.images} inputs, {arguments.rounds} rounds")
    for name, value in rate.items():
        spread = f"{min(found[name]):.1f} to {max(found[name]):.1f}"
        print(f"{name:30} {value:7.1f} images/s   ({spread})")
    spread = f"{min(heads):.1f} to {max(heads):.1f}, one thread"
    print(f"{f'head, {arguments.head:,} images, {arguments.epochs} epochs':30} {head:7.1f} s          ({spread})")
    print(f"{'peak memory of this process':30} {memory:7.2f} GiB")
    for images, peak in once_more.items():
        print(f"{f'peak memory, {images:,} small images':30} {peak:7.2f} GiB")
    best = max(("PyTorch", "ONNX Runtime"), key=lambda engine: rate[f"bare backbone, {engine}"])
    limit, bare = rate["matrix product"], rate[f"bare backbone, {best}"]
    distinct, seen = paper_inputs(arguments.folds, arguments.epochs)
    once = distinct / rate[f"store build, {best}"]
    study = once + arguments.folds * head
    naive = seen / rate["naive path"]
    for engine in ("PyTorch", "ONNX Runtime"):
        ratio = rate[f"store build, {engine}"] / rate[f"bare backbone, {engine}"]
        print(f"store build / bare backbone, {engine}: {ratio:.2f}")
    print(f"bare backbone, best engine ({best}) / matrix-product limit: {bare / limit:.2f}")
    print(f"the paper's {arguments.folds} folds look at {seen:,} images, {distinct:,} of them distinct")
    print(f"projected: naive {naive / 3600:.1f} h; with the store {study / 60:.1f} min, {study / once:.2f} x one pass")
    print(f"projected ratio: {naive / study:.0f} x cheaper")


if __name__ == "__main__":
    main()
