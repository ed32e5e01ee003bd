import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.evaluation.predictions import predictions_table
from covidnet.evaluation.temperature import BOUNDS, fit_temperature, tempered


def table_of(logits: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    n = len(truth)
    return predictions_table(
        image_id=[f"f{i:04d}" for i in range(n)],
        path=[f"{i}.png" for i in range(n)],
        patient_id=[None] * n,
        label=[CLASSES[t] for t in truth],
        split="val",
        fold=0,
        probabilities=softmax(logits, axis=1),
    )


def draw(n: int, scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated logits multiplied by a scale, which is then the right temperature."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(n, 3)) * 2
    truth = np.array([rng.choice(3, p=row) for row in softmax(honest, axis=1)])
    return honest * scale, truth


class _Known(ClassifierMixin, BaseEstimator):
    """A classifier of scikit-learn whose scores are its inputs."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return self.classes_[x.argmax(axis=1)]


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(scale):
    logits, truth = draw(4000, scale, seed=0)
    assert fit_temperature(table_of(logits, truth)) == pytest.approx(scale, rel=0.08)


@pytest.mark.parametrize("scale", [0.5, 2.5])
def test_the_temperature_equals_scikit_learn(scale):
    logits, truth = draw(300, scale, seed=1)
    reference = CalibratedClassifierCV(FrozenEstimator(_Known().fit(logits, truth)), method="temperature")
    reference.fit(logits, truth)
    beta = reference.calibrated_classifiers_[0].calibrators[0].beta_
    temperature = fit_temperature(table_of(logits, truth))
    assert temperature == pytest.approx(1.0 / float(beta), rel=2e-3)
    given = tempered(softmax(logits, axis=1), temperature)
    assert given == pytest.approx(reference.predict_proba(logits), abs=2e-3)


def test_tempering_probabilities_equals_scaling_logits():
    logits, _ = draw(50, 3.0, seed=2)
    assert tempered(softmax(logits, axis=1), 1.7) == pytest.approx(softmax(logits / 1.7, axis=1), abs=1e-12)


def test_the_prediction_does_not_change():
    logits, truth = draw(200, 5.0, seed=3)
    table = table_of(logits, truth)
    scores = table[list(CLASSES.columns)].to_numpy()
    for temperature in (0.3, 4.0):
        assert (tempered(scores, temperature).argmax(1) == scores.argmax(1)).all()


def test_all_correct_images_do_not_give_certainty():
    n = 30
    truth = np.arange(n) % 3
    logits = 4.0 * np.eye(3)[truth] + np.random.default_rng(4).normal(size=(n, 3)) * 0.1
    temperature = fit_temperature(table_of(logits, truth))
    assert temperature > BOUNDS[0]
    confidence = softmax(logits / temperature, axis=1).max(axis=1).mean()
    assert confidence == pytest.approx((n + 1) / (n + 2), abs=1e-4)


def test_a_guessing_model_becomes_uniform():
    rng = np.random.default_rng(5)
    logits, truth = rng.normal(size=(600, 3)) * 5, rng.integers(0, 3, 600)
    temperature = fit_temperature(table_of(logits, truth))
    given = tempered(softmax(logits, axis=1), temperature)
    losses = -log_softmax(logits, axis=1)[np.arange(600), truth].mean(), -np.log(given)[np.arange(600), truth].mean()
    assert losses[1] < losses[0]
    assert losses[1] == pytest.approx(np.log(3), abs=0.02)


def test_an_empty_table_has_no_temperature():
    logits, truth = draw(3, 1.0, seed=6)
    assert fit_temperature(table_of(logits, truth).iloc[:0]) is None


def test_probabilities_of_zero_stay_finite():
    given = tempered([[1.0, 0.0, 0.0]], 2.0)
    assert np.isfinite(given).all()
    assert given.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_an_invalid_temperature_raises(temperature):
    with pytest.raises(SettingError, match="temperature"):
        tempered([[0.5, 0.5]], temperature)
