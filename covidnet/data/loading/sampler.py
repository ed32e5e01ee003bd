"""The order of training images. It depends only on the seed and the epoch, so that a stopped run can be resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DistributedSampler


class EpochShuffle(DistributedSampler[int]):
    """Yield every index once, in an order that depends only on the seed and the epoch.

    The yielded key is the index plus the epoch times the size. From it a dataset that augments at random knows the
    epoch, even in a worker process that was started epochs ago.

    With several processes, each gets a share of equal size: the first indices of the order pad the last share.

    Args:
        size: number of indices.
        seed: of the orders.
        rank: the rank of this process.
        processes: the number of processes.

    Example:
        >>> sampler = EpochShuffle(4, seed=0)
        >>> first = list(sampler)
        >>> sampler.set_epoch(1)
        >>> sorted(first), sorted(key % 4 for key in sampler), {key // 4 for key in sampler}
        ([0, 1, 2, 3], [0, 1, 2, 3], {1})
    """

    def __init__(self, size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        # Lightning replaces every sampler but a DistributedSampler when there are several processes.
        super().__init__(range(size), num_replicas=processes, rank=rank)  # type: ignore[arg-type]  # its length is used
        self.size = size
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. Lightning calls this before each epoch.

        Args:
            epoch: counted from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        # As a generator, this reads the epoch at the first item, not when the loader is made.
        order = np.resize(np.random.default_rng([self.seed, self.epoch]).permutation(self.size), self.total_size)
        yield from (int(place) + self.epoch * self.size for place in order[self.rank :: self.num_replicas])
