"""Grad-CAM panels: which films are drawn, and what is said of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader

from covidnet.callbacks import gradcam_panels
from covidnet.callbacks.gradcam_panels import GradCamPanels
from covidnet.data.dataset import FilmDataset
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.errors import SettingError
from covidnet.labels import CLASSES
from covidnet.learning.module import ClassificationModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Random weights may see nothing in a film.
    pytest.mark.filterwarnings("ignore:Grad-CAM"),
]

SIZE = 64


@pytest.fixture(scope="module")
def module() -> ClassificationModule:
    torch.manual_seed(0)
    optim = {"lr": 1e-3, "weight_decay": 0.0, "plateau_factor": 0.5, "plateau_patience": 2}
    return ClassificationModule({"name": "densenet121"}, optim, {}, "val/loss")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, module: ClassificationModule) -> tuple[FilmDataset, pd.DataFrame]:
    """Six films of each class, in no order, of low contrast."""
    root = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    rows = []
    for number in rng.permutation(18):
        path = root / f"{number}.png"
        film = np.kron(rng.integers(60, 180, (8, 8)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(film).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append((sha256[:16], path.name, CLASSES[number % 3], "", sha256))
    table = pd.DataFrame(rows, columns=["image_id", "path", "label", "operator", "sha256"])
    spec = module.classifier.spec
    return FilmDataset(table, root, fit=SquareFit(SIZE), normalise=Normalise(spec.mean, spec.std)), table


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the panels are made of, one entry per figure."""
    figures: list[dict[str, Any]] = []
    real = gradcam_panels.film_panels

    def record(films: Any, maps: Any, titles: Any, **settings: Any) -> Any:
        figures.append({"films": films, "maps": maps, "titles": titles, **settings})
        return real(films, maps, titles, **settings)

    monkeypatch.setattr(gradcam_panels, "film_panels", record)
    return figures


def draw(
    module: ClassificationModule, films: tuple[FilmDataset, pd.DataFrame], folder: Path, count: int, seed: int = 0
) -> list[Path]:
    return GradCamPanels(count).draw(module, *films, folder, seed=seed, caption="a caption")


def names(films: tuple[FilmDataset, pd.DataFrame], figure: dict[str, Any]) -> list[str]:
    """The image ids of a figure's films, found by their pixels in the files."""
    dataset, rows = films
    found = []
    for film in figure["films"]:
        same = [np.array_equal(film, np.asarray(Image.open(dataset.root / path))) for path in rows["path"]]
        assert sum(same) == 1
        found.append(rows["image_id"][same.index(True)])
    return found


def test_after_the_test_loop_one_png_per_class_is_written(
    module: ClassificationModule, films: tuple[FilmDataset, pd.DataFrame], tmp_path: Path
) -> None:
    panels = GradCamPanels(2)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, callbacks=[panels], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.test(module, DataLoader(films[0], 9), verbose=False)
    written = panels.draw(module, *films, tmp_path / "run" / "panels", seed=0, caption="a caption")
    assert [path.name for path in written] == ["unseen-COVID-19.png", "unseen-Normal.png", "unseen-Pneumonia.png"]
    assert sorted((tmp_path / "run" / "panels").iterdir()) == sorted(written)
    for path in written:
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).std() > 10


def test_the_films_are_of_the_class_and_shown_as_they_are_in_the_file(
    module: ClassificationModule,
    films: tuple[FilmDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    draw(module, films, tmp_path, 3)
    labels = films[1].set_index("image_id")["label"]
    assert len(drawn) == 3
    for label, figure in zip(CLASSES, drawn, strict=True):
        chosen = names(films, figure)
        assert len(set(chosen)) == 3
        assert set(labels[chosen]) == {label}
        assert figure["caption"] == "a caption"
        assert all(heat.shape == (SIZE, SIZE) for heat in figure["maps"])


def test_titles_tell_the_true_class_and_what_the_network_says(
    module: ClassificationModule,
    films: tuple[FilmDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    draw(module, films, tmp_path, 2)
    dataset, rows = films
    place = {image_id: n for n, image_id in enumerate(rows["image_id"])}
    for label, figure in zip(CLASSES, drawn, strict=True):
        for image_id, title in zip(names(films, figure), figure["titles"], strict=True):
            with torch.no_grad():
                probabilities = module.eval()(dataset[place[image_id]]["image"][None]).softmax(1)[0]
            called = int(probabilities.argmax())
            assert title == f"true {label}\ncalled {CLASSES[called]} {100 * float(probabilities[called]):.0f}%"


def test_the_draw_depends_on_the_seed_alone(
    module: ClassificationModule,
    films: tuple[FilmDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        np.random.seed(len(drawn))  # noqa: NPY002 - the global state must be of no account
        draw(module, films, tmp_path / folder, 3, seed)
    chosen = [names(films, figure) for figure in drawn]
    assert chosen[:3] == chosen[3:6]
    assert chosen[:3] != chosen[6:]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_more_films_than_there_are_draws_all(
    module: ClassificationModule,
    films: tuple[FilmDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    draw(module, films, tmp_path, 50)
    assert [len(figure["films"]) for figure in drawn] == [6, 6, 6]


def test_none_per_class_draws_none_and_makes_no_folder(
    module: ClassificationModule, films: tuple[FilmDataset, pd.DataFrame], tmp_path: Path
) -> None:
    assert draw(module, films, tmp_path / "panels", 0) == []
    assert not (tmp_path / "panels").exists()


def test_less_than_none_is_refused() -> None:
    with pytest.raises(SettingError, match="per_class=-1"):
        GradCamPanels(-1)


def test_a_class_without_films_has_no_figure(
    module: ClassificationModule, films: tuple[FilmDataset, pd.DataFrame], tmp_path: Path
) -> None:
    dataset, rows = films
    rows = rows.assign(label=rows["label"].replace("Normal", "Pneumonia"))
    written = GradCamPanels(1).draw(module, dataset, rows, tmp_path, seed=0, caption="")
    assert [path.name for path in written] == ["unseen-COVID-19.png", "unseen-Pneumonia.png"]


def test_probabilities_that_are_known_are_shown_and_the_network_is_not_asked(
    module: ClassificationModule,
    films: tuple[FilmDataset, pd.DataFrame],
    tmp_path: Path,
    drawn: list[dict[str, Any]],
) -> None:
    known = {image_id: np.array([0.125, 0.25, 0.625]) for image_id in films[1]["image_id"]}
    GradCamPanels(2).draw(module, *films, tmp_path, seed=0, caption="", probabilities=known)
    assert {title.splitlines()[1] for figure in drawn for title in figure["titles"]} == {"called Pneumonia 62%"}
