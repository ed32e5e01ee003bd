"""The section of a report on heat maps: panels, localisation and sanity test."""

from __future__ import annotations

from covidnet.base.caveats import Caveat
from covidnet.evaluation.explanations import sanity_verdict, verdicts
from covidnet.evaluation.localisation import MapEstimate
from covidnet.evaluation.sanity import SanitySummary
from covidnet.report.paper.published import EXPLAINING
from covidnet.report.plots.figures import sanity_figure
from covidnet.report.rendering.document import (
    Block,
    Cell,
    Column,
    Figure,
    Notice,
    Paragraph,
    Picture,
    References,
    Section,
    Table,
)
from covidnet.report.summary import Panel, SweepExplanations, SweepSummary
from covidnet.report.sweep.localisation import localisation_blocks
from covidnet.report.terminal import UNDEFINED
from covidnet.report.values import area, rate
from covidnet.report.words import EXPLAINERS, count, fold_of

_MINUS = "\N{MINUS SIGN}"


def explanations(summary: SweepSummary) -> Section | None:
    """Panels of one model, and localisation and sanity test of the maps of all models.

    Args:
        summary: of a sweep.

    Returns:
        The section, with the faults of the maps first; None without any map.
    """
    found = summary.explanations
    if found is None or not (found.panels or found.localisation or found.sanity):
        return None
    faults = _faults(found)
    blocks: list[Block] = [Notice("Read this before the maps", faults)] if faults else []
    blocks += [*_panels(found), *localisation_blocks(found), *_sanity(found), *_constant(found)]
    cited = [str(found.method)]
    cited += ["pointing", "iou"] if found.localisation else []
    cited += ["sanity"] if found.sanity else []
    blocks.append(References([EXPLAINING[name] for name in cited if name in EXPLAINING]))
    return Section("Where the model looks", "explanations", blocks)


def _faults(found: SweepExplanations) -> list[str]:
    lines = verdicts(found.localisation, found.sanity)
    if found.weights == "random" and found.freeze is not False:
        lines.append(Caveat.RANDOM_MAPS)
    return lines


def _constant(found: SweepExplanations) -> list[Block]:
    """The number of constant maps by use, as counted in the runs."""
    parts = found.constant_maps
    counts = [f"{part}: {count(constant)} of {count(maps)}" for part, (constant, maps) in parts.items()]
    return (
        [Paragraph(f"Constant maps, in which no place stands out, in all runs: {'; '.join(counts)}.")] if counts else []
    )


def _panels(found: SweepExplanations) -> list[Block]:
    panels = found.panels
    method = _method(found)
    # EigenCAM does not depend on a class.
    of_class = "" if found.method == "eigencam" else " of the predicted class"
    if panels:
        fold = found.fold
        whose = "one model" if fold is None else f"the model of fold {fold}"
        text = (
            f"The panels show {whose} on images of the {fold_of(found.part)}, which it was not trained on: each image "
            f"with its heat map ({method}{of_class}). Bright yellow places have the most influence, bare ones none; "
            "each map has its own scale, so strengths cannot be compared between maps. A white outline marks a known "
            "lesion."
        )
    else:
        text = f"No panels were drawn; explain.per_class=5 draws them. The measured maps are of {method}."
    pictures = [
        Picture(
            f"{_title(panel)}: images of the {fold_of(found.part)}, and where the model looks.",
            f"Images and their heat maps, {method}: {_title(panel)}.",
            panel.path or "",
        )
        for panel in panels
    ]
    return [Paragraph(f"{text} {_network(found)}".strip()), *pictures]


def _network(found: SweepExplanations) -> str:
    weights, frozen = found.weights, found.freeze
    if weights is None:
        return ""
    if frozen is False:
        return f"The backbone was trained from {weights} weights."
    return f"The backbone is {'frozen, ' if frozen else ''}with {weights} weights."


def _title(panel: Panel) -> str:
    title = panel.title or "Images"
    return "The worst errors" if title == "errors" else title


def _sanity(found: SweepExplanations) -> list[Block]:
    sanity = found.sanity
    if sanity is None:
        return [
            Paragraph(
                "Whether the maps depend on the trained weights was not tested; explain.sanity_images=9 tests it on "
                "nine images."
            )
        ]
    what = (
        "Randomisation test (Adebayo et al.): the network is re-initialised, first its head, then layer by layer down "
        "to the first one, and its maps are compared with the trained model's by structural similarity (SSIM) and by "
        "the rank correlation of their pixels. If only the map of the re-initialised network is constant, both are 0: "
        "that rule is ours. A map that shows what the network has learned becomes as dissimilar as the maps of "
        "different images; a map that only traces the edges of an image does not change."
    )
    blocks: list[Block] = [Paragraph(f"{_sanity_verdict(sanity, found)} {what}")]
    drawing = sanity_figure(sanity)
    if drawing is not None:
        blocks.append(
            Figure(
                "Sanity test: similarity of the re-initialised network's maps to the trained model's (dots), and "
                "similarity of the trained maps of different images (dashed; its interval grey), with 95% intervals "
                "(bootstrap over patients). Dots that stay near 1 show maps that do not depend on the network.",
                f"Similarity by stage. {_retained_text(sanity)}",
                drawing,
            )
        )
    return [*blocks, _sanity_table(sanity)]


def _sanity_verdict(sanity: SanitySummary, found: SweepExplanations) -> str:
    text = sanity_verdict(sanity)
    if sanity.verdict == "depends":
        images = count(sanity.n, "image")
        text = f"On {images} the heat maps pass the sanity test: they depend on the weights of the network."
    text = text or "The sanity test has no verdict."
    return f"{text} {_retained_text(sanity)} The images are of the {fold_of(found.part)}."


def _retained_text(sanity: SanitySummary) -> str:
    ssim, rank = _retained(sanity.retained.ssim), _retained(sanity.retained.rank)
    if ssim == rank == UNDEFINED:
        return "How similar the maps stay is unknown."
    return (
        f"Similarity to the trained maps that is retained after re-initialising the whole network: {ssim} by SSIM, "
        f"{rank} by rank correlation (none: as dissimilar as the maps of different images; 100%: unchanged)."
    )


def _retained(estimate: MapEstimate) -> str:
    """The retained similarity; none if it is no higher than that of the maps of different images."""
    value, ends = estimate.value, estimate.ci
    if value is None or value > 0:
        return _percent(estimate)
    return "none" if ends is None or ends[1] <= 0 else f"none (95% interval: up to {100 * ends[1]:.1f}%)"


def _sanity_table(sanity: SanitySummary) -> Table:
    rows: list[list[Cell]] = [[one.stage or UNDEFINED, area(one.ssim), area(one.rank)] for one in sanity.stages]
    rows.append(["Baseline: trained maps of different images", area(sanity.pairs.ssim), area(sanity.pairs.rank)])
    rows.append(
        [
            f"Retained: (last stage {_MINUS} baseline) / (1 {_MINUS} baseline)",
            area(sanity.retained.ssim),
            area(sanity.retained.rank),
        ]
    )
    return Table(
        "Similarity to the trained model's maps, by the stage down to which the network is re-initialised. 1: the same "
        "map; 95% intervals in brackets (bootstrap over patients). Retained: 0 or below means at least as "
        "dissimilar as the maps of different images.",
        [Column("Re-initialised, from the head down to"), Column("SSIM"), Column("Rank correlation")],
        rows,
    )


def _method(found: SweepExplanations) -> str:
    method = found.method
    return "method not recorded" if method is None else EXPLAINERS.get(str(method), str(method))


def _percent(estimate: MapEstimate) -> str:
    value = rate(estimate)
    return f"{value.number}% {value.ends}".strip() if value.value is not None else UNDEFINED
