"""Heads: the trained part of a network, from a feature vector to one logit per class."""

from __future__ import annotations

from torch import Tensor, nn

from covidnet.errors import SettingError
from covidnet.labels import CLASSES


class LinearHead(nn.Module):
    """Dropout and one linear layer, initialised from PyTorch's global random state.

    Args:
        features_dim: D, the length of a feature vector.
        classes: the number of logits.
        dropout: the share of features set to zero in training, 0 <= dropout < 1.

    Raises:
        SettingError: dropout is out of its range.
    """

    def __init__(self, features_dim: int, classes: int = len(CLASSES), dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise SettingError("model.dropout", dropout, "0 <= dropout < 1")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features_dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to logits (N, classes)."""
        return self.linear(self.dropout(features))
