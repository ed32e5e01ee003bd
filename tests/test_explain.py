"""The command that explains any images with a trained model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import CovidnetError, DataError, SettingError, WeightsError
from covidnet.data.loading.transforms import Normalise, SquareFit
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.images import read_image
from covidnet.explain import main
from covidnet.launch.command import compose
from covidnet.learning.module import ClassificationModule
from covidnet.models.saliency import METHODS
from covidnet.report.words import EXPLAINERS
from tests.commands import command
from tests.data.reading import hostile

pytestmark = pytest.mark.filterwarnings("ignore:(gradcam|cam|gradient|eigencam)")


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    return trained("fold=0", "explain=off", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten phantoms with masks of some, a file that is none, and two images of one stem."""
    root = tmp_path_factory.mktemp("images")
    for n in range(9):
        image = draw_image(CLASSES[n % 3], n, 0, size=96)
        path = root / f"sub{n % 2}" / f"image {n}.png"
        for place, pixels in ((path, image.image), (root / "known/lesion" / path.relative_to(root), image.lesion_mask)):
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8) * (255 if pixels.dtype == bool else 1)).save(place)
    Image.fromarray(draw_image("Normal", 20, 0, size=96).image).save(root / "sub0/image 0.bmp")
    (root / "sub0/broken.jpg").write_text("<html>not found</html>")
    (root / "known").rename(root / "masks")
    return root


def explain(*settings: str) -> None:
    main(compose(["progress=false", *settings], "explain"))


@pytest.fixture(scope="module")
def done(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("done")
    explain(f"checkpoint={run / 'checkpoints/best.ckpt'}", f"input={images}", f"out={out}", "masks=null")
    return out


def test_every_image_gets_a_picture_and_a_row(done: Path) -> None:
    table = pd.read_csv(done / "explanations.csv")
    assert len(table) == 10
    assert table["path"].is_unique
    assert table["picture"].is_unique
    for picture in table["picture"]:
        with Image.open(done / picture) as image:
            assert np.asarray(image.convert("L")).std() > 10
            # Two cells of 4 inches.
            assert image.width > 2 * 4 * 150
    refused = pd.read_csv(done / "refused.csv")
    assert [Path(path).name for path in refused["path"]] == ["broken.jpg"]
    assert (table["explained"] == table["prediction"]).all()


def test_no_name_of_a_file_costs_any_other_its_row_or_its_picture(run: Path, images: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    names = [b"bad\xff.png", b"two\nlines.png", b"=1+1.png", b"n" * 246 + b".png"]
    for name in names:
        (given / os.fsdecode(name)).write_bytes((images / "sub0/image 0.png").read_bytes())
    (given / os.fsdecode(b"broken\xfe.png")).write_text("<html>")
    (tmp_path / "out" / os.fsdecode(names[1])).mkdir(parents=True)
    with pytest.raises(DataError, match=r"1 picture of 4 not drawn, see the log above; the table is complete"):
        explain(f"checkpoint={run}", f"input='{given}'", f"out='{tmp_path}/out'")
    table = pd.read_csv(tmp_path / "out/explanations.csv", index_col="path")
    assert set(table.index) == {r"bad\xff.png", "two\nlines.png", "./=1+1.png", "n" * 246 + ".png"}
    assert list(table.index[table["picture"].isna()]) == ["two\nlines.png"]
    assert list(pd.read_csv(tmp_path / "out/refused.csv")["path"]) == [r"broken\xfe.png"]


def test_probabilities_are_those_of_the_network(run: Path, images: Path, done: Path) -> None:
    table = pd.read_csv(done / "explanations.csv")
    module = ClassificationModule.from_checkpoint(run / "checkpoints/best.ckpt")
    spec = module.classifier.spec
    fit, normalise = SquareFit(64), Normalise(tuple(spec.mean), tuple(spec.std))
    tensors = torch.stack([torch.from_numpy(normalise(fit(read_image(images / path)))) for path in table["path"]])
    with torch.no_grad():
        expected = (module(tensors) / module.serving["temperature"]).softmax(1).numpy()
    np.testing.assert_allclose(table[["p_covid19", "p_normal", "p_pneumonia"]], expected, atol=1e-4)
    assert list(table["prediction"]) == [CLASSES[n] for n in expected.argmax(1)]


@pytest.mark.slow
def test_masks_beside_the_images_are_compared_with(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    explain(f"checkpoint={run}", f"input={images}", f"out={tmp_path}")
    table = pd.read_csv(tmp_path / "localisation.csv")
    assert set(table["map"]) == {"model", "centre", "mean_map", "chance"}
    drawn = pd.read_csv(tmp_path / "explanations.csv").set_index("path")["explained"]
    assert "label" not in table
    assert list(table["explained"]) == list(drawn[table["image_id"]])
    assert table["image_id"].nunique() == 9
    # The tenth image has the mask of its namesake, which does not fit.
    assert "image 0.png" in caplog.text
    assert "the image is treated as one without a mask" in caplog.text
    told = capsys.readouterr().out
    assert "centre prior" in told
    assert "chance" in told
    assert "masks or boxes of 1 image cannot be used" in told
    assert "10 images explained" in told


@pytest.mark.parametrize("method", METHODS)
def test_a_target_and_a_method_are_taken(run: Path, images: Path, tmp_path: Path, method: str) -> None:
    explain(
        f"checkpoint={run}", f"input={images}/sub1/image 1.png", f"out={tmp_path}", "target=covid19",
        f"explain.method={method}",
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "explanations.csv")
    assert list(table["explained"]) == ["COVID-19"]
    assert list(table["method"]) == [method]
    assert not (tmp_path / "refused.csv").exists()


def test_a_pattern_and_a_second_call_into_the_same_folder(run: Path, images: Path, tmp_path: Path) -> None:
    explain(f"checkpoint={run}", f"input='{images}/sub0/*.[bj]*'", f"out={tmp_path}")
    assert (tmp_path / "refused.csv").exists()
    with pytest.raises(SettingError, match=r"explanations.csv already exists; .* overwrite=true"):
        explain(f"checkpoint={run}", f"input='{images}/**/image 1.png'", f"out={tmp_path}")
    explain(f"checkpoint={run}", f"input='{images}/**/image 1.png'", f"out={tmp_path}", "overwrite=true")
    assert len(pd.read_csv(tmp_path / "explanations.csv")) == 1
    assert not (tmp_path / "refused.csv").exists()


def test_an_image_that_passes_a_limit_is_named_and_the_others_are_explained(
    run: Path, images: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "images"
    mine.mkdir()
    shutil.copy(images / "sub0/image 0.png", mine / "good.png")
    (mine / "large.png").write_bytes(hostile.png_large(5000))
    explain(f"checkpoint={run}", f"input={mine}", f"out={tmp_path / 'out'}", "reading.max_memory=0.25")
    refused = pd.read_csv(tmp_path / "out/refused.csv")
    assert refused[["path", "cause"]].to_numpy().tolist() == [["large.png", "needed more than 0.25 GB"]]
    assert len(pd.read_csv(tmp_path / "out/explanations.csv")) == 1


def test_strict_refuses_after_the_work(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"strict=true: 1 file was refused"):
        explain(f"checkpoint={run}", f"input='{images}/sub0/*.[bj]*'", f"out={tmp_path}", "strict=true")
    assert len(pd.read_csv(tmp_path / "explanations.csv")) == 1


def test_strict_asks_for_masks_that_can_be_used(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "known").mkdir()
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(tmp_path / "known/image 0.png")
    settings = (
        f"checkpoint={run}",
        f"input={images / 'sub0/image 0.bmp'}",
        f"masks={tmp_path / 'known'}",
        "strict=true",
    )
    with pytest.raises(DataError, match=r"strict=true: masks or boxes of 1 image cannot be used, the first: .*60 x 60"):
        explain(*settings, f"out={tmp_path / 'out'}")
    assert len(pd.read_csv(tmp_path / "out/explanations.csv")) == 1
    explain(*settings[:3], f"out={tmp_path / 'out'}", "overwrite=true")


@pytest.mark.parametrize("out", ["images", "images/sub0", "images/new", "images/masks/lesion"])
def test_images_are_never_replaced_by_pictures(run: Path, images: Path, out: str) -> None:
    before = {path: path.read_bytes() for path in images.rglob("*") if path.is_file()}
    with pytest.raises(SettingError, match=r"out=.*must be a folder outside of"):
        explain(f"checkpoint={run}", f"input={images}", f"out={images.parent / out.replace('images', images.name, 1)}")
    image = images / "sub1/image 1.png"
    with pytest.raises(SettingError, match="a picture would replace"):
        explain(f"checkpoint={run}", f"input={image}", f"out={image.parent}")
    assert {path: path.read_bytes() for path in images.rglob("*") if path.is_file()} == before


def test_masks_and_boxes_of_none_of_the_images_are_told_before_the_work(
    run: Path, images: Path, tmp_path: Path
) -> None:
    settings = (f"checkpoint={run}", f"input={images}/sub1", f"out={tmp_path / 'out'}")
    with pytest.raises(DataError, match=r"no mask for any of the 4 images, for example .*lesion/image 1\.png"):
        explain(*settings, f"masks={images / 'masks'}")
    (tmp_path / "boxes.csv").write_text("filename,x,y,width,height\nsub1/image 1.png,1,1,9,9\n")
    with pytest.raises(DataError, match=r"none of its 1 images is below"):
        explain(*settings, f"boxes={tmp_path / 'boxes.csv'}")
    assert not (tmp_path / "out").exists()


def test_maps_without_evidence_are_told_in_one_line_with_their_paths(
    run: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from covidnet.models.backbones import Backbone
    from covidnet.serving.model import ServedModel

    # A model that sees nothing does not answer the stored example as it did.
    monkeypatch.setattr(ServedModel, "check", lambda self: None)
    real = Backbone.feature_maps
    monkeypatch.setattr(Backbone, "feature_maps", lambda self, tensors: 0 * real(self, tensors))
    explain(f"checkpoint={run}", f"input={images}", f"out={tmp_path}")
    (line,) = [record.getMessage() for record in caplog.records if "constant" in record.getMessage()]
    assert line.startswith(
        "gradcam maps: 10 of 10 maps are constant (no place stands out): sub0/image 0.bmp, sub0/image 0.png"
    )
    assert line.endswith(", ...")
    assert "counts as a miss" in " ".join(capsys.readouterr().out.split())
    table = pd.read_csv(tmp_path / "localisation.csv").query("map == 'model'")
    assert table["constant"].all()
    assert (table["iou"].dropna() == 0).all()


def test_every_method_has_a_name() -> None:
    """The command looks a method up among the names, which take no second to load."""
    assert tuple(EXPLAINERS) == METHODS


@pytest.mark.slow
def test_wrong_arguments_are_told_without_loading_the_network(run: Path, images: Path, tmp_path: Path) -> None:
    wrong = {
        "checkpoint=": [],
        "input=": ["checkpoint=RUN"],
        "checkpoint=x/fold=3: no such file": ["checkpoint=x/fold=3", "input=x"],
        "no image matches": ["checkpoint=RUN", "input=no (such) [image].png"],
        "explain.method=lime": ["checkpoint=RUN", "input=IMAGES", "explain.method=lime"],
        "out=": ["checkpoint=RUN", "input=IMAGES", "out=IMAGES/a=b"],
        "no=where: no such folder": ["checkpoint=RUN", "input=IMAGES", "masks=no=where"],
    }
    code = (
        "import json, runpy, sys\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['explain', *words]\n"
        "    try:\n        runpy.run_module('covidnet.explain', run_name='__main__')\n"
        "    except SystemExit as end:\n        print(end.code)\n"
        "print(sorted({'torch', 'pytorch_lightning', 'matplotlib'} & set(sys.modules)))"
    )
    given = json.dumps(list(wrong.values())).replace("RUN", str(run)).replace("IMAGES", str(images))
    done = subprocess.run(
        [sys.executable, "-c", code, given], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True
    )
    *lines, heavy = done.stdout.splitlines()
    assert len(lines) == len(wrong)
    for said, line in zip(wrong, lines, strict=True):
        assert line.startswith("error: ")
        assert said in line
    assert (heavy, done.stderr) == ("[]", "")


@pytest.mark.slow
def test_a_run_of_a_sweep_and_odd_names_are_taken_as_they_are_typed(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/fold=3").symlink_to(run)
    (tmp_path / "it's (1), ü").mkdir()
    name = "image [2] = 'a'.png"
    (tmp_path / "it's (1), ü" / name).write_bytes((images / "sub1/image 1.png").read_bytes())
    done = command("covidnet.explain", "checkpoint=sweep/fold=3", f"input=it's (1), ü/{name}", "out=o=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o=1" / name).is_file()


def test_nothing_but_refused_files_is_an_error(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable file; 1 refused"):
        explain(f"checkpoint={run}", f"input={images}/sub0/broken.jpg", f"out={tmp_path}")
    assert len(pd.read_csv(tmp_path / "refused.csv")) == 1


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        (["input=x"], SettingError, "checkpoint="),
        (["checkpoint=RUN"], SettingError, "input="),
        (["checkpoint=nowhere.ckpt", "input=x"], WeightsError, "no such file"),
        (["checkpoint=RUN", "input=nowhere"], DataError, "no such file or folder"),
        (["checkpoint=RUN", "input=IMAGE", "target=flu"], SettingError, "target=flu: must be one of COVID-19"),
        (["checkpoint=RUN", "input=IMAGE", "explain.method=lime"], SettingError, "explain.method=lime"),
        (["checkpoint=RUN", "input=IMAGE", "masks=nowhere"], DataError, "masks=nowhere: no such folder"),
        (["checkpoint=IMAGE", "input=IMAGE"], WeightsError, "not a covidnet checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    settings: list[str], kind: type[CovidnetError], words: str, run: Path, images: Path, tmp_path: Path
) -> None:
    filled = [s.replace("RUN", str(run)).replace("IMAGE", f"{images}/sub1/image 1.png") for s in settings]
    with pytest.raises(kind, match=words):
        explain(*filled, f"out={tmp_path}")


def test_a_sweep_folder_says_which_of_its_runs_could_be_meant(run: Path, tmp_path: Path) -> None:
    (tmp_path / "fold=3").symlink_to(run)
    with pytest.raises(WeightsError, match=r"is a sweep; select one of its runs, such as .*fold=3"):
        explain(f"checkpoint={tmp_path}", "input=x", f"out={tmp_path}")


def test_the_command_ends_with_0_and_says_where_the_pictures_are(run: Path, images: Path, tmp_path: Path) -> None:
    done = command(
        "covidnet.explain",
        f"checkpoint={run}",
        f"input={images}/sub1/image 1.png",
        f"out={tmp_path / 'o'}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"explained: {tmp_path / 'o'}")
    assert "Traceback" not in done.stderr
