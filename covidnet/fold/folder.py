"""The run folder: every file that a run leaves behind, and the summary that it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import OmegaConf

from covidnet.base.atomic import write_bytes, write_text
from covidnet.base.caveats import Caveat, caveats_of
from covidnet.base.errors import ImageRefusedError
from covidnet.base.names import counted, real_path
from covidnet.base.provenance import environment
from covidnet.evaluation.metrics import run_metrics
from covidnet.evaluation.predictions import read_predictions
from covidnet.evaluation.results import to_json
from covidnet.launch.command import RUN_AGAIN
from covidnet.report.terminal import print_run_summary
from covidnet.report.words import count

if TYPE_CHECKING:
    from covidnet.data.collection.prepared import PreparedDataset


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Args:
        path: the folder.
        settings: the resolved configuration.
        prepared: the data and the split.
        refused: images that changed since prepare.
    """

    path: Path
    settings: dict[str, Any]
    prepared: PreparedDataset
    refused: Sequence[ImageRefusedError] = field(default_factory=tuple)

    @property
    def refused_count(self) -> int:
        """Files that were refused when the data were prepared, and since."""
        return len(self.prepared.refused) + len(self.refused)

    def metrics(
        self, seconds: dict[str, float], counts: dict[str, Any], temperature: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The content of metrics.json, computed from predictions.csv, from which anyone can compute it again.

        Args:
            seconds: what the steps of the run took.
            counts: the images and inputs of each part and class, as in `FoldDataModule.counts`.
            temperature: of the model, see `covidnet.evaluation.temperature`: value, n and split of the images that it
                was fitted on. The metrics are of probabilities without it.
        """
        s, prepared, classes = self.settings, self.prepared, self.prepared.classes
        used = prepared.split["label"][prepared.split["fold"] >= 0]
        return {
            "fold": s["fold"],
            "seed": s["seed"],
            "splits": to_json(run_metrics(read_predictions(self.path / "predictions.csv", classes), classes)),
            "temperature": temperature,
            "seconds": seconds,
            "data": {
                "name": prepared.name,
                "manifest_sha256": prepared.manifest_sha256,
                "split_sha256": prepared.split_sha256,
                "group": s["split"]["group"],
                "validation": s["split"]["validation"],
                "balance": s["split"].get("balance", True),
                "prevalence": (used.value_counts() / len(used)).round(4).to_dict(),
                "refused": self.refused_count,
                "counts": counts,
            },
        }

    def record(self, weights_sha256: str) -> dict[str, Any]:
        """What must not change for a run to be resumed.

        Args:
            weights_sha256: of the backbone before the fit.
        """
        s = self.settings
        return {
            "folder": str(real_path(self.path)),
            "fold": s["fold"],
            "seed": s["seed"],
            "manifest_sha256": self.prepared.manifest_sha256,
            "split_sha256": self.prepared.split_sha256,
            # A trained backbone starts from weights too.
            "weights_sha256": weights_sha256,
        }

    def write_settings(self) -> None:
        """Write config.yaml, which ``--config-dir RUN --config-name config`` runs again."""
        # Only a command line can trust packages and import files, not a file.
        again = {"defaults": None, **self.settings, "resume": None, "trust": [], "imports": [], **RUN_AGAIN}
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(again)))

    def write(
        self, metrics: dict[str, Any], backbone: dict[str, str], network: dict[str, Any], unseen: dict[str, Any]
    ) -> None:
        """Write split.csv, refused.csv, environment.json and metrics.json.

        Args:
            metrics: the content of metrics.json.
            backbone: hashes of the backbone before and after the fit.
            network: see `covidnet.models.classifier.Classifier.description`.
            unseen: what the run did with the unseen fold, and in how many runs it has been scored.
        """
        s, prepared = self.settings, self.prepared
        write_bytes(self.path / "split.csv", prepared.split_file.read_bytes())
        if self.refused_count:
            from covidnet.data.collection.manifest import REFUSED_COLUMNS, refused_row, relative_to

            rows = [refused_row(relative_to(e.path, prepared.root), e) for e in self.refused]
            changed = pd.DataFrame(rows, columns=list(REFUSED_COLUMNS))
            table = pd.concat([prepared.refused.astype(object), changed.astype(object)])
            write_text(self.path / "refused.csv", table.to_csv(index=False, lineterminator="\n"))
        facts = {
            **environment(),
            "seed": s["seed"],
            "fold": s["fold"],
            "weights": s["model"]["weights"],
            "weights_from": s["model"].get("weights_from"),
            "weights_sha256": backbone["before_fit"],
            "backbone_sha256": backbone,
            "network": network,
            "data": {"name": prepared.name, "root": str(prepared.root), "manifest_sha256": prepared.manifest_sha256},
            "split_sha256": prepared.split_sha256,
            "unseen": unseen,
        }
        write_text(self.path / "environment.json", json.dumps(facts, indent=2) + "\n")
        # Last: a run folder with metrics.json is a finished one.
        write_text(self.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def tell(self, metrics: dict[str, Any], unseen: dict[str, Any]) -> None:
        """Print the tables, their caveats and the folder; arguments as in `write`."""
        s = self.settings
        notes: list[str] = [
            *caveats_of(
                synthetic=self.prepared.synthetic,
                weights=s["model"]["weights"],
                weights_from=s["model"].get("weights_from"),
                freeze=s["model"]["freeze"],
                validation=s["split"]["validation"],
                group=s["split"]["group"],
                balanced=s["split"].get("balance", True),
                fast_dev_run=bool(s["trainer"]["fast_dev_run"]),
            )
        ]
        if self.refused:
            notes.append(
                f"{counted(len(self.refused), 'image')} changed since prepare and left out: folds are no longer of one "
                "size."
            )
        if self.refused_count:
            notes.append(
                f"{counted(self.refused_count, 'file was', 'files were')} refused: {self.path / 'refused.csv'}"
            )
        locked = unseen["setting"] == "locked"
        if locked:
            notes.append(f"{Caveat.UNSEEN_LOCKED} python -m covidnet.crossval sweep_dir=DIR unseen=open scores it.")
        elif unseen["scored_in"] is not None:
            notes.append(
                f"The unseen fold has been scored in {count(unseen['scored_in'], 'run')} "
                "(runs with another cache_dir are not counted)."
            )
        else:
            notes.append("In how many runs the unseen fold has been scored is not known: the cache cannot be written.")
        print_run_summary(
            metrics, self.path, notes, splits=("test",) if locked else ("test", "unseen"), classes=self.prepared.classes
        )


UNSEEN = "unseen.csv"
"""In a run folder: the predictions of the unseen fold, where it was locked and has been opened."""
