"""Losses that PyTorch does not have, and class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from covidnet.base.errors import SettingError

MARGIN = 5.0
"""How many standard deviations anomalies are pushed away from common images."""

_PRIOR_DRAWS = 5000


def balanced_weights(counts: Sequence[int]) -> Tensor:
    """Class weights that give every class the same influence, as scikit-learn's ``class_weight="balanced"``.

    Args:
        counts: images of each class.

    Returns:
        (classes) float32: the number of images, divided by the number of classes and by the class's images.

    Example:
        >>> balanced_weights([10, 20, 30]).tolist()
        [2.0, 1.0, 0.6666666865348816]
    """
    return torch.tensor([sum(counts) / (len(counts) * max(count, 1)) for count in counts])


class FocalLoss(nn.Module):
    """Cross-entropy in which images that are classified well count less: each by ``(1 - p)^gamma``.

    Args:
        gamma: at least 0; with 0 it is cross-entropy.
        weight: (classes) weights, or None for equal ones. As in PyTorch, the mean is weighted too.

    Raises:
        SettingError: gamma is not a number of at least 0.

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5; with softmax in place of the sigmoid.
    torchvision's `sigmoid_focal_loss` treats classes as independent, which ours are not.
    """

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__()
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not gamma >= 0:
            raise SettingError("loss.gamma", gamma, "a number of at least 0")
        self.gamma = gamma
        self.weight: Tensor | None
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over logits (N, classes) with the labels (N)."""
        log_p = log_softmax(logits, 1).gather(1, labels[:, None]).squeeze(1)
        weights = torch.ones_like(log_p) if self.weight is None else self.weight[labels]
        # The power has no finite gradient at 0.
        missed = (-log_p.expm1()).clamp_min(1e-12)
        mean: Tensor = -(weights * missed**self.gamma * log_p).sum() / weights.sum()
        return mean


def deviation_loss(scores: Tensor, anomalous: Tensor, margin: float = MARGIN) -> Tensor:
    """Pull scores of common images to the mean of a standard normal prior, and push those of anomalies past a margin.

    Args:
        scores: (N) anomaly scores.
        anomalous: (N) bool.
        margin: in standard deviations of the prior.

    Returns:
        The mean over images of |d| for common ones and max(0, margin - d) for anomalies, where d is the number of
        standard deviations that the score is above the prior's mean. As in the source, mean and standard deviation are
        estimated from 5,000 draws; the seed is fixed.

    Source: Pang, Shen and van den Hengel 2019, https://doi.org/10.1145/3292500.3330871, as used by Zhang et al. 2020,
    https://arxiv.org/abs/2003.12338

    Example:
        >>> far = deviation_loss(torch.tensor([0.0, 6.0]), torch.tensor([False, True]))
        >>> bool(far < 0.02)
        True
    """
    prior = torch.randn(_PRIOR_DRAWS, generator=torch.Generator().manual_seed(0))
    deviation = (scores - float(prior.mean())) / float(prior.std())
    return torch.where(anomalous, (margin - deviation).clamp_min(0.0), deviation.abs()).mean()
