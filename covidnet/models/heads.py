"""Heads: the trained part of a network, from a feature vector to one logit per class."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from covidnet.base.classes import DEFAULT_CLASSES
from covidnet.base.errors import SettingError
from covidnet.models.registry import HEADS, register_head

# The smallest normal float32: the logarithm of a probability of 0 would be infinite.
_LEAST = 1.2e-38


@register_head("linear")
class LinearHead(nn.Module):
    """Dropout and one linear layer, optionally on standardised features, initialised from PyTorch's random state.

    Standardising subtracts a running mean and divides by a running standard deviation, without trainable weights (Ioffe
    and Szegedy 2015, https://arxiv.org/abs/1502.03167). The head is still one linear map of the features. But if
    features have very different scales, as those of random weights do, it converges in a few epochs instead of
    hundreds.

    Args:
        features_dim: D, the length of a feature vector.
        classes: the number of logits.
        dropout: the share of features set to zero in training, 0 <= dropout < 1.
        standardise: whether features are standardised first; the paper trains only the linear layer.

    Raises:
        SettingError: dropout is out of range.
    """

    def __init__(
        self, features_dim: int, classes: int = len(DEFAULT_CLASSES), dropout: float = 0.0, standardise: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
            raise SettingError("model.dropout", dropout, "at least 0 and below 1")
        self.norm = nn.BatchNorm1d(features_dim, affine=False) if standardise else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features_dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to logits (N, classes)."""
        return self.linear(self.dropout(self.standardised(features)))

    def standardised(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) as the linear layer sees them, before dropout."""
        if self.norm is None:
            return features
        # The last batch of an epoch may be a single image, whose standard deviation is undefined.
        alone = self.training and len(features) == 1
        norm = self.norm
        return batch_norm(features, norm.running_mean, norm.running_var) if alone else norm(features)

    def extras(self, features: Tensor) -> dict[str, Tensor]:
        """The head's outputs besides the logits, by column of predictions.csv: none for this head."""
        return {}


@register_head("monte_carlo")
class MonteCarloHead(LinearHead):
    """Dropout that stays active at prediction: the class probabilities are the mean over many draws.

    In training it is a `LinearHead`. In eval mode it uses `samples` fixed masks from its own seed, the same for every
    image, so that a prediction depends neither on the batch nor on when it is made. The logits are the logarithms of
    the mean probabilities, so their softmax is that mean.

    Args:
        features_dim: D.
        classes: the number of logits.
        dropout: the share of features set to zero in every draw, 0 < dropout < 1.
        standardise: as in `LinearHead`.
        samples: draws, at least 2.

    Raises:
        SettingError: dropout or samples is out of range.

    Source: Ghoshal and Tucker 2020, https://arxiv.org/abs/2003.10769, after Gal and Ghahramani 2016,
    https://proceedings.mlr.press/v48/gal16.html. They apply dropout to the weights of a ResNet50V2's new layers and do
    not give its rate or the number of draws. Here it is on the pooled features of torchvision's ResNet-50, and both
    numbers are ours.
    """

    def __init__(
        self,
        features_dim: int,
        classes: int = len(DEFAULT_CLASSES),
        dropout: float = 0.5,
        standardise: bool = False,
        samples: int = 50,
    ) -> None:
        super().__init__(features_dim, classes, dropout, standardise)
        if not dropout > 0.0:
            raise SettingError(
                "model.dropout", dropout, "above 0 and below 1", "without dropout every draw is the same"
            )
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
            raise SettingError("model.samples", samples, "an integer of at least 2")
        generator = torch.Generator().manual_seed(0)
        kept = torch.rand(samples, features_dim, generator=generator) >= dropout
        # Drawn once and stored with the weights, so that a checkpoint predicts the same on every machine.
        self.masks: Tensor
        self.register_buffer("masks", kept.float() / (1.0 - dropout))

    def forward(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to logits (N, classes), in eval mode of the mean over the draws."""
        if self.training:
            return super().forward(features)
        return self._draws(features).mean(0).clamp_min(_LEAST).log()

    def extras(self, features: Tensor) -> dict[str, Tensor]:
        """For each image, in nats: the entropy of the mean prediction, and the part due to disagreement of the draws.

        Args:
            features: (N, D).

        Returns:
            ``predictive_entropy`` (N), from 0 to the logarithm of the number of classes, and ``mutual_information``
            (N), at least 0.
        """
        draws = self._draws(features)
        total = _entropy(draws.mean(0))
        return {"predictive_entropy": total, "mutual_information": (total - _entropy(draws).mean(0)).clamp_min(0.0)}

    def _draws(self, features: Tensor) -> Tensor:
        """Probabilities of every draw: (samples, N, classes)."""
        seen = self.standardised(features)
        # Apply the mask to the weights, not to the features: N x D x samples numbers would not fit into memory.
        weights = self.linear.weight[None] * self.masks[:, None]
        return (torch.einsum("nd,skd->snk", seen, weights) + self.linear.bias).softmax(-1)


@register_head("anomaly")
class AnomalyHead(LinearHead):
    """A linear classifier, plus a linear score of how much an image differs from the common classes.

    Args:
        features_dim: D.
        classes: the number of logits.
        dropout: as in `LinearHead`.
        standardise: as in `LinearHead`.

    Source: Zhang et al. 2020, https://arxiv.org/abs/2003.12338: a classification head and an anomaly head on a residual
    network, with COVID-19 as the anomaly; the score's loss is in `covidnet.learning.losses`. They have two classes and
    fine-tune an 18-layer network. We take any classes, with the positive one as the anomaly, and train only the two
    heads, and the score does not affect the predicted class.
    """

    def __init__(
        self, features_dim: int, classes: int = len(DEFAULT_CLASSES), dropout: float = 0.0, standardise: bool = False
    ) -> None:
        super().__init__(features_dim, classes, dropout, standardise)
        self.anomaly = nn.Linear(features_dim, 1)

    def scores(self, features: Tensor) -> Tensor:
        """Feature vectors (N, D) to anomaly scores (N): near 0 for common classes, 5 and more for an anomaly."""
        # `forward` has already updated the running statistics with this batch, so they are not updated again.
        norm = self.norm
        seen = features if norm is None else batch_norm(features, norm.running_mean, norm.running_var, eps=norm.eps)
        return self.anomaly(seen).squeeze(1)

    def extras(self, features: Tensor) -> dict[str, Tensor]:
        """``anomaly_score`` (N), in standard deviations of a standard normal prior."""
        return {"anomaly_score": self.scores(features)}


def build_head(
    kind: str, features_dim: int, classes: int, dropout: float, standardise: bool, samples: int
) -> nn.Module:
    """Build a head by its name: linear, monte_carlo, anomaly, or a registered one; arguments as in the classes.

    Raises:
        SettingError: there is no such head, or what it builds does not give (N, classes).
    """
    if kind not in HEADS:
        raise SettingError("model.head", kind, HEADS, "or one that imports=[FILE] registers")
    given = {"features_dim": features_dim, "classes": classes, "dropout": dropout, "standardise": standardise}
    given["samples"] = samples
    taken = inspect.signature(HEADS[kind]).parameters
    head = HEADS[kind](**{name: value for name, value in given.items() if name in taken})
    with torch.no_grad():
        shape = tuple(head.eval()(torch.zeros(2, features_dim)).shape)
    if shape != (2, classes):
        raise SettingError("model.head", kind, f"a head that gives (N, {classes})", f"of 2 images it gives {shape}")
    return head.train()


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp_min(_LEAST).log()).sum(-1)
