"""A scan reads every file once: unusable files are named and left out, all others are kept."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from covidnet.base.errors import DataError
from covidnet.data.collection.manifest import (
    COLUMNS,
    REFUSED_COLUMNS,
    Manifest,
    check_files,
    duplicates,
    manifest_hash,
    scan,
)
from covidnet.data.collection.sources import folder_source
from covidnet.data.reading.images import Radiograph
from tests.data.reading import hostile

RAMP = np.add.outer(np.arange(80), np.arange(96)).astype(np.uint8)  # 80 rows, 96 columns
FOLDERS = ("COVID19", "NORMAL", "PNEUMONIA")


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, kind, **options)
    return stream.getvalue()


def noise(seed: int) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 256, (64, 64), np.uint8))


def put(root: Path, path: str, data: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


def scanned(root: Path, **limits: float) -> Manifest:
    return scan(folder_source(root), **{"max_megapixels": 64.0, "min_side": 64, **limits}, progress=False)  # type: ignore[arg-type]


def dicom(**tags: object) -> bytes:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", "CR"
    header.Rows, header.Columns, header.SamplesPerPixel = 80, 96, 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.PixelData = RAMP.tobytes()
    header["PixelData"].VR = "OB"
    for name, value in tags.items():
        if value is None:
            delattr(header, name)
        else:
            setattr(header, name, value)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def empty_megapixels(side: int) -> bytes:
    """A grey PNG of side x side zeros, whose file is small."""
    packer = zlib.compressobj(9)
    lines = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def bad_crc() -> bytes:
    data = bytearray(encoded(RAMP))
    data[data.index(b"IDAT") + 8] ^= 255
    return bytes(data)


def frames(kind: str) -> bytes:
    if kind == "TIFF":
        return encoded(RAMP, "TIFF", save_all=True, append_images=[Image.fromarray(255 - RAMP)])
    return dicom(NumberOfFrames=2, PixelData=RAMP.tobytes() * 2)


JPEG = encoded(RAMP, "JPEG")
FLOATS = np.linspace(0, 1, 80 * 96, dtype=np.float32).reshape(80, 96)

REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("x.jpg", lambda: b"", "empty file"),
    "html": ("x.jpg", lambda: b"<!doctype html><html>Not found</html>", "not an image: HTML"),
    "text": ("x.jpg", lambda: b"Access denied\n", "not an image: text"),
    "half a JPEG": ("x.jpg", lambda: JPEG[: len(JPEG) // 2], "truncated"),
    "JPEG without end marker": ("x.jpg", lambda: JPEG[:-2], "truncated"),
    "bad CRC": ("x.png", bad_crc, "bad CRC"),
    "float range": ("x.tif", lambda: encoded(FLOATS * 1e9, "TIFF"), "from 0 to 1e+09"),
    "float negative": ("x.tif", lambda: encoded(FLOATS - 0.5, "TIFF"), "from -0.5 to 0.5"),
    "1-bit": ("x.png", lambda: encoded(Image.fromarray(RAMP > 80)), "1-bit"),
    "clear": ("x.png", lambda: encoded(np.dstack([RAMP] * 3 + [RAMP * 0])), "no information"),
    "TIFF frames": ("x.tif", lambda: frames("TIFF"), "2 frames"),
    "DICOM frames": ("x.dcm", lambda: frames("DICOM"), "2 frames"),
    "144 megapixels": ("x.png", lambda: empty_megapixels(12_000), "144 megapixels"),
    "1 x 1": ("x.png", lambda: encoded(RAMP[:1, :1]), "too small: 1 x 1"),
    "63 pixels": ("x.png", lambda: encoded(RAMP[:63]), "too small: 96 x 63"),
    "constant": ("x.png", lambda: encoded(RAMP * 0 + 7), "no information"),
    "DICOM cut": ("x.dcm", lambda: dicom()[:-4000], "truncated"),
    "DICOM without pixels": ("x.dcm", lambda: dicom(PixelData=None), "no image"),
    "RTPLAN": ("x.dcm", lambda: dicom(PixelData=None, Modality="RTPLAN"), "no image"),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Every kind of file that is refused, among images that are not."""
    root = tmp_path_factory.mktemp("mixed")
    for n, (file, make, _) in enumerate(REFUSED.values()):
        put(root, f"NORMAL/{n:02d}-{file}", make())
    for n, folder in enumerate(FOLDERS):
        put(root, f"{folder}/whole.png", noise(n))
    return scanned(root)


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_file_among_many_is_refused_with_path_cause_and_remedy(mixed: Manifest, kind: str) -> None:
    file, _, words = REFUSED[kind]
    path = f"NORMAL/{list(REFUSED).index(kind):02d}-{file}"
    rows = mixed.refused[mixed.refused["path"] == path]
    assert len(rows) == 1
    assert words in rows["cause"].item()
    assert rows["remedy"].item()
    assert path not in set(mixed.images["path"])


def test_other_files_are_kept_where_some_are_refused(mixed: Manifest) -> None:
    assert tuple(mixed.refused.columns) == REFUSED_COLUMNS
    assert len(mixed.refused) == len(REFUSED)
    assert sorted(mixed.images["path"]) == [f"{folder}/whole.png" for folder in FOLDERS]


ACCEPTED: dict[str, tuple[str, Callable[[], bytes], tuple[int, int]]] = {
    "16-bit PNG": ("x.png", lambda: encoded(RAMP.astype(np.uint16) * 257), (96, 80)),
    "12 bits in 16": ("x.png", lambda: encoded(RAMP.astype(np.uint16) * 16), (96, 80)),
    "float TIFF": ("x.tif", lambda: encoded(FLOATS, "TIFF"), (96, 80)),
    "alpha": (
        "x.png",
        lambda: encoded(np.dstack([RAMP] * 3 + [np.where(RAMP > 80, 0, 255).astype(np.uint8)])),
        (96, 80),
    ),
    "palette": ("x.png", lambda: encoded(Image.fromarray(RAMP).convert("P"), transparency=3), (96, 80)),
    "CMYK": ("x.jpg", lambda: encoded(Image.fromarray(RAMP).convert("CMYK"), "JPEG"), (96, 80)),
    "negative": ("x.dcm", lambda: dicom(PhotometricInterpretation="MONOCHROME1"), (96, 80)),
    "colour photograph": ("x.jpg", lambda: encoded(np.dstack([RAMP, RAMP[::-1], 255 - RAMP]), "JPEG"), (96, 80)),
}


def test_unusual_but_readable_files_are_kept_with_their_facts(tmp_path: Path) -> None:
    for kind, (file, make, _) in ACCEPTED.items():
        put(tmp_path, f"NORMAL/{kind}/{file}", make())
    exif = Image.Exif()
    exif[0x0112] = 6
    put(tmp_path, "NORMAL/turned/x.jpg", encoded(RAMP, "JPEG", exif=exif))
    found = scanned(tmp_path)
    assert found.refused.empty
    sizes = {row["path"]: (row["width"], row["height"]) for row in found.images.to_dict("records")}
    expected = {f"NORMAL/{kind}/{file}": size for kind, (file, _, size) in ACCEPTED.items()}
    assert sizes == {**expected, "NORMAL/turned/x.jpg": (80, 96)}
    for row in found.images.to_dict("records"):
        data = (tmp_path / row["path"]).read_bytes()
        assert (row["sha256"], row["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))


def test_files_that_metadata_lists_and_the_disk_lacks_are_refused_too(tmp_path: Path) -> None:
    names = [f"NORMAL/{n}.png" for n in range(19)]
    for n, name in enumerate(names):
        put(tmp_path, name, noise(n))
    (tmp_path / "metadata.csv").write_text("\n".join(["filename", *names, "NORMAL/gone.png"]))
    assert scanned(tmp_path).refused["path"].tolist() == ["NORMAL/gone.png"]


def test_nothing_but_refused_files_is_an_error_that_tells_the_cause(tmp_path: Path) -> None:
    put(tmp_path, "NORMAL/a.png", b"")
    with pytest.raises(DataError, match="no usable file; 1 refused, the first because: empty file"):
        scanned(tmp_path)


def test_limits_are_those_that_are_given(tmp_path: Path) -> None:
    put(tmp_path, "NORMAL/a.png", encoded(RAMP))
    put(tmp_path, "NORMAL/b.png", noise(0))
    assert scanned(tmp_path, min_side=70).refused["path"].tolist() == ["NORMAL/b.png"]
    assert scanned(tmp_path, max_megapixels=0.005).refused["path"].tolist() == ["NORMAL/a.png"]


# Rows


def test_every_image_has_one_row_in_the_order_of_ids_and_unknown_is_nan(tmp_path: Path) -> None:
    for n, folder in enumerate(FOLDERS):
        put(tmp_path, f"{folder}/{n}.png", noise(n))
    images = scanned(tmp_path).images
    assert tuple(images.columns) == COLUMNS
    assert images["image_id"].tolist() == sorted(hashlib.sha256(noise(n)).hexdigest()[:16] for n in range(3))
    for column in ("patient_id", "view", "source"):
        assert all(isinstance(value, float) and np.isnan(value) for value in images[column])


def test_dicom_header_tells_patient_and_view_where_nothing_else_does(tmp_path: Path) -> None:
    put(tmp_path, "NORMAL/a.dcm", dicom(PatientID="P-1", ViewPosition="PA"))
    put(tmp_path, "NORMAL/b.dcm", dicom(PatientID="P-2", ViewPosition="AP"))
    put(tmp_path, "NORMAL/c.dcm", dicom(PatientID="anonymous"))
    put(tmp_path, "NORMAL/named.png", dicom(PatientID="P-3", ViewPosition="LL"))
    put(tmp_path, "NORMAL/image.dcm", noise(0))
    (tmp_path / "metadata.csv").write_text("filename,patient_id\nNORMAL/b.dcm,from-table\n")
    found = scanned(tmp_path)
    assert found.refused.empty
    rows = found.images.set_index("path")[["patient_id", "view"]].fillna("-")
    assert rows.loc["NORMAL/a.dcm"].tolist() == ["P-1", "PA"]
    assert rows.loc["NORMAL/b.dcm"].tolist() == ["from-table", "AP"]
    assert rows.loc["NORMAL/c.dcm"].tolist() == ["-", "-"]
    assert rows.loc["NORMAL/named.png"].tolist() == ["P-3", "L"]
    assert rows.loc["NORMAL/image.dcm"].tolist() == ["-", "-"]


def test_ids_survive_renaming_and_moving(tmp_path: Path) -> None:
    for n in range(6):
        put(tmp_path / "old", f"{FOLDERS[n % 3]}/{n}.png", noise(n))
        put(tmp_path / "new", f"train/{FOLDERS[n % 3]}/image{9 - n}.png", noise(n))
    old, new = scanned(tmp_path / "old"), scanned(tmp_path / "new")
    columns = ["image_id", "label", "sha256"]
    assert old.images[columns].equals(new.images[columns])
    assert old.sha256 == new.sha256


def test_later_copies_of_a_file_have_numbered_ids_in_the_order_of_paths(tmp_path: Path) -> None:
    for path in ("NORMAL/b.png", "PNEUMONIA/c.png", "NORMAL/a.png"):
        put(tmp_path, path, noise(0))
    images = scanned(tmp_path).images.set_index("path")["image_id"]
    sha = hashlib.sha256(noise(0)).hexdigest()[:16]
    assert images.to_dict() == {"NORMAL/a.png": sha, "NORMAL/b.png": f"{sha}-2", "PNEUMONIA/c.png": f"{sha}-3"}


def test_duplicates_names_paths_and_classes_of_equal_files_alone(tmp_path: Path) -> None:
    for path in ("NORMAL/a.png", "PNEUMONIA/b.png"):
        put(tmp_path, path, noise(0))
    put(tmp_path, "NORMAL/c.png", noise(1))
    sha = hashlib.sha256(noise(0)).hexdigest()
    expected = [(sha, ["NORMAL/a.png", "PNEUMONIA/b.png"], ["Normal", "Pneumonia"])]
    assert duplicates(scanned(tmp_path).images) == expected


# The hash


def test_hash_changes_with_what_the_data_say_and_not_with_the_order_of_rows(tmp_path: Path) -> None:
    for n, folder in enumerate(FOLDERS):
        put(tmp_path, f"{folder}/person{n}_virus_1.png", noise(n))
    images = scanned(tmp_path).images
    order = list(range(3))
    random.Random(1).shuffle(order)
    assert manifest_hash(images.iloc[order]) == manifest_hash(images)
    for column, value in (("sha256", "0" * 64), ("label", "COVID-19"), ("patient_id", "x"), ("view", "PA")):
        rows = images.index[images[column] != value]
        changed = images.copy()
        changed.loc[rows[0], column] = value
        assert manifest_hash(changed) != manifest_hash(images), column


# Files that changed


def test_changed_and_absent_files_are_found_and_the_others_pass(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path, f"NORMAL/{n}.png", noise(n))
    images = scanned(tmp_path).images
    assert check_files(images, tmp_path, progress=False) == []
    stored = tmp_path / "NORMAL/2.png"
    times = stored.stat()
    data = bytearray(stored.read_bytes())
    data[-20] ^= 1
    stored.write_bytes(bytes(data))
    os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))  # neither size nor time tells
    (tmp_path / "NORMAL/4.png").unlink()
    found = {Path(error.path).name: error for error in check_files(images, tmp_path, progress=False)}
    assert set(found) == {"2.png", "4.png"}
    assert "does not match the manifest's sha256" in found["2.png"].cause
    assert "No such file" in found["4.png"].cause
    assert all("prepare" in error.remedy for error in found.values())


def test_files_are_read_again_only_if_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        put(tmp_path, f"NORMAL/{n}.png", noise(n))
    images, record = scanned(tmp_path).images, tmp_path / "checked.json"
    read: list[str] = []
    digest = hashlib.file_digest

    def count(stream: Any, name: str) -> Any:
        read.append(Path(stream.name).name)
        return digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", count)

    def check(verify: bool = False) -> tuple[list[str], list[str]]:
        read.clear()
        errors = check_files(images, tmp_path, record=record, verify=verify, progress=False)
        return sorted(read), sorted(Path(error.path).name for error in errors)

    everything = [f"{n}.png" for n in range(4)]
    # Files that were written a moment ago may be written again within the same tick of the clock.
    assert check() == check() == (everything, [])
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)
    assert check() == (everything, [])
    assert check() == ([], [])
    assert check(verify=True) == (everything, [])
    # The same bytes again, other bytes of the same size and time, and another file of that name.
    one, two, three = (tmp_path / f"NORMAL/{n}.png" for n in (1, 2, 3))
    os.utime(one)
    times, data = two.stat(), bytearray(two.read_bytes())
    data[-20] ^= 1
    two.write_bytes(bytes(data))
    os.utime(two, ns=(times.st_atime_ns, times.st_mtime_ns))
    shutil.copy2(tmp_path / "NORMAL/0.png", tmp_path / "copy.png")
    (tmp_path / "copy.png").replace(three)
    assert check() == (["1.png", "2.png", "3.png"], ["2.png", "3.png"])
    # What was found once is found again.
    assert check() == (["2.png", "3.png"], ["2.png", "3.png"])
    record.write_text("damaged")
    assert check() == (everything, ["2.png", "3.png"])


def test_a_valid_image_in_place_of_another_is_found(tmp_path: Path) -> None:
    for n in range(2):
        put(tmp_path, f"NORMAL/{n}.png", noise(n))
    images = scanned(tmp_path).images
    shutil.copy(tmp_path / "NORMAL/0.png", tmp_path / "NORMAL/1.png")
    assert [Path(error.path).name for error in check_files(images, tmp_path, progress=False)] == ["1.png"]


@pytest.mark.parametrize("view", ["LL", "LATERAL", "RL"])
def test_rules_see_the_view_of_the_header_and_that_of_the_table_first(tmp_path: Path, view: str) -> None:
    put(tmp_path, "NORMAL/a.dcm", dicom(ViewPosition=view))
    put(tmp_path, "NORMAL/b.dcm", dicom(ViewPosition="PA", PatientID="1"))
    put(tmp_path, "NORMAL/c.dcm", dicom(ViewPosition=view, PatientID="2"))
    (tmp_path / "metadata.csv").write_text("filename,view\nNORMAL/b.dcm,Lateral\nNORMAL/c.dcm,AP\n")
    seen: dict[str, str | None] = {}

    def rules(image: Radiograph) -> list[str]:
        seen[image.facts.sha256] = image.view
        return ["lateral", "dark"] if image.view == "L" else []

    images = scan(folder_source(tmp_path), max_megapixels=64, min_side=64, rules=rules, progress=False).images
    flags = images.set_index("path")["flags"]
    assert flags.fillna("").to_dict() == {
        "NORMAL/a.dcm": "lateral;dark",
        "NORMAL/b.dcm": "lateral;dark",
        "NORMAL/c.dcm": "",
    }
    assert [seen[sha] for sha in images.sort_values("path")["sha256"]] == ["L", "L", "AP"]


def test_an_image_that_passes_a_limit_is_named_and_the_others_stay(tmp_path: Path) -> None:
    for n in range(6):
        put(tmp_path, f"{FOLDERS[n % 3]}/{n}.png", noise(n))
    before = scanned(tmp_path)
    put(tmp_path, "NORMAL/2b.png", hostile.png_large(5000))
    found = scan(folder_source(tmp_path), max_megapixels=64, min_side=64, limits={"max_memory": 0.25}, progress=False)
    assert found.refused[["path", "cause"]].to_numpy().tolist() == [["NORMAL/2b.png", "needed more than 0.25 GB"]]
    assert found.images.equals(before.images)


def test_dicom_without_its_first_132_bytes_is_prepared_with_its_patient(tmp_path: Path) -> None:
    put(tmp_path, "NORMAL/image.dcm", dicom(PatientID="p7", ViewPosition="PA")[132:])
    image = scanned(tmp_path).images.iloc[0]
    assert (image["path"], image["patient_id"], image["view"]) == ("NORMAL/image.dcm", "p7", "PA")
