"""The page in a real browser, served by the real command with a small trained model."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.phantoms.phantom import draw_image
from covidnet.serving.facts import NOTICE
from covidnet.serving.web import lock
from covidnet.serving.web.guard import Access
from covidnet.serving.web.limits import WebLimits
from covidnet.serving.web.lock import Lock, Password
from covidnet.serving.web.worklist import Worklist
from tests.data.reading.test_dicom import image as dicom_image
from tests.data.reading.test_dicom import written
from tests.serving.web.commands import Running, command
from tests.serving.web.servers import image_png, serving

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom as a PNG and as a 12-bit DICOM, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    pixels = draw_image("COVID-19", 5, 0, size=128).image
    Image.fromarray(pixels).save(folder / "muster.png")
    deep = np.round(pixels.astype(float) / 255 * 4095).astype(np.uint16)
    (folder / "muster.dcm").write_bytes(written(dicom_image(deep, 12, PatientName="Muster^Anna", ViewPosition="PA")))
    (folder / "page.jpg").write_text("<!DOCTYPE html><html>sign in</html>")
    return folder


@pytest.fixture(scope="module")
def server(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    run = trained("fold=0", "explain=off", "trainer.max_epochs=2")
    with command(run, "gate=warn", cwd=tmp_path_factory.mktemp("cwd")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--no-first-run",
            ],
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    """An open page: a new one for each test would start processes."""
    return browser.new_context().new_page()


@pytest.fixture
def fresh(tab: Any) -> Iterator[Any]:
    """The page without what an earlier test did to it; at the end, the errors of its script are checked."""
    errors: list[str] = []

    def note(error: Any) -> None:
        errors.append(str(error))

    tab.goto("about:blank")
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.on("pageerror", note)
    yield tab
    tab.remove_listener("pageerror", note)
    tab.unroute_all()
    assert errors == []


@pytest.fixture
def page(fresh: Any, server: Running) -> Iterator[Any]:
    """The page of the model; at the end, the addresses that it requested are checked."""
    asked: list[str] = []

    def note(request: Any) -> None:
        asked.append(request.url)

    fresh.on("request", note)
    fresh.goto(server.address)
    fresh.wait_for_selector("#model dd")
    yield fresh
    fresh.remove_listener("request", note)
    assert asked
    assert all(url.startswith((server.address, "data:")) for url in asked)


def upload(page: Any, path: Path) -> None:
    page.set_input_files("#file", str(path))
    page.wait_for_selector("#answer:not([hidden])", timeout=30_000)
    page.wait_for_function("document.getElementById('preview').complete")


def drawn(page: Any) -> np.ndarray:
    picture = page.locator("#image").screenshot()
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def shares(page: Any) -> list[float]:
    numbers = page.locator("#bars .number").all_inner_texts()
    return [float(number.split("%")[0]) for number in numbers]


def test_a_phantom_is_uploaded_and_its_result_and_overlay_appear(page: Any, images: Path) -> None:
    upload(page, images / "muster.png")
    assert page.inner_text("#prediction") in CLASSES
    assert page.locator("#bars .name").all_inner_texts() == list(CLASSES)
    assert sum(shares(page)) == pytest.approx(100, abs=0.2)
    assert max(shares(page)) == shares(page)[CLASSES.index(page.inner_text("#prediction"))]
    colours = page.eval_on_selector_all("#bars .fill", "all => all.map(one => getComputedStyle(one).backgroundColor)")
    assert colours == ["rgb(213, 94, 0)", "rgb(0, 158, 115)", "rgb(0, 114, 178)"]
    assert "128" in page.inner_text("#facts")
    assert page.get_attribute("#preview", "src").startswith("data:image/jpeg")
    assert page.get_attribute("#heat", "src").startswith("data:image/png")
    sizes = page.eval_on_selector_all("#image img", "all => all.map(one => [one.naturalWidth, one.naturalHeight])")
    assert sizes[0] == sizes[1]


def test_the_opacity_slider_and_the_switch_change_the_picture(page: Any, images: Path) -> None:
    upload(page, images / "muster.png")
    seen = {}
    for value in ("0", "50", "100"):
        page.fill("#opacity", value)
        assert page.inner_text("#percent") == f"{value} %"
        assert float(page.eval_on_selector("#heat", "one => getComputedStyle(one).opacity")) == float(value) / 100
        seen[value] = drawn(page)
    # The image alone is grey; a higher opacity of the map adds more colour.
    colour = {value: float(np.ptp(picture, axis=2).mean()) for value, picture in seen.items()}
    assert colour["0"] < 0.5
    assert colour["0"] < colour["50"] < colour["100"]
    page.uncheck("#shown")
    assert not page.is_visible("#heat")
    assert np.abs(drawn(page) - seen["0"]).mean() < 0.5
    page.check("#shown")
    assert np.abs(drawn(page) - seen["100"]).mean() < 0.5


def test_a_dicom_gets_the_same_answer_as_its_png(page: Any, images: Path) -> None:
    upload(page, images / "muster.png")
    first = shares(page)
    upload(page, images / "muster.dcm")
    page.wait_for_function("document.getElementById('facts').textContent.includes('MONOCHROME2')")
    assert shares(page) == pytest.approx(first, abs=1)
    assert "Muster" not in page.content()


def test_a_refused_file_is_a_sentence_with_a_remedy_and_the_old_result_is_gone(page: Any, images: Path) -> None:
    upload(page, images / "muster.png")
    page.set_input_files("#file", str(images / "page.jpg"))
    page.wait_for_selector("#refused:not([hidden])")
    assert page.inner_text("#refused-cause") == "Not an image: HTML."
    assert page.inner_text("#refused-remedy").endswith(".")
    for name in ("#answer", "#image", "#tools"):
        assert not page.is_visible(name)
    upload(page, images / "muster.png")
    assert not page.is_visible("#refused")


def test_an_image_can_be_dropped_on_the_page_but_not_two(page: Any, images: Path) -> None:
    drop = """([data, count]) => {
        const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
        const carried = new DataTransfer();
        for (let n = 0; n < count; n += 1) carried.items.add(new File([bytes], `muster${n}.png`));
        document.getElementById("stage").dispatchEvent(
            new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
    }"""
    data = base64.b64encode((images / "muster.png").read_bytes()).decode()
    page.evaluate(drop, [data, 2])
    assert page.inner_text("#refused-cause") == "2 files at once."
    page.evaluate(drop, [data, 1])
    page.wait_for_selector("#answer:not([hidden])")


def test_a_warning_precedes_the_numbers_and_no_text_becomes_html(page: Any, images: Path) -> None:
    evil = "<img src=x onerror=\"document.title='run'\">"

    def doubt(route: Any) -> None:
        answer = route.fetch()
        said = {**answer.json(), "quality": [{"code": "dark", "text": f"too dark {evil}; use another image"}]}
        route.fulfill(response=answer, json=said)

    page.route("**/v1/predict", doubt)
    upload(page, images / "muster.png")
    assert page.locator("#quality li").all_inner_texts() == [f"Too dark {evil}; use another image."]
    tops = [page.locator(name).bounding_box()["y"] for name in ("#quality", "#prediction")]
    assert tops[0] < tops[1]
    assert page.title() != "run"


@pytest.mark.parametrize("kind", ["none", "empty"])
def test_the_slider_is_disabled_without_a_map(page: Any, images: Path, kind: str) -> None:
    def bare(route: Any) -> None:
        answer = route.fetch()
        said = answer.json()
        said["heat"] = None if kind == "none" else {**said["heat"], "empty": True}
        route.fulfill(response=answer, json=said)

    page.route("**/v1/predict", bare)
    upload(page, images / "muster.png")
    for name in ("#heat", "#opacity", "#shown"):
        assert not page.is_visible(name)
    assert page.is_visible("#another")
    assert page.inner_text("#caption")


def test_the_notice_stays_and_the_card_opens_by_keyboard(page: Any) -> None:
    assert page.inner_text("#notice") == NOTICE
    page.focus("#open-card")
    page.keyboard.press("Enter")
    assert page.is_visible("#card-text")
    assert "Intended use" in page.inner_text("#card-text")
    assert page.locator("#card-text h3").count() > 3
    page.keyboard.press("Escape")
    assert not page.is_visible("#card-text")


def test_every_control_has_a_name_and_is_reachable_by_keyboard(page: Any, images: Path) -> None:
    upload(page, images / "muster.png")
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"open-card", "another", "shown", "opacity"} <= set(reached)
    page.focus("#opacity")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#percent") == "51 %"
    for name in ("Heat map", "Opacity"):
        assert page.get_by_label(name, exact=True).count() == 1
    assert page.get_attribute("#result", "aria-live") == "polite"


def test_the_page_fits_the_window(page: Any, images: Path) -> None:
    upload(page, images / "muster.png")
    for width in (1280, 768, 420, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.is_visible("#notice")


def test_a_stopped_server_is_reported(page: Any, images: Path) -> None:
    page.route("**/v1/predict", lambda route: route.abort())
    page.set_input_files("#file", str(images / "muster.png"))
    page.wait_for_selector("#refused:not([hidden])")
    assert page.inner_text("#refused-cause") == "The server does not respond."


def test_the_browser_asks_for_the_login(
    browser: Any, fresh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_COST", 1 << 14)
    monkeypatch.setattr(lock, "_PARALLEL", 1)
    (tmp_path / "image.png").write_bytes(image_png(side=300))
    users = {"anna": Password.of("correct horse")}
    with serving(access=Access(lock=Lock("", users))) as port:
        # The browser would ask, and there is nobody to answer.
        with pytest.raises(sync_api.Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            fresh.goto(f"http://127.0.0.1:{port}")
        context = browser.new_context(http_credentials={"username": "anna", "password": "correct horse"})
        page = context.new_page()
        assert page.goto(f"http://127.0.0.1:{port}").status == 200
        page.wait_for_selector("#model dd")
        page.set_input_files("#file", tmp_path / "image.png")
        page.wait_for_selector("#answer:not([hidden])")
        context.close()


@pytest.fixture
def worklist(fresh: Any, tmp_path: Path) -> Iterator[Any]:
    """The page of a folder of two labelled images and a file that is no image, over a fake model."""
    for number, name in enumerate(["Normal/a.png", "COVID19/b.png"]):
        place = tmp_path / "images" / name
        place.parent.mkdir(parents=True)
        place.write_bytes(image_png(side=120, seed=number))
    (tmp_path / "images" / "page.jpg").write_text("<html>")
    found = Worklist(tmp_path / "verdicts.sqlite", str(tmp_path / "images"), "fake", CLASSES, WebLimits())
    with serving(worklist=found) as port:
        fresh.goto(f"http://127.0.0.1:{port}/worklist")
        fresh.wait_for_selector("#rows tr:nth-child(3)")
        yield fresh


def names(page: Any) -> list[str]:
    return page.locator("#rows td:nth-child(2)").all_inner_texts()


def opened(page: Any) -> None:
    page.wait_for_selector("#busy", state="hidden")
    page.wait_for_function("() => document.getElementById('window').textContent !== ''")


def on_canvas(page: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def test_the_worklist_is_read_with_keys_and_the_verdicts_are_saved(worklist: Any) -> None:
    page = worklist
    assert sorted(names(page)) == ["a.png", "b.png", "page.jpg refused"]
    numbers = [float(text.split("%")[0]) for text in page.locator("#rows .number").all_inner_texts() if text]
    assert numbers == sorted(numbers, reverse=True)
    page.locator("#rows tr").first.click()
    opened(page)
    assert page.is_disabled("#save")
    page.fill("#reader", "Ada")
    page.locator("#canvas").focus()
    first = names(page)[0]
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#rows tr')[1].className === 'chosen'")
    opened(page)
    page.keyboard.press("ArrowUp")
    opened(page)
    assert page.inner_text("#saved") == "Saved."
    assert page.locator("#rows td:nth-child(5)").all_inner_texts()[0] == "Normal"
    page.select_option("#filter", "open")
    assert first not in names(page)
    assert len(names(page)) == 1
    with page.expect_download() as download:
        page.click("#export")
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 2
    assert ",Ada," in rows[1]
    page.click("#compare")
    page.wait_for_selector("#agreement table")
    assert "Ada, model" in page.inner_text("#agreement")
    page.reload()
    page.wait_for_selector("#rows tr:nth-child(3)")
    page.fill("#reader", "Ada")
    page.locator("#reader").press("Tab")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#rows td:nth-child(5)')].some(one => one.textContent === 'Normal')"
    )


def test_the_model_stays_hidden_until_the_verdict(worklist: Any) -> None:
    page = worklist
    page.check("#blind")
    assert not page.locator("#rows .number").first.is_visible()
    # Nor does a name give the class away.
    assert all(name.startswith("image ") for name in names(page))
    page.fill("#reader", "Ada")
    page.locator("#rows tr", has_not_text="refused").first.click()
    opened(page)
    assert not page.is_visible("#result")
    hidden = on_canvas(page)
    assert np.ptp(hidden, axis=2).max() < 25
    page.locator("#canvas").focus()
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result:not([hidden])")
    assert np.ptp(on_canvas(page), axis=2).max() > 50
    with page.expect_download() as download:
        page.click("#export")
    assert ",unsure,,0," in Path(download.value.path()).read_text()


def test_window_level_inversion_and_zoom_change_the_picture_and_reset_brings_it_back(worklist: Any) -> None:
    page = worklist
    page.locator("#rows tr", has_not_text="refused").first.click()
    opened(page)
    page.uncheck("#shown")
    plain = on_canvas(page)
    page.locator("#canvas").focus()
    page.keyboard.press("i")
    middle = tuple(size // 2 for size in plain.shape[:2])
    assert on_canvas(page)[middle] == pytest.approx(255 - plain[middle], abs=2)
    page.keyboard.press("i")
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 - 150, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert page.inner_text("#window").startswith("Window 105, level 128")
    assert on_canvas(page).std() > plain.std()
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => document.getElementById('window').textContent.includes('zoom 2.2')")
    page.keyboard.press("r")
    assert np.abs(on_canvas(page) - plain).mean() < 0.5


def test_uploads_join_the_worklist(worklist: Any, images: Path) -> None:
    page = worklist
    page.set_input_files("#files", [str(images / "muster.png"), str(images / "page.jpg")])
    page.wait_for_selector("#rows tr:nth-child(5)")
    page.fill("#search", "muster")
    assert names(page) == ["muster.png"]
    page.locator("#rows tr").first.click()
    opened(page)
    page.fill("#reader", "Ada")
    page.locator("#canvas").focus()
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('saved').textContent === 'Saved.'")
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
