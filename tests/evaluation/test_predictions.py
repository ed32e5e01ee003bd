import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from covidnet.base.atomic import WriteError
from covidnet.base.errors import DataError
from covidnet.evaluation.predictions import (
    columns_of,
    predictions_table,
    read_predictions,
    validate_predictions,
    write_predictions,
)

CONTRACT = "image_id,path,patient_id,label,split,fold,p_covid19,p_normal,p_pneumonia,prediction"
P = ["p_covid19", "p_normal", "p_pneumonia"]


def _table(n: int = 6, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return predictions_table(
        image_id=[f"{at:03d}" for at in rng.permutation(n)],
        path=[f"some where/ü,{at}.png" for at in range(n)],
        patient_id=[None if at % 3 == 0 else f"person{at}" for at in range(n)],
        label=list(rng.choice(["COVID-19", "Normal", "Pneumonia"], n)),
        split=list(rng.choice(["val", "test", "unseen"], n)),
        fold=3,
        probabilities=rng.dirichlet([0.3, 0.3, 0.3], n),
    )


def _plain(**changed: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "image_id": ["a", "b"],
        "path": ["a.png", "b.png"],
        "patient_id": ["p1", "p2"],
        "label": ["Normal", "COVID-19"],
        "split": ["test", "test"],
        "fold": [3, 3],
        "p_covid19": [0.1, 0.8],
        "p_normal": [0.7, 0.1],
        "p_pneumonia": [0.2, 0.1],
        "prediction": ["Normal", "COVID-19"],
    }
    return pd.DataFrame(columns | changed)


def test_columns_are_those_of_the_contract_in_its_order(tmp_path: Path) -> None:
    assert ",".join(columns_of()) == CONTRACT
    write_predictions(_table(), tmp_path / "predictions.csv")
    assert (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()[0] == CONTRACT


@pytest.mark.parametrize("cell", ["high", "inf", float("inf")])
def test_a_non_numeric_extra_raises_with_its_row(cell: object) -> None:
    with pytest.raises(DataError, match=r"row 2 .*column anomaly_score: .*: must be a number"):
        validate_predictions(_plain(anomaly_score=[0.1, cell]))


def test_prediction_is_the_largest_probability_and_the_first_of_a_tie() -> None:
    table = predictions_table(
        image_id=list("abcd"),
        path=list("abcd"),
        patient_id=[None] * 4,
        label=["Normal"] * 4,
        split="val",
        fold=0,
        probabilities=[[0.1, 0.2, 0.7], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]],
    )
    assert list(table["prediction"]) == ["Pneumonia", "COVID-19", "Normal", "COVID-19"]


def test_a_tie_in_single_precision_stays_the_same_class_after_the_file(tmp_path: Path) -> None:
    # The second is larger in double precision alone; the file holds single precision.
    table = predictions_table(
        image_id=["a"],
        path=["a"],
        patient_id=["p"],
        label=["Normal"],
        split="val",
        fold=0,
        probabilities=np.array([[0.4, 0.4 + 1e-12, 0.2]]),
    )
    write_predictions(table, tmp_path / "p.csv")
    assert list(read_predictions(tmp_path / "p.csv")["prediction"]) == list(table["prediction"]) == ["COVID-19"]


def test_every_float32_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n = 3000
    small = np.exp(rng.uniform(-100, 0, n)).astype(np.float32)  # down to the subnormal numbers
    second = (rng.random(n).astype(np.float32) * (1 - small)).astype(np.float32)
    scores = np.stack([small, second, np.maximum(np.float32(0), 1 - small - second)], axis=1).astype(np.float32)
    scores[0] = [np.float32(1e-45), np.nextafter(np.float32(1), np.float32(0)), 0]
    scores[1] = [1, 0, 0]
    table = predictions_table(
        image_id=[f"{at:05d}" for at in range(n)],
        path=["x"] * n,
        patient_id=[None] * n,
        label=["Normal"] * n,
        split="test",
        fold=0,
        probabilities=scores,
    )
    write_predictions(table, tmp_path / "p.csv")
    back = read_predictions(tmp_path / "p.csv")
    assert back[P].dtypes.unique().tolist() == [np.dtype("float32")]
    np.testing.assert_array_equal(back[P].to_numpy().view(np.uint32), scores.view(np.uint32))
    # Readers that know nothing of us get the same bits.
    theirs = pd.read_csv(tmp_path / "p.csv", dtype=dict.fromkeys(P, "float32"))
    np.testing.assert_array_equal(theirs[P].to_numpy().view(np.uint32), scores.view(np.uint32))


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    table = _table(200)
    write_predictions(table, tmp_path / "p.csv")
    rank = {"val": 0, "test": 1, "unseen": 2}
    order = sorted(range(200), key=lambda row: (rank[table["split"][row]], table["image_id"][row]))
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "p.csv"), table.iloc[order].reset_index(drop=True))


def test_ids_that_look_like_numbers_or_missing_values_stay_text(tmp_path: Path) -> None:
    names = ["007", "NA", "nan", "1e5", "None", " x ", 'quo"te', "two\nlines", "é,;"]
    table = predictions_table(
        image_id=names,
        path=names,
        patient_id=names,
        label=["Normal"] * len(names),
        split="val",
        fold=1,
        probabilities=[[0, 1, 0]] * len(names),
    )
    write_predictions(table, tmp_path / "p.csv")
    back = read_predictions(tmp_path / "p.csv")
    assert list(back["image_id"]) == sorted(names)
    assert list(back["patient_id"]) == sorted(names)


def test_a_non_utf8_file_name_keeps_its_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    table = _plain(path=[name, "b.png"])
    write_predictions(table, tmp_path / "p.csv")
    assert b"caf\xe9.png" in (tmp_path / "p.csv").read_bytes()
    assert read_predictions(tmp_path / "p.csv")["path"][0] == name


def test_an_unknown_patient_is_an_empty_cell_and_reads_as_nan(tmp_path: Path) -> None:
    write_predictions(_plain(patient_id=[None, "p2"]), tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines()[1].startswith("a,a.png,,Normal")
    assert read_predictions(tmp_path / "p.csv")["patient_id"].isna().tolist() == [True, False]


def test_the_order_of_rows_does_not_change_the_file(tmp_path: Path) -> None:
    table = _table(50)
    write_predictions(table, tmp_path / "a.csv")
    write_predictions(table.sample(frac=1, random_state=1), tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": ["TB", "COVID-19"]}, r"row 1 \(image_id 'a'\), column label: 'TB'.*COVID-19, Normal, Pneumonia"),
        ({"label": ["Normal", "covid-19"]}, r"row 2 \(image_id 'b'\), column label: 'covid-19'"),
        ({"label": ["Normal", None]}, r"row 2 .*column label: empty"),
        ({"split": ["test", "train"]}, r"row 2 .*column split: 'train'.*val, test, unseen"),
        ({"split": ["", "test"]}, r"row 1 .*column split: empty"),
        ({"image_id": ["a", np.nan]}, r"row 2 .*column image_id: empty"),
        ({"path": [None, "b"]}, r"row 1 .*column path: empty"),
        ({"prediction": ["Normal", "Flu"]}, r"row 2 .*column prediction: 'Flu'"),
        ({"prediction": ["Pneumonia", "COVID-19"]}, r"row 1 .*prediction: 'Pneumonia': must be 'Normal'"),
        ({"p_normal": [0.7, -0.1]}, r"row 2 .*column p_normal: -0.1: must be a number from 0 to 1"),
        ({"p_normal": [1.5, 0.1]}, r"row 1 .*column p_normal: 1.5"),
        ({"p_pneumonia": [0.2, np.nan]}, r"row 2 .*column p_pneumonia: nan"),
        ({"p_pneumonia": [np.inf, 0.1]}, r"row 1 .*column p_pneumonia: inf"),
        ({"p_pneumonia": [0.2, "lots"]}, r"row 2 .*column p_pneumonia: 'lots'"),
        ({"p_pneumonia": [0.2, 0.102]}, r"row 2 .*p_covid19, p_normal, p_pneumonia: sum 1.002: must be 1"),
        ({"fold": [3, 11]}, r"row 2 .*column fold: 11"),
        ({"fold": [2.5, 3]}, r"row 1 .*column fold: 2.5"),
        ({"fold": [3, None]}, r"row 2 .*column fold: nan"),
        ({"image_id": ["a", "a"]}, r"row 2 \(image_id 'a'\), column image_id: also in row 1 of split 'test'"),
    ],
)
def test_a_bad_cell_raises_with_its_row_and_column(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        validate_predictions(_plain(**changed))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", CONTRACT.split(","))
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(DataError, match=rf"column {column} is missing; the columns are image_id,"):
        validate_predictions(_plain().drop(columns=column))


def test_a_tie_must_predict_its_first_class() -> None:
    scores = {"p_covid19": [0.4, 0.8], "p_normal": [0.4, 0.1]}
    with pytest.raises(DataError, match="p_covid19 is the largest"):
        validate_predictions(_plain(**scores))
    validate_predictions(_plain(**scores, prediction=["COVID-19", "COVID-19"]))


def test_sums_within_a_thousandth_are_accepted() -> None:
    validate_predictions(_plain(p_pneumonia=[0.2009, 0.0991]))


def test_one_image_may_be_in_two_splits_but_not_twice_in_one() -> None:
    validate_predictions(_plain(image_id=["a", "a"], split=["val", "test"]))


def test_validation_keeps_its_argument_unchanged_and_drops_other_columns() -> None:
    table = _plain(extra=[1, 2])
    before = table.copy()
    assert list(validate_predictions(table).columns) == CONTRACT.split(",")
    pd.testing.assert_frame_equal(table, before)


def test_no_rows_are_a_valid_table() -> None:
    table = predictions_table(image_id=[], path=[], patient_id=[], label=[], split="val", fold=0, probabilities=[])
    assert table.shape == (0, 10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": ["a"]}, r"path: 1 values for 2 images"),
        ({"fold": [1, 2, 3]}, r"fold: 3 values for 2 images"),
        ({"probabilities": [[0.5, 0.5], [0.5, 0.5]]}, r"shape \(2, 2\) for 2 images; give \(2, 3\)"),
        ({"probabilities": [[0.2, 0.8, np.nan], [0, 1, 0]]}, r"row 1 .*p_pneumonia: nan"),
    ],
)
def test_columns_of_different_lengths_raise(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "image_id": ["a", "b"],
        "path": ["a", "b"],
        "patient_id": [None, None],
        "label": ["Normal", "Normal"],
        "split": "test",
        "fold": 0,
        "probabilities": [[0, 1, 0], [0, 1, 0]],
    }
    with pytest.raises(DataError, match=message):
        predictions_table(**(arguments | changed))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "column image_id is missing"),
        (CONTRACT.encode(), "no predictions"),
        (CONTRACT.encode() + b"\na,a,p,Normal,test,3,0,1\n", r"row 1: 8 values for 10 columns"),
        (CONTRACT.encode() + b"\na,a,p,Normal,test,3,0,1,0,Normal,more\n", r"row 1: 11 values for 10 columns"),
        (CONTRACT.encode() + b'\na,"a,p,Normal,test,3,0,1,0,Normal\n', "not a valid CSV file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", "predictions.csv"),
    ],
)
def test_a_damaged_file_raises_with_its_path(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(tmp_path / "predictions.csv")
    assert str(tmp_path / "predictions.csv") in str(caught.value)


def test_a_missing_file_and_a_folder_raise_with_their_path(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            read_predictions(path)
        assert str(path) in str(caught.value)


def test_a_file_saved_again_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    write_predictions(_plain(), tmp_path / "p.csv")
    text = (tmp_path / "p.csv").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "q.csv").write_bytes(b"\xef\xbb\xbf" + text)
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "q.csv"), read_predictions(tmp_path / "p.csv"))


def test_a_full_disk_keeps_the_old_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "predictions.csv"
    write_predictions(_plain(), file)
    old = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"predictions\.csv: not written, .*ENOSPC"):
        write_predictions(_table(), file)
    assert file.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


def test_an_invalid_table_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_predictions(_plain(label=["TB", "Normal"]), tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_extras_follow_the_columns_and_are_read_back(tmp_path: Path) -> None:
    table = _table()
    entropy = np.linspace(0.0, 1.0, 6, dtype=np.float32)
    extended = table.assign(anomaly_score=-3.5, predictive_entropy=entropy, other="gone")
    write_predictions(extended, tmp_path / "p.csv")
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert header == f"{CONTRACT},predictive_entropy,anomaly_score"
    back = read_predictions(tmp_path / "p.csv").set_index("image_id")
    assert (back["anomaly_score"] == np.float32(-3.5)).all()
    for image_id, value in zip(table["image_id"], entropy, strict=True):
        assert back.loc[image_id, "predictive_entropy"] == value


def test_tables_with_and_without_extras_can_be_joined(tmp_path: Path) -> None:
    both = pd.concat([_table(3, 1), _table(3, 2).assign(anomaly_score=1.0, image_id=["x", "y", "z"])])
    write_predictions(both, tmp_path / "p.csv")
    back = read_predictions(tmp_path / "p.csv")
    assert back["anomaly_score"].isna().sum() == 3


def test_extras_have_a_value_per_image() -> None:
    with pytest.raises(DataError, match="anomaly_score: 2 values for 1 images"):
        predictions_table(
            image_id=["a"], path=["a.png"], patient_id=[None], label=["Normal"], split="test", fold=1,
            probabilities=[[0.2, 0.5, 0.3]], extras={"anomaly_score": [1.0, 2.0]},
        )  # fmt: skip
