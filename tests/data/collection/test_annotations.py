"""Masks and boxes are matched to images, mapped to the pixel, and refused if they do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from covidnet.base.errors import DataError
from covidnet.data.collection.annotations import Annotations
from covidnet.data.loading.transforms import FITS, SquareFit
from covidnet.data.phantoms.phantom import write_phantoms
from covidnet.data.reading.images import read_image

SHAPE = (80, 100)


def square(top: int = 20, left: int = 30, height: int = 24, width: int = 16) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def grey(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def csv(root: Path, text: str, images: tuple[str, ...] = ("a.png",)) -> Path:
    for image in images:
        save(root / image, grey(square()))
    file = root / "boxes.csv"
    file.write_text(text, encoding="utf-8")
    return file


# Where they are


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("set") / "phantoms"
    return root, write_phantoms(root, images_per_class=11, size=64, workers=1)


def test_every_phantom_has_lungs_with_its_lesions_inside(phantoms: tuple[Path, pd.DataFrame]) -> None:
    root, images = phantoms
    annotations = Annotations(root)
    assert annotations
    for name, label in zip(images["filename"], images["label"], strict=True):
        shape = read_image(root / name).shape
        found = annotations.regions(name, shape)
        assert set(found) == {"lesion", "lung"}
        assert found["lung"].shape == found["lesion"].shape == shape
        assert found["lung"].dtype == bool
        assert 0.1 < found["lung"].mean() < 0.7
        assert not (found["lesion"] & ~found["lung"]).any()
        assert found["lesion"].any() == (label != "Normal")


def test_a_folder_without_annotations_has_none(tmp_path: Path) -> None:
    save(tmp_path / "Normal/a.png", grey(square()))
    annotations = Annotations(tmp_path)
    assert not annotations
    assert annotations.regions("Normal/a.png", SHAPE) == {}


def test_masks_may_lie_elsewhere_and_know_some_images_only(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/lung/Normal/a.png", grey(square()))
    annotations = Annotations(tmp_path / "images", masks=tmp_path / "elsewhere")
    assert annotations
    assert set(annotations.regions("Normal/a.png", SHAPE)) == {"lung"}
    assert annotations.regions("Normal/b.png", SHAPE) == {}


def test_a_folder_with_neither_lesion_nor_lung_holds_lesions(tmp_path: Path) -> None:
    save(tmp_path / "masks/COVID/a.png", grey(square()))
    found = Annotations(tmp_path).regions("COVID/a.png", SHAPE)
    assert set(found) == {"lesion"}
    assert np.array_equal(found["lesion"], square())


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("x/a.jpg", "x/a.jpg"),
        ("x/a.jpg", "x/a.png"),
        ("x/a.JPG", "x/a.PNG"),
        ("x/a.dcm", "x/a.tif"),
        ("x/a.png", "x/a.bmp"),
        ("x/1.2.840.113", "x/1.2.840.113.png"),
        ("x/a.b.png", "x/a.b.jpg"),
    ],
)
def test_the_suffix_may_be_another(tmp_path: Path, image: str, mask: str) -> None:
    save(tmp_path / "masks/lesion" / mask, grey(square()))
    found = Annotations(tmp_path).regions(image, SHAPE)["lesion"]
    # Compression to JPEG moves an edge by a pixel at most.
    assert (found != square()).sum() <= 40


def test_the_mask_of_the_images_own_name_comes_first(tmp_path: Path) -> None:
    save(tmp_path / "masks/lesion/a.bmp", grey(square()))
    save(tmp_path / "masks/lesion/a.png", grey(~square()))
    assert np.array_equal(Annotations(tmp_path).regions("a.bmp", SHAPE)["lesion"], square())


def test_paths_with_backslashes_and_whole_paths_are_understood(tmp_path: Path) -> None:
    save(tmp_path / "masks/lesion/x/a.png", grey(square()))
    image = save(tmp_path / "x/a.png", grey(~square()))
    annotations = Annotations(tmp_path)
    for path in ("x/a.png", "x\\a.png", Path("x/a.png"), image):
        assert np.array_equal(annotations.regions(path, SHAPE)["lesion"], square())


def test_a_image_outside_the_root_is_not_its_own_mask(tmp_path: Path) -> None:
    save(tmp_path / "root/masks/lesion/a.png", grey(square()))
    image = save(tmp_path / "a.png", grey(square()))
    assert Annotations(tmp_path / "root").regions(image, SHAPE) == {}


def test_what_is_given_and_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.masks=.*nowhere: no such folder; give the folder"):
        Annotations(tmp_path, masks=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data\.boxes=.*none\.csv: no such file; give a CSV"):
        Annotations(tmp_path, boxes=tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        Annotations(tmp_path, boxes=tmp_path)
    file = csv(tmp_path, "filename,x,y,width,height\n")
    with pytest.raises(DataError, match="is a file"):
        Annotations(tmp_path, masks=file)


@pytest.mark.parametrize("images", [None, ("sub/a.png", "sub/b.dcm")])
def test_masks_of_none_of_the_images_are_refused_with_an_example(
    tmp_path: Path, images: tuple[str, ...] | None
) -> None:
    save(tmp_path / "images/sub/a.png", grey(square()))
    # One folder too deep: the likely slip.
    save(tmp_path / "known/lesion/images/sub/a.png", grey(square()))
    with pytest.raises(
        DataError, match=r"no mask for any of the \d images, for example .*known/lesion/sub/a\.png; mirror the"
    ):
        Annotations(tmp_path / "images", masks=tmp_path / "known", images=images)
    # Found by itself it is no mistake.
    (tmp_path / "known").rename(tmp_path / "images/masks")
    assert Annotations(tmp_path / "images", images=images).regions("sub/a.png", SHAPE) == {}


def test_masks_of_some_of_the_images_are_enough(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "images" / name, grey(square()))
    save(tmp_path / "known/b.png", grey(square()))
    for images in (None, ["a.png", "b.png"]):
        assert Annotations(tmp_path / "images", masks=tmp_path / "known", images=images)
    with pytest.raises(DataError, match=r"any of the 1 images, for example .*known/a\.png"):
        Annotations(tmp_path / "images", masks=tmp_path / "known", images=["a.png"])


def test_boxes_of_none_of_the_images_are_refused_with_an_example(tmp_path: Path) -> None:
    file = csv(tmp_path, "filename,x,y,width,height\na.png,1,1,1,1\n", ("a.png", "b.png"))
    with pytest.raises(DataError, match=r"boxes\.csv: no row for any of the 1 images, for example b\.png"):
        Annotations(tmp_path, boxes=file, images=["b.png"])
    assert Annotations(tmp_path, boxes=file, images=["b.png", "a.png"])
    assert Annotations(tmp_path, images=["b.png"])


# Masks


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_a_mask_of_any_mode_is_read(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(grey(square()))
    if mode == "I;16":
        image = Image.fromarray(square().astype(np.uint16) * 40000)
    elif mode == "P":
        image = Image.fromarray(square().astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 128] + [255] * 762)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    (tmp_path / "masks/lesion").mkdir(parents=True)
    image.save(tmp_path / "masks/lesion/a.tif")
    assert np.array_equal(Annotations(tmp_path).regions("a.png", SHAPE)["lesion"], square())


@pytest.mark.parametrize("inside", [1, 2, 255])
def test_inside_is_above_half_of_the_brightest(tmp_path: Path, inside: int) -> None:
    save(tmp_path / "masks/lesion/a.png", square().astype(np.uint8) * np.uint8(inside))
    assert np.array_equal(Annotations(tmp_path).regions("a.png", SHAPE)["lesion"], square())


def test_the_noise_of_jpeg_is_not_inside(tmp_path: Path) -> None:
    save(tmp_path / "masks/lesion/a.jpg", grey(square()), quality=60)
    found = Annotations(tmp_path).regions("a.jpg", SHAPE)["lesion"]
    assert (found != square()).sum() <= 8


def test_a_black_mask_is_known_to_be_empty(tmp_path: Path) -> None:
    save(tmp_path / "masks/lesion/a.png", grey(square()) * 0)
    found = Annotations(tmp_path).regions("a.png", SHAPE)
    assert set(found) == {"lesion"}
    assert not found["lesion"].any()


def test_what_is_transparent_is_outside(tmp_path: Path) -> None:
    pixels = np.full((*SHAPE, 4), 255, np.uint8)
    pixels[..., 3] = grey(square())
    save(tmp_path / "masks/lesion/a.png", pixels)
    assert np.array_equal(Annotations(tmp_path).regions("a.png", SHAPE)["lesion"], square())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_image_is(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    corner = np.zeros(SHAPE, bool)
    corner[:20, :70] = True
    image = save(tmp_path / "a.png", grey(corner), exif=exif)
    save(tmp_path / "masks/lesion/a.png", grey(corner), exif=exif)
    shown = read_image(image)
    assert np.array_equal(Annotations(tmp_path).regions("a.png", shown.shape)["lesion"], shown > 127)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    save(tmp_path / "masks/lung/a.png", grey(square()))
    with pytest.raises(DataError, match=r"a\.png: 100 x 80 pixels, the image has 200 x 160; save the mask at the size"):
        Annotations(tmp_path).regions("a.png", (160, 200))


def test_a_mask_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "masks/lesion/a.png", grey(square()))
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"a\.png: not a readable mask .*; save it as PNG"):
        Annotations(tmp_path).regions("a.png", SHAPE)
    save(tmp_path / "masks/lesion/b.tif", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(DataError, match="not finite"):
        Annotations(tmp_path).regions("b.png", SHAPE)


# Boxes


def test_boxes_of_a_image_are_joined_in_pixels_of_the_image(tmp_path: Path) -> None:
    csv(tmp_path, "filename,x,y,width,height\na.png,30,20,16,24\na.png,0,0,5,4\n./a.png,99,79,1,1\n")
    expected = square()
    expected[:4, :5] = expected[79, 99] = True
    annotations = Annotations(tmp_path)
    assert annotations
    assert np.array_equal(annotations.regions("a.png", SHAPE)["lesion"], expected)


def test_regions_of_boxes_are_told_apart(tmp_path: Path) -> None:
    csv(tmp_path, "filename,region,x,y,width,height\na.png,lung,1,2,3,4\na.png,,30,20,16,24\na.png,Lung,50,50,1,1\n")
    found = Annotations(tmp_path).regions("a.png", SHAPE)
    assert np.array_equal(found["lesion"], square())
    assert found["lung"].sum() == 13


def test_boxes_and_masks_of_a_image_are_joined(tmp_path: Path) -> None:
    csv(tmp_path, "filename,x,y,width,height\nx\\a.png,0,0,5,4\n", ("x/a.png",))
    save(tmp_path / "masks/lesion/x/a.png", grey(square()))
    expected = square()
    expected[:4, :5] = True
    assert np.array_equal(Annotations(tmp_path).regions("x/a.png", SHAPE)["lesion"], expected)


def test_boxes_may_lie_elsewhere(tmp_path: Path) -> None:
    file = csv(tmp_path, "filename,x,y,width,height\na.png,30,20,16,24\n").rename(tmp_path / "other.csv")
    assert not Annotations(tmp_path)
    assert np.array_equal(Annotations(tmp_path, boxes=file).regions("a.png", SHAPE)["lesion"], square())


def test_a_row_without_numbers_says_that_there_is_no_lesion(tmp_path: Path) -> None:
    csv(tmp_path, "filename,x,y,width,height\n\na.png,,,,\nb.png,1,1,2,2\n", ("a.png", "b.png", "c.png"))
    annotations = Annotations(tmp_path)
    assert not annotations.regions("a.png", SHAPE)["lesion"].any()
    assert annotations.regions("b.png", SHAPE)["lesion"].any()
    assert annotations.regions("c.png", SHAPE) == {}


def test_fractions_of_pixels_are_taken_whole(tmp_path: Path) -> None:
    csv(tmp_path, "filename,x,y,width,height\na.png,30.4,20.9,15.2,22.5\n")
    assert np.array_equal(Annotations(tmp_path).regions("a.png", SHAPE)["lesion"], square())


def test_a_box_is_cut_at_the_images_edge_and_refused_beyond(tmp_path: Path) -> None:
    boxes = {"a": "-10,60,20,20", "b": "100,0,5,5", "c": "-5,0,5,5", "d": "-10,70,20,30", "e": "90,70,20,21"}
    names = tuple(f"{name}.png" for name in boxes)
    rows = "".join(f"{name}.png,{box}\n" for name, box in boxes.items())
    csv(tmp_path, f"filename,x,y,width,height\n{rows}", names)
    annotations = Annotations(tmp_path)
    # Half of it is on the image.
    assert np.array_equal(annotations.regions("a.png", SHAPE)["lesion"], square(60, 0, 20, 10))
    for name in ("b.png", "c.png"):
        with pytest.raises(DataError, match=rf"{name}: the box x=.* is outside the image of 100 x 80 pixels; give"):
            annotations.regions(name, SHAPE)
    for name in ("d.png", "e.png"):
        with pytest.raises(DataError, match=rf"{name}: the box x=.* has more than half of its area outside the image"):
            annotations.regions(name, SHAPE)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "filename,x,y,width\na.png,1,1,1\n",
            "no column height; its columns are filename, x, y, width; expected are filename,x,y,width,height",
        ),
        ("name;left;y;width;height\na.png;1;1;1;1\n", "no column filename, x; its columns are name, left, y, "),
        ("filename,x,y,width,height\na.png,1,1,1,1\na.png,1,one,1,1\n", "line 3: x=1, y=one, width=1, height=1; give"),
        ("filename,x,y,width,height\na.png,1,1,-1,1\n", "line 2: .*width=-1"),
        ("filename,x,y,width,height\n\na.png,1,1,1,0\n", "line 3: .*height=0"),
        ("filename,x,y,width,height\na.png,1,1,1\n", "line 2: .*height="),
        ("filename,x,y,width,height\na.png,1,1,1,inf\n", "line 2: .*height=inf"),
        ("filename,x,y,width,height\n,1,1,1,1\n", "line 2: no filename"),
        ("filename,x,y,width,height,region\na.png,1,1,1,1,heart\n", "region 'heart'; must be one of lesion, lung"),
        ("filename,x,y,width,height\nz.png,1,1,1,1\n", r"none of its 1 images is below .*, for example z\.png; give"),
        ("", "not a readable CSV"),
    ],
)
def test_a_table_that_is_not_as_described_is_refused(tmp_path: Path, text: str, cause: str) -> None:
    csv(tmp_path, text)
    with pytest.raises(DataError, match=rf"boxes\.csv.*{cause}"):
        Annotations(tmp_path)


def test_boxes_of_some_absent_images_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    csv(tmp_path, "filename,x,y,width,height\na.png,1,1,1,1\nz.png,1,1,1,1\n")
    with caplog.at_level(logging.WARNING):
        Annotations(tmp_path)
    assert "1 of 2 images are not below" in caplog.text
    assert "z.png" in caplog.text


# In the network's square


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("shape", [(160, 200), (200, 150)])
def test_a_mask_comes_to_lie_where_its_image_does(tmp_path: Path, fit: str, size: int, shape: tuple[int, int]) -> None:
    bright = np.zeros(shape, np.uint8)
    bright[40:90, 60:120] = 255
    image = save(tmp_path / "a.png", bright)
    save(tmp_path / "masks/lesion/a.png", bright)
    csv_file = tmp_path / "boxes.csv"
    csv_file.write_text("filename,x,y,width,height,region\na.png,60,40,60,50,lung\n", encoding="utf-8")
    geometry = SquareFit(size, fit)
    shown = read_image(image)
    found = Annotations(tmp_path).fitted("a.png", shown.shape, geometry)
    assert np.array_equal(found["lesion"], geometry(shown) >= 128)
    assert np.array_equal(found["lung"], found["lesion"])
    # The same place by hand, to half a pixel of the square.
    height, width = shape
    down, across = {
        "squash": (size / height, size / width),
        "crop": (size / min(shape),) * 2,
        "pad": (size / max(shape),) * 2,
    }[fit]
    top, left = {
        "squash": (0, 0),
        "crop": (-(height - min(shape)) // 2, -(width - min(shape)) // 2),
        "pad": ((max(shape) - height) // 2, (max(shape) - width) // 2),
    }[fit]
    rows, columns = np.nonzero(found["lesion"])
    expected = [(40 + top) * down, (90 + top) * down, (60 + left) * across, (120 + left) * across]
    assert [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1] == pytest.approx(expected, abs=0.51)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("at", [(300, 500), (0, 200), (1199, 1399), (640, 1001)])
def test_a_lesion_of_one_pixel_does_not_vanish(tmp_path: Path, fit: str, at: tuple[int, int]) -> None:
    mask = np.zeros((1200, 1600), bool)
    mask[at] = True
    save(tmp_path / "masks/lesion/a.png", grey(mask))
    found = Annotations(tmp_path).fitted("a.png", mask.shape, SquareFit(32, fit))["lesion"]
    assert found.sum() == 1
    row, column = (int(part[0]) for part in np.nonzero(found))
    y, x = (at[0] + 0.5) / 1200, (at[1] + 0.5) / 1600
    if fit == "crop":
        x = (at[1] - 200 + 0.5) / 1200
    elif fit == "pad":
        y = (at[0] + 200 + 0.5) / 1600
    assert (row, column) == (int(y * 32), int(x * 32))


def test_a_lesion_that_the_square_leaves_out_is_not_in_it(tmp_path: Path) -> None:
    mask = np.zeros((80, 200), bool)
    mask[:, :50] = True
    save(tmp_path / "masks/lesion/a.png", grey(mask))
    annotations = Annotations(tmp_path)
    assert not annotations.fitted("a.png", mask.shape, SquareFit(32, "crop"))["lesion"].any()
    assert annotations.fitted("a.png", mask.shape, SquareFit(32))["lesion"].mean() == 0.25


def test_a_image_without_lesion_stays_without(tmp_path: Path) -> None:
    save(tmp_path / "masks/lesion/a.png", grey(square()) * 0)
    found = Annotations(tmp_path).fitted("a.png", SHAPE, SquareFit(32))
    assert found["lesion"].shape == (32, 32)
    assert not found["lesion"].any()


def test_a_table_of_boxes_with_semicolons_and_decimal_commas_is_read(tmp_path: Path) -> None:
    plain = csv(tmp_path / "a", "filename,x,y,width,height\na.png,1.5,2,10.25,8\n")
    local = csv(tmp_path / "b", "filename;x;y;width;height\na.png;1,5;2;10,25;8\n")
    boxes = [Annotations(file.parent).regions("a.png", SHAPE)["lesion"] for file in (plain, local)]
    assert boxes[0].any()
    assert np.array_equal(*boxes)
