"""Images are found however they were transformed, and absent images are not."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.collection.sources import folder_source
from covidnet.data.phantoms.phantom import draw_image
from covidnet.data.reading.images import read_image
from covidnet.data.reading.thumbnails import SIDE, thumbnail
from covidnet.data.recognition import landmarks
from covidnet.data.recognition.alignment import COARSE, coarse_windows, window_matrices, windows
from covidnet.data.recognition.landmarks import LandmarkIndex, Landmarks
from covidnet.data.recognition.overlap import HIGHEST, SIMILARITY, ImageSet, find_copies, find_overlap, likeness_limit

Step = Callable[[np.ndarray], np.ndarray]


def picture(seed: int) -> np.ndarray:
    """A smooth picture with lines, like no other; as unlike as images of different people."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(200, 260, 2)
    noise = rng.normal(size=(3, height // 4, width // 4))
    smooth = sum(cv2.GaussianBlur(one, (0, 0), s) * s for one, s in zip(noise, (1.5, 3.0, 6.0), strict=True))
    smooth = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(smooth, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def saved(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def cropped(top: float, bottom: float, left: float, right: float) -> Step:
    def crop(image: np.ndarray) -> np.ndarray:
        height, width = image.shape
        return image[int(top * height) : int((1 - bottom) * height), int(left * width) : int((1 - right) * width)]

    return crop


def mirrored(image: np.ndarray) -> np.ndarray:
    return image[:, ::-1]


def inverted(image: np.ndarray) -> np.ndarray:
    return 255 - image


def halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def changed(image: np.ndarray) -> np.ndarray:
    return np.clip(255.0 * (image / 255.0) ** 1.3 * 0.8 + 15, 0, 255).astype(np.uint8)


def tilted(degrees: float) -> Step:
    def turn(image: np.ndarray) -> np.ndarray:
        height, width = image.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
        return cv2.warpAffine(image, matrix, (width, height))

    return turn


def bordered(image: np.ndarray) -> np.ndarray:
    height, width = image.shape
    return cv2.copyMakeBorder(image, height // 8, height // 8, width // 6, width // 6, cv2.BORDER_CONSTANT, value=0)


KINDS: dict[str, tuple[Step, ...]] = {
    "near-duplicate": (saved, halved, changed),
    "mirrored": (mirrored,),
    "inverted": (inverted, saved),
    "mirrored and inverted": (mirrored, inverted),
    "cropped": (cropped(0.15, 0.05, 0.0, 0.2),),
    "mirrored and cropped": (cropped(0.0, 0.1, 0.1, 0.0), mirrored),
    "inverted and cropped": (cropped(0.1, 0.1, 0.05, 0.1), inverted, changed),
    "mirrored, inverted and cropped": (mirrored, inverted, cropped(0.0, 0.2, 0.1, 0.1), saved),
    "rotated by 90 degrees": (np.rot90,),
    "tilted": (tilted(7), saved),
    "tilted and mirrored": (mirrored, tilted(-5), changed),
    "bordered": (bordered, saved),
    "bordered and mirrored": (mirrored, bordered),
    "rotated by 180 degrees": (np.rot90, np.rot90),
    "rotated by 270 degrees and mirrored": (mirrored, np.rot90, np.rot90, np.rot90),
}


def small(images: list[np.ndarray], *steps: Step) -> np.ndarray:
    found = []
    for image in images:
        for step in steps:
            image = step(image)
        found.append(thumbnail(np.ascontiguousarray(image)))
    return np.stack(found) if found else np.zeros((0, SIDE, SIDE), np.uint8)


def imageset(pixels: np.ndarray, name: str) -> ImageSet:
    return ImageSet(np.array([f"{name}-{n}" for n in range(len(pixels))], dtype=np.str_), pixels)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [picture(n) for n in range(40)]


@pytest.fixture(scope="module")
def known(images: list[np.ndarray]) -> ImageSet:
    return imageset(small(images), "known")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_copy_is_found_and_named(images: list[np.ndarray], known: ImageSet, kind: str) -> None:
    chosen = list(range(0, 40, 8))
    found = find_overlap(imageset(small([images[n] for n in chosen], *KINDS[kind]), "new"), known, progress=False)
    assert found["image"].tolist() == list(range(5))
    assert found["other"].tolist() == chosen
    assert set(found["kind"]) == {kind}
    assert found["similarity"].between(SIMILARITY, 1.0).all()


def test_images_that_are_not_there_are_not_found(known: ImageSet) -> None:
    random_heads = imageset(small([picture(1000 + n) for n in range(30)]), "new")
    assert find_overlap(random_heads, known, progress=False).empty


def test_a_image_of_which_the_other_shows_a_part_is_uncropped(images: list[np.ndarray], known: ImageSet) -> None:
    parts = imageset(small(images[:6], cropped(0.1, 0.05, 0.1, 0.1)), "part")
    found = find_overlap(imageset(small(images[:6], mirrored), "new"), parts, progress=False)
    assert found["other"].tolist() == list(range(6))
    assert set(found["kind"]) == {"mirrored and uncropped"}


def test_the_same_bytes_are_the_same_file_whatever_else_there_is(images: list[np.ndarray], known: ImageSet) -> None:
    here = ImageSet(np.array(["known-7", "new"]), small([images[7], images[7]]))
    found = find_overlap(here, known, progress=False)
    assert found["kind"].tolist() == ["same file", "near-duplicate"]
    assert found["other"].tolist() == [7, 7]
    assert found["similarity"][0] == 1.0


def test_one_row_for_a_image_that_is_there_twice(images: list[np.ndarray]) -> None:
    twice = imageset(small([images[0], images[0], images[1]]), "known")
    found = find_overlap(imageset(small([images[0]], mirrored), "new"), twice, progress=False)
    assert len(found) == 1
    assert found["other"].item() in (0, 1)


@pytest.mark.parametrize(("here", "there"), [(0, 3), (3, 0), (0, 0), (3, 1)])
def test_few_images_or_none_are_no_error(images: list[np.ndarray], here: int, there: int) -> None:
    found = find_overlap(
        imageset(small(images[:here]), "a"), imageset(small(images[3 : 3 + there]), "b"), progress=False
    )
    assert found.empty
    assert list(found.columns) == ["image", "other", "kind", "similarity"]


def test_images_without_a_picture_are_not_like_each_other() -> None:
    flat = np.stack([np.full((SIDE, SIDE), n, np.uint8) for n in range(8)])
    assert find_overlap(imageset(flat[:4], "a"), imageset(flat[4:], "b"), progress=False).empty


# Within one set


def test_copies_within_a_set_are_pairs_and_no_image_is_its_own_copy(images: list[np.ndarray]) -> None:
    pixels = np.concatenate(
        [small(images[:20]), small([images[3]], mirrored), small([images[8]], cropped(0, 0.1, 0.1, 0))]
    )
    hashes = np.array([f"f-{n}" for n in range(22)])
    hashes[12] = hashes[2]
    found = find_copies(ImageSet(hashes, pixels), progress=False)
    assert found[["image", "other"]].to_numpy().tolist() == [[2, 12], [3, 20], [8, 21]]
    assert found["kind"].tolist() == ["same file", "mirrored", "cropped"]


def test_tilted_and_bordered_copies_within_a_set_are_pairs(images: list[np.ndarray]) -> None:
    copies = [small([images[3]], tilted(-8)), small([images[5]], bordered), small([images[7]], tilted(4), inverted)]
    found = find_copies(imageset(np.concatenate([small(images[:20]), *copies]), "a"), progress=False)
    assert found[["image", "other"]].to_numpy().tolist() == [[3, 20], [5, 21], [7, 22]]
    assert found["kind"].tolist() == ["tilted", "bordered", "tilted and inverted"]


def test_a_image_that_is_its_own_mirror_image_is_no_copy() -> None:
    half = picture(5)[:, :100]
    whole = np.concatenate([half, half[:, ::-1]], axis=1)
    assert find_copies(imageset(small([whole, picture(6), picture(7)]), "a"), progress=False).empty


@pytest.mark.slow
def test_the_copies_of_one_image_are_one_group_however_many_there_are(images: list[np.ndarray]) -> None:
    """Each family fills all places of candidates with its own members, and hides the other families."""
    families = ((), (mirrored,), (cropped(0.1, 0.1, 0.05, 0.1),), (inverted, cropped(0.0, 0.15, 0.15, 0.0)))
    rng, pixels, shown = np.random.default_rng(0), [], []
    for n in range(2):
        for steps in families:
            for _ in range(8):
                values = np.clip(images[n] * rng.uniform(0.85, 1.1) + rng.uniform(-10, 10), 0, 255)
                pixels.append(small([values.astype(np.uint8)], *steps, saved)[0])
                shown.append(n)
    pixels += list(small(images[2:12]))
    shown += range(2, 12)
    pairs = find_copies(imageset(np.stack(pixels), "a"), progress=False)
    edges = coo_array((np.ones(len(pairs)), (pairs["image"], pairs["other"])), shape=(len(shown), len(shown)))
    groups = connected_components(edges, directed=False)[1]
    assert len({*zip(groups, shown, strict=True)}) == len(set(groups)) == len(set(shown)) == 12


# The limit


def test_the_limit_is_that_of_images_of_different_people(known: ImageSet) -> None:
    assert likeness_limit(known) == SIMILARITY
    assert likeness_limit(imageset(known.pixels[:1], "a")) == SIMILARITY


def test_copies_within_the_set_do_not_raise_the_limit(images: list[np.ndarray]) -> None:
    some = imageset(np.concatenate([small(images), small(images[:10], mirrored)]), "a")
    assert likeness_limit(some) == SIMILARITY


@pytest.mark.slow
def test_drawn_images_are_more_alike_so_that_the_limit_is_higher() -> None:
    pixels = [draw_image(CLASSES[n % 3], n, 0, size=96).image for n in range(40)]
    drawn = imageset(small(pixels[:20]), "a")
    assert SIMILARITY < likeness_limit(drawn) <= HIGHEST
    others = imageset(small(pixels[20:]), "b")
    assert find_overlap(others, drawn, progress=False).empty
    copies = imageset(small(pixels[:20], mirrored), "c")
    assert len(find_overlap(copies, drawn, progress=False)) == 20


def test_real_images_are_found_and_those_of_other_patients_are_not(kit: Path) -> None:
    source = folder_source(kit)
    rows = source.files.groupby("patient_id").head(1).iloc[::10].head(45)
    pixels = [read_image(source.root / path) for path in rows["path"]]
    known = imageset(small(pixels[:30]), "known")
    steps = (mirrored, cropped(0.1, 0.05, 0.0, 0.15), changed, saved)
    found = find_overlap(imageset(small(pixels[:30], *steps), "copy"), known, progress=False)
    assert (found["image"] == found["other"]).all()
    assert len(found) >= 29
    assert find_overlap(imageset(small(pixels[30:]), "new"), known, progress=False).empty


# The index


def test_the_index_names_the_copy_first_however_it_was_changed(images: list[np.ndarray], known: ImageSet) -> None:
    index = LandmarkIndex(known.pixels)
    for steps in ((saved, changed), (mirrored,), (inverted,), (cropped(0.1, 0.1, 0.15, 0.05), mirrored)):
        image, other, turned_round, votes = index.likely(small(images[:10], *steps), 1)
        assert image.tolist() == other.tolist() == list(range(10))
        assert set(turned_round.tolist()) == {int(mirrored in steps)}
        assert votes.min() > 1


def test_an_image_is_not_told_of_itself_and_the_likeliest_come_first(known: ImageSet) -> None:
    twice = np.concatenate([known.pixels, known.pixels[:5, :, ::-1]])
    image, other, _, votes = LandmarkIndex(twice).likely(twice, 3, (np.arange(len(twice)),) * 2)
    assert (image != other).all()
    assert np.bincount(image, minlength=len(twice)).max() <= 3
    first = np.searchsorted(image, np.arange(5))
    assert other[first].tolist() == list(range(40, 45))
    assert (np.diff(votes)[np.diff(image) == 0] <= 0).all()


def test_the_index_finds_the_same_in_any_order_of_the_others(images: list[np.ndarray], known: ImageSet) -> None:
    order = np.random.default_rng(3).permutation(40)
    copies = small(images[:12], cropped(0.1, 0.0, 0.1, 0.05))
    _, one, *_ = LandmarkIndex(known.pixels).likely(copies, 1)
    _, two, *_ = LandmarkIndex(known.pixels[order]).likely(copies, 1)
    assert one.tolist() == order[two].tolist()


def test_the_index_does_not_hold_its_patches_three_times(known: ImageSet) -> None:
    pixels = np.tile(known.pixels, (75, 1, 1))
    tracemalloc.start()
    try:
        LandmarkIndex(pixels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The patches take 5.1 kB an image, twice while they are sorted.
    assert peak / len(pixels) < 3 * 5_100


def test_the_index_is_the_same_in_parts(known: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LandmarkIndex(known.pixels).likely(known.pixels, 24)
    monkeypatch.setattr(landmarks, "_PATCHES", 1000)
    parts = LandmarkIndex(known.pixels).likely(known.pixels, 24)
    assert [one.tolist() for one in parts] == [one.tolist() for one in whole]


def test_the_index_compares_all_patches_of_equal_bits_and_no_others(known: ImageSet) -> None:
    index, places = LandmarkIndex(known.pixels), Landmarks.of(known.pixels[:10])
    white = index._white(places.patches[0].reshape(-1, places.patches.shape[-1]))
    codes, patch = index._probes(white)
    cell = np.repeat(np.arange(len(index._starts) - 1), np.diff(index._starts))
    found = {
        pair for one, two in index._alike(white, codes, patch) for pair in zip(one.tolist(), two.tolist(), strict=True)
    }
    alike = white @ index._patches[: len(cell)].T > landmarks._ALIKE
    asked = np.zeros((len(white), len(index._starts) - 1), bool)
    asked[patch, codes] = True
    wanted = np.argwhere(alike & asked[:, cell])
    assert len(wanted) > 320
    assert found == set(map(tuple, wanted.tolist()))


def test_the_products_of_a_query_do_not_grow_with_the_index() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 180, (1600, 12, 12), np.uint8)
    drawn = [cv2.resize(one, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for one in coarse]
    products = []
    for count in (100, 1600):
        index, places = LandmarkIndex(np.stack(drawn[:count])), Landmarks.of(np.stack(drawn[:100]))
        white = index._white(places.patches[0].reshape(-1, places.patches.shape[-1]))
        products.append(sum(1 for _ in index._alike(white, *index._probes(white))))
    # With a product for each hash code, it would be 16 times as many: so many more codes there are.
    assert products[1] < 3 * products[0]


def test_all_windows_at_once_are_those_one_by_one(known: ImageSet) -> None:
    some = known.pixels[:3]
    together, each = coarse_windows(some), windows()
    for n in (0, 1, 40, len(each) - 1):
        rows, columns = (window_matrices(each[n : n + 1, at], each[n : n + 1, at + 1], COARSE.side) for at in (0, 2))
        alone = COARSE.of(some.astype(np.float32), rows, columns)
        np.testing.assert_allclose(together[:, n], alone.reshape(3, -1), atol=1e-4)
