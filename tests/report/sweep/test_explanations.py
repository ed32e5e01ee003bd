"""What a report says of heat maps, whatever it is rendered to."""

from typing import Any

import pytest

from covidnet.base.caveats import Caveat
from covidnet.report.paper.published import EXPLAINING
from covidnet.report.rendering.document import Figure, Notice, Paragraph, Picture, References, Section, Table
from covidnet.report.sweep.content import report_document
from covidnet.report.sweep.explanations import explanations
from covidnet.report.values import Value
from tests.report.conftest import build_explanations, ends, hollow, of_content

explanations = of_content(explanations)
report_document = of_content(report_document)

Summary = dict[str, Any]
MINUS = "\N{MINUS SIGN}"


def _section(found: Any, **top: Any) -> Section:
    section = explanations({"explanations": found, **top})
    assert section is not None
    return section


def _words(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Paragraph))


def _faults(section: Section) -> list[str]:
    """What the box says; it is the first thing of the section."""
    boxes = [at for at, block in enumerate(section.blocks) if isinstance(block, Notice)]
    assert boxes in ([], [0])
    first = section.blocks[0]
    return list(first.items) if isinstance(first, Notice) else []


def _tables(section: Section) -> list[Table]:
    return [block for block in section.blocks if isinstance(block, Table)]


def _points(estimate: Any) -> str:
    value, (low, high) = estimate["value"], estimate["ci"]
    return f"{100 * value:.1f} points [{100 * low:.1f}, {100 * high:.1f}]".replace("-", MINUS)


@pytest.mark.usefixtures("undrawn")
def test_the_section_stands_after_the_selection(explained: Summary) -> None:
    anchors = [section.anchor for section in report_document(explained).sections]
    assert anchors[anchors.index("explanations") - 1 :][:3] == ["selection", "explanations", "paper"]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("found", [None, {}, {"method": "gradcam", "panels": [], "localisation": None, "sanity": None}])
def test_without_maps_there_is_no_section(summary: Summary, found: Any) -> None:
    assert explanations({}) is None
    before = report_document(summary)
    summary["explanations"] = found
    assert explanations(summary) is None
    after = report_document(summary)
    assert [section.anchor for section in after.sections] == [section.anchor for section in before.sections]


@pytest.mark.usefixtures("undrawn")
def test_pictures_and_figures_are_numbered_together(explained: Summary) -> None:
    document = report_document(explained)
    labels = [b.label for s in document.sections for b in s.blocks if isinstance(b, Figure | Picture)]
    assert labels == [f"Figure {n}" for n in range(1, len(labels) + 1)]
    assert len(labels) == 7 + 2 + 2
    (section,) = [section for section in document.sections if section.anchor == "explanations"]
    kinds = [type(block) for block in section.blocks if isinstance(block, Figure | Picture)]
    assert kinds == [Picture, Picture, Figure, Figure]


@pytest.mark.usefixtures("undrawn")
def test_a_picture_that_is_gone_takes_no_number(explained: Summary) -> None:
    explained["folder"] = "gone"
    document = report_document(explained)
    labels = [b.label for s in document.sections for b in s.blocks if isinstance(b, Figure | Picture)]
    assert [label for label in labels if label] == [f"Figure {n}" for n in range(1, 10)]


def test_the_panels_say_whose_they_are() -> None:
    found = build_explanations(fold=7)
    section = _section(found)
    words = _words(section)
    for text in ("the model of fold 7", "unseen fold", "Grad-CAM", "frozen, with imagenet weights", "white outline"):
        assert text in words
    pictures = [block for block in section.blocks if isinstance(block, Picture)]
    assert [picture.path for picture in pictures] == [panel["path"] for panel in found["panels"]]
    assert pictures[0].caption.startswith("COVID-19:")
    assert pictures[1].caption.startswith("The worst errors:")
    assert not _faults(section)


@pytest.mark.parametrize(
    ("method", "name", "called"),
    [("gradcam++", "Grad-CAM++", True), ("cam", "CAM", True), ("gradient", "gradient saliency", True),
     ("eigencam", "EigenCAM", False)],
)  # fmt: skip
def test_each_method_is_named_and_cited(method: str, name: str, called: bool) -> None:
    section = _section(build_explanations() | {"method": method})
    assert f"({name}" in _words(section)
    assert ("the predicted class" in _words(section)) == called
    (references,) = [block for block in section.blocks if isinstance(block, References)]
    assert references.items == [EXPLAINING[key] for key in (method, "pointing", "iou", "sanity")]


def test_random_weights_are_reported_first() -> None:
    random = build_explanations() | {"weights": "random"}
    assert _faults(_section(random)) == [Caveat.RANDOM_MAPS]
    # Weights that were trained from random ones are no longer random.
    trained = _section(random | {"freeze": False})
    assert not _faults(trained)
    assert "trained from random weights" in _words(trained)


def test_better_maps_are_reported_as_better() -> None:
    found = build_explanations()
    words = _words(_section(found))
    assert (
        "On 40 images with known lesions the maps are better than the centre prior and chance by: pointing game, IoU, "
        "heat in the lesion." in words
    )
    assert "On 60 images with known lungs the maps have more heat in the lungs" in words
    assert "no better" not in words
    assert "better than the mean map by all of these" in words
    assert "Of 600 maps compared here, none was constant." in words
    for name in ("pointing", "iou", "lesion_share"):
        assert _points(found["localisation"]["measures"][name]["difference"]) in words
    for name in ("pointing", "lesion_share"):
        assert _points(found["localisation"]["measures"][name]["difference_chance"]) in words


def test_maps_that_are_not_better_are_reported_first() -> None:
    found = build_explanations(poor=("iou",))
    section = _section(found)
    assert _faults(section) == [
        "On 40 images with known lesions the heat maps are no better than the centre prior or chance at finding them "
        "(by IoU). They are worse than the centre prior."
    ]
    words = _words(section)
    assert "Better means that the interval of the difference is wholly above 0" in words
    assert "the maps are better" not in words
    assert f"IoU {_points(found['localisation']['measures']['iou']['difference'])}" in words
    assert MINUS in _points(found["localisation"]["measures"]["iou"]["difference"])
    assert "no better than the mean map by: IoU; by these measures nothing shows that a map follows its image" in words


def test_no_better_is_not_called_worse() -> None:
    found = build_explanations(poor=("iou", "pointing"))
    found["localisation"]["measures"]["iou"]["difference"]["ci"] = [-0.1, 0.1]
    first = (
        "On 40 images with known lesions the heat maps are no better than the centre prior or chance at finding them "
        "(by IoU, pointing game)."
    )
    assert _faults(_section(found)) == [
        f"{first} They are worse than the centre prior by pointing game. They are worse than chance by pointing game."
    ]
    for key in ("difference", "difference_chance"):
        found["localisation"]["measures"]["pointing"][key]["ci"] = None
        found["localisation"]["measures"]["pointing"][key]["value"] = None
    assert _faults(_section(found)) == [first]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"COVID-19": 0, "Normal": 1},
         "1 of 600 maps was constant (Normal 1), and counts as a miss"),
        ({"COVID-19": 4, "Normal": 8},
         "12 of 600 maps were constant (COVID-19 4, Normal 8), and count as misses"),
    ],
)  # fmt: skip
def test_constant_maps_are_counted_by_class_and_called_misses(classes: dict[str, int], said: str) -> None:
    found = build_explanations()
    found["localisation"] |= {"constant": sum(classes.values()), "constant_by_class": classes}
    words = _words(_section(found))
    assert said in words
    assert "A constant map counts as a miss" in words
    assert "left out" not in words


def test_the_localisation_table_has_the_summary_s_numbers() -> None:
    found = build_explanations()
    table = _tables(_section(found))[0]
    measures = found["localisation"]["measures"]
    names = ["Pointing game", "IoU", "Heat in the lesion", "Heat in the lungs"]
    assert [row[0] for row in table.rows] == names
    for row, numbers in zip(table.rows, measures.values(), strict=True):
        cells = [cell for cell in row if isinstance(cell, Value)]
        assert cells[0].value == numbers["n"]
        keys = (
            "model", "centre", "mean_map", "chance", "difference", "difference_mean_map", "difference_chance",
        )  # fmt: skip
        for cell, key in zip(cells[1:], keys, strict=True):
            assert (cell.value, cell.interval, cell.scale) == (numbers[key]["value"], ends(numbers[key]), 100.0)


def test_the_paper_s_figure_5_is_compared_with_a_measurement() -> None:
    found = build_explanations()
    words = _words(_section(found))
    assert "The paper's Figure 5 compares the maps of five images with the drawings of two radiologists by eye" in words
    assert "this report measures it, on 40 images of the unseen fold with a known lesion (38 patients)" in words
    assert "with the mean score of the maps of 10 models" in words
    assert "10 models" not in _words(_section(found | {"folds": [3]}))
    assert "this report has no number for it" in _words(_section(found | {"localisation": None}))


def test_without_known_lesions_the_settings_that_give_them_are_named() -> None:
    section = _section(build_explanations() | {"localisation": None})
    for setting in ("data.masks=DIR", "data.boxes=FILE"):
        assert setting in _words(section)
    assert len(_tables(section)) == 1
    assert not _faults(section)


def test_known_lungs_alone_give_no_verdict_on_lesions() -> None:
    found = build_explanations()
    nothing = {"value": None, "ci": None, "n": 0, "method": "bootstrap"}
    for name in ("pointing", "iou", "lesion_share"):
        measures = found["localisation"]["measures"]
        measures[name] = {"n": 0} | dict.fromkeys(set(measures[name]) - {"n"}, nothing)
    found["localisation"] |= {"n": 0, "patients": 0, "better_than_centre": None,
                              "not_better": ["pointing", "iou", "lesion_share"]}  # fmt: skip
    section = _section(found)
    words = _words(section)
    assert "No image has a known lesion" in words
    assert "data.masks=DIR" in words
    assert "centre prior by" not in words
    assert not _faults(section)
    (drawing,) = [b.drawing for b in section.blocks if isinstance(b, Figure)][:1]
    assert [label.get_text() for label in drawing.axes[0].get_yticklabels()] == ["Heat in the lungs"]


@pytest.mark.parametrize(
    ("retained", "said", "first"),
    [
        (0.05, "On 6 images the heat maps pass the sanity test: they depend on the weights of the network.", False),
        (0.9, "On 6 images the heat maps fail the sanity test: re-initialising the network hardly changes them", True),
        (0.5, "The sanity test of the heat maps on 6 images is unclear", True),
    ],
)
def test_each_verdict_of_the_sanity_test_is_one_sentence(retained: float, said: str, first: bool) -> None:
    found = build_explanations(retained=retained)
    section = _section(found)
    assert said in _words(section)
    assert [line.startswith(said) for line in _faults(section)] == [True] * first
    kept = found["sanity"]["retained"]
    for estimate in (kept["ssim"], kept["rank"]):
        low, high = estimate["ci"]
        text = f"{100 * estimate['value']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]".replace("-", MINUS)
        assert text in _words(section)


def test_a_similarity_below_the_baseline_is_none_instead_of_negative() -> None:
    found = build_explanations()
    found["sanity"]["retained"]["ssim"] = {"value": -0.45, "ci": [-0.53, -0.39], "n": 9, "method": "bootstrap"}
    found["sanity"]["retained"]["rank"] = {"value": -0.02, "ci": [-0.2, 0.1], "n": 9, "method": "bootstrap"}
    text = "after re-initialising the whole network: none by SSIM, none (95% interval: up to 10.0%) by rank correlation"
    assert text in _words(_section(found))


def test_constant_maps_are_counted_as_the_logs_count_them() -> None:
    found = build_explanations() | {"constant_maps": {"panels": [0, 150], "sanity test, re-initialised": [16, 108]}}
    words = _words(_section(found))
    assert "in all runs: panels: 0 of 150; sanity test, re-initialised: 16 of 108." in words


@pytest.mark.parametrize(
    "reason", ["too few images", "the maps of different images are nearly the same", "maps change by about half"]
)
def test_the_reason_for_an_unclear_sanity_test_is_reported(reason: str) -> None:
    found = build_explanations(retained=0.5)
    found["sanity"]["reason"] = reason
    assert f"The sanity test of the heat maps on 6 images is unclear: {reason}." in _words(_section(found))
    nothing = {"value": None, "ci": None, "n": 9, "method": "bootstrap"}
    found["sanity"]["retained"] = {"ssim": nothing, "rank": nothing}
    assert "How similar the maps stay is unknown." in _words(_section(found))


def test_the_sanity_table_has_the_summary_s_numbers() -> None:
    found = build_explanations()
    sanity = found["sanity"]
    table = _tables(_section(found))[1]
    expected = [*sanity["stages"], sanity["pairs"], sanity["retained"]]
    assert [row[0] for row in table.rows[:6]] == [stage["stage"] for stage in sanity["stages"]]
    for row, numbers in zip(table.rows, expected, strict=True):
        for cell, key in zip(row[1:], ("ssim", "rank"), strict=True):
            assert isinstance(cell, Value)
            assert (cell.value, cell.interval, cell.scale) == (numbers[key]["value"], ends(numbers[key]), 1.0)


def test_a_test_that_was_not_run_is_said_with_its_setting() -> None:
    section = _section(build_explanations() | {"sanity": None})
    assert "explain.sanity_images=9" in _words(section)
    assert "sanity test:" not in _words(section)
    no_panels = _section(build_explanations() | {"panels": [], "fold": None})
    assert "explain.per_class=5" in _words(no_panels)


def test_what_is_missing_does_not_stop_it(none_everywhere: Summary) -> None:
    nothing = hollow(build_explanations())
    assert isinstance(nothing, dict)
    some = build_explanations() | {"method": None, "weights": None, "freeze": None, "folds": None, "fold": None}
    for found in (nothing, some, {"panels": [None, {}]}, {"sanity": {"n": 3}}, {"localisation": {"n": 2}}):
        document = report_document(none_everywhere | {"explanations": found})
        (section,) = [section for section in document.sections if section.anchor == "explanations"]
        assert "None" not in _words(section)
        for table in _tables(section):
            assert all(len(row) == len(table.columns) for row in table.rows)
            assert "None" not in str([cell for row in table.rows for cell in row if isinstance(cell, str)])
