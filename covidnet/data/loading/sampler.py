"""The order of training images: it depends on the seed and the epoch alone, so that a stopped run can go on with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DistributedSampler


class EpochShuffle(DistributedSampler[int]):
    """Every place once, in an order of its own for each epoch, whatever was drawn before.

    What it gives is the place plus the epoch times the number of places: a dataset that draws something at random for
    an item knows from it which epoch it is for, also in a worker process that was started epochs ago.

    Of several processes each gets a share, and shares are of one size: the first places of the order fill the last one.

    Args:
        size: number of places.
        seed: of the orders.
        rank: which of the processes this is.
        processes: how many there are.

    Example:
        >>> sampler = EpochShuffle(4, seed=0)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(first), sorted(key % 4 for key in sampler), {key // 4 for key in sampler}
        ([0, 1, 2, 3], [0, 1, 2, 3], {1})
    """

    def __init__(self, size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        # Of Lightning's samplers for several processes only this class is left as it is.
        super().__init__(range(size), num_replicas=processes, rank=rank)  # type: ignore[arg-type]  # its length is used
        self.size = size
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch.

        Args:
            epoch: from 0 on.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        # A generator reads the epoch when the first item is asked for, not when the loader is made.
        order = np.resize(np.random.default_rng([self.seed, self.epoch]).permutation(self.size), self.total_size)
        yield from (int(place) + self.epoch * self.size for place in order[self.rank :: self.num_replicas])
