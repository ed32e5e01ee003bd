"""The variance of repeats is that of an analysis of variance."""

from __future__ import annotations

import numpy as np
import pytest

from covidnet.base.errors import DataError
from covidnet.evaluation.repeats import spread


def test_the_parts_are_those_of_statsmodels() -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(0)
    values = {str(s): (0.9 + rng.normal(0, 0.03) + rng.normal(0, 0.01, 4)).tolist() for s in range(6)}
    import pandas as pd

    table = pd.DataFrame([(s, v) for s, of_split in values.items() for v in of_split], columns=["split", "value"])
    squares = anova_lm(ols("value ~ C(split)", table).fit())["mean_sq"]
    found = spread(values, [0.02, 0.04])
    assert found.seed == pytest.approx(np.sqrt(squares["Residual"]))
    assert found.split == pytest.approx(np.sqrt((squares["C(split)"] - squares["Residual"]) / 4))
    assert found.images == pytest.approx(np.sqrt((0.02**2 + 0.04**2) / 2))
    assert (found.repeats, found.splits) == (24, 6)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (table["value"].mean(), table["value"].min(), table["value"].max())
    )


def test_what_cannot_be_told_apart_is_unknown() -> None:
    seeds, splits = spread({"the same": [0.8, 0.9]}, []), spread({"0": [0.8], "1": [0.9]}, [0.01])
    assert (seeds.split, seeds.images) == (None, None)
    assert seeds.seed == splits.split == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert splits.seed is None
    # Splits that differ less than their seeds explain.
    assert spread({"0": [0.8, 0.9], "1": [0.9, 0.8]}, []).split == 0
    with pytest.raises(DataError, match="no repeat"):
        spread({"0": []}, [])
