"""Images that are too dark, too bright or without contrast."""

from __future__ import annotations

import numpy as np
import pytest

from covidnet.data.reading.thumbnails import thumbnail
from covidnet.gate.exposure import Exposure, ExposureLimits, exposure_flag, exposures


def code(values: np.ndarray, limits: ExposureLimits | None = None) -> str | None:
    found = exposure_flag(Exposure.of(np.clip(np.round(values), 0, 255).astype(np.uint8)), limits or ExposureLimits())
    return found.code if found else None


RAMP = np.linspace(0, 255, 64 * 64).reshape(64, 64)


def test_exposures_are_numpys_mean_and_quantiles() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (300, 64, 64), np.uint8)
    thumbnails[::2] //= 7
    flat = thumbnails.reshape(300, -1)
    low, first, third, high = np.quantile(flat, [0.05, 0.25, 0.75, 0.95], axis=1, method="inverted_cdf")
    assert np.allclose(exposures(thumbnails), np.stack([flat.mean(axis=1), low, high, third - first], axis=1))


def test_no_images_have_no_exposures() -> None:
    assert exposures(np.zeros((0, 64, 64), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP, None),
        (0.2 * RAMP, "dark"),
        (255 * (RAMP / 255) ** 8, "dark"),
        (195 + RAMP * 60 / 255, "bright"),
        (4 * RAMP + 100, "bright"),
        (120 + 0.05 * RAMP, "flat"),
    ],
)
def test_faults_of_a_ramp_are_told_apart(values: np.ndarray, expected: str | None) -> None:
    assert code(values) == expected


def test_every_flag_says_what_to_do() -> None:
    flag = exposure_flag(Exposure(20, 0, 50, 30), ExposureLimits())
    assert flag is not None
    assert flag.refuses
    assert flag.text.startswith("too dark: mean grey 20 of 255")
    assert "; export it again" in flag.text


def test_phantoms_are_well_exposed(phantoms: list[np.ndarray]) -> None:
    assert {code(thumbnail(image)) for image in phantoms} == {None}


def test_images_of_one_source_do_not_make_another_source_wrong() -> None:
    alike = exposures(np.tile(RAMP.astype(np.uint8), (100, 1, 1)))
    limits = ExposureLimits.of(alike, 0.001)
    assert code(0.6 * RAMP, limits) is None
    assert code(80 + 0.65 * RAMP, limits) is None


def test_dark_training_images_are_not_too_dark() -> None:
    dark = np.tile(0.25 * RAMP, (100, 1, 1)) + np.random.default_rng(0).uniform(0, 5, (100, 1, 1))
    limits = ExposureLimits.of(exposures(dark.astype(np.uint8)), 0.001)
    assert code(0.25 * RAMP) == "dark"
    assert code(0.25 * RAMP, limits) is None
