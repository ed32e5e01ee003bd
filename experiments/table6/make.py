"""Table 6 from sweeps with and without augmentation: python experiments/table6/make.py SWEEP_DIR ... --data WORDS"""

from __future__ import annotations

from covidnet.report.paper.tables import table6
from covidnet.sweep.experiment_table import make_table

if __name__ == "__main__":
    make_table(lambda summaries: table6(summaries), __doc__)
