"""The explanations that a run stores (panels, localisation, sanity test), and how a sweep summarises them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import CovidnetError
from covidnet.evaluation.explanations import RunExplanations, map_notes, read_explanations, verdicts
from covidnet.evaluation.localisation import LocalisationSummary, localisation_summary, localisation_table
from covidnet.evaluation.results import from_json
from covidnet.evaluation.sanity import SanitySummary
from covidnet.explaining.fold_maps import Explanations
from covidnet.fold.setup import FoldSetup
from covidnet.learning.module import ClassificationModule
from covidnet.models.saliency import METHODS, saliency
from covidnet.report.summary import Panel
from covidnet.report.words import measure_names
from covidnet.sweep.explanations import explanations_of
from covidnet.sweep.folder import read_sweep
from tests.sweeps import write_sweep

pytestmark = pytest.mark.filterwarnings("ignore:(gradcam|cam|gradient|eigencam)")

Train = Callable[..., Path]
# The layer that the cascade re-initialises last.
FIRST = "body.features.0"


@pytest.fixture(scope="module")
def run(train: Train) -> Path:
    return train("fold=3", "explain.errors=3")


def test_a_run_of_phantoms_keeps_tables_and_what_they_come_to(run: Path) -> None:
    content, tables = read_explanations(run)
    assert set(tables) == {"localisation", "sanity"}
    assert content.method == "gradcam"
    assert content.weights == "random"
    assert list(content.panels[:3]) == [f"panels/unseen-{label}.png" for label in CLASSES]
    assert all((run / path).is_file() for path in content.panels)
    localisation, sanity = tables["localisation"], tables["sanity"]
    assert set(localisation["map"]) == {"model", "centre", "mean_map", "chance"}
    assert localisation["image_id"].nunique() == 6
    assert content.localisation.images == 6
    # Normal images have no lesion; two of three classes have.
    assert content.localisation.n == 4
    assert sanity["image_id"].nunique() == 3
    assert list(dict.fromkeys(sanity["stage"]))[:2] == ["head", "body.features.12"]
    assert content.sanity.stages[-1].stage == FIRST
    # The whole network is drawn three times, the stages before it once.
    rows = sanity.groupby("stage", sort=False)["image_id"].count()
    assert rows[FIRST] == 9
    assert set(rows.drop(FIRST)) == {3}
    assert sanity[sanity["stage"] == FIRST].groupby("image_id")["rank"].nunique(dropna=False).max() == 3


def test_the_maps_that_are_scored_are_those_of_the_checkpoint_on_the_images_as_they_lie_on_disk(run: Path) -> None:
    """Recomputed without the store, without the masks' reader, from the files alone."""
    import cv2
    import torch

    from covidnet.data.loading.transforms import Normalise, SquareFit
    from covidnet.data.reading.images import read_image

    found = read_explanations(run)[1]["localisation"].query("map == 'model'").set_index("image_id")
    root = Path(json.loads((run / "environment.json").read_text())["data"]["root"])
    split = pd.read_csv(run / "split.csv").set_index("image_id").loc[found.index]
    assert set(split["fold"]) == {10}
    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    spec = module.classifier.spec
    fit, normalise = SquareFit(64), Normalise(tuple(spec.mean), tuple(spec.std))
    images = torch.stack([torch.from_numpy(normalise(fit(read_image(root / path)))) for path in split["path"]])
    heats = saliency(module.classifier, images, [CLASSES.index(label) for label in split["label"]])
    for image_id, path, heat in zip(split.index, split["path"], heats, strict=True):
        mask = np.asarray(Image.open(root / "masks/lesion" / path)) > 0
        small = cv2.resize(mask.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) >= 0.5
        if small.any():
            # A map without evidence in any place is a miss.
            share = heat[small].sum() / heat.sum() if heat.any() else 0.0
            assert found.loc[image_id, "lesion_share"] == pytest.approx(share, abs=0.02)
        else:
            assert np.isnan(found.loc[image_id, "lesion_share"])


@pytest.mark.slow
def test_models_of_one_backbone_explain_the_same_images_from_kept_maps(train: Train, run: Path, cache: Path) -> None:
    stores = {path.name for path in (cache / "features").iterdir()}
    before = sorted((cache / "features").rglob("*.safetensors"))
    other = train("fold=4", "explain.errors=0")
    assert {path.name for path in (cache / "features").iterdir()} == stores
    added = sorted(set((cache / "features").rglob("*.safetensors")) - set(before))
    # The training images of another fold are new, and nothing else is.
    assert len(added) <= 1
    one, two = (read_explanations(folder)[1] for folder in (run, other))
    for name in ("localisation", "sanity"):
        assert list(one[name]["image_id"]) == list(two[name]["image_id"])
    assert not one["localisation"].query("map == 'model'").equals(two["localisation"].query("map == 'model'"))


@pytest.mark.slow
def test_explanations_do_not_depend_on_the_store(run: Path) -> None:
    settings: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
    setup = FoldSetup(settings)
    prepared = setup.prepared()
    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    datamodule = setup.datamodule(prepared, module, 3, [])
    rows = datamodule.rows["unseen"].merge(prepared.images[["image_id", "width", "height"]], on="image_id")
    images = datamodule.images(rows)
    table = pd.read_csv(run / "predictions.csv").query("split == 'unseen'").set_index("image_id")
    given = {i: table.loc[i, ["p_covid19", "p_normal", "p_pneumonia"]].to_numpy(float) for i in table.index}
    kept, anew = (
        Explanations(
            module, images, rows, method="gradcam", seed=0, probabilities=given, progress=False,
            annotations=setup.annotations(prepared), store=store,
        )
        for store in (setup.map_store(module, images), None)
    )  # fmt: skip
    for one, other in ((kept.localisation(6), anew.localisation(6)), (kept.sanity(3), anew.sanity(3))):
        assert one is not None
        assert other is not None
        assert list(one["image_id"]) == list(other["image_id"])
        numbers = one.select_dtypes("number").columns
        np.testing.assert_allclose(one[numbers], other[numbers], atol=1e-3)
    saved = read_explanations(run)[1]["sanity"]
    np.testing.assert_allclose(saved[["ssim", "rank"]], other[["ssim", "rank"]], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "gradcam"])
def test_every_method_explains_a_run(method: str, train: Train) -> None:
    folder = train(
        "model=cnn", "data.images_per_class=11", "data.image_size=32", "trainer.max_epochs=1",
        f"explain.method={method}", "explain.localisation_images=3", "explain.sanity_images=2",
    )  # fmt: skip
    content, tables = read_explanations(folder)
    assert content.method == method
    assert len(content.panels) >= 3
    assert len(tables["localisation"]) == 12
    assert set(tables["sanity"]["stage"]) >= {"head", "pairs"}


def test_explain_off_leaves_no_panels_and_no_tables(train: Train) -> None:
    folder = train("model=cnn", "data.image_size=32", "trainer.max_epochs=1", "explain=off", defaults=BARE)
    assert not (folder / "panels").exists()
    assert not (folder / "explanations").exists()


BARE = ("data.images_per_class=33", "data.phantom_size=96", "trainer.accelerator=cpu", "progress=false")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("explain.method=lime", "explain.method=lime: must be one of gradcam"),
        ("explain.localisation_images=-1", "explain.localisation_images=-1"),
        ("explain.sanity_images=many", "explain.sanity_images=many"),
        ("explain.sanity_draws=0", "explain.sanity_draws=0: must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_explained_is_told_before_the_training(setting: str, words: str, train: Train) -> None:
    with pytest.raises(CovidnetError, match=words):
        train(setting, "trainer.max_epochs=1000000")


def test_masks_and_boxes_of_none_of_the_images_are_told_before_the_training(train: Train, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("COVID19", "NORMAL", "PNEUMONIA"):
        for n in range(11):
            for place in (tmp_path / "images" / folder, tmp_path / "known/lesion/images" / folder):
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(place / f"{n}.png")
    for setting, words in (
        (
            f"data.masks={tmp_path / 'known'}",
            r"no mask for any of the 33 images, for example .*known/lesion/COVID19/0\.png",
        ),
        ("data.masks=/nowhere/masks", r"^data\.masks=/nowhere/masks: no such folder"),
        ("data.boxes=/nowhere/boxes.csv", r"^data\.boxes=/nowhere/boxes\.csv: no such file"),
    ):
        with pytest.raises(CovidnetError, match=words):
            train(
                "data=folder", f"data.root={tmp_path / 'images'}", setting, "trainer.max_epochs=1000000",
                defaults=("trainer.accelerator=cpu", "progress=false"),
            )  # fmt: skip


def test_draws_of_the_whole_network_are_kept_apart_and_the_first_where_it_always_was(run: Path) -> None:
    """A run that has one draw alone finds its maps in the stores of one with three."""
    settings: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
    setup = FoldSetup(settings)
    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    datamodule = setup.datamodule(setup.prepared(), module, 3, [])
    rows = datamodule.rows["unseen"]
    images = datamodule.images(rows)
    store, asked = setup.map_store(module, images), []
    assert store is not None

    def watched(stage: str | None) -> Any:
        asked.append(stage)
        return store(stage)

    given = {image_id: np.array([0.2, 0.3, 0.5]) for image_id in rows["image_id"]}
    explained = Explanations(
        module, images, rows, method="gradcam", seed=0, probabilities=given, progress=False,
        annotations=setup.annotations(setup.prepared()), store=watched,
    )  # fmt: skip
    one, three = explained.sanity(3, 1), explained.sanity(3, 3)
    assert one is not None
    assert three is not None
    assert asked[-3:] == [FIRST, f"{FIRST} draw 1", f"{FIRST} draw 2"]
    assert len(three) - len(one) == 6
    first = three[three["stage"] == FIRST][:3]
    np.testing.assert_allclose(first[["ssim", "rank"]], one.loc[one["stage"] == FIRST, ["ssim", "rank"]])


def test_masks_of_another_size_cost_their_images_not_the_run(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("COVID19", "NORMAL", "PNEUMONIA"):
        for n in range(11):
            for place, side in ((tmp_path / folder, 64), (tmp_path / "masks/lesion" / folder, 60 if n % 2 else 64)):
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(place / f"{n}.png")
    folder = train(
        "data=folder", f"data.root={tmp_path}", "model=cnn", "data.image_size=32", "trainer.max_epochs=1",
        "explain.localisation_images=6", "explain.sanity_images=0", "explain.per_class=0", "explain.errors=0",
        defaults=("trainer.accelerator=cpu", "progress=false"),
    )  # fmt: skip
    assert "60 x 60 pixels, the image has 64 x 64" in caplog.text
    assert (folder / "metrics.json").is_file()


def said_of(localisation: dict[str, Any] | None, sanity: dict[str, Any] | None = None) -> list[str]:
    return verdicts(
        None if localisation is None else from_json(LocalisationSummary, localisation),
        None if sanity is None else from_json(SanitySummary, sanity),
    )


def test_measures_are_called_by_the_names_of_the_report() -> None:
    (line,) = said_of({"better_than_centre": False, "not_better": ["pointing", "iou", "lesion_share"]})
    assert f"(by {measure_names(['pointing', 'iou', 'lesion_share'])})" in line


def test_a_sweep_counts_a_image_that_several_models_explain_once(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", [0, 1, 2])
    rng = np.random.default_rng(0)
    ids, mask = [f"i{n}" for n in range(8)], np.zeros((16, 16), bool)
    mask[2:6, 3:9] = True
    perfect = []
    for fold in (0, 1, 2):
        heats = np.stack([mask * 1.0] * 8) + 0.1 * rng.random((8, 16, 16))
        table = localisation_table(heats / heats.max(), [mask] * 8, [None] * 8, ids, ids, ["COVID-19"] * 8)
        perfect.append(table.query("map == 'model'")["lesion_share"].mean())
        folder = sweep / f"fold={fold}" / "explanations"
        folder.mkdir()
        table.to_csv(folder / "localisation.csv", index=False)
        (sweep / f"fold={fold}/panels").mkdir()
        (sweep / f"fold={fold}/panels/errors.png").write_bytes(b"png")
        content = {"method": "gradcam", "weights": "random", "freeze": True, "panels": ["panels/errors.png"]}
        (folder / "explanations.json").write_text(json.dumps(content))
    (sweep / "fold=1/explanations/localisation.csv").write_text("")
    found = explanations_of(read_sweep(sweep), 2)
    assert found is not None
    assert found.folds == [0, 1, 2]
    assert found.fold == 2
    assert found.panels == [Panel("errors", "fold=2/panels/errors.png")]
    assert found.sanity is None
    assert found.localisation.n == 8
    share = found.localisation.measures["lesion_share"].model.value
    assert share == pytest.approx((perfect[0] + perfect[2]) / 2)
    assert found.localisation.better_than_centre is True
    assert verdicts(found.localisation, found.sanity) == []


def test_a_sweep_without_explanations_says_nothing_of_them(tmp_path: Path) -> None:
    assert explanations_of(read_sweep(write_sweep(tmp_path / "sweep", [0, 1])), 0) is None


def test_what_speaks_against_the_maps_is_said() -> None:
    poor = {"n": 40, "better_than_centre": False, "not_better": ["iou", "pointing"]}
    (first,) = said_of(poor, {"verdict": "depends"})
    assert "no better than the centre prior or chance" in first
    assert first.startswith("On 40 images with known lesions")
    assert "(by IoU, pointing game)" in first
    (second,) = said_of({"better_than_centre": None}, {"verdict": "does not depend"})
    assert "fail the sanity test" in second
    (alone,) = said_of({"n": 1, "patients": 1, "better_than_centre": None})
    assert alone == "Heat maps: too few images with known lesions (1) for a verdict; at least 5 are needed."
    (few,) = said_of({"n": 30, "patients": 4, "better_than_centre": None})
    assert "too few patients with known lesions (4, with 30 images)" in few
    assert said_of(None, {"verdict": "unclear"}) != []
    (third,) = said_of(None, {"verdict": "unclear", "reason": "too few images"})
    assert third.endswith("is unclear: too few images.")
    assert said_of(None) == []


def test_maps_that_lie_beside_the_lungs_are_said_to_fail_where_lungs_alone_are_known() -> None:
    rng = np.random.default_rng(0)
    ids, lung = [f"i{n}" for n in range(12)], np.zeros((16, 16), bool)
    lung[4:12, 4:12] = True
    off, on = ((mask + 0.05) * (1 + 0.1 * rng.random((12, 16, 16))) / 1.2 for mask in (~lung, lung))
    for heats, failed in ((off, True), (on, False)):
        table = localisation_table(heats, [None] * 12, [lung] * 12, ids, ids, ["Normal"] * 12)
        found = localisation_summary(table, 200)
        assert found.better_than_centre is None
        assert found.lungs.better_than_centre is not failed
        lines = verdicts(found)
        assert len(lines) == failed
        for line in lines:
            share = found.measures["lung_share"]
            difference, centre = share.difference, share.centre.value
            low, high = (f"{100 * end:.1f}" for end in difference.ci)
            text = (
                f"On 12 images with known lungs {100 * share.model.value:.1f}% of the heat lies in "
                f"the lungs, less than the centre prior, a blob in the middle of every image "
                f"({100 * centre:.1f}%; difference "
                f"{100 * difference.value:.1f} points [{low}, {high}])"
            )
            assert text.replace("-", "\N{MINUS SIGN}") in line
            assert "and less than chance (25.0%;" in line
    (few,) = verdicts(localisation_summary(table.query("image_id == 'i0'"), 200))
    assert few == "Heat maps: too few images with known lungs (1) for a verdict; at least 5 are needed."


def test_the_checkpoint_says_what_the_log_says_of_the_maps(run: Path) -> None:
    content, _ = read_explanations(run)
    said = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt").serving["maps"]
    assert said == map_notes(content)
    assert said
    assert set(content.constant_maps) == {
        "panels", "where the maps lie", "sanity test, trained network", "sanity test, re-initialised networks",
    }  # fmt: skip
    assert content.constant_maps["where the maps lie"] == (content.localisation.constant, 6)
    # Three images, five stages drawn once and the last three times.
    assert content.constant_maps["sanity test, re-initialised networks"][1] == 3 * (len(content.sanity.stages) + 2)


def test_what_was_not_tested_is_no_praise() -> None:
    assert map_notes(RunExplanations()) == [
        "Whether the heat maps lie on lesions or lungs was not measured.",
        "Whether the heat maps depend on the trained weights was not tested.",
    ]
