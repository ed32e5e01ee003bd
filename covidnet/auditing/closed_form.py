"""A classifier with a closed form: ridge regression on fixed inputs, for many labellings of the same images at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits

from covidnet.auditing.study import NotPossibleError
from covidnet.base.names import counted

FOLDS = 5

# Of inputs scaled so that an image has a squared length of 1 on average.
_PENALTY = 1.0
_AT_ONCE = 50

Codes = npt.NDArray[np.intp]


def patient_folds(patients: Codes, seed: int) -> Iterator[tuple[Codes, Codes]]:
    """The rows to fit to and to test on, five times; no patient is in both. Labels have no part in it.

    Args:
        patients: (n,) the patient of each image.
        seed: of the folds.

    Raises:
        NotPossibleError: there are fewer than ten patients.
    """
    from sklearn.model_selection import GroupKFold

    units = len(np.unique(patients))
    if units < 2 * FOLDS:
        raise NotPossibleError(f"there are images of {counted(units, 'patient')}, at least {2 * FOLDS} are needed")
    return GroupKFold(FOLDS, shuffle=True, random_state=seed).split(patients, groups=patients)


def ridge_classes(
    fit: npt.NDArray[np.float32], labels: npt.NDArray[np.integer], test: npt.NDArray[np.float32], classes: int
) -> npt.NDArray[np.int8]:
    """The classes that ridge regression predicts, for several labellings of the images that it is fitted to.

    The regression's target for a class is 1 over its frequency, so that the largest answer is the class of the highest
    likelihood, however rare it is.

    Args:
        fit: (n, features) inputs.
        labels: (n, labellings) 0..classes-1.
        test: (t, features) inputs.
        classes: how many; one that a labelling lacks is not predicted.

    Returns:
        (t, labellings) 0..classes-1.

    Example:
        >>> fit = np.array([[0.0], [0.1], [1.0], [1.1]], np.float32)
        >>> labels = np.array([[0, 1], [0, 1], [1, 0], [1, 0]])
        >>> ridge_classes(fit, labels, np.array([[0.2], [0.9]], np.float32), 2).tolist()
        [[0, 1], [1, 0]]
    """
    mean, spread = fit.mean(0), fit.std(0)
    scale = np.where(spread > 1e-6, spread, np.inf) * np.sqrt(max(1, int((spread > 1e-6).sum())))
    inside, outside = (((part - mean) / scale).astype(np.float32) for part in (fit, test))
    gram = (inside.T @ inside).astype(np.float64)
    gram[np.diag_indices_from(gram)] += _PENALTY
    factor = cho_factor(gram)
    found = np.empty((len(test), labels.shape[1]), np.int8)
    for start in range(0, labels.shape[1], _AT_ONCE):
        given = labels[:, start : start + _AT_ONCE]
        target = (given[..., None] == np.arange(classes)).astype(np.float32)
        share = target.mean(0)
        target = np.divide(target, share, out=np.zeros_like(target), where=share > 0)
        # The mean of each target is 1, or 0 where the class is absent.
        weights = cho_solve(factor, (inside.T @ target.reshape(len(fit), -1)).astype(np.float64))
        answer = (outside @ weights.astype(np.float32)).reshape(len(test), given.shape[1], classes) + (share > 0)
        found[:, start : start + _AT_ONCE] = np.where(share > 0, answer, -np.inf).argmax(-1)
    return found


def cross_validated(
    values: npt.NDArray[np.float32], labels: npt.NDArray[np.integer], patients: Codes, classes: int, seed: int
) -> npt.NDArray[np.int8]:
    """The classes predicted for each image by a ridge regression that was not fitted to its patient.

    Args:
        values: (n, features) inputs.
        labels: (n, labellings) 0..classes-1.
        patients: (n,) the patient of each image.
        classes: how many.
        seed: of the folds.

    Returns:
        (n, labellings) 0..classes-1.

    Raises:
        NotPossibleError: there are fewer than ten patients.
    """
    found = np.empty(labels.shape, np.int8)
    # Waiting for another thread costs more than it does where cores are shared.
    with threadpool_limits(1, "blas"):
        for fit, test in patient_folds(patients, seed):
            found[test] = ridge_classes(values[fit], labels[fit], values[test], classes)
    return found
