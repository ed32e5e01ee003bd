import pytest

from covidnet.evaluation.results import Measured
from covidnet.report.values import Value, area, clean, printed, rate


def test_a_rate_is_percent_with_its_interval() -> None:
    value = rate(Measured(0.946, (0.9338, 1.0)))
    assert (value.number, value.ends) == ("94.6", "[93.4, 100.0]")
    assert (rate(0.5).number, rate(0.5).ends) == ("50.0", "")


@pytest.mark.parametrize("nothing", [None, Measured(None, None), Measured(None, (0.0, 1.0))])
def test_a_number_that_does_not_exist_is_a_dash_without_an_interval(nothing: object) -> None:
    for value in (rate(nothing), area(nothing)):
        assert (value.number, value.ends) == ("–", "")  # noqa: RUF001


def test_numbers_are_written_as_in_print() -> None:
    assert Value(1560).number == "1,560"
    assert Value(-0.0123, scale=100, digits=1).number == "−1.2"  # noqa: RUF001
    assert Value(-0.00001, digits=3).number == "0.000"
    assert area(0.9876).number == "0.988"
    assert [printed(v).number for v in (0.946, 0.9384, None)] == ["94.6", "93.84", "–"]  # noqa: RUF001


def test_a_text_is_one_line_that_every_page_can_hold() -> None:
    assert clean("a\r\n b\tc") == "a b c"
    assert clean("\x00\x1b[31mred\x85\u2028x") == "[31mred x"
    assert clean("\ud800") == "\\ud800"
    assert clean("abc\u202ecba\uffff") == "abccba"
    assert clean(7) == "7"
    clean("caf\udce9").encode("utf-8")
