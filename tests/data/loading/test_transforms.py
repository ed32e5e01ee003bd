"""Where every pixel of an image ends up in the network's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models import DenseNet121_Weights

from covidnet.base.errors import SettingError
from covidnet.data.loading.transforms import FITS, Normalise, SquareFit
from covidnet.models.backbones import IMAGENET_SPEC
from tests.refusals import refused

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def numbered(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(1, 256, (height, width), np.uint8)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(100, 160), (160, 100), (101, 64), (33, 500), (64, 64)])
def test_result_is_square_grey_of_the_size(fit: str, shape: tuple[int, int]) -> None:
    found = SquareFit(64, fit)(numbered(*shape))
    assert found.shape == (64, 64)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_square_image_of_the_size_stays_as_it_is(fit: str) -> None:
    image = numbered(64, 64)
    assert np.array_equal(SquareFit(64, fit)(image), image)


def test_squash_averages_the_blocks_that_become_one_pixel() -> None:
    image = numbered(3 * 32, 5 * 32)
    means = image.reshape(32, 3, 32, 5).mean(axis=(1, 3))
    assert np.abs(SquareFit(32)(image) - means).max() <= 0.51


@pytest.mark.parametrize(("shape", "top", "left"), [((64, 100), 0, 18), ((101, 64), 18, 0)])
def test_crop_keeps_the_central_square(shape: tuple[int, int], top: int, left: int) -> None:
    image = numbered(*shape)
    assert np.array_equal(SquareFit(64, "crop")(image), image[top : top + 64, left : left + 64])


@pytest.mark.parametrize(("shape", "top", "left"), [((40, 64), 12, 0), ((64, 41), 0, 11)])
def test_pad_keeps_every_pixel_between_black_bars(shape: tuple[int, int], top: int, left: int) -> None:
    image = numbered(*shape)
    expected = np.zeros((64, 64), np.uint8)
    expected[top : top + shape[0], left : left + shape[1]] = image
    assert np.array_equal(SquareFit(64, "pad")(image), expected)


def test_enlarging_interpolates_between_neighbours() -> None:
    image = np.repeat([[10, 20, 30, 40]], 4, axis=0).astype(np.uint8)
    centres = np.clip((np.arange(16) + 0.5) / 4 - 0.5, 0, 3)
    assert np.abs(SquareFit(16)(image) - (10 + 10 * centres)).max() <= 0.51


def test_fine_stripes_average_out_even_where_the_other_side_is_enlarged() -> None:
    stripes = np.zeros((40, 512), np.uint8)
    stripes[:, ::2] = 200
    for image in (stripes, stripes.T):
        assert np.abs(SquareFit(64)(image).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("fit", ["stretch", "", None])
def test_unknown_fit_is_refused_with_the_allowed_ones(fit: object) -> None:
    with refused("data.fit", fit, ("squash", "crop", "pad")):
        SquareFit(64, fit)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 1.5, "224"])
def test_size_that_is_no_count_of_pixels_is_refused(size: object) -> None:
    with pytest.raises(SettingError, match=r"data\.image_size="):
        SquareFit(size)  # type: ignore[arg-type]


def test_normalise_equals_torchvision() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(8, 32)
    road = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    expected = road(Image.fromarray(image).convert("RGB"))
    found = torch.from_numpy(Normalise(*IMAGENET)(image))
    assert found.dtype == torch.float32
    assert found.shape == (3, 8, 32)
    assert found.is_contiguous()
    assert (found - expected).abs().max() <= 1e-6


def test_our_constants_are_those_that_torchvision_gives_its_weights() -> None:
    weights = DenseNet121_Weights.IMAGENET1K_V1.transforms()
    assert (IMAGENET_SPEC.mean, IMAGENET_SPEC.std) == (tuple(weights.mean), tuple(weights.std)) == IMAGENET


def test_one_channel_is_normalised_to_one_channel() -> None:
    assert Normalise((0.5,), (0.5,))(np.array([[0, 255]], np.uint8)).tolist() == [[[-1.0, 1.0]]]


def test_descriptions_tell_transforms_with_other_results_apart() -> None:
    fits = [SquareFit(64), SquareFit(65), SquareFit(64, "crop")]
    scales = [Normalise(*IMAGENET), Normalise((0.5,) * 3, IMAGENET[1]), Normalise(IMAGENET[0], (0.5,) * 3)]
    told = [str(part.describe()) for part in (*fits, *scales)]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64)])
def test_what_lies_on_the_square_comes_back_to_its_place_on_the_image(fit: str, shape: tuple[int, int]) -> None:
    height, width = shape
    image = np.zeros(shape, np.uint8)
    image[height // 2 - 8 : height // 2, width // 2 : width // 2 + 12] = 255
    made = SquareFit(64, fit)
    back = made.back(made(image).astype(np.float32) / 255, shape)
    assert back.shape == shape
    rows, columns = np.nonzero(back > 0.5)
    assert abs(rows.mean() - (height / 2 - 4.5)) < 1
    assert abs(columns.mean() - (width / 2 + 5.5)) < 1
    assert abs((back > 0.5).sum() / 96 - 1) < 0.25


def test_what_crop_left_out_is_zero() -> None:
    back = SquareFit(32, "crop").back(np.ones((32, 32), np.float32), (40, 100))
    assert back[:, 30:70].min() == 1
    assert back[:, :30].max() == back[:, 70:].max() == 0
