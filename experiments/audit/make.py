"""Tables of audits: python experiments/audit/make.py [--audit NAME=FOLDER ...] [--out FOLDER].

Writes published.csv (the paper's Tables 3, 5 and 7, which `covidnet audit audit.published=FILE` reads) and
published_tables.csv, what it finds. With --audit, NAME.csv: the findings of an audit, without names of patients and
images.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from covidnet.auditing.published_tables import RATES, published_tables
from covidnet.auditing.study import Study
from covidnet.report.paper.published import TABLE3, TABLE4, TABLE5, TABLE7
from covidnet.report.values import printed

_TESTS = 10
_OTHERS = ("bacterial", "viral", "normal")


def published() -> pd.DataFrame:
    """The rows whose numbers of images the paper prints."""
    rows = []
    for name, row in TABLE3.items():
        negatives = sum(int(row[other] or 0) for other in _OTHERS)
        if negatives:
            rows.append(_row(f"Table 3, {name}", int(row["covid19"] or 0), negatives, row))
    tested = {name: _TESTS * row["test"] for name, row in TABLE4.items()}
    total = sum(tested.values())
    rows += [_row(f"Table 5, {name}", tested[name], total - tested[name], row) for name, row in TABLE5.items()]
    covid = tested["COVID-19"]
    rows += [_row(f"Table 7, {name}", covid, total - covid, row) for name, row in TABLE7.items() if name != "RT-PCR"]
    return pd.DataFrame(rows)


def _row(name: str, positives: int, negatives: int, rates: Mapping[str, object]) -> dict[str, object]:
    given = {rate: rates.get(rate) for rate in RATES}
    words = {rate: f"{printed(float(str(value))).number}%" for rate, value in given.items() if value is not None}
    return {
        "name": name,
        "positives": positives,
        "negatives": negatives,
        **{rate: words.get(rate, "") for rate in RATES},
    }


def findings(audit: Path) -> pd.DataFrame:
    """The findings of an audit without the names of patients and images, the most serious first."""
    record = json.loads((audit / "audit.json").read_text(encoding="utf-8"))
    rows = []
    for finding in record["findings"]:
        low, high = finding["interval"] or (None, None)
        what = re.sub(r", such as .+?(?=;|\.$)", "", finding["what"])
        rows.append({**{key: finding[key] for key in ("check", "level")}, "what": what, "number": finding["number"],
                     "low": low, "high": high, "unit": finding.get("unit", "%")})  # fmt: skip
    rows += [{"check": check, "level": "not possible", "what": why} for check, why in record["not_possible"].items()]
    return pd.DataFrame(rows)


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--audit", nargs="*", default=[], metavar="NAME=FOLDER", help="folders of audits, with audit.json"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    for one in given.audit:
        name, _, folder = one.partition("=")
        findings(Path(folder)).to_csv(out / f"{name}.csv", index=False, float_format="%.4f", lineterminator="\n")
    file = out / "published.csv"
    published().to_csv(file, index=False, lineterminator="\n")
    answer = published_tables(Study(None, published=file))
    found = answer.tables["published_tables"]
    found.to_csv(out / "published_tables.csv", index=False, float_format="%.4f", lineterminator="\n")
    print(answer.notes[0])  # noqa: T201
    for finding in answer.findings:
        print(finding.what)  # noqa: T201


if __name__ == "__main__":
    main()
