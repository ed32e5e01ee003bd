"""A setting that nothing reads is refused by name, whichever way it came into the configuration."""

from __future__ import annotations

import itertools
from typing import Any

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from covidnet.base.errors import CovidnetError
from covidnet.base.former import current
from covidnet.launch.command import compose, config_dir
from covidnet.launch.known_settings import KnownSettings, check_arguments

COMMANDS = ("config", "prepare", "features", "crossval", "audit", "explain", "predict", "evaluate", "export", "app")


def said(command: str, *words: str) -> str:
    """What a command line of settings is answered with; empty where all of them are read."""
    try:
        with hydra.initialize_config_dir(config_dir=str(config_dir()), version_base="1.3"):
            composed = hydra.compose(command, list(words), return_hydra_config=True)
    except (HydraException, ValueError) as error:
        return str(KnownSettings.of_arguments(config_dir(), command, words).explained(error, words))
    settings: Any = OmegaConf.to_container(composed, resolve=False)
    choices = settings.pop("hydra")["runtime"]["choices"]
    try:
        KnownSettings(config_dir(), command, choices, settings).check(settings)
        check_arguments(settings)
    except CovidnetError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("+optim.name=sgd", "optim.name=sgd: no such setting; optim has lr, weight_decay, plateau_factor, "),
        ("+augment.flip=true", "augment.flip=true: no such setting; augment has mode, "),
        ("+augment.flip.share=0.5", "augment.flip: no such setting; augment has mode, "),
        ("+optim._target_=torch.optim.SGD", "optim._target_=torch.optim.SGD: no such setting; "),
        ("+optim.optimizer.lr=1", "optim.optimizer.lr=1: the run sets it itself; leave it out"),
        ("+optim.optimizer.momentum=1", "optim.optimizer.momentum=1: torch.optim.Adam has no such argument; "),
        ("+loss.gamma=1", "loss.gamma=1: torch.nn.CrossEntropyLoss has no such argument; it takes weight, "),
        ("loss=focal loss.gama=1", "loss.gama=1: no such setting; did you mean loss.gamma?"),
        ("+wandb=sweep", "wandb: no such setting; "),
        ("+trainer.max_epoch=1", "trainer.max_epoch=1: pytorch_lightning.Trainer has no such argument; did you mean "
                                 "trainer.max_epochs?"),
        ("+trainer.logger=false", "trainer.logger=false: the run sets it itself; leave it out"),
        ("+callbacks.best.dirpath=x", "callbacks.best.dirpath=x: the run sets it itself; leave it out"),
        ("+callbacks.timer.duration=1", "callbacks.timer: nothing can be made of it without a class; say "),
        ("+callbacks.timer._target_=nowhere.Timer", "callbacks.timer._target_=nowhere.Timer: cannot be used ("),
        ("logger=wandb +logger.wandb.projekt=x", "logger.wandb.projekt=x: covidnet.tracking.wandb_logger.wandb_logger "
                                                 "has no such argument; did you mean logger.wandb.project?"),
        ("+model.samples=3", "model.samples=3: model=densenet121 does not use it; model=bayesian_cnn does"),
    ],
)  # fmt: skip
def test_a_setting_that_nothing_reads_is_refused_with_plus(words: str, answer: str) -> None:
    assert said("config", *words.split()).startswith(answer)


@pytest.mark.parametrize(
    "words",
    [
        "+trainer.precision=bf16-mixed",
        "+callbacks.timer._target_=pytorch_lightning.callbacks.Timer +callbacks.timer.duration=00:01:00:00",
        "callbacks.panels=null ~callbacks.early_stopping +callbacks.best.save_weights_only=true",
        "model=bayesian_cnn model.samples=3 logger=many logger.wandb.project=x",
        "experiment=strict data.root=x data.masks=y",
        "data=folder data.labels={TB:Pneumonia}",
    ],
)
def test_what_is_read_is_taken(words: str) -> None:
    assert said("config", *words.split()) == ""


@pytest.mark.parametrize(
    ("command", "words", "answer"),
    [
        ("predict", "inputs=images", "inputs=images: no such setting; did you mean input?"),
        ("config", "lr=3", "lr=3: no such setting; did you mean optim.lr?"),
        ("config", "modle=cnn", "modle=cnn: no such setting; did you mean model?"),
        ("config", "trainer.max_epoch=1", "trainer.max_epoch=1: no such setting; did you mean trainer.max_epochs?"),
        ("config", "data.bacth_size=3", "data.bacth_size=3: no such setting; did you mean data.batch_size?"),
        ("config", "trainer.precision=16", "trainer.precision=16: no such setting; if pytorch_lightning.Trainer takes "
                                           "it, say +trainer.precision=16"),
        ("config", "data.film_size=96", "data.film_size=96: no such setting; it is called data.phantom_size now"),
        ("export", "films=3", "films=3: no such setting; it is called images now"),
        ("config", "~nothing", "nothing: no such setting; --help lists the settings"),
        ("config", "hydra.run.dri=x", "hydra.run.dri=x: no such setting; did you mean hydra.run.dir?"),
        ("config", "hydra/launcher=local hydra.launcher.n_job=1", "hydra.launcher.n_job=1: no such setting; did you "
                                                                   "mean hydra.launcher.n_jobs?"),
        ("config", "experiment=papr", "experiment=papr: must be one of cnn, covid_vs_rest, demo, narin, nested, "
                                      "no_augmentation, paper, radiography, strict; did you mean paper?"),
    ],
)  # fmt: skip
def test_hydra_s_refusals_are_a_line_with_the_nearest_name(command: str, words: str, answer: str) -> None:
    assert said(command, *words.split()) == answer


@pytest.mark.parametrize(
    ("command", "words", "answer"),
    [
        ("evaluate", "data.root=DIR", "data.root=DIR: data=phantom does not use it; data=folder and data=kaggle do"),
        ("config", "+data.root=DIR", "data.root=DIR: data=phantom does not use it; data=folder and data=kaggle do"),
        ("prepare", "data.masks=DIR", "data.masks=DIR: data=phantom does not use it; data=folder and data=kaggle do"),
        ("features", "data.boxes=FILE", "data.boxes=FILE: data=phantom does not use it; data=folder and data=kaggle "),
        ("config", "experiment=strict data.images_per_class=22", "data.images_per_class=22: data=kaggle does not use "
                                                                 "it; data=phantom does"),
        ("config", "augment=none augment.zoom=2", "augment.zoom=2: augment=none does not use it; augment=fixed and "),
        ("evaluate", "data.classes=[A,B]", "data.classes=[A,B]: covidnet.evaluate does not use it; the model's own"),
        ("evaluate", "data.image_size=64", "data.image_size=64: covidnet.evaluate does not use it; the model's own"),
        ("explain", "explain.per_class=3", "explain.per_class=3: covidnet.explain does not use it; "),
    ],
)  # fmt: skip
def test_a_setting_that_the_choice_does_not_use_is_refused(command: str, words: str, answer: str) -> None:
    assert said(command, *words.split()).startswith(answer)


@pytest.mark.parametrize(
    ("command", "words", "answer"),
    [
        ("predict", "overwrite=[a]", "overwrite=[a]: must be true or false"),
        ("predict", "overwrite=x", "overwrite=x: must be true or false"),
        ("export", "overwrite=1", "overwrite=1: must be true or false"),
        ("explain", "strict=null", "strict=null: must be true or false"),
        ("predict", "min_side=-1", "min_side=-1: must be a number above 0"),
        ("app", "max_megapixels=x", "max_megapixels=x: must be a number above 0"),
        ("explain", "min_side=true", "min_side=true: must be a number above 0"),
        ("evaluate", "data.min_side=0", "data.min_side=0: must be a number above 0"),
        ("config", "reading.max_memory=0.1", "reading.max_memory=0.1: must be a number of at least 0.25"),
        ("app", "reading.max_seconds=null", "reading.max_seconds=null: must be a number of at least 0.1"),
        ("config", "seed=1.5", "seed=1.5: must be an integer of at least 0"),
        ("config", "seed=true", "seed=true: must be an integer of at least 0"),
        ("config", "optim.lr=high", "optim.lr=high: must be a number of at least 0"),
        ("config", "optim.lr=[0.1,null]", "optim.lr=[0.1,null]: must be a number of at least 0"),
        ("app", "rate=x", "rate=x: must be a number of at least 0"),
        ("config", "cache_dir=null", "cache_dir=null: must be text"),
        ("config", "cache_dir=[a]", "cache_dir=[a]: must be text"),
        ("prepare", "split.group=null", "split.group=null: must be one of patient+copies, patient, image"),
        ("config", "data.faults=copies", "data.faults=copies: must be a list, such as [A,B]"),
        ("app", "hosts=null", "hosts=null: must be a list, such as [A,B]"),
        ("config", "~seed", "seed: is needed and must not be deleted; leave out ~seed"),
        ("config", "~optim.lr", "optim.lr: is needed and must not be deleted; leave out ~optim.lr"),
        ("config", "~callbacks", "callbacks: is needed and must not be deleted; leave out ~callbacks"),
        ("config", "~logger", "logger: is needed and must not be deleted; leave out ~logger"),
        ("config", "~resume", "resume: is null and cannot be deleted; leave out ~resume"),
        ("config", "logger=null", "logger=null: must be one of csv, many, none, tensorboard, wandb"),
        ("explain", "~explain", "explain: is needed and must not be deleted; leave out ~explain"),
        ("evaluate", "~data", "data: is needed and must not be deleted; leave out ~data"),
        ("crossval", "~resamples", "resamples: is needed and must not be deleted; leave out ~resamples"),
    ],
)  # fmt: skip
def test_a_setting_of_another_kind_or_deleted_is_refused(command: str, words: str, answer: str) -> None:
    assert said(command, *words.split()) == answer


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("config", "data.view=null trust=pandas model.weights=w.pt data.num_workers=2 seed=${fold} optim.lr=1"),
        ("config", "~data.view ~split.copies ~trust ~trainer.deterministic ~experiment"),
        ("config", "trainer=ddp trainer.devices=[0,1] trainer.max_epochs=-1 hydra.run.dir=x fold=${seed}"),
        ("config", "data=folder data.ignore=TB trust=null data.root=x data.min_side=20.5 data.max_megapixels=0.5"),
        ("config", "data=folder data.ignore=null data.root=x"),
        ("crossval", "sweep_dir=[a,b] names=[a,b] only=a unseen=open"),
        ("app", "rate=0.5 upload_seconds=1.5 checkpoint=[a,b]"),
        ("explain", "explain=off target=Normal"),
        *((command, "reading.max_memory=2 reading.max_seconds=0.5") for command in COMMANDS),
    ],
)  # fmt: skip
def test_what_fits_is_taken(command: str, words: str) -> None:
    assert said(command, *words.split()) == ""


def choices() -> list[str]:
    """Command lines with each option of each group in one of them; experiments, which choose options, alone."""
    found: dict[str, list[str]] = {}
    for file in sorted(config_dir().glob("*/*.yaml")):
        found.setdefault(file.parent.name, []).append(f"{file.parent.name}={file.stem}")
    alone = found.pop("experiment")
    del found["reading"], found["wandb"]  # The first is included by others, the second is of `wandb sweep`.
    return [" ".join(filter(None, words)) for words in itertools.zip_longest(*found.values())] + alone


@pytest.mark.parametrize("command", COMMANDS)
def test_our_own_files_are_taken(command: str) -> None:
    assert said(command) == ""


@pytest.mark.parametrize("words", choices())
def test_every_option_is_taken(words: str) -> None:
    assert said("config", *words.split()) == ""


@pytest.mark.slow
@pytest.mark.parametrize("words", ["experiment=paper", "model=bayesian_cnn augment=none features=off logger=wandb"])
def test_the_config_of_a_run_is_taken_also_one_of_an_older_version(words: str) -> None:
    settings: Any = OmegaConf.to_container(compose(words.split()), resolve=True)
    KnownSettings(config_dir(), "config", {}, settings).check(settings)
    # As a version wrote it that had fewer settings.
    del settings["unseen"], settings["features"]["engine"]
    settings["selection"] = None
    with pytest.raises(CovidnetError, match=r"^features\.engine: is missing from a configuration of an older version"):
        KnownSettings(config_dir(), "config", {}, settings).check(settings)
    settings = current(settings)
    KnownSettings(config_dir(), "config", {}, settings).check(settings)
    settings["strict"] = "x"
    with pytest.raises(CovidnetError, match=r"^strict=x: must be true or false"):
        KnownSettings(config_dir(), "config", {}, settings).check(settings)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_settings(command: str) -> None:
    assert said(command, "progress=false", "strict=true", "debug=true", "cache_dir=x", "seed=1") == ""


def test_the_settings_of_a_run_are_taken_as_they_are_and_checked_too() -> None:
    settings: Any = OmegaConf.to_container(compose(["model=bayesian_cnn", "augment=none", "logger=wandb"]))
    # As an older version wrote it.
    settings["data"]["root"] = None
    KnownSettings(config_dir(), "config", {}, settings).check(settings)
    settings["data"]["root"] = "images"
    with pytest.raises(CovidnetError, match=r"^data\.root=images: data=phantom does not use it"):
        KnownSettings(config_dir(), "config", {}, settings).check(settings)
    del settings["data"]["root"]
    settings["loss"] = "focal"
    with pytest.raises(CovidnetError, match=r"^loss=focal: no such setting"):
        KnownSettings(config_dir(), "config", {}, settings).check(settings)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("foldd=a=b", "foldd=a=b: no such setting; did you mean fold?"),
        ("cache_dir=a=b", "quote it: \"cache_dir='a=b'\""),
        ("fold=1,2", "a sweep over them needs -m, a list is fold=[1,2]"),
        ("bogus", "bogus: not a setting; write NAME=VALUE"),
    ],
)
def test_what_hydra_cannot_read_is_explained_in_our_words(words: str, answer: str) -> None:
    assert answer in said("config", words)
