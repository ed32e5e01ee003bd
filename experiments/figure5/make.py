"""Figure 5 as a table: python experiments/figure5/make.py SWEEP_DIR ... --data WORDS [--out FILE]"""

from __future__ import annotations

import pandas as pd

from covidnet.report.paper.figure_tables import figure5
from covidnet.sweep.experiment_table import make_table

if __name__ == "__main__":
    make_table(lambda summaries: pd.concat([figure5(summary) for summary in summaries], ignore_index=True), __doc__)
