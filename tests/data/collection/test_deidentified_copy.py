"""The round trip of a folder of DICOM files: no identifier is left in any byte, and the copy can be used."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    generate_uid,
)

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError, ImageRefusedError, SettingError
from covidnet.data.collection.deidentified_copy import DeidentifiedCopy, deidentified_copy, read_key
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.deidentified import Pseudonyms, deidentified
from covidnet.data.reading.dicom import QUIET
from covidnet.launch.command import compose
from tests.data.reading.test_dicom import image, written

FILES = 50
FAMILIES = ("Quackenbush", "Wetherspoon", "Müllerschön", "Szczepański", "Zwetschgenkuchen", "Featherstone",
            "Ngozi Oyelaran", "Brzęczyszczykiewicz", "Abernathy", "Vandersloot")  # fmt: skip
NAMES = ("PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician",
         "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "OtherPatientNames", "PatientMotherBirthName",
         "PatientBirthName", "ResponsiblePerson", "ScheduledPerformingPhysicianName",
         "ConsultingPhysicianName")  # fmt: skip
TEXTS = ("InstitutionName", "InstitutionAddress", "StudyDescription", "SeriesDescription", "PatientComments",
         "ImageComments", "AdditionalPatientHistory", "StationName", "ProtocolName", "RequestedProcedureDescription",
         "PatientAddress", "Manufacturer", "DeviceSerialNumber", "DerivationDescription")  # fmt: skip


def made(number: int) -> tuple[bytes, list[str]]:
    """A radiograph of patient `number` modulo 10, and every text in it that identifies the patient."""
    patient = number % len(FAMILIES)
    family, given = FAMILIES[patient], f"Hieronymus{patient}"
    mrn, accession, phone = f"MRN{7130000 + patient}", f"ACC{88120000 + number}", f"+49301234{patient:04}"
    pixels = drawn(patient)
    header = image(pixels, 12)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
    header.StudyInstanceUID = generate_uid(entropy_srcs=[str(patient)])
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    for name in NAMES:
        setattr(header, name, f"{family}^{given}")
    for name in TEXTS:
        setattr(header, name, f"for {family} {given}, {mrn}")
    header.PatientID, header.AccessionNumber, header.OtherPatientIDs = mrn, accession, [f"X{mrn}", mrn]
    header.PatientBirthDate, header.PatientSex, header.PatientAge = f"194{patient}0317", "F", "077Y"
    header.PatientTelephoneNumbers = phone
    day = datetime(2021, 5, 1, 23, 30) + timedelta(days=3 * (number // len(FAMILIES)))
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(header, f"{name}Date", f"{day:%Y%m%d}")
        setattr(header, f"{name}Time", f"{day:%H%M%S}.125")
    header.AcquisitionDateTime = f"{day:%Y%m%d%H%M%S}"
    header.ViewPosition, header.BodyPartExamined, header.WindowCenter = "PA", "CHEST", 2048
    header.ImageType, header.KVP, header.WindowWidth = ["ORIGINAL", "PRIMARY"], 120, 4096
    block = header.private_block(0x0019, f"VENDOR {family}"[:60], create=True)
    block.add_new(1, "LO", f"{given} {family}")
    block.add_new(2, "OB", f"{mrn} {family}".encode())
    block.add_new(3, "UN", f"{accession}".encode())
    inner = Dataset()
    inner.PatientName, inner.PatientID, inner.TextValue = f"{family}^{given}", mrn, f"seen by {family}"
    inner.add_new(0x00190010, "LO", "INNER")
    inner.add_new(0x00191001, "LO", f"{given} {family}")
    outer = Dataset()
    outer.ReferencedSOPInstanceUID, outer.ReferencedSOPClassUID = header.SOPInstanceUID, header.SOPClassUID
    outer.RequestAttributesSequence = [inner]
    header.RequestAttributesSequence, header.ReferencedImageSequence = [inner, outer], [outer]
    voi = Dataset()
    voi.LUTDescriptor, voi.LUTExplanation, voi.LUTData = (
        [4096, 0, 16],
        f"{family}",
        (16 * np.arange(4096)).astype("<u2").tobytes(),
    )
    header.VOILUTSequence = [voi]
    header.add_new(0x60000010, "US", 8)
    header.add_new(0x60000022, "LO", f"{family}")
    header.add_new(0x60003000, "OW", f"{family:>20.16}".encode())
    header.add_new(0xFFFCFFFC, "OB", f"{family} padding  ".encode())
    if number % 3 == 1:
        compressed(header, pixels, family)
    else:
        header.PixelData += f"{mrn} {family} {given} ".encode()[:40]
    data = written(header)
    data = f"{family:*^128}".encode()[:128] + data[128:]
    identifying = [*family.split(), given, mrn, mrn[3:], accession, accession[3:], phone, header.PatientBirthDate]
    uids = [header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID]
    return data, [*identifying, *uids, f"{day:%Y%m%d}"]


@functools.cache
def drawn(patient: int) -> np.ndarray:
    return np.round(draw_image("Normal", patient, 0, size=128).image / 255.0 * 4095).astype(np.uint16)


def compressed(header: Dataset, pixels: np.ndarray, comment: str) -> None:
    """Replace the pixels by JPEG or JPEG 2000 with a comment."""
    file = io.BytesIO()
    eight = Image.fromarray((pixels >> 4).astype(np.uint8))
    if len(comment) % 2:
        exif = Image.Exif()
        exif[0x010E] = comment
        eight.save(file, "JPEG", comment=comment.encode(), exif=exif)
        header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    else:
        eight.save(file, "JPEG2000", no_jp2=True, irreversible=False, comment=comment.encode("ascii", "replace"))
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit = 7
    header.PixelData = encapsulate([file.getvalue()])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True
    del header.WindowCenter, header.WindowWidth, header.VOILUTSequence


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Fifty files whose names, folders and table identify patients too, and every identifying text."""
    root = tmp_path_factory.mktemp("hospital") / "originals"
    texts: set[str] = set()
    rows = []
    for number in range(FILES):
        # Values that are too long are usual in hospitals.
        with QUIET:
            data, found = made(number)
        texts |= set(found)
        family = FAMILIES[number % len(FAMILIES)]
        place = root / ("NORMAL" if number % 2 else "covid") / family / f"{family}-{number}.dcm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        if number % 5 == 0:
            rows.append(f"{place.name},MRN{7130000 + number % len(FAMILIES)},PA,clinic of {family}")
    (root / "metadata.csv").write_text("\n".join(["filename,patient_id,view,source", *rows]), encoding="utf-8")
    (root / "NORMAL" / "Quackenbush.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root, texts


def settings(root: Path, *more: str) -> dict[str, object]:
    cfg = compose(("data=folder", f"data.root={root}", *more), "prepare")
    return OmegaConf.to_container(cfg.data, resolve=True)  # type: ignore[return-value]


def copied(root: Path, out: Path, key: Path) -> DeidentifiedCopy:
    return deidentified_copy(settings(root), out, key, CLASSES, limits={}, progress=False)


@pytest.fixture(scope="module")
def copy(originals: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("copies")
    made = copied(originals[0], home / "copy", home / "key")
    assert (made.images, made.patients, made.refused) == (FILES, len(FAMILIES), 1)
    return home / "copy"


def test_no_identifier_is_left_in_any_byte(originals: tuple[Path, set[str]], copy: Path) -> None:
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert len(files) == FILES + 2
    everything = b"\0".join(path.read_bytes() + os.fsencode(path.relative_to(copy)) for path in files)
    upper = everything.upper()
    assert len(originals[1]) > 150
    for text in originals[1]:
        for codec in ("utf-8", "latin-1", "utf-16-le"):
            wanted = text.encode(codec, "ignore")
            assert wanted not in everything, text
            if not text.isdigit():
                assert wanted.upper() not in upper, text
    for word in ("VENDOR", "INNER", "seen by", "clinic", "padding", "Exif"):
        assert word.encode() not in everything, word


def test_the_originals_are_unchanged_and_have_them_all(originals: tuple[Path, set[str]]) -> None:
    # So that the test above would find what it looks for.
    root, texts = originals
    everything = b"".join(path.read_bytes() for path in root.rglob("*.dcm"))
    assert [text for text in texts if text.encode() not in everything] == []


@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_damaged_header_is_refused_or_reveals_nothing_either(number: int) -> None:
    with QUIET:
        data, texts = made(number)
    random = np.random.default_rng(number)
    pixels = data.find(b"\xe0\x7f\x10\x00")
    copies = 0
    for _ in range(30):
        damaged = bytearray(data)
        for place in random.integers(132, pixels, 4):
            damaged[place] = random.integers(256)
        if random.random() < 0.2:
            del damaged[random.integers(132, pixels) :][: random.integers(1, 9)]
        try:
            found, _ = deidentified(bytes(damaged), "image.dcm", Pseudonyms(bytes(32)))
        except ImageRefusedError:
            continue
        copies += 1
        for text in (one.encode() for one in texts if len(one) > 6):
            assert text not in found
    assert copies > 5


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_transfer_syntaxes_are_kept(syntax: UID) -> None:
    values = np.arange(96 * 96, dtype=np.uint16).reshape(96, 96)
    header = image(values, PatientName="Quackenbush", SmallestImagePixelValue=0, StudyInstanceUID="1.2.3")
    header.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        header.PixelData = values.astype(">u2").tobytes()
    copy, _ = deidentified(written(header), "a.dcm", Pseudonyms(bytes(32)))
    found = pydicom.dcmread(io.BytesIO(copy))
    assert found.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(found.pixel_array, values)
    assert found.SmallestImagePixelValue == 0
    assert b"Quackenbush" not in copy


@pytest.mark.parametrize(("study", "remains"), [("1.2.826.0.1.3", False), ("1.2.826.0.1.3680043", True)])
def test_a_uid_is_not_found_within_a_longer_number(study: str, remains: bool) -> None:
    # The library that writes the file has a UID that begins with 1.2.826.0.1.3680043.
    header = image(np.arange(96 * 96, dtype=np.uint16).reshape(96, 96), StudyInstanceUID=study)
    with contextlib.nullcontext() if not remains else pytest.raises(ImageRefusedError, match="or leave it out"):
        deidentified(written(header), "a.dcm", Pseudonyms(bytes(32)))


def headers(copy: Path) -> dict[str, Dataset]:
    return {path.relative_to(copy).as_posix(): pydicom.dcmread(path) for path in copy.rglob("*.dcm")}


def test_the_same_patient_has_one_pseudonym_in_files_folders_and_table(copy: Path) -> None:
    found = headers(copy)
    table = pd.read_csv(copy / "metadata.csv")
    assert list(table) == ["filename", "label", "patient_id", "view", "source"]
    assert dict(zip(table["filename"], table["patient_id"], strict=True)) == {
        name: str(header.PatientID) for name, header in found.items()
    }
    assert all(f"/{header.PatientID}/" in name for name, header in found.items())
    assert table["patient_id"].value_counts().tolist() == [5] * 10
    assert sorted(table["label"].unique()) == ["COVID-19", "Normal"]
    assert table["source"].notna().sum() == 10
    assert table["view"].tolist() == ["PA"] * FILES  # of the header, where the table has none
    assert all(re.fullmatch(r"P[A-Z2-7]{16}", name) for name in table["patient_id"])
    assert {str(header.PatientName) for header in found.values()} == set(table["patient_id"])
    # The five images of a patient are of one study, and each is its own instance.
    for _, rows in table.groupby("patient_id"):
        assert len({found[name].StudyInstanceUID for name in rows["filename"]}) == 1
        assert len({found[name].SOPInstanceUID for name in rows["filename"]}) == 5


def test_dates_are_shifted_by_the_same_hours_for_all_images_of_a_patient(copy: Path) -> None:
    shifts: dict[str, set[timedelta]] = {}
    for header in headers(copy).values():
        moments = [
            datetime.strptime(header[f"{name}Date"].value + header[f"{name}Time"].value[:6], "%Y%m%d%H%M%S")
            for name in ("Study", "Series", "Acquisition", "Content")
        ]
        moments.append(datetime.strptime(header.AcquisitionDateTime, "%Y%m%d%H%M%S"))
        assert len(set(moments)) == 1
        # Three days between two images of a patient, as in the originals.
        shifts.setdefault(header.PatientID, set()).add(moments[0] - datetime(2021, 5, 1, 23, 30))
    assert len({min(found) for found in shifts.values()}) == 10
    for found in shifts.values():
        assert sorted(one - min(found) for one in found) == [timedelta(days=3 * step) for step in range(5)]
        assert timedelta(days=60) < -min(found) < timedelta(days=760)


def test_the_copy_says_what_was_done_and_shows_the_same_image(originals: tuple[Path, set[str]], copy: Path) -> None:
    with QUIET:
        before = sorted(pydicom.dcmread(path).pixel_array.tobytes() for path in originals[0].rglob("*.dcm"))
    found = headers(copy)
    assert sorted(header.pixel_array.tobytes() for header in found.values()) == before
    for header in found.values():
        assert header.PatientIdentityRemoved == "YES"
        codes = [item.CodeValue for item in header.DeidentificationMethodCodeSequence]
        assert codes == ["113100", "113107"]
        assert (header.Modality, header.ViewPosition, header.BodyPartExamined, header.KVP) == ("CR", "PA", "CHEST", 120)
        assert list(header.ImageType) == ["ORIGINAL", "PRIMARY"]
        assert header.PatientBirthDate == header.PatientSex == header.AccessionNumber == ""
        assert not any(element.tag.is_private for element in header.iterall())
        assert "Manufacturer" not in header
        assert "LUTExplanation" not in {element.keyword for element in header.iterall()}
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID


def test_the_key_decides_the_pseudonyms_and_is_only_for_its_owner(
    originals: tuple[Path, set[str]], copy: Path, tmp_path: Path
) -> None:
    root = tmp_path / "one"
    (root / "NORMAL").mkdir(parents=True)
    first = sorted(originals[0].rglob("*-1.dcm"))[0]
    (root / "NORMAL" / first.name).write_bytes(first.read_bytes())
    key = copy.parent / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    copied(root, tmp_path / "again", key)
    copied(root, tmp_path / "other", tmp_path / "new")
    again, other = (pd.read_csv(tmp_path / name / "metadata.csv")["patient_id"][0] for name in ("again", "other"))
    assert again in set(pd.read_csv(copy / "metadata.csv")["patient_id"])
    assert other != again


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "00" * 16])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(SettingError, match=r"key=.*64 hexadecimal digits"):
        read_key(tmp_path / "key")
    (tmp_path / "key").write_text("00" * 32)
    assert read_key(tmp_path / "key") == bytes(32)
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(SettingError, match="only you can read; chmod 600"):
        read_key(tmp_path / "key")


def test_marks_like_text_are_reported_image_by_image(tmp_path: Path) -> None:
    for number, (text, declared) in enumerate([("", "NO"), ("MUSTER ANNA 1944", ""), ("", "YES")]):
        picture = Image.fromarray(draw_image("Normal", number, 0, size=512).image)
        ImageDraw.Draw(picture).text((8, 8), text, fill=255, font_size=22)
        header = image(np.asarray(picture), BurnedInAnnotation=declared, PatientID=f"patient {number}")
        (tmp_path / "in" / "NORMAL").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "NORMAL" / f"{number}.dcm").write_bytes(written(header))
    made = copied(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    assert made.marked == 2
    table = pd.read_csv(tmp_path / "out" / "burnt_in.csv", keep_default_na=False)
    assert sorted(zip(table["corners"], table["header"], strict=True)) == [("", "YES"), ("top left", "")]
    said = {name: header.PatientIdentityRemoved for name, header in headers(tmp_path / "out").items()}
    assert {name for name, value in said.items() if value == "NO"} == set(table["filename"])


def test_a_patient_without_an_id_is_one_per_study(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, study in enumerate(["1.2.3", "1.2.3", "1.2.4"]):
        header = image(np.full((96, 96), 9 + number, np.uint8), PatientID="anonymous", StudyInstanceUID=study)
        header.PixelData = np.random.default_rng(number).integers(0, 255, (96, 96), np.uint8).tobytes()
        (tmp_path / "in" / f"{number}.dcm").write_bytes(written(header))
    made = copied(tmp_path / "in", tmp_path / "out", tmp_path / "key")
    assert (made.images, made.patients) == (3, 2)
    # Without a class they are in a folder of their own.
    assert {name.split("/")[0] for name in headers(tmp_path / "out")} == {"images"}


@pytest.mark.parametrize(
    ("more", "out", "key", "words"),
    [
        ([], "in/copy", "key", "out=.*outside of"),
        ([], ".", "key", "out=.*outside of"),
        ([], "full", "key", "out=.*new or empty"),
        ([], "out", "out/key", "key=.*outside of"),
        (["data.classes=auto"], "out", "key", "data.classes=auto: must be named"),
        (["name=phantom"], "out", "key", "data=phantom: must be folder"),
        (["data.root=nowhere"], "out", "key", "data.root=.*no such folder"),
        ([], "out", "key", "no DICOM radiograph could be copied"),
    ],
)
def test_settings_that_would_mix_or_reveal_are_refused(
    tmp_path: Path, more: list[str], out: str, key: str, words: str
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((99, 99), np.uint8)).save(tmp_path / "in" / "a.png")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.dcm").touch()
    given = settings(tmp_path / "in", *(one for one in more if one.startswith("data.")))
    given |= {"name": "phantom"} if "name=phantom" in more else {}
    classes = None if "data.classes=auto" in more else CLASSES
    with pytest.raises((SettingError, DataError), match=words):
        deidentified_copy(given, tmp_path / out, tmp_path / key, classes, limits={}, progress=False)
    assert not (tmp_path / "in" / "copy").exists()
