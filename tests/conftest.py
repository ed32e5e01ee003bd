"""What every test may lean on: a cache of its own, no network, and the real radiographs where they are."""

from __future__ import annotations

import gc
import http.server
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# Before any other library: it keeps them from asking the network.
import covidnet  # noqa: F401

os.environ["WANDB_MODE"] = "offline"
# No test waits for a server, and none depends on what the user's caches hold.
os.environ["COVIDNET_OFFLINE"] = "1"
os.environ["TORCH_HOME"] = os.environ["HF_HUB_CACHE"] = "/nonexistent/covidnet-tests"
# As `covidnet.launch.command.launch` does it.
gc.set_threshold(50_000, 20, 100)
# Libraries would take all cores for tiny work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROJECT = Path(__file__).parents[1]
KIT = PROJECT.parent / "shared/data/cxr-kit"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, dealt to the workers in turn.

    pytest-xdist gives each worker a part of the list and moves its end to a worker that has nothing left: what is moved
    should be short, and should not need what the tests before it have made.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = {path: sum(item.get_closest_marker("slow") is not None for item in some) for path, some in files.items()}
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for n, path in enumerate(sorted((path for path in files if slow[path]), key=lambda path: -slow[path])):
        parts[n % workers] += files.pop(path)
    rest = [item for some in files.values() for item in some]
    for part in parts:
        count = max(-(-len(items) // workers) - len(part), 0)
        part += rest[:count]
        del rest[:count]
    items[:] = [item for part in parts for item in part]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of this test run: what is drawn and computed once serves all its tests, and nobody else's."""
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("COVIDNET_CACHE", str(folder))
    patch.setenv("PYTHONPATH", str(PROJECT))
    yield folder
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Images this small are slowed down a hundredfold where several threads wait for each other on few cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a test, or a library in it, does to the loggers ends with it: a later test reads what was logged."""
    root = logging.getLogger()
    level = root.level
    yield
    # To set a level, even the same, empties the caches of all loggers, of which there are hundreds.
    if root.level != level:
        root.setLevel(level)
    if root.manager.disable:
        logging.disable(logging.NOTSET)
    for name in [name for name in root.manager.loggerDict if name.partition(".")[0] == "covidnet"]:
        logger = logging.getLogger(name)
        logger.disabled, logger.propagate = False, True
        if logger.level:
            logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def copies_once() -> Iterator[None]:
    """Copies among the same images are looked for once: it takes a second, and many tests only need the answer."""
    import covidnet.auditing.study
    import covidnet.data.collection.prepared
    import covidnet.external.validation
    from covidnet.data.recognition.overlap import ImageSet, find_copies, find_overlap

    known: dict[tuple[object, ...], Any] = {}

    def once(search: Callable[..., Any]) -> Callable[..., Any]:
        def found(*images: ImageSet, **more: Any) -> Any:
            key = (search, *(part.tobytes() for one in images for part in (one.sha256, one.pixels)))
            if key not in known:
                known[key] = search(*images, **more)
            return known[key].copy()

        return found

    with pytest.MonkeyPatch.context() as patch:
        for module in (covidnet.auditing.study, covidnet.data.collection.prepared, covidnet.external.validation):
            patch.setattr(module, "find_copies", once(find_copies))
        # The package has a function of this module's name.
        patch.setattr(import_module("covidnet.external.known_images"), "find_overlap", once(find_overlap))
        yield


@pytest.fixture(scope="session")
def exported_once() -> Iterator[None]:
    """The same network is exported once: it takes seconds, and many tests only need the file."""
    import covidnet.feature_store.engines
    import covidnet.serving.exported
    from covidnet.models.onnx_graph import onnx_graph
    from covidnet.models.weights import hash_state

    known: dict[tuple[object, ...], bytes] = {}

    def graph(network: Any, example: Any, inputs: Any, outputs: Any, setting: Any) -> bytes:
        key = (repr(network), hash_state(network), tuple(example.shape), *inputs, *outputs)
        if key not in known:
            known[key] = onnx_graph(network, example, inputs, outputs, setting)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (covidnet.feature_store.engines, covidnet.serving.exported):
            patch.setattr(module, "onnx_graph", graph)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures stay empty, for tests that read texts and numbers: plots/ and rendering/test_html.py test what is drawn.

    What a fixture of a wider scope writes is drawn.
    """
    from unittest.mock import MagicMock

    from covidnet.report.plots import figures
    from covidnet.report.rendering import html

    blank = MagicMock(**{"get_ylim.return_value": (0.0, 1.0), "get_figwidth.return_value": 7.2})
    for name in vars(figures):
        if name.endswith("_axes") or name == "new_figure":
            monkeypatch.setattr(figures, name, lambda *_, **__: blank)
    monkeypatch.setattr(html, "svg", lambda _: "<svg/>")


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real radiographs, or a skipped test."""
    if not KIT.is_dir():
        pytest.skip("the real radiographs are not here")
    return KIT


@pytest.fixture(scope="session")
def small_kit(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the kit with sixty images of each folder."""
    import pandas as pd

    root = tmp_path_factory.mktemp("kit")
    table = pd.read_csv(kit / "metadata.csv", dtype=str)
    table = table.groupby(table["filename"].str.rpartition("/")[0]).head(60)
    for name in table["filename"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kit / name, root / name)
    table.to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub, and nothing that stands between us and 127.0.0.1."""
    import torch

    monkeypatch.delenv("COVIDNET_OFFLINE")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which a web server of our own offers it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# Small images and few of them, and a small network that is frozen as the default one is: a run in a second, an export
# in two. The default network is tested in test_models.py, tests/models/, and by the tests that are marked slow.
QUICK = (
    "model=torchvision",
    "model.backbone=squeezenet1_1",
    "data.images_per_class=33",
    "data.image_size=64",
    "data.phantom_size=96",
    "trainer.max_epochs=3",
    "trainer.accelerator=cpu",
    "explain.per_class=1",
    "explain.errors=1",
    "explain.localisation_images=6",
    "explain.sanity_images=3",
    # To export a network for ONNX Runtime takes longer than all its passes here.
    "features.engine=torch",
    # To look for near copies takes seconds, and is tested where copies are.
    "split.copies=bytes",
    "progress=false",
)


# The defaults that are of no use to another option of their group, such as explain=off.
_OWN = {"model": ("model",), "explain": ("explain.",), "data": ("data.images_per_class", "data.phantom_size")}


def quickly(*overrides: str, defaults: Sequence[str] = QUICK) -> list[str]:
    """A command line of `defaults` and `overrides`, without the defaults of options that are overridden."""
    gone = tuple(own for word in overrides if word != "data=phantom" for own in _OWN.get(word.partition("=")[0], ()))
    return [*(word for word in defaults if not word.startswith(gone)), *overrides]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run one fold in this process, as `covidnet.train` does, and give its folder."""

    def run(*overrides: str, defaults: Sequence[str] = QUICK) -> Path:
        from omegaconf import OmegaConf

        from covidnet.fold.run import FoldRun
        from covidnet.launch.command import compose

        cfg = compose(quickly(*overrides, defaults=defaults))
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
        folder = tmp_path_factory.mktemp("run")
        FoldRun(settings, folder).run()
        return folder

    return run


@pytest.fixture(scope="session")
def trained(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """As `train`, for tests that need a run and not its training: equal settings are trained once, and copied."""
    runs: dict[tuple[str, ...], Path] = {}

    def copy(*overrides: str) -> Path:
        if overrides not in runs:
            runs[overrides] = train(*overrides)
        return Path(shutil.copytree(runs[overrides], tmp_path_factory.mktemp("copy") / "run"))

    return copy
