"""What a report says, whatever it is rendered to."""

from typing import Any

import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.report.rendering.document import Bullets, Document, Figure, Notice, Paragraph, Section, Table
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.sweep.content import report_document
from covidnet.report.sweep.method import command
from covidnet.report.values import Value
from tests.report.conftest import ends, of_content

pytestmark = pytest.mark.usefixtures("undrawn")

report_document = of_content(report_document)

Summary = dict[str, Any]


def _tables(document: Document) -> dict[str, Table]:
    return {b.label: b for section in document.sections for b in section.blocks if isinstance(b, Table)}


def _section(document: Document, anchor: str) -> Section:
    (section,) = [section for section in document.sections if section.anchor == anchor]
    return section


_PROSE = (Paragraph, Bullets)


def _words(section: Section) -> str:
    parts = [[b.text] if isinstance(b, Paragraph) else b.items for b in section.blocks if isinstance(b, _PROSE)]
    return " ".join(text for part in parts for text in part)


def _percent(estimate: Any) -> str:
    value, (low, high) = estimate["value"], estimate["ci"]
    return f"{100 * value:.1f}% [{100 * low:.1f}, {100 * high:.1f}]".replace("100.0", "100")


def test_sections_come_in_order(summary: Summary, other: Summary, comparison: dict[str, Any]) -> None:
    document = report_document(summary, [comparison], [other])
    assert [section.anchor for section in document.sections] == [
        "abstract", "results", "audit", "unseen", "selection", "paper", "comparison", "calibration", "training", "data",
        "method", "again", "inconsistencies", "intervals",
    ]  # fmt: skip
    labels = [b.label for section in document.sections for b in section.blocks if isinstance(b, Table | Figure)]
    assert len(set(labels)) == len(labels)
    assert [label for label in labels if label.startswith("Figure")] == [f"Figure {n}" for n in range(1, 8)]
    papers = [label for label in labels if "paper" in label]
    assert papers == [f"Table {n} (paper)" for n in (5, 6, 7, 4)]


def test_the_abstract_quotes_the_honest_numbers(summary: Summary) -> None:
    first = report_document(summary).sections[0]
    text = _words(first)
    for estimate in (
        summary["pooled"]["accuracy"],
        summary["pooled"]["classes"]["COVID-19"]["sensitivity"],
        summary["unseen"]["selected"]["accuracy"],
        summary["unseen"]["ensemble"]["accuracy"],
    ):
        assert _percent(estimate) in text
    assert summary["selection"]["label"] in text
    assert f"fold {summary['selection']['fold']}" in text
    assert "selection score" not in text
    # The box is right after it.
    assert isinstance(first.blocks[2], Notice)


@pytest.mark.parametrize(
    ("known", "unknown", "words"),
    [(1600, 0, "{:,} patients"), (1600, 31, "at most {:,} patients"), (0, 31, "unknown patients")],
)
def test_images_of_unknown_patients_are_not_counted_as_patients(
    summary: Summary, known: int, unknown: int, words: str
) -> None:
    summary["data"] |= {"patients": known, "unknown_patients": unknown}
    text = _words(report_document(summary).sections[0])
    assert f", on images of {words.format(summary['pooled']['patients'])}, are correct" in text


def test_the_paper_s_choice_is_a_selection_score_in_the_abstract_too(summary: Summary) -> None:
    summary["selection"]["rule"] = "paper"
    summary["selection"]["fold"] = summary["selection"]["paper_fold"]
    document = report_document(summary)
    assert "selection score" in _words(document.sections[0])
    rows = [str(row[0]) for row in _tables(document)["Table C"].rows]
    assert not any(row.startswith("Selected model") for row in rows)
    assert sum("Selection score" in row for row in rows) == 1


def test_validation_on_the_test_fold_is_said_beside_the_accuracy(summary: Summary) -> None:
    summary["data"]["validation"] = "test"
    assert "optimistic" in _words(report_document(summary).sections[0])


def test_table_5_stands_beside_the_paper_s(summary: Summary) -> None:
    table = _tables(report_document(summary))["Table 5 (paper)"]
    assert [column.group for column in table.columns[1::2]] == [*CLASSES, "All classes"]
    rows = {str(row[0]): row for row in table.rows}
    for at, name in enumerate(CLASSES):
        for title, key in (
            ("Sensitivity", "sensitivity"),
            ("Specificity", "specificity"),
            ("F1", "f1"),
            ("AUC", "auc"),
        ):
            cell = rows[title][1 + 2 * at]
            assert isinstance(cell, Value)
            estimate = summary["pooled"]["classes"][name][key]
            assert (cell.value, cell.interval) == (estimate["value"], ends(estimate))
    published = [cell.number for row in table.rows for cell in row[2::2] if isinstance(cell, Value)]
    assert published == ["97.7", "92.7", "93.5", "94.6", "98.9", "96.8", "96.3", "97.3", "97.7", "93.1", "93.0", "94.6"]


def test_tables_6_and_7_show_each_sweep_once(summary: Summary, other: Summary) -> None:
    tables = _tables(report_document(summary, (), [other]))
    six, seven = tables["Table 6 (paper)"], tables["Table 7 (paper)"]
    assert [(c.group, c.name) for c in six.columns[1:]] == [
        ("With augmentation", "paper"),
        ("With augmentation", summary["name"]),
        ("Without augmentation", "paper"),
        ("Without augmentation", other["name"]),
    ]
    assert [cell.number for cell in six.rows[0][1::2] if isinstance(cell, Value)] == ["94.6", "93.84"]
    accuracy = seven.rows[0]
    assert accuracy[2] == ""
    assert [c.value for c in accuracy[5:] if isinstance(c, Value)] == [
        s["pooled"]["classes"]["COVID-19"]["accuracy"]["value"] for s in (summary, other)
    ]


def test_the_unseen_fold_shows_models_selected_ensemble_and_score(summary: Summary) -> None:
    document = report_document(summary)
    (table,) = [block for block in _section(document, "unseen").blocks if isinstance(block, Table)]
    accuracies = [row[1].value for row in table.rows if isinstance(row[1], Value)]
    unseen = summary["unseen"]
    assert accuracies == [
        unseen["mean"]["accuracy"],
        unseen["sd"]["accuracy"],
        unseen["selected"]["accuracy"]["value"],
        unseen["ensemble"]["accuracy"]["value"],
        unseen["paper_selected"]["accuracy"]["value"],
    ]
    assert str(table.rows[-1][0]).startswith("Selection score")


def test_the_selection_is_explained_with_its_numbers(summary: Summary) -> None:
    text = _words(_section(report_document(summary), "selection"))
    selection = summary["selection"]
    for number in (
        selection["simulated"]["expected_best"],
        selection["data"]["best"],
        selection["chance"]["expected_best"],
    ):
        assert f"{100 * number:.1f}%" in text
    assert "adds 1.1 points" in text
    selection["simulated"]["range"] = [0.9, 0.96]
    assert "between 90.0% and 96.0%" in _words(_section(report_document(summary), "selection"))
    selection["models"] = 1
    assert "nothing was selected" in _words(_section(report_document(summary), "selection"))


def test_a_comparison_shows_every_test_with_its_adjusted_p(summary: Summary, comparison: dict[str, Any]) -> None:
    (table,) = [
        b for b in _section(report_document(summary, [comparison]), "comparison").blocks if isinstance(b, Table)
    ]
    assert [str(row[0]) for row in table.rows][2:] == [f"AUC of {name}, DeLong" for name in CLASSES]
    assert [row[-2:] for row in table.rows] == [
        ["0.18", "0.18"],
        ["0.22", "0.45"],
        ["< 0.001", "< 0.001"],
        ["0.24", "0.24"],
        ["0.030", "0.060"],
    ]
    assert "40" in str(table.rows[0][4])
    assert "28" in str(table.rows[0][4])
    comparison |= {"t_test": None, "delong": {}, "p_holm": None, "mcnemar": None}
    (table,) = [
        b for b in _section(report_document(summary, [comparison]), "comparison").blocks if isinstance(b, Table)
    ]
    assert len(table.rows) == 1


def test_what_is_missing_leaves_out_its_section_alone(summary: Summary) -> None:
    summary["training_curves"] = []
    anchors = [section.anchor for section in report_document(summary).sections]
    assert "training" not in anchors
    assert "comparison" not in anchors
    assert len(anchors) == 12


@pytest.mark.parametrize(
    "hollow", [{}, {"name": None, "pooled": None, "selection": None, "unseen": None, "per_fold": None}]
)
def test_a_summary_without_numbers_is_still_a_report(hollow: Summary, none_everywhere: Summary) -> None:
    for summary in (hollow, none_everywhere):
        document = report_document({**summary, "paper": True})
        # Without a value no number of ours is shown.
        table = _tables(document)["Table 5 (paper)"]
        assert all(cell.value is None for row in table.rows for cell in row[1::2] if isinstance(cell, Value))
        assert "0 of 10 folds" in document.title


def test_one_fold_says_so(one_fold: Summary) -> None:
    document = report_document(one_fold)
    assert "1 of 10 folds" in document.title
    assert any("1 of 10 folds" in item for item in document.sections[0].blocks[2].items)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (["multirun/2026-05-04/10-11-12"], "sweep_dir=multirun/2026-05-04/10-11-12"),
        (["a b"], "\"sweep_dir='a b'\""),
        (["$HOME"], "'sweep_dir='\"'\"'$HOME'\"'\"''"),
        (["a", "b=c"], "\"sweep_dir=[a,'b=c']\""),
    ],
)
def test_the_command_survives_the_shell_and_hydra(folders: list[str], line: str) -> None:
    assert command(folders) == f"python -m covidnet.crossval {line}"


@pytest.mark.parametrize(
    "folder", ["a b", "it's", 'x"y', "back\\slash", "end\\", "b\\'q", "$(id)", "a,b", "[x]", "k=v", "ü"]
)
def test_hydra_reads_the_folder_back(folder: str) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    argument = shlex.split(command([folder, "second"]))[-1]
    assert OverridesParser.create().parse_override(argument).value() == [folder, "second"]


def test_words_of_a_whole_report_hold_no_none(summary: Summary) -> None:
    for section in report_document(summary).sections:
        for block in section.blocks:
            if isinstance(block, Paragraph):
                assert "None" not in block.text
            if isinstance(block, Table):
                assert "None" not in str([cell for row in block.rows for cell in row if isinstance(cell, str)])
                assert all(len(row) == len(block.columns) for row in block.rows)


def test_a_report_of_own_data_leads_with_its_own_numbers(summary: Summary) -> None:
    """The paper's numbers are shown for its own data, or if the setting says so."""
    own = {**summary, "paper": None, "data": {**summary["data"], "name": "folder"}}
    text = markdown_of(report_document(own))
    of_paper = markdown_of(report_document({**own, "data": {**own["data"], "name": "kaggle"}}))
    for words in ("in the paper", "the paper's value", "Table 5 (paper)", "does not add up", "Ragab"):
        assert words not in text
        assert words in of_paper
    (table,) = [b for s in report_document(own).sections for b in s.blocks
                if isinstance(b, Table) and b.caption.startswith("Each class against")]  # fmt: skip
    assert [column.name for column in table.columns] == ["", *CLASSES, "All classes"]
    assert all(len(row) == 5 for row in table.rows)
