"""The report of an evaluation on another data set."""

from __future__ import annotations

import copy
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import DataError
from covidnet.evaluation.bootstrap import cluster_codes, cluster_weights
from covidnet.evaluation.calibration import calibration
from covidnet.evaluation.predictions import EXTERNAL, predictions_table
from covidnet.evaluation.ranking import class_curves
from covidnet.evaluation.results import to_json
from covidnet.evaluation.scores import scored
from covidnet.evaluation.sparse import class_sizes, curves_without_sparse, sparse_notes, without_sparse
from covidnet.report.external.document import external_document, write_external_report
from covidnet.report.external.sections import abstract, images
from covidnet.report.external.summary import ExternalSummary
from covidnet.report.rendering.document import Table
from covidnet.report.rendering.markdown import markdown_of
from covidnet.report.values import Value
from tests.report.conftest import of_content

abstract, images = (of_content(part, ExternalSummary) for part in (abstract, images))
external_document = of_content(external_document, ExternalSummary)
write_external_report = of_content(write_external_report, ExternalSummary)

HOSTILE = "<script>alert(1)</script>|`a` & 'q' ${x} %s {0}"


def summary_of(counts: tuple[int, int, int] = (4, 30, 30)) -> dict[str, Any]:
    """The content of summary.json, with numbers of random predictions."""
    rng = np.random.default_rng(0)
    labels = [label for label, n in zip(CLASSES, counts, strict=True) for _ in range(n)]
    logits = rng.normal(size=(len(labels), 3)) + 1.5 * np.eye(3)[[CLASSES.index(label) for label in labels]]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) if labels else np.zeros((0, 3))
    names = [f"i{n}" for n in range(len(labels))]
    table = predictions_table(
        image_id=names, path=names, patient_id=names, label=labels, split=EXTERNAL, fold=-1, probabilities=scores
    )
    told = without_sparse(scored(table, resamples=100), table)
    curves = class_curves(table, cluster_weights(cluster_codes(table), 50)) if labels else {}
    listed = {"path": "a/b.png", "label": "Normal", "training_image_id": "0f", "part": "train", "kind": "mirrored",
              "similarity": 0.97}  # fmt: skip
    content = {
        "name": "hospital B",
        "model": {"title": "densenet121, fold 3", "network": "densenet121", "weights": "random", "gate": "refuse",
                  "folds": [3], "temperatures": [1.25], "training": {"name": "kaggle"}, "image_size": 224,
                  "fit": "squash"},
        "data": {"name": "folder", "root": "/data/b", "films": 70, "patients": 60, "unknown_patients": 4},
        "coverage": {"unreadable": 2, "refused": 4, "predicted": 66, "causes": {"too dark": 4, "truncated": 2},
                     "flagged": {"small": 1},
                     "classes": {label: {"films": n + 2, "refused": 1, "predicted": n + 1, "training": 1}
                                 for label, n in zip(CLASSES, counts, strict=True)}},
        "overlap": {"how": "films", "problem": None, "known": 900, "seen": 3, "seen_predicted": 3, "study": 1,
                    "kinds": {"mirrored": 2, "same file": 1}, "listed": [listed]},
        "copies": {"pairs": 1, "two_classes": 1, "listed": [
            {"path": "a", "label": "Normal", "other_path": "b", "other_label": "Pneumonia", "kind": "same file",
             "similarity": 1.0}]},
        "external": told,
        "external_all": told,
        "sizes": class_sizes(table),
        "curves": {"external": curves_without_sparse(curves, table)},
        "calibration": {"external": calibration(table) if labels else None,
                        "before": calibration(table) if labels else None},
        "study": {part: {"title": f"The {part} fold", "scores": told} for part in ("test", "unseen")},
        "notes": sparse_notes(table),
        "bootstrap": {"resamples": 100, "seed": 0},
        "hashes": {"manifest_sha256": "ab" * 32},
        "git_revision": None,
        "seconds": {"look": 1.0},
        "asked": {"checkpoint": "my runs/fold=3", "data": "folder", "data.root": "/data/b", "data.view": None},
    }  # fmt: skip
    return dict(to_json(content))


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return summary_of()


def text_of(folder: Path) -> str:
    page = (folder / "report.html").read_text()
    return " ".join("".join(ET.fromstring(page.removeprefix("<!DOCTYPE html>\n")).itertext()).split())


def test_the_page_is_well_formed_and_has_all_sections(summary: dict[str, Any], tmp_path: Path) -> None:
    write_external_report(summary, tmp_path)
    root = ET.fromstring((tmp_path / "report.html").read_text().removeprefix("<!DOCTYPE html>\n"))
    assert ["".join(node.itertext()) for node in root.iter("h2")] == [
        "Images", "Training images in this data set", "Results", "Comparison with the study's own numbers",
        "Calibration",
        "Model, hashes and how to reproduce this report", "Notes on the intervals",
    ]  # fmt: skip
    assert len(list(root.iter("img"))) == 3
    assert json.loads((tmp_path / "summary.json").read_text())["name"] == "hospital B"
    text = text_of(tmp_path)
    assert "COVID-19 has 4 images of 4 patients: too few for an interval" in text
    assert f"images, from at most {summary['external']['patients']} patients." in text
    assert "Patients, at most" in text
    assert "Research use only; not a medical device." in text
    assert "python -m covidnet.evaluate 'checkpoint=my runs/fold=3' data=folder data.root=/data/b" in text.replace(
        "&#x27;", "'"
    )
    assert "data.view" not in text


def test_markdown_has_the_same_numbers(summary: dict[str, Any]) -> None:
    plain = markdown_of(external_document(summary))
    accuracy = summary["external"]["accuracy"]
    assert f"| Accuracy |  |  |  | {100 * accuracy['value']:.1f} [" in plain
    row = next(line for line in plain.splitlines() if line.startswith("| Sensitivity |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # No interval of four images.
    assert cells[1] == f"{100 * summary['external']['classes']['COVID-19']['sensitivity']['value']:.1f}"
    assert "[" in cells[2]


def test_the_difference_to_the_study_is_external_less_the_studys(summary: dict[str, Any]) -> None:
    other = json.loads(json.dumps(summary))
    value = summary["external"]["accuracy"]["value"]
    other["study"]["unseen"]["scores"]["accuracy"] = {"value": value + 0.125, "ci": None, "method": None}
    plain = markdown_of(external_document(other))
    row = next(line for line in plain.splitlines() if line.startswith("| Accuracy |") and "\N{MINUS SIGN}" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:4] == [
        f"{100 * value + 12.5:.1f}", "\N{MINUS SIGN}12.5",
    ]  # fmt: skip


@pytest.mark.parametrize("counts", [(0, 30, 30), (0, 40, 0), (0, 0, 0), (1, 1, 1)])
def test_absent_classes_and_no_images_are_reported(counts: tuple[int, int, int], tmp_path: Path) -> None:
    write_external_report(summary_of(counts), tmp_path)
    assert "There are no images of COVID-19" in text_of(tmp_path) or counts == (1, 1, 1)


def test_unknown_parts_are_left_out(summary: dict[str, Any]) -> None:
    other = {**summary, "study": {}, "external_all": None, "copies": {"pairs": 0}}
    other["overlap"] = {"how": "no", "problem": "The run folder holds no training_images.npz: could not.", "seen": 0}
    other["calibration"] = {**summary["calibration"], "before": None}
    plain = markdown_of(external_document(other))
    assert "The run folder holds no training" in plain
    assert "Comparison with the study" not in plain
    assert "with the training images" not in plain
    assert "The model has no temperature" in plain


def test_names_cannot_become_part_of_the_page(summary: dict[str, Any], tmp_path: Path) -> None:
    def planted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: planted(item) for key, item in value.items()}
        if isinstance(value, list):
            return [planted(item) for item in value]
        return HOSTILE if isinstance(value, str) and value in ("a/b.png", "hospital B", "/data/b", "a") else value

    write_external_report({**planted(summary), "notes": [HOSTILE]}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "alert(1)" in text_of(tmp_path)
    prose = re.sub(r"```.*?```", "", (tmp_path / "report.md").read_text(), flags=re.DOTALL)
    assert "<script" not in prose


def test_a_number_that_json_cannot_hold_writes_nothing(summary: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="summary"):
        write_external_report({**summary, "seconds": {"look": float("nan")}}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_search_training_images_are_unknown(summary: dict[str, Any]) -> None:
    """A 0 would say that the set was searched and holds none."""
    blind = copy.deepcopy(summary)
    blind["overlap"] |= {"how": "no", "problem": "The search was not possible.", "seen": None, "seen_predicted": None}
    for numbers in blind["coverage"]["classes"].values():
        numbers["training"] = None
    (table,) = [
        b for b in images(blind).blocks if isinstance(b, Table) and b.caption.startswith("Images of each class")
    ]
    assert "The search for training images was not possible" in table.caption
    for row, numbers in zip(table.rows, blind["coverage"]["classes"].values(), strict=False):
        assert row[5] == "unknown"
        assert isinstance(row[6], Value)
        assert row[6].value == numbers["predicted"]
    assert table.rows[-1][5] == "unknown"
    assert "The headline excludes" not in abstract(blind)[0].text


def test_a_rate_of_few_images_is_a_count(summary: dict[str, Any]) -> None:
    few = copy.deepcopy(summary)
    few["external"] |= {"n": 9, "accuracy": {"value": 2 / 3, "ci": [0.0, 1.0], "method": "bootstrap"}}
    assert "The prediction is correct for 6 of 9 images (too few for a rate), from" in abstract(few)[1].items[0]
    assert f"of {summary['external']['n']} images, from" in abstract(summary)[1].items[0]
