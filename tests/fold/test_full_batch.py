"""The full-batch head is that of scikit-learn, and says whether it converged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression

from covidnet.base.classes import DEFAULT_CLASSES as CLASSES
from covidnet.base.errors import SettingError
from covidnet.data.loading.dataset import FeatureDataset
from covidnet.fold.full_batch import TOLERANCE, full_batch_fit, largest_gradient
from covidnet.fold.run import FoldRun
from covidnet.fold.setup import FoldSetup
from covidnet.launch.command import compose
from covidnet.learning.module import ClassificationModule
from tests.fold.test_together import WORDS, small

__all__ = ["small"]  # a fixture

PENALTIES = [0.01, 1.0, 0.1]


def settings(*words: str) -> dict[str, Any]:
    kept = [word for word in WORDS if not word.startswith("optim.")]
    found: Any = OmegaConf.to_container(compose([*kept, *words]), resolve=True)
    return found


def run(folder: Path, *words: str) -> Path:
    folder.mkdir()
    FoldRun(settings(*words), folder).run()
    return folder


def module(seed: int, **model: object) -> ClassificationModule:
    torch.manual_seed(seed)
    return ClassificationModule({"name": "resnet8", "weights": "random", "freeze": False, **model})


def data(count: int, dim: int, seed: int = 0) -> FeatureDataset:
    rng = np.random.default_rng(seed)
    number = np.arange(count) % 3
    features = (rng.normal(size=(count, dim)) * rng.uniform(0.2, 5, dim) + 3 + 0.7 * number[:, None]).astype(np.float32)
    rows = pd.DataFrame({"label": [CLASSES[n] for n in number], "image_id": [f"id{n}" for n in range(count)]})
    return FeatureDataset(torch.from_numpy(features), rows)


def test_it_is_scikit_learns_logistic_regression_and_depends_on_no_seed() -> None:
    one = module(0, standardise=True)
    train, val = data(120, one.classifier.backbone.features_dim), data(30, one.classifier.backbone.features_dim, 1)
    fit = full_batch_fit(one, train, val, PENALTIES)
    head, seen = one.classifier.head.eval(), train.features[:].double()
    scaled = ((seen - seen.mean(0)) / (seen.var(0) + 1e-5).sqrt()).numpy()
    for l2, epoch in zip((1.0, 0.1, 0.01), fit.epochs, strict=True):
        head.load_state_dict(epoch.head)
        with torch.no_grad():
            found = head(train.features[:]).softmax(1).numpy()
        expected = LogisticRegression(C=1 / (l2 * len(train)), tol=1e-10, max_iter=10_000).fit(scaled, train.labels)
        np.testing.assert_allclose(found, expected.predict_proba(scaled), atol=2e-3)
        gradient = largest_gradient(one, train, l2)
        assert gradient is not None
        assert gradient <= TOLERANCE
        loss = torch.nn.functional.cross_entropy(head(val.features[:]), val.labels).item()
        assert epoch.validation["val/loss"] == pytest.approx(loss)
    other = full_batch_fit(module(7, standardise=True), train, val, PENALTIES)
    for a, b in zip(fit.epochs, other.epochs, strict=True):
        assert all(torch.equal(a.head[name], b.head[name]) for name in a.head)
    assert (largest_gradient(module(3, standardise=True), train) or 0) > TOLERANCE
    with pytest.raises(SettingError, match="linear heads without dropout"):
        full_batch_fit(module(0, dropout=0.5), train, val, PENALTIES)


def test_a_run_takes_the_penalty_that_validation_chooses(tmp_path: Path) -> None:
    words = ("fold=3", "optim=lbfgs")
    tables = [run(tmp_path / f"{seed}", *words, f"seed={seed}") / "predictions.csv" for seed in (0, 1)]
    curves = pd.read_csv(tmp_path / "0/curves/metrics.csv").dropna(subset=["val/loss"])
    curves = curves[curves["epoch"] < 6]
    facts = pd.read_json(tmp_path / "0/metrics.json", typ="series")["convergence"]
    assert facts["converged"]
    assert facts["gradient"] <= facts["tolerance"] == TOLERANCE
    chosen = int(curves["epoch"].iloc[curves["val/loss"].argmin()])
    assert facts["l2"] == [0.3, 0.1, 0.03, 0.01, 0.003, 0.001][chosen]
    # The seed draws other validation images no more than another head: the split's seed does.
    assert tables[0].read_bytes() == tables[1].read_bytes()
    step = run(tmp_path / "adam", "fold=3")
    assert not pd.read_json(step / "metrics.json", typ="series")["convergence"]["converged"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("split.validation=none", "monitor=train/loss"), "validation images choose"),
        (("features=off",), "stored features"),
        (("trainer.max_epochs=2",), "at least 6"),
        (("optim.l2=[]",), "a list of numbers"),
        (("optim.l2=[-1]",), "a list of numbers"),
    ],
)
def test_what_it_cannot_do_is_refused_at_once(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        FoldSetup(settings("optim=lbfgs", *words))
