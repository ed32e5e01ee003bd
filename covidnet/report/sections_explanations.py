"""The part of a report that shows where a model looks, and tells what its heat maps are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from covidnet.report.document import (
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
    area,
    rate,
)
from covidnet.report.figures import sanity_figure
from covidnet.report.paper_tables import Summary, at
from covidnet.report.published import EXPLAINING
from covidnet.report.sections_localisation import localisation_blocks
from covidnet.report.tables import UNDEFINED
from covidnet.report.words import EXPLAINERS, count, measure_names

_MINUS = "\N{MINUS SIGN}"


def explanations(summary: Summary) -> Section | None:
    """Panels of one model, where the maps of all lie, and whether they depend on the network.

    Args:
        summary: of a sweep.

    Returns:
        The section; None where no map was drawn and none measured. What speaks against the maps comes first.
    """
    found = summary.get("explanations") or {}
    if not any(found.get(key) for key in ("panels", "localisation", "sanity")):
        return None
    against = _against(found)
    blocks: list[Block] = [Notice("Read this before the maps", against)] if against else []
    blocks += [*_panels(found), *localisation_blocks(summary), *_sanity(summary, found)]
    cited = [str(found.get("method"))]
    cited += ["pointing", "iou"] if found.get("localisation") else []
    cited += ["sanity"] if found.get("sanity") else []
    blocks.append(References([EXPLAINING[name] for name in cited if name in EXPLAINING]))
    return Section("Where the model looks", "explanations", blocks)


def _against(found: Mapping[str, Any]) -> list[str]:
    """What has to be said before anyone looks at a map."""
    lines = []
    localisation = found.get("localisation") or {}
    if localisation.get("better_than_centre") is False:
        poor = localisation.get("not_better") or []
        line = f"The maps are no better than the centre prior or chance by: {measure_names(poor)}."
        for key, baseline in (("difference", "the centre prior"), ("difference_chance", "chance")):
            worse = [name for name in poor if _below(at(localisation, "measures", name, key))]
            if worse:
                by = "" if worse == poor else f" by: {measure_names(worse)}"
                line += f" They are worse than {baseline}{by}."
        lines.append(line)
    if at(found, "sanity", "verdict") == "does not depend":
        lines.append(
            "The maps fail the sanity test: they hardly change when the network is drawn anew, so they say little of "
            "what it has learned."
        )
    if found.get("weights") == "random" and found.get("freeze") is not False:
        lines.append("The backbone has random weights: a map says little of any disease.")
    return lines


def _panels(found: Mapping[str, Any]) -> list[Block]:
    panels = found.get("panels") or []
    method = _method(found)
    # EigenCAM asks for no class.
    called = "" if found.get("method") == "eigencam" else " of the class that was called"
    if panels:
        fold = found.get("fold")
        whose = "one model" if fold is None else f"the model of fold {fold}"
        text = (
            f"The panels show {whose} on films of the unseen fold, which it never saw in training: each film beside "
            f"its heat map ({method}{called}). Red places have most influence, blue ones least; each map is stretched "
            "by itself, so two maps cannot be compared in strength. A white outline, where there is one, is a known "
            "lesion."
        )
    else:
        text = f"No panels were drawn; explain.per_class=5 draws them. The maps that were measured are of {method}."
    pictures = [
        Picture(
            f"{_title(panel)}: films of the unseen fold, and where the model looks.",
            f"Films and their heat maps, {method}: {_title(panel)}.",
            str(at(panel, "path") or ""),
        )
        for panel in panels
    ]
    return [Paragraph(f"{text} {_network(found)}".strip()), *pictures]


def _network(found: Mapping[str, Any]) -> str:
    weights, frozen = found.get("weights"), found.get("freeze")
    if weights is None:
        return ""
    if frozen is False:
        return f"The backbone was trained from {weights} weights."
    return f"The backbone is {'frozen, ' if frozen else ''}with {weights} weights."


def _title(panel: Any) -> str:
    title = str(at(panel, "title") or "Films")
    return "The worst errors" if title == "errors" else title


def _sanity(summary: Summary, found: Mapping[str, Any]) -> list[Block]:
    sanity = found.get("sanity") or {}
    if not sanity:
        return [
            Paragraph(
                "Whether the maps depend on what the network has learned was not tested; explain.sanity_films=9 tests "
                "it on nine films."
            )
        ]
    what = (
        "Randomisation test (Adebayo et al.): the network is drawn anew, first its head, then layer by layer down to "
        "the first one, and its maps are compared with the trained model's by structural similarity (SSIM) and by the "
        "rank correlation of their pixels. Where the network that is drawn anew has a map without evidence in any "
        "place, and the trained one has not, both are 0: that rule is ours. A map that shows what the network has "
        "learned becomes as unlike as the maps of two films; one that only traces the edges of a film stays as it was."
    )
    blocks: list[Block] = [Paragraph(f"{_sanity_verdict(sanity)} {what}")]
    drawing = sanity_figure(summary)
    if drawing is not None:
        blocks.append(
            Figure(
                "Sanity test: how like the trained model's maps those of the network are that is drawn anew (dots), "
                "beside the trained maps of two films (dashed; its interval grey), with 95% intervals (bootstrap over "
                "films). Dots that stay near 1 are maps that do not depend on the network.",
                f"Similarity by stage. {_kept(sanity)}",
                drawing,
            )
        )
    return [*blocks, _sanity_table(sanity)]


def _sanity_verdict(sanity: Mapping[str, Any]) -> str:
    verdict, films = sanity.get("verdict"), count(sanity.get("n"), "film")
    reason = sanity.get("reason") or "too few films, or maps that change by about half"
    said = {
        "depends": "The maps pass the sanity test: they depend on the weights of the network.",
        "does not depend": "The maps fail the sanity test: they hardly change when the network is drawn anew.",
        "unclear": f"The sanity test is unclear: {reason}.",
    }.get(str(verdict), "The sanity test has no verdict.")
    return f"{said} {_kept(sanity)} It was done on {films} of the unseen fold."


def _kept(sanity: Mapping[str, Any]) -> str:
    ssim, rank = (_percent(at(sanity, "retained", key)) for key in ("ssim", "rank"))
    if ssim == rank == UNDEFINED:
        return "How much of their likeness the maps keep cannot be said."
    return (
        f"With all of it drawn anew they keep {ssim} of their likeness by SSIM and {rank} by rank correlation (0%: as "
        "unlike as the maps of two films; 100%: unchanged)."
    )


def _sanity_table(sanity: Mapping[str, Any]) -> Table:
    keys = ("ssim", "rank")
    rows: list[list[Cell]] = [
        [str(at(stage, "stage") or UNDEFINED), *(area(at(stage, key)) for key in keys)]
        for stage in sanity.get("stages") or []
    ]
    rows.append(["Baseline: trained maps of two films", *(area(at(sanity, "pairs", key)) for key in keys)])
    rows.append(
        [
            f"Kept: (last stage {_MINUS} baseline) / (1 {_MINUS} baseline)",
            *(area(at(sanity, "retained", key)) for key in keys),
        ]
    )
    return Table(
        "Similarity to the trained model's maps, by the stage down to which the network is drawn anew. 1: the same "
        "map; 95% intervals in brackets (bootstrap over films).",
        [Column("Drawn anew, from the head down to"), Column("SSIM"), Column("Rank correlation")],
        rows,
    )


def _method(found: Mapping[str, Any]) -> str:
    method = found.get("method")
    return "method not recorded" if method is None else EXPLAINERS.get(str(method), str(method))


def _percent(estimate: Any) -> str:
    value = rate(estimate)
    return f"{value.number}% {value.ends}".strip() if value.value is not None else UNDEFINED


def _below(estimate: Any) -> bool:
    interval = at(estimate, "ci")
    return bool(interval and interval[1] < 0.0)
