"""The parts of a report on another data set: what was in it, what of it the model had seen, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covidnet.base.classes import CLASSES
from covidnet.report.plots.confusion import confusion_axes
from covidnet.report.plots.drawing import WIDTH, new_figure, styled
from covidnet.report.plots.reliability import reliability_axes
from covidnet.report.rendering.document import Block, Bullets, Cell, Column, Figure, Notice, Paragraph, Section, Table
from covidnet.report.summary import ALL, Summary, at
from covidnet.report.sweep.results import curve_blocks
from covidnet.report.values import Value, area, rate
from covidnet.report.words import class_words, count, estimate_of

_COVID = CLASSES[0]
_METRICS = (("Sensitivity", "sensitivity"), ("Specificity", "specificity"), ("F1", "f1"), ("AUC", "auc"))


def abstract(summary: Summary) -> Paragraph:
    """One paragraph with the numbers that can be quoted.

    Args:
        summary: of an evaluation.
    """
    scores, cover = summary.get("external") or {}, summary.get("coverage") or {}
    covid = at(scores, "classes", _COVID)
    text = (
        f"The model ({at(summary, 'model', 'title')}) predicted {count(cover.get('predicted'), 'image')} of the data "
        "set "
        f"\N{LEFT DOUBLE QUOTATION MARK}{summary.get('name')}\N{RIGHT DOUBLE QUOTATION MARK}. "
    )
    seen = at(summary, "overlap", "seen_predicted") or 0
    if seen:
        text += f"The headline is without {count(seen, 'image')} that shaped the model in training. "
    n, support = scores.get("n"), at(covid, "support")
    others = None if n is None or support is None else n - support
    text += (
        f"The prediction is right for {estimate_of(at(scores, 'accuracy'), n)} that count, of "
        f"{count(scores.get('patients'), 'patient')} (in brackets, here and below: 95% intervals). "
        f"{class_words(_COVID, covid, others)}."
    )
    unseen = at(summary, "study", "unseen", "scores", "accuracy")
    if unseen is not None:
        of = estimate_of(unseen, at(summary, "study", "unseen", "scores", "n"))
        text += f" On the unseen fold of its own study the model is right for {of}."
    return Paragraph(text)


def notice(summary: Summary) -> Notice:
    """What has to be known before the numbers.

    Args:
        summary: of an evaluation.
    """
    lines = [str(line) for line in summary.get("notes") or []]
    return Notice("Read this before the numbers", lines)


def images(summary: Summary) -> Section:
    """How many images there were, how many were refused and why, and how many count.

    Args:
        summary: of an evaluation.
    """
    cover, data = summary.get("coverage") or {}, summary.get("data") or {}
    columns = [Column("Class"), Column("Images"), Column("Refused"), Column("Predicted"), Column("Predicted, %"),
               Column("Training images"), Column("In the headline")]  # fmt: skip
    rows: list[list[Cell]] = []
    totals: dict[str, int | None] = dict.fromkeys(("films", "refused", "predicted", "training"), 0)
    for label in CLASSES:
        numbers = at(cover, "classes", label) or {}
        rows.append([label, *_cover_row(numbers)])
        # A number that is not known makes its sum unknown.
        totals = {key: None if value is None or numbers.get(key) is None else value + numbers[key]
                  for key, value in totals.items()}  # fmt: skip
    rows.append([ALL, *_cover_row(totals)])
    patients = count(data.get("patients"), "known patient")
    if data.get("unknown_patients"):
        patients += f" and {count(data['unknown_patients'], 'image')} of unknown patients"
    text = (
        f"The set holds {count(data.get('films'), 'image')} that can be read, of {patients}"
        f"; {count(cover.get('unreadable'), 'file')} could not be read."
    )
    if at(summary, "model", "gate") == "refuse":
        text += (
            " The numbers below are of the images that the input gate lets pass: the others may be the harder ones, "
            "and "
            "where it refuses many of one class, the numbers say little of that class."
        )
    blocks: list[Block] = [
        Paragraph(text),
        Table(
            "Images of each class. Refused: by the input gate, or changed while they were read."
            + (" The input gate was off: nothing was looked for." if at(summary, "model", "gate") == "off" else "")
            + _how_looked(summary),
            columns,
            rows,
        ),
    ]
    causes = cover.get("causes") or {}
    if causes:
        body: list[list[Cell]] = [[cause, Value(number)] for cause, number in causes.items()]
        blocks.append(
            Table("Why files were refused; refused.csv names each.", [Column("Cause"), Column("Files")], body)
        )
    flagged = cover.get("flagged") or {}
    if flagged:
        body = [[code, Value(number)] for code, number in flagged.items()]
        caption = (
            f"Warnings of the input gate at {count(cover.get('warned'), 'image')} that count all the same (gate=warn); "
            "an image may have several."
        )
        blocks.append(Table(caption, [Column("Warning"), Column("Images")], body))
    return Section("Images", "images", blocks)


def training_images(summary: Summary) -> Section:
    """Images of the set that shaped the model, and images that are in the set twice.

    Args:
        summary: of an evaluation.
    """
    found = summary.get("overlap") or {}
    blocks: list[Block] = [Paragraph(_looked(found))]
    kinds = found.get("kinds") or {}
    if kinds:
        rows: list[list[Cell]] = [[kind, Value(number)] for kind, number in kinds.items()]
        blocks.append(
            Table("Training images in this set, by what was done to them.", [Column("Kind"), Column("Images")], rows)
        )
    listed = found.get("listed") or []
    if listed:
        names = ("path", "label", "training_image_id", "part", "kind")
        rows = [[*(str(row.get(name)) for name in names), area(row.get("similarity"))] for row in listed]
        more = (found.get("seen") or 0) - len(listed)
        columns = [Column("Radiograph"), Column("Class"), Column("Training image"), Column("Part"), Column("Kind"),
                   Column("Similarity")]  # fmt: skip
        caption = "Which they are" + (f"; {more:,} more are in overlap.csv." if more > 0 else ".")
        blocks.append(Table(caption, columns, rows))
    copies = summary.get("copies") or {}
    if copies.get("pairs"):
        pairs = copies.get("listed") or []
        columns = [Column("Radiograph"), Column("Class"), Column("Other image"), Column("Its class"), Column("Kind"),
                   Column("Similarity")]  # fmt: skip
        names = ("path", "label", "other_path", "other_label", "kind")
        rows = [[*(str(row.get(name)) for name in names), area(row.get("similarity"))] for row in pairs]
        more = copies["pairs"] - len(pairs)
        caption = "Images that are in this set twice" + (
            f"; {more:,} more pairs are in copies.csv." if more > 0 else "."
        )
        blocks.append(Table(caption, columns, rows, notes=["Both count in the numbers."]))
    return Section("Training images in this set", "training-images", blocks)


def results(summary: Summary) -> Section:
    """The numbers of each class, the confusion matrix and the curves.

    Args:
        summary: of an evaluation.
    """
    scores = summary.get("external") or {}
    blocks: list[Block] = [_scores(scores, summary, "Each class against the other two")]
    if summary.get("external_all") is not None:
        blocks.append(
            _scores(
                summary["external_all"],
                {},
                "The same with the training images, to compare alone: the model was fitted to some of these images. "
                "Each "
                "class against the other two",
            )
        )
    if scores.get("n"):
        blocks.append(_confusion(scores))
    blocks += curve_blocks(summary, "external", "external images")
    return Section("Results", "results", blocks)


def beside_the_study(summary: Summary) -> Section | None:
    """The external numbers beside those of the study that trained the model; None where those are not known.

    Args:
        summary: of an evaluation.
    """
    parts = [at(summary, "study", part) for part in ("unseen", "test")]
    parts = [part for part in parts if part]
    if not parts:
        return None
    columns = [Column(""), Column("External")]
    for part in parts:
        columns += [Column("value", str(part["title"])), Column("difference", str(part["title"]))]
    places: list[tuple[str, tuple[str, ...], bool]] = [("Accuracy", ("accuracy",), False)]
    for title, key in _METRICS:
        places += [(f"{title}, {label}", ("classes", label, key), key == "auc") for label in CLASSES]
    rows: list[list[Cell]] = []
    for title, keys, is_area in places:
        here = at(summary, "external", *keys)
        as_shown = area if is_area else rate
        row: list[Cell] = [title, as_shown(here)]
        for part in parts:
            there = at(part, "scores", *keys)
            row += [as_shown(there), _difference(here, there, is_area)]
        rows.append(row)
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


def calibration(summary: Summary) -> Section | None:
    """Whether the probabilities mean what they say on these images; None without images.

    Args:
        summary: of an evaluation.
    """
    after, before = at(summary, "calibration", "external"), at(summary, "calibration", "before")
    if not after:
        return None
    known = [(name, numbers) for name, numbers in (("Before the temperature", before), ("After", after)) if numbers]
    if before is None:
        known = [("As predicted", after)]
    rows: list[list[Cell]] = [[name, area(numbers.get("ece")), area(numbers.get("brier"))] for name, numbers in known]
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
            Figure(
                caption, f"Reliability diagram; expected calibration error {area(after.get('ece')).number}.", drawing
            ),
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


def _cover_row(numbers: Mapping[str, Any]) -> list[Cell]:
    there, predicted, training = (numbers.get(key) for key in ("films", "predicted", "training"))
    share = rate(predicted / there if there and predicted is not None else None)
    headline = None if predicted is None else predicted - (training or 0)
    return [
        Value(there), Value(numbers.get("refused")), Value(predicted), share,
        "not known" if training is None else Value(training), Value(headline),
    ]  # fmt: skip


def _how_looked(summary: Summary) -> str:
    """What a reader of the column of training images must know: they were not looked for, or by their bytes alone."""
    how = at(summary, "overlap", "how")
    if how == "no":
        return " Training images could not be looked for: all that were predicted are in the headline."
    return " Training images: of some models the same files alone were looked for." if how == "files" else ""


def _looked(found: Mapping[str, Any]) -> str:
    if found.get("how") == "no":
        return str(found.get("problem"))
    what = (
        f"Each image was compared with {count(found.get('known'), 'image')} of the training study by the bytes of its "
        "file and by its pixels, also mirrored, inverted, turned, resized, saved again, with another brightness or "
        "contrast, and cropped by up to a fifth of each side. Images of one patient that were taken within a short "
        "time can look alike as well."
        if found.get("how") == "films"
        else str(found.get("problem"))
    )
    seen, other = found.get("seen") or 0, found.get("study") or 0
    result = (
        f" {count(seen, 'image')} shaped the model in training or validation."
        if seen
        else " No training image was found."
    )
    if other:
        result += f" {count(other, 'image')} of the study's test or unseen fold are here too; they count."
    return what + result


def _scores(scores: Mapping[str, Any], summary: Summary, caption: str) -> Table:
    columns = [Column(""), *(Column(name) for name in (*CLASSES, ALL))]
    rows: list[list[Cell]] = []
    for title, key in _METRICS:
        as_shown = area if key == "auc" else rate
        rows.append([title, *(as_shown(at(scores, "classes", name, key)) for name in CLASSES),
                     as_shown(at(scores, "macro", key))])  # fmt: skip
    rows.append(["Accuracy", *[""] * len(CLASSES), rate(at(scores, "accuracy"))])
    rows.append(
        ["Images", *(Value(at(scores, "classes", name, "support")) for name in CLASSES), Value(scores.get("n"))]
    )
    sizes = summary.get("sizes") or {}
    if sizes:
        patients = [Value(at(sizes, name, "patients")) for name in CLASSES]
        rows.append(["Patients", *patients, Value(scores.get("patients"))])
    return Table(
        f"{caption}. Percent, AUC as a fraction; 95% intervals in brackets. All classes: the mean of the three.",
        columns,
        rows,
    )


def _confusion(scores: Mapping[str, Any]) -> Figure:
    counts = scores["confusion"]
    words = "; ".join(
        f"true {name}: " + ", ".join(f"{n} called {called}" for n, called in zip(row, CLASSES, strict=True))
        for name, row in zip(CLASSES, counts, strict=True)
    )
    columns = [Column("true class"), *(Column(name, "predicted") for name in CLASSES)]
    rows: list[list[Cell]] = [[name, *(Value(n) for n in row)] for name, row in zip(CLASSES, counts, strict=True)]
    return Figure(
        "Confusion matrix: images, and below them the percentage of the row. Rows are the true classes, columns the "
        "predicted ones.",
        f"Confusion matrix. {words}.",
        _drawn_confusion(counts),
        [Table("Confusion matrix. Images.", columns, rows)],
    )


@styled
def _drawn_confusion(counts: Sequence[Sequence[int]]) -> Any:
    figure = new_figure(WIDTH / 2, 3.4)
    confusion_axes(counts, figure.add_subplot(), "External images")
    return figure


@styled
def _reliability(after: Mapping[str, Any], before: Mapping[str, Any] | None) -> Any:
    figure = new_figure(WIDTH / 2, 4.0 if before else 3.7)
    shown = before or after
    reliability_axes(
        shown["bins"],
        shown.get("ece"),
        shown.get("brier"),
        figure.add_subplot(),
        "External images",
        after=after if before else None,
    )
    return figure


def _difference(here: Any, there: Any, is_area: bool) -> Cell:
    first, second = at(here, "value"), at(there, "value")
    if first is None or second is None:
        return area(None)
    if is_area:
        return Value(first - second, None, 1.0, 3)
    return Value(first - second, None, 100.0, 1)
