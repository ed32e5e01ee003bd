"""External validation: a trained model on another data set, after a look for its training films in there."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from covidnet.atomic import write_text
from covidnet.data.film_table import FilmTable
from covidnet.data.manifest import REFUSED_COLUMNS
from covidnet.data.overlap import SAME_FILE, FilmSet, find_copies, named_copies
from covidnet.data.training_films import SHAPING
from covidnet.errors import DataError
from covidnet.evaluation.calibration import calibration
from covidnet.evaluation.metrics import split_metrics
from covidnet.evaluation.predictions import EXTERNAL, write_predictions
from covidnet.evaluation.ranking import scored_curves
from covidnet.evaluation.scores import scored
from covidnet.evaluation.sparse import (
    class_sizes,
    curves_without_sparse,
    sparse_words,
    split_without_sparse,
    why_absent,
    without_sparse,
)
from covidnet.external_predictions import ExternalPredictions, predict_external
from covidnet.external_study import study_numbers
from covidnet.known_films import KnownFilms
from covidnet.labels import CLASSES
from covidnet.provenance import environment, file_sha256
from covidnet.report.external import write_external_report
from covidnet.report.words import count, rate_of
from covidnet.serving.answers import Answering

log = logging.getLogger(__name__)


class ExternalValidation:
    """The steps of an evaluation, in their order, and the files that they leave.

    Args:
        films: the data set.
        known: the films that the model has seen.
        out: where everything goes.
        strict: whether training films, a film in two classes, or that nothing of them is known, is an error.
        progress: whether progress bars are drawn.
    """

    def __init__(
        self, films: FilmTable, known: KnownFilms, out: Path, *, strict: bool = False, progress: bool = True
    ) -> None:
        self.films = films
        self.known = known
        self.out = out
        self.strict = strict
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.overlap = pd.DataFrame()
        self.copies = pd.DataFrame()

    def look(self) -> list[str]:
        """Look for training films in the set, and for films that are in it twice; write overlap.csv and copies.csv.

        Returns:
            What was found, in sentences, the gravest first.

        Raises:
            DataError: with ``strict``, where something was found, or could not be looked for.
        """
        start = time.perf_counter()
        self.out.mkdir(parents=True, exist_ok=True)
        self.overlap = self.known.within(self.films, progress=self.progress)
        self.copies = self._copies()
        for name, table in (("overlap.csv", self.overlap), ("copies.csv", self.copies)):
            write_text(self.out / name, table.to_csv(index=False, float_format="%.3f", lineterminator="\n"))
        self.seconds["look"] = time.perf_counter() - start
        told = [*self._overlap_words(), *self._copy_words()]
        if self.strict:
            self._check()
        return told

    def run(
        self,
        answering: Answering,
        models: Sequence[Path],
        *,
        reading: Mapping[str, Any],
        passes: int = 1,
        resamples: int = 2000,
        seed: int = 0,
        asked: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Predict, score and report.

        Args:
            answering: the model and its input gate.
            models: the files that it was loaded from.
            reading: keyword arguments of `covidnet.data.decoders.shared_decoders`.
            passes: of the network, side by side.
            resamples: of the bootstrap over patients.
            seed: of the bootstrap.
            asked: the settings of the command, for the report.

        Returns:
            The content of summary.json.

        Raises:
            DataError: not one film was predicted.
            WriteError: a file cannot be written.
        """
        start = time.perf_counter()
        predicted = predict_external(
            answering,
            self.films.root,
            self.films.films,
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
                f"{self.films.root}: not one of {count(len(refused), 'file')} was predicted, the first: "
                f"{refused['path'].iloc[0]}: {refused['cause'].iloc[0]}; {refused['remedy'].iloc[0]}; see "
                f"{self.out / 'refused.csv'}"
            )
        self.seconds["predict"] = time.perf_counter() - start
        write_predictions(predicted.table, self.out / "predictions.csv")
        start = time.perf_counter()
        summary = self._summary(answering, models, predicted, {"resamples": resamples, "seed": seed})
        summary["asked"] = dict(asked or {})
        self.seconds["score"] = time.perf_counter() - start
        summary["seconds"] = {**self.seconds, "total": sum(self.seconds.values())}
        metrics = self._metrics(predicted.table, summary)
        write_text(self.out / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        write_external_report(summary, self.out)
        return summary

    @property
    def _seen(self) -> set[str]:
        """Films that shaped the model."""
        return set(self.overlap["image_id"][self.overlap["part"].isin(SHAPING)])

    def _copies(self) -> pd.DataFrame:
        films = self.films.films.set_index("image_id").loc[self.films.thumbnails.image_id]
        here = FilmSet(films["sha256"].to_numpy(dtype=str), self.films.thumbnails.pixels)
        found = find_copies(here, progress=self.progress)
        return named_copies(found, films)

    def _overlap_words(self) -> list[str]:
        words = []
        seen, total = len(self._seen), len(self.films.films)
        others = len(self.overlap) - seen
        if seen:
            words.append(
                f"{seen} of {count(total, 'film')} {'is a' if seen == 1 else 'are'} training "
                f"film{'' if seen == 1 else 's'} of this model (named in overlap.csv); the headline is without."
            )
        if others:
            words.append(
                f"{count(others, 'film')} of this set {'is' if others == 1 else 'are'} in the training study's test or "
                "unseen fold: no model was trained there, but that is not external."
            )
        if self.known.problem:
            words.append(self.known.problem)
        elif not len(self.overlap):
            words.append(f"None of {count(total, 'film')} was found among the training study's films.")
        return words

    def _copy_words(self) -> list[str]:
        words = []
        apart = self.copies[self.copies["label"] != self.copies["other_label"]]
        for row in apart.to_dict("records")[:5]:
            words.append(
                f"One film in two classes ({row['kind']}): {row['path']} ({row['label']}) and {row['other_path']} "
                f"({row['other_label']}); remove all but the right one."
            )
        if len(apart) > 5:
            words.append(f"{len(apart) - 5} more films are in two classes: copies.csv.")
        if len(self.copies):
            pairs = count(len(self.copies), "pair")
            words.append(
                f"{pairs} of films in this set {'is' if len(self.copies) == 1 else 'are'} one film: copies.csv."
            )
        return words

    def _check(self) -> None:
        if self._seen:
            raise DataError(
                f"strict=true: {len(self._seen)} of {count(len(self.films.films), 'film')} in the set are training "
                f"films of this model; see {self.out / 'overlap.csv'}, and take them out of the set"
            )
        if self.known.problem:
            raise DataError(f"strict=true: {self.known.problem[:1].lower()}{self.known.problem[1:]}")
        twice = self.copies[(self.copies["label"] != self.copies["other_label"]) & (self.copies["kind"] == SAME_FILE)]
        if len(twice):
            row = twice.iloc[0]
            raise DataError(
                f"strict=true: one film in two classes: {row['path']} and {row['other_path']}; remove all but the "
                f"right one (all: {self.out / 'copies.csv'})"
            )

    def _refused(self, predicted: ExternalPredictions) -> pd.DataFrame:
        """Files that could not be read, then those of the gate; with their label where it is known."""
        unread = self.films.refused.astype(object).assign(label=None)
        return pd.concat([unread, predicted.refused.astype(object)], ignore_index=True)

    def _summary(
        self, answering: Answering, models: Sequence[Path], predicted: ExternalPredictions, numbers: dict[str, int]
    ) -> dict[str, Any]:
        facts, table = answering.model.facts, predicted.table
        outside = ~table["image_id"].isin(self._seen).to_numpy()
        headline = table[outside].reset_index(drop=True)
        scores = without_sparse(scored(headline, **numbers), headline)
        made = environment()
        return {
            "name": self.films.root.name,
            "folder": str(self.out),
            "model": {**facts.plain(), "title": facts.title, "notes": facts.notes(), "gate": answering.gate},
            "data": self._data(),
            "coverage": self._coverage(predicted),
            "overlap": self._overlap(table),
            "copies": {
                "pairs": len(self.copies),
                "two_classes": int((self.copies["label"] != self.copies["other_label"]).sum()),
                "listed": self.copies.head(20).to_dict("records"),
            },
            "external": scores,
            "external_all": without_sparse(scored(table, **numbers), table) if len(headline) < len(table) else None,
            "sizes": class_sizes(headline),
            "curves": {"external": curves_without_sparse(scored_curves(headline, scores, **numbers), headline)},
            "calibration": {
                "external": _if_any(headline, calibration),
                "before": _if_any(
                    None if predicted.before is None else predicted.before[outside].reset_index(drop=True), calibration
                ),
            },
            "study": study_numbers(self.known.folders, facts.temperatures, **numbers),
            "notes": self._notes(answering, headline, predicted),
            "looked": [*self._overlap_words(), *self._copy_words()],
            "bootstrap": numbers,
            "versions": made["versions"],
            "git_revision": made["git_revision"],
            "hashes": {
                "manifest_sha256": self.films.manifest_sha256,
                "predictions_sha256": file_sha256(self.out / "predictions.csv"),
                **{f"{_place(file)}": file_sha256(file) for file in models},
            },
        }

    def _data(self) -> dict[str, Any]:
        films = self.films.films
        return {
            "name": self.films.name,
            "root": str(self.films.root),
            "synthetic": self.films.synthetic,
            "manifest_sha256": self.films.manifest_sha256,
            "films": len(films),
            "patients": int(films["patient_id"].nunique()),
            "unknown_patients": int(films["patient_id"].isna().sum()),
        }

    def _coverage(self, predicted: ExternalPredictions) -> dict[str, Any]:
        gate, films = predicted.refused, self.films.films
        causes = pd.concat([self.films.refused["cause"], gate["cause"]]).map(_short).value_counts()
        return {
            "unreadable": len(self.films.refused),
            "refused": len(gate),
            "predicted": len(predicted.table),
            "causes": {str(cause): int(number) for cause, number in causes.items()},
            "flagged": predicted.flagged,
            "warned": len(predicted.warned),
            "classes": {
                label: {
                    "films": int((films["label"] == label).sum()),
                    "refused": int((gate["label"] == label).sum()),
                    "predicted": int((predicted.table["label"] == label).sum()),
                    # Where none could be looked for, their number is not 0 but unknown.
                    "training": None
                    if self.known.how == "no"
                    else int((predicted.table["label"][predicted.table["image_id"].isin(self._seen)] == label).sum()),
                }
                for label in CLASSES
            },
        }

    def _overlap(self, table: pd.DataFrame) -> dict[str, Any]:
        seen = self.overlap["part"].isin(SHAPING)
        return {
            "how": self.known.how,
            "problem": self.known.problem or None,
            "known": len(self.known.films.image_id) + len(self.known.files),
            "seen": None if self.known.how == "no" else int(seen.sum()),
            "seen_predicted": None if self.known.how == "no" else int(table["image_id"].isin(self._seen).sum()),
            "study": int((~seen).sum()),
            "kinds": {str(k): int(n) for k, n in self.overlap["kind"][seen].value_counts().items()},
            "listed": self.overlap[seen].head(20).to_dict("records"),
        }

    def _notes(self, answering: Answering, headline: pd.DataFrame, predicted: ExternalPredictions) -> list[str]:
        cover = self._coverage(predicted)
        absent = {
            label: why_absent(
                label,
                films=numbers["films"],
                refused=numbers["refused"],
                training=numbers["training"] or 0,
                unreadable=cover["unreadable"],
            )
            for label, numbers in cover["classes"].items()
        }
        notes = [*self._overlap_words(), *self._copy_words(), *sparse_words(headline, absent)]
        notes += [*_warned_words(headline, predicted.warned), *answering.model.facts.notes()]
        if not len(headline):
            notes.insert(0, "Every film that was predicted is a training film: there is no external number.")
        if self.films.synthetic and not answering.model.facts.synthetic:
            notes.append("The films are synthetic (phantoms): the numbers say nothing of any disease.")
        notes += answering.gate_notes()
        unknown = int(self.films.films["patient_id"].isna().sum())
        if unknown:
            notes.append(
                f"The patient of {unknown} of {count(len(self.films.films), 'film')} is unknown; each counts as a "
                "patient of its own, and intervals may be too narrow."
            )
        return [*notes, *(f"{note}." for note in self.films.notes)]

    def _metrics(self, table: pd.DataFrame, summary: dict[str, Any]) -> dict[str, Any]:
        """The content of metrics.json, in the form of a run's."""
        headline = table[~table["image_id"].isin(self._seen)]
        parts = {EXTERNAL: headline, **({"external_all": table} if len(headline) < len(table) else {})}
        return {
            "fold": -1,
            "seed": summary["bootstrap"]["seed"],
            "splits": {part: split_without_sparse(split_metrics(rows), rows) for part, rows in parts.items()},
            "seconds": summary["seconds"],
            "data": {
                "name": self.films.name,
                "manifest_sha256": self.films.manifest_sha256,
                "split_sha256": None,
                "refused": summary["coverage"]["unreadable"] + summary["coverage"]["refused"],
            },
        }


def _warned_words(headline: pd.DataFrame, warned: frozenset[str]) -> list[str]:
    """How many films are none such as the model knows, and what the accuracy is without them."""
    odd = headline["image_id"].isin(warned)
    if not odd.any():
        return []
    text = (
        f"{int(odd.sum())} of {count(len(headline), 'film')} {'is' if odd.sum() == 1 else 'are'} unlike the training "
        "films by the input gate, and count all the same"
    )
    rest = headline[~odd]
    if not len(rest):
        return [f"{text}: the model does not know films such as these."]
    right = int((rest["label"] == rest["prediction"]).sum())
    return [f"{text}; of the {count(len(rest), 'other')} the prediction is right for {rate_of(right, len(rest))}."]


def _if_any(table: pd.DataFrame | None, work: Callable[[pd.DataFrame], dict[str, Any]]) -> dict[str, Any] | None:
    return None if table is None or not len(table) else work(table)


def _short(cause: str) -> str:
    """A cause without its numbers, so that films of one fault are counted together."""
    return cause.split(":")[0].split(" (")[0]


def _place(file: Path) -> str:
    """Names a model's file by its run folder."""
    parts = file.resolve().parts
    return "/".join(parts[-3:] if file.parent.name == "checkpoints" else parts[-1:])
