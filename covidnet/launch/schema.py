"""The schema of the settings: what each must be and what it means; defaults are those of the files in ``conf/``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from covidnet.base.errors import SettingError, as_given


@dataclass(frozen=True)
class Setting:
    """One setting.

    Args:
        kind: of its value: bool, int, float (any number), str, list or dict.
        meaning: one sentence.
        least: the smallest number allowed.
        most: the largest number allowed.
        inside: whether both ends are excluded.
        choices: the values allowed, where they can be listed.
        extra: values allowed besides, such as None.
        also: kinds allowed besides.
        remedy: what to do about a value that is not allowed.
    """

    kind: type
    meaning: str
    least: float = -math.inf
    most: float = math.inf
    inside: bool = False
    choices: tuple[str, ...] = ()
    extra: tuple[int | None, ...] = ()
    also: tuple[type, ...] = ()
    remedy: str = ""

    @property
    def allowed(self) -> str | tuple[object, ...]:
        """What the value must be: words that follow "must be", or the values."""
        if self.choices:
            return (*self.choices, *self.extra)
        words = _WORDS[self.kind]
        if math.isfinite(self.most):
            low, high = f"{self.least:g}", f"{self.most:g}"
            words = f"above {low} and below {high}" if self.inside else f"{low} to {high}"
        elif math.isfinite(self.least):
            words += f" {'above' if self.inside else 'of at least'} {self.least:g}"
        extra = [as_given(value) for value in self.extra]
        return ", ".join([words, *extra[:-1]]) + (f" or {extra[-1]}" if extra else "")

    def check(self, name: str, value: object) -> None:
        """Refuse a value that the setting cannot have. Values that are not resolved yet are not judged.

        Args:
            name: the setting as it is written on the command line.
            value: received.

        Raises:
            SettingError: naming what it must be.
        """
        later = isinstance(value, str) and ("${" in value or value == "???")
        if not (later or self._fits(value)):
            raise SettingError(name, value, self.allowed, self.remedy)

    def _fits(self, value: object) -> bool:
        if value in self.extra or value in self.choices:
            return True
        if self.choices or isinstance(value, bool):
            return self.kind is bool
        kinds = (int, float) if self.kind is float else (self.kind,)
        if not isinstance(value, int | float):
            return isinstance(value, (*kinds, *self.also))
        within = self.least < value < self.most if self.inside else self.least <= value <= self.most
        return isinstance(value, (*kinds, *self.also)) and math.isfinite(value) and within


_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    list: "a list, such as [A,B]",
    dict: "a mapping, such as {A: B}",
}


def _flag(meaning: str, **more: Any) -> Setting:
    return Setting(bool, meaning, **more)


def _count(meaning: str, least: int = 0, **more: Any) -> Setting:
    return Setting(int, meaning, least, **more)


def _number(meaning: str, least: float = 0, **more: Any) -> Setting:
    return Setting(float, meaning, least, **more)


def _positive(meaning: str) -> Setting:
    return Setting(float, meaning, 0, inside=True)


def _text(meaning: str, **more: Any) -> Setting:
    return Setting(str, meaning, **more)


def _one_of(meaning: str, *choices: str, **more: Any) -> Setting:
    return Setting(str, meaning, choices=choices, **more)


def _list(meaning: str, **more: Any) -> Setting:
    return Setting(list, meaning, **more)


_NULL = (None,)
_EXPLAIN_METHOD = _one_of("Which heat map is drawn.", "gradcam", "gradcam++", "cam", "gradient", "eigencam")
_GATE = _one_of("What happens to an image unlike the training data.", "refuse", "warn", "off")
_MODEL_ENGINE = _one_of("What runs the model; auto takes what the file is made for.", "auto", "torch", "onnx")
_CHECKPOINT = _text(
    "The model: a best.ckpt, a run folder, a sweep folder or an exported model.onnx.",
    also=(list,),
    remedy="no model yet? make demo trains one",
)
_ONLY = _text("Part of the names of the runs to take from a sweep, such as seed=1.", also=(int, float), extra=_NULL)
_INPUT = _text("An image, a folder of images, or a pattern of files.")
_OUT = _text("The folder that results are written to.", also=(int, float))
_OVERWRITE = _flag("Whether earlier results in that folder may be replaced.")
_RESAMPLES = _count("Resamples of the patient-clustered bootstrap.", 100)
_MEGAPIXELS = _positive("Larger images are refused before they are decoded.")
_MIN_SIDE = _positive("Images with a shorter side in pixels are refused.")

_COMMON = {
    "seed": _count("Seed of everything random."),
    "strict": _flag("Whether a refused file makes the exit code non-zero."),
    "progress": _flag("Whether progress bars are drawn."),
    "debug": _flag("Whether errors are shown with their traceback."),
    "cache_dir": _text("The folder for phantoms, manifests, splits and features."),
    "imports": _list("Your own files to import first, which register networks and heads.", also=(str,), extra=_NULL),
    "reading.max_memory": _number("Images whose decoding needs more memory, in GB, are refused.", 0.25),
    "reading.max_seconds": _number("Images whose decoding takes longer are refused.", 0.1),
}
_DATA = {
    "data.name": _text("Which kind of data set it is."),
    "data.classes": _list("The classes in order; auto takes those of the data set.", also=(str,), extra=_NULL),
    "data.positive": _text("The class that headlines are about; null takes the first.", extra=_NULL),
    "data.view": _text("Which views are kept: frontal, or one such as PA; null keeps all.", extra=_NULL),
    "data.max_megapixels": _MEGAPIXELS,
    "data.min_side": _MIN_SIDE,
    "data.image_size": _count("Side in pixels of the square input; null: the network's.", 1, most=4096, extra=_NULL),
    "data.fit": _one_of("How an image becomes square.", "squash", "crop", "pad"),
    "data.batch_size": _count("Images in a step.", 1),
    "data.num_workers": _count("Processes that read images; null takes one for each spare core.", extra=_NULL),
    "data.root": _text("The folder of class folders; null downloads data=kaggle.", extra=_NULL),
    "data.handle": _text("The data set's name at Kaggle."),
    "data.labels": Setting(dict, "Further folder names and the classes they mean.", extra=_NULL),
    "data.ignore": _list("Folders, labels or files to leave out.", also=(str,), extra=_NULL),
    "data.table": _text("A table of the images, or several; null finds it beside them.", also=(list,), extra=_NULL),
    "data.columns": Setting(dict, "The table's columns for filename, label, patient_id, view and source.", extra=_NULL),
    "data.separator": _one_of(
        "What is between the table's cells; null detects it.",
        *("comma", "semicolon", "tab", "bar", "space"),
        extra=_NULL,
    ),
    "data.masks": _text("The folder of masks of lesions and lungs; null takes masks/ beside the images.", extra=_NULL),
    "data.boxes": _text("A CSV file of boxes around lesions; null takes boxes.csv beside the images.", extra=_NULL),
    "data.images_per_class": _count("Phantoms of each class.", 11),
    "data.phantom_size": _count("Short side of a phantom in pixels.", 64),
    "data.severity": _number("How visible the lesions of phantoms are: 0 not at all, 1 as usual, 2 obvious."),
    "data.faults": _list("Faults to plant in phantoms: copies, shared_patient, corner_mark, source."),
    "data.seed": _count("Seed of the phantoms."),
}
_SPLIT = {
    "split.group": _one_of("What is kept in one fold.", "patient+copies", "patient", "image"),
    "split.copies": _one_of("Which copies of an image are kept in one fold.", "near", "bytes", "off"),
    "split.validation": _one_of("The images that early stopping looks at.", "inner", "test", "none"),
    "split.seed": _count("Seed of the folds."),
    "split.balance": _flag("Whether every fold has the same number of images of each class."),
    "split.unseen": _text("Published test images to keep as the unseen fold; null draws it.", extra=_NULL),
    "split.unseen_fold": _count("Which of the eleven drawn folds is the unseen one.", most=10),
}
_TRAIN = {
    "augment.mode": _one_of("How training images are augmented.", "fixed", "online", "custom", "none"),
    "augment.transforms": _list("Transforms of albumentations, each with its class as _target_."),
    "augment.target_per_class": _count("Training images of each class after augmentation.", 1, extra=_NULL),
    "augment.reference_per_class": _count("Training images of each class that it is meant for.", 1, extra=_NULL),
    "augment.rotation": _number("Rotation in degrees.", most=180),
    "augment.zoom": _number("Scale factor.", 0.1, most=10),
    "augment.shear": _number("Shear in degrees.", most=80),
    "model.name": _text("The network."),
    "model.backbone": _text("The network's name in timm or torchvision.", extra=_NULL),
    "model.head": _text("The head, such as linear or one of your own; null: the model's usual one.", extra=_NULL),
    "model.weights": _text("Its first weights: auto, random, imagenet, chest, a file or a folder of files."),
    "model.download": _flag("Whether weights that are not on this machine may be downloaded."),
    "model.weights_from": _text("How model.weights=auto was decided; runs record it.", extra=_NULL),
    "model.weights_seed": _count("Seed of random weights."),
    "model.freeze": _flag("Whether only the head is trained."),
    "model.dropout": _number("Share of the features that the head drops.", most=1),
    "model.standardise": _flag("Whether features are standardised before the head."),
    "model.samples": _count("Draws of dropout for a prediction.", 2),
    "model.anomaly_weight": _number("Weight of the anomaly score's loss."),
    "features.mode": _one_of("Whether the features of a frozen backbone are stored.", "auto", "off"),
    "features.batch_size": _count("Images in a pass of the backbone.", 1),
    "features.engine": _one_of("What runs the backbone for the store.", "auto", "torch", "onnx"),
    "features.engine_from": _text("How features.engine=auto was decided; runs record it.", extra=_NULL),
    "optim.solver": _one_of("Trains a linear head on all images at once; null: in steps.", "lbfgs", extra=_NULL),
    "optim.l2": _list("Penalties of the squared weights, among which validation chooses."),
    "optim.lr": _number("Learning rate."),
    "optim.weight_decay": _number("Weight decay."),
    "optim.plateau_factor": _number("What a plateau multiplies the learning rate by.", most=1, inside=True),
    "optim.plateau_patience": _count("Epochs without improvement that make a plateau."),
    "trainer.max_epochs": _count("Epochs at most; -1 sets no limit.", 1, extra=(-1, None)),
    "explain.method": _EXPLAIN_METHOD,
    "explain.per_class": _count("Images of each class on the panels."),
    "explain.errors": _count("Worst errors on the panels."),
    "explain.localisation_images": _count("Images whose heat maps are compared with known lesions and lungs."),
    "explain.sanity_images": _count("Images of the sanity test."),
    "explain.sanity_draws": _count("Re-initialisations of the whole network in the sanity test.", 1),
    "fold": _count("The test fold.", 0, most=9, remedy="fold 10 is the unseen fold, never a test fold"),
    "monitor": _text("The metric that early stopping, checkpoint, learning rate and search watch."),
    "selection": _one_of("How the report of a sweep chooses among the ten models.", "inner", "paper"),
    "resume": _text("A run or sweep folder to resume.", extra=_NULL),
    "trust": _list("Further packages whose classes a _target_ may name.", also=(str,), extra=_NULL),
    "verify": _flag("Whether every image is read again to compare its hash, changed or not."),
    "unseen": _one_of("Whether runs score the unseen fold or leave it locked.", "scored", "locked"),
}
_MODEL = {"checkpoint": _CHECKPOINT, "only": _ONLY}
_READING = {"max_megapixels": _MEGAPIXELS, "min_side": _MIN_SIDE}
_FILES = {**_MODEL, **_READING, "input": _INPUT, "out": _OUT, "overwrite": _OVERWRITE}

SCHEMA: dict[str, dict[str, Setting]] = {
    "config": {**_COMMON, **_DATA, **_SPLIT, **_TRAIN},
    "prepare": {
        **_COMMON, **_DATA, **_SPLIT,
        "deidentify": _flag("Whether the DICOM files are copied without what identifies patients, and nothing else."),
        "out": _text("The new folder of that copy.", also=(int, float), extra=_NULL),
        "key": _text("The file with the secret key of its pseudonyms; made if there is none."),
    },
    "features": {
        **_COMMON, **_DATA, **_SPLIT, **_TRAIN,
        "action": _one_of("What is done with the feature store.", "fill", "stats", "verify", "prune"),
    },
    "crossval": {
        **_COMMON,
        "sweep_dir": _text("The folder of a sweep; a list of several compares them.", also=(list, int, float)),
        "names": _text("Names for the sweeps; null takes their folders'.", also=(list, int, float), extra=_NULL),
        "only": _text(_ONLY.meaning, also=(list, int, float), extra=_NULL),
        "report_dir": _text("The folder for the report; null takes report/ in the sweep's.", extra=_NULL),
        "selection": _one_of("How one of the models is chosen; null: as in the runs.", "inner", "paper", extra=_NULL),
        "unseen": _one_of("open scores the models on a locked unseen fold.", "open", extra=_NULL),
        "paper": _flag("Whether the paper's numbers are shown too; null: only for the paper's data.", extra=_NULL),
        "resamples": _RESAMPLES,
    },
    "audit": {
        **_COMMON, **_DATA,
        "strict": _flag("Whether a finding that blocks or weakens a claim makes the exit code 3."),
        "sweep_dir": _text("The folder of a sweep on the data, or null.", also=(int, float), extra=_NULL),
        "out": _OUT, "overwrite": _OVERWRITE, "resamples": _RESAMPLES,
        "audit.prevalence": _list("Shares of the positive class for which predictive values are computed."),
        "audit.sensitivity": _number("The sensitivity for which thresholds are chosen.", most=1, inside=True),
        "audit.published": _text("A CSV file of published numbers, whose arithmetic is checked.", extra=_NULL),
    },
    "explain": {
        **_COMMON, **_FILES,
        "explain.method": _EXPLAIN_METHOD,
        "target": _text("The class whose evidence is drawn; null takes the predicted one.", extra=_NULL),
        "masks": _text("The folder of masks of lesions and lungs; null takes masks/ beside the images.", extra=_NULL),
        "boxes": _text("A CSV file of boxes around lesions; null takes boxes.csv beside the images.", extra=_NULL),
    },
    "predict": {
        **_COMMON, **_FILES, "engine": _MODEL_ENGINE, "gate": _GATE,
        "input": _text("An image, a folder of images, a pattern of files, or a study of a DICOMweb server."),
        "identifiers": _flag("Whether the tables hold DICOM identifiers, which identify patients."),
        "output": _one_of("Whether results are tables alone or DICOM objects too.", "csv", "dicom"),
        "send": _flag("Whether results in DICOM are stored at the DICOMweb server that the images come from."),
        "panels": _flag("Whether each image is drawn beside its heat map."),
        "resume": _flag("Whether to continue a stopped command from its rows in out=DIR."),
    },
    "evaluate": {
        **_COMMON, **_DATA, **_MODEL,
        "out": _OUT, "overwrite": _OVERWRITE, "engine": _MODEL_ENGINE, "gate": _GATE, "resamples": _RESAMPLES,
    },
    "export": {
        **_COMMON, **_MODEL,
        "format": _one_of("The format of the exported file.", "onnx"),
        "out": _text("The exported file, or its folder; null writes model.onnx beside the model.", extra=_NULL),
        "overwrite": _OVERWRITE,
        "check": _text("Images to check the exported file on; null takes those of the unseen fold.", extra=_NULL),
        "images": _count("Images that it is checked on at most.", 1),
    },
    "app": {
        **_COMMON, **_MODEL, **_READING, "engine": _MODEL_ENGINE, "gate": _GATE,
        "host": _text("The address that the server listens on."),
        "port": _count("Its port; 0 takes a free one.", 0, most=65535),
        "hosts": _list("Host names of the server."),
        "worklist": _text("A folder or pattern of images for the page /worklist.", extra=_NULL),
        "verdicts": _text("The SQLite file of the worklist's predictions and of readers' verdicts."),
        "users": _text("A file with users and their hashed passwords.", extra=_NULL),
        "token": _text("A file with a token that programs send.", extra=_NULL),
        "certificate": _text("The certificate of the server, for TLS.", extra=_NULL),
        "key": _text("Its private key, unless the certificate's file has it.", extra=_NULL),
        "audit_log": _text("The file that records every answer; off switches it off."),
        "proxies": _list("Addresses or networks of proxies that are trusted."),
        "dicom": _count("The port that receives images by C-STORE.", 0, most=65535, extra=_NULL),
        "aet": _text("The AE title of the server."),
        "peer": _text("Where results in DICOM are sent: AET@HOST:PORT.", extra=_NULL),
        "callers": _list("AE titles that may send images; empty for any."),
        "outbox": _text("The folder for results in DICOM that wait to be sent."),
        "max_megabytes": _positive("Size of one upload at most."),
        "rate": _number("Images per second of one client; 0 sets no limit."),
        "burst": _count("Images of one client at once after a pause.", 1),
        "queue": _count("Images that may wait for an answer.", 1),
        "connections": _count("Connections that may be open.", 1),
        "per_address": _count("Requests of one client at once.", 1),
        "upload_seconds": _positive("Time for one upload."),
        "upload_rate": _positive("Slower uploads, in kB per second, are given up."),
        "answer_seconds": _positive("Time for one answer."),
    },
}  # fmt: skip
"""The settings of each command, by its primary file in ``conf/``."""


def check_values(settings: Mapping[str, Any], command: str = "config") -> None:
    """Refuse the first value that its setting cannot have; names are not checked, and missing settings are let pass.

    Args:
        settings: a composed configuration as a plain dict, resolved or not.
        command: the primary file in ``conf/``.

    Raises:
        SettingError: naming the setting, its value and what it must be.
    """
    for name, setting in SCHEMA[command].items():
        node: Any = settings
        *parents, leaf = name.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and leaf in node:
            setting.check(name, node[leaf])
