"""Table 7 from sweeps of several models: python experiments/table7/make.py SWEEP_DIR ... --data WORDS [--out FILE]"""

from __future__ import annotations

from covidnet.report.paper.tables import table7
from covidnet.sweep.experiment_table import make_table

if __name__ == "__main__":
    make_table(lambda summaries: table7(summaries), __doc__)
