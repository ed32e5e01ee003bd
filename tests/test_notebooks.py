"""The notebooks: committed without outputs, run from any folder on tiny phantoms, and what they show is right."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from tests.commands import Forked
from tests.conftest import PROJECT, quickly
from tests.sweeps import write_sweep

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
KERNEL = "covidnet-tests"

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

Execute = Callable[..., NotebookNode]


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def tagged(notebook: NotebookNode, tag: str) -> NotebookNode:
    (cell,) = [cell for cell in notebook.cells if tag in tags(cell)]
    return cell


def shown(cell: NotebookNode, kind: str) -> list[Any]:
    """What a cell shows in one format, such as text/plain."""
    return [output.data[kind] for output in cell.outputs if "data" in output and kind in output.data]


def rows_of(cell: NotebookNode) -> list[list[str]]:
    """The rows of the table that a cell shows; merged cells stand in their first row alone."""
    (html,) = shown(cell, "text/html")
    table = ElementTree.fromstring(html[html.index("<table") : html.index("</table>") + len("</table>")])
    return [["".join(field.itertext()) for field in row] for row in table.iter("tr")]


def pictures(cell: NotebookNode) -> list[np.ndarray]:
    found = [base64.b64decode(data) for data in shown(cell, "image/png")]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("L")) for data in found]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kernel of this interpreter that knows nothing of what is installed or set for the user; gives its TMPDIR."""
    home = tmp_path_factory.mktemp("jupyter")
    spec = home / "kernels" / KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--colors=nocolor"]
    spec.write_text(json.dumps({"argv": command, "display_name": KERNEL, "language": "python"}))
    patch = pytest.MonkeyPatch()
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "TMPDIR"):
        folder = home / name.lower()
        folder.mkdir()
        patch.setenv(name, str(folder))
    patch.setenv("JUPYTER_PATH", str(home))
    # The kernel chooses its own.
    patch.delenv("MPLBACKEND", raising=False)

    def launched(words: list[str], *, cwd: str, env: dict[str, str], **more: object) -> Forked:
        return Forked(*words[2:], cwd=Path(cwd), env=env, session=True)

    patch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", launched)
    yield home / "tmpdir"
    patch.undo()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the notebooks' own, so that it holds one study alone."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def execute(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Execute:
    """Run a notebook in an empty folder; where a cell fails, the test does, with the cell's text."""

    def run(name: str, **parameters: object) -> NotebookNode:
        notebook = read(PROJECT / "notebooks" / name)
        cell = tagged(notebook, "parameters")
        unknown = [key for key in parameters if not re.search(rf"^{key} = ", cell.source, re.MULTILINE)]
        assert not unknown, f"{name} has no parameter {', '.join(unknown)}"
        # As papermill does it, what is not given keeps the notebook's own value.
        cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
        folder = tmp_path_factory.mktemp("elsewhere")
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=300, kernel_name=KERNEL, resources=resources).execute()
        assert not list(folder.iterdir()), "a notebook leaves nothing beside itself"
        return notebook

    return run


@pytest.fixture(scope="module")
def overrides(images: Path) -> list[str]:
    # The notebooks explain by themselves what a run would.
    return quickly("explain=off", f"cache_dir={images}")


@pytest.fixture(scope="module")
def data(execute: Execute, overrides: list[str]) -> NotebookNode:
    return execute("01_data.ipynb", OVERRIDES=overrides, FOLD=2, IMAGES=2)


@pytest.fixture(scope="module")
def split(data: NotebookNode, images: Path) -> pd.DataFrame:
    (file,) = images.glob("manifests/*/split-*/split.csv")
    return pd.read_csv(file)


@pytest.fixture(scope="module")
def results(execute: Execute, overrides: list[str]) -> NotebookNode:
    return execute("02_results.ipynb", OVERRIDES=[*overrides, "augment=none"], FOLDS=[0, 1], RESAMPLES=200)


@pytest.fixture(scope="module")
def explanations(execute: Execute, images: Path) -> NotebookNode:
    overrides = quickly("model=densenet121", "explain=off", "augment=none", f"cache_dir={images}")
    return execute("03_explanations.ipynb", OVERRIDES=overrides, IMAGES=9, RESAMPLES=200)


@pytest.fixture(scope="module")
def own(execute: Execute, tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    images = tmp_path_factory.mktemp("own")
    common = ["split.copies=bytes", f"cache_dir={images}"]
    drawing = ["data.images_per_class=22", "data.phantom_size=64", *common]
    training = ["data.image_size=64", "trainer.max_epochs=1", "features.engine=torch", "augment=none", *common]
    return execute("04_own_network.ipynb", OVERRIDES=drawing, TRAINING=training, FOLDS=[0, 1], RESAMPLES=200)


@pytest.fixture(scope="module")
def predictions(results: NotebookNode, kernel: Path) -> pd.DataFrame:
    files = sorted(kernel.glob("covidnet-sweep-*/fold=*/predictions.csv"))
    assert len(files) == 2
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "01_data.ipynb", "02_results.ipynb", "03_explanations.ipynb", "04_own_network.ipynb",
    ]  # fmt: skip


@every_notebook
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None, cell.source
        assert not cell.get("attachments"), cell.source
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@every_notebook
def test_its_parameters_are_the_first_code_cell(path: Path) -> None:
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [tags(cell) for cell in code if "parameters" in tags(cell)] == [["parameters"]]
    assert "parameters" in tags(code[0])


@every_notebook
def test_it_names_no_place_of_one_machine_and_no_address_but_of_papers(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells)
    allowed = ("https://doi.org/", "https://arxiv.org/")
    addresses = re.findall(r"\w+://[^\s)\"'>]*", text)
    assert [address for address in addresses if not address.startswith(allowed)] == []
    places = re.findall(r"(?:^|[\s\"'`(=])(?:/\w\S*|~/\S*|[A-Za-z]:\\\S*)", text, re.MULTILINE)
    assert places == []


def test_the_folds_that_are_shown_are_those_of_split_csv(data: NotebookNode, split: pd.DataFrame) -> None:
    header, _, *rows = rows_of(tagged(data, "folds"))
    folds = [int(field) for field in header[1:]]
    assert folds == sorted(split["fold"].unique())
    assert [row[0] for row in rows] == list(CLASSES)
    for label, *counts in rows:
        wanted = [int(((split["label"] == label) & (split["fold"] == fold)).sum()) for fold in folds]
        assert [int(count) for count in counts] == wanted


def test_images_and_patients_of_each_class_are_counted(data: NotebookNode, split: pd.DataFrame) -> None:
    header, _, *rows = rows_of(tagged(data, "counts"))
    assert header[1:3] == ["images", "patients"]
    for label, count, patients, *_ in rows:
        of_class = split[split["label"] == label]
        assert (int(count), int(patients)) == (len(of_class), of_class["patient_id"].nunique())


def test_no_patient_is_shown_in_two_folds(data: NotebookNode, split: pd.DataFrame) -> None:
    (text,) = shown(tagged(data, "patients"), "text/plain")
    assert re.search(rf"^patients +{split['patient_id'].nunique()}$", text, re.MULTILINE)
    assert re.search(r"^patients in two folds +0$", text, re.MULTILINE)
    assert split.groupby("patient_id")["fold"].nunique().max() == 1


def test_roles_show_one_test_fold_and_the_unseen_one(data: NotebookNode, split: pd.DataFrame) -> None:
    header, _, *rows = rows_of(tagged(data, "roles"))
    assert header[1:] == ["train", "val", "test", "unseen"]
    cells = {row[0]: [int(field) for field in row[1:]] for row in rows}
    sizes = split["fold"].value_counts()
    assert cells["2"] == [0, 0, sizes[2], 0]
    assert cells["10 (unseen)"] == [0, 0, 0, sizes[10]]
    assert all(sum(cells[str(fold)][:2]) == sizes[fold] for fold in range(10) if fold != 2)


@pytest.mark.parametrize("name", ["data", "results", "explanations"])
def test_pictures_are_drawn(name: str, request: pytest.FixtureRequest) -> None:
    cells = [cell for cell in request.getfixturevalue(name).cells if "pictures" in tags(cell)]
    assert len(cells) >= 4
    for cell in cells:
        (picture,) = pictures(cell)
        assert min(picture.shape) > 150, cell.source
        assert picture.std() > 10, cell.source


def accuracy_shown(notebook: NotebookNode) -> float:
    header, row, *_ = rows_of(tagged(notebook, "accuracy"))
    assert (header[1], row[0]) == ("value", "accuracy")
    return float(row[1])


def test_the_pooled_accuracy_is_scikit_learns(results: NotebookNode, predictions: pd.DataFrame) -> None:
    test = predictions[predictions["split"] == "test"]
    assert not test["image_id"].duplicated().any()
    assert accuracy_shown(results) == pytest.approx(accuracy_score(test["label"], test["prediction"]), abs=1e-6)


def test_table_5_stands_beside_the_published_one(results: NotebookNode, predictions: pd.DataFrame) -> None:
    test = predictions[predictions["split"] == "test"]
    rows = rows_of(tagged(results, "table5"))
    # From the right: published, ours, ci_low, ci_high, method, n.
    ours = {(row[-7], row[-6]): float(row[-5]) for row in rows if row[-7] == "sensitivity"}
    truth = recall_score(test["label"], test["prediction"], labels=list(CLASSES), average=None)
    published = [("sensitivity", "0.977"), ("sensitivity", "0.927"), ("sensitivity", "0.935")]
    assert [ours[key] for key in published] == pytest.approx(truth, abs=1e-6)


def test_a_sweep_of_ones_own_is_read_and_nothing_is_trained(execute: Execute, kernel: Path, tmp_path: Path) -> None:
    before = set(kernel.iterdir())
    sweep = write_sweep(tmp_path / "sweep")
    notebook = execute("02_results.ipynb", SWEEP=str(sweep), RESAMPLES=200)
    assert set(kernel.iterdir()) == before
    tables = [pd.read_csv(file).query("split == 'test'") for file in sorted(sweep.glob("fold=*/predictions.csv"))]
    test = pd.concat(tables)
    assert accuracy_shown(notebook) == pytest.approx(accuracy_score(test["label"], test["prediction"]), abs=1e-6)
    assert len(test) == confusion_matrix(test["label"], test["prediction"]).sum()


def test_two_folders_become_two_classes_and_two_networks_are_scored_on_the_same_images(
    own: NotebookNode, kernel: Path
) -> None:
    header, _, *rows = rows_of(tagged(own, "classes"))
    assert header[1:] == ["images", "patients"]
    assert [row[0] for row in rows] == ["No finding", "Opacity"]
    assert ["positive", "Opacity"] in rows_of(tagged(own, "positive"))
    header, _, *rows = rows_of(tagged(own, "results"))
    assert header[1:] == ["accuracy", "sensitivity", "specificity", "auc"]
    (home,) = kernel.glob("covidnet-own-*")
    right = {}
    for name, accuracy, sensitivity, *_ in rows:
        tables = [pd.read_csv(file) for file in sorted((home / name).glob("fold=*/predictions.csv"))]
        test = pd.concat([table[table["split"] == "test"] for table in tables]).set_index("image_id")
        right[name] = test["label"] == test["prediction"]
        assert float(accuracy.split("%")[0]) / 100 == pytest.approx(right[name].mean(), abs=0.001)
        truth = recall_score(test["label"], test["prediction"], pos_label="Opacity")
        assert float(sensitivity.split("%")[0]) / 100 == pytest.approx(truth, abs=0.001)
    ours, other = right["own"], right["efficientnet_lite0"]
    shown_pairs = {row[0]: float(row[1]) for row in rows_of(tagged(own, "paired"))[1:]}
    assert shown_pairs["images"] == len(ours)
    assert shown_pairs["right only by own"] == (ours & ~other.loc[ours.index]).sum()


def test_grad_cam_and_cam_are_shown_to_be_one_map(explanations: NotebookNode) -> None:
    header, *rows = rows_of(tagged(explanations, "alike"))
    alike = {row[0]: dict(zip(header[1:], map(float, row[1:]), strict=True)) for row in rows}
    assert set(alike) == {"gradcam", "gradcam++", "cam", "gradient", "eigencam"}
    assert alike["cam"]["gradcam"] == 1.0
    assert alike["gradient"]["gradcam"] < 0.9


def test_the_centre_prior_is_measured_on_the_images_own_masks(
    explanations: NotebookNode, split: pd.DataFrame, images: Path
) -> None:
    header, _, *rows = rows_of(tagged(explanations, "localisation"))
    shown_shares = {row[0]: dict(zip(header[1:], map(float, row[1:]), strict=True)) for row in rows}
    (masks,) = images.glob("phantoms/*/masks")
    unseen = split[split["fold"] == 10]
    # All nine unseen images; a normal one has no lesion and no share.
    for region, paths in (("lung", unseen["path"]), ("lesion", unseen["path"][unseen["label"] != "Normal"])):
        shares = []
        for path in paths:
            mask = np.asarray(Image.open(masks / region / path)) > 127
            height, width = mask.shape
            # On the square that the network sees, a quarter of whose side is the standard deviation.
            down, across = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
            heat = np.exp(-8 * (down[:, None] ** 2 + across[None, :] ** 2))
            shares.append(heat[mask].sum() / heat.sum())
        assert shown_shares["centre"][f"{region}_share"] == pytest.approx(np.mean(shares), abs=0.01)


def test_every_stage_of_the_randomisation_is_shown_down_to_the_first_layer(explanations: NotebookNode) -> None:
    _, *rows = rows_of(tagged(explanations, "sanity"))
    names = [row[1] for row in rows]
    assert names[0] == "head"
    assert names[-2:] == ["conv0", "pairs"]
    assert len(set(names)) == len(names) >= 6


def test_an_edge_detector_is_shown_to_fail_the_test(explanations: NotebookNode) -> None:
    header, *rows = rows_of(tagged(explanations, "edges"))
    for row in rows:
        told = dict(zip(header, row, strict=True))
        assert float(told["value"]) == pytest.approx(1.0)
        assert told["verdict"] == "does not depend"


def test_a_checkpoint_of_ones_own_is_explained_and_nothing_is_trained(
    results: NotebookNode, execute: Execute, overrides: list[str], kernel: Path
) -> None:
    run, *_ = sorted(kernel.glob("covidnet-sweep-*/fold=1"))
    before = set(kernel.iterdir())
    notebook = execute(
        "03_explanations.ipynb", CHECKPOINT=str(run), OVERRIDES=overrides, FOLD=1, IMAGES=3, SANITY_IMAGES=3,
        METHOD="eigencam", RESAMPLES=200,
    )  # fmt: skip
    assert set(kernel.iterdir()) == before
    header, row, *_ = rows_of(tagged(notebook, "verdict"))
    assert dict(zip(header, row, strict=True))["verdict"] == "unclear"
