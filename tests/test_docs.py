"""The documentation: the site builds offline without a warning, its code runs and its commands have valid settings."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from mkdocs.exceptions import PluginError
from omegaconf import OmegaConf

from covidnet.cli import COMMANDS
from covidnet.fold.run import FoldRun
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import compose, config_dir, prepare_hydra, subfolders
from covidnet.launch.known_settings import KnownSettings
from covidnet.launch.schema import SCHEMA
from covidnet.learning.module import ClassificationModule
from tests.commands import command
from tests.conftest import PROJECT, quickly
from tests.refusals import refused

PAGES = sorted(
    [*(PROJECT / "docs").rglob("*.md"), *(PROJECT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md"))]
    + [PROJECT / folder / "README.md" for folder in ("benchmarks", "experiments", "notebooks")]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`((?:python -m covidnet\.|covidnet )[^`]+)`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
COMMAND = re.compile(r"(?:\S*python3? -m covidnet\.|\S*\bcovidnet )(?P<name>\w+)(?P<rest>(?:\s.*)?)$")


def commands(page: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Name and words of each covidnet command on a page, and whether it stands in a block of its own."""
    text = page.read_text(encoding="utf-8")
    blocks = [code for kind, code in FENCE.findall(text) if kind in ("", "bash", "console", "sh")]
    lines = [(line, True) for code in blocks for line in re.sub(r"\\\n\s*", "", code).splitlines()]
    lines += [(re.sub(r"\s+", " ", code), False) for code in INLINE.findall(FENCE.sub("", text))]
    for line, block in lines:
        match = COMMAND.match(line.strip())
        if match and match["name"] in COMMANDS:
            lexer = shlex.shlex(match["rest"], posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words = list(lexer)
            end = next((at for at, word in enumerate(words) if set(word) <= set("|&;<>")), len(words))
            yield match["name"], words[:end], block


@functools.cache  # pages name the same commands
def check_settings(name: str, given_words: tuple[str, ...], block: bool) -> None:
    """Compose a command line and check its settings as the command does, the first job of a sweep; run nothing."""
    module = importlib.import_module(f"covidnet.{name}")
    command = "config" if name == "train" else name
    words = [f"action={word[2:]}" if word in ("--stats", "--verify", "--prune") else word for word in given_words]
    words = quoted(words + subfolders(words), getattr(module, "PATHS", DATA_PATHS))
    words = [word for word in words if word not in ("-m", "...")]
    for at, override in enumerate(OverridesParser.create().parse_overrides(words)):
        if override.is_sweep_override():
            words[at] = f"{override.key_or_group}={next(override.sweep_string_iterator())}"
    prepare_hydra()
    with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
        whole = hydra.compose(config_name=command, overrides=words, return_hydra_config=True)
    choices = whole.hydra.runtime.choices
    given: Any = OmegaConf.to_container(whole)
    del given["hydra"]
    KnownSettings(config_dir(), command, choices, given).check(given)
    assert not block or "???" not in given.values(), f"{name} {words}: lacks a setting"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_commands_have_valid_settings(page: Path) -> None:
    for name, words, block in commands(page):
        if "--help" not in words and "--config-dir" not in words:
            check_settings(name, tuple(words), block)


def test_a_wrong_setting_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```\npython -m covidnet.train \\\n    fold=3 optim.rate=1   # a comment\n```\n`covidnet predict input=.`"
    )
    assert list(commands(page)) == [("train", ["fold=3", "optim.rate=1"], True), ("predict", ["input=."], False)]
    with pytest.raises(hydra.errors.HydraException, match="rate"):
        check_settings("train", ("fold=3", "optim.rate=1"), True)
    with pytest.raises(AssertionError, match="lacks a setting"):
        check_settings("predict", ("input=.",), True)


@pytest.mark.slow
def test_the_page_on_ones_own_code_trains_and_prediction_never_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PROJECT / "docs/your-code.md"
    code = next(code for kind, code in FENCE.findall(page.read_text()) if kind == "python")
    (tmp_path / "my_parts.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    words = next(words for _, words, block in commands(page) if block)
    given: Any = OmegaConf.to_container(
        compose(quickly(*words, "loss=weighted", "optim=sgd", "explain=off")), resolve=True
    )
    (tmp_path / "run").mkdir()
    with refused("loss._target_", "my_parts.CostLoss", remedy="trust=[my_parts]"):
        FoldRun({**given, "trust": []}, tmp_path / "run").run()
    FoldRun(given, tmp_path / "run").run()
    values = pd.read_csv(tmp_path / "run/curves/metrics.csv")["val/balanced_accuracy"].dropna()
    # One of each epoch, and one of the best checkpoint.
    assert len(values) == 4
    assert values.between(0, 1).all()
    monkeypatch.undo()
    del sys.modules["my_parts"]
    loaded = ClassificationModule.from_checkpoint(tmp_path / "run/checkpoints/best.ckpt")
    assert loaded.loss is None
    assert "my_parts" not in sys.modules


PYTHON = {
    page: blocks
    for page in PAGES
    if (blocks := [code for kind, code in FENCE.findall(page.read_text()) if kind == "python"])
}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Networks and heads that a page registers are gone after its test."""
    from covidnet.models.registry import HEADS, MODELS, NETWORKS

    kept = [(registry, dict(registry)) for registry in (HEADS, MODELS, NETWORKS)]
    yield
    for registry, content in kept:
        registry.clear()
        registry.update(content)


@pytest.fixture(scope="module")
def run_folder(train: Callable[..., Path]) -> Path:
    return train("explain.sanity_images=0")


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training", "ignore:.*LeafSpec")
@pytest.mark.parametrize("page", [page for page in PYTHON if page.parent != PROJECT], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "RUN").symlink_to(run_folder)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    for block in PYTHON[page]:
        exec(compile(block, page.name, "exec"), found)


def keys(tree: Any, path: str = "") -> set[str]:
    pairs = tree.items() if isinstance(tree, dict) else ()
    return {name for key, value in pairs for name in (f"{path}{key}", *keys(value, f"{path}{key}."))}


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*number of training batches")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training", "ignore:.*LeafSpec")
def test_files_are_described_as_a_run_writes_them(run_folder: Path) -> None:
    page = (PROJECT / "docs/reference/files.md").read_text(encoding="utf-8")
    table = page.partition("## A run folder")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([\w./]+?)/?`", "".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    assert {path.name for path in run_folder.iterdir()} <= listed
    for name in ("split.csv", "predictions.csv"):
        header = (run_folder / name).read_text().partition("\n")[0]
        assert f"## {name}\n\n```text\n{header}\n```" in page
    (example,) = (json.loads(code) for kind, code in FENCE.findall(page) if kind == "json")
    real = json.loads((run_folder / "metrics.json").read_text())
    for splits in (example["splits"], real["splits"]):
        assert next(iter(splits["test"]["classes"])) == "COVID-19"
        splits["test"]["classes"] = {"COVID-19": splits["test"]["classes"]["COVID-19"]}
        for name in set(splits) - {"test"}:
            del splits[name]
    real["data"]["counts"] = {}
    assert keys(real) >= keys(example)
    assert keys(example) >= keys(real) - {f"seconds.{name}" for name in real["seconds"]}


@pytest.mark.slow
def test_the_page_on_ones_own_network_trains_and_only_an_explicit_import_opens_it(tmp_path: Path) -> None:
    page = PROJECT / "docs/your-code.md"
    _, code = (code for kind, code in FENCE.findall(page.read_text()) if kind == "python")
    (tmp_path / "my_models.py").write_text(f"print('imported')\n{code}")
    words = next(words for _, words, _ in commands(page) if "model=custom" in words)
    done = command("covidnet.train", *quickly(*words), "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "run/config.yaml").read_text()
    assert "imports: []" in config
    assert "image_size: 64" in config
    images = next(Path(os.environ["COVIDNET_CACHE"]).glob("phantoms/33-*/NORMAL")).resolve()
    given = ["checkpoint=run", f"input='{images}/*3.png'", "gate=warn", "panels=true", "progress=false"]
    alone = command("covidnet.predict", *given, "out=one", cwd=tmp_path)
    assert alone.returncode != 0
    (line,) = alone.stderr.splitlines()
    assert line.endswith("add imports=[FILE.py] with the file that registers it, if you trust that file")
    assert "has the network tiny" in line
    assert "imported" not in alone.stdout
    done = command("covidnet.predict", *given, "out=two", "imports=[my_models.py]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "two/predictions.csv")) == len(list(images.glob("*3.png")))
    done = command("covidnet.export", "checkpoint=run", "imports=my_models.py", f"check={images}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The file that was exported has the network in it.
    done = command("covidnet.predict", "checkpoint=run/model.onnx", *given[1:3], "out=three", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # resume= takes the file from the command line alone.
    again = command("covidnet.train", "resume=run", cwd=tmp_path)
    assert again.returncode != 0
    assert "model.name=tiny: must be one of" in again.stderr
    assert "imported" not in again.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = command("mkdocs", *words, cwd=PROJECT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?https?://"""
    )
    for page in site.rglob("*.html"):
        found = [tag[0] for tag in loads.finditer(page.read_text()) if 'rel="canonical"' not in tag[0]]
        assert not found, f"{page.name}: {found[0]}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet.name
    assert (site / "search/search_index.js").is_file()  # a search without a server


@pytest.mark.slow
def test_the_site_has_every_setting(site: Path) -> None:
    page = (site / "reference/settings.html").read_text()
    for one, schema in SCHEMA.items():
        assert not (missing := [name for name in schema if f"<code>{name}</code>" not in page]), f"{one}: {missing}"


@pytest.mark.slow
def test_the_site_has_every_public_name(site: Path) -> None:
    for stub in (PROJECT / "covidnet").glob("*/__init__.pyi"):
        page = (site / f"reference/api/{stub.parent.name}.html").read_text()
        names = re.findall(r" as (\w+)$", stub.read_text(), re.M)
        assert names
        assert not [name for name in names if not re.search(rf'id="covidnet\.[\w.]+\.{name}"', page)]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_the_site_can_be_searched_from_its_files(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{site.as_uri()}/index.html?q=calibrated")
        page.wait_for_selector(".md-search-result__item mark")
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "docs/tutorial.md").read_text(encoding="utf-8")
    (draw,) = re.findall(r'^python -c "(.*)"$', text, re.M)
    monkeypatch.chdir(tmp_path)
    exec(draw.replace("images_per_class=33", "images_per_class=11, size=96, workers=1"))
    marked = re.findall(r"^<!-- run -->\n```\ncovidnet (\w+) (.*)\n```$", text, re.M)
    assert [name for name, _ in marked] == ["prepare", "train", "crossval", "predict"]
    tiny = {"train": ["data.image_size=64", "trainer=cpu", "trainer.max_epochs=1", "explain=off", "progress=false"]}
    tiny["train"] += ["features.engine=torch"]
    for name, words in marked:
        given = [word.replace("range(0,10)", "0") for word in shlex.split(words)]
        done = command(f"covidnet.{name}", *given, *tiny.get(name, []), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for path in re.findall(r"`(runs/[\w./]+)`", text):
        assert (tmp_path / path).exists(), path


def test_the_readme_stays_short() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.slow
def test_a_broken_link_or_a_name_without_a_docstring_ends_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "docs")
    generate = importlib.import_module("generate")
    text = "[a](../SECURITY.md#links) [b](howto/resume.md) [c](../pyproject.toml)\n```\n[d](e)\n```\n"
    there = "[a](project/security.md#links) [b](howto/resume.md) c\n```\n[d](e)\n```\n"
    assert generate.linked(text, "tutorial.md") == there
    assert generate.linked("[a](docs/install.md)", "index.md") == "[a](install.md)"
    with pytest.raises(PluginError, match=r"docs/tutorial[.]md: the link to [.][.]/none[.]md leads nowhere"):
        generate.linked("[a](../none.md)", "tutorial.md")
    monkeypatch.setattr(generate, "public_names", lambda: [("covidnet.data", "N_FOLDS", "covidnet.data.folds.splits")])
    monkeypatch.setattr("covidnet.data.folds.splits.N_FOLDS", type("Silent", (), {}))
    with pytest.raises(PluginError, match="N_FOLDS: is public and has no docstring"):
        generate.api_pages()
