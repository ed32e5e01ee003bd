"""The command that explains any films with a trained model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from covidnet.config import compose
from covidnet.data.images import read_image
from covidnet.data.phantom import draw_film
from covidnet.data.transforms import Normalise, SquareFit
from covidnet.errors import CovidnetError, DataError, SettingError, WeightsError
from covidnet.explain import main
from covidnet.labels import CLASSES
from covidnet.learning.module import ClassificationModule
from covidnet.models.saliency import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:(gradcam|cam|gradient|eigencam)")


@pytest.fixture(scope="module")
def run(train: Callable[..., Path]) -> Path:
    return train("fold=3", "explain=off", "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten phantoms with masks of some, a file that is none, and two films of one stem."""
    root = tmp_path_factory.mktemp("films")
    for n in range(9):
        film = draw_film(CLASSES[n % 3], n, 0, size=96)
        path = root / f"sub{n % 2}" / f"film {n}.png"
        for place, pixels in ((path, film.image), (root / "known/lesion" / path.relative_to(root), film.lesion_mask)):
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1)).save(place)
    Image.fromarray(draw_film("Normal", 20, 0, size=96).image).save(root / "sub0/film 0.bmp")
    (root / "sub0/broken.jpg").write_text("<html>not found</html>")
    (root / "known").rename(root / "masks")
    return root


def explain(*settings: str) -> None:
    main(compose(["progress=false", *settings], "explain"))


def test_every_film_gets_a_picture_and_a_row(run: Path, films: Path, tmp_path: Path) -> None:
    explain(f"checkpoint={run}", f"input={films}", f"out={tmp_path}", "masks=null")
    table = pd.read_csv(tmp_path / "explanations.csv")
    assert len(table) == 10
    assert table["path"].is_unique
    assert table["picture"].is_unique
    for picture in table["picture"]:
        with Image.open(tmp_path / picture) as image:
            assert np.asarray(image.convert("L")).std() > 10
    refused = pd.read_csv(tmp_path / "refused.csv")
    assert [Path(path).name for path in refused["path"]] == ["broken.jpg"]
    assert (table["explained"] == table["prediction"]).all()


def test_probabilities_are_those_of_the_network(run: Path, films: Path, tmp_path: Path) -> None:
    explain(f"checkpoint={run / 'checkpoints/best.ckpt'}", f"input={films}", f"out={tmp_path}")
    table = pd.read_csv(tmp_path / "explanations.csv")
    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    spec = module.classifier.spec
    fit, normalise = SquareFit(64), Normalise(tuple(spec.mean), tuple(spec.std))
    images = torch.stack([torch.from_numpy(normalise(fit(read_image(films / path)))) for path in table["path"]])
    with torch.no_grad():
        expected = module(images).softmax(1).numpy()
    np.testing.assert_allclose(table[["p_covid19", "p_normal", "p_pneumonia"]], expected, atol=1e-4)
    assert list(table["prediction"]) == [CLASSES[n] for n in expected.argmax(1)]


def test_masks_beside_the_films_are_compared_with(
    run: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    explain(f"checkpoint={run}", f"input={films}", f"out={tmp_path}")
    table = pd.read_csv(tmp_path / "localisation.csv")
    assert set(table["map"]) == {"model", "centre", "mean_map"}
    assert table["image_id"].nunique() == 9
    # The tenth film has the mask of its namesake, which does not fit.
    assert "film 0.png" in caplog.text
    assert "the film is taken for one without a mask" in caplog.text
    told = capsys.readouterr().out
    assert "centre prior" in told
    assert "10 films explained" in told


@pytest.mark.parametrize("method", METHODS)
def test_a_target_and_a_method_are_taken(run: Path, films: Path, tmp_path: Path, method: str) -> None:
    explain(
        f"checkpoint={run}", f"input={films}/sub1/film 1.png", f"out={tmp_path}", "target=covid19",
        f"explain.method={method}",
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "explanations.csv")
    assert list(table["explained"]) == ["COVID-19"]
    assert list(table["method"]) == [method]
    assert not (tmp_path / "refused.csv").exists()


def test_a_pattern_and_a_second_call_into_the_same_folder(run: Path, films: Path, tmp_path: Path) -> None:
    explain(f"checkpoint={run}", f"input='{films}/sub0/*'", f"out={tmp_path}")
    assert (tmp_path / "refused.csv").exists()
    explain(f"checkpoint={run}", f"input='{films}/**/film 1.png'", f"out={tmp_path}")
    assert len(pd.read_csv(tmp_path / "explanations.csv")) == 1
    assert not (tmp_path / "refused.csv").exists()


def test_strict_refuses_after_the_work(run: Path, films: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"strict=true: 1 files? were refused"):
        explain(f"checkpoint={run}", f"input={films}", f"out={tmp_path}", "strict=true")
    assert len(pd.read_csv(tmp_path / "explanations.csv")) == 10


def test_nothing_but_refused_files_is_an_error(run: Path, films: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 1 files were refused"):
        explain(f"checkpoint={run}", f"input={films}/sub0/broken.jpg", f"out={tmp_path}")
    assert len(pd.read_csv(tmp_path / "refused.csv")) == 1


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (["input=x"], SettingError, "checkpoint="),
        (["checkpoint=RUN"], SettingError, "input="),
        (["checkpoint=nowhere.ckpt", "input=x"], WeightsError, "no such file"),
        (["checkpoint=RUN", "input=nowhere"], DataError, "no such file or folder"),
        (["checkpoint=RUN", "input=FILM", "target=flu"], SettingError, "target=flu: allowed is COVID-19"),
        (["checkpoint=RUN", "input=FILM", "explain.method=lime"], SettingError, "explain.method=lime"),
        (["checkpoint=RUN", "input=FILM", "masks=nowhere"], DataError, "masks=nowhere: no such folder"),
        (["checkpoint=FILM", "input=FILM"], WeightsError, "not a covidnet checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    settings: list[str], kind: type[CovidnetError], words: str, run: Path, films: Path, tmp_path: Path
) -> None:
    filled = [s.replace("RUN", str(run)).replace("FILM", f"{films}/sub1/film 1.png") for s in settings]
    with pytest.raises(kind, match=words):
        explain(*filled, f"out={tmp_path}")


def test_a_sweep_folder_says_which_of_its_runs_could_be_meant(run: Path, tmp_path: Path) -> None:
    (tmp_path / "fold=3").symlink_to(run)
    with pytest.raises(WeightsError, match=r"it is a sweep; give one of its runs, such as .*fold=3"):
        explain(f"checkpoint={tmp_path}", "input=x", f"out={tmp_path}")


def test_the_command_ends_with_0_and_says_where_the_pictures_are(run: Path, films: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "covidnet.explain", f"checkpoint={run}", f"input={films}/sub1", f"out={tmp_path / 'o'}"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"explained: {tmp_path / 'o'}")
    assert "Traceback" not in done.stderr
