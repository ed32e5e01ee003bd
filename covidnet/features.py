"""``python -m covidnet.features``: fill the store for all folds ahead of a sweep, check it, or clean it up."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, cast

from covidnet.base.errors import CovidnetError, StoreError
from covidnet.launch.arguments import DATA_PATHS, quoted
from covidnet.launch.command import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.fold.setup import FoldSetup

log = logging.getLogger(__name__)

_ACTIONS = ("--stats", "--verify", "--prune")


def main(cfg: DictConfig) -> None:
    """Fill the store for the ten folds, or show, verify or prune it.

    Args:
        cfg: the composed configuration ``features``.

    Raises:
        StoreError: ``--verify`` found damage.
    """
    from omegaconf import OmegaConf

    from covidnet.base.quiet import quieten
    from covidnet.fold.setup import FoldSetup

    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    action = settings.pop("action")
    setup = FoldSetup(settings)
    quieten()
    if action == "fill":
        fill(setup)
    elif action == "prune":
        remove(setup)
    else:
        show(setup, verify=action == "verify")


def fill(setup: FoldSetup) -> None:
    """Compute the features of all ten folds, each distinct input once."""
    import pandas as pd
    from rich.console import Console

    from covidnet.feature_store.extract import fill_store
    from covidnet.fold.starting_weights import tell_weights

    # The network needs no data: its errors are reported before any image is read or generated.
    module = setup.module()
    if reason := setup.why_no_features(module):
        raise CovidnetError(f"covidnet.features: nothing to store; {reason}")
    prepared = setup.prepared()
    changed = setup.changed_images(prepared)
    tell_weights(setup.settings)
    folds = [setup.datamodule(prepared, module, fold, changed) for fold in range(10)]
    rows = pd.concat([rows for fold in folds for rows in fold.rows.values()], ignore_index=True)
    inputs = rows.drop_duplicates(["sha256", "operator"], ignore_index=True)
    store = setup.store(module)
    computed = fill_store(
        inputs,
        folds[0].images,
        lambda: setup.engine(module, store),
        store,
        batch_size=setup.settings["features"]["batch_size"],
        progress=setup.progress,
        trainer=setup.settings["trainer"],
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{len(inputs)} distinct inputs for the {len(rows)} rows of the ten folds; {computed} were computed now"
    )
    console.print(f"feature store: {store.folder}")


def show(setup: FoldSetup, *, verify: bool) -> None:
    """Print a table of the stores; with `verify`, fail where one is damaged."""
    from rich.console import Console
    from rich.table import Table

    from covidnet.feature_store.maintenance import summaries

    root = setup.cache / "features"
    found = summaries(root, verify=verify)
    table = Table(box=None, pad_edge=False)
    for heading in ("store", "backbone", "weights", "engine", "features", "files", "MB", *(["damaged"] * verify)):
        # In 80 columns a long name is broken: one that is cut cannot be looked up.
        table.add_column(heading, no_wrap=heading != "backbone", overflow="fold")
    for one in found:
        d = one.description
        damaged = [str(one.damaged + len(one.unusable))] * verify
        table.add_row(
            one.folder.name, str(d.get("backbone")), str(d.get("weights"))[:8], str(d.get("engine")),
            str(one.features), str(one.segments), f"{one.bytes / 1e6:.1f}", *damaged,
        )  # fmt: skip
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"feature stores: {root}")
    bad = [str(one.folder) for one in found if one.damaged or one.unusable]
    if verify and bad:
        raise StoreError(f"{', '.join(bad)}: damaged; the next run computes them again, --prune removes files")


def remove(setup: FoldSetup) -> None:
    """Remove stores and files that nothing will read again, and list them."""
    from rich.console import Console

    from covidnet.data.loading.transforms import Normalise, SquareFit
    from covidnet.feature_store.extract import description_of
    from covidnet.feature_store.maintenance import prune

    current = description_of(SquareFit(), Normalise((0.0,), (1.0,)), "", "", "torch")
    removed = prune(setup.cache / "features", current)
    console = Console(soft_wrap=True, highlight=False)
    for path in removed:
        console.print(f"removed {path}")
    console.print(f"{len(removed)} removed")


if __name__ == "__main__":
    # Hydra has no flags for commands: a flag becomes the setting that it stands for.
    sys.argv = [f"action={word[2:]}" if word in _ACTIONS else word for word in sys.argv]
    sys.argv[1:] = quoted(sys.argv[1:], DATA_PATHS)
    launch(main, "features")
