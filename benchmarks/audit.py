"""How often each check of the audit finds a planted fault, and how often it finds one where none is.

python benchmarks/audit.py [--clean 20] [--planted 5] [--images FOLDER]

Clean sets are phantoms with a sweep of random predictions of a fair skill. Faults are planted in them one at a time.
With --images, the faults of images and tables are planted in copies of a folder of real images too.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parents[1]))

from covidnet.auditing.checks import CHECKS, audited
from covidnet.auditing.study import Study
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.collection.image_table import read_image_table, table_columns
from covidnet.data.collection.metadata import FILE
from covidnet.data.collection.prepared import prepare_folder
from covidnet.data.phantoms.phantom import write_phantoms
from covidnet.evaluation.intervals import wilson
from covidnet.gate import fixed_rules
from tests.sweeps import random_probabilities, split_table, write_sweep

COLUMNS = list(CLASSES.columns)
NEXT = dict(zip(CLASSES, [*CLASSES[1:], CLASSES[0]], strict=True))


@dataclass
class Case:
    """A data set and a sweep to plant a fault in.

    Args:
        images: the folder of images, with its table.
        sweep: the folder of the sweep.
        rng: of the fault.
        alone: whether the sweep is of other images, which are not there.
    """

    images: Path
    sweep: Path
    rng: np.random.Generator
    alone: bool = False

    def table(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        file = self.images / FILE
        change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)

    def sweep_tables(self, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        for file in self.sweep.glob(f"*/{name}"):
            change(pd.read_csv(file, dtype=str, keep_default_na=False)).to_csv(file, index=False)

    def predictions(self, change: Callable[[pd.DataFrame], pd.DataFrame], **sweep: Any) -> None:
        """A sweep of its own, of more images, whose images need not exist."""
        self.alone = True
        shutil.rmtree(self.sweep)
        seed = int(self.rng.integers(1 << 30))
        options = {"split": split_table(per_fold=24, seed=seed), "skill": 4.0, "seed": seed} | sweep
        write_sweep(self.sweep, change=change, **options)


# Faults of images and their table


def copy_image(case: Case, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Five images are saved again, changed, in place of images of another class and patient."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        first = table.drop_duplicates("patient_id").groupby("label")["filename"].apply(list)
        for at in case.rng.permutation(min(map(len, first)))[:5]:
            image = cv2.imread(str(case.images / first["Normal"][at]), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(case.images / first["Pneumonia"][at]), np.ascontiguousarray(change(image)))
        return table

    case.table(plant)


def saved_smaller(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    return cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)


def cropped(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    return image[height // 20 :, : width - width // 20]


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(1.15 * image.astype(float) + 8, 0, 255).astype(np.uint8)


def spelled(case: Case) -> None:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        several = table["patient_id"].value_counts().index[: max(5, len(table) // 30)]
        rows = table[table["patient_id"].isin(several)].drop_duplicates("patient_id").index
        table.loc[rows, "patient_id"] = table.loc[rows, "patient_id"].str.upper().str.replace("-", " ") + " "
        return table

    case.table(plant)


def two_sexes(case: Case) -> None:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        several = table["patient_id"].value_counts().index[:5]
        rows = table[table["patient_id"].isin(several)].drop_duplicates("patient_id").index
        table.loc[rows, "sex"] = table.loc[rows, "sex"].map({"M": "F", "F": "M"})
        return table

    case.table(plant)


def source_of_class(case: Case) -> None:
    case.table(lambda table: table.assign(source="hospital " + table["label"]))


def sex_of_class(case: Case) -> None:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        table["sex"] = np.where((table["label"] == "COVID-19") == (case.rng.random(len(table)) < 0.9), "M", "F")
        return table.assign(sex=table.groupby("patient_id")["sex"].transform("first"))

    case.table(plant)


def corner_mark(case: Case) -> None:
    """A white square in the upper left corner of 9 of 10 images of a class."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        for name in table.loc[table["label"] == "COVID-19", "filename"]:
            if case.rng.random() < 0.9:
                image = cv2.imread(str(case.images / name), cv2.IMREAD_GRAYSCALE)
                side = max(image.shape) // 12
                image[side : 2 * side, side : 2 * side] = 255
                cv2.imwrite(str(case.images / name), image)
        return table

    case.table(plant)


def two_classes(case: Case) -> None:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        names = table.groupby("label")["filename"].apply(list)
        for n in range(2):
            shutil.copy(case.images / names["Normal"][n], case.images / names["Pneumonia"][-1 - n])
        return table

    case.table(plant)


# Faults of a sweep


def patient_in_two_folds(case: Case) -> None:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        rows = [table.index[table["fold"] == fold][0] for fold in ("2", "10")]
        table.loc[rows, "patient_id"] = "everywhere"
        return table

    case.sweep_tables("split.csv", plant)


def tested_twice(case: Case) -> None:
    def plant(table: pd.DataFrame) -> pd.DataFrame:
        test = table[table["split"] == "test"]
        return pd.concat([table, test.head(1)])

    case.sweep_tables("predictions.csv", plant)


def flipped_labels(case: Case) -> None:
    """1 label in 20 is wrong; models of a high skill know better."""
    split = split_table(per_fold=24, seed=int(case.rng.integers(1 << 30)))
    case.predictions(lambda table: table, split=split, skill=8.0)
    wrong = set(split.sample(frac=0.05, random_state=int(case.rng.integers(1 << 30)))["image_id"])

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        rows = table["image_id"].isin(wrong)
        table.loc[rows, "label"] = table.loc[rows, "label"].map(NEXT)
        return table

    for name in ("predictions.csv", "split.csv"):
        case.sweep_tables(name, plant)


def nothing_learned(case: Case) -> None:
    case.predictions(lambda table: table, skill=0.0)


def worse_group(case: Case) -> None:
    """In one of four hospitals a third of the predictions is wrong."""
    split = split_table(per_fold=24, seed=int(case.rng.integers(1 << 30)))
    number = split["patient_id"].map(lambda text: int.from_bytes(text.encode(), "big") % 1009 % 4)
    split = split.assign(source="hospital " + number.astype(str))
    bad = set(split.loc[number == 2, "image_id"])

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        rows = table["image_id"].isin(bad) & (case.rng.random(len(table)) < 1 / 3)
        return _called(table, rows, table.loc[rows, "label"].map(NEXT))

    case.predictions(plant, split=split)


def unlike_validation(case: Case) -> None:
    """Models are much worse on one class of the unseen fold."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        rows = (table["split"] == "unseen") & (table["label"] == "Normal")
        table.loc[rows, COLUMNS] = random_probabilities(table.loc[rows, "label"], 0.5, case.rng).astype(np.float32)
        return table.assign(prediction=np.array(CLASSES)[table[COLUMNS].to_numpy(float).argmax(1)])

    case.predictions(plant)


def threshold_fails(case: Case) -> None:
    """A third of the positive test images has a lower probability than any validation image."""

    def plant(table: pd.DataFrame) -> pd.DataFrame:
        rows = (table["split"] == "test") & (table["label"] == "COVID-19") & (case.rng.random(len(table)) < 1 / 3)
        return _called(table, rows, pd.Series("Normal", table.index[rows]))

    case.predictions(plant)


def _called(table: pd.DataFrame, rows: pd.Series, names: pd.Series) -> pd.DataFrame:
    table.loc[rows, COLUMNS] = np.eye(3)[[CLASSES.index(name) for name in names]]
    table.loc[rows, "prediction"] = names
    return table


def impossible_rate(case: Case) -> None:
    pd.DataFrame(
        [{"name": "a", "positives": 52, "negatives": 104, "sensitivity": "0.99", "specificity": "0.990"}]
    ).to_csv(case.images.parent / "published.csv", index=False)


@dataclass(frozen=True)
class Fault:
    """A planted fault and the check that is meant to find it.

    Args:
        name: in words.
        check: the name of the check.
        plant: plants it.
        of_images: whether it is planted in images or their table, so that real images can have it too.
        level: of the findings that count.
    """

    name: str
    check: str
    plant: Callable[[Case], None]
    of_images: bool = False
    level: tuple[str, ...] = ("blocks", "weakens")


FAULTS = (
    Fault("a patient in two folds", "leaks", patient_in_two_folds),
    Fault("an image tested twice", "leaks", tested_twice),
    Fault("a patient spelled in two ways", "identity", spelled, True),
    Fault("one patient id of two sexes", "identity", two_sexes, True),
    Fault("copies saved smaller, as JPEG", "same_image", lambda case: copy_image(case, saved_smaller), True),
    Fault("copies mirrored", "same_image", lambda case: copy_image(case, lambda image: image[:, ::-1]), True),
    Fault("copies inverted", "same_image", lambda case: copy_image(case, lambda image: 255 - image), True),
    Fault("copies cropped by 5%", "same_image", lambda case: copy_image(case, cropped), True),
    Fault("copies brightened", "same_image", lambda case: copy_image(case, brighter), True),
    Fault("a source for each class", "acquisition", source_of_class, True),
    Fault("a class that sex gives away (90%)", "acquisition", sex_of_class, True),
    Fault("a mark in the corner of a class (90%)", "shortcuts", corner_mark, True),
    Fault("an image in two classes", "labels", two_classes, True),
    Fault("1 label in 20 wrong", "labels", flipped_labels, level=("blocks", "weakens", "information")),
    Fault("a sweep that learned nothing", "shuffled_labels", nothing_learned),
    Fault("a hospital with a third wrong", "subgroups", worse_group),
    Fault("an unseen class unlike its validation images", "uncertainty", unlike_validation),
    Fault("a threshold that fails on test images", "clinical", threshold_fails),
    Fault("a rate that no confusion matrix gives", "published_tables", impossible_rate),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=int, default=20, help="clean sets, each with a seed of its own")
    parser.add_argument("--planted", type=int, default=5, help="sets with each fault")
    parser.add_argument("--per-class", type=int, default=33, help="phantoms of each class")
    parser.add_argument("--faults", type=int, default=len(FAULTS), help="only the first so many faults")
    parser.add_argument("--real", type=int, default=3, help="sets of real images with each fault")
    parser.add_argument("--images", type=Path, help="a folder of real images with a metadata.csv")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _false_alarms(Path(folder), given.clean, given.per_class)
        sets = {"phantoms": given.planted, "real images": given.real if given.images else 0}
        _power(Path(folder), sets, given.per_class, FAULTS[: given.faults], given.images)


def _false_alarms(folder: Path, sets: int, per_class: int) -> None:
    found: Counter[str] = Counter()
    ran: Counter[str] = Counter()
    silent = 0
    seconds = 0.0
    for seed in range(sets):
        case = _clean(folder / "clean", per_class, seed)
        start = time.process_time()
        audit = audited(_study(case, folder))
        seconds += time.process_time() - start
        silent += not audit.serious
        ran.update(audit.answers.keys())
        found.update({one.check for one in audit.serious})
        shutil.rmtree(folder / "clean")
    print(f"\n{silent} of {sets} clean sets raise nothing above information")
    print(f"{seconds / max(sets, 1):.1f} s of processor time for an audit of {3 * per_class} images")
    for check in CHECKS:
        if ran[check.name]:
            print(f"{check.name}: {_share(found[check.name], ran[check.name])} of the sets that it could look at")


def _power(folder: Path, sets: dict[str, int], per_class: int, faults: tuple[Fault, ...], real: Path | None) -> None:
    checks = {check.name: check for check in CHECKS}
    for kind, number in sets.items():
        if not number:
            continue
        print(f"\nplanted in {kind}")
        for fault in faults if kind == "phantoms" else [fault for fault in faults if fault.of_images]:
            hits = 0
            for seed in range(number):
                place = folder / "case"
                case = (
                    _real(place, real, seed) if kind != "phantoms" and real else _clean(place, per_class, 1000 + seed)
                )
                fault.plant(case)
                audit = audited(_study(case, folder), [checks[fault.check]])
                hits += any(one.level in fault.level for one in audit.findings)
                shutil.rmtree(place)
            print(f"{fault.name} ({fault.check}): {_share(hits, number)}", flush=True)


def _share(hits: int, of: int) -> str:
    low, high = wilson(hits, of) or (float("nan"), float("nan"))
    return f"{hits} of {of} [{100 * low:.0f}, {100 * high:.0f}%]"


def _clean(folder: Path, per_class: int, seed: int) -> Case:
    images = folder / "images"
    rng = np.random.default_rng(seed)
    table = write_phantoms(images, images_per_class=per_class, size=96, seed=seed, workers=1)
    return _with_sweep(folder, _with_people(table, rng), seed, rng)


def _real(folder: Path, real: Path, seed: int) -> Case:
    """Up to 150 images of each class, with sexes and ages of chance."""
    rng = np.random.default_rng(seed)
    data = {"name": "folder", "root": str(real), "view": "frontal", "max_megapixels": 64, "min_side": 64}
    table = read_image_table(data, rules=fixed_rules, cache_dir=folder.parent / "real", progress=False).images
    number = min(150, table["label"].value_counts().min())
    table = table.groupby("label").sample(number, random_state=seed)
    rows = []
    for row in table.itertuples():
        name = f"{row.label}/{row.image_id}{Path(row.path).suffix}"
        (folder / "images" / row.label).mkdir(parents=True, exist_ok=True)
        shutil.copy(real / row.path, folder / "images" / name)
        rows.append({"filename": name, "label": row.label, "patient_id": row.patient_id})
    return _with_sweep(folder, _with_people(pd.DataFrame(rows), rng), seed, rng)


def _with_people(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    patients = {
        patient: (rng.choice(["M", "F"]), int(rng.integers(20, 90))) for patient in table["patient_id"].unique()
    }
    return table.assign(
        sex=table["patient_id"].map(lambda one: patients[one][0]),
        age=table["patient_id"].map(lambda one: patients[one][1]),
    )


def _with_sweep(folder: Path, table: pd.DataFrame, seed: int, rng: np.random.Generator) -> Case:
    images = folder / "images"
    table.to_csv(images / FILE, index=False)
    split = prepare_folder(images, cache_dir=folder / "cache", progress=False).split
    return Case(images, write_sweep(folder / "sweep", split=split, skill=3.0, seed=seed), rng)


def _study(case: Case, folder: Path) -> Study:
    if case.alone:
        return Study(None, sweep_dir=case.sweep, why_no_images="the sweep is of other images")
    data = {"name": "folder", "root": str(case.images), "view": None, "max_megapixels": 64, "min_side": 64}
    images = read_image_table(data, cache_dir=folder / "cache", rules=fixed_rules, progress=False)
    published = case.images.parent / "published.csv"
    study = Study(images, table_columns(data, images), sweep_dir=case.sweep)
    return replace(study, published=published) if published.exists() else study


if __name__ == "__main__":
    main()
