"""Heads: the trained part of a network, from a feature vector to one logit per class."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from covidnet.errors import SettingError
from covidnet.labels import CLASSES


class LinearHead(nn.Module):
    """Dropout and one linear layer, on standardised features if asked for, initialised from PyTorch's random state.

    Standardising subtracts a running mean and divides by a running standard deviation, without weights of its own
    (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167). What is trained stays one linear map of the features,
    but it is found in a few epochs where features of very different scales, such as those of random weights, would
    take hundreds.

    Args:
        features_dim: D, the length of a feature vector.
        classes: the number of logits.
        dropout: the share of features set to zero in training, 0 <= dropout < 1.
        standardise: whether features are standardised first; the paper trains the linear layer alone.

    Raises:
        SettingError: dropout is out of its range.
    """

    def __init__(
        self, features_dim: int, classes: int = len(CLASSES), dropout: float = 0.0, standardise: bool = False
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise SettingError("model.dropout", dropout, "0 <= dropout < 1")
        self.norm = nn.BatchNorm1d(features_dim, affine=False) if standardise else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features_dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to logits (N, classes)."""
        if self.norm is not None:
            # The last batch of an epoch may be a single film, which has no standard deviation.
            alone = self.training and len(features) == 1
            norm = self.norm
            features = batch_norm(features, norm.running_mean, norm.running_var) if alone else norm(features)
        return self.linear(self.dropout(features))
