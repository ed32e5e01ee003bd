"""The sections of a report with the paper's Tables 6 and 7 and its inconsistencies, and with compared sweeps."""

from __future__ import annotations

from collections.abc import Sequence

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.evaluation.comparison import AdjustedP, Comparison
from covidnet.evaluation.results import Measured, empty
from covidnet.report.paper.published import SOURCES, TABLE6, TABLE7, inconsistencies
from covidnet.report.paper.tables import approach, augmentation
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Paragraph, References, Section, Table
from covidnet.report.summary import SweepSummary
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value, area, printed, rate
from covidnet.report.words import count, model_name, probability, sweep_name

_METRICS = (("Accuracy", "accuracy"), ("Sensitivity", "sensitivity"), ("Specificity", "specificity"))


def beside_the_paper(summaries: Sequence[SweepSummary]) -> Section:
    """Tables 6 and 7.

    Args:
        summaries: of the reported sweep, then of any others.
    """
    blocks: list[Block] = [_table6(summaries), _table7(summaries)]
    cited = [SOURCES["Narin"]]
    return Section("With and without augmentation, and other approaches", "paper", [*blocks, References(cited)])


def _table6(summaries: Sequence[SweepSummary]) -> Table:
    columns, rows = [Column("")], [[title] for title, _ in _METRICS]
    cells: list[list[Cell]] = [list(row) for row in rows]
    for kind, group in (("with", "With augmentation"), ("without", "Without augmentation"), (None, "Not recorded")):
        if kind is not None:
            columns.append(Column("paper", group))
            for row, (_, key) in zip(cells, _METRICS, strict=True):
                row.append(printed(TABLE6[kind][key]))
        for summary in summaries:
            if augmentation(summary) == kind:
                columns.append(Column(sweep_name(summary), group))
                pooled = summary.pooled
                means = (pooled.accuracy, pooled.macro.sensitivity, pooled.macro.specificity)
                for row, mean in zip(cells, means, strict=True):
                    row.append(rate(mean))
    return Table(
        "With and without augmentation: accuracy, and the classes' mean sensitivity and specificity, on the pooled "
        "test folds. Percent; 95% intervals in brackets.",
        columns,
        cells,
        "Table 6 (paper)",
        ["Overlapping intervals do not show whether a difference is real: see the paired tests of a comparison."],
    )


def _table7(summaries: Sequence[SweepSummary]) -> Table:
    columns = [Column(""), *(Column(name, "Published") for name in TABLE7)]
    cells: list[list[Cell]] = [[title] for title, _ in _METRICS]
    for published in TABLE7.values():
        for row, (_, key) in zip(cells, _METRICS, strict=True):
            value = published[key]
            row.append("" if value is None else printed(value))
    for summary in summaries:
        repeats = approach(summary)
        note = "" if repeats is None else f", as \N{LEFT DOUBLE QUOTATION MARK}{repeats}\N{RIGHT DOUBLE QUOTATION MARK}"
        columns.append(Column(f"{sweep_name(summary)} ({model_name(summary)}{note})", "Ours"))
        covid = summary.pooled.classes[DEFAULT_CLASSES[0]]
        for row, number in zip(cells, (covid.accuracy, covid.sensitivity, covid.specificity), strict=True):
            row.append(rate(number))
    return Table(
        "COVID-19 against the other two classes, on the pooled test folds. Percent; 95% intervals in brackets.",
        columns,
        cells,
        "Table 7 (paper)",
        [
            "The paper ran \N{LEFT DOUBLE QUOTATION MARK}CNN\N{RIGHT DOUBLE QUOTATION MARK} and "
            "\N{LEFT DOUBLE QUOTATION MARK}Narin et al.\N{RIGHT DOUBLE QUOTATION MARK} on its own data; RT-PCR was "
            "measured on other patients, in the study of the Infectious Diseases Society of America that the paper "
            "names, which gives no accuracy."
        ],
    )


def comparisons(found: Sequence[Comparison]) -> Section:
    """Each pair of sweeps, compared on the same images.

    Args:
        found: at least one comparison.
    """
    blocks: list[Block] = [
        Paragraph(
            "Two sweeps on the same folds predict the same images, so they are compared image by image or fold by "
            "fold. That detects smaller differences than comparing two intervals. The adjusted p values (Holm) account "
            "for all tests."
        )
    ]
    blocks += [_comparison(pair) for pair in found]
    return Section("Sweeps compared", "comparison", blocks)


def _comparison(pair: Comparison) -> Table:
    columns = [Column("Test"), Column("A"), Column("B"), Column("A \N{MINUS SIGN} B"), Column("Statistic"), Column("p"),
               Column("p, adjusted")]  # fmt: skip
    mcnemar, test, holm = pair.mcnemar, pair.t_test, pair.p_holm or empty(AdjustedP)
    rows: list[list[Cell]] = [
        [
            "Accuracy, McNemar",
            rate(pair.accuracy_a),
            rate(pair.accuracy_b),
            rate(pair.difference),
            f"only A correct: {count(mcnemar.only_a)}; only B correct: {count(mcnemar.only_b)}",
            probability(mcnemar.p),
            probability(holm.mcnemar),
        ]
    ]
    if test:
        difference = Measured(test.mean_difference, test.ci)
        rows.append(
            [
                "Accuracy over folds, corrected t",
                "",
                "",
                rate(difference),
                f"t = {Value(test.t, digits=2).number}, {Value(test.df).number} degrees of freedom",
                probability(test.p),
                probability(holm.t_test),
            ]
        )
    for name, delong in pair.delong.items():
        rows.append(
            [
                f"AUC of {name}, DeLong",
                area(delong.auc_a),
                area(delong.auc_b),
                area(Measured(delong.difference, delong.ci)),
                f"z = {Value(delong.z, digits=2).number}",
                probability(delong.p),
                probability(holm.delong.get(name)),
            ]
        )
    a, b = pair.a, pair.b
    return Table(
        f"A: {a}. B: {b}. {count(pair.n, 'image')} predicted by both. Accuracy in percent, its differences "
        "in percentage points; AUC as a fraction; 95% intervals in brackets.",
        columns,
        rows,
    )


def what_does_not_add_up() -> Section:
    """The inconsistencies of the published tables."""
    blocks: list[Block] = [
        Paragraph("Found by arithmetic on the printed numbers; the paper prints neither counts nor confusion matrices.")
    ]
    blocks.append(Bullets([f"{table}. {line}" for table, lines in inconsistencies().items() for line in lines]))
    return Section("What does not add up in the published tables", "inconsistencies", blocks)


def overview(summaries: Sequence[SweepSummary]) -> Table:
    """The sweeps of a report side by side.

    Args:
        summaries: of two or more sweeps.
    """
    columns = [Column("Sweep"), Column("Folds"), Column("Model"), Column("Augmentation"),
               Column("test folds", "Accuracy"), Column("unseen fold, ensemble", "Accuracy"),
               Column("unseen fold, sd of models", "Accuracy")]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            sweep_name(summary),
            str(len(summary.folds)),
            model_name(summary),
            str(summary.augment.get("mode") or UNDEFINED),
            rate(summary.pooled.accuracy),
            rate(summary.unseen.ensemble.accuracy if summary.unseen else None),
            rate(summary.unseen.sd.accuracy if summary.unseen else None),
        ]
        for summary in summaries
    ]
    return Table("The sweeps of this report. Percent; 95% intervals in brackets.", columns, rows)
