"""README's Python runs as it stands there, from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from covidnet.data import draw_image, write_phantoms
from tests.conftest import PROJECT

BLOCKS = re.findall(r"^```python\n(.*?)^```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training", "ignore:.*LeafSpec")
def test_every_block_runs(
    tmp_path: Path, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(tmp_path / "my-images", images_per_class=11, size=96, workers=1)
    Image.fromarray(draw_image("Normal", 900, 0, size=96).image).save(tmp_path / "image.png")
    (tmp_path / "RUN").symlink_to(train("explain=off"))
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), found)
    assert "test/accuracy" in capsys.readouterr().out
    assert found["answer"].heat.max() == 1.0
    assert found["prepared"].split["fold"].nunique() == 11
