"""Images as the input gate receives them: the pixels of `read_image`, with colour and view."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from covidnet.base.errors import ImageRefusedError
from covidnet.data.reading.images import decode_radiograph, inspect_image, read_image, read_radiograph

RAMP = np.add.outer(np.arange(80), np.arange(96)).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
@pytest.mark.parametrize("picture", [RAMP, COLOUR], ids=["grey", "colour"])
def test_a_radiograph_has_the_pixels_and_facts_of_the_other_readers(
    tmp_path: Path, suffix: str, picture: np.ndarray
) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(picture).save(path)
    image = read_radiograph(path)
    assert np.array_equal(image.pixels, read_image(path))
    assert image.pixels.flags.writeable
    assert image.pixels.flags.c_contiguous
    assert image.facts == inspect_image(path)
    assert image.view is None
    assert (image.colour > 0.5) == (picture is COLOUR)


@pytest.mark.parametrize("kind", ["P", "CMYK", "RGBA", "YCbCr"])
def test_colour_is_measured_however_it_is_stored(kind: str) -> None:
    image = Image.fromarray(COLOUR).convert(kind)
    data = saved(image, "TIFF" if kind in ("CMYK", "YCbCr") else "PNG")
    assert decode_radiograph(data, "image").colour > 0.5
    grey = Image.fromarray(RAMP).convert(kind)
    data = saved(grey, "TIFF" if kind in ("CMYK", "YCbCr") else "PNG")
    assert decode_radiograph(data, "image").colour == 0


def test_transparent_pixels_have_no_colour() -> None:
    alpha = np.zeros_like(RAMP)
    alpha[:4] = 255
    data = saved(Image.fromarray(np.dstack([COLOUR, alpha])), "PNG")
    assert decode_radiograph(data, "image.png").colour <= 0.1


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_modes_have_no_colour(mode: str) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16) * 256) if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    assert decode_radiograph(saved(image, "PNG"), "image.png").colour == 0


def test_a_dicom_image_has_its_view_and_its_colour() -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset

    def image(values: np.ndarray, view: str | None) -> bytes:
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        header.SOPClassUID, header.SOPInstanceUID, header.Modality = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4", "CR"
        header.Rows, header.Columns = values.shape[:2]
        header.SamplesPerPixel = 1 if values.ndim == 2 else 3
        header.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
        if values.ndim == 3:
            header.PlanarConfiguration = 0
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit, header.PixelRepresentation = 7, 0
        if view is not None:
            header.ViewPosition = view
        header.PixelData = values.tobytes()
        header["PixelData"].VR = "OB"
        file = io.BytesIO()
        header.save_as(file, enforce_file_format=True)
        return file.getvalue()

    assert [decode_radiograph(image(RAMP, view), "image.dcm").view for view in ("PA", "LL", "LATERAL", "", None)] == [
        "PA",
        "L",
        "L",
        None,
        None,
    ]
    assert decode_radiograph(image(RAMP, "PA"), "image.dcm").colour == 0
    assert decode_radiograph(image(COLOUR, "PA"), "image.dcm").colour > 0.5
    assert np.array_equal(decode_radiograph(image(RAMP, "PA"), "image.dcm").pixels, RAMP)


@pytest.mark.parametrize("data", [b"", b"<html>", saved(Image.fromarray(RAMP), "PNG")[:-20]])
def test_bad_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(ImageRefusedError) as caught:
        decode_radiograph(data, "upload")
    assert caught.value.path == "upload"
    assert caught.value.remedy


def test_limits_are_applied(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "image.png")
    with pytest.raises(ImageRefusedError, match="too small"):
        read_radiograph(tmp_path / "image.png", min_side=100)
    with pytest.raises(ImageRefusedError, match="too large"):
        read_radiograph(tmp_path / "image.png", max_megapixels=0.001)
    with pytest.raises(ImageRefusedError, match="no such file"):
        read_radiograph(tmp_path / "other.png")
