"""What ten folds and many heads cost: python benchmarks/sweep.py [NAME=VALUE ...]     (default: 572 phantoms per class)

Prepares the data and fills the feature store, then runs one fold, ten folds with their report, and ten folds with ten
seeds each, every time as a whole command with its imports. It ends with three ratios: heads that train together against
one head that trains alone, and everything after the backbone pass against that pass. ``fold=0,1`` and ``seed=0,1`` take
other folds and seeds. The store has to be new for the last ratio: ``COVIDNET_CACHE=DIR`` names an empty folder.
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


def steps(sweep: Path) -> dict[str, float]:
    """The seconds of each step of a sweep's runs, summed, and the number of runs."""
    seconds = [json.loads(file.read_text())["seconds"] for file in sorted(sweep.glob("*/metrics.json"))]
    return {"runs": len(seconds), **{step: sum(one.get(step, 0.0) for one in seconds) for step in seconds[0]}}


def main() -> None:
    folds = next((word for word in sys.argv[1:] if word.startswith("fold=")), "fold=range(0,10)")
    seeds = next((word for word in sys.argv[1:] if word.startswith("seed=")), "seed=range(0,10)")
    settings = [*(word for word in sys.argv[1:] if word not in (folds, seeds)), "progress=false"]
    print(f"{available_cores()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as home:
        one, ten, many = (Path(home) / name for name in ("one/fold=0", "ten", "many"))
        timed("covidnet.prepare", *(word for word in settings if word.startswith(("data", "split"))))
        first = timed("covidnet.features", *settings)
        # Of a full store only imports and the preparation are left.
        backbone = first - timed("covidnet.features", *settings)
        print(f"backbone pass: {backbone:.1f} s (nothing where the store was full)")
        timed("covidnet.train", "fold=0", *settings, "explain=off", f"hydra.run.dir='{one}'")
        whole = timed("covidnet.train", "-m", folds, *settings, f"hydra.sweep.dir={ten}")
        timed("covidnet.train", "-m", folds, seeds, *settings, "explain=off", f"hydra.sweep.dir={many}")
        alone, found, heads = steps(one.parent), steps(ten), steps(many)
        of = ", ".join(f"{step} {found[step]:.1f}" for step in ("features", "fit", "panels", "serving", "total"))
        print(f"{found['runs']} folds with maps, tests and report: {whole:.1f} s; of the runs' own: {of}")
        print(f"the report alone: {timed('covidnet.crossval', f'sweep_dir={ten}'):.1f} s")
        print(f"fit of one head: {alone['fit']:.2f} s")
        for some in (found, heads):
            print(f"fit of {some['runs']} heads / one head: {some['fit'] / alone['fit']:.2f}")
        if backbone > first / 4:
            print(f"{found['runs']} folds, maps, tests and report / one pass: {whole / backbone:.2f}")
        summary = json.loads((ten / "report/summary.json").read_text())
        low, high = summary["pooled"]["accuracy"]["ci"]
        print(f"pooled accuracy {summary['pooled']['accuracy']['value']:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
