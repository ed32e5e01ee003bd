import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from covidnet.evaluation.metrics import run_metrics
from covidnet.evaluation.predictions import predictions_table
from covidnet.report.terminal import metrics_table, percent, print_run_summary

CLASSES = ["COVID-19", "Normal", "Pneumonia"]


def _splits(counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The metrics of a test split whose images have the given true (rows) and called (columns) classes."""
    pairs = [(t, p) for t in range(3) for p in range(3) for _ in range(counts[t][p])]
    table = predictions_table(
        image_id=[str(at) for at in range(len(pairs))],
        path=["x"] * len(pairs),
        patient_id=[None] * len(pairs),
        label=[CLASSES[t] for t, _ in pairs],
        split="test",
        fold=3,
        probabilities=np.eye(3)[[p for _, p in pairs]],
    )
    return run_metrics(table)


MIXED = _splits([[50, 1, 1], [0, 48, 4], [1, 5, 46]])
WIDEST = _splits([[977, 13, 11], [12, 988, 17], [14, 11, 966]])
PERFECT = _splits([[52, 0, 0], [0, 52, 0], [0, 0, 52]])
ABSENT = _splits([[0, 0, 0], [0, 52, 0], [0, 0, 52]])


def _print(renderable: Any, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return file.getvalue()


def _summary(metrics: dict[str, Any], run_dir: str = "outputs/run", notes: Sequence[str] = (), width: int = 80) -> str:
    file = io.StringIO()
    print_run_summary(metrics, run_dir, notes, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.977, (0.941, 0.992), "97.7% [94.1, 99.2]"),
        (1.0, (0.93123, 1.0), "100% [93.1, 100]"),
        (0.0, (0.0, 0.069), "0.0% [0.0, 6.9]"),
        (0.9996, (0.99, 0.99999), "100% [99.0, 100]"),
        (0.25, None, "25.0%"),
        (None, None, "–"),  # noqa: RUF001
    ],
)
def test_a_value_is_shown_with_one_digit_and_its_interval(value: Any, interval: Any, text: str) -> None:
    assert percent(value, interval) == text


@pytest.mark.parametrize("splits", [MIXED, WIDEST, PERFECT, ABSENT], ids=["mixed", "widest", "perfect", "absent"])
def test_every_row_is_one_whole_line_within_80_columns(splits: dict[str, Any]) -> None:
    lines = _print(metrics_table(splits["test"], "Test split")).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in "".join(lines)
    assert re.match(r"Class +Sensitivity +Specificity +F1 +Images$", lines[1])
    for name in [*CLASSES, "Accuracy"]:
        (row,) = [line for line in lines if line.startswith(name)]
        assert re.search(r" \d+$", row)


def test_rows_hold_the_numbers_of_their_class() -> None:
    # By hand: 50/52, (156 - 52 - 1)/104, 2*50/(2*50 + 1 + 2); 48/52; 46/52; 144/156. Ends: statsmodels' wilson.
    lines = _print(metrics_table(MIXED["test"])).splitlines()
    assert re.match(
        r"COVID-19 +96\.2% \[87\.0, 98\.9\] +99\.0% \[94\.8, 99\.8\] +97\.1% \[91\.7, 99\.0\] +52$", lines[2]
    )
    assert re.match(r"Normal +92\.3% .* 94\.2% .* 90\.6% .* 52$", lines[3])
    assert re.match(r"Pneumonia +88\.5% .* 95\.2% .* 89\.3% .* 52$", lines[4])
    assert re.match(r"Accuracy +92\.3% \[87\.0, 95\.5\] +156$", lines[-1])


def test_an_undefined_value_is_a_dash_not_a_zero() -> None:
    (row,) = [line for line in _print(metrics_table(ABSENT["test"])).splitlines() if line.startswith("COVID-19")]
    assert row.split() == ["COVID-19", "–", "100%", "[96.4,", "100]", "–", "0"]  # noqa: RUF001


def test_title_is_above_and_footer_below_the_numbers_as_written() -> None:
    text = _print(metrics_table(MIXED["test"], "Test [old]", ["first [red]", "second"]))
    assert text.splitlines()[0].rstrip() == "Test [old]"
    assert [line.rstrip() for line in text.splitlines()[-2:]] == ["first [red]", "second"]


@pytest.mark.parametrize("width", [30, 50, 79])
def test_a_narrow_terminal_breaks_cells_and_loses_no_digit(width: int) -> None:
    narrow = _print(metrics_table(MIXED["test"]), width)
    assert "…" not in narrow
    assert max(len(line) for line in narrow.splitlines()) <= width
    digits = [sorted(re.findall(r"\d", text)) for text in (narrow, _print(metrics_table(MIXED["test"])))]
    assert digits[0] == digits[1]


def test_the_summary_shows_test_and_unseen_then_the_notes_and_the_run_folder_last() -> None:
    metrics = {"fold": 3, "splits": {"val": MIXED["test"], "test": MIXED["test"], "unseen": PERFECT["test"]}}
    note = "The data are synthetic phantoms: [they] say nothing about patients, and :smile: stays as it is written."
    text = _summary(metrics, notes=[note])
    positions = [text.index(part) for part in ("Test split", "Unseen split", "The data are synthetic", "Run folder")]
    assert positions == sorted(positions)
    assert "Val" not in text
    assert note in text.replace("\n", "")
    assert text.count("Accuracy") == 2
    assert text.splitlines()[-1] == "Run folder: outputs/run"
    assert max(map(len, text.splitlines())) <= 80


def test_the_run_folder_is_one_unbroken_line_whatever_its_name() -> None:
    folder = "/a long/[red]name/:x:/" * 12 + "fold=3"
    text = _summary({"fold": 3, "splits": MIXED}, folder)
    assert text.splitlines()[-1] == f"Run folder: {folder}"


def test_a_split_without_images_is_one_line() -> None:
    text = _summary({"splits": MIXED})
    assert "Unseen split: no images" in text
    assert text.count("Accuracy") == 1
    assert "brackets" not in _summary({"splits": {}})


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    print_run_summary({"fold": 0, "splits": MIXED}, "outputs/run", ["note"])
    text = capsys.readouterr().out
    assert "Test split, model of fold 0" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_a_terminal_without_the_dash_gets_another(encoding: str) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, errors="strict")
    print_run_summary({"splits": ABSENT}, "outputs/läuft–1", ["note –"], Console(file=stream, width=80))  # noqa: RUF001
    stream.flush()
    text = buffer.getvalue().decode(encoding)
    assert re.search(r"COVID-19 *\W? *- ", text)
    assert text.splitlines()[-1].startswith("Run folder: outputs/l")
