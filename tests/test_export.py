"""The command that puts a trained model into one file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covidnet.base.errors import CovidnetError, DataError, SettingError, WeightsError
from covidnet.export import main
from covidnet.launch.command import compose
from covidnet.serving.open_model import open_model
from tests.conftest import PROJECT

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture(scope="module")
def run(trained: Callable[..., Path]) -> Path:
    # A small network: what is exported is tested in tests/serving.
    return trained("fold=3", "model=cnn", "explain=off", "trainer.max_epochs=1")


def export(*settings: str) -> None:
    main(compose(list(settings), "export"))


def test_the_file_lies_in_the_run_folder_and_is_checked_on_its_unseen_images(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(f"checkpoint='{run}'", "images=5")
    said = capsys.readouterr().out
    assert "on 5 images of the unseen fold" in said
    assert "Research use only; not a medical device." in said
    assert open_model(run, "onnx").source == run / "model.onnx"
    (run / "model.onnx").unlink()


def test_nothing_that_leaves_the_machine_names_a_folder_of_it(
    run: Path, cache: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither that of the run, nor of the images, nor of the code, nor the user's home."""
    export(f"checkpoint='{run}'", f"out='{tmp_path}/model.onnx'", "images=1")
    base, home = tmp_path_factory.getbasetemp(), Path.home()
    assert run.is_relative_to(base)
    assert cache.is_relative_to(base)
    folders = {base, base.resolve(), PROJECT, Path(sys.prefix), Path.cwd(), *([home] if home != Path("/") else [])}
    left = [run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt", tmp_path / "model.onnx"]
    for file in left:
        content = file.read_bytes()
        assert [folder for folder in folders if f"{folder}/".encode() in content] == [], file


def test_it_is_checked_on_images_that_are_given(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 90), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    (tmp_path / "two.png").write_bytes(b"")
    export(f"checkpoint='{run}/checkpoints/best.ckpt'", f"check='{tmp_path}'", f"out='{tmp_path / 'new/folder'}'")
    assert "on 1 image of" in capsys.readouterr().out
    assert (tmp_path / "new/folder/model.onnx").is_file()


def test_a_file_that_is_there_is_replaced_only_where_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"another model")
    with pytest.raises(SettingError, match=r"mine.onnx: .* overwrite=true"):
        export(f"checkpoint='{run}'", f"out='{tmp_path}/mine.onnx'")
    assert (tmp_path / "mine.onnx").read_bytes() == b"another model"
    export(f"checkpoint='{run}'", f"out='{tmp_path}/mine.onnx'", "images=1", "overwrite=true")
    assert open_model(tmp_path / "mine.onnx").source == tmp_path / "mine.onnx"


def test_a_file_that_disagrees_with_the_checkpoint_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from covidnet.serving.onnx_model import OnnxModel

    right = OnnxModel.outputs

    def wrong(self: OnnxModel, *given: object, **more: object) -> object:
        found = right(self, *given, **more)  # type: ignore[arg-type]
        return type(found)(found.probabilities, found.members + 2e-4, found.features)

    monkeypatch.setattr(OnnxModel, "outputs", wrong)
    with pytest.raises(WeightsError, match=r"not written, its probabilities differ from PyTorch's by 0\.0002"):
        export(f"checkpoint='{run}'", f"out='{tmp_path}'", "images=2")
    assert not list(tmp_path.iterdir())


def test_without_any_image_to_check_it_on_nothing_is_written(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "best.ckpt"
    alone.write_bytes((run / "checkpoints/best.ckpt").read_bytes())
    with pytest.raises(DataError, match=r"the training images are not on this machine\); give some with check=FOLDER"):
        export(f"checkpoint='{alone}'")
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ([], SettingError, "checkpoint"),
        (["checkpoint='{run}'", "format=tflite"], SettingError, "must be onnx"),
        (["checkpoint='{run}'", "images=0"], SettingError, "at least 1"),
        (["checkpoint='{run}'", "out=model.pt"], SettingError, "ends in .onnx"),
        (["checkpoint='{run}/gone'"], WeightsError, "no such file"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    run: Path, settings: list[str], kind: type[CovidnetError], text: str
) -> None:
    with pytest.raises(kind, match=text) as told:
        export(*(word.format(run=run) for word in settings))
    assert "\n" not in str(told.value)


def test_a_library_that_is_not_installed_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("covidnet.serving.exported.exported", lambda *_: pytest.fail("exported in vain"))
    with pytest.raises(SettingError, match="ONNX Runtime is not installed: pip install onnxruntime"):
        export(f"checkpoint='{run}'", f"out='{tmp_path}'", "images=2")
