"""A run whose W&B server falls silent, in a process of its own: prints as JSON the seconds that it took."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import pandas as pd

from covidnet.tracking.fold_log import log_fold
from covidnet.tracking.loggers import finish
from covidnet.tracking.wandb_logger import wandb_logger
from tests.tracking.fakes import wandb_server

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    home = Path(sys.argv[1])
    metrics = json.loads((home / "metrics.json").read_text())
    predictions = pd.read_pickle(home / "predictions.pkl")
    seconds = {}
    with wandb_server() as server:
        os.environ["WANDB_BASE_URL"] = server.url
        logger = wandb_logger(home / "run", patience=20.0)
        server.silent.set()
        start = time.perf_counter()
        for step in range(200):
            logger.log_metrics({"val/loss": 1 / (1 + step)}, step)
        log_fold([logger], metrics, predictions, {})
        seconds["logged"] = time.perf_counter() - start
        finish([logger])
        seconds["ended"] = time.perf_counter() - start
    start = time.perf_counter()
    following = wandb_logger(home / "next", mode="offline")
    following.log_metrics({"val/loss": 1.0}, 1)
    finish([following])
    seconds["following"] = time.perf_counter() - start
    print(json.dumps(seconds))
