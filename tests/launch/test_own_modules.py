"""The setting imports: files are run once, only where the command line says so, and faults are one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from covidnet.base.errors import DataError, SettingError
from covidnet.base.trust import check_foreign_settings
from covidnet.launch import own_modules
from covidnet.launch.command import RUN_AGAIN
from covidnet.launch.own_modules import import_own
from covidnet.models.classifier import build_classifier
from covidnet.models.inputs import GREY_SPEC
from covidnet.models.registry import HEADS, MODELS, NETWORKS, register_head, register_network


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers and imports is gone after it."""
    before = set(sys.modules)
    kept = [(registry, dict(registry)) for registry in (HEADS, MODELS, NETWORKS)]
    monkeypatch.setattr(own_modules, "_imported", {})
    yield
    for registry, content in kept:
        registry.clear()
        registry.update(content)
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def test_a_file_is_run_once_and_can_be_named_afterwards(tmp_path: Path) -> None:
    file = tmp_path / "my_file.py"
    file.write_text(
        f"from pathlib import Path\nwith Path({str(tmp_path / 'count')!r}).open('a') as f:\n    f.write('x')\n"
    )
    import_own([str(file), str(file)])
    import_own(str(file))
    assert (tmp_path / "count").read_text() == "x"
    assert "my_file" in sys.modules


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "FileNotFoundError: there is no "),
        ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
        ("def", "SyntaxError"),
        (
            "from covidnet.models import register_head\nregister_head('linear')(dict)",
            "register_head=linear: must be a new name",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(content: str | None, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "my_broken.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingError, match=rf"^imports={re.escape(str(file))}: must be [^\n]*{cause}[^\n]*$"):
        import_own([str(file)])
    assert "my_broken" not in sys.modules


def test_a_file_cannot_take_the_place_of_another_module(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    with pytest.raises(SettingError, match="there is another module torch; rename the file"):
        import_own([str(tmp_path / "torch.py")])
    with pytest.raises(SettingError, match=r"imports=no_such_module: .*ModuleNotFoundError"):
        import_own(["no_such_module"])


def test_a_configuration_file_imports_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("imports: [mine.py]\n")
    with pytest.raises(DataError, match=r"sets imports; give imports=\[FILE\] on the command line"):
        check_foreign_settings(file, "config", None, RUN_AGAIN)


def test_a_registered_network_and_head_are_built_by_their_names() -> None:
    @register_network("mine", GREY_SPEC, least=8)
    def mine() -> nn.Module:
        return nn.Conv2d(1, 5, 3)

    @register_head("wide")
    def wide(features_dim: int, classes: int, dropout: float) -> nn.Module:
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(features_dim, classes))

    classifier = build_classifier("mine", freeze=False, head="wide", dropout=0.25)
    assert classifier.backbone.features_dim == 5
    assert classifier.head[0].p == 0.25
    assert classifier(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    with pytest.raises(SettingError, match="trained from scratch"):
        build_classifier("mine", freeze=True)
    with pytest.raises(SettingError, match=r"^register_network=mine: must be a new name"):
        register_network("mine", GREY_SPEC)(nn.Identity)
    with pytest.raises(SettingError, match=r"^register_head=a/b: must be a new name without /"):
        register_head("a/b")(nn.Identity)


def test_a_head_of_the_wrong_shape_is_refused() -> None:
    @register_head("narrow")
    def narrow(features_dim: int, classes: int) -> nn.Module:
        return nn.Linear(features_dim, 2)

    with pytest.raises(SettingError, match=r"^model\.head=narrow: .*of 2 images it gives \(2, 2\)$"):
        build_classifier("cnn", freeze=False, head="narrow")
    with pytest.raises(SettingError, match=r"^model\.head=none: must be one of linear, monte_carlo, anomaly, narrow; "):
        build_classifier("cnn", freeze=False, head="none")
    assert isinstance(build_classifier("resnet50", head="monte_carlo", dropout=0.5).head.masks, torch.Tensor)
