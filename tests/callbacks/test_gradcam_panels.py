"""Grad-CAM panels: which images are drawn, and what titles, captions and logs say."""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader

from covidnet.base.atomic import WriteError
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import ImageRefusedError, SettingError
from covidnet.callbacks import gradcam_panels
from covidnet.callbacks.gradcam_panels import EmptyMaps, GradCamPanels, log_pictures, seeded_draw, title, worst_errors
from covidnet.data.loading.dataset import ImageDataset
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.feature_store.maps import feature_maps
from covidnet.learning.module import ClassificationModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Random weights may see nothing in an image.
    pytest.mark.filterwarnings("ignore:gradcam"),
]

SIZE = 64


@pytest.fixture(scope="module")
def module() -> ClassificationModule:
    torch.manual_seed(0)
    optim = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
    return ClassificationModule({"name": "densenet121"}, optim, {}, "val/loss")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, module: ClassificationModule) -> tuple[ImageDataset, pd.DataFrame]:
    """Six images of each class, in no order, of low contrast."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for number in rng.permutation(18):
        path = root / f"{number}.png"
        image = np.kron(rng.integers(60, 180, (8, 8)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(image).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append((sha256[:16], path.name, CLASSES[number % 3], "", sha256))
    table = pd.DataFrame(rows, columns=["image_id", "path", "label", "operator", "sha256"])
    spec = module.classifier.spec
    return ImageDataset(table, root, fit=SquareFit(SIZE), normalise=Normalise(spec.mean, spec.std)), table


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the panels are made of, one entry per figure."""
    figures: list[dict[str, Any]] = []
    real = gradcam_panels.image_panels

    def record(images: Any, maps: Any, titles: Any, **settings: Any) -> Any:
        figures.append({"films": images, "maps": maps, "titles": titles, **settings})
        return real(images, maps, titles, **settings)

    monkeypatch.setattr(gradcam_panels, "image_panels", record)
    return figures


def draw(
    module: ClassificationModule, images: tuple[ImageDataset, pd.DataFrame], folder: Path, count: int, seed: int = 0
) -> list[Path]:
    return GradCamPanels(count, errors=0).draw(module, *images, folder, seed=seed, caption="a caption")


def names(images: tuple[ImageDataset, pd.DataFrame], figure: dict[str, Any]) -> list[str]:
    """The image ids of a figure's images, found by their pixels in the files."""
    dataset, rows = images
    found = []
    for image in figure["films"]:
        same = [np.array_equal(image, np.asarray(Image.open(dataset.root / path))) for path in rows["path"]]
        assert sum(same) == 1
        found.append(rows["image_id"][same.index(True)])
    return found


def test_after_the_test_loop_one_png_per_class_is_written(
    module: ClassificationModule, images: tuple[ImageDataset, pd.DataFrame], tmp_path: Path
) -> None:
    panels = GradCamPanels(2, errors=0)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[panels], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.test(module, DataLoader(images[0], 9), verbose=False)
    written = panels.draw(module, *images, tmp_path / "run" / "panels", seed=0, caption="a caption")
    assert [path.name for path in written] == ["unseen-COVID-19.png", "unseen-Normal.png", "unseen-Pneumonia.png"]
    assert sorted((tmp_path / "run" / "panels").iterdir()) == sorted(written)
    for path in written:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).std() > 10


def test_the_images_are_of_the_class_and_shown_as_they_are_in_the_file(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    draw(module, images, tmp_path, 3)
    labels = images[1].set_index("image_id")["label"]
    assert len(drawn) == 3
    for label, figure in zip(CLASSES, drawn, strict=True):
        chosen = names(images, figure)
        assert len(set(chosen)) == 3
        assert set(labels[chosen]) == {label}
        assert figure["caption"] == "a caption"
        assert all(heat.shape == (SIZE, SIZE) for heat in figure["maps"])


def test_titles_tell_the_true_class_and_what_the_network_says(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    draw(module, images, tmp_path, 2)
    dataset, rows = images
    place = {image_id: n for n, image_id in enumerate(rows["image_id"])}
    for label, figure in zip(CLASSES, drawn, strict=True):
        for image_id, text in zip(names(images, figure), figure["titles"], strict=True):
            with torch.no_grad():
                probabilities = module.eval()(dataset[place[image_id]]["image"][None]).softmax(1)[0]
            called = int(probabilities.argmax())
            assert text == f"true {label}\npredicted {CLASSES[called]} ({100 * float(probabilities[called]):.0f}%)"


@pytest.mark.slow
def test_the_draw_depends_on_the_seed_alone(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        np.random.seed(len(drawn))  # noqa: NPY002 - the global state must be of no account
        draw(module, images, tmp_path / folder, 2, seed)
    chosen = [names(images, figure) for figure in drawn]
    assert chosen[:3] == chosen[3:6]
    assert chosen[:3] != chosen[6:]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_more_images_than_there_are_draws_all(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    draw(module, images, tmp_path, 50)
    assert [len(figure["films"]) for figure in drawn] == [6, 6, 6]


def test_none_per_class_draws_none_and_makes_no_folder(
    module: ClassificationModule, images: tuple[ImageDataset, pd.DataFrame], tmp_path: Path
) -> None:
    assert draw(module, images, tmp_path / "panels", 0) == []
    assert not (tmp_path / "panels").exists()


@pytest.mark.parametrize("settings", [{"per_class": -1}, {"errors": -1}, {"per_class": True}, {"method": "lime"}])
def test_settings_that_make_no_panels_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"explain.{next(iter(settings))}="):
        GradCamPanels(**settings)


def test_a_class_without_images_has_no_figure(
    module: ClassificationModule, images: tuple[ImageDataset, pd.DataFrame], tmp_path: Path
) -> None:
    dataset, rows = images
    rows = rows.assign(label=rows["label"].replace("Normal", "Pneumonia"))
    written = GradCamPanels(1).draw(module, dataset, rows, tmp_path, seed=0, caption="")
    assert [path.name for path in written] == ["unseen-COVID-19.png", "unseen-Pneumonia.png"]


def test_probabilities_that_are_known_are_shown_and_the_network_is_not_asked(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    known = {image_id: np.array([0.125, 0.25, 0.625]) for image_id in images[1]["image_id"]}
    GradCamPanels(2).draw(module, *images, tmp_path, seed=0, caption="", probabilities=known)
    assert {title.splitlines()[1] for figure in drawn for title in figure["titles"]} == {"predicted Pneumonia (62%)"}


def test_the_worst_errors_are_those_most_sure_of_another_class() -> None:
    rows = pd.DataFrame({"image_id": list("abcde"), "label": ["Normal", "Normal", "COVID-19", "Pneumonia", "Normal"]})
    given = {
        "a": np.array([0.5, 0.2, 0.3]),
        "b": np.array([0.1, 0.8, 0.1]),
        "c": np.array([0.05, 0.05, 0.9]),
        "d": np.array([0.4, 0.25, 0.35]),
    }
    assert worst_errors(rows, given, 5) == [2, 0, 3]
    assert worst_errors(rows, given, 2) == [2, 0]
    assert worst_errors(rows, {}, 5) == []


def test_errors_have_a_figure_of_their_own_that_names_the_files(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    rows = images[1]
    known = {image_id: np.array([0.125, 0.25, 0.625]) for image_id in rows["image_id"]}
    written = GradCamPanels(0, errors=3).draw(module, *images, tmp_path, seed=0, caption="", probabilities=known)
    assert [path.name for path in written] == ["errors.png"]
    shown = names(images, drawn[0])
    assert set(rows.set_index("image_id")["label"][shown]) == {"COVID-19"}
    paths = rows.set_index("image_id")["path"]
    assert [title.splitlines()[2] for title in drawn[0]["titles"]] == [paths[image_id] for image_id in shown]


def test_a_image_that_is_gone_and_a_sheet_that_cannot_be_written_cost_themselves_alone(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, rows = images
    gone = int(rows.index[rows["label"] == "Normal"][0])
    read, save = ImageDataset.__getitem__, gradcam_panels.save_figure

    def absent(self: ImageDataset, key: int) -> dict[str, Any]:
        if key == gone:
            raise ImageRefusedError(rows["path"][gone], "no such file", "check the path")
        return read(self, key)

    def full(figure: Any, path: Path) -> None:
        if path.name == "unseen-Pneumonia.png":
            raise WriteError(path, errno.ENOSPC, "No space left on device")
        save(figure, path)

    monkeypatch.setattr(ImageDataset, "__getitem__", absent)
    monkeypatch.setattr(gradcam_panels, "save_figure", full)
    written = draw(module, images, tmp_path, 9)
    assert [path.name for path in written] == ["unseen-COVID-19.png", "unseen-Normal.png"]
    each = [int((rows["label"] == label).sum()) for label in CLASSES]
    assert [len(figure["films"]) for figure in drawn] == [each[0], each[1] - 1, each[2]]
    assert "no such file" in caplog.text
    assert "No space left" in caplog.text


def test_without_errors_there_is_no_figure_of_them(
    module: ClassificationModule, images: tuple[ImageDataset, pd.DataFrame], tmp_path: Path
) -> None:
    right = {
        image_id: np.eye(3)[CLASSES.index(label)]
        for image_id, label in zip(images[1]["image_id"], images[1]["label"], strict=True)
    }
    panels = GradCamPanels(0, errors=3)
    assert panels.draw(module, *images, tmp_path / "panels", seed=0, caption="", probabilities=right) == []


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(images: tuple[ImageDataset, pd.DataFrame]) -> None:
    small, large = (dict(seeded_draw(images[1]["label"], count, 4)) for count in (2, 5))
    assert all(large[label][:2] == places for label, places in small.items())


def test_maps_that_are_known_are_not_computed_again(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {image_id: np.array([0.125, 0.25, 0.625]) for image_id in images[1]["image_id"]}
    backbone = module.eval().classifier.backbone
    settings = {"seed": 0, "caption": "", "probabilities": known}
    GradCamPanels(2, errors=0).draw(module, *images, tmp_path / "a", **settings)
    kept = feature_maps(backbone, images[0], range(18))
    monkeypatch.setattr(backbone, "feature_maps", None)
    panels = GradCamPanels(2, errors=0)
    panels.draw(module, *images, tmp_path / "b", **settings, maps=lambda chosen: kept[list(chosen)])
    for before, after in zip(drawn[:3], drawn[3:], strict=True):
        np.testing.assert_allclose(np.array(after["maps"]), np.array(before["maps"]), atol=1e-4)


def test_known_lesions_are_outlined(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[10:20, 30:50] = True
    panels = GradCamPanels(1, errors=0)
    panels.draw(module, *images, tmp_path, seed=0, caption="", outline=lambda index: mask if index % 2 else None)
    chosen = [places[0] for _, places in seeded_draw(images[1]["label"], 1, 0)]
    for place, figure in zip(chosen, drawn, strict=True):
        assert figure["outlines"] == [None] if place % 2 == 0 else np.array_equal(figure["outlines"][0], mask)


def test_a_constant_map_is_marked_and_told_in_one_line(
    module: ClassificationModule,
    images: tuple[ImageDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the pooled maps are 0 there is no evidence for any class."""
    backbone = module.eval().classifier.backbone
    kept = feature_maps(backbone, images[0], range(18))
    kept[::2] = 0
    panels = GradCamPanels(6, errors=0)
    panels.draw(module, *images, tmp_path, seed=0, caption="", maps=lambda chosen: kept[list(chosen)])
    flat = [image_id for figure in drawn for image_id, heat in zip(names(images, figure), figure["maps"], strict=True)
            if not heat.any()]  # fmt: skip
    assert len(flat) >= 9
    for figure in drawn:
        for heat, text in zip(figure["maps"], figure["titles"], strict=True):
            assert text.endswith("\nno place stands out") is not bool(heat.any())
    (line,) = [record.getMessage() for record in caplog.records if "constant" in record.getMessage()]
    assert line.startswith(f"panels: {len(flat)} of 18 maps are constant (no place stands out): ")
    assert line.endswith(f"{flat[0]}, {flat[1]}, {flat[2]}, ...")


def test_maps_with_nan_have_a_line_of_their_own(
    module: ClassificationModule, images: tuple[ImageDataset, pd.DataFrame], caplog: pytest.LogCaptureFixture
) -> None:
    classifier = module.eval().classifier
    tensors = torch.stack([images[0][n]["image"] for n in range(3)])
    maps = feature_maps(classifier.backbone, images[0], range(3))
    maps[1] = torch.nan
    empty = EmptyMaps("a part")
    found = empty.compute(["x", "y", "z"], classifier, tensors, [0, 0, 0], "eigencam", maps)
    assert not found[1].any()
    assert not caplog.records
    empty.report()
    assert [record.getMessage() for record in caplog.records] == ["a part: 1 of 3 maps had NaN and were set to 0: y"]


def test_a_title_says_so_where_no_place_stands_out() -> None:
    given = np.array([0.1, 0.7, 0.2])
    assert title("Normal", given, np.zeros((3, 3))) == "true Normal\npredicted Normal (70%)\nno place stands out"
    assert title("Normal", given, np.eye(3)) == title("Normal", given) == "true Normal\npredicted Normal (70%)"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_the_pictures_as_they_are(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "unseen-Normal.png")
    logger = TensorBoardLogger(tmp_path, name="", version="board")
    # As after a test: Lightning has closed the writer by then.
    logger.log_metrics({"test/loss": 1.0}, 7)
    logger.finalize("success")
    log_pictures([logger], {"panels/unseen-Normal": tmp_path / "unseen-Normal.png"}, 7)
    logger.experiment.close()
    board = EventAccumulator(str(tmp_path / "board"), {"images": 0})
    board.Reload()
    assert board.Tags()["images"] == ["panels/unseen-Normal"]
    (event,) = board.Images("panels/unseen-Normal")
    assert event.step == 7
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
    np.testing.assert_array_equal(shown, pixels)


def test_wandb_gets_the_pictures_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    class Board(WandbLogger):
        def __init__(self) -> None:
            """No run is started: what would be logged is looked at."""

        def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
            told.append({key: images})

    log_pictures([Board()], {"panels/errors": tmp_path / "errors.png"}, 7)
    assert told == [{"panels/errors": [str(tmp_path / "errors.png")]}]
