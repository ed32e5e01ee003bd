"""The parts of a report on another data set: what was in it, what of it the model had seen, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covidnet.base.classes import CLASSES
from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.results import Estimate
from covidnet.evaluation.scores import SplitScores
from covidnet.evaluation.sparse import ClassSize
from covidnet.report.external.summary import ClassCoverage, ExternalSummary, Overlap
from covidnet.report.plots.confusion import confusion_axes
from covidnet.report.plots.drawing import WIDTH, new_figure, styled
from covidnet.report.plots.reliability import reliability_axes
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Figure, Notice, Paragraph, Section, Table
from covidnet.report.summary import ALL
from covidnet.report.sweep.results import METRICS, confusion_table, confusion_words, curve_blocks
from covidnet.report.values import Value, area, rate
from covidnet.report.words import class_words, count, estimate_of

_COVID = CLASSES[0]


def abstract(summary: ExternalSummary) -> Paragraph:
    """One paragraph with the numbers that can be quoted.

    Args:
        summary: of an evaluation.
    """
    scores, cover = summary.external, summary.coverage
    covid = scores.classes[_COVID]
    text = (
        f"The model ({summary.model.get('title')}) predicted {count(cover.predicted, 'image')} of the data set "
        f"\N{LEFT DOUBLE QUOTATION MARK}{summary.name}\N{RIGHT DOUBLE QUOTATION MARK}. "
    )
    seen = summary.overlap.seen_predicted or 0
    if seen:
        text += f"The headline is without {count(seen, 'image')} that shaped the model in training. "
    n, support = scores.n, covid.support
    others = None if n is None or support is None else n - support
    text += (
        f"The prediction is right for {estimate_of(scores.accuracy, n)} that count, of "
        f"{count(scores.patients, 'patient')} (in brackets, here and below: 95% intervals). "
        f"{class_words(_COVID, covid, others)}."
    )
    if (unseen := summary.study.get("unseen")) is not None:
        of = estimate_of(unseen.scores.accuracy, unseen.scores.n)
        text += f" On the unseen fold of its own study the model is right for {of}."
    return Paragraph(text)


def notice(summary: ExternalSummary) -> Notice:
    """What has to be known before the numbers.

    Args:
        summary: of an evaluation.
    """
    return Notice("Read this before the numbers", summary.notes)


def images(summary: ExternalSummary) -> Section:
    """How many images there were, how many were refused and why, and how many count.

    Args:
        summary: of an evaluation.
    """
    cover, data, gate = summary.coverage, summary.data, summary.model.get("gate")
    columns = [Column("Class"), Column("Images"), Column("Refused"), Column("Predicted"), Column("Predicted, %"),
               Column("Training images"), Column("In the headline")]  # fmt: skip
    rows: list[list[Cell]] = []
    classes = [cover.classes[label] for label in CLASSES]
    for label, numbers in zip(CLASSES, classes, strict=True):
        rows.append([label, *_cover_row(numbers)])
    total = ClassCoverage(
        images=_sum([one.images for one in classes]),
        refused=_sum([one.refused for one in classes]),
        predicted=_sum([one.predicted for one in classes]),
        training=_sum([one.training for one in classes]),
    )
    rows.append([ALL, *_cover_row(total)])
    patients = count(data.patients, "known patient")
    if data.unknown_patients:
        patients += f" and {count(data.unknown_patients, 'image')} of unknown patients"
    text = (
        f"The set holds {count(data.images, 'image')} that can be read, of {patients}"
        f"; {count(cover.unreadable, 'file')} could not be read."
    )
    if gate == "refuse":
        text += (
            " The numbers below are of the images that the input gate lets pass: the others may be the harder ones, "
            "and where it refuses many of one class, the numbers say little of that class."
        )
    blocks: list[Block] = [
        Paragraph(text),
        Table(
            "Images of each class. Refused: by the input gate, or changed while they were read."
            + (" The input gate was off: nothing was looked for." if gate == "off" else "")
            + _how_looked(summary),
            columns,
            rows,
        ),
    ]
    if causes := cover.causes:
        body: list[list[Cell]] = [[cause, Value(number)] for cause, number in causes.items()]
        blocks.append(
            Table("Why files were refused; refused.csv names each.", [Column("Cause"), Column("Files")], body)
        )
    if flagged := cover.flagged:
        body = [[code, Value(number)] for code, number in flagged.items()]
        caption = (
            f"Warnings of the input gate at {count(cover.warned, 'image')} that count all the same (gate=warn); "
            "an image may have several."
        )
        blocks.append(Table(caption, [Column("Warning"), Column("Images")], body))
    return Section("Images", "images", blocks)


def training_images(summary: ExternalSummary) -> Section:
    """Images of the set that shaped the model, and images that are in the set twice.

    Args:
        summary: of an evaluation.
    """
    found = summary.overlap
    blocks: list[Block] = [Paragraph(_looked(found))]
    if kinds := found.kinds:
        rows: list[list[Cell]] = [[kind, Value(number)] for kind, number in kinds.items()]
        blocks.append(
            Table("Training images in this set, by what was done to them.", [Column("Kind"), Column("Images")], rows)
        )
    if listed := found.listed:
        rows = [
            [
                *(str(cell) for cell in (one.path, one.label, one.training_image_id, one.part, one.kind)),
                area(one.similarity),
            ]
            for one in listed
        ]
        more = (found.seen or 0) - len(listed)
        columns = [Column("Radiograph"), Column("Class"), Column("Training image"), Column("Part"), Column("Kind"),
                   Column("Similarity")]  # fmt: skip
        caption = "Which they are" + (f"; {more:,} more are in overlap.csv." if more > 0 else ".")
        blocks.append(Table(caption, columns, rows))
    copies = summary.copies
    if copies.pairs:
        pairs = copies.listed
        columns = [Column("Radiograph"), Column("Class"), Column("Other image"), Column("Its class"), Column("Kind"),
                   Column("Similarity")]  # fmt: skip
        rows = [
            [
                *(str(cell) for cell in (one.path, one.label, one.other_path, one.other_label, one.kind)),
                area(one.similarity),
            ]
            for one in pairs
        ]
        more = copies.pairs - len(pairs)
        caption = "Images that are in this set twice" + (
            f"; {more:,} more pairs are in copies.csv." if more > 0 else "."
        )
        blocks.append(Table(caption, columns, rows, notes=["Both count in the numbers."]))
    return Section("Training images in this set", "training-images", blocks)


def results(summary: ExternalSummary) -> Section:
    """The numbers of each class, the confusion matrix and the curves.

    Args:
        summary: of an evaluation.
    """
    scores = summary.external
    blocks: list[Block] = [_scores(scores, summary.sizes, "Each class against the other two")]
    if summary.external_all is not None:
        blocks.append(
            _scores(
                summary.external_all,
                {},
                "The same with the training images, to compare alone: the model was fitted to some of these images. "
                "Each class against the other two",
            )
        )
    if scores.n:
        blocks.append(_confusion(scores.confusion))
    blocks += curve_blocks(summary.curves.external, "external images")
    return Section("Results", "results", blocks)


def beside_the_study(summary: ExternalSummary) -> Section | None:
    """The external numbers beside those of the study that trained the model; None where those are not known.

    Args:
        summary: of an evaluation.
    """
    parts = [summary.study[part] for part in ("unseen", "test") if part in summary.study]
    if not parts:
        return None
    columns = [Column(""), Column("External")]
    for part in parts:
        columns += [Column("value", str(part.title)), Column("difference", str(part.title))]
    all_scores = [summary.external, *(part.scores for part in parts)]
    rows: list[list[Cell]] = [["Accuracy", *_beside([scores.accuracy for scores in all_scores], False)]]
    for title, key in METRICS:
        for label in CLASSES:
            estimates = [scores.classes[label].of(key) for scores in all_scores]
            rows.append([f"{title}, {label}", *_beside(estimates, key == "auc")])
    caption = (
        "External numbers beside those of the study that trained the model. Percent and percentage points (external "
        "less the study's), AUC as a fraction; 95% intervals in brackets."
    )
    note = (
        "The images are others, and so is the mix of classes: a difference may come of either, not of the model alone. "
        "No model was trained on the images of the unseen fold"
        + (
            "; each image of the test folds was predicted by the one model that was not trained on it."
            if len(parts) > 1
            else "."
        )
    )
    return Section("Beside the study's own numbers", "study", [Table(caption, columns, rows, notes=[note])])


def calibration(summary: ExternalSummary) -> Section | None:
    """Whether the probabilities mean what they say on these images; None without images.

    Args:
        summary: of an evaluation.
    """
    after, before = summary.calibration.external, summary.calibration.before
    if after is None:
        return None
    known = [(name, numbers) for name, numbers in (("Before the temperature", before), ("After", after)) if numbers]
    if before is None:
        known = [("As predicted", after)]
    rows: list[list[Cell]] = [[name, area(numbers.ece), area(numbers.brier)] for name, numbers in known]
    drawing = _reliability(after, before)
    how = (
        "The temperature was fitted on validation images of the training study. What fits there need not fit here: "
        "another hospital has other images, and another share of each class."
        if before
        else "The model holds no temperature: its probabilities are as predicted."
    )
    caption = (
        "Reliability on the external images: how often predictions of a given confidence are right, with 95% intervals "
        "over the number of images in each bin. On the dotted line confidence is accuracy; above it the model "
        "is under-confident, below it over-confident."
        + (" Filled: before the temperature. Hollow: after it." if before else "")
    )
    return Section(
        "Calibration",
        "calibration",
        [
            Paragraph(how),
            Figure(caption, f"Reliability diagram; expected calibration error {area(after.ece).number}.", drawing),
            Table(
                "Calibration on the external images. ECE: mean distance of accuracy and confidence, weighted by images "
                "(0 is best). Brier: mean squared distance of probabilities and truth, summed over the classes "
                "(0 best, 2 worst; 0.667 says one third to each class).",
                [Column(""), Column("ECE"), Column("Brier score")],
                rows,
            ),
        ],
    )


def intervals() -> Section:
    """What the brackets mean."""
    return Section(
        "Notes on the intervals",
        "intervals",
        [
            Bullets(
                [
                    "All intervals are 95% intervals with the patient as the unit. Accuracy, sensitivity, specificity "
                    "and F1: Wilson's score interval (DOI 10.1080/01621459.1927.10502953) on the effective number of "
                    "images (DOI 10.1093/jssam/smv024). AUC: DeLong's variance, clustered by patient (DOI "
                    "10.2307/2533958). Means over the classes: a bootstrap that draws patients, with all of their "
                    "images.",
                    "Where a class has fewer than 10 images, or images of fewer than 5 patients, it gets no interval, "
                    "and where it is absent no number.",
                    "They say how the numbers would vary with other patients of the same kind, for this model. They do "
                    "not cover another training, or another hospital.",
                ]
            )
        ],
    )


def _sum(values: Sequence[int | None]) -> int | None:
    """The sum; a number that is not known makes it unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _cover_row(numbers: ClassCoverage) -> list[Cell]:
    there, predicted, training = numbers.images, numbers.predicted, numbers.training
    share = rate(predicted / there if there and predicted is not None else None)
    headline = None if predicted is None else predicted - (training or 0)
    return [
        Value(there), Value(numbers.refused), Value(predicted), share,
        "not known" if training is None else Value(training), Value(headline),
    ]  # fmt: skip


def _how_looked(summary: ExternalSummary) -> str:
    """What a reader of the column of training images must know: they were not looked for, or by their bytes alone."""
    how = summary.overlap.how
    if how == "no":
        return " Training images could not be looked for: all that were predicted are in the headline."
    return " Training images: of some models the same files alone were looked for." if how == "files" else ""


def _looked(found: Overlap) -> str:
    if found.how == "no":
        return str(found.problem)
    what = (
        f"Each image was compared with {count(found.known, 'image')} of the training study by the bytes of its "
        "file and by its pixels, also mirrored, inverted, turned, resized, saved again, with another brightness or "
        "contrast, and cropped by up to a fifth of each side. Images of one patient that were taken within a short "
        "time can look alike as well."
        if found.how == "films"
        else str(found.problem)
    )
    seen, other = found.seen or 0, found.study or 0
    result = (
        f" {count(seen, 'image')} shaped the model in training or validation."
        if seen
        else " No training image was found."
    )
    if other:
        result += f" {count(other, 'image')} of the study's test or unseen fold are here too; they count."
    return what + result


def _scores(scores: SplitScores, sizes: Mapping[str, ClassSize], caption: str) -> Table:
    columns = [Column(""), *(Column(name) for name in (*CLASSES, ALL))]
    classes = [scores.classes[name] for name in CLASSES]
    rows: list[list[Cell]] = []
    for title, key in METRICS:
        as_shown = area if key == "auc" else rate
        rows.append([title, *(as_shown(one.of(key)) for one in (*classes, scores.macro))])
    rows.append(["Accuracy", *[""] * len(CLASSES), rate(scores.accuracy)])
    rows.append(["Images", *(Value(one.support) for one in classes), Value(scores.n)])
    if sizes:
        rows.append(["Patients", *(Value(sizes[name].patients) for name in CLASSES), Value(scores.patients)])
    return Table(
        f"{caption}. Percent, AUC as a fraction; 95% intervals in brackets. All classes: the mean of the three.",
        columns,
        rows,
    )


def _confusion(counts: list[list[int]]) -> Figure:
    return Figure(
        "Confusion matrix: images, and below them the percentage of the row. Rows are the true classes, columns the "
        "predicted ones.",
        f"Confusion matrix. {confusion_words(counts)}.",
        _drawn_confusion(counts),
        [confusion_table("Confusion matrix. Images.", counts)],
    )


@styled
def _drawn_confusion(counts: Sequence[Sequence[int]]) -> Any:
    figure = new_figure(WIDTH / 2, 3.4)
    confusion_axes(counts, figure.add_subplot(), "External images")
    return figure


@styled
def _reliability(after: Calibration, before: Calibration | None) -> Any:
    figure = new_figure(WIDTH / 2, 4.0 if before else 3.7)
    reliability_axes(before or after, figure.add_subplot(), "External images", after=after if before else None)
    return figure


def _beside(estimates: Sequence[Estimate], is_area: bool) -> list[Cell]:
    """The external number, and each of the study's followed by the difference to it."""
    as_shown = area if is_area else rate
    here, *others = estimates
    cells: list[Cell] = [as_shown(here)]
    for there in others:
        known = here.value is not None and there.value is not None
        difference = here.value - there.value if here.value is not None and there.value is not None else None
        cells += [as_shown(there), as_shown(difference) if known else area(None)]
    return cells
