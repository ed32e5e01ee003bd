from typing import Any

import pytest

from covidnet.base.caveats import Caveat
from covidnet.report.sweep.notices import notice, warnings_of
from tests.report.conftest import of_content

notice = of_content(notice)
warnings_of = of_content(warnings_of)

Summary = dict[str, Any]


def test_problems_come_before_notes_and_nothing_twice(summary: Summary) -> None:
    summary["problems"] = ["fold=3: the run did not finish", "fold=3: the run did not finish"]
    lines = warnings_of(summary)
    assert lines[0] == "fold=3: the run did not finish"
    assert len(lines) == 1 + len(summary["notes"])


@pytest.mark.parametrize(
    ("change", "caveat"),
    [
        ({"folds": [0, 1]}, "Only 2 of 10 folds are reported; every pooled number covers only these."),
        ({"data": {"synthetic": True}}, Caveat.SYNTHETIC),
        ({"model": {"weights": "random"}}, Caveat.RANDOM_START),
        ({"model": {"weights": "random", "freeze": True}}, Caveat.RANDOM_BACKBONE),
        ({"data": {"validation": "test"}}, Caveat.VALIDATION_TEST),
        ({"data": {"group": "image"}}, Caveat.GROUP_IMAGE),
        ({"data": {"images": 100, "per_fold": None}}, Caveat.UNBALANCED),
        ({"selection": {"rule": "paper"}}, Caveat.SELECTION_SCORE),
    ],
)
def test_settings_imply_caveats_without_a_note(change: Summary, caveat: str) -> None:
    plain = {"folds": list(range(10)), "problems": [], "notes": []}
    assert warnings_of(plain) == []
    assert warnings_of({**plain, **change}) == [caveat]


def test_a_caveat_that_is_a_note_too_is_printed_once(summary: Summary) -> None:
    assert warnings_of(summary) == summary["notes"]


def test_a_sweep_without_reservations_gets_a_calm_box(summary: Summary) -> None:
    summary |= {"notes": [], "data": {"synthetic": False}, "model": {"weights": "imagenet"}}
    assert notice(summary).calm
    summary["problems"] = ["x"]
    assert not notice(summary).calm


def test_warnings_of_other_sweeps_carry_their_names(summary: Summary, other: Summary) -> None:
    other["problems"] = ["fold=1: left out"]
    other["data"]["split_sha256"] = "0" * 64
    items = notice(summary, [other]).items
    assert "densenet121, no copies: fold=1: left out" in items
    (paired,) = [item for item in items if "not paired" in item]
    assert paired.startswith("densenet121, no copies")
    # What holds for both is said once.
    assert items.count(Caveat.SYNTHETIC) == 1
