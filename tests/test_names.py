"""Names of files in terminals, logs and tables."""

from __future__ import annotations

import csv
import io
import logging
import os
import string

import pytest

from covidnet.errors import ImageRefusedError
from covidnet.names import ShownFormatter, inert, listed, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"film (1).png", "film (1).png"),
        ("Lunge ü 肺.png".encode(), "Lunge ü 肺.png"),
        (b"bad\xff.jpg", r"bad\xff.jpg"),
        (b"\x1b[31mred.png", r"\x1b[31mred.png"),
        (b"two\nlines\r.png", r"two\nlines\r.png"),
        ("gpj.\u202egnp".encode(), r"gpj.\u202egnp"),
        (b"$x$ <b>&.png", "$x$ <b>&.png"),
    ],
)
def test_a_name_is_shown_without_what_a_terminal_obeys(name: bytes, expected: str) -> None:
    text = shown(os.fsdecode(name))
    assert text == expected
    assert text.isprintable()
    assert text.encode("utf-8")


@pytest.mark.parametrize("name", ["=1+1.png", "+1.png", "-1.png", "@SUM(A1).png", "\t=1.png"])
def test_a_listed_path_is_no_formula_and_leads_to_the_same_file(name: str) -> None:
    assert listed(name)[0] not in "=+-@\t\r"
    assert os.path.normpath(listed(name)) == name


def test_every_other_name_in_utf_8_is_listed_as_it_is() -> None:
    name = 'a,\n"b" ü\'' + string.punctuation
    assert listed(name) == name
    stream = io.StringIO()
    csv.writer(stream).writerow([listed(name)])
    assert next(csv.reader(io.StringIO(stream.getvalue()))) == [name]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-cmd", "'-cmd"),
        ("+1;2", "'+1;2"),
        ("-17", "-17"),
        ("+3.5", "+3.5"),
        ("P 17", "P 17"),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_a_value_in_a_cell_is_no_formula_and_one_line(value: str, expected: str) -> None:
    assert inert(value) == expected


def test_log_lines_of_ours_are_shown_and_those_of_others_are_left_alone() -> None:
    def line(logger: str) -> str:
        record = logging.LogRecord(logger, logging.INFO, "", 0, "%s", ("a\x1b[2J.png",), None)
        return ShownFormatter("%(name)s: %(message)s").format(record)

    assert line("covidnet.data.sources") == r"covidnet.data.sources: a\x1b[2J.png"
    assert line("lightning.pytorch") == "lightning.pytorch: a\x1b[2J.png"


def test_an_error_names_its_file_in_one_line() -> None:
    assert (
        str(ImageRefusedError("a\n\udcff.png", "truncated", "copy it again"))
        == r"a\n\xff.png: truncated; copy it again"
    )
