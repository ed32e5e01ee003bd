"""One fold, end to end: the run folder is complete, its numbers can be computed again, and a seed repeats them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from scipy import stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, recall_score
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import CovidnetError
from covidnet.evaluation.intervals import design_effect
from covidnet.learning.module import ClassificationModule
from covidnet.sweep.folder import read_sweep
from covidnet.sweep.summary import training_curve
from tests.commands import command
from tests.conftest import quickly

Train = Callable[..., Path]
# What needs neither heat maps nor much training.
ONCE = ("trainer.max_epochs=1", "explain=off")


@pytest.fixture(scope="module")
def run(train: Train) -> Path:
    return train("fold=3")


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def predictions(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "predictions.csv")


def test_the_run_folder_holds_what_the_contract_names(run: Path) -> None:
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "metrics.json", "predictions.csv", "split.csv", "environment.json",
        "checkpoints/best.ckpt", "checkpoints/last.ckpt", "curves/metrics.csv",
        "panels/unseen-COVID-19.png", "panels/unseen-Normal.png", "panels/unseen-Pneumonia.png",
    } <= files  # fmt: skip
    assert list(predictions(run)) == [
        "image_id", "path", "patient_id", "label", "split", "fold",
        "p_covid19", "p_normal", "p_pneumonia", "prediction",
    ]  # fmt: skip
    assert list(pd.read_csv(run / "split.csv")) == [
        "image_id", "path", "label", "patient_id", "view", "source", "fold", "reason", "copy_of",
    ]  # fmt: skip
    assert {"fold", "seed", "splits", "seconds", "data"} <= set(metrics(run))
    assert {"features", "fit", "total"} <= set(metrics(run)["seconds"])
    assert OmegaConf.load(run / "config.yaml").fold == 3


@pytest.mark.parametrize("split", ["val", "test", "unseen"])
def test_every_number_recomputes_from_predictions(run: Path, split: str) -> None:
    table = predictions(run).query("split == @split")
    told = metrics(run)["splits"][split]
    truth, called = table["label"], table["prediction"]
    probabilities = table[["p_covid19", "p_normal", "p_pneumonia"]].to_numpy()
    assert told["n"] == len(table) > 0
    assert told["accuracy"] == pytest.approx(accuracy_score(truth, called), abs=1e-6)
    assert told["loss"] == pytest.approx(
        log_loss(truth, probabilities / probabilities.sum(1, keepdims=True), labels=CLASSES.names), abs=1e-6
    )
    assert told["confusion"] == confusion_matrix(truth, called, labels=CLASSES.names).tolist()
    sensitivity = recall_score(truth, called, labels=CLASSES.names, average=None)
    f1 = f1_score(truth, called, labels=CLASSES.names, average=None, zero_division=0)
    for n, label in enumerate(CLASSES):
        numbers = told["classes"][label]
        specificity = recall_score(truth != label, called != label)
        assert numbers["sensitivity"] == pytest.approx(sensitivity[n], abs=1e-6)
        assert numbers["specificity"] == pytest.approx(specificity, abs=1e-6)
        assert numbers["f1"] == pytest.approx(f1[n], abs=1e-6)
        rows = table[truth == label]
        right, patients = rows["prediction"] == label, rows["patient_id"].nunique()
        assert numbers["support"] == len(rows)
        if patients == 1:
            assert numbers["sensitivity_ci"] == [0.0, 1.0]
            continue
        # The images that they count for, with Student's t where a patient has several.
        n = len(rows) / design_effect(right, rows["patient_id"].astype(str))
        if patients < len(rows):
            n *= (stats.norm.ppf(0.975) / stats.t.ppf(0.975, patients - 1)) ** 2
        ends = proportion_confint(right.mean() * n, n, method="wilson")
        assert numbers["sensitivity_ci"] == pytest.approx(ends, abs=1e-6)


def test_no_patient_is_in_two_parts_and_classes_are_balanced(run: Path) -> None:
    split = pd.read_csv(run / "split.csv").query("fold >= 0")
    assert split.groupby("patient_id")["fold"].agg(set).map(len).eq(1).all()
    assert len(set(split.groupby(["fold", "label"]).size())) == 1
    table = predictions(run).merge(split[["image_id", "fold"]], on="image_id", suffixes=("", "_of_image"))
    assert set(table.query("split == 'test'")["fold_of_image"]) == {3}
    assert set(table.query("split == 'unseen'")["fold_of_image"]) == {10}
    assert not set(table.query("split == 'val'")["fold_of_image"]) & {3, 10}


def test_the_logged_curves_have_the_contracts_names(run: Path) -> None:
    logged = set(pd.read_csv(run / "curves/metrics.csv"))
    wanted = {"train/loss", "val/loss", "lr", "test/accuracy", "test/loss", "unseen/loss"}
    wanted |= {
        f"{s}/{c}/{m}" for s in ("val", "test", "unseen") for c in CLASSES for m in ("sensitivity", "specificity", "f1")
    }
    assert wanted <= logged


def test_the_last_logged_class_metrics_are_those_of_metrics_json(run: Path) -> None:
    logged = pd.read_csv(run / "curves/metrics.csv")
    for label in CLASSES:
        for name in ("sensitivity", "specificity", "f1"):
            value = logged[f"test/{label}/{name}"].dropna().iloc[-1]
            assert value == pytest.approx(metrics(run)["splits"]["test"]["classes"][label][name] or 0.0, abs=1e-6)


def test_the_backbone_hash_is_recorded_before_and_after(run: Path) -> None:
    facts = json.loads((run / "environment.json").read_text())
    assert facts["backbone_sha256"]["before_fit"] == facts["backbone_sha256"]["after_fit"] == facts["weights_sha256"]
    assert (
        facts["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ in facts["versions"]["torch"]
    )


def test_the_best_checkpoint_predicts_from_files_without_the_store(run: Path, cache: Path) -> None:
    from covidnet.data.loading.transforms import Normalise, SquareFit
    from covidnet.data.reading.images import read_image

    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    spec = module.classifier.spec
    table = predictions(run).query("split == 'test'")
    root = Path(json.loads((run / "environment.json").read_text())["data"]["root"])
    prepare = module.hparams["preprocessing"]
    fit, normalise = SquareFit(prepare["image_size"], prepare["fit"]), Normalise(tuple(spec.mean), tuple(spec.std))
    images = torch.stack([torch.from_numpy(normalise(fit(read_image(root / path)))) for path in table["path"]])
    with torch.no_grad():
        found = module(images).softmax(1).numpy()
    np.testing.assert_allclose(found, table[["p_covid19", "p_normal", "p_pneumonia"]], atol=1e-4)


def test_the_same_seed_repeats_the_predictions_and_another_does_not(run: Path, train: Train) -> None:
    first = (run / "predictions.csv").read_bytes()
    assert (train("fold=3", "explain=off") / "predictions.csv").read_bytes() == first
    assert (train("fold=3", "seed=1", "explain=off") / "predictions.csv").read_bytes() != first


@pytest.mark.slow
def test_the_image_path_gives_the_same_probabilities_as_the_store(run: Path, train: Train) -> None:
    plain = predictions(train("fold=3", "features=off", "data.num_workers=0", "explain=off"))
    columns = ["p_covid19", "p_normal", "p_pneumonia"]
    np.testing.assert_allclose(plain[columns], predictions(run)[columns], atol=1e-4)
    assert list(plain["prediction"]) == list(predictions(run)["prediction"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["augment=online"], "augment=online"),
        (["model.freeze=false"], "not frozen"),
    ],
)
def test_what_the_store_cannot_serve_takes_the_image_path_and_says_so(
    train: Train, caplog: pytest.LogCaptureFixture, overrides: list[str], reason: str
) -> None:
    with caplog.at_level("INFO"):
        folder = train(*ONCE, "data.image_size=32", "data.num_workers=0", *overrides)
    assert reason in caplog.text
    facts = json.loads((folder / "environment.json").read_text())["backbone_sha256"]
    assert (facts["before_fit"] == facts["after_fit"]) is (overrides != ["model.freeze=false"])


def test_without_validation_nothing_is_selected_by_the_test_fold(train: Train) -> None:
    folder = train("split.validation=none", *ONCE)
    assert set(predictions(folder)["split"]) == {"test", "unseen"}
    assert metrics(folder)["data"]["validation"] == "none"
    assert OmegaConf.load(folder / "config.yaml").monitor == "train/loss"


@pytest.mark.parametrize("monitor", ["val/accuracy", "val/loss"])
def test_the_checkpoint_is_of_the_best_epoch_whichever_way_the_metric_gets_better(train: Train, monitor: str) -> None:
    # A rate at which neither metric goes one way alone.
    folder = train(
        f"monitor={monitor}", "trainer.max_epochs=6", "optim.lr=0.3", "callbacks.early_stopping=null", "explain=off"
    )
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    curves = pd.read_csv(folder / "curves/metrics.csv").dropna(subset=[monitor])
    values = curves.groupby("epoch")[monitor].first()
    assert len(set(values)) > 1
    assert checkpoint["epoch"] == (values.idxmin() if monitor == "val/loss" else values.idxmax())
    assert checkpoint["lr_schedulers"][0]["mode"] == ("min" if monitor == "val/loss" else "max")
    assert training_curve(read_sweep(folder).runs[0]).best == checkpoint["epoch"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("monitor=val/auc", "monitor=val/auc: "),
        ("monitor=test/accuracy", "monitor=test/accuracy: "),
        ("callbacks.early_stopping.monitor=unseen/loss", "callbacks.early_stopping.monitor=unseen/loss: "),
        ("+callbacks.best.mode=max", "callbacks.best.mode=max: "),
        ("~callbacks.predictions", "callbacks.predictions=null: "),
        ("optim.lr=-1", "optim.lr=-1: "),
        ("optim.lr=high", "optim.lr=high: "),
        ("optim.weight_decay=-1", "optim.weight_decay=-1: "),
        ("optim.plateau_factor=1.5", "optim.plateau_factor=1.5: "),
        ("optim.plateau_patience=2.5", "optim.plateau_patience=2.5: "),
        ("data.batch_size=0", "data.batch_size=0: "),
        ("data.num_workers=-1", "data.num_workers=-1: "),
        ("data.image_size=0", "data.image_size=0: "),
        ("data.image_size=16", "data.image_size=16: "),
        ("data.fit=stretch", "data.fit=stretch: "),
        ("data.min_side=0", "data.min_side=0: "),
        ("data.max_megapixels=many", "data.max_megapixels=many: "),
        ("features.batch_size=0", "features.batch_size=0: "),
        ("split.group=hospital", "split.group=hospital: "),
        ("split.validation=some", "split.validation=some: "),
        ("split.seed=-1", "split.seed=-1: "),
        ("augment.target_per_class=0", "augment.target_per_class=0: "),
        ("augment.rotation=far", "augment.rotation=far: "),
        ("model.name=densnet", "model.name=densnet: "),
        ("model.dropout=1.5", "model.dropout=1.5: "),
        ("model.weights=/nowhere.pth", "/nowhere.pth: "),
        ("selection=best", "selection=best: "),
    ],
)
def test_what_needs_no_data_is_refused_before_any_image(train: Train, override: str, words: str) -> None:
    # A folder that is not there would be the first error of the data.
    with pytest.raises(CovidnetError, match=f"^{re.escape(words)}"):
        train("data=folder", "data.root=/nowhere", "trainer.accelerator=cpu", override, defaults=())


def test_chest_weights_whose_package_is_missing_are_refused_before_any_image(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchxrayvision", None)
    with pytest.raises(CovidnetError, match=r"^model\.weights=chest: needs torchxrayvision"):
        train("data=folder", "data.root=/nowhere", "model.weights=chest", defaults=())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a graphics card")
def test_a_graphics_card_that_is_not_there_is_reported_before_any_image(train: Train) -> None:
    with pytest.raises(InstantiationException, match="No supported gpu backend"):
        train("data=folder", "data.root=/nowhere", "trainer=gpu", defaults=())


def test_validation_on_the_test_fold_is_said_to_be_optimistic(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("split.validation=test", *ONCE)
    table = predictions(folder)
    assert set(table.query("split == 'val'")["image_id"]) == set(table.query("split == 'test'")["image_id"])
    assert "optimistic" in capsys.readouterr().out


@pytest.mark.slow
def test_a_image_that_changed_since_prepare_is_refused_and_the_run_goes_on(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    from covidnet.base.errors import DataError
    from covidnet.data.phantoms.phantom import write_phantoms

    root = tmp_path / "images"
    write_phantoms(root, images_per_class=22, size=96)
    # Copies are not what this is about.
    arguments = ("data=folder", f"data.root={root}", "data.image_size=32", "split.copies=bytes", *ONCE, "fold=2")
    first = train(*arguments)
    victim = predictions(first).query("split == 'test'")["path"].iloc[0]
    other = predictions(first).query("split == 'unseen'")["path"].iloc[0]
    shutil.copy(root / other, root / victim)
    second = train(*arguments)
    assert victim in caplog.text
    assert victim not in set(predictions(second)["path"])
    assert len(predictions(second)) == len(predictions(first)) - 1
    assert metrics(second)["data"]["refused"] == 1
    assert victim in (second / "refused.csv").read_text()
    with pytest.raises(DataError, match="strict=true"):
        train(*arguments, "strict=true")


def test_the_command_ends_with_the_table_and_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    done = command("covidnet.train", *quickly("fold=3", *ONCE), f"hydra.run.dir='{folder}'", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Sensitivity" in done.stdout
    assert "synthetic" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == f"Run folder: {folder}"
    assert (folder / "train.log").stat().st_size > 0
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_fast_dev_run_works_through_the_command(tmp_path: Path) -> None:
    done = command(
        "covidnet.train", *quickly("fold=0", "explain=off", "trainer.fast_dev_run=true"), cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_sweep_names_the_fold_that_failed_and_finishes_the_others(tmp_path: Path) -> None:
    done = command(
        "covidnet.train",
        "-m",
        *quickly("fold=11,4", *ONCE),
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode != 0
    assert "fold=11" in done.stderr
    assert (tmp_path / "sweep/fold=4/metrics.json").exists()
    assert "Traceback" not in done.stderr
    # The report of what there is, with the fold that failed and those that are missing.
    summary = json.loads((tmp_path / "sweep/report/summary.json").read_text())
    assert summary["folds"] == [4]
    assert "fold=11: the run did not finish: fold=11: must be 0 to 9" in summary["problems"][0]
    assert "folds 0, 1, 2, 3, 5, 6, 7, 8, 9: no finished run" in summary["problems"][1]
    assert f"Report: {tmp_path / 'sweep/report/report.html'}" in done.stdout


@pytest.mark.slow
def test_a_sweep_over_more_than_folds_has_a_folder_for_each_job_and_ends_with_a_report(tmp_path: Path) -> None:
    done = command(
        "covidnet.train",
        "-m",
        *quickly("fold=0,1", "augment=none,fixed", *ONCE),
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "4 heads trained together (hydra/launcher=basic trains them one by one)" in done.stderr
    folders = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert folders == {"report", *(f"fold={fold},augment={mode}" for fold in (0, 1) for mode in ("none", "fixed"))}
    # Runs of two settings are not pooled: each has a report, and the grid a table of both.
    assert len({(tmp_path / "sweep" / f / "split.csv").read_bytes() for f in folders - {"report"}}) == 1
    assert (tmp_path / "sweep/report/grid.csv").is_file()
    for mode in ("none", "fixed"):
        summary = json.loads((tmp_path / f"sweep/report/augment={mode}/summary.json").read_text())
        assert summary["folds"] == [0, 1]
        counts = summary["data"]["classes"]["Normal"]
        assert counts["test"] == counts["unseen"] == 3
        assert counts["train"] + counts["val"] == 27


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "copies"), [("folder", "bytes"), ("kaggle", "near")])
def test_real_radiographs_train_in_both_layouts(train: Train, small_kit: Path, layout: str, copies: str) -> None:
    root = small_kit if layout == "folder" else small_kit / "Data"
    folder = train(f"data={layout}", f"data.root={root}", f"split.copies={copies}", "augment=none", "fold=3", *ONCE)
    split = pd.read_csv(folder / "split.csv").query("fold >= 0")
    assert (split.groupby(["fold", "label"]).size() == 7).all()
    assert "L" not in set(split["view"])
    known = split.dropna(subset=["patient_id"])
    assert len(known) > 100
    assert known.groupby("patient_id")["fold"].agg(set).map(len).eq(1).all()


@pytest.mark.slow
def test_store_and_image_path_agree_on_real_radiographs(train: Train, kit: Path, tmp_path: Path) -> None:
    # A few patients of each class: the image path goes through the network in every epoch.
    table = pd.read_csv(kit / "metadata.csv", dtype=str)
    for label, images in table.groupby("label"):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for n, name in enumerate(images.drop_duplicates("patient_id")["filename"].head(11)):
            (tmp_path / "images" / str(label) / f"{n}.jpg").write_bytes((kit / name).read_bytes())
    arguments = (
        "data=folder", f"data.root={tmp_path / 'images'}", "data.image_size=64", "data.num_workers=0", "fold=5",
        "trainer.max_epochs=1", "trainer.accelerator=cpu", "explain=off", "progress=false", "features.engine=torch",
        "split.copies=bytes",
    )  # fmt: skip
    kept, plain = (predictions(train(*arguments, f"features={way}", defaults=())) for way in ("auto", "off"))
    columns = ["p_covid19", "p_normal", "p_pneumonia"]
    np.testing.assert_allclose(kept[columns], plain[columns], atol=1e-4)
    assert list(kept["prediction"]) == list(plain["prediction"])
