"""External validation through its command: the look for training images, the numbers, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, SettingError, WeightsError
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.images import read_image
from covidnet.data.recognition.training_images import FILE, read_training_images
from covidnet.evaluate import main
from covidnet.evaluation.predictions import columns_of, read_predictions
from covidnet.evaluation.temperature import tempered
from covidnet.export import main as export
from covidnet.launch.command import compose
from covidnet.serving.open_model import open_model
from tests.commands import command

pytestmark = pytest.mark.usefixtures("copies_once", "exported_once", "undrawn")

FOLDERS = {"COVID-19": "covid", "Normal": "normal", "Pneumonia": "pneumonia"}
PHANTOMS = ("data.images_per_class=33", "data.phantom_size=96")


@pytest.fixture(scope="module")
def sweep(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds."""
    folder = tmp_path_factory.mktemp("sweep")
    for fold in (0, 1):
        shutil.move(trained(f"fold={fold}", "explain=off", "trainer.max_epochs=2"), folder / f"fold={fold}")
    return folder


def put(root: Path, path: str, pixels: np.ndarray) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / path)


@pytest.fixture(scope="module")
def images(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other phantoms, four of COVID-19 alone; and a mirrored training image, a broken file, a picture in colour."""
    root = tmp_path_factory.mktemp("external") / "hospital B"
    rows = []
    for n in range(28):
        label = CLASSES[0] if n < 4 else CLASSES[1 + n % 2]
        path = f"{FOLDERS[label]}/image {n}.png"
        put(root, path, draw_image(label, 7000 + n, 0, size=96).image)
        rows.append((path, f"p{n // 2}"))
    known = read_training_images(sweep / "fold=0")
    assert known is not None
    split = pd.read_csv(sweep / "fold=0/split.csv").set_index("image_id")
    image_id = known.image_id[known.part == "train"][0]
    study = Path(json.loads((sweep / "fold=0/environment.json").read_text())["data"]["root"])
    trained = read_image(study / split.loc[image_id, "path"])
    put(root, f"{FOLDERS[split.loc[image_id, 'label']]}/borrowed.png", np.ascontiguousarray(trained[:, ::-1]))
    (root / "normal/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rng = np.random.default_rng(0)
    put(root, "pneumonia/holiday.png", np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), np.uint8), 32, 0), 32, 1))
    pd.DataFrame(rows, columns=["filename", "patient_id"]).to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture
def few(images: Path, tmp_path: Path) -> Path:
    """A folder of eight of them."""
    root = tmp_path / "few"
    for path in (path for n in range(8) for path in images.glob(f"*/image {n}.png")):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to(images))
    return root


def evaluate(checkpoint: Path, out: Path, *settings: str) -> dict[str, Any]:
    main(compose([f"checkpoint='{checkpoint}'", f"out='{out}'", "progress=false", "resamples=200", *settings],
                 "evaluate"))  # fmt: skip
    return json.loads((out / "summary.json").read_text())


def folder(root: Path) -> tuple[str, str]:
    return "data=folder", f"data.root='{root}'"


@pytest.fixture(scope="module")
def done(sweep: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out") / "report"
    return out, evaluate(sweep, out, *folder(images))


@pytest.fixture(scope="module")
def refusing(sweep: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("refusing")
    return out, evaluate(sweep, out, *folder(images), "gate=refuse")


def headline(out: Path) -> pd.DataFrame:
    table, overlap = read_predictions(out / "predictions.csv"), pd.read_csv(out / "overlap.csv")
    return table[~table["image_id"].isin(overlap["image_id"])]


# Training images


def test_a_training_image_in_the_set_is_found_named_and_not_in_the_headline(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    overlap = pd.read_csv(out / "overlap.csv")
    assert [Path(path).name for path in overlap["path"]] == ["borrowed.png"]
    assert overlap["kind"].tolist() == ["mirrored"]
    assert overlap["part"].tolist() == ["train"]
    assert summary["overlap"]["how"] == "films"
    assert summary["overlap"]["seen"] == 1
    assert summary["external"]["n"] == len(read_predictions(out / "predictions.csv")) - 1
    assert summary["external_all"]["n"] == summary["external"]["n"] + 1
    assert summary["notes"][0].startswith("1 of 30 images is a training image of this model")


@pytest.mark.slow
def test_strict_refuses_before_anything_is_predicted(sweep: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"strict=true: 1 of 30 images in the data set are training images of this model; remove .*, or leave ",
    ):
        evaluate(sweep, tmp_path / "out", *folder(images), "strict=true")
    assert (tmp_path / "out/overlap.csv").exists()
    assert not (tmp_path / "out/predictions.csv").exists()


@pytest.mark.slow
def test_on_its_own_study_the_headline_is_of_the_images_that_no_model_was_trained_on(
    sweep: Path, tmp_path: Path
) -> None:
    summary = evaluate(sweep, tmp_path, "data=phantom", *PHANTOMS, "gate=off")
    overlap = pd.read_csv(tmp_path / "overlap.csv")
    # Each fold's test image was in the training part of the other model.
    assert set(overlap["kind"]) == {"same file"}
    unseen = read_predictions(sweep / "fold=0/predictions.csv")
    unseen = unseen[unseen["split"] == "unseen"]
    seen = overlap["image_id"][overlap["part"].isin(["train", "val"])]
    table = read_predictions(tmp_path / "predictions.csv")
    assert set(table["image_id"]) - set(seen) == set(unseen["image_id"])
    for key in ("n", "patients", "confusion"):
        assert summary["external"][key] == summary["study"]["unseen"]["scores"][key]
    here = table[table["image_id"].isin(unseen["image_id"])].set_index("image_id").loc[unseen["image_id"]]
    expected = np.mean([_calibrated(sweep / f"fold={fold}", unseen["image_id"]) for fold in (0, 1)], axis=0)
    np.testing.assert_allclose(here[list(CLASSES.columns)], expected, atol=1e-3)


def _calibrated(run: Path, image_ids: pd.Series) -> np.ndarray:
    table = read_predictions(run / "predictions.csv")
    rows = table[table["split"] == "unseen"].set_index("image_id").loc[image_ids]
    return tempered(rows[list(CLASSES.columns)], json.loads((run / "metrics.json").read_text())["temperature"]["value"])


@pytest.mark.slow
def test_of_a_model_from_before_it_is_said_that_its_images_are_not_known(
    sweep: Path, images: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(sweep / "fold=0", old)
    (old / FILE).unlink()
    (old / "split.csv").unlink()
    summary = evaluate(old, tmp_path / "out", *folder(images))
    assert summary["overlap"]["how"] == "no"
    assert any("training images cannot be searched for" in note for note in summary["notes"])
    assert "cannot be searched for" in (tmp_path / "out/report.md").read_text()
    assert summary["external_all"] is None
    with pytest.raises(DataError, match=r"strict=true: the run folder has no training_images\.npz"):
        evaluate(old, tmp_path / "out2", *folder(images), "strict=true")


@pytest.mark.slow
def test_other_phantoms_are_not_taken_for_the_training_images(sweep: Path, tmp_path: Path) -> None:
    words = ("data.seed=5", "data.images_per_class=11", "data.phantom_size=96", "gate=off")
    summary = evaluate(sweep, tmp_path, "data=phantom", *words)
    assert summary["overlap"]["seen"] == 0
    assert summary["external"]["n"] == 33


# Numbers


def test_probabilities_are_those_that_the_model_serves(
    sweep: Path, images: Path, done: tuple[Path, dict[str, Any]]
) -> None:
    table = read_predictions(done[0] / "predictions.csv")
    assert list(pd.read_csv(done[0] / "predictions.csv").columns) == list(columns_of())
    assert set(table["split"]) == {"external"}
    assert set(table["fold"]) == {-1}
    model = open_model(sweep)
    squares = np.stack([model.fit(read_image(images / path)) for path in table["path"]])
    np.testing.assert_allclose(table[list(CLASSES.columns)], model.outputs(squares).probabilities, atol=1e-5)


def test_numbers_are_those_of_scikit_learn(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    table, scores = headline(out), summary["external"]
    truth, called = table["label"], table["prediction"]
    assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(truth, called))
    assert scores["confusion"] == confusion_matrix(truth, called, labels=list(CLASSES)).tolist()
    recalls = recall_score(truth, called, labels=list(CLASSES), average=None)
    f1s = f1_score(truth, called, labels=list(CLASSES), average=None)
    for at, label in enumerate(CLASSES):
        numbers = scores["classes"][label]
        assert numbers["sensitivity"]["value"] == pytest.approx(recalls[at])
        assert numbers["specificity"]["value"] == pytest.approx(recall_score(truth != label, called != label))
        assert numbers["f1"]["value"] == pytest.approx(f1s[at])
        assert numbers["auc"]["value"] == pytest.approx(roc_auc_score(truth == label, table[CLASSES.columns[at]]))
    normal = truth == "Normal"
    ends = proportion_confint(int((called[normal] == "Normal").sum()), int(normal.sum()), method="wilson")
    assert scores["classes"]["Normal"]["sensitivity"]["ci"] == pytest.approx(list(ends))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["splits"]["external"]["accuracy"] == pytest.approx(accuracy_score(truth, called))
    assert metrics["splits"]["external"]["n"] + 1 == metrics["splits"]["external_all"]["n"]
    assert metrics["data"]["manifest_sha256"] == summary["data"]["manifest_sha256"]


def test_a_class_of_four_images_has_no_interval_and_the_report_says_why(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    covid = summary["external"]["classes"]["COVID-19"]
    assert covid["support"] == 4
    assert covid["sensitivity"]["value"] is not None
    assert [covid[name]["ci"] for name in ("sensitivity", "f1", "auc")] == [None] * 3
    assert (
        json.loads((out / "metrics.json").read_text())["splits"]["external"]["classes"]["COVID-19"]["sensitivity_ci"]
        is None
    )
    assert "COVID-19 has 4 images of 2 patients: too few for an interval" in (out / "report.md").read_text()


def test_calibration_is_told_before_and_after_the_temperature(done: tuple[Path, dict[str, Any]]) -> None:
    _, summary = done
    before, after = summary["calibration"]["before"], summary["calibration"]["external"]
    assert sum(one["n"] for one in before["bins"]) == sum(one["n"] for one in after["bins"]) == summary["external"]["n"]
    assert before["brier"] != after["brier"]


def test_the_studys_own_numbers_stand_beside(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    assert summary["study"]["unseen"]["title"] == "Unseen fold, ensemble"
    assert "Comparison with the study's own numbers" in (out / "report.html").read_text().replace("&#39;", "'")


@pytest.mark.slow
def test_an_exported_model_gives_the_same_numbers(
    sweep: Path, images: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    copy = tmp_path / "sweep"
    shutil.copytree(sweep, copy)
    export(compose([f"checkpoint='{copy}'", "images=4"], "export"))
    summary = evaluate(copy, tmp_path / "out", *folder(images), "engine=onnx")
    assert summary["external"]["confusion"] == done[1]["external"]["confusion"]
    assert summary["overlap"] == done[1]["overlap"]
    assert summary["study"] == done[1]["study"]
    ours, theirs = (read_predictions(out / "predictions.csv") for out in (tmp_path / "out", done[0]))
    np.testing.assert_allclose(ours[list(CLASSES.columns)], theirs[list(CLASSES.columns)], atol=1e-4)


# Images that are refused


def test_refused_images_are_listed_and_counted_by_class(
    done: tuple[Path, dict[str, Any]], refusing: tuple[Path, dict[str, Any]]
) -> None:
    out, summary = refusing
    refused = pd.read_csv(out / "refused.csv")
    assert list(refused.columns) == ["path", "cause", "remedy"]
    assert {"normal/broken.png", "pneumonia/holiday.png"} <= set(refused["path"])
    cover = summary["coverage"]
    assert cover["unreadable"] == 1
    assert cover["refused"] == len(refused) - 1
    assert cover["predicted"] + cover["refused"] == 30
    assert sum(cover["causes"].values()) == len(refused)
    table = read_predictions(out / "predictions.csv")
    assert not set(table["path"]) & set(refused["path"])
    for label, numbers in cover["classes"].items():
        assert numbers["predicted"] == (table["label"] == label).sum()
        assert numbers["films"] == numbers["refused"] + numbers["predicted"]
    # With a warning alone it is predicted.
    assert done[1]["coverage"]["predicted"] == 30
    assert done[1]["coverage"]["flagged"]


def test_a_set_of_which_nothing_can_be_predicted_says_why(sweep: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(2):
        colours = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), np.uint8), 32, 0), 32, 1)
        put(tmp_path / "images", f"normal/{n}.png", colours)
    with pytest.raises(DataError, match=r"none of 2 files was predicted, the first: normal/.*not a radiograph"):
        evaluate(sweep, tmp_path / "out", *folder(tmp_path / "images"), "gate=refuse")
    assert len(pd.read_csv(tmp_path / "out/refused.csv")) == 2


@pytest.mark.slow
def test_images_that_the_gate_would_refuse_count_all_the_same_and_are_told_of(
    done: tuple[Path, dict[str, Any]], refusing: tuple[Path, dict[str, Any]]
) -> None:
    summary = done[1]
    table, passed = (read_predictions(out / "predictions.csv") for out, _ in (done, refusing))
    assert summary["model"]["gate"] == "warn"
    assert summary["coverage"]["refused"] == 0
    assert summary["coverage"]["warned"] == len(table) - len(passed) > 0
    seen = set(pd.read_csv(done[0] / "overlap.csv")["image_id"])
    rest = passed[~passed["image_id"].isin(seen)]
    n, right = len(rest), (rest["label"] == rest["prediction"]).sum()
    (told,) = [note for note in summary["notes"] if "unlike the training images" in note]
    assert f"of the {n} others the prediction is correct for {right} of {n} ({right / n:.1%})" in told


@pytest.mark.slow
def test_one_image_in_two_classes_is_named(sweep: Path, few: Path, tmp_path: Path) -> None:
    shutil.copy(few / "normal/image 4.png", few / "pneumonia/again.png")
    summary = evaluate(sweep, tmp_path / "out", *folder(few), "gate=off")
    copies = pd.read_csv(tmp_path / "out/copies.csv")
    assert copies["kind"].tolist() == ["same file"]
    assert {copies["label"].item(), copies["other_label"].item()} == {"Normal", "Pneumonia"}
    assert any("One image in two classes (same file)" in note and "again.png" in note for note in summary["notes"])
    with pytest.raises(DataError, match="strict=true: one image in two classes: "):
        evaluate(sweep, tmp_path / "out", *folder(few), "strict=true", "overwrite=true")


@pytest.mark.slow
def test_strict_tells_of_refused_files_when_all_else_is_done(sweep: Path, few: Path, tmp_path: Path) -> None:
    (few / "normal/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"strict=true: 1 file was refused; see .*refused\.csv"):
        evaluate(sweep, tmp_path / "out", *folder(few), "strict=true")
    assert (tmp_path / "out/report.html").exists()


# Settings


@pytest.mark.parametrize(
    ("setting", "error", "text"),
    [
        ("gate=maybe", SettingError, "gate=maybe: must be one of refuse, warn, off"),
        ("resamples=3", SettingError, "resamples=3: must be an integer of at least 100"),
        ("checkpoint=''", SettingError, "checkpoint="),
        ("checkpoint=nowhere", WeightsError, "no such file"),
        ("data.root=null", SettingError, r"data\.root"),
        ("data.root=nowhere", DataError, "no such folder"),
    ],
)
def test_settings_that_are_not_allowed(
    sweep: Path, images: Path, tmp_path: Path, setting: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        evaluate(sweep, tmp_path / "out", *folder(images), setting)
    assert not (tmp_path / "out").exists()


def test_an_earlier_report_is_not_replaced_unless_that_is_asked_for(sweep: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(SettingError, match=r"summary.json already exists; .* overwrite=true"):
        evaluate(sweep, tmp_path, *folder(images))
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_the_report_does_not_go_among_the_images(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from covidnet.data.collection.inputs import check_outside

    monkeypatch.chdir(tmp_path)
    check_outside(Path("outputs/evaluate/now"), tmp_path)
    with pytest.raises(SettingError, match=r"out=.*a folder outside of"):
        evaluate(sweep, images / "report", *folder(images))


@pytest.mark.slow
def test_a_folder_that_names_no_class_is_refused_unless_it_is_mapped(sweep: Path, tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path / "images", f"TB/{n}.png", draw_image("Pneumonia", 9000 + n, 0, size=96).image)
    with pytest.raises(DataError, match=r"folders not named after a class: TB/ \(3 images\)"):
        evaluate(sweep, tmp_path / "out", *folder(tmp_path / "images"))
    summary = evaluate(sweep, tmp_path / "out", *folder(tmp_path / "images"), "data.labels={TB: Pneumonia}", "gate=off")
    assert summary["external"]["classes"]["Pneumonia"]["support"] == 3
    assert summary["external"]["classes"]["Normal"]["sensitivity"]["value"] is None
    assert "data.labels={TB: Pneumonia}" in (tmp_path / "out/report.md").read_text()


@pytest.mark.slow
def test_the_command_runs_and_prints_what_it_found(
    sweep: Path, images: Path, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (borrowed,) = images.glob("*/borrowed.png")
    shutil.copy(borrowed, few / borrowed.relative_to(images))
    here = tmp_path_factory.mktemp("here")
    done = command("covidnet.evaluate", f"checkpoint={sweep / 'fold=0'}", "data=folder", f"data.root={few}",
                   f"out={here / 'a (1)'}", "resamples=100", "progress=false", cwd=here)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("1 of 9 images is a training image of this model") for line in lines)
    assert "External images, torchvision/squeezenet1_1, fold 0" in done.stdout
    assert "With the 1 training image: accuracy" in done.stdout
    assert "not a medical device" in lines[-1]
    assert (here / "a (1)/report.html").exists()
    assert [path.name for path in here.iterdir()] == ["a (1)"]
