import re
from collections.abc import Iterator
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from covidnet.report.rendering.markdown import escaped
from covidnet.report.write import report_markdown
from tests.report.conftest import of_content

pytestmark = pytest.mark.usefixtures("undrawn")

report_markdown = of_content(report_markdown)

Summary = dict[str, Any]
HOSTILE = "<script>x</script> a|b `c` **d** _e_ [f](http://g) ![h](i) ~~j~~ $k$\n# l\n- m\n\n```\nn & \\"


def _tokens(text: str) -> Iterator[Token]:
    # GitHub's tables and strike-through on top of CommonMark, with raw HTML let through as GitHub does.
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text):
        yield token
        yield from token.children or ()


def _shown(text: str) -> str:
    return "".join(token.content for token in _tokens(text) if token.type in ("text", "code_inline", "fence"))


def _tables(text: str) -> list[list[list[str]]]:
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and token.level >= 4 and tables and "|" not in token.markup:
            tables[-1][-1].append("".join(child.content for child in token.children or ()))
    return tables


@pytest.mark.parametrize(
    "text",
    ["# x", "- x", "1. x", "> x", "+ x", "a*b*c", "__x__", "_x_", "<b>", "&amp;", "[a](b)", "[a]: b", "![a](b)", "`x`",
     "a|b", "~~x~~", "\\*", "x\\", "[1, 2](http://x)", "[93.4, 95.6]", "a_b_c", "=", "---", "http", "1) x", "[[x]]"],
)  # fmt: skip
def test_an_escaped_text_is_shown_as_it_is(text: str) -> None:
    kinds = {token.type for token in _tokens(escaped(text))}
    assert kinds <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    shown = "".join(t.content for t in _tokens(escaped(text)) if t.type in ("text", "text_special"))
    assert shown == text


def test_a_number_keeps_its_point() -> None:
    assert (escaped("0.001"), escaped("1. x"), escaped("1.")) == ("0.001", "1\\. x", "1\\.")


def test_every_section_is_there_and_tables_are_whole(summary: Summary, other: Summary, comparison: Summary) -> None:
    text = report_markdown(summary, [comparison], [other])
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) == 13
    tables = _tables(text)
    assert len(tables) > 15
    for table in tables:
        assert len({len(row) for row in table}) == 1
    (five,) = [table for table in tables if table[0][1] == "COVID-19: ours"]
    covid = summary["pooled"]["classes"]["COVID-19"]["sensitivity"]
    low, high = covid["ci"]
    assert five[1][:3] == ["Sensitivity", f"{100 * covid['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]", "97.7"]


def test_confusion_matrices_are_tables_where_no_drawing_is(summary: Summary) -> None:
    tables = _tables(report_markdown(summary))
    (pooled, unseen) = [table for table in tables if table[0][0] == "true class"]
    assert [[int(n.replace(",", "")) for n in row[1:]] for row in pooled[1:]] == summary["pooled"]["confusion"]
    assert [[int(n) for n in row[1:]] for row in unseen[1:]] == summary["unseen"]["ensemble"]["confusion"]


def _poison(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _poison(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_poison(value) for value in tree]
    return HOSTILE if isinstance(tree, str) else tree


@pytest.mark.slow
def test_hostile_names_stay_text(summary: Summary, other: Summary, comparison: Summary) -> None:
    clean = [token.type for token in _tokens(report_markdown(summary, [comparison], [other]))]
    bad = list(_tokens(report_markdown(_poison(summary), [_poison(comparison)], [_poison(other)])))
    kinds = [token.type for token in bad]
    assert not {"html_inline", "html_block", "image", "s_open", "code_inline", "hr"} & set(kinds)
    for kind in ("heading_open", "fence", "link_open"):
        assert kinds.count(kind) == clean.count(kind)
    links = [str(token.attrs["href"]) for token in bad if token.type == "link_open"]
    assert all(link.startswith(("https://doi.org/", "https://arxiv.org/")) or link == "model_card.md" for link in links)
    for table in _tables(report_markdown(_poison(summary), [_poison(comparison)], [_poison(other)])):
        assert len({len(row) for row in table}) == 1


def test_the_warnings_are_quoted_before_any_table(summary: Summary) -> None:
    text = report_markdown(summary)
    assert text.index("> **Read this before the numbers**") < text.index("|")
    for note in summary["notes"]:
        assert f"> - {note}" in text


def test_what_is_missing_does_not_stop_it(none_everywhere: Summary, one_fold: Summary) -> None:
    for hollow in ({}, none_everywhere, one_fold):
        text = report_markdown(hollow)
        assert "Each class against the other two" in text
        assert "None" not in _shown(text)


def test_only_the_folder_s_own_command_is_in_the_code_block(summary: Summary) -> None:
    summary["folder"] = "x\n```\n# heading"
    fences = [token.content for token in _tokens(report_markdown(summary)) if token.type == "fence"]
    assert len(fences) == 1
    assert fences[0].startswith("python -m covidnet.crossval")
    assert "heading" in fences[0]


def test_a_picture_is_an_image_below_the_report(maps_alone: Summary) -> None:
    images = [token for token in _tokens(report_markdown(maps_alone)) if token.type == "image"]
    sources = [str(token.attrs["src"]) for token in images]
    assert [re.sub(r"\.[0-9a-f]{8}\.png$", "", source) for source in sources] == [
        "panels/unseen-COVID-19",
        "panels/errors",
    ]
    assert "COVID-19" in images[0].content


def test_a_missing_picture_is_a_sentence(maps_alone: Summary) -> None:
    maps_alone["folder"] = "no/such/folder"
    text = report_markdown(maps_alone)
    assert "image" not in [token.type for token in _tokens(text)]
    assert "The picture fold=3/panels/errors.png is no longer in the sweep folder." in text


def test_hostile_names_of_panels_stay_text(maps_alone: Summary) -> None:
    clean = [token.type for token in _tokens(report_markdown(maps_alone))]
    maps_alone["explanations"]["panels"][0]["title"] = HOSTILE
    maps_alone["explanations"]["sanity"]["stages"][0]["stage"] = HOSTILE
    maps_alone["explanations"]["method"] = HOSTILE
    text = report_markdown(maps_alone)
    kinds = [token.type for token in _tokens(text)]
    assert not {"html_inline", "html_block", "s_open", "code_inline", "hr"} & set(kinds)
    for kind in ("heading_open", "fence", "image"):
        assert kinds.count(kind) == clean.count(kind)
    for table in _tables(text):
        assert len({len(row) for row in table}) == 1
