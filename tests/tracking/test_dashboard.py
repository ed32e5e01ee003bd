"""The workspace at W&B, built without a network."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError, UnknownSettingError
from covidnet.tracking.dashboard import main

pytest.importorskip("wandb_workspaces")


@pytest.fixture
def built(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["entity=me", "project=images", "--dry-run"])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def sections(built: dict[str, Any]) -> dict[str, str]:
    return {
        section["name"]: json.dumps(section["panels"])
        for section in built["spec"]["section"]["panelBankConfig"]["sections"]
    }


def test_it_has_sections_for_folds_classes_and_panels(built: dict[str, Any]) -> None:
    assert (built["entity"], built["project"]) == ("me", "images")
    assert {"Folds", "Classes", "Panels"} <= set(sections(built))


def test_every_name_of_the_contract_has_a_place(built: dict[str, Any]) -> None:
    found = sections(built)
    for name in ("train/loss", "val/loss", "lr", "test/accuracy", "unseen/accuracy"):
        assert f'"{name}"' in found["Folds"]
    for split in ("val", "test", "unseen"):
        for label in CLASSES:
            for score in ("sensitivity", "specificity", "f1"):
                assert f"{split}/{label}/{score}" in found["Classes"]
    for label in CLASSES:
        assert f"panels/unseen-{label}" in found["Panels"]
        assert f"panels/test-{label}" in found["Panels"]


def test_nothing_is_sent_without_a_key() -> None:
    with pytest.raises(SettingError, match=r"W&B is offline \(there is no key\); log in with wandb login"):
        main(["entity=me"])


def test_a_slip_of_the_finger_is_named() -> None:
    with pytest.raises(UnknownSettingError, match="entty=me: no such setting; there are entity, project, name"):
        main(["entty=me"])
    with pytest.raises(SettingError, match="say entity=NAME"):
        main([])


def test_where_the_package_is_missing_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(SettingError, match=r'pip install "covidnet\[dashboard\]"'):
        main(["entity=me", "--dry-run"])
