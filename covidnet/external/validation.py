"""External validation: a trained model on another data set, after a search for its training images there."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.base.atomic import write_text
from covidnet.base.caveats import Caveat
from covidnet.base.classes import ClassList
from covidnet.base.errors import DataError
from covidnet.base.provenance import environment, file_sha256
from covidnet.data.collection.image_table import ImageTable
from covidnet.data.collection.manifest import REFUSED_COLUMNS
from covidnet.data.recognition.overlap import SAME_FILE, ImageSet, find_copies, named_copies
from covidnet.data.recognition.training_images import SHAPING
from covidnet.evaluation.bootstrap import RESAMPLES
from covidnet.evaluation.calibration import calibration
from covidnet.evaluation.metrics import split_metrics
from covidnet.evaluation.predictions import EXTERNAL, write_predictions
from covidnet.evaluation.results import to_json
from covidnet.evaluation.scores import scored, scored_curves
from covidnet.evaluation.sparse import (
    class_sizes,
    curves_without_sparse,
    sparse_notes,
    split_without_sparse,
    why_absent,
    without_sparse,
)
from covidnet.external.known_images import KnownImages
from covidnet.external.predictions import ExternalPredictions, predict_external
from covidnet.external.training_results import study_numbers
from covidnet.report.external.document import write_external_report
from covidnet.report.external.summary import (
    ClassCoverage,
    CopiedImage,
    Copies,
    Coverage,
    ExternalCalibration,
    ExternalCurves,
    ExternalData,
    ExternalSummary,
    KnownImage,
    Overlap,
)
from covidnet.report.summary import Bootstrap
from covidnet.report.words import count, rate_of
from covidnet.serving.answers import Predictor

log = logging.getLogger(__name__)


class ExternalValidation:
    """The steps of an evaluation and their files; call `search`, then `run`.

    Args:
        images: the data set.
        known: the images of the training study.
        out: the output folder.
        strict: whether it is an error if training images or an image in two classes are found, or the search is
            incomplete.
        progress: whether to draw progress bars.
    """

    def __init__(
        self, images: ImageTable, known: KnownImages, out: Path, *, strict: bool = False, progress: bool = True
    ) -> None:
        self.images = images
        self.known = known
        self.out = out
        self.strict = strict
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.overlap = pd.DataFrame()
        self.copies = pd.DataFrame()

    def search(self) -> list[str]:
        """Search the data set for training images and duplicates; write overlap.csv and copies.csv.

        Returns:
            Sentences on what was found, the most serious first.

        Raises:
            DataError: ``strict``, and something was found or the search is incomplete.
        """
        start = time.perf_counter()
        self.out.mkdir(parents=True, exist_ok=True)
        self.overlap = self.known.within(self.images, progress=self.progress)
        self.copies = self._copies()
        for name, table in (("overlap.csv", self.overlap), ("copies.csv", self.copies)):
            write_text(self.out / name, table.to_csv(index=False, float_format="%.3f", lineterminator="\n"))
        self.seconds["look"] = time.perf_counter() - start
        if self.strict:
            self._check()
        return self._search_notes()

    def run(
        self,
        predictor: Predictor,
        models: Sequence[Path],
        *,
        reading: Mapping[str, Any],
        passes: int = 1,
        resamples: int = RESAMPLES,
        seed: int = 0,
        arguments: Mapping[str, Any] | None = None,
    ) -> ExternalSummary:
        """Predict, score and report.

        Args:
            predictor: the model and its input gate.
            models: the files that it was loaded from.
            reading: keyword arguments of `covidnet.data.reading.decoders.shared_decoders`.
            passes: number of parallel forward passes.
            resamples: number of bootstrap resamples of patients.
            seed: of the bootstrap.
            arguments: the settings of the command, for the report.

        Raises:
            DataError: no image was predicted.
            WriteError: a file cannot be written.
        """
        start = time.perf_counter()
        predicted = predict_external(
            predictor,
            self.images.root,
            self.images.images,
            reading=dict(reading),
            passes=passes,
            progress=self.progress,
        )
        refused = self._refused(predicted)
        if len(refused):
            table = refused[list(REFUSED_COLUMNS)].to_csv(index=False, lineterminator="\n")
            write_text(self.out / "refused.csv", table)
        else:
            (self.out / "refused.csv").unlink(missing_ok=True)
        if not len(predicted.table):
            raise DataError(
                f"{self.images.root}: none of {count(len(refused), 'file')} was predicted, the first: "
                f"{refused['path'].iloc[0]}: {refused['cause'].iloc[0]}; {refused['remedy'].iloc[0]}; see "
                f"{self.out / 'refused.csv'}"
            )
        self.seconds["predict"] = time.perf_counter() - start
        write_predictions(predicted.table, self.out / "predictions.csv", predictor.classes)
        start = time.perf_counter()
        summary = self._summary(
            predictor, models, predicted, {"resamples": resamples, "seed": seed}, dict(arguments or {})
        )
        self.seconds["score"] = time.perf_counter() - start
        summary = replace(summary, seconds={**self.seconds, "total": sum(self.seconds.values())})
        metrics = to_json(self._metrics(predicted.table, summary))
        write_text(self.out / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        write_external_report(summary, self.out)
        return summary

    @property
    def _seen(self) -> set[str]:
        """Images that were used for training or validation of the model."""
        return set(self.overlap["image_id"][self.overlap["part"].isin(SHAPING)])

    def _copies(self) -> pd.DataFrame:
        images = self.images.images.set_index("image_id").loc[self.images.thumbnails.image_id]
        here = ImageSet(images["sha256"].to_numpy(dtype=str), self.images.thumbnails.pixels)
        found = find_copies(here, progress=self.progress)
        return named_copies(found, images)

    def _search_notes(self) -> list[str]:
        return [*self._overlap_notes(), *self._copy_notes()]

    def _overlap_notes(self) -> list[str]:
        notes = []
        seen, total = len(self._seen), len(self.images.images)
        others = len(self.overlap) - seen
        if seen:
            notes.append(
                f"{seen} of {count(total, 'image')} {'is a' if seen == 1 else 'are'} training "
                f"image{'' if seen == 1 else 's'} of this model (listed in overlap.csv), which the headline excludes."
            )
        if others:
            notes.append(
                f"{count(others, 'image')} of this data set {'is' if others == 1 else 'are'} in the training study's "
                "test or unseen fold: no model was trained on them, but they are not external."
            )
        if self.known.problem:
            notes.append(self.known.problem)
        elif not len(self.overlap):
            notes.append(f"None of {count(total, 'image')} was found in the training study.")
        return notes

    def _copy_notes(self) -> list[str]:
        notes = []
        in_two_classes = self.copies[self.copies["label"] != self.copies["other_label"]]
        for row in in_two_classes.to_dict("records")[:5]:
            notes.append(
                f"One image in two classes ({row['kind']}): {row['path']} ({row['label']}) and {row['other_path']} "
                f"({row['other_label']}); remove all but the right one."
            )
        if len(in_two_classes) > 5:
            notes.append(f"{len(in_two_classes) - 5} more images are in two classes: copies.csv.")
        if len(self.copies):
            pairs = count(len(self.copies), "pair")
            notes.append(f"{pairs} of duplicates in this data set, listed in copies.csv.")
        return notes

    def _check(self) -> None:
        if self._seen:
            raise DataError(
                f"strict=true: {len(self._seen)} of {count(len(self.images.images), 'image')} in the data set are "
                f"training images of this model; remove those listed in {self.out / 'overlap.csv'}, or leave out "
                "strict=true: the headline excludes them"
            )
        if self.known.problem:
            raise DataError(f"strict=true: {self.known.problem[:1].lower()}{self.known.problem[1:]}")
        twice = self.copies[(self.copies["label"] != self.copies["other_label"]) & (self.copies["kind"] == SAME_FILE)]
        if len(twice):
            row = twice.iloc[0]
            raise DataError(
                f"strict=true: one image in two classes: {row['path']} and {row['other_path']}; remove all but the "
                f"right one (all: {self.out / 'copies.csv'})"
            )

    def _refused(self, predicted: ExternalPredictions) -> pd.DataFrame:
        """Unreadable files, then those refused by the gate, with their label if known."""
        unread = self.images.refused.astype(object).assign(label=None)
        return pd.concat([unread, predicted.refused.astype(object)], ignore_index=True)

    def _summary(
        self,
        predictor: Predictor,
        models: Sequence[Path],
        predicted: ExternalPredictions,
        numbers: dict[str, int],
        arguments: dict[str, Any],
    ) -> ExternalSummary:
        facts, table = predictor.model.facts, predicted.table
        outside = ~table["image_id"].isin(self._seen).to_numpy()
        headline = table[outside].reset_index(drop=True)
        before = None if predicted.before is None else predicted.before[outside].reset_index(drop=True)
        classes = predictor.classes
        options: dict[str, Any] = {**numbers, "classes": classes}
        scores = without_sparse(scored(headline, **options), headline)
        made = environment()
        return ExternalSummary(
            name=self.images.root.name,
            folder=str(self.out),
            model={**facts.plain(), "title": facts.title, "notes": facts.notes(), "gate": predictor.gate},
            data=self._data(),
            coverage=self._coverage(predicted, classes),
            overlap=self._overlap(table),
            copies=Copies(
                pairs=len(self.copies),
                two_classes=int((self.copies["label"] != self.copies["other_label"]).sum()),
                listed=[CopiedImage(*row) for row in self.copies.head(20).itertuples(index=False)],
            ),
            external=scores,
            external_all=without_sparse(scored(table, **options), table) if len(headline) < len(table) else None,
            sizes=class_sizes(headline, classes),
            curves=ExternalCurves(curves_without_sparse(scored_curves(headline, scores, **options), headline)),
            calibration=ExternalCalibration(
                external=calibration(headline, classes=classes) if len(headline) else None,
                before=None if before is None or not len(before) else calibration(before, classes=classes),
            ),
            study=study_numbers(self.known.folders, facts.temperatures, **options),
            notes=self._notes(predictor, headline, predicted),
            search_notes=self._search_notes(),
            bootstrap=Bootstrap(**numbers),
            versions=made["versions"],
            git_revision=made["git_revision"],
            hashes={
                "manifest_sha256": self.images.manifest_sha256,
                "predictions_sha256": file_sha256(self.out / "predictions.csv"),
                **{f"{_place(file)}": file_sha256(file) for file in models},
            },
            arguments=arguments,
            seconds={},
            class_names=classes.record().get("classes"),
            positive=classes.record().get("positive"),
        )

    def _data(self) -> ExternalData:
        images = self.images.images
        return ExternalData(
            name=self.images.name,
            root=str(self.images.root),
            synthetic=self.images.synthetic,
            manifest_sha256=self.images.manifest_sha256,
            images=len(images),
            patients=int(images["patient_id"].nunique()),
            unknown_patients=int(images["patient_id"].isna().sum()),
        )

    def _coverage(self, predicted: ExternalPredictions, classes: ClassList) -> Coverage:
        gate, images = predicted.refused, self.images.images
        causes = pd.concat([self.images.refused["cause"], gate["cause"]]).map(_short).value_counts()
        seen = predicted.table["label"][predicted.table["image_id"].isin(self._seen)]
        return Coverage(
            unreadable=len(self.images.refused),
            refused=len(gate),
            predicted=len(predicted.table),
            causes={str(cause): int(number) for cause, number in causes.items()},
            flagged=predicted.flagged,
            warned=len(predicted.warned),
            classes={
                label: ClassCoverage(
                    images=int((images["label"] == label).sum()),
                    refused=int((gate["label"] == label).sum()),
                    predicted=int((predicted.table["label"] == label).sum()),
                    # Without a search their number is unknown, not 0.
                    training=None if self.known.how == "no" else int((seen == label).sum()),
                )
                for label in classes
            },
        )

    def _overlap(self, table: pd.DataFrame) -> Overlap:
        seen = self.overlap["part"].isin(SHAPING)
        return Overlap(
            how=self.known.how,
            problem=self.known.problem or None,
            known=len(self.known.images.image_id) + len(self.known.files),
            seen=None if self.known.how == "no" else int(seen.sum()),
            seen_predicted=None if self.known.how == "no" else int(table["image_id"].isin(self._seen).sum()),
            study=int((~seen).sum()),
            kinds={str(k): int(n) for k, n in self.overlap["kind"][seen].value_counts().items()},
            listed=[KnownImage(*row) for row in self.overlap[seen].head(20).itertuples(index=False)],
        )

    def _notes(self, predictor: Predictor, headline: pd.DataFrame, predicted: ExternalPredictions) -> list[str]:
        cover = self._coverage(predicted, predictor.classes)
        absent = {
            label: why_absent(
                label,
                images=numbers.images or 0,
                refused=numbers.refused or 0,
                training=numbers.training or 0,
                unreadable=cover.unreadable or 0,
            )
            for label, numbers in cover.classes.items()
        }
        notes = [*self._search_notes(), *sparse_notes(headline, absent, predictor.classes)]
        notes += [*_warned_notes(headline, predicted.warned), *predictor.model.facts.notes()]
        if not len(headline):
            notes.insert(0, "Every predicted image is a training image: there are no external numbers.")
        if self.images.synthetic and not predictor.model.facts.synthetic:
            notes.append(Caveat.SYNTHETIC)
        notes += predictor.gate_notes()
        unknown = int(self.images.images["patient_id"].isna().sum())
        if unknown:
            notes.append(
                f"The patient of {unknown} of {count(len(self.images.images), 'image')} is unknown; each counts as its "
                "own patient, and intervals may be too narrow."
            )
        return [*notes, *(f"{note}." for note in self.images.notes)]

    def _metrics(self, table: pd.DataFrame, summary: ExternalSummary) -> dict[str, Any]:
        """The content of metrics.json, in the form of a run's."""
        headline = table[~table["image_id"].isin(self._seen)]
        parts = {EXTERNAL: headline, **({"external_all": table} if len(headline) < len(table) else {})}
        return {
            "fold": -1,
            "seed": summary.bootstrap.seed,
            "splits": {
                part: split_without_sparse(split_metrics(rows, summary.classes), rows) for part, rows in parts.items()
            },
            "seconds": summary.seconds,
            "data": {
                "name": self.images.name,
                "manifest_sha256": self.images.manifest_sha256,
                "split_sha256": None,
                "refused": summary.coverage.files_refused,
            },
        }


def _warned_notes(headline: pd.DataFrame, warned: frozenset[str]) -> list[str]:
    """How many images the gate warned of, and the accuracy without them."""
    odd = headline["image_id"].isin(warned)
    if not odd.any():
        return []
    text = (
        f"The input gate warned that {int(odd.sum())} of {count(len(headline), 'image')} "
        f"{'is' if odd.sum() == 1 else 'are'} unlike the training images; {'it is' if odd.sum() == 1 else 'they are'} "
        "scored nevertheless"
    )
    rest = headline[~odd]
    if not len(rest):
        return [f"{text}."]
    right = int((rest["label"] == rest["prediction"]).sum())
    return [f"{text}; of the {count(len(rest), 'other')} the prediction is correct for {rate_of(right, len(rest))}."]


def _short(cause: str) -> str:
    """A cause without its numbers, to count images with the same cause together."""
    return cause.split(":")[0].split(" (")[0]


def _place(file: Path) -> str:
    """A model's file relative to its run's parent folder."""
    parts = file.resolve().parts
    return "/".join(parts[-3:] if file.parent.name == "checkpoints" else parts[-1:])
