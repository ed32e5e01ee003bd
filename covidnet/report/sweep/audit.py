"""The section "What could be wrong": what the checks found in the files of a sweep."""

from __future__ import annotations

from covidnet.evaluation.results import Interval, Measured
from covidnet.report.rendering.document import Block, Notice, Paragraph, Section
from covidnet.report.summary import LEVELS, AuditFinding, Level, SweepSummary
from covidnet.report.values import Value
from covidnet.report.words import count, estimate_text

_COMMAND = "covidnet audit data=... sweep_dir=..."


def number_text(number: float | None, ci: Interval | None, unit: str) -> str:
    """The number behind a finding with its interval.

    Args:
        number: None if undefined.
        ci: its interval; None without one.
        unit: ``%`` where the number is a fraction of 1.

    Example:
        >>> number_text(0.5, (0.4, 0.6), "%"), number_text(3.0, None, "images")
        ('50.0% [40.0, 60.0]', '3.00 images')
    """
    if unit == "%":
        return estimate_text(Measured(number, ci))
    value = Value(number, ci, 1.0, 2)
    return " ".join(part for part in (value.number, unit, value.ends) if part)


def finding_line(finding: AuditFinding) -> str:
    """A finding in one line: its level, what was found, and the number.

    Args:
        finding: of a summary.
    """
    number = number_text(finding.number, finding.ci, finding.unit)
    return f"{LEVELS[finding.level].capitalize()}: {with_number(finding.what, number)}"


def with_number(what: str, number: str) -> str:
    """What was found, followed by the number behind it.

    Args:
        what: one sentence.
        number: as text.

    Example:
        >>> with_number("3 of 60 labels are contradicted.", "5.0% [1.7, 13.7]")
        '3 of 60 labels are contradicted: 5.0% [1.7, 13.7]'
    """
    return f"{what.removesuffix('.')}: {number}"


def audit_lines(summary: SweepSummary, *levels: Level) -> list[str]:
    """The findings of some levels as lines, for other parts of a report.

    Args:
        summary: of a sweep.
        levels: ``blocks`` and ``weakens``, or one of them.
    """
    return [] if summary.audit is None else [finding_line(one) for one in summary.audit.findings if one.level in levels]


def audit_verdict(summary: SweepSummary) -> str:
    """In a sentence, how many checks of the sweep's files ran and what they found.

    Args:
        summary: of a sweep.
    """
    if summary.audit is None:
        return f"What could be wrong was not checked; {_COMMAND} does it."
    parts = []
    for level in ("blocks", "weakens"):
        n = sum(finding.level == level for finding in summary.audit.findings)
        parts += [f"{count(n, 'finding')} {level if n == 1 else level.removesuffix('s')} a claim"] if n else []
    text = " and ".join(parts) or "nothing that blocks or weakens a claim"
    return f"{count(len(summary.audit.ran), 'check')} of the sweep's files alone: {text}."


def what_could_be_wrong(summary: SweepSummary) -> Section:
    """What the files of the runs alone tell about the numbers.

    Args:
        summary: of a sweep.
    """
    blocks: list[Block] = [Paragraph(audit_verdict(summary))]
    audit = summary.audit
    if audit is not None:
        for one in audit.findings:
            blocks.append(Notice(finding_line(one), [line for line in (one.meaning, one.remedy) if line]))
        ran = f"Checked: {', '.join(title.lower() for title in audit.ran)}."
        lacking = "".join(f" Not possible: {title.lower()} ({why})." for title, why in audit.not_possible.items())
        blocks.append(Paragraph(f"{ran}{lacking} No image was looked at, as the checks for copies and shortcuts do."))
        blocks.append(Paragraph(f"All checks, with tables and images: {_COMMAND}"))
    return Section("What could be wrong", "audit", blocks)
