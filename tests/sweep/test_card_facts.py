from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.data.folds.splits import COLUMNS
from covidnet.evaluation.results import to_json
from covidnet.models import networks
from covidnet.models.classifier import build_classifier
from covidnet.sweep.card_facts import NETWORKS
from covidnet.sweep.card_facts import card_facts as facts_of
from covidnet.sweep.folder import Run
from tests.sweeps import split_table

EMPTY = pd.DataFrame()


def card_facts(runs: list[Run]) -> dict[str, Any]:
    """The facts as summary.json has them."""
    return dict(to_json(facts_of(runs)))


def _run(folder: Path, split: pd.DataFrame | None = None, **settings: object) -> Run:
    return Run(folder, 0, EMPTY, split=split, settings=settings)


def _split(rows: list[tuple[str, str | None, int]]) -> pd.DataFrame:
    """Rows of class, source and how many images."""
    images = [(label, source) for label, source, n in rows for _ in range(n)]
    table = pd.DataFrame(images, columns=["label", "source"], dtype=object)
    return table.assign(image_id=[str(n) for n in range(len(table))], path="x", patient_id="p", view="PA", fold=3)[
        list(COLUMNS)
    ]


@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_parameters_and_input_are_those_of_the_networks(name: str) -> None:
    network = networks.NETWORKS[name]
    # Without memory: only shapes are needed.
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in network.features().parameters())
    assert NETWORKS[name] == (count, network.features_dim, network.spec)
    assert set(NETWORKS) == set(networks.NETWORKS)


@pytest.mark.parametrize(
    ("model", "frozen"), [("densenet121", True), ("densenet121", False), ("anomaly_resnet", True), ("cnn", False)]
)
def test_parameters_are_those_of_the_classifier(tmp_path: Path, model: str, frozen: bool) -> None:
    classifier = build_classifier(model, freeze=frozen, standardise=True)
    told = card_facts([_run(tmp_path, model={"name": model, "weights": "random", "freeze": frozen})])["parameters"]
    assert told == {
        "all": sum(p.numel() for p in classifier.parameters()),
        "trained": sum(p.numel() for p in classifier.parameters() if p.requires_grad),
    }


def test_chest_weights_take_one_channel(tmp_path: Path) -> None:
    told = card_facts([_run(tmp_path, model={"name": "densenet121", "weights": "chest", "freeze": True})])
    assert told["input"]["channels"] == 1
    # Its first layer has 64 filters of 7 by 7 for one channel instead of three.
    assert told["parameters"]["all"] == 6_953_856 - 2 * 64 * 49 + 1025 * 3


def test_a_run_tells_of_its_own_network(tmp_path: Path) -> None:
    network = build_classifier("efficientnet_lite0", "imagenet").description()
    run = Run(tmp_path, 0, EMPTY, settings={"model": {"name": "mine"}}, environment={"network": network})
    told = card_facts([run])
    assert told["parameters"] == {"all": 3_371_008 + 1281 * 3, "trained": 1281 * 3}
    assert told["input"]["mean"] == [127 / 255] * 3
    assert told["weights_licence"] == "Apache-2.0"


def test_weights_of_a_file_are_not_guessed_at(tmp_path: Path) -> None:
    told = card_facts([_run(tmp_path, model={"name": "densenet121", "weights": "x.pt", "freeze": True})])
    assert told["parameters"] is None
    assert told["input"]["channels"] is None


def test_a_run_that_tells_nothing_gives_none(tmp_path: Path) -> None:
    told = card_facts([Run(tmp_path, 0, EMPTY)])
    assert set(told.pop("input").values()) == {None}
    assert set(told.values()) == {None}


def test_the_date_is_that_of_the_last_line_of_the_newest_log(tmp_path: Path) -> None:
    for name, text in {
        "a": "2026-05-03 23:59:59,000 INFO covidnet.x: a\n2026-05-04 00:00:01,000 INFO covidnet.x: b\n  more\n",
        "b": "2026-05-02 10:00:00,000 INFO covidnet.x: 2027-01-01 12:00\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_text(text)
    assert card_facts([_run(tmp_path / "a"), _run(tmp_path / "b"), _run(tmp_path)])["trained"] == "2026-05-04"


def test_images_are_counted_by_source_and_class(tmp_path: Path) -> None:
    split = _split([("COVID-19", "a", 30), ("Normal", "b", 20), ("Pneumonia", "b", 10), ("Normal", None, 7)])
    told = card_facts([_run(tmp_path, split)])
    source = told["source"]
    assert source["counts"] == {
        "a": {"COVID-19": 30, "Normal": 0, "Pneumonia": 0},
        "b": {"COVID-19": 0, "Normal": 20, "Pneumonia": 10},
    }
    assert (source["n"], source["unknown"]) == (60, 7)
    # Source a says COVID-19, source b Normal: 30 + 20 of 60 are right, and 30 of 60 by always saying COVID-19.
    assert source["share"] == pytest.approx(50 / 60)
    assert source["base"] == pytest.approx(30 / 60)
    assert told["view"]["counts"]["PA"]["Normal"] == 27


def test_a_source_for_each_image_tells_nothing(tmp_path: Path) -> None:
    split = _split([(label, f"{label}{n}", 1) for label in CLASSES for n in range(10)])
    source = card_facts([_run(tmp_path, split)])["source"]
    assert source["share"] is None
    assert len(source["counts"]) == 9
    assert sum(source["counts"]["22 others"].values()) == 22
    assert sum(of_class["Normal"] for of_class in source["counts"].values()) == 10


def test_unknown_sources_are_no_source(tmp_path: Path) -> None:
    assert card_facts([_run(tmp_path, _split([("Normal", None, 5)]))])["source"] is None


def test_images_that_no_fold_holds_do_not_count(tmp_path: Path) -> None:
    split = split_table()
    split.loc[:4, "fold"] = -1
    source = card_facts([_run(tmp_path, split)])["source"]
    assert source["n"] == len(split) - 5
