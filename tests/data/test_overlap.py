"""Films are found again whatever was done to them, and films that are not there are not found."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from covidnet.data.alignment import COARSE, coarse_windows, window_matrices, windows
from covidnet.data.images import read_image
from covidnet.data.landmarks import LandmarkIndex
from covidnet.data.overlap import HIGHEST, SIMILARITY, FilmSet, find_copies, find_overlap, likeness_limit
from covidnet.data.phantom import draw_film
from covidnet.data.sources import folder_source
from covidnet.data.thumbnails import SIDE, thumbnail
from covidnet.labels import CLASSES

Step = Callable[[np.ndarray], np.ndarray]


def picture(seed: int) -> np.ndarray:
    """A smooth picture with lines, like no other; as unlike as films of different people."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(200, 260, 2)
    noise = sum(cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), s) * s for s in (6.0, 12.0, 24.0))
    return cv2.normalize(noise, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def saved(film: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(film).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream))


def cropped(top: float, bottom: float, left: float, right: float) -> Step:
    def crop(film: np.ndarray) -> np.ndarray:
        height, width = film.shape
        return film[int(top * height) : int((1 - bottom) * height), int(left * width) : int((1 - right) * width)]

    return crop


def mirrored(film: np.ndarray) -> np.ndarray:
    return film[:, ::-1]


def inverted(film: np.ndarray) -> np.ndarray:
    return 255 - film


def halved(film: np.ndarray) -> np.ndarray:
    return cv2.resize(film, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def changed(film: np.ndarray) -> np.ndarray:
    return np.clip(255.0 * (film / 255.0) ** 1.3 * 0.8 + 15, 0, 255).astype(np.uint8)


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
    "rotated by 180 degrees": (np.rot90, np.rot90),
    "rotated by 270 degrees and mirrored": (mirrored, np.rot90, np.rot90, np.rot90),
}


def small(films: list[np.ndarray], *steps: Step) -> np.ndarray:
    found = []
    for film in films:
        for step in steps:
            film = step(film)
        found.append(thumbnail(np.ascontiguousarray(film)))
    return np.stack(found) if found else np.zeros((0, SIDE, SIDE), np.uint8)


def filmset(pixels: np.ndarray, name: str) -> FilmSet:
    return FilmSet(np.array([f"{name}-{n}" for n in range(len(pixels))], dtype=np.str_), pixels)


@pytest.fixture(scope="module")
def films() -> list[np.ndarray]:
    return [picture(n) for n in range(40)]


@pytest.fixture(scope="module")
def known(films: list[np.ndarray]) -> FilmSet:
    return filmset(small(films), "known")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_copy_is_found_and_named(films: list[np.ndarray], known: FilmSet, kind: str) -> None:
    chosen = list(range(0, 40, 4))
    found = find_overlap(filmset(small([films[n] for n in chosen], *KINDS[kind]), "new"), known, progress=False)
    assert found["film"].tolist() == list(range(10))
    assert found["other"].tolist() == chosen
    assert set(found["kind"]) == {kind}
    assert found["similarity"].between(SIMILARITY, 1.0).all()


def test_films_that_are_not_there_are_not_found(known: FilmSet) -> None:
    strangers = filmset(small([picture(1000 + n) for n in range(60)]), "new")
    assert find_overlap(strangers, known, progress=False).empty


def test_a_film_of_which_the_other_shows_a_part_is_uncropped(films: list[np.ndarray], known: FilmSet) -> None:
    parts = filmset(small(films[:6], cropped(0.1, 0.05, 0.1, 0.1)), "part")
    found = find_overlap(filmset(small(films[:6], mirrored), "new"), parts, progress=False)
    assert found["other"].tolist() == list(range(6))
    assert set(found["kind"]) == {"mirrored and uncropped"}


def test_the_same_bytes_are_the_same_file_whatever_else_there_is(films: list[np.ndarray], known: FilmSet) -> None:
    here = FilmSet(np.array(["known-7", "new"]), small([films[7], films[7]]))
    found = find_overlap(here, known, progress=False)
    assert found["kind"].tolist() == ["same file", "near-duplicate"]
    assert found["other"].tolist() == [7, 7]
    assert found["similarity"][0] == 1.0


def test_one_row_for_a_film_that_is_there_twice(films: list[np.ndarray]) -> None:
    twice = filmset(small([films[0], films[0], films[1]]), "known")
    found = find_overlap(filmset(small([films[0]], mirrored), "new"), twice, progress=False)
    assert len(found) == 1
    assert found["other"].item() in (0, 1)


@pytest.mark.parametrize(("here", "there"), [(0, 3), (3, 0), (0, 0), (3, 1)])
def test_few_films_or_none_are_no_error(films: list[np.ndarray], here: int, there: int) -> None:
    found = find_overlap(filmset(small(films[:here]), "a"), filmset(small(films[3 : 3 + there]), "b"), progress=False)
    assert found.empty
    assert list(found.columns) == ["film", "other", "kind", "similarity"]


def test_films_without_a_picture_are_not_like_each_other() -> None:
    flat = np.stack([np.full((SIDE, SIDE), n, np.uint8) for n in range(8)])
    assert find_overlap(filmset(flat[:4], "a"), filmset(flat[4:], "b"), progress=False).empty


# Within one set


def test_copies_within_a_set_are_pairs_and_no_film_is_its_own_copy(films: list[np.ndarray]) -> None:
    pixels = np.concatenate(
        [small(films[:20]), small([films[3]], mirrored), small([films[8]], cropped(0, 0.1, 0.1, 0))]
    )
    hashes = np.array([f"f-{n}" for n in range(22)])
    hashes[12] = hashes[2]
    found = find_copies(FilmSet(hashes, pixels), progress=False)
    assert found[["film", "other"]].to_numpy().tolist() == [[2, 12], [3, 20], [8, 21]]
    assert found["kind"].tolist() == ["same file", "mirrored", "cropped"]


def test_a_film_that_is_its_own_mirror_image_is_no_copy() -> None:
    half = picture(5)[:, :100]
    whole = np.concatenate([half, half[:, ::-1]], axis=1)
    assert find_copies(filmset(small([whole, picture(6), picture(7)]), "a"), progress=False).empty


# The limit


def test_the_limit_is_that_of_films_of_different_people(known: FilmSet) -> None:
    assert likeness_limit(known) == SIMILARITY
    assert likeness_limit(filmset(known.pixels[:1], "a")) == SIMILARITY


def test_copies_within_the_set_do_not_raise_the_limit(films: list[np.ndarray]) -> None:
    some = filmset(np.concatenate([small(films), small(films[:10], mirrored)]), "a")
    assert likeness_limit(some) == SIMILARITY


def test_drawn_films_are_more_alike_so_that_the_limit_is_higher() -> None:
    drawn = filmset(small([draw_film(CLASSES[n % 3], n, 0, size=96).image for n in range(45)]), "a")
    assert SIMILARITY < likeness_limit(drawn) <= HIGHEST
    others = filmset(small([draw_film(CLASSES[n % 3], 500 + n, 0, size=96).image for n in range(45)]), "b")
    assert find_overlap(others, drawn, progress=False).empty
    copies = filmset(small([draw_film(CLASSES[n % 3], n, 0, size=96).image for n in range(45)], mirrored), "c")
    assert len(find_overlap(copies, drawn, progress=False)) == 45


def test_real_films_are_found_and_those_of_other_patients_are_not(kit: Path) -> None:
    source = folder_source(kit)
    rows = source.files.groupby("patient_id").head(1).iloc[::10].head(70)
    pixels = [read_image(source.root / path) for path in rows["path"]]
    known = filmset(small(pixels[:40]), "known")
    steps = (mirrored, cropped(0.1, 0.05, 0.0, 0.15), changed, saved)
    found = find_overlap(filmset(small(pixels[:40], *steps), "copy"), known, progress=False)
    assert (found["film"] == found["other"]).all()
    assert len(found) >= 39
    assert find_overlap(filmset(small(pixels[40:]), "new"), known, progress=False).empty


# The index


def test_the_index_names_the_copy_first_however_it_was_changed(films: list[np.ndarray], known: FilmSet) -> None:
    index = LandmarkIndex(known.pixels)
    for steps in ((saved, changed), (mirrored,), (inverted,), (cropped(0.1, 0.1, 0.15, 0.05), mirrored)):
        image, other, turned_round, votes = index.likely(small(films[:10], *steps), 1)
        assert image.tolist() == other.tolist() == list(range(10))
        assert set(turned_round.tolist()) == {int(mirrored in steps)}
        assert votes.min() > 1


def test_an_image_is_not_told_of_itself_and_the_likeliest_come_first(known: FilmSet) -> None:
    twice = np.concatenate([known.pixels, known.pixels[:5, :, ::-1]])
    image, other, _, votes = LandmarkIndex(twice).likely(twice, 3, np.arange(len(twice)))
    assert (image != other).all()
    assert np.bincount(image, minlength=len(twice)).max() <= 3
    first = np.searchsorted(image, np.arange(5))
    assert other[first].tolist() == list(range(40, 45))
    assert (np.diff(votes)[np.diff(image) == 0] <= 0).all()


def test_the_index_finds_the_same_in_any_order_of_the_others(films: list[np.ndarray], known: FilmSet) -> None:
    order = np.random.default_rng(3).permutation(40)
    copies = small(films[:12], cropped(0.1, 0.0, 0.1, 0.05))
    _, one, *_ = LandmarkIndex(known.pixels).likely(copies, 1)
    _, two, *_ = LandmarkIndex(known.pixels[order]).likely(copies, 1)
    assert one.tolist() == order[two].tolist()


def test_all_windows_at_once_are_those_one_by_one(known: FilmSet) -> None:
    some = known.pixels[:3]
    together, each = coarse_windows(some), windows()
    for n in (0, 1, 40, len(each) - 1):
        rows, columns = (window_matrices(each[n : n + 1, at], each[n : n + 1, at + 1], COARSE.side) for at in (0, 2))
        alone = COARSE.of(some.astype(np.float32), rows, columns)
        np.testing.assert_allclose(together[:, n], alone.reshape(3, -1), atol=1e-4)
