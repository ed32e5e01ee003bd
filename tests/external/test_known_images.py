"""The images that a model has seen are known by its run folder, and found in other sets."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from covidnet.data.collection.image_table import ImageTable
from covidnet.data.reading.thumbnails import SIDE, Thumbnails
from covidnet.data.recognition.training_images import FILE, write_training_images
from covidnet.external.known_images import OVERLAP_COLUMNS, known_images


def pictures(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)).astype(np.float32), (0, 0), 2.5) for _ in range(count)]
    return np.stack([cv2.normalize(n, None, 20, 235, cv2.NORM_MINMAX) for n in noise]).astype(np.uint8)


PIXELS = pictures(20)
IDS = [f"{n:016x}" for n in range(20)]


def run(folder: Path, images: dict[str, list[int]] | None, split: dict[int, int] | None = None, fold: int = 0) -> Path:
    """A run folder; gives its checkpoint."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/best.ckpt").write_bytes(b"")
    (folder / "predictions.csv").write_text("")
    (folder / "metrics.json").write_text(json.dumps({"fold": fold}))
    if images is not None:
        rows = {
            part: pd.DataFrame({"image_id": [IDS[n] for n in chosen], "sha256": [f"{IDS[n]}-known" for n in chosen]})
            for part, chosen in images.items()
        }
        write_training_images(folder, rows, Thumbnails(IDS, PIXELS, np.ones(20)))
    if split is not None:
        table = pd.DataFrame({"image_id": [IDS[n] for n in split], "fold": list(split.values())})
        for column in ("path", "label", "patient_id", "view", "source"):
            table[column] = "x"
        table.to_csv(folder / "split.csv", index=False)
    return folder / "checkpoints/best.ckpt"


def images(pixels: np.ndarray, ids: list[str] | None = None) -> ImageTable:
    ids = ids or [f"new-{n:012d}" for n in range(len(pixels))]
    table = pd.DataFrame(
        {"image_id": ids, "path": [f"{i}.png" for i in ids], "label": "Normal", "sha256": [f"{i}-new" for i in ids]}
    )
    return ImageTable("folder", Path(), table, pd.DataFrame(), "", Thumbnails(ids, pixels, np.ones(len(ids))))


def test_images_are_found_with_the_part_that_they_were_in(tmp_path: Path) -> None:
    known = known_images([run(tmp_path, {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7], "test": [8, 9], "unseen": [10]})])
    assert (known.how, known.problem) == ("films", "")
    there = np.concatenate([PIXELS[[2, 6, 8, 10]][:, :, ::-1], pictures(3, seed=9)])
    found = known.within(images(there), progress=False)
    assert tuple(found.columns) == OVERLAP_COLUMNS
    assert found["training_image_id"].tolist() == [IDS[2], IDS[6], IDS[8], IDS[10]]
    assert found["part"].tolist() == ["train", "val", "test", "unseen"]
    assert set(found["kind"]) == {"mirrored"}
    assert found["path"].tolist() == [f"new-{n:012d}.png" for n in range(4)]


def test_what_one_model_of_several_was_trained_on_counts_as_trained_on(tmp_path: Path) -> None:
    models = [
        run(tmp_path / "fold=0", {"train": [1, 2, 3, 4], "test": [0], "unseen": [5]}),
        run(tmp_path / "fold=1", {"train": [0, 2, 3, 4], "test": [1], "unseen": [5]}),
    ]
    known = known_images(models)
    assert dict(zip(known.images.image_id, known.images.part, strict=True)) == {
        **dict.fromkeys(IDS[:5], "train"),
        IDS[5]: "unseen",
    }
    assert known.within(images(PIXELS[[0, 1, 5]]), progress=False)["part"].tolist() == ["train", "train", "unseen"]


def test_a_image_that_is_like_a_trained_and_an_untrained_one_is_the_trained_one(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, {"train": [0, 1, 2], "unseen": [3, 4]})
    pixels = PIXELS.copy()
    pixels[3] = PIXELS[0]
    write_training_images(
        tmp_path,
        {
            "train": pd.DataFrame({"image_id": IDS[:3], "sha256": IDS[:3]}),
            "unseen": pd.DataFrame({"image_id": IDS[3:5], "sha256": IDS[3:5]}),
        },
        Thumbnails(IDS, pixels, np.ones(20)),
    )
    found = known_images([checkpoint]).within(images(PIXELS[:1]), progress=False)
    assert found["part"].tolist() == ["train"]


def test_without_small_images_the_split_tells_the_same_files(tmp_path: Path) -> None:
    checkpoint = run(tmp_path, None, {0: 0, 1: 3, 2: 10, 3: -1, 4: 5}, fold=3)
    known = known_images([checkpoint])
    assert known.how == "files"
    assert "only identical files" in known.problem
    here = images(PIXELS[:5], [f"{IDS[n]}-2" if n == 4 else IDS[n] for n in range(5)])
    found = known.within(here, progress=False)
    assert found[["image_id", "part", "kind"]].to_numpy().tolist() == [
        [IDS[0], "train", "same file"],
        [IDS[1], "test", "same file"],
        [IDS[2], "unseen", "same file"],
        [f"{IDS[4]}-2", "train", "same file"],
    ]
    # A mirrored one is not found so.
    assert known.within(images(PIXELS[:5][:, :, ::-1]), progress=False).empty


def test_a_run_that_keeps_nothing_cannot_be_looked_into(tmp_path: Path) -> None:
    known = known_images([run(tmp_path, None)])
    assert known.how == "no"
    assert FILE in known.problem
    assert "cannot be searched for" in known.problem
    assert known.within(images(PIXELS[:3]), progress=False).empty


def test_one_of_two_runs_without_is_told(tmp_path: Path) -> None:
    models = [run(tmp_path / "fold=0", {"train": [0, 1, 2]}), run(tmp_path / "fold=1", None, {3: 0}, fold=1)]
    known = known_images(models)
    assert known.how == "files"
    assert known.problem.startswith("1 of 2 run folders have no training_images.npz")
    found = known.within(images(PIXELS[[1, 3]], [IDS[1], IDS[3]]), progress=False)
    assert found["kind"].tolist() == ["near-duplicate", "same file"]


def test_a_checkpoint_outside_of_any_run_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").write_bytes(b"")
    known = known_images([tmp_path / "best.ckpt"])
    assert known.how == "no"
    assert "is not in a run folder" in known.problem


@pytest.mark.parametrize("place", ["fold=0/model.onnx", "model.onnx"])
def test_an_exported_model_is_looked_up_in_its_run_or_sweep_folder(tmp_path: Path, place: str) -> None:
    run(tmp_path / "fold=0", {"train": [0, 1, 2]})
    (tmp_path / place).write_bytes(b"")
    known = known_images([tmp_path / place])
    assert known.how == "films"
    assert known.images.image_id.tolist() == IDS[:3]
