"""Table 4 from a sweep: python experiments/table4/make.py SWEEP_DIR --data WORDS [--out FILE]"""

from __future__ import annotations

from covidnet.report.paper.tables import table4
from covidnet.sweep.experiment_table import make_table

if __name__ == "__main__":
    make_table(lambda summaries: table4(summaries[0]), __doc__)
