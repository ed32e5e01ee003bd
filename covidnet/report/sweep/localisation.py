"""The part of a report on whether heat maps localise lesions."""

from __future__ import annotations

from collections.abc import Mapping

from covidnet.evaluation.explanations import lesion_verdict, lung_verdict
from covidnet.evaluation.localisation import MIN_PATIENTS, LocalisationSummary, MapEstimate, MeasureSummary
from covidnet.report.plots.figures import localisation_figure
from covidnet.report.rendering.document import Block, Cell, Column, Figure, Paragraph, Table
from covidnet.report.summary import SweepExplanations
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import Value, rate
from covidnet.report.words import MEASURES, count, estimate_text, fold_of, measure_names

_MINUS = "\N{MINUS SIGN}"
_BY_EYE = "The paper's Figure 5 compares the maps of five images with the drawings of two radiologists by eye; "


def localisation_blocks(found: SweepExplanations) -> list[Block]:
    """How well the maps localise known lesions and lungs, compared with three baselines.

    Args:
        found: the explanations of a sweep.

    Returns:
        A single sentence if nothing was measured.
    """
    localisation = found.localisation
    if localisation is None:
        return [
            Paragraph(
                "Localisation was not measured: it needs images with known lesions or lungs (data.masks=DIR or "
                "data.boxes=FILE), and explain.localisation_images above 0. "
                f"{_BY_EYE}this report has no number for it."
            )
        ]
    measures = localisation.measures
    images, patients = localisation.n, localisation.patients
    whose = "" if found.method == "eigencam" else ", with the map of its true class"
    models = len(found.folds)
    several = (
        f" Each image counts once, with the mean score of the maps of {count(models, 'model')}."
        if models > 1 and found.part != "test"
        else ""
    )
    if images:
        over = (
            f"{_BY_EYE}this report measures it, on {count(images, 'image')} of the {fold_of(found.part)} "
            f"with a known lesion ({count(patients, 'patient')}){whose}.{several}"
        )
    else:
        over = (
            "No image has a known lesion, so localisation of lesions was not measured; data.masks=DIR or "
            f"data.boxes=FILE gives lesions. {_BY_EYE}this report has no number for it. The heat in the lungs was "
            f"measured on {count(localisation.images, 'image')}{whose}.{several}"
        )
    blocks: list[Block] = [Paragraph(over), Paragraph(_measured(measures))]
    drawing = localisation_figure(measures)
    if drawing is not None:
        blocks.append(
            Figure(
                "Localisation: the model's maps compared with three baselines, with 95% intervals (bootstrap over "
                "patients). Higher is better.",
                "Dots with intervals. " + " ".join(_measure_words(measures[name], name) for name in _known(measures)),
                drawing,
            )
        )
    blocks.append(_table(measures))
    words = [*_verdict(localisation), _constant(localisation)]
    return [*blocks, Paragraph(" ".join(word for word in words if word))]


def _measured(measures: Mapping[str, MeasureSummary]) -> str:
    definitions = {
        "touch": "Touches a lesion: the part of a map above Otsu's threshold overlaps a lesion, which is the paper's "
        "criterion.",
        "pointing": "Pointing game (Zhang et al.): how often the maximum of a map lies in a lesion.",
        "iou": "IoU: intersection over union of the lesion and the part of a map above Otsu's threshold.",
        "lesion_share": "Heat in the lesion, or in the lungs: its fraction of all heat of a map.",
    }
    return " ".join(
        [
            *(text for name, text in definitions.items() if name in measures),
            "The centre prior is the same blob in the centre of every image; maps that do not beat it show nothing.",
            "The mean map is the mean of the model's maps of the other images: it shows where this model usually "
            "looks, without having seen this image.",
            "Chance is a uniformly random place: it lies in a region as often as the region's share of the area.",
            "A constant map counts as a miss: it touches no lesion, and its pointing game, its IoU and its heat in the "
            "lesion are 0; it has no heat in the lungs to measure. All numbers of a row are over the same images.",
        ]
    )


def _table(measures: Mapping[str, MeasureSummary]) -> Table:
    columns = [Column(""), Column("Images"), Column("Model"), Column("Centre prior"), Column("Mean map"),
               Column("Chance"), Column("centre prior", f"Model {_MINUS}"), Column("mean map", f"Model {_MINUS}"),
               Column("chance", f"Model {_MINUS}")]  # fmt: skip
    rows: list[list[Cell]] = []
    for name in _known(measures):
        one = measures[name]
        estimates = (one.model, one.centre, one.mean_map, one.chance,
                     one.difference, one.difference_mean_map, one.difference_chance)  # fmt: skip
        rows.append([MEASURES[name], Value(one.n), *(rate(estimate) for estimate in estimates)])
    return Table(
        "Localisation. Percent, differences in percentage points; 95% intervals in brackets (bootstrap over patients).",
        columns,
        rows,
    )


def _verdict(localisation: LocalisationSummary) -> list[str]:
    """Whether the maps are better than the baselines, and by how much."""
    better, measures = localisation.better_than_centre, localisation.measures
    lines = [line for line in (_lesion_fault(localisation), _lungs(localisation)) if line]
    if better is None:
        return lines
    judged = [name for name in ("pointing", "iou", "lesion_share") if name in measures]
    if better:
        images = count(localisation.n, "image")
        lines.insert(0, f"On {images} with known lesions the maps are better than the centre prior and chance by: "
                        f"{measure_names(judged)}.")  # fmt: skip
    for baseline, differences in (
        ("centre prior", {name: measures[name].difference for name in judged}),
        ("chance", {name: measures[name].difference_chance for name in judged}),
    ):
        known = {name: one for name, one in differences.items() if one.value is not None}
        text = "; ".join(f"{measure_names([name])} {_points(one)}" for name, one in known.items())
        lines += [f"Model {_MINUS} {baseline}: {text}."] if text else []
    if not_better := localisation.not_better_than_mean_map:
        lines.append(
            f"They are no better than the mean map by: {measure_names(not_better)}; by these measures nothing shows "
            "that a map follows its image."
        )
    elif any(measures[name].mean_map.value is not None for name in judged):
        lines.append("They are better than the mean map by all of these, so they follow the image.")
    return lines


def _lesion_fault(localisation: LocalisationSummary) -> str:
    text = lesion_verdict(localisation)
    if text and localisation.better_than_centre is False:
        text += (
            " Better means that the interval of the difference is wholly above 0, with at least "
            f"{MIN_PATIENTS} patients."
        )
    return text


def _lungs(localisation: LocalisationSummary) -> str:
    lungs = localisation.lungs
    if lungs.better_than_centre:
        images = count(lungs.n, "image")
        return f"On {images} with known lungs the maps have more heat in the lungs than the centre prior and chance."
    return lung_verdict(localisation)


def _constant(localisation: LocalisationSummary) -> str:
    maps, compared = localisation.constant, localisation.maps
    if maps is None:
        return ""
    if not maps:
        return f"Of {count(compared, 'map')} compared here, none was constant."
    one = maps == 1
    classes = localisation.constant_by_class
    whose = ", ".join(f"{label} {count(number)}" for label, number in classes.items() if number)
    return (
        f"{count(maps)} of {count(compared, 'map')} {'was' if one else 'were'} constant"
        f"{f' ({whose})' if whose else ''}, and {'counts as a miss' if one else 'count as misses'} where a lesion is "
        "known."
    )


def _known(measures: Mapping[str, MeasureSummary]) -> list[str]:
    return [name for name in MEASURES if name in measures]


def _measure_words(measure: MeasureSummary, name: str) -> str:
    maps = (("model", measure.model), ("centre prior", measure.centre), ("mean map", measure.mean_map))
    known = [*maps, *([("chance", measure.chance)] if measure.chance.value is not None else [])]
    return f"{MEASURES[name]}: {', '.join(f'{word} {estimate_text(one)}' for word, one in known)}."


def _points(estimate: MapEstimate) -> str:
    value = rate(estimate)
    return f"{value.number} points {value.ends}".strip() if value.value is not None else UNDEFINED
