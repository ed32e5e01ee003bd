"""``python -m covidnet.tracking.dashboard entity=ME project=covidnet``: a workspace at W&B, built from code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from covidnet.base.classes import DEFAULT_CLASSES, ClassList
from covidnet.base.errors import CovidnetError, SettingError, UnknownSettingError
from covidnet.tracking.wandb_server import decide

SPLITS = ("val", "test", "unseen")

STEP = "trainer/global_step"
"""The x axis of the curves."""


def panels_of(classes: ClassList) -> dict[str, list[str]]:
    """Titles of a fold's pictures and their logged names; with unseen=locked they are of the test fold.

    Args:
        classes: of the study.
    """
    of_class = {label: [f"panels/{part}-{label}" for part in ("unseen", "test")] for label in classes}
    return {**of_class, "errors": ["panels/errors"]}


def workspace(entity: str, project: str, name: str = "covidnet", classes: ClassList = DEFAULT_CLASSES) -> Any:
    """Build a workspace with sections for folds, classes, panels and the sweep, without sending it.

    Args:
        entity: user or team.
        project: of W&B.
        name: of the workspace.
        classes: of the study.

    Returns:
        A `wandb_workspaces.workspaces.Workspace`.

    Raises:
        SettingError: wandb-workspaces is not installed.
    """
    # Set before wandb is imported, which otherwise prints notes to the terminal.
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        remedy = 'wandb-workspaces is not installed: pip install "covidnet[dashboard]"'
        raise SettingError("dashboard", name, "what wandb-workspaces builds", remedy) from None

    def curve(title: str, *names: str) -> Any:
        return wr.LinePlot(title=title, x=STEP, y=list(names))

    def bars(title: str, *names: str) -> Any:
        return wr.BarPlot(title=title, metrics=list(names), range_x=(0.0, 1.0))

    folds: list[Any] = [
        curve("Training loss", "train/loss"),
        curve("Validation loss", "val/loss"),
        curve("Learning rate", "lr"),
        *(bars(f"Accuracy, {split}", f"{split}/accuracy") for split in SPLITS),
    ]
    of_classes: list[Any] = [
        bars(f"{label}: {score}, {split}", f"{split}/{label}/{score}")
        for label in classes
        for score in ("sensitivity", "specificity", "f1")
        for split in SPLITS
    ]
    panels: list[Any] = [
        wr.MediaBrowser(title=title, media_keys=keys, num_columns=1) for title, keys in panels_of(classes).items()
    ]
    sweep: list[Any] = [
        wr.ScalarChart(title="Pooled accuracy", metric="pooled/accuracy"),
        *(
            wr.ScalarChart(title=f"Pooled {score}, {label}", metric=f"pooled/{label}/{score}")
            for label in classes
            for score in ("sensitivity", "specificity", "f1")
        ),
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name="Folds", panels=folds, is_open=True),
            ws.Section(name="Classes", panels=of_classes, is_open=True),
            ws.Section(name="Panels", panels=panels, is_open=True),
            ws.Section(name="Sweep", panels=sweep),
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=20),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")]),
    )


def as_json(built: Any) -> str:
    """The workspace as readable JSON.

    Args:
        built: from `workspace`.
    """
    spec = json.loads(built._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return json.dumps({"entity": built.entity, "project": built.project, "name": built.name, "spec": spec}, indent=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the workspace at W&B, or print it.

    Args:
        arguments: command line arguments; those of the process if None.

    Raises:
        SettingError: a setting is unknown, or W&B is not reached or refuses the key.
    """
    parser = argparse.ArgumentParser(prog="python -m covidnet.tracking.dashboard", description=__doc__)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="NAME=VALUE",
        help="entity, project (covidnet), name (covidnet), classes (A,B,...)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the workspace as JSON and send nothing")
    options = parser.parse_args(arguments)
    settings = {"entity": os.environ.get("WANDB_ENTITY", ""), "project": "covidnet", "name": "covidnet", "classes": ""}
    for word in options.settings:
        key, _, value = word.partition("=")
        if key not in settings or not value:
            raise UnknownSettingError(key, value, "no such setting", f"there are {', '.join(settings)}")
        settings[key] = value
    if not settings["entity"]:
        raise SettingError("entity", "", "the user or team that the project belongs to", "say entity=NAME")
    names = settings.pop("classes").strip("[]")
    classes = ClassList(tuple(name.strip() for name in names.split(","))) if names else DEFAULT_CLASSES
    built = workspace(**settings, classes=classes)
    if options.dry_run:
        sys.stdout.write(as_json(built) + "\n")
        return
    decision = decide()
    if decision.mode != "online":
        remedy = f"W&B is {decision.mode} ({decision.reason}); log in with wandb login, or print it with --dry-run"
        raise SettingError("entity", settings["entity"], "at a server that answers", remedy)
    try:
        built.save()
    except Exception as error:  # every layer of wandb has its own exceptions
        raise SettingError(
            "dashboard", settings["name"], "what W&B takes", " ".join(str(error).split())[:200]
        ) from None
    sys.stdout.write(f"{built.url}\n")


if __name__ == "__main__":
    try:
        main()
    except CovidnetError as failed:
        sys.exit("error: " + " ".join(str(failed).split()))
