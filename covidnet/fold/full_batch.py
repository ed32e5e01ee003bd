"""``optim=lbfgs``: a linear head on stored features, trained on all of them at once until its gradient vanishes."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from covidnet.base.errors import SettingError
from covidnet.callbacks.class_metrics import class_metrics
from covidnet.data.loading.dataset import FeatureDataset
from covidnet.learning.module import ClassificationModule, RecordedEpoch, RecordedFit
from covidnet.models.heads import LinearHead

TOLERANCE = 1e-4
"""A head has converged if no entry of its gradient is larger; scikit-learn's LogisticRegression has the same."""

_STEPS = 1000


def full_batch_fit(
    module: ClassificationModule, train: FeatureDataset, val: FeatureDataset, penalties: Sequence[float]
) -> RecordedFit:
    """Minimise the mean loss plus ``l2 / 2`` times the squared weights, for each penalty from strong to weak.

    The first solution starts from zero, each other one from the one before, so that it depends on no seed. The bias has
    no penalty. A head with a norm gets the mean and variance of the training features.

    Args:
        module: with a `LinearHead` without dropout; its head is changed.
        train: the training features.
        val: the validation features.
        penalties: values of l2.

    Returns:
        A recorded epoch for each penalty, so that the validation images choose among them as among epochs.

    Raises:
        SettingError: the head is another one.
    """
    start, head = time.perf_counter(), module.classifier.head
    if type(head) is not LinearHead or head.dropout.p:
        raise SettingError("optim.solver", "lbfgs", "null", "it trains linear heads without dropout; optim=adam others")
    first = {name: value.clone() for name, value in head.state_dict().items()}
    fit = RecordedFit(first, steps=1)
    features = train.features[:]
    if head.norm is not None:
        for name, value in (("running_mean", features.mean(0)), ("running_var", features.var(0))):
            getattr(head.norm, name).copy_(value)
    head.eval()
    with torch.no_grad():
        seen = head.standardised(features)
    optimizer = module.configure_optimizers()["optimizer"].state_dict()
    exact = copy.deepcopy(module.loss).double() if module.loss is not None else None
    found = np.zeros(head.linear.weight.numel() + head.linear.bias.numel())
    for l2 in sorted(penalties, reverse=True):
        found = minimize(
            _objective, found, (seen, train.labels, exact, head.linear, float(l2)), method="L-BFGS-B", jac=True,
            # A relative change says nothing about the gradient.
            options={"gtol": TOLERANCE / 2, "ftol": 0.0, "maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": 60},
        ).x  # fmt: skip
        _objective(found, seen, train.labels, exact, head.linear, float(l2))
        with torch.no_grad():
            logits = head.linear(seen)
            loss, right = _loss(module.loss, logits, train.labels), (logits.argmax(1) == train.labels).sum()
        sums = torch.stack([loss * len(seen), right, right.new_tensor(len(seen))])
        state = {name: value.clone() for name, value in head.state_dict().items()}
        fit.epochs.append(RecordedEpoch(state, optimizer, sums, validation_of(module, val)))
    head.train()
    fit.seconds["fit"] = time.perf_counter() - start
    return fit


def validation_of(module: ClassificationModule, val: FeatureDataset, *, classes: bool = True) -> dict[str, float]:
    """What is logged of the validation images of a head in eval mode.

    Args:
        module: has the head.
        val: their features.
        classes: whether the metrics of each class are logged.
    """
    with torch.no_grad():
        logits = module.classifier.head(val.features[:])
    found = {
        "val/loss": float(cross_entropy(logits, val.labels)),
        "val/accuracy": float((logits.argmax(1) == val.labels).float().mean()),
    }
    return found | (class_metrics(logits, val.labels, module.classes) if classes else {})


def largest_gradient(module: ClassificationModule, train: FeatureDataset, l2: float = 0.0) -> float | None:
    """The largest entry of the gradient of the training loss over all images, by weights and bias of a linear head.

    Args:
        module: has the head.
        train: the training features.
        l2: the penalty of the weights in that loss.

    Returns:
        At least 0; None for another head.
    """
    head = module.classifier.head
    if type(head) is not LinearHead:
        return None
    with torch.no_grad():
        seen = head.eval().standardised(train.features[:])
    parameters = np.concatenate([p.detach().double().numpy().ravel() for p in (head.linear.weight, head.linear.bias)])
    exact = copy.deepcopy(module.loss).double() if module.loss is not None else None
    return float(np.abs(_objective(parameters, seen, train.labels, exact, head.linear, l2)[1]).max())


def _loss(loss: nn.Module | None, logits: Tensor, labels: Tensor) -> Tensor:
    found: Tensor = cross_entropy(logits, labels) if loss is None else loss(logits, labels)
    return found


def _objective(
    parameters: npt.NDArray[np.float64], seen: Tensor, labels: Tensor, loss: Any, linear: nn.Linear, l2: float
) -> tuple[float, npt.NDArray[np.float64]]:
    """Loss and gradient at some parameters, which the layer takes."""
    size = linear.weight.numel()
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(parameters[:size]).view_as(linear.weight))
        linear.bias.copy_(torch.from_numpy(parameters[size:]))
        # The line search compares losses that differ in the eighth digit.
        logits = linear(seen).double()
    logits.requires_grad_()
    with torch.enable_grad():
        value = _loss(loss, logits, labels)
    (by_logits,) = torch.autograd.grad(value, logits)
    weights = parameters[:size]
    gradient = [(by_logits.float().t() @ seen).double().numpy().ravel() + l2 * weights, by_logits.sum(0).numpy()]
    return float(value.detach()) + 0.5 * l2 * float(weights @ weights), np.concatenate(gradient)
