"""What one fold costs from nothing: python benchmarks/fold.py [NAME=VALUE ...]      (default: experiment=demo)

Runs ``python -m covidnet.train`` with an empty cache, then again with the cache that the first run filled, and prints
for both the seconds, the peak memory of all its processes together, and what the run says of its steps and scores. The
last line is what the second command takes beyond ``import pytorch_lightning``, which every command of it has to pay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from covidnet.base.progress import available_cores


def resident(pid: int) -> int:
    """Memory of a process and its descendants in bytes, shared pages counted once (Linux)."""
    parents, total = {}, 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    for process in parents:
        ancestor = process
        while ancestor in parents and ancestor != pid:
            ancestor = parents[ancestor]
        if ancestor == pid:
            try:
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def measure(overrides: list[str], cache: Path, folder: Path) -> tuple[float, int]:
    command = [sys.executable, "-m", "covidnet.train", *overrides, "progress=false", f"hydra.run.dir='{folder}'"]
    start, peak = time.perf_counter(), 0
    environment = {**os.environ, "COVIDNET_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.25):
            peak = max(peak, resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")
    return time.perf_counter() - start, peak


def main() -> None:
    overrides = sys.argv[1:] or ["experiment=demo"]
    cores = available_cores()
    print(
        f"python -m covidnet.train {' '.join(overrides)}   ({cores} cores, load {os.getloadavg()[0]:.1f} at the start)"
    )
    with tempfile.TemporaryDirectory() as home:
        for name in ("empty cache", "filled cache"):
            folder = Path(home) / name.replace(" ", "-")
            seconds, peak = measure(overrides, Path(home) / "cache", folder)
            metrics = json.loads((folder / "metrics.json").read_text())
            steps = ", ".join(f"{step} {took:.2f}" for step, took in metrics["seconds"].items())
            scores = ", ".join(
                f"{split} {100 * numbers['accuracy']:.1f}% of {numbers['n']}"
                for split, numbers in metrics["splits"].items()
                if numbers["n"]
            )
            print(f"{name}: {seconds:.1f} s, peak {peak / 2**30:.2f} GiB; {steps}; accuracy {scores}")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import pytorch_lightning"], check=True)
    imported = time.perf_counter() - start
    print(f"filled cache, beyond import pytorch_lightning ({imported:.1f} s): {seconds - imported:.1f} s")


if __name__ == "__main__":
    main()
