import base64
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from covidnet.base.atomic import WriteError
from covidnet.base.errors import DataError
from covidnet.evaluation.comparison import Comparison
from covidnet.evaluation.results import from_json, to_json
from covidnet.report.paper.tables import table4, table5, table6, table7
from covidnet.report.write import report_html, write_report
from tests.report.conftest import build_explanations, of_content, sweep, tiny_png

report_html = of_content(report_html)
write_report = of_content(write_report)
table4 = of_content(table4)
table5 = of_content(table5)
table6 = of_content(table6)
table7 = of_content(table7)

Summary = dict[str, Any]
HOSTILE = "<script>alert(1)</script><img src=x onerror=\"alert(2)\">|`a`\n# b & 'q' \x00\x1b[31m \udce9 ]]> --> ${x} %s"
VOID = {"meta", "img", "br"}
_DRAWING = re.compile(r'(?<=data:image/svg\+xml;base64,)[\w+/=]+|width="\d+"')


class _Page(HTMLParser):
    """What a browser would see: which tags, which addresses, which text; and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data


def _read(text: str) -> _Page:
    page = _Page(text)
    assert page.open == []
    return page


def _xml(text: str) -> ET.Element:
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_a_page_is_well_formed_as_html_and_as_xml(page: str) -> None:
    read = _read(page)
    root = _xml(page)
    assert read.tags.count("h1") == 1
    headings = ["".join(node.itertext()) for node in root.iter("h2")]
    assert headings == [
        "Results on the test folds",
        "What could be wrong",
        "The unseen fold",
        "What selecting the best model adds",
        "With and without augmentation, and other approaches",
        "Sweeps compared",
        "Calibration",
        "Training",
        "Data and split",
        "Settings, versions and hashes",
        "How to reproduce this report",
        "What does not add up in the published tables",
        "Notes on the intervals",
    ]
    ids = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert len(set(ids)) == len(ids)
    targets = [value[1:] for _, key, value in read.attributes if key == "href" and value.startswith("#")]
    assert set(targets) <= set(ids)
    assert len(targets) == len(headings)


def test_a_page_needs_nothing_from_anywhere_else(page: str) -> None:
    read = _read(page)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(read.tags)
    for tag, key, value in read.attributes:
        assert not key.startswith("on")
        if key in ("src", "srcset", "poster", "data", "action"):
            assert value.startswith("data:image/svg+xml;base64,")
        if "http" in value and not value.startswith("data:"):
            assert (tag, key) == ("a", "href")
    rest = re.sub(r'href="https://[^"]*"|base64,[\w+/=]+|http-equiv=', "", page)
    for word in ("http", "@import", "url("):
        assert word not in rest
    assert "default-src 'none'" in page


def test_every_figure_is_whole_and_told_to_who_cannot_see_it(page: str) -> None:
    figures = list(_xml(page).iter("figure"))
    assert len(figures) == 7
    for number, figure in enumerate(figures, 1):
        image = figure.find("img")
        assert image is not None
        assert len(image.attrib["alt"]) > 20
        ET.fromstring(base64.b64decode(image.attrib["src"].split(",")[1]))
        caption = figure.find("figcaption")
        assert caption is not None
        assert "".join(caption.itertext()).startswith(f"Figure {number}. ")


def test_the_page_shows_the_numbers(page: str, summary: Summary) -> None:
    words = _read(page).words
    accuracy = summary["pooled"]["accuracy"]
    low, high = accuracy["ci"]
    assert f"{100 * accuracy['value']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]" in words
    assert summary["hashes"]["predictions_sha256"]["7"] in words
    assert "python -m covidnet.crossval" in words
    assert summary["folder"] in words
    assert words.index("Read this before the numbers") < words.index("Table 5 (paper)")
    for note in summary["notes"]:
        assert note in words


def test_tables_have_as_many_cells_in_every_row(page: str) -> None:
    for table in _xml(page).iter("table"):
        head, body = table.find("thead"), table.find("tbody")
        assert body is not None
        widths = {len(row) for row in body}
        assert len(widths) == 1
        if head is not None:
            cells = [cell for row in head for cell in row if cell.attrib.get("class") != "group"]
            assert len(cells) == widths.pop()


def test_the_decimal_points_of_a_column_lie_under_each_other(page: str) -> None:
    for table in _xml(page).iter("table"):
        body = table.find("tbody")
        assert body is not None
        for column in range(1, len(body[0])):
            cells = [row[column] for row in body]
            spans = [span for cell in cells for span in cell.iter("span") if span.attrib.get("class") == "value"]
            if any(cell.attrib.get("class") == "ends" for cell in cells):
                assert len({span.attrib["style"] for span in spans}) == 1


def _poison(tree: Any) -> Any:
    """The tree with every text replaced, and every free name of a key too."""
    if isinstance(tree, dict):
        return {key: _poison(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_poison(value) for value in tree]
    return HOSTILE if isinstance(tree, str) else tree


def test_hostile_names_are_shown_and_do_nothing(summary: Summary, other: Summary, comparison: Summary) -> None:
    bad = _poison(summary)
    bad["versions"][HOSTILE] = HOSTILE
    bad["problems"] = [HOSTILE]
    text = report_html(bad, [_poison(comparison)], [_poison(other)])
    page = _read(text)
    _xml(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 7
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert "<script>alert(1)</script>" in page.words
    assert "\x00" not in text
    assert "\x1b" not in text
    text.encode("utf-8")


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_does_not_stop_the_page(none_everywhere: Summary, one_fold: Summary) -> None:
    for hollow in ({}, none_everywhere, one_fold):
        text = report_html(hollow)
        page = _read(text)
        _xml(text)
        assert "Each class against the other two" in page.words
        assert "None" not in page.words
        assert not re.search(r"\bnan\b", page.words)


@pytest.mark.slow
def test_a_class_without_images_is_a_dash(summary: Summary) -> None:
    nothing = {"value": None, "ci": None, "method": None}
    for part in (summary["pooled"], summary["unseen"]["ensemble"]):
        part["classes"]["Normal"] = dict.fromkeys(("sensitivity", "f1", "auc", "specificity", "accuracy"), nothing)
        part["confusion"][1] = [0, 0, 0]
    del summary["curves"]["pooled"]["Normal"]
    for fold in summary["per_fold"]:
        fold["test"]["classes"]["Normal"] = {"sensitivity": None, "specificity": 1.0, "f1": None, "auc": None}
        fold["val"] = None
    words = _read(report_html(summary)).words
    assert "–" in words  # noqa: RUF001


@pytest.mark.usefixtures("undrawn")
def test_a_report_folder_holds_all_files_and_their_values(
    tmp_path: Path, page: str, summary: Summary, other: Summary, comparison: Summary
) -> None:
    files = write_report(summary, tmp_path, [comparison], [other])
    names = ["report.html", "report.md", "model_card.html", "model_card.md", "table4.csv", "table5.csv", "table6.csv",
             "table7.csv", "summary.json"]  # fmt: skip
    assert [file.name for file in files] == [*names, "comparisons.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file.name for file in files)
    assert json.loads((tmp_path / "summary.json").read_text()) == to_json(sweep(summary))
    assert json.loads((tmp_path / "comparisons.json").read_text()) == [to_json(from_json(Comparison, comparison))]
    expected = {"table4": table4(summary), "table5": table5(summary), "table6": table6([summary, other]),
                "table7": table7([summary, other])}  # fmt: skip
    for name, frame in expected.items():
        again = pd.read_csv(tmp_path / f"{name}.csv", float_precision="round_trip")
        pd.testing.assert_series_equal(
            again["ours"].astype(float), frame["ours"].astype("Float64").astype(float), check_exact=True
        )
    # Written at another time than the page, and but for the drawings the same.
    written, drawn = (_DRAWING.sub("", text) for text in ((tmp_path / "report.html").read_text(), page))
    assert written == drawn
    assert [file.name for file in write_report({}, tmp_path)] == names


@pytest.mark.usefixtures("undrawn")
def test_the_report_and_its_card_lie_side_by_side(tmp_path: Path, page: str, summary: Summary) -> None:
    write_report(summary, tmp_path)
    links = [value for _, key, value in _read(page).attributes if key == "href" and not value.startswith(("#", "http"))]
    assert links == ["model_card.html"]
    assert "[model_card.md](model_card.md)" in (tmp_path / "report.md").read_text()
    card = _read((tmp_path / "model_card.html").read_text())
    _xml((tmp_path / "model_card.html").read_text())
    assert "Research use only; not a medical device." in card.words
    assert "script" not in card.tags


def test_a_number_that_json_does_not_know_leaves_the_old_report(tmp_path: Path) -> None:
    write_report({"name": "first"}, tmp_path)
    before = (tmp_path / "report.html").read_text()
    with pytest.raises(DataError, match=r"^summary: .*None"):
        write_report({"name": "second", "pooled": {"loss": float("nan")}}, tmp_path)
    assert (tmp_path / "report.html").read_text() == before


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"report\.html"):
        write_report({}, tmp_path / "none")


def test_a_page_stays_small(page: str) -> None:
    assert len(page) < 3_000_000


def _images(text: str, kind: str = "png") -> list[ET.Element]:
    return [node for node in _xml(text).iter("img") if node.attrib["src"].startswith(f"data:image/{kind}")]


def test_a_picture_is_embedded_byte_for_byte(maps_alone: Summary) -> None:
    text = report_html(maps_alone)
    _read(text)
    images = _images(text)
    assert [base64.b64decode(image.attrib["src"].split(",")[1]) for image in images] == [tiny_png(0), tiny_png(1)]
    assert all(len(image.attrib["alt"]) > 20 for image in images)
    captions = ["".join(node.itertext()) for node in _xml(text).iter("figcaption")]
    assert [caption.split(".")[0] for caption in captions] == [f"Figure {n}" for n in range(1, len(captions) + 1)]
    assert [caption.split(": ")[0] for caption in captions[:2]] == ["Figure 1. COVID-19", "Figure 2. The worst errors"]


def test_a_wide_picture_may_reach_beyond_the_text(maps_alone: Summary) -> None:
    path = maps_alone["explanations"]["panels"][0]["path"]
    (Path(maps_alone["folder"]) / path).write_bytes(tiny_png(width=2500))
    wide, narrow = [
        node for node in _xml(report_html(maps_alone)).iter("figure") if "png" in node[0].attrib["src"][:20]
    ]
    assert (wide.attrib.get("class"), wide[0].attrib["width"]) == ("wide", "2000")
    assert "class" not in narrow.attrib


def test_a_missing_picture_is_a_sentence(maps_alone: Summary) -> None:
    panels = maps_alone["explanations"]["panels"]
    (Path(maps_alone["folder"]) / panels[0]["path"]).unlink()
    text = report_html(maps_alone)
    assert len(_images(text)) == 1
    assert f"The picture {panels[0]['path']} is no longer in the sweep folder." in _read(text).words
    maps_alone["folder"] = "no/such/folder"
    assert not _images(report_html(maps_alone))


def test_numbers_of_maps_are_on_the_page(maps_alone: Summary) -> None:
    words = _read(report_html(maps_alone)).words
    localisation, sanity = (maps_alone["explanations"][key] for key in ("localisation", "sanity"))
    for estimate in (localisation["measures"]["iou"]["model"], localisation["measures"]["pointing"]["difference"]):
        low, high = estimate["ci"]
        assert f"{100 * estimate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in words
    low, high = sanity["stages"][2]["ssim"]["ci"]
    assert f"{sanity['stages'][2]['ssim']['value']:.3f} [{low:.3f}, {high:.3f}]" in words


def test_hostile_names_of_panels_do_nothing(maps_alone: Summary) -> None:
    bad = _poison(maps_alone["explanations"]) | {"localisation": maps_alone["explanations"]["localisation"]}
    bad["localisation"]["not_better"] = [HOSTILE]
    bad["localisation"]["better_than_centre"] = False
    text = report_html(maps_alone | {"explanations": bad})
    page = _read(text)
    assert "script" not in page.tags
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert "<script>alert(1)</script>" in page.words
    # A panel that is there, with a caption that is not ours.
    good = build_explanations() | {
        "panels": [{"title": HOSTILE, "path": maps_alone["explanations"]["panels"][0]["path"]}]
    }
    page = _read(report_html(maps_alone | {"explanations": good}))
    assert page.tags.count("img") == 1 + 2
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]


def test_the_report_folder_has_the_pictures_that_the_markdown_shows(tmp_path: Path, maps_alone: Summary) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    files = write_report(maps_alone, folder)
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (folder / "report.md").read_text())
    assert [(folder / link).read_bytes() for link in links] == [tiny_png(0), tiny_png(1)]
    assert [folder / link for link in links] == files[-2:]
    assert sorted(path.name for path in (folder / "panels").iterdir()) == sorted(path.name for path in files[-2:])
    # A report of other pictures takes the place of the old one.
    panel = maps_alone["explanations"]["panels"][0]
    (Path(maps_alone["folder"]) / panel["path"]).write_bytes(tiny_png(9))
    maps_alone["explanations"]["panels"] = [panel]
    write_report(maps_alone, folder)
    (file,) = (folder / "panels").iterdir()
    assert file.read_bytes() == tiny_png(9)
    maps_alone["explanations"] = None
    write_report(maps_alone, folder)
    assert not (folder / "panels").exists()


def test_a_report_that_cannot_be_made_leaves_the_pictures_of_the_old_one(tmp_path: Path, maps_alone: Summary) -> None:
    write_report(maps_alone, tmp_path)
    before = sorted((tmp_path / "panels").iterdir())
    with pytest.raises(DataError):
        write_report({"pooled": {"loss": float("nan")}}, tmp_path)
    assert sorted((tmp_path / "panels").iterdir()) == before


def test_a_report_in_a_run_s_own_folder_leaves_its_panels_alone(tmp_path: Path, maps_alone: Summary) -> None:
    run = Path(maps_alone["folder"]) / "fold=3"
    before = {path: path.read_bytes() for path in (run / "panels").iterdir()}
    write_report(maps_alone, run)
    maps_alone["explanations"] = None
    write_report(maps_alone, run)
    assert {path: path.read_bytes() for path in (run / "panels").iterdir()} == before
