"""What the models of a sweep look at, from what their runs saved: no image and no checkpoint is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from covidnet.evaluation.bootstrap import RESAMPLES
from covidnet.evaluation.explanations import TABLES, RunExplanations, read_explanations
from covidnet.evaluation.localisation import localisation_summary
from covidnet.evaluation.sanity import sanity_summary
from covidnet.report.summary import Panel, SweepExplanations
from covidnet.sweep.folder import Run, Sweep


def explanations_of(
    sweep: Sweep, fold: int | None, *, resamples: int = RESAMPLES, seed: int = 0
) -> SweepExplanations | None:
    """Panels of one model, and over all models where the maps lie and whether they depend on the network.

    Args:
        sweep: its runs.
        fold: whose panels are shown; the first that has some if None.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        None where no run was explained. An image that ten models explain counts once, with the mean of their maps'
        scores.
    """
    kept = {run.fold: read_explanations(run.folder) for run in sweep.runs}
    found = [(run, content) for run in sweep.runs if (content := kept[run.fold][0])]
    if not found:
        return None
    first = next((content for run, content in found if run.fold == fold), found[0][1])
    found = [(run, content) for run, content in found if content.method == first.method]
    shown = [(run, content) for run, content in found if content.panels]
    chosen = next((one for one in shown if one[0].fold == fold), shown[0] if shown else None)
    runs = [run for run, _ in found]
    tables = {name: [kept[run.fold][1][name] for run in runs if name in kept[run.fold][1]] for name in TABLES}
    localisation, sanity = (pd.concat(t, ignore_index=True) if (t := tables[name]) else None for name in TABLES)
    return SweepExplanations(
        method=first.method,
        weights=first.weights,
        freeze=first.freeze,
        part=first.part or "unseen",
        folds=[run.fold for run in runs],
        fold=None if chosen is None else chosen[0].fold,
        panels=[] if chosen is None else _panels(*chosen, sweep.folder),
        constant_maps=_constant([content for _, content in found]),
        localisation=None if localisation is None else localisation_summary(localisation, resamples, seed),
        sanity=None if sanity is None else sanity_summary(sanity, None, resamples, seed),
    )


def _constant(contents: Sequence[RunExplanations]) -> dict[str, tuple[int, int]]:
    total: dict[str, tuple[int, int]] = {}
    for content in contents:
        for part, (constant, maps) in content.constant_maps.items():
            before = total.get(part, (0, 0))
            total[part] = (before[0] + constant, before[1] + maps)
    return total


def _panels(run: Run, content: RunExplanations, home: Path) -> list[Panel]:
    folder = run.folder.relative_to(home) if run.folder.is_relative_to(home) else run.folder
    return [
        Panel(Path(name).stem.removeprefix("unseen-").removeprefix("test-"), (folder / name).as_posix())
        for name in content.panels
        if (run.folder / name).is_file()
    ]
