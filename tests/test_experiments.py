"""The experiments folder: published numbers, tables from saved predictions, and what is said of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from covidnet.launch.command import config_dir
from tests.commands import command
from tests.conftest import PROJECT
from tests.sweeps import explain_run, write_sweep

TABLES = ("table4", "table5", "table6", "table7")
FIGURES = ("figure4", "figure5")
KEYS = {
    "table4": ["class", "part"],
    "table5": ["class", "metric"],
    "table6": ["augmentation", "metric"],
    "table7": ["approach", "metric"],
}


def make(table: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return command(str(PROJECT / "experiments" / table / "make.py"), *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("sweeps")
    plain = write_sweep(home / "with", [0, 1, 2])
    without = write_sweep(home / "without", [0, 1, 2], settings={"augment": {"mode": "none"}})
    return [plain, without, write_sweep(home / "cnn", [0, 1, 2], settings={"model": {"name": "cnn"}})]


@pytest.mark.parametrize("table", [*TABLES, *FIGURES])
def test_a_folder_is_complete(table: str) -> None:
    folder = PROJECT / "experiments" / table
    assert {"README.md", "run.sh", "make.py", "expected.csv"} <= {path.name for path in folder.iterdir()}
    readme, script = (folder / "README.md").read_text(), (folder / "run.sh").read_text()
    for words in ("**Claim.**", "**What does not add up.**", "**Command.**", "**Cost.**"):
        assert words in readme
    experiments = {word.split("=")[1] for word in script.split() if word.startswith("experiment=")}
    assert experiments
    assert all((config_dir() / "experiment" / f"{name}.yaml").exists() for name in experiments)
    assert subprocess.run(["bash", "-n", folder / "run.sh"], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_the_table_comes_from_saved_predictions_beside_the_published_numbers(
    table: str, sweeps: list[Path], tmp_path: Path
) -> None:
    # It is the table of one sweep, the others of several.
    given = sweeps[:1] if table == "table4" else sweeps
    done = make(table, *map(str, given), "--data", "random, of course", "--out", "out/t.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out/t.csv")
    assert set(found["data"]) == {"random, of course"}
    expected = pd.read_csv(PROJECT / "experiments" / table / "expected.csv")
    both = expected.merge(found, on=KEYS[table], suffixes=("", "_made"), how="left")
    assert (both["published"] == both["published_made"]).all()
    assert found["ours"].notna().sum() >= 9
    text = (tmp_path / "out/t.md").read_text()
    assert text.startswith("Data: random, of course.")
    assert text.count("\n|") == len(found) + 2


@pytest.mark.slow
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_becomes_numbers_from_the_saved_tables(figure: str, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", [0, 1, 2])
    tables = [explain_run(sweep / f"fold={fold}", seed=fold) for fold in (0, 1, 2)]
    done = make(figure, str(sweep), "--data", "random, of course", "--out", "out/f.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out/f.csv").set_index(["measure", "map"])
    expected = pd.read_csv(PROJECT / "experiments" / figure / "expected.csv").set_index(["measure", "map"])
    pd.testing.assert_series_equal(found.loc[expected.index, "published"], expected["published"], check_dtype=False)
    rows = pd.concat([localisation for localisation, _ in tables])
    for measure, name in found.index:
        if name in ("model", "centre", "mean_map"):
            if measure in rows:
                images = rows[rows["map"] == name].groupby("image_id")[measure].mean()
                assert found.loc[(measure, name), "ours"] == pytest.approx(images.mean(), abs=1e-5)
            else:
                assert measure.startswith("similarity left when re-initialised")
    assert (found["ci_low"].dropna() <= found["ours"][found["ci_low"].notna()]).all()
    assert (tmp_path / "out/f.md").read_text().startswith("Data: random, of course.")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("data", ["phantom", "kit"])
def test_committed_results_are_whole_and_name_their_data(table: str, data: str) -> None:
    found = pd.read_csv(PROJECT / "experiments" / table / "results" / f"{data}.csv")
    assert len(set(found["data"])) == 1
    assert ("phantoms" in found["data"][0]) is (data == "phantom")
    assert set(KEYS[table]) <= set(found.columns)
    ours = found.dropna(subset=["ours"])
    assert len(ours) >= 6
    if "ci_low" in ours:
        assert ((ours["ci_low"] <= ours["ours"]) & (ours["ours"] <= ours["ci_high"])).all()


def test_published_numbers_are_the_papers() -> None:
    """As they stand in the paper's Tables 4 to 7."""
    read = {table: pd.read_csv(PROJECT / "experiments" / table / "expected.csv") for table in TABLES}
    four = read["table4"].pivot_table(index="part", columns="class", values="published")
    assert four.loc["train_augmented"].tolist() == [1070] * 3
    assert four.loc["unseen"].tolist() == [52] * 3
    five = read["table5"].set_index(["class", "metric"])["published"]
    assert [five["COVID-19", m] for m in ("sensitivity", "specificity", "f1")] == [0.977, 0.989, 0.977]
    assert [five["Normal", m] for m in ("sensitivity", "specificity", "f1")] == [0.927, 0.968, 0.931]
    assert [five["Pneumonia", m] for m in ("sensitivity", "specificity", "f1")] == [0.935, 0.963, 0.930]
    six = read["table6"].set_index(["augmentation", "metric"])["published"]
    assert [six["without", m] for m in ("accuracy", "sensitivity", "specificity")] == [0.9384, 0.940, 0.960]
    seven = read["table7"].set_index(["approach", "metric"])["published"]
    assert seven["CNN", "sensitivity"] == 0.852
    assert seven["RT-PCR", "specificity"] == seven["Our approach", "specificity"] == 0.989


def test_a_folder_that_is_no_sweep_is_one_line(tmp_path: Path) -> None:
    done = make("table5", str(tmp_path / "nowhere"), "--data", "x", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_arithmetic_of_the_published_tables_is_what_is_kept(tmp_path: Path) -> None:
    done = make("audit", "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("published.csv", "published_tables.csv"):
        assert (tmp_path / name).read_bytes() == (PROJECT / "experiments/audit/results" / name).read_bytes()
    assert "printed rates cannot be right" in done.stdout


def test_the_findings_of_an_audit_are_kept_without_names(tmp_path: Path) -> None:
    finding = {
        "check": "identity",
        "level": "weakens",
        "number": 0.1,
        "interval": [0.05, 0.2],
        "images": ["a/secret.png"],
    }
    texts = [
        "2 ids are spelled alike, such as Ada and ada ; 3 images concerned.",
        "1 id is of two classes, such as Ada.",
    ]
    record = {"findings": [finding | {"what": text} for text in texts], "not_possible": {"leaks": "there is no sweep"}}
    (tmp_path / "audit.json").write_text(json.dumps(record))
    done = make("audit", "--audit", f"mine={tmp_path}", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/mine.csv").read_text()
    assert "ada" not in text.lower()
    assert "secret" not in text
    found = pd.read_csv(tmp_path / "out/mine.csv")
    assert found["what"].tolist()[:2] == ["2 ids are spelled alike; 3 images concerned.", "1 id is of two classes."]
    assert found["low"].tolist()[:2] == [0.05, 0.05]


def test_what_is_said_of_our_audits_is_in_their_tables() -> None:
    folder = PROJECT / "experiments/audit"
    text = (folder / "README.md").read_text()
    for file in folder.glob("results/*-*.csv"):
        levels = pd.read_csv(file)["level"].value_counts()
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{file.name}`")]
        assert [int(word) for word in row.split("|")[3].split() if word.isdigit()] == [
            levels.get("blocks", 0),
            levels.get("weakens", 0),
        ]
