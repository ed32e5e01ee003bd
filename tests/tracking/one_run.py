"""A run at W&B in a process of its own: prints the seconds that it took, without the imports."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import wandb

from covidnet.tracking.loggers import finish
from covidnet.tracking.wandb_logger import wandb_logger

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    logger = wandb_logger(Path(sys.argv[1]))
    logger.log_metrics({"val/loss": 0.25}, 1)
    finish([logger])
    wandb.teardown()
    print(time.perf_counter() - start)
