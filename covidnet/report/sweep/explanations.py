"""The part of a report that shows where a model looks, and tells what its heat maps are worth."""

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
    """Panels of one model, where the maps of all lie, and whether they depend on the network.

    Args:
        summary: of a sweep.

    Returns:
        The section; None where no map was drawn and none measured. What speaks against the maps comes first.
    """
    found = summary.explanations
    if found is None or not (found.panels or found.localisation or found.sanity):
        return None
    against = _against(found)
    blocks: list[Block] = [Notice("Read this before the maps", against)] if against else []
    blocks += [*_panels(found), *localisation_blocks(found), *_sanity(found), *_constant(found)]
    cited = [str(found.method)]
    cited += ["pointing", "iou"] if found.localisation else []
    cited += ["sanity"] if found.sanity else []
    blocks.append(References([EXPLAINING[name] for name in cited if name in EXPLAINING]))
    return Section("Where the model looks", "explanations", blocks)


def _against(found: SweepExplanations) -> list[str]:
    """What has to be said before anyone looks at a map."""
    lines = verdicts(found.localisation, found.sanity)
    if found.weights == "random" and found.freeze is not False:
        lines.append(Caveat.RANDOM_MAPS)
    return lines


def _constant(found: SweepExplanations) -> list[Block]:
    """How many maps of each part of the work are constant, as the logs of the runs count them."""
    parts = found.constant_maps
    counts = [f"{part}: {count(constant)} of {count(maps)}" for part, (constant, maps) in parts.items()]
    return (
        [Paragraph(f"Constant maps, in which no place stands out, over all runs: {'; '.join(counts)}.")]
        if counts
        else []
    )


def _panels(found: SweepExplanations) -> list[Block]:
    panels = found.panels
    method = _method(found)
    # EigenCAM asks for no class.
    called = "" if found.method == "eigencam" else " of the class that was called"
    if panels:
        fold = found.fold
        whose = "one model" if fold is None else f"the model of fold {fold}"
        text = (
            f"The panels show {whose} on images of the {fold_of(found.part)}, which it never saw in training: each "
            f"image beside its heat map ({method}{called}). Bright yellow places have most influence, bare ones none; "
            "each map is stretched by itself, so two maps cannot be compared in strength. A white outline, where there "
            "is one, is a known lesion."
        )
    else:
        text = f"No panels were drawn; explain.per_class=5 draws them. The maps that were measured are of {method}."
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
                "Whether the maps depend on what the network has learned was not tested; explain.sanity_images=9 tests "
                "it on nine images."
            )
        ]
    what = (
        "Randomisation test (Adebayo et al.): the network is re-initialised, first its head, then layer by layer down "
        "to the first one, and its maps are compared with the trained model's by structural similarity (SSIM) and by "
        "the rank correlation of their pixels. Where the map of the re-initialised network is constant and that of the "
        "trained one is not, both are 0: that rule is ours. A map that shows what the network has learned becomes as "
        "unlike as the maps of two images; one that only traces the edges of an image stays as it was."
    )
    blocks: list[Block] = [Paragraph(f"{_sanity_verdict(sanity, found)} {what}")]
    drawing = sanity_figure(sanity)
    if drawing is not None:
        blocks.append(
            Figure(
                "Sanity test: similarity of the re-initialised network's maps to the trained model's (dots), beside "
                "the similarity of the trained maps of two images (dashed; its interval grey), with 95% intervals "
                "(bootstrap over images). Dots that stay near 1 are maps that do not depend on the network.",
                f"Similarity by stage. {_kept(sanity)}",
                drawing,
            )
        )
    return [*blocks, _sanity_table(sanity)]


def _sanity_verdict(sanity: SanitySummary, found: SweepExplanations) -> str:
    said = sanity_verdict(sanity)
    if sanity.verdict == "depends":
        images = count(sanity.n, "image")
        said = f"On {images} the heat maps pass the sanity test: they depend on the weights of the network."
    return f"{said or 'The sanity test has no verdict.'} {_kept(sanity)} The images are of the {fold_of(found.part)}."


def _kept(sanity: SanitySummary) -> str:
    ssim, rank = _retained(sanity.retained.ssim), _retained(sanity.retained.rank)
    if ssim == rank == UNDEFINED:
        return "How similar the maps stay cannot be said."
    return (
        f"Similarity to the trained maps that is left with the whole network re-initialised: {ssim} by SSIM, {rank} by "
        "rank correlation (none: as unlike as the maps of two images; 100%: unchanged)."
    )


def _retained(estimate: MapEstimate) -> str:
    """What is left of a similarity; where a map is less like itself than two images' maps are, nothing is."""
    value, ends = estimate.value, estimate.ci
    if value is None or value > 0:
        return _percent(estimate)
    return "none" if ends is None or ends[1] <= 0 else f"none (95% interval: up to {100 * ends[1]:.1f}%)"


def _sanity_table(sanity: SanitySummary) -> Table:
    rows: list[list[Cell]] = [[one.stage or UNDEFINED, area(one.ssim), area(one.rank)] for one in sanity.stages]
    rows.append(["Baseline: trained maps of two images", area(sanity.pairs.ssim), area(sanity.pairs.rank)])
    rows.append(
        [
            f"Left: (last stage {_MINUS} baseline) / (1 {_MINUS} baseline)",
            area(sanity.retained.ssim),
            area(sanity.retained.rank),
        ]
    )
    return Table(
        "Similarity to the trained model's maps, by the stage down to which the network is re-initialised. 1: the same "
        "map; 95% intervals in brackets (bootstrap over images). Left: 0 or below means as unlike as the maps of two "
        "images, or more.",
        [Column("Re-initialised, from the head down to"), Column("SSIM"), Column("Rank correlation")],
        rows,
    )


def _method(found: SweepExplanations) -> str:
    method = found.method
    return "method not recorded" if method is None else EXPLAINERS.get(str(method), str(method))


def _percent(estimate: MapEstimate) -> str:
    value = rate(estimate)
    return f"{value.number}% {value.ends}".strip() if value.value is not None else UNDEFINED
