"""The command that predicts any images with a trained model or an ensemble."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread

from covidnet.base.atomic import WriteError, clear_leftovers
from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import CovidnetError, DataError, SettingError, WeightsError
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.decoders import DecoderError, Decoders
from covidnet.data.reading.images import read_image
from covidnet.export import main as export
from covidnet.launch.command import compose
from covidnet.predict import main
from covidnet.serving import batch
from covidnet.serving.answers import Predictor
from covidnet.serving.batch import ImagePredictions
from covidnet.serving.open_model import open_model
from covidnet.serving.stream import BATCH
from tests.commands import begun, command
from tests.conftest import PROJECT
from tests.data.collection.test_manifest import dicom
from tests.data.reading import hostile
from tests.refusals import refused
from tests.serving.dicom.studies import digest, file_of, radiograph
from tests.serving.web.test_server import BAD

pytestmark = pytest.mark.usefixtures("exported_once")

COUNT = 20


@pytest.fixture(scope="module")
def sweep(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for fold in (0, 1):
        trained(f"fold={fold}", "explain=off", "trainer.max_epochs=2").rename(folder / f"fold={fold}")
    return folder


@pytest.fixture(scope="module")
def exported(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(compose([f"checkpoint='{sweep}'", f"out='{file}'", "images=4"], "export"))
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms at two depths, a page of HTML, and a colour picture."""
    root = tmp_path_factory.mktemp("images")
    (root / "more").mkdir()
    for n in range(COUNT):
        image = draw_image(CLASSES[n % 3], 2000 + n, 0, size=96)
        Image.fromarray(image.image).save(root / ("more" if n % 2 else "") / f"image ({n}).png")
    (root / "page.jpg").write_text("<html>not found</html>")
    rng = np.random.default_rng(0)
    colours = np.repeat(np.repeat(rng.integers(0, 256, (4, 4, 3), np.uint8), 32, 0), 32, 1)
    Image.fromarray(colours).save(root / "more/holiday.png")
    return root


def predict(*settings: str) -> None:
    main(compose(["progress=false", *settings], "predict"))


@pytest.mark.parametrize("given", [("checkpoint='{}/fold=1'",), ("checkpoint='{}'", "only='fold=1'")])
def test_every_image_has_a_row_with_the_models_probabilities(
    sweep: Path, images: Path, tmp_path: Path, given: tuple[str, ...]
) -> None:
    words = [word.format(sweep) for word in given]
    predict(*words, f"input='{images}'", f"out='{tmp_path}'", "gate=off")
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert list(table.columns) == ["path", *CLASSES.columns, "prediction", "quality"]
    assert len(table) == COUNT + 1
    model = open_model(sweep / "fold=1")
    squares = np.stack([model.fit(read_image(images / path)) for path in table["path"]])
    expected = model.outputs(squares).probabilities
    np.testing.assert_allclose(table[list(CLASSES.columns)], expected, atol=1e-5)
    assert list(table["prediction"]) == [CLASSES[n] for n in expected.argmax(axis=1)]
    refused = pd.read_csv(tmp_path / "refused.csv")
    assert [Path(path).name for path in refused["path"]] == ["page.jpg"]
    assert refused["cause"].notna().all()
    assert refused["remedy"].notna().all()


def test_a_sweep_says_how_far_its_models_disagree(sweep: Path, images: Path, tmp_path: Path) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{images}'", f"out='{tmp_path}'", "gate=off")
    table = pd.read_csv(tmp_path / "predictions.csv")
    models = [open_model(sweep / f"fold={fold}") for fold in (0, 1)]
    squares = np.stack([models[0].fit(read_image(images / path)) for path in table["path"]])
    each = [model.outputs(squares).probabilities for model in models]
    np.testing.assert_allclose(table[list(CLASSES.columns)], np.mean(each, axis=0), atol=1e-5)
    np.testing.assert_allclose(table[["sd_covid19", "sd_normal", "sd_pneumonia"]], np.std(each, axis=0), atol=1e-5)
    called = np.mean(each, axis=0).argmax(axis=1)
    agreement = np.mean([one.argmax(axis=1) == called for one in each], axis=0)
    np.testing.assert_allclose(table["agreement"], agreement, atol=1e-3)


def test_the_gate_refuses_a_colour_picture_and_says_why(sweep: Path, images: Path, tmp_path: Path) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{images}'", f"out='{tmp_path}'")
    refused = pd.read_csv(tmp_path / "refused.csv").set_index("path")
    (holiday,) = [path for path in refused.index if path.endswith("holiday.png")]
    assert "colour" in refused.loc[holiday, "cause"]
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert not table["path"].str.endswith("holiday.png").any()
    # At most an image in twenty of those that are what they should be.
    assert len(table) >= COUNT - 1


def test_a_gate_that_warns_puts_it_into_the_column_quality(sweep: Path, images: Path, tmp_path: Path) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{images / 'more'}'", f"out='{tmp_path}'", "gate=warn")
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False).set_index("path")
    assert "colour" in table.loc["holiday.png", "quality"]
    assert (table.drop(index="holiday.png")["quality"] == "").mean() > 0.8


def test_every_bad_file_is_refused_by_name_and_the_others_are_predicted(sweep: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    suffixes = {"DICOM": ".dcm", "RTPLAN": ".dcm", "PNG": ".png", "TIFF": ".tif"}
    for name, (make, _, _) in BAD.items():
        suffix = next((end for word, end in suffixes.items() if word in name), ".jpg")
        (given / f"{name}{suffix}").write_bytes(make())
    for n in range(4):
        Image.fromarray(draw_image("Normal", 3000 + n, 0, size=96).image).save(given / f"image {n}.png")
    predict(f"checkpoint='{sweep}'", f"input='{given}'", f"out='{tmp_path}/out'")
    refused = pd.read_csv(tmp_path / "out/refused.csv")
    told = {Path(path).stem: (cause, remedy) for path, cause, remedy in refused.itertuples(index=False)}
    assert set(told) >= set(BAD)
    for name, (_, _, words) in BAD.items():
        cause, remedy = told[name]
        assert words in cause, (name, cause)
        assert remedy, name
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert len(table) + len(refused) == len(BAD) + 4
    assert table["path"].str.startswith("image").all()
    assert len(table) >= 3


@pytest.mark.slow
def test_it_runs_inside_the_folder_of_the_images_and_does_not_take_its_own_pictures_for_images(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for n in (1, 3):
        shutil.copy(images / f"more/image ({n}).png", here)
    monkeypatch.chdir(here)
    for given in ("'**/*.png'", "."):
        predict(f"checkpoint='{sweep}/fold=0'", f"input={given}", "panels=true", "gate=off")
    tables = [pd.read_csv(file) for file in here.glob("outputs/predict/*/*/predictions.csv")]
    assert len(tables) == 2
    assert all(sorted(table["path"]) == sorted(path.name for path in here.glob("*.png")) for table in tables)
    with pytest.raises(SettingError, match="a folder outside of"):
        predict(f"checkpoint='{sweep}/fold=0'", "input=.", "out=results")
    monkeypatch.chdir(tmp_path)
    for given in ("here", "'here/**/*.png'"):
        predict(f"checkpoint='{sweep}/fold=0'", f"input={given}", "out=elsewhere", "gate=off", "overwrite=true")
        table = pd.read_csv("elsewhere/predictions.csv")
        assert sorted(table["path"]) == sorted(path.name for path in here.glob("*.png"))


def test_identifiers_of_dicom_files_join_results_with_an_archive(sweep: Path, images: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    pixels = draw_image("Normal", 1, 0, size=96).image
    tags = {"Rows": 96, "Columns": 96, "PixelData": pixels.tobytes(), "StudyInstanceUID": "1.2.3"}
    (given / "a.dcm").write_bytes(dicom(**tags, PatientID="p 7", SOPInstanceUID="1.2.3.4"))
    (given / "b.dcm").write_bytes(dicom(**tags, PatientID="=1+1", SOPInstanceUID="1.2.3.5"))
    (given / "cut.dcm").write_bytes(dicom(**tags, PatientID="008", SOPInstanceUID="1.2.3.6")[:-4000])
    shutil.copy(images / "image (0).png", given / "c.png")
    settings = (f"checkpoint='{sweep}/fold=0'", f"input='{given}'", "gate=off")
    predict(*settings, f"out='{tmp_path}/named'", "identifiers=true")
    table = pd.read_csv(tmp_path / "named/predictions.csv", dtype=str, keep_default_na=False)
    names = ["path", "PatientID", "StudyInstanceUID", "SOPInstanceUID"]
    assert table[names].to_numpy().tolist() == [
        ["a.dcm", "p 7", "1.2.3", "1.2.3.4"],
        ["b.dcm", "'=1+1", "1.2.3", "1.2.3.5"],
        ["c.png", "", "", ""],
    ]
    refused = pd.read_csv(tmp_path / "named/refused.csv", dtype=str)
    assert refused[names].to_numpy().tolist() == [["cut.dcm", "008", "1.2.3", "1.2.3.6"]]
    predict(*settings, f"out='{tmp_path}/anonymous'")
    for name in ("predictions.csv", "refused.csv"):
        assert not {"PatientID", "SOPInstanceUID"} & set(pd.read_csv(tmp_path / "anonymous" / name).columns)


def test_strict_makes_a_refused_file_an_error_after_all_the_work(sweep: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"strict=true: .* files were refused; see .*refused.csv"):
        predict(f"checkpoint='{sweep}'", f"input='{images}'", f"out='{tmp_path}'", "strict=true", "gate=off")
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == COUNT + 1


def test_panels_are_drawn_beside_the_table(sweep: Path, images: Path, tmp_path: Path) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{images}/image (1*).png'", f"out='{tmp_path}'", "panels=true", "gate=off")
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == 5
    for picture in table["picture"]:
        with Image.open(tmp_path / picture) as image:
            assert image.width > 2 * 4 * 150


NAMES = (
    b"bad\xff.png",
    b"two\nlines.png",
    b"$x$ <b>.png",
    b"=1+1.png",
    b"\x1b[31mred.png",
    b"cr\r.png",
    b"n" * 246 + b".png",
)


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd names")
    for n, name in enumerate(NAMES):
        plain = root / "plain.png"
        Image.fromarray(draw_image(CLASSES[n % 3], 4000 + n, 0, size=96).image).save(plain)
        plain.rename(root / os.fsdecode(name))
    (root / os.fsdecode(b"broken\xfe\n.png")).write_text("<html>")
    return root


@pytest.mark.slow
def test_no_name_of_a_file_costs_any_other_its_row_or_its_picture(
    sweep: Path, odd_names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{odd_names}'", f"out='{tmp_path}'", "panels=true", "gate=off")
    table = pd.read_csv(tmp_path / "predictions.csv")
    expected = {
        r"bad\xff.png",
        "two\nlines.png",
        "cr\r.png",
        "$x$ <b>.png",
        "./=1+1.png",
        "\x1b[31mred.png",
        "n" * 246 + ".png",
    }
    assert set(table["path"]) == expected
    assert len(list(tmp_path.glob("*.png"))) == len(NAMES)
    refused = pd.read_csv(tmp_path / "refused.csv")
    assert list(refused["path"]) == [r"broken\xfe\n.png"]
    assert "\x1b" not in capsys.readouterr().out


def test_a_picture_that_cannot_be_written_costs_itself_alone(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from covidnet.report.plots import panel as image_picture

    save = image_picture.save_figure

    def full(figure: Any, path: Path) -> None:
        if path.name == "image (10).png":
            raise WriteError(path, errno.ENOSPC, "No space left on device")
        save(figure, path)

    monkeypatch.setattr(image_picture, "save_figure", full)
    with pytest.raises(DataError, match=r"1 picture of 5 not drawn, see the log above; the table is complete"):
        predict(
            f"checkpoint='{sweep}'", f"input='{images}/image (1*).png'", f"out='{tmp_path}'", "panels=true", "gate=off"
        )
    table = pd.read_csv(tmp_path / "predictions.csv", index_col="path")
    assert len(table) == 5
    assert list(table.index[table["picture"].isna()]) == ["image (10).png"]
    assert "image (10).png: its picture is not drawn" in caplog.text


def test_what_no_decoder_foresaw_costs_one_image(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Decoders.read

    def failing(self: Decoders, path: Path) -> Any:
        if path.name == "image (12).png":
            raise RuntimeError("a fault of the decoder")
        return read(self, path)

    monkeypatch.setattr(Decoders, "read", failing)
    predict(f"checkpoint='{sweep}'", f"input='{images}/image (1*).png'", f"out='{tmp_path}'", "gate=off")
    refused = pd.read_csv(tmp_path / "refused.csv")
    assert list(refused["path"]) == ["image (12).png"]
    assert "RuntimeError: a fault of the decoder" in refused["cause"].item()
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 4


def test_an_image_that_passes_a_limit_is_named_and_the_others_are_predicted(sweep: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for n in range(3):
        Image.fromarray(draw_image(CLASSES[n], n, 0, size=96).image).save(images / f"{n}.png")
    (images / "1b.png").write_bytes(hostile.png_large(5000))
    predict(f"checkpoint='{sweep}/fold=0'", f"input='{images}'", f"out='{out}'", "gate=off", "reading.max_memory=0.25")
    refused = pd.read_csv(out / "refused.csv")
    assert refused[["path", "cause"]].to_numpy().tolist() == [["1b.png", "needed more than 0.25 GB"]]
    assert list(pd.read_csv(out / "predictions.csv")["path"]) == ["0.png", "1.png", "2.png"]


def test_rows_that_are_ready_are_kept_when_the_work_ends_early(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ImagePredictions._row

    def stopped(self: ImagePredictions, path: str, *given: Any) -> list[str]:
        if self.predicted == 3:
            raise KeyboardInterrupt
        return row(self, path, *given)

    paths = [path.name for path in sorted(images.glob("image*.png"))]
    predictor = Predictor(open_model(sweep / "fold=0"), "off")
    monkeypatch.setattr(ImagePredictions, "_row", stopped)
    with pytest.raises(KeyboardInterrupt):
        ImagePredictions(predictor, images, paths, tmp_path, progress=False).run()
    assert list(pd.read_csv(tmp_path / "predictions.partial.csv")["path"]) == paths[:3]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["predictions.partial.csv", "predictions.partial.json"]
    monkeypatch.undo()
    ImagePredictions(predictor, images, paths, tmp_path, progress=False).run()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_killed_command_resumes_and_ends_with_the_files_of_one_never_killed(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, whole, out = tmp_path / "given", tmp_path / "whole", tmp_path / "out"
    shutil.copytree(images / "more", root)
    (root / "page.jpg").write_text("<html>not found</html>")
    for n in range(14):
        pixels = draw_image(CLASSES[n % 3], 5000 + n, 0, size=96).image
        tags = {"Rows": 96, "Columns": 96, "PixelData": pixels.tobytes(), "PatientID": f"p {n}"}
        (root / f"{n}.dcm").write_bytes(dicom(**tags)[: -4000 if n == 7 else None])
    settings = ("panels=true", "identifiers=true", "strict=true", "progress=false")
    words = (f"checkpoint='{sweep}/fold=0'", f"input='{root}'", *settings)
    with pytest.raises(DataError, match="strict=true") as uninterrupted:
        predict(*words, f"out='{whole}'")
    said, partial = [tmp_path / "stdout", tmp_path / "stderr"], out / "predictions.partial.csv"

    def rows_so_far() -> pd.DataFrame:
        rows = pd.read_csv(partial)[expected.columns]
        pd.testing.assert_frame_equal(rows, expected.head(len(rows)))
        tables = {path.name for path in out.iterdir()} - {path.name for path in whole.iterdir()}
        assert tables - {path.name for path in out.glob(".*.tmp")} == {
            "predictions.partial.csv", "predictions.partial.json", "refused.partial.csv"
        }  # fmt: skip
        return rows

    expected = pd.read_csv(whole / "predictions.csv")
    killed = begun("covidnet.predict", *words, f"out='{out}'", cwd=PROJECT, env=os.environ, said=said)
    count = 0
    # More than a batch, since a resumed command starts with a whole one.
    while killed.is_alive() and count <= BATCH + 1:
        time.sleep(0.01)
        with suppress(FileNotFoundError):
            count = partial.read_bytes().count(b"\n")
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, said[1].read_text()
    assert BATCH < len(rows_so_far()) < len(expected)
    with monkeypatch.context() as patch:
        stop_at(patch, len(expected) - 2)
        with pytest.raises(KeyboardInterrupt):
            predict(*words, f"out='{out}'", "resume=true")
    rows = rows_so_far()
    assert len(rows) == len(expected) - 2
    with pytest.raises(SettingError, match=r"out=.*: must be .*predictions.partial.json .*resume=true"):
        predict(*words, f"out='{out}'")
    read, paths = Decoders.read, []

    def counted(self: Decoders, path: Path, *more: Any) -> Any:
        paths.append(path)
        return read(self, path, *more)

    clear_leftovers(out)  # in a process that has not written there before, the first write does
    monkeypatch.setattr(Decoders, "read", counted)
    with pytest.raises(DataError) as resumed:
        predict(*words, f"out='{out}'", "resume=true")
    assert len(paths) <= len(expected) - len(rows) + len(pd.read_csv(whole / "refused.csv")) + BATCH
    assert str(resumed.value) == str(uninterrupted.value).replace(str(whole), str(out))
    assert contents(out) == contents(whole)
    with pytest.raises(SettingError, match=r"predictions.csv already exists"):
        predict(*words, f"out='{out}'", "resume=true")
    with pytest.raises(
        SettingError, match=r"resume=.*must be true with out=DIR of a stopped command; there is no folder"
    ):
        predict(*words, f"out='{tmp_path}/nowhere'", "resume=true")


def stop_at(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Interrupt a call before it writes the row of one more prediction."""
    row = ImagePredictions._row

    def stopped(self: ImagePredictions, *given: Any) -> list[str]:
        if self.predicted >= count:
            raise KeyboardInterrupt
        return row(self, *given)

    monkeypatch.setattr(ImagePredictions, "_row", stopped)


@pytest.mark.slow
def test_resuming_fails_where_the_model_or_a_setting_changed(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"checkpoint='{sweep}/fold=0'", f"input='{images}'", f"out='{tmp_path}'", "gate=off"]
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(KeyboardInterrupt):
            predict(*words)
    before = contents(tmp_path)
    for changed, difference in {
        "gate=warn": "gate was off, now warn",
        "reading.max_seconds=19": "reading was .*'max_seconds': 20.*, now .*'max_seconds': 19",
        f"checkpoint='{sweep}'": "checkpoint was ([0-9a-f]{12}), now \\1, [0-9a-f]{12}",
    }.items():
        with pytest.raises(SettingError, match=f"resume=.*the stopped command; {difference}.*; restore it") as error:
            predict(*words, changed, "resume=true")
        assert "\n" not in str(error.value)
        assert contents(tmp_path) == before


Call = Callable[..., ImagePredictions]


@pytest.fixture
def call(sweep: Path, images: Path, tmp_path: Path) -> Call:
    """Predictions of a copy of the images, in reverse order: page.jpg is the first."""
    root = tmp_path / "images"
    shutil.copytree(images, root)
    predictor = Predictor(open_model(sweep / "fold=0"), "off")

    def make(out: Path, **settings: Any) -> ImagePredictions:
        paths = sorted((path.relative_to(root).as_posix() for path in root.rglob("*.*")), reverse=True)
        return ImagePredictions(predictor, root, paths, out, progress=False, **settings)

    return make


def test_resuming_fails_where_an_image_with_a_row_changed(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, root = tmp_path / "out", tmp_path / "images"
    with monkeypatch.context() as patch:
        stop_at(patch, 14)
        with pytest.raises(KeyboardInterrupt):
            call(out).run()
    rows = pd.concat(pd.read_csv(out / f"{name}.partial.csv") for name in ("predictions", "refused"))
    assert sorted(rows["position"]) == list(range(15))
    before, last = contents(out), root / "more/image (9).png"
    page, kept = root / "page.jpg", {path: path.read_bytes() for path in (last, root / "page.jpg")}
    for change, difference in {
        lambda: last.write_bytes(kept[last] + b"\0"): r"more/image \(9\)\.png has changed",
        lambda: page.write_bytes(kept[last]): r"page\.jpg has changed",
        last.unlink: r"image 2 was more/image \(9\)\.png, now more/image \(7\)\.png",
        lambda: (root / "z.png").write_bytes(kept[last]): r"image 1 was page\.jpg, now z\.png",
    }.items():
        change()
        with pytest.raises(SettingError, match=f"resume=.*: must be true with the images.*; {difference}; restore it"):
            call(out, resume=True).run()
        assert contents(out) == before
        for path, data in kept.items():
            path.write_bytes(data)
    (root / "z.png").unlink()
    (root / "image (0).png").write_bytes(kept[last])  # it has no row yet
    call(out, resume=True).run()
    call(tmp_path / "whole").run()
    assert contents(out) == contents(tmp_path / "whole")


def test_rows_that_were_cut_off_are_computed_again(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(tmp_path / "whole").run()
    for n, end in enumerate(("more/cut off.png,0.1,", '"more/two\nlines', "\x00\x00\n")):
        out = tmp_path / f"out{n}"
        with monkeypatch.context() as patch:
            stop_at(patch, 9 + n)
            with pytest.raises(KeyboardInterrupt):
                call(out).run()
        with (out / "predictions.partial.csv").open("a") as stream:
            stream.write(end)
        if n == 2:
            (out / "refused.partial.csv").write_text("")  # a power failure can take the rows of one table alone
        call(out, resume=True).run()
        assert contents(out) == contents(tmp_path / "whole")


def test_a_command_stopped_before_its_first_row_leaves_nothing(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoders, "read", lambda *given: (_ for _ in ()).throw(DecoderError("no process starts")))
    with pytest.raises(DecoderError):
        call(tmp_path / "out").run()
    assert not contents(tmp_path / "out")


@pytest.mark.slow
def test_any_name_of_a_file_is_resumed_and_a_picture_that_was_not_drawn_is_still_counted(
    sweep: Path, odd_names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(open_model(sweep / "fold=0"), "off")
    shutil.copytree(odd_names, tmp_path / "given")
    paths = sorted(path.name for path in odd_names.iterdir())
    assert len(paths) == BATCH
    paths.append("one more.png")
    shutil.copy(odd_names / os.fsdecode(NAMES[2]), tmp_path / "given" / paths[-1])
    drawn = ImagePredictions._draw

    def failing(self: ImagePredictions, path: str, *given: Any) -> str:
        if path == paths[0]:
            raise RuntimeError("a fault of the library")
        return drawn(self, path, *given)

    monkeypatch.setattr(ImagePredictions, "_draw", failing)

    def run(out: str, resume: bool = False) -> int:
        call = ImagePredictions(
            predictor, tmp_path / "given", paths, tmp_path / out, panels=True, progress=False, resume=resume
        )
        call.run()
        return call.undrawn

    with monkeypatch.context() as patch:
        stop_at(patch, len(NAMES))
        with pytest.raises(KeyboardInterrupt):
            run("out")
    monkeypatch.setattr(ImagePredictions, "_draw", drawn)
    assert run("out", resume=True) == 1
    monkeypatch.setattr(ImagePredictions, "_draw", failing)
    assert run("whole") == 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_exported_model_predicts_the_same(sweep: Path, exported: Path, images: Path, tmp_path: Path) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{images}'", f"out='{tmp_path}/torch'")
    predict(f"checkpoint='{exported}'", f"input='{images}'", f"out='{tmp_path}/onnx'")
    ours, theirs = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("torch", "onnx"))
    assert list(ours["path"]) == list(theirs["path"])
    np.testing.assert_allclose(ours[list(CLASSES.columns)], theirs[list(CLASSES.columns)], atol=1e-4)
    assert list(ours["prediction"]) == list(theirs["prediction"])


LIGHT = PROJECT / "requirements-light.txt"


def without_torch(*commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Commands in a process of a machine that has what `LIGHT` lists, and none of the other dependencies."""

    def project(line: str) -> str:
        return re.split(r"[<>=\[; ]", line.strip())[0].lower().replace("_", "-")

    light = {project(line) for line in LIGHT.read_text().splitlines() if line.strip() and not line.startswith("#")}
    required = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    # These come with others; they are named, since what is not there must not be found by chance.
    absent = {project(line) for line in required} - light | {"lightning-fabric", "albucore", "onnx", "onnxscript"}
    assert {"torch", "torchvision", "pytorch-lightning", "albumentations", "safetensors"} <= absent
    # scikit-learn itself needs it.
    modules = {name.replace("-", "_") for name in absent - {"joblib"}} | {"pytorch_grad_cam"}
    code = (
        "import json, sys, runpy\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "ends = []\n"
        "for sys.argv in json.loads(sys.argv[1]):\n"
        "    try:\n        runpy.run_module(f'covidnet.{sys.argv[0]}', run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        ends.append(end.code)\n"
        "        print(end.code or '', file=sys.stderr)\n"
        "sys.exit(any(ends))"
    )
    given = [sys.executable, "-c", code, json.dumps(commands)]
    return subprocess.run(given, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_without_pytorch_an_exported_model_predicts_and_is_validated_and_other_commands_end_in_one_line(
    sweep: Path, exported: Path, images: Path, tmp_path: Path
) -> None:
    for n in range(6):
        place = tmp_path / "set" / CLASSES[n % 3] / f"{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_image(CLASSES[n % 3], 5000 + n, 0, size=96).image).save(place)
    model, data = f"checkpoint={exported}", ("data=folder", f"data.root={tmp_path / 'set'}")
    pictures = f"input={images}/image (1*).png"
    done = without_torch(
        ("predict", model, pictures, f"out={tmp_path / 'out'}", "engine=onnx", "panels=true", "gate=off"),
        ("explain", model, f"input={images}/image (0).png", f"out={tmp_path / 'maps'}"),
        ("evaluate", model, *data, f"out={tmp_path / 'report'}", "resamples=100"),
        ("crossval", f"sweep_dir={sweep}", f"report_dir={tmp_path / 'sweep'}", "resamples=100"),
        ("train", "fold=0"),
        ("export", f"checkpoint={sweep}"),
    )
    assert done.returncode == 1
    # Of the last two.
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, done.stderr
    assert all("needs PyTorch" in line for line in errors)
    table = pd.read_csv(tmp_path / "out/predictions.csv")
    assert len(table) == 5
    assert all((tmp_path / "out" / picture).is_file() for picture in table["picture"])
    assert "Research use only; not a medical device." in done.stdout
    assert "sensitivity" in (tmp_path / "out/model_card.md").read_text().lower()
    assert len(pd.read_csv(tmp_path / "maps/explanations.csv")) == 1
    assert len(pd.read_csv(tmp_path / "report/predictions.csv")) == 6
    assert (tmp_path / "sweep/report.html").is_file()


def test_heat_maps_of_an_exported_model_are_those_of_its_checkpoints(sweep: Path, exported: Path, images: Path) -> None:
    ours, theirs = open_model(sweep), open_model(exported)
    assert theirs.explains
    paths = sorted(images.glob("image*.png"))[:4]
    squares = np.stack([ours.fit(read_image(path)) for path in paths])
    spread = []
    for target in range(3):
        maps = [
            model.heat(squares, model.outputs(squares, maps=True), [target] * len(paths)) for model in (ours, theirs)
        ]
        spread.append(maps[0].std())
        np.testing.assert_allclose(maps[1], maps[0], atol=2e-3)
    assert max(spread) > 0.05
    with refused("explain.method", "gradient", ("gradcam", "cam")):
        theirs.heat(squares, theirs.outputs(squares, maps=True), [0] * len(paths), "gradient")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(
    sweep: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files there are, few of them are held."""
    import weakref

    held: set[int] = set()
    most, lock, read = [0], threading.Lock(), Decoders.read

    def counted(self: Decoders, path: Path) -> Any:
        image = read(self, path)
        with lock:
            held.add(id(image))
            most[0] = max(most[0], len(held))
        weakref.finalize(image, held.discard, id(image))
        return image

    monkeypatch.setattr(Decoders, "read", counted)
    paths = [path.name for path in images.glob("image*.png")] * 12
    ImagePredictions(Predictor(open_model(sweep / "fold=0"), "off"), images, paths, tmp_path, progress=False).run()
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == len(paths) == 120
    # 16 are read ahead, and four batches of 8 are being put together, at work, waiting and given out.
    assert most[0] <= 48


def test_what_an_earlier_call_refused_is_not_left_beside_new_predictions(
    sweep: Path, images: Path, tmp_path: Path
) -> None:
    predict(f"checkpoint='{sweep}'", f"input='{images}'", f"out='{tmp_path}'", "gate=off")
    before = (tmp_path / "predictions.csv").read_bytes()
    again = (f"checkpoint='{sweep}'", f"input='{images}/more/image (1).png'", f"out='{tmp_path}'", "gate=off")
    with pytest.raises(SettingError, match=r"out=.*: predictions.csv already exists|.* overwrite=true"):
        predict(*again)
    assert (tmp_path / "predictions.csv").read_bytes() == before
    predict(*again, "overwrite=true")
    assert not (tmp_path / "refused.csv").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv"]


def test_nothing_but_refused_files_is_an_error_and_lists_them(sweep: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 file refused, none is left; the first: not an image: HTML; download it"):
        predict(f"checkpoint='{sweep}'", f"input='{images}/page.jpg'", f"out='{tmp_path}'")
    assert len(pd.read_csv(tmp_path / "refused.csv")) == 1
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        (["checkpoint='{sweep}'"], SettingError, "input"),
        (["input='{images}'"], SettingError, "make demo"),
        (["checkpoint='{images}'", "input='{images}'"], WeightsError, "contains no checkpoint"),
        (["checkpoint='{images}/page.jpg'", "input='{images}'"], WeightsError, "not a covidnet checkpoint"),
        (["checkpoint='{sweep}'", "input='{images}/gone'"], DataError, "no such file"),
        (["checkpoint='{sweep}'", "input='{images}'", "gate=open"], SettingError, "refuse, warn, off"),
        (["checkpoint='{sweep}'", "input='{images}'", "engine=tpu"], SettingError, "auto, torch, onnx"),
        (["checkpoint='{sweep}'", "input='{images}'", "engine=onnx"], WeightsError, "covidnet.export"),
        (["checkpoint='{sweep}'", "input='{images}'", "out='{images}/out'"], SettingError, "a folder outside of"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    sweep: Path, images: Path, tmp_path: Path, settings: list[str], kind: type[CovidnetError], text: str
) -> None:
    given = [f"out='{tmp_path}'", *(word.format(sweep=sweep, images=images) for word in settings)]
    with pytest.raises(kind, match=text) as told:
        predict(*given)
    assert "\n" not in str(told.value)


def test_the_command_takes_paths_with_brackets_and_equals_signs(sweep: Path, images: Path, tmp_path: Path) -> None:
    done = command(
        "covidnet.predict",
        f"checkpoint={sweep}/fold=0",
        f"input={images}/image (0).png",
        f"out={tmp_path}/o (1)",
        "gate=off",
        cwd=PROJECT,
    )
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "o (1)/predictions.csv")) == 1


def test_results_in_dicom_lie_beside_the_tables_and_other_images_are_refused(
    sweep: Path, images: Path, tmp_path: Path
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    (given / "ward").mkdir(parents=True)
    (given / "ward/1.dcm").write_bytes(file_of(radiograph(1)))
    (given / "ward/hand.dcm").write_bytes(file_of(radiograph(2, BodyPartExamined="HAND")))
    shutil.copy(images / "image (0).png", given / "c.png")
    settings = (f"checkpoint='{sweep}/fold=0'", f"input='{given}'", f"out='{out}'", "gate=off", "output=dicom")
    predict(*settings)
    (row,) = pd.read_csv(out / "predictions.csv").to_dict("records")
    assert (row["path"], row["sr"], row["sc"]) == ("ward/1.dcm", "ward/1.sr.dcm", "ward/1.sc.dcm")
    report = dcmread(out / row["sr"])
    values = [
        float(item.MeasuredValueSequence[0].NumericValue)
        for item in report.ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ValueType == "NUM"
    ]
    np.testing.assert_allclose(values, [row[name] for name in CLASSES.columns], atol=1e-6)
    assert dcmread(out / row["sc"]).pixel_array.ndim == 3
    told = pd.read_csv(out / "refused.csv", index_col="path")
    assert told.loc["c.png", "cause"] == "not DICOM, so results in DICOM have no study to belong to"
    assert told.loc["ward/hand.dcm", "cause"].endswith("BodyPartExamined HAND")
    assert sorted(path.name for path in out.rglob("*.dcm")) == ["1.sc.dcm", "1.sr.dcm"]
    before = [digest(dcmread(out / row[kind])) for kind in ("sr", "sc")]
    predict(*settings, "overwrite=true")
    assert [digest(dcmread(out / row[kind])) for kind in ("sr", "sc")] == before


def test_a_result_in_dicom_that_cannot_be_written_costs_itself_alone(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    for number in (1, 2):
        (given / f"{number}.dcm").write_bytes(file_of(radiograph(number)))
    write = batch.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name == "1.sc.dcm":
            raise WriteError(path, errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(batch, "write_bytes", full)
    with pytest.raises(DataError, match=r"1 image of 2 without results in DICOM, see the log above; the table is"):
        predict(f"checkpoint='{sweep}/fold=0'", f"input='{given}'", f"out='{out}'", "gate=off", "output=dicom")
    table = pd.read_csv(out / "predictions.csv", index_col="path")
    assert list(table["sr"].isna()) == [True, False]
    assert table["p_normal"].notna().all()
    assert "1.dcm: no results in DICOM" in caplog.text


def test_results_in_dicom_never_replace_an_image(sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(file_of(radiograph(1)))
    (tmp_path / "1.sr.dcm").write_bytes(file_of(radiograph(2)))
    with refused("out", Path(tmp_path), "a folder without the images", remedy="1.sr.dcm"):
        predict(f"checkpoint='{sweep}'", f"input='{tmp_path}/*.dcm'", f"out='{tmp_path}'", "output=dicom")
