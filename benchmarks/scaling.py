"""What grows with the archive: python benchmarks/scaling.py [--images 1000 10000 100000]

Times of the steps of a study whose cost depends on the number of images, on made-up tables and random features, so that
no archive has to be there: folds by patient, manifest and split as CSV, the feature store (written, opened, read), the
head's training. The pass of the backbone and the reading of files are measured by benchmarks/features.py and here on a
few phantoms, per image.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.progress import available_cores
from covidnet.data.folds.splits import balanced_folds
from covidnet.data.phantoms.phantom import write_phantoms
from covidnet.data.reading.images import inspect_image, read_image
from covidnet.feature_store.store import FeatureStore, feature_key
from covidnet.models.heads import LinearHead

DIM = 1024


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def table(images: int) -> pd.DataFrame:
    """A manifest of made-up images: classes in the shares of real archives, one to six images of a patient."""
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES.names, images, p=[0.2, 0.5, 0.3])
    patient = np.repeat(np.arange(images), rng.integers(1, 7, images))[:images]
    # Patients have images of one class.
    labels = labels[patient]
    sha = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(images)]
    return pd.DataFrame(
        {
            "image_id": [s[:16] for s in sha], "path": [f"{label}/{n}.png" for n, label in enumerate(labels)],
            "label": labels, "patient_id": [f"p{n}" for n in patient], "view": "PA", "source": "made up",
            "sha256": sha, "width": 1024, "height": 1024, "mode": "L", "bytes": 500_000,
        }
    ).sort_values("image_id", ignore_index=True)  # fmt: skip


def head_epoch(features: torch.Tensor, labels: torch.Tensor) -> None:
    torch.set_num_threads(1)
    head = LinearHead(DIM, standardise=True)
    optimiser = torch.optim.Adam(head.parameters(), fused=True)
    for part in torch.randperm(len(features)).split(32):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(features[part]), labels[part]).backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000, 100000])
    parser.add_argument("--phantoms", type=int, default=60, help="images of each class that are read")
    given = parser.parse_args()
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as home:
        phantoms = write_phantoms(Path(home) / "images", images_per_class=given.phantoms, workers=1)
        paths = [Path(home) / "images" / name for name in phantoms["filename"]]
        seconds, _ = timed(lambda: [inspect_image(path) for path in paths])
        print(f"reading and checking an image of 320 pixels: {1000 * seconds / len(paths):.1f} ms on one core")
        seconds, _ = timed(lambda: [read_image(path) for path in paths])
        print(f"reading it for the network: {1000 * seconds / len(paths):.1f} ms on one core")
        for images in given.images:
            rows = table(images)
            folds, made = timed(lambda rows=rows: balanced_folds(rows, group="patient", seed=0))
            file = Path(home) / f"manifest-{images}.csv"
            written, _ = timed(lambda rows=rows, file=file: rows.to_csv(file, index=False))
            read, _ = timed(lambda file=file: pd.read_csv(file, dtype=object))
            store = FeatureStore(Path(home) / f"store-{images}", {"images": images}, DIM)
            keys = [feature_key(sha, "original") for sha in rows["sha256"]]
            vectors = np.random.default_rng(0).standard_normal((min(images, 256), DIM)).astype(np.float32)

            def fill(keys: list[bytes] = keys, store: FeatureStore = store, vectors: Any = vectors) -> None:
                for start in range(0, len(keys), 256):
                    part = keys[start : start + 256]
                    store.append(part, vectors[: len(part)])

            filled, _ = timed(fill)
            size = sum(path.stat().st_size for path in store.folder.iterdir())
            opened, fresh = timed(
                lambda images=images: FeatureStore(Path(home) / f"store-{images}", {"images": images}, DIM)
            )
            taken, (found, _) = timed(lambda fresh=fresh, keys=keys: fresh.read(keys))
            labels = torch.from_numpy(rows["label"].map(CLASSES.index).to_numpy().copy())
            epoch, _ = timed(lambda found=found, labels=labels: head_epoch(torch.from_numpy(found), labels))
            used = int((made.table["fold"] >= 0).sum())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{images} images: folds {folds:.2f} s ({used} in a fold), manifest {file.stat().st_size / 1e6:.1f} MB "
                f"written in {written:.2f} s and read in {read:.2f} s, store {size / 1e6:.0f} MB written in "
                f"{filled:.1f} s, opened in {opened:.2f} s, read in {taken:.2f} s, an epoch of the head {epoch:.2f} s, "
                f"peak memory so far {peak:.2f} GiB"
            )
            del found, vectors, fresh, store


if __name__ == "__main__":
    main()
