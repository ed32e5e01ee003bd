"""Table 5 from one or more sweeps: python experiments/table5/make.py SWEEP_DIR ... --data WORDS [--out FILE]"""

from __future__ import annotations

import pandas as pd

from covidnet.report.paper.tables import table5
from covidnet.sweep.experiment_table import make_table

if __name__ == "__main__":
    make_table(lambda summaries: pd.concat([table5(summary) for summary in summaries], ignore_index=True), __doc__)
