"""The constants against the numbers of the paper as they were read from it, and each finding against arithmetic."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.report.paper.published import (
    ACCURACY,
    APPROACHES,
    EXPLAINING,
    SOURCES,
    TABLE3,
    TABLE4,
    TABLE5,
    TABLE6,
    TABLE7,
    inconsistencies,
)

FOUND = inconsistencies()


def _rounded(value: float) -> float:
    return round(100 * value + 1e-9, 1)


def test_table_4_is_as_printed() -> None:
    assert set(TABLE4) == set(CLASSES)
    for row in TABLE4.values():
        assert list(row.values()) == [572, 468, 1070, 52, 52]


def test_table_5_is_as_printed() -> None:
    printed = {"COVID-19": (97.7, 98.9, 97.7), "Normal": (92.7, 96.8, 93.1), "Pneumonia": (93.5, 96.3, 93.0)}
    for name, numbers in printed.items():
        found = [round(100 * TABLE5[name][key], 6) for key in ("sensitivity", "specificity", "f1")]
        assert found == list(numbers)
    assert ACCURACY == 0.946


def test_table_6_and_7_are_as_printed() -> None:
    keys = ("accuracy", "sensitivity", "specificity")
    assert [TABLE6["with"][key] for key in keys] == [0.946, 0.946, 0.973]
    assert [TABLE6["without"][key] for key in keys] == [0.9384, 0.940, 0.960]
    assert [[column[key] for key in keys] for column in TABLE7.values()] == [
        [0.985, 0.977, 0.989],
        [None, 0.842, 0.989],
        [0.939, 0.852, 0.982],
        [0.970, 0.911, 0.997],
    ]
    assert list(TABLE7) == ["Our approach", "RT-PCR", "CNN", "Narin et al. (ResNet-50)"]
    assert set(APPROACHES.values()) <= set(TABLE7)


def test_table_3_is_as_printed() -> None:
    rates = {
        name: [row[key] for key in ("accuracy", "sensitivity", "specificity", "f1")] for name, row in TABLE3.items()
    }
    assert rates == {
        "Ghoshal": [0.929, 0.857, 0.994, 0.750],
        "Zhang": [0.960, 0.960, 0.707, 0.735],
        "Narin": [0.980, 0.918, 0.966, 0.835],
        "Wang": [0.835, 0.910, 0.995, 0.947],
        "Karakanis": [0.983, 0.993, 0.981, 0.991],
    }
    images = {name: [row[key] for key in ("covid19", "bacterial", "viral", "normal")] for name, row in TABLE3.items()}
    assert images["Wang"] == [45, 931, 660, 1203]
    assert images["Narin"] == [50, None, 50, None]
    assert set(TABLE3) <= set(SOURCES)
    assert all(SOURCES[name].doi or SOURCES[name].arxiv for name in TABLE3)


def test_what_is_said_of_table_3_is_so() -> None:
    assert _rounded((0.96 * 70 + 0.707 * 1008) / 1078) == 72.3
    assert "72.3%" in FOUND["Table 3"][0]
    assert _rounded((0.918 + 0.966) / 2) == 94.2
    assert "94.2%" in FOUND["Table 3"][1]


def test_no_counts_of_520_images_a_class_give_table_5() -> None:
    missed, alarms = {}, {}
    for name, row in TABLE5.items():
        missed[name] = [n for n in range(521) if _rounded(1 - n / 520) == round(100 * row["sensitivity"], 1)]
        # A half is rounded to either side by different programs.
        alarms[name] = [
            n
            for n in range(1041)
            if round(100 * row["specificity"], 1) in {_rounded(1 - n / 1040), _rounded(1 - n / 1040 - 1e-8)}
        ]
    assert [missed[name] for name in CLASSES] == [[12], [38], [34]]
    assert [alarms[name] for name in CLASSES] == [[11], [33], [38, 39]]
    totals = {sum(numbers) for numbers in product(*alarms.values())}
    assert totals == {82, 83}
    assert "= 84 false negatives" in FOUND["Table 5"][0]
    assert "82 or 83" in FOUND["Table 5"][0]
    assert _rounded(2 * 508 / (2 * 508 + 12 + 11)) == 97.8
    assert "97.8%" in FOUND["Table 5"][1]


def test_what_is_said_of_table_6_is_so() -> None:
    for metric, keys in {"sensitivity": "sensitivity", "specificity": "specificity"}.items():
        mean = np.mean([row[keys] for row in TABLE5.values()])
        assert _rounded(float(mean)) == round(100 * TABLE6["with"][metric], 1)
    # One of two negative classes is right where the image's own class is wrong.
    assert _rounded(1 - (1 - 0.9384) / 2) == 96.9
    assert round(0.946 * 1560) - round(0.9384 * 1560) == 12
    low, high = proportion_confint(round(0.946 * 1560), 1560, method="wilson")
    assert (_rounded(low), _rounded(high)) == (93.4, 95.6)
    assert "93.4% to 95.6%" in FOUND["Table 6"][1]
    assert low < 0.9384


def test_what_is_said_of_table_7_is_so() -> None:
    highest = (0.9115 + 2 * 0.9975) / 3
    assert highest < 0.9695
    assert _rounded((0.911 + 2 * 0.997) / 3) == 96.8
    assert TABLE7["RT-PCR"]["specificity"] == TABLE7["Our approach"]["specificity"]
    # The other columns do add up.
    assert _rounded((0.977 + 2 * 0.989) / 3) == 98.5
    assert _rounded((0.852 + 2 * 0.982) / 3) == 93.9


def test_the_best_of_ten_is_that_much_too_good() -> None:
    k = np.arange(157)
    best = float((k * np.diff(binom.cdf(k, 156, 0.946) ** 10, prepend=0.0)).sum() / 156)
    assert _rounded(best) == 97.2
    assert _rounded(best - 0.946) == 2.6
    assert "97.2%" in FOUND["Method"][0]
    assert "2.6 points" in FOUND["Method"][0]


@pytest.mark.parametrize("table", list(FOUND))
def test_a_finding_is_a_sentence(table: str) -> None:
    for line in FOUND[table]:
        assert line.endswith(".")
        assert "  " not in line


def test_sources_of_heat_maps_have_an_address_and_the_paper_s_number() -> None:
    for source in EXPLAINING.values():
        assert source.year
        assert (source.doi is None) != (source.arxiv is None)
    assert {key: source.reference for key, source in EXPLAINING.items() if source.reference} == {
        "gradcam": 25,
        "cam": 34,
    }
    assert EXPLAINING["gradcam"].doi == "10.1109/ICCV.2017.74"
    assert EXPLAINING["sanity"].arxiv == "1810.03292"
    assert EXPLAINING["pointing"].doi == "10.1007/s11263-017-1059-x"
    assert EXPLAINING["iou"].doi == "10.1109/TSMC.1979.4310076"
