"""The sections of a report on another data set: its images, training images among them, and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covidnet.base.classes import ClassList
from covidnet.evaluation.calibration import Calibration
from covidnet.evaluation.results import Estimate
from covidnet.evaluation.scores import SplitScores
from covidnet.evaluation.sparse import MIN_IMAGES, MIN_PATIENTS, ClassSize
from covidnet.report.external.summary import ClassCoverage, ExternalSummary, Overlap
from covidnet.report.plots.confusion import confusion_axes, matrix_size
from covidnet.report.plots.drawing import WIDTH, new_figure, styled
from covidnet.report.plots.reliability import reliability_axes
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Figure, Notice, Paragraph, Section, Table
from covidnet.report.summary import ALL
from covidnet.report.sweep.results import METRICS, confusion_table, confusion_words, curve_blocks
from covidnet.report.values import Value, area, rate
from covidnet.report.words import class_words, count, estimate_of, mean_words, patients_words, versus


def abstract(summary: ExternalSummary) -> tuple[Paragraph, Bullets]:
    """What was predicted, and the numbers to quote, each with its interval.

    Args:
        summary: of an evaluation.
    """
    scores, cover = summary.external, summary.coverage
    main = summary.classes.positive
    of_main = scores.classes[main]
    text = (
        f"The model ({summary.model.get('title')}) predicted {count(cover.predicted, 'image')} of the data set "
        f"\N{LEFT DOUBLE QUOTATION MARK}{summary.name}\N{RIGHT DOUBLE QUOTATION MARK}. In brackets: 95% intervals."
    )
    seen = summary.overlap.seen_predicted or 0
    if seen:
        text += f" The headline excludes {count(seen, 'image')} used for training or validation of the model."
    n, support = scores.n, of_main.support
    others = None if n is None or support is None else n - support
    patients = patients_words(scores.patients, summary.data.patients, summary.data.unknown_patients)
    lines = [
        f"The prediction is correct for {estimate_of(scores.accuracy, n)}, from {patients}.",
        f"{class_words(main, of_main, others)}.",
    ]
    if (unseen := summary.study.get("unseen")) is not None:
        accuracy = estimate_of(unseen.scores.accuracy, unseen.scores.n)
        lines.append(f"On the unseen fold of its own study the model is correct for {accuracy}.")
    return Paragraph(text), Bullets(lines)


def notice(summary: ExternalSummary) -> Notice:
    """The box above the numbers.

    Args:
        summary: of an evaluation.
    """
    return Notice("Read this before the numbers", summary.notes)


def images(summary: ExternalSummary) -> Section:
    """How many images there are, how many were refused and why, and how many are scored.

    Args:
        summary: of an evaluation.
    """
    cover, data, gate = summary.coverage, summary.data, summary.model.get("gate")
    columns = [Column("Class"), Column("Images"), Column("Refused"), Column("Predicted"), Column("Predicted, %"),
               Column("Training images"), Column("In the headline")]  # fmt: skip
    rows: list[list[Cell]] = []
    classes = [cover.classes[label] for label in summary.classes]
    for label, numbers in zip(summary.classes, classes, strict=True):
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
        patients += f" and {count(data.unknown_patients, 'image')} without a known patient"
    text = (
        f"The data set has {count(data.images, 'readable image')}, from {patients}"
        f"; {count(cover.unreadable, 'file')} could not be read."
    )
    if gate == "refuse":
        text += (
            " The numbers below are of the images that the input gate accepts. The refused ones may be harder, and if "
            "it refuses many images of a class, the numbers say little about that class."
        )
    blocks: list[Block] = [
        Paragraph(text),
        Table(
            "Images of each class. Refused: by the input gate, or because the file changed while being read."
            + (" The input gate was off." if gate == "off" else "")
            + _search_note(summary),
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
            f"Warnings of the input gate on {count(cover.warned, 'image')}, which are scored nevertheless "
            "(gate=warn); an image may have several."
        )
        blocks.append(Table(caption, [Column("Warning"), Column("Images")], body))
    return Section("Images", "images", blocks)


def training_images(summary: ExternalSummary) -> Section:
    """Images that were used to train or validate the model, and duplicates within the data set.

    Args:
        summary: of an evaluation.
    """
    found = summary.overlap
    blocks: list[Block] = [Paragraph(_search(found))]
    if kinds := found.kinds:
        rows: list[list[Cell]] = [[kind, Value(number)] for kind, number in kinds.items()]
        blocks.append(
            Table(
                "Training images in this data set, by how they were changed.", [Column("Kind"), Column("Images")], rows
            )
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
        caption = "The training images found" + (f"; {more:,} more are in overlap.csv." if more > 0 else ".")
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
        caption = "Duplicates in this data set" + (f"; {more:,} more pairs are in copies.csv." if more > 0 else ".")
        blocks.append(Table(caption, columns, rows, notes=["Both images of a pair are scored."]))
    return Section("Training images in this data set", "training-images", blocks)


def results(summary: ExternalSummary) -> Section:
    """The numbers of each class, the confusion matrix and the curves.

    Args:
        summary: of an evaluation.
    """
    scores = summary.external
    classes, about = summary.classes, versus(summary.classes)
    unknown = bool(summary.data.unknown_patients)
    blocks: list[Block] = [_scores(scores, summary.sizes, about, classes, unknown)]
    if summary.external_all is not None:
        blocks.append(
            _scores(
                summary.external_all,
                {},
                "The same including the training images, for comparison only: the model was fitted to some of these "
                f"images. {about}",
                classes,
                unknown,
            )
        )
    if scores.n:
        blocks.append(_confusion(scores.confusion, classes))
    blocks += curve_blocks(summary.curves.external, "external images", classes)
    return Section("Results", "results", blocks)


def beside_the_study(summary: ExternalSummary) -> Section | None:
    """The external metrics and those of the study that trained the model; None if those are unknown.

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
    rows: list[list[Cell]] = [["Accuracy", *_differences([scores.accuracy for scores in all_scores], False)]]
    for title, key in METRICS:
        for label in summary.classes.reported:
            estimates = [scores.classes[label].of(key) for scores in all_scores]
            rows.append([f"{title}, {label}", *_differences(estimates, key == "auc")])
    caption = (
        "External metrics and those of the study that trained the model. Percent and percentage points (external minus "
        "study), AUC as a fraction; 95% intervals in brackets."
    )
    note = (
        "The images and the class frequencies differ, and either can cause a difference. "
        "No model was trained on the images of the unseen fold"
        + (
            "; each image of the test folds was predicted by the one model that was not trained on it."
            if len(parts) > 1
            else "."
        )
    )
    return Section("Comparison with the study's own numbers", "study", [Table(caption, columns, rows, notes=[note])])


def calibration(summary: ExternalSummary) -> Section | None:
    """Calibration on these images; None without images.

    Args:
        summary: of an evaluation.
    """
    after, before = summary.calibration.external, summary.calibration.before
    if after is None:
        return None
    known = [(name, numbers) for name, numbers in (("Before temperature scaling", before), ("After", after)) if numbers]
    if before is None:
        known = [("As predicted", after)]
    rows: list[list[Cell]] = [[name, area(numbers.ece), area(numbers.brier)] for name, numbers in known]
    drawing = _reliability(after, before)
    how = (
        "The temperature was fitted on validation images of the training study and need not fit here: another hospital "
        "has other images and other class frequencies."
        if before
        else "The model has no temperature: its probabilities are as predicted."
    )
    caption = (
        "Reliability on the external images: accuracy by confidence, with 95% intervals, above the number of images in "
        "each bin. On the dotted line confidence equals accuracy; above it the model is under-confident, below it "
        "over-confident." + (" Filled: before temperature scaling. Hollow: after it." if before else "")
    )
    return Section(
        "Calibration",
        "calibration",
        [
            Paragraph(how),
            Figure(caption, f"Reliability diagram; expected calibration error {area(after.ece).number}.", drawing),
            Table(
                "Calibration on the external images. ECE: mean absolute difference of accuracy and confidence, "
                "weighted by images (0 is best). Brier: mean squared error of the probabilities, summed over the "
                f"classes (0 best, 2 worst; {1 - 1 / len(summary.classes):.3f} for equal probabilities).",
                [Column(""), Column("ECE"), Column("Brier score")],
                rows,
            ),
        ],
    )


def intervals() -> Section:
    """How the intervals were computed."""
    return Section(
        "Notes on the intervals",
        "intervals",
        [
            Bullets(
                [
                    "All intervals are 95% intervals with the patient as the unit. Accuracy, sensitivity, specificity "
                    "and F1: Wilson's score interval (DOI 10.1080/01621459.1927.10502953) on the effective number of "
                    "images (DOI 10.1093/jssam/smv024). AUC: DeLong's variance, clustered by patient (DOI "
                    "10.2307/2533958). Means over the classes: a bootstrap that resamples whole patients.",
                    f"A class with fewer than {MIN_IMAGES} images, or fewer than {MIN_PATIENTS} patients, gets no "
                    "interval, and an absent class no number.",
                    "The intervals show how the numbers of this model would vary with other patients from the same "
                    "population. They do not cover retraining or another hospital.",
                ]
            )
        ],
    )


def _sum(values: Sequence[int | None]) -> int | None:
    """The sum; None if a value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _cover_row(numbers: ClassCoverage) -> list[Cell]:
    images, predicted, training = numbers.images, numbers.predicted, numbers.training
    share = rate(predicted / images if images and predicted is not None else None)
    headline = None if predicted is None else predicted - (training or 0)
    return [
        Value(images), Value(numbers.refused), Value(predicted), share,
        "unknown" if training is None else Value(training), Value(headline),
    ]  # fmt: skip


def _search_note(summary: ExternalSummary) -> str:
    """How far the column of training images can be trusted."""
    how = summary.overlap.how
    if how == "no":
        return " The search for training images was not possible: all predicted images are in the headline."
    return " Training images: for some models only identical files were searched for." if how == "files" else ""


def _search(found: Overlap) -> str:
    if found.how == "no":
        return str(found.problem)
    what = (
        f"Each image was compared with {count(found.known, 'image')} of the training study, by file and by pixels. "
        "That finds images that were mirrored, inverted, rotated, resized, saved again, changed in brightness or "
        "contrast, or cropped by up to a fifth of each side. Images of one patient taken within a short time may be "
        "matched too."
        if found.how == "films"
        else str(found.problem)
    )
    seen, other = found.seen or 0, found.study or 0
    result = (
        f" {count(seen, 'image')} {'was' if seen == 1 else 'were'} used for training or validation of the model."
        if seen
        else " No training images were found."
    )
    if other:
        be = "is" if other == 1 else "are"
        result += f" {count(other, 'image')} of the study's test or unseen fold {be} here too, and scored."
    return what + result


def _scores(
    scores: SplitScores, sizes: Mapping[str, ClassSize], caption: str, classes: ClassList, unknown: bool
) -> Table:
    shown, means = classes.reported, [] if classes.binary else [ALL]
    columns = [Column(""), *(Column(name) for name in (*shown, *means))]
    numbers = [scores.classes[name] for name in shown]
    rows: list[list[Cell]] = []
    for title, key in METRICS:
        formatted = area if key == "auc" else rate
        rows.append([title, *(formatted(one.of(key)) for one in (*numbers, *(scores.macro for _ in means)))])
    rows.append(["Accuracy", *[""] * (len(columns) - 2), rate(scores.accuracy)])
    # Of two classes the only column is about all images.
    counted = [(one.support, sizes[name].patients if sizes else None) for name, one in zip(shown, numbers, strict=True)]
    counts = [*(counted if means else []), (scores.n, scores.patients)]
    rows.append(["Images", *(Value(images) for images, _ in counts)])
    if sizes:
        rows.append(["Patients, at most" if unknown else "Patients", *(Value(patients) for _, patients in counts)])
    every = f"{mean_words(classes)}." if means else ""
    return Table(f"{caption}. Percent, AUC as a fraction; 95% intervals in brackets.{every}", columns, rows)


def _confusion(counts: list[list[int]], classes: ClassList) -> Figure:
    return Figure(
        "Confusion matrix: images, and below them the percentage of the row. Rows are the true classes, columns the "
        "predicted ones.",
        f"Confusion matrix. {confusion_words(counts, classes)}.",
        _confusion_figure(counts, classes),
        [confusion_table("Confusion matrix. Images.", counts, classes)],
    )


@styled
def _confusion_figure(counts: Sequence[Sequence[int]], classes: ClassList) -> Any:
    width, height = matrix_size(len(classes))
    figure = new_figure(width, height)
    confusion_axes(counts, figure.add_subplot(), "External images", classes)
    return figure


@styled
def _reliability(after: Calibration, before: Calibration | None) -> Any:
    figure = new_figure(WIDTH / 2, 4.0 if before else 3.7)
    reliability_axes(before or after, figure.add_subplot(), "External images", after=after if before else None)
    return figure


def _differences(estimates: Sequence[Estimate], is_area: bool) -> list[Cell]:
    """The external value, then each of the study's with the difference from it."""
    formatted = area if is_area else rate
    here, *others = estimates
    cells: list[Cell] = [formatted(here)]
    for other in others:
        difference = None if here.value is None or other.value is None else here.value - other.value
        cells += [formatted(other), formatted(difference)]
    return cells
