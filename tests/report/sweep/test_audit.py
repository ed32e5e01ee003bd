"""What could be wrong: a section of the report, a line above the numbers, and lines in the model card."""

from __future__ import annotations

from typing import Any

from covidnet.report.card.card import model_card
from covidnet.report.rendering.document import Notice, Paragraph
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.sweep.audit import what_could_be_wrong
from covidnet.report.sweep.content import report_document
from covidnet.report.sweep.notices import warnings_of
from tests.report.conftest import of_content

Summary = dict[str, Any]

section, document, card, warnings = map(of_content, (what_could_be_wrong, report_document, model_card, warnings_of))

BLOCKS, WEAKENS = "Blocks a claim: Images leak: 5.0% [2.0, 9.0]", "Weakens a claim: A group is worse: 3.00 images"


def found(level: str, what: str, number: float, ci: list[float] | None, unit: str) -> dict[str, Any]:
    words = {"check": "Leaks", "meaning": "It may be too high.", "remedy": "Train again."}
    return {"level": level, "what": what, "number": number, "ci": ci, "unit": unit, **words}


def audited(summary: Summary, findings: list[dict[str, Any]]) -> Summary:
    audit = {"findings": findings, "ran": ["Leaks of the split", "Labels"], "not_possible": {"Subgroups": "no column"}}
    return {**summary, "audit": audit}


def test_findings_are_in_the_report_above_the_numbers_and_in_the_card(summary: Summary) -> None:
    one = audited(
        summary,
        [
            found("blocks", "Images leak.", 0.05, [0.02, 0.09], "%"),
            found("weakens", "A group is worse.", 3.0, None, "images"),
        ],
    )
    blocks = section(one).blocks
    assert blocks[0] == Paragraph(
        "2 checks of the sweep's files alone: 1 finding blocks a claim and 1 finding weakens a claim."
    )
    notices = [block for block in blocks if isinstance(block, Notice)]
    assert [notice.title for notice in notices] == [BLOCKS, WEAKENS]
    assert notices[0].items == ["It may be too high.", "Train again."]
    text = " ".join(block.text for block in blocks if isinstance(block, Paragraph))
    assert "Checked: leaks of the split, labels. Not possible: subgroups (no column)." in text
    # What blocks a claim is above all numbers, and once in the card.
    assert BLOCKS in warnings(one)
    assert WEAKENS not in warnings(one)
    assert markdown_of(document(one)).count("Images leak: ") == 2
    written = card(one)
    assert written.count("Images leak: ") == written.count("A group is worse: ") == 1


def test_a_clean_sweep_and_one_that_nobody_looked_at_are_told_apart(summary: Summary) -> None:
    clean = "2 checks of the sweep's files alone: nothing that blocks or weakens a claim."
    assert section(audited(summary, [])).blocks[0] == Paragraph(clean)
    assert clean in card(audited(summary, []))
    unknown = "What could be wrong was not checked; covidnet audit data=... sweep_dir=... does it."
    assert section(summary).blocks[0] == Paragraph(unknown)
    assert unknown in card(summary)
