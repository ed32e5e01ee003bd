"""``python -m covidnet.prepare``: bad files are named one by one, the good ones make a manifest and a split."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidnet.data.phantoms.phantom import write_phantoms
from tests.commands import command
from tests.data.reading.test_dicom import image as dicom_image
from tests.data.reading.test_dicom import written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of which three cannot be used."""
    root = tmp_path_factory.mktemp("images") / "set"
    write_phantoms(root, images_per_class=11, size=96)
    good = sorted(root.glob("NORMAL/*.png"))[0]
    (root / "NORMAL/empty.png").write_bytes(b"")
    (root / "NORMAL/page.jpg").write_text("<html>not found</html>")
    (root / "PNEUMONIA/half.png").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    # Without metadata.csv the folders alone tell the classes.
    (root / "metadata.csv").unlink()
    return root


def prepare(folder: Path, cwd: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return command("covidnet.prepare", "data=folder", f"data.root={folder}", *more, cwd=cwd, timeout=300)


def told(stdout: str, name: str) -> Path:
    line = next(line for line in stdout.splitlines() if line.startswith(name))
    return Path(line.split(":", 1)[1].removesuffix(" (3 files)").strip())


@pytest.mark.slow
def test_names_of_any_bytes_are_prepared_and_shown_escaped(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    good = sorted(images.glob("NORMAL/*.png"))[1]
    good.rename(images / "NORMAL" / os.fsdecode(b"bad\xff\n.png"))
    (images / "NORMAL/page.jpg").rename(images / "NORMAL" / os.fsdecode(b"\x1b[31mpage\xff\n.jpg"))
    done = prepare(images, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\x1b[31mpage\xff\n.jpg: not an image" in done.stderr
    refused = pd.read_csv(told(done.stdout, "refused"))
    assert r"NORMAL/\x1b[31mpage\xff\n.jpg" in list(refused["path"])


def test_bad_files_are_named_and_the_rest_is_prepared(folder: Path, tmp_path: Path) -> None:
    done = prepare(folder, tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("empty.png", "page.jpg", "half.png"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
    refused = pd.read_csv(told(done.stdout, "refused"))
    assert sorted(refused["path"]) == ["NORMAL/empty.png", "NORMAL/page.jpg", "PNEUMONIA/half.png"]
    assert refused[["cause", "remedy"]].notna().all().all()
    manifest, split = pd.read_csv(told(done.stdout, "manifest")), pd.read_csv(told(done.stdout, "split"))
    assert len(manifest) == len(split) == 33
    # The name of a phantom tells no patient.
    assert "Weakens a claim: The patient is unknown for 33 of 33 images: 100%\n" in done.stdout
    assert done.stdout.splitlines()[-1] == f"all checks: covidnet audit data=folder data.root={folder}"
    assert not list(tmp_path.iterdir()), "prepare leaves nothing where it was started"


@pytest.mark.slow
def test_strict_makes_refused_files_a_failure_and_a_relative_root_is_one_of_the_current_folder(folder: Path) -> None:
    done = prepare(Path(folder.name), folder.parent, "strict=true")
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: 3 files were refused (strict=true)")


def test_an_unknown_class_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "set/TB").mkdir(parents=True)
    (tmp_path / "set/TB/image.png").write_bytes(sorted(folder.glob("NORMAL/*.png"))[1].read_bytes())
    done = prepare(tmp_path / "set", tmp_path)
    assert done.returncode != 0
    assert "TB" in done.stderr
    assert "data.labels" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_data_labels_maps_a_folder_as_the_message_says(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_phantoms(root, images_per_class=11, size=96)
    (root / "metadata.csv").unlink()
    (root / "PNEUMONIA").rename(root / "TB")
    assert prepare(root, tmp_path).returncode != 0
    done = prepare(root, tmp_path, "data.labels={TB: Pneumonia}")
    assert done.returncode == 0, done.stderr
    assert "Pneumonia 11" in done.stdout


def test_a_cache_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = prepare(folder, tmp_path, f"cache_dir={tmp_path / 'file'}/cache")
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cache_dir=DIR" in done.stderr


@pytest.mark.slow
def test_dicom_files_are_copied_without_identifiers_and_the_copy_is_a_data_set(tmp_path: Path) -> None:
    for number in range(3):
        header = dicom_image(
            np.random.default_rng(number).integers(0, 255, (96, 96), np.uint8), PatientID=f"MRN{number}"
        )
        place = tmp_path / "in" / "NORMAL" / f"Quackenbush-{number}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(written(header))
    done = prepare(tmp_path / "in", tmp_path, "deidentify=true")
    assert done.returncode == 1
    assert "out=null: must be the new folder of the copy; say out=DIR" in done.stderr
    for name, strict in (("first", "strict=false"), ("second", "strict=true")):
        done = prepare(tmp_path / "in", tmp_path, "deidentify=true", f"out={name}", "key=secret.key", strict)
        assert done.returncode == (name == "second"), done.stderr
        assert f"copy:     {name} (3 images of 3 patients)" in done.stdout
        assert "Quackenbush" not in done.stdout + done.stderr
        (tmp_path / "in" / "NORMAL" / "notes.png").write_text("<html>")
    assert "1 file was not copied (strict=true)" in done.stderr
    assert (tmp_path / "secret.key").stat().st_mode & 0o777 == 0o600
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.dcm")}
        for name in ("first", "second")
    )
    assert len(first) == 3
    assert first == second
