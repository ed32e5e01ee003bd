"""What a sweep of ten folds costs: python benchmarks/sweep.py [NAME=VALUE ...]      (default: 572 phantoms per class)

Fills the feature store first, then runs ``python -m covidnet.train -m 'fold=range(0,10)'`` as a whole command, with its
imports and the report at its end, and ``python -m covidnet.crossval`` on what it left. ``fold=0,1`` takes other folds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from covidnet.base.progress import available_cores


def timed(*arguments: str) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
    return time.perf_counter() - start


def main() -> None:
    folds = next((word for word in sys.argv[1:] if word.startswith("fold=")), "fold=range(0,10)")
    settings = [*(word for word in sys.argv[1:] if word != folds), "progress=false"]
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as home:
        sweep = Path(home) / "sweep"
        print(
            f"feature store filled: {timed('covidnet.features', *settings):.1f} s (what it held already costs nothing)"
        )
        whole = timed("covidnet.train", "-m", folds, *settings, f"hydra.sweep.dir={sweep}")
        seconds = [json.loads(file.read_text())["seconds"] for file in sorted(sweep.glob("fold=*/metrics.json"))]
        steps = ", ".join(
            f"{step} {sum(s[step] for s in seconds):.1f}" for step in ("features", "fit", "panels", "total")
        )
        print(f"{len(seconds)} folds with their report: {whole:.1f} s; of the runs' own: {steps}")
        print(f"the report alone: {timed('covidnet.crossval', f'sweep_dir={sweep}'):.1f} s")
        summary = json.loads((sweep / "report/summary.json").read_text())
        low, high = summary["pooled"]["accuracy"]["ci"]
        print(f"pooled accuracy {summary['pooled']['accuracy']['value']:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
