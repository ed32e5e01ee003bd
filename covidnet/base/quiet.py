"""Silence warnings and notes of libraries that a user can do nothing about."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Hide messages that need no action; warnings about a fault of the run stay."""
    for name in (
        "pytorch_lightning.utilities.rank_zero",
        "pytorch_lightning.accelerators.cuda",
        "pytorch_lightning.trainer.connectors.signal_connector",
        "lightning_fabric.utilities.distributed",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        # Few workers are our choice on a machine with few cores.
        ".*does not have many workers.*",
        # The frozen backbone stays in eval mode, and that is the point.
        r".*module\(s\) in eval mode at the start of training.*",
        # Lightning's own use of a deprecated name of torch.
        ".*isinstance.treespec, LeafSpec.*",
        # A run on the first machine of a cluster is as good as one under srun.
        ".*`srun` command is available.*",
        # torchmetrics has gathered what is logged there.
        r".*when logging on epoch level in distributed setting.*",
        # Kernels of one channel have two layouts that are the same.
        ".*Grad strides do not match bucket view strides.*",
        # The checkpoint folder of a resumed run.
        ".*exists and is not empty.*",
        # Small studies have fewer batches than a log interval.
        ".*The number of training batches.*",
    ):
        warnings.filterwarnings("ignore", message=message)
