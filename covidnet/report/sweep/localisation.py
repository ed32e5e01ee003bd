"""The part of a report that tells whether heat maps lie where the lesions are."""

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
_BY_EYE = "The paper's Figure 5 compares the maps of five images with the drawings of two radiologists, by eye; "


def localisation_blocks(found: SweepExplanations) -> list[Block]:
    """How the maps lie on known lesions and lungs, and whether that is better than three baselines.

    Args:
        found: the explanations of a sweep.

    Returns:
        One sentence where nothing was measured.
    """
    localisation = found.localisation
    if localisation is None:
        return [
            Paragraph(
                "Where the maps lie was not measured: that takes images whose lesions or lungs are known "
                "(data.masks=DIR or data.boxes=FILE), and explain.localisation_images above 0. "
                f"{_BY_EYE}this report has no number for it."
            )
        ]
    measures = localisation.measures
    images, patients = localisation.n, localisation.patients
    whose = "" if found.method == "eigencam" else ", with the map of its true class"
    models = len(found.folds)
    several = (
        f" Each image counts once, with the mean of what the maps of {count(models, 'model')} score."
        if models > 1 and found.part != "test"
        else ""
    )
    if images:
        over = (
            f"{_BY_EYE}here the comparison is a number, over {count(images, 'image')} of the {fold_of(found.part)} "
            f"with a known lesion ({count(patients, 'patient')}){whose}.{several}"
        )
    else:
        over = (
            "No image has a known lesion, so it was not measured whether the maps lie on lesions; data.masks=DIR or "
            f"data.boxes=FILE makes lesions known. {_BY_EYE}this report has no number for it. The heat in the lungs is "
            f"over {count(localisation.images, 'image')}{whose}.{several}"
        )
    blocks: list[Block] = [Paragraph(over), Paragraph(_measured(measures))]
    drawing = localisation_figure(measures)
    if drawing is not None:
        blocks.append(
            Figure(
                "Where the maps lie: the model's maps beside two maps that have not seen the image, and chance, with "
                "95% intervals (bootstrap over patients). More is better.",
                "Dots with intervals. " + " ".join(_measure_words(measures[name], name) for name in _known(measures)),
                drawing,
            )
        )
    blocks.append(_table(measures))
    words = [*_verdict(localisation), _constant(localisation)]
    return [*blocks, Paragraph(" ".join(word for word in words if word))]


def _measured(measures: Mapping[str, MeasureSummary]) -> str:
    said = {
        "touch": "Touches a lesion: the part of a map above Otsu's threshold has any pixel of a lesion, which is what "
        "the paper asks of its maps.",
        "pointing": "Pointing game (Zhang et al.): how often the strongest place of a map lies in a lesion.",
        "iou": "IoU: the overlap, intersection over union, of the lesion and the part of a map above Otsu's threshold.",
        "lesion_share": "Heat in the lesion, or in the lungs: its part of all heat of a map.",
    }
    return " ".join(
        [
            *(text for name, text in said.items() if name in measures),
            "The centre prior is one blob in the middle of every image; maps that do not beat it have shown nothing.",
            "The mean map is the mean of the model's maps of the other images: it knows where this model likes to "
            "look, "
            "but not this image.",
            "Chance is any place of the image: it lies in a region as often as the region's share of the image's area.",
            "A map without evidence in any place counts as a miss: it touches no lesion, and its pointing game, its "
            "IoU and its heat in the lesion are 0; it has no heat that could lie in the lungs. All numbers of a row "
            "are over the same images.",
        ]
    )


def _table(measures: Mapping[str, MeasureSummary]) -> Table:
    columns = [Column(""), Column("Images"), Column("Model"), Column("Centre prior"), Column("Mean map"),
               Column("Chance"), Column("centre prior", f"Model {_MINUS}"), Column("mean map", f"Model {_MINUS}"),
               Column("chance", f"Model {_MINUS}")]  # fmt: skip
    rows: list[list[Cell]] = []
    for name in _known(measures):
        one = measures[name]
        shown = (one.model, one.centre, one.mean_map, one.chance,
                 one.difference, one.difference_mean_map, one.difference_chance)  # fmt: skip
        rows.append([MEASURES[name], Value(one.n), *(rate(estimate) for estimate in shown)])
    return Table(
        "Where the maps lie. Percent, differences in percentage points; 95% intervals in brackets (bootstrap over "
        "patients).",
        columns,
        rows,
    )


def _verdict(localisation: LocalisationSummary) -> list[str]:
    """Whether the maps are better than the baselines, and by how much."""
    better, measures = localisation.better_than_centre, localisation.measures
    lines = [line for line in (_against(localisation), _lungs(localisation)) if line]
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
        there = {name: one for name, one in differences.items() if one.value is not None}
        ahead = "; ".join(f"{measure_names([name])} {_points(one)}" for name, one in there.items())
        lines += [f"Model {_MINUS} {baseline}: {ahead}."] if ahead else []
    flat = localisation.not_better_than_mean_map
    if flat:
        lines.append(
            f"They are no better than the mean map by: {measure_names(flat)}; by that nothing says that a map follows "
            "its image."
        )
    elif any(measures[name].mean_map.value is not None for name in judged):
        lines.append("They are better than the mean map by all of these, so they follow the image.")
    return lines


def _against(localisation: LocalisationSummary) -> str:
    said = lesion_verdict(localisation)
    if said and localisation.better_than_centre is False:
        said += (
            f" Better means: the interval of the difference lies wholly above 0, of at least {MIN_PATIENTS} patients."
        )
    return said


def _lungs(localisation: LocalisationSummary) -> str:
    lungs = localisation.lungs
    if lungs.better_than_centre:
        images = count(lungs.n, "image")
        return f"On {images} with known lungs more of the heat lies in the lungs than of the centre prior and chance."
    return lung_verdict(localisation)


def _constant(localisation: LocalisationSummary) -> str:
    maps, compared = localisation.constant, localisation.maps
    if maps is None:
        return ""
    if not maps:
        return f"Of the {count(compared)} maps compared here not one was constant."
    one = maps == 1
    classes = localisation.constant_by_class
    whose = ", ".join(f"{label} {count(number)}" for label, number in classes.items() if number)
    return (
        f"{count(maps)} of {count(compared, 'map')} {'was' if one else 'were'} constant, without evidence in any place"
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
