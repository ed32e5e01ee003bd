"""Table 7 from sweeps of several models: python experiments/table7/make.py SWEEP_DIR ... --data WORDS [--out FILE]"""

from __future__ import annotations

from covidnet.experiment_table import make_table
from covidnet.report.paper_tables import table7

if __name__ == "__main__":
    make_table(lambda summaries: table7(summaries), __doc__)
