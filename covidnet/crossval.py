"""``python -m covidnet.crossval sweep_dir=DIR``: the report of ten folds, from their saved predictions alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.config import launch
from covidnet.errors import DataError, SettingError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from covidnet.sweep import Sweep

log = logging.getLogger(__name__)


def main(cfg: DictConfig) -> None:
    """Report one sweep, or several and how they compare.

    Args:
        cfg: the composed configuration ``crossval``.

    Raises:
        SettingError: a setting is not allowed.
        DataError: a sweep cannot be reported, or two of them are not of the same split.
    """
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(cfg, "sweep_dir"):
        raise SettingError("sweep_dir", "", "the folder of a sweep, which holds fold=0/ and so on", "say sweep_dir=DIR")
    folders = OmegaConf.to_container(cfg.sweep_dir) if OmegaConf.is_list(cfg.sweep_dir) else [cfg.sweep_dir]
    names = OmegaConf.to_container(cfg.names) if OmegaConf.is_list(cfg.names) else [cfg.names] if cfg.names else []
    assert isinstance(folders, list)
    assert isinstance(names, list)
    report_sweeps(
        [Path(str(folder)) for folder in folders],
        names=[str(name) for name in names],
        report_dir=None if cfg.report_dir is None else Path(cfg.report_dir),
        selection=cfg.selection,
        resamples=cfg.resamples,
        seed=cfg.seed,
    )


def report_sweeps(
    folders: Sequence[Path],
    *,
    names: Sequence[str] = (),
    report_dir: Path | None = None,
    selection: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Write a report of the first sweep, with the others beside it and compared with it.

    Args:
        folders: sweep folders; at least one.
        names: what to call them, one for each or none.
        report_dir: where the report goes; ``report`` in the first sweep's folder if None.
        selection: ``inner``, ``paper``, or None for what the runs were set to.
        resamples: of the patient-clustered bootstrap.
        seed: of everything that is drawn.

    Returns:
        The summaries, in the order of the folders.

    Raises:
        SettingError: names do not fit the folders, or a setting is not allowed.
        DataError: a sweep cannot be reported, or two of them are not of the same split.
        WriteError: the report cannot be written.
    """
    from rich.console import Console

    from covidnet.report.html import write_report
    from covidnet.report.tables import metrics_table
    from covidnet.sweep import REPORT

    sweeps, summaries = summaries_of(folders, names=names, selection=selection, resamples=resamples, seed=seed)
    comparisons = _comparisons(sweeps)
    target = report_dir or folders[0].expanduser() / REPORT
    try:
        target.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataError(f"{target}: is a file; give another folder with report_dir=DIR") from None
    write_report(summaries[0], target, comparisons=comparisons, others=summaries[1:])
    console = Console(soft_wrap=True, highlight=False)
    for summary in summaries:
        console.print(f"{summary['name']}: {len(summary['folds'])} folds", markup=False, emoji=False)
        console.print(metrics_table(_plain(summary["pooled"]), "Pooled out-of-fold predictions"))
        console.print()
    console.print("In brackets: 95% intervals (Wilson; accuracy and F1 bootstrapped over patients).")
    for note in summaries[0]["notes"]:
        console.print(note, markup=False, emoji=False)
    console.print(f"Report: {target / 'report.html'}", markup=False, emoji=False)
    return summaries


def summaries_of(
    folders: Sequence[Path],
    *,
    names: Sequence[str] = (),
    selection: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[Sweep], list[dict[str, Any]]]:
    """Read sweeps and compute their numbers; what is wrong with them is logged.

    Args:
        folders: as in `report_sweeps`, and so the others.
        names: of the sweeps.
        selection: the rule.
        resamples: of the bootstrap.
        seed: of everything that is drawn.

    Returns:
        The sweeps and their summaries.

    Raises:
        SettingError, DataError: as in `report_sweeps`.
    """
    from covidnet.sweep import read_sweep
    from covidnet.sweep_summary import summarise

    if not folders:
        raise SettingError("sweep_dir", "[]", "one or more folders of sweeps")
    if names and len(names) != len(folders):
        raise SettingError("names", list(names), f"{len(folders)} names, one for each of sweep_dir")
    sweeps = [read_sweep(folder, name) for folder, name in zip(folders, names or _names(folders), strict=True)]
    for sweep in sweeps:
        for problem in sweep.problems:
            log.warning("%s: %s", sweep.name, problem)
    return sweeps, [summarise(sweep, selection=selection, resamples=resamples, seed=seed) for sweep in sweeps]


def _comparisons(sweeps: Sequence[Sweep]) -> list[dict[str, Any]]:
    """Every pair of sweeps on their pooled predictions."""
    from covidnet.evaluation.comparison import adjust, compare_tables
    from covidnet.sweep_summary import pooled_predictions

    pooled = [pooled_predictions(sweep.runs) for sweep in sweeps]
    share = max(_test_share(sweep) for sweep in sweeps)
    found = [
        compare_tables(
            pooled[a],
            pooled[b],
            name_a=sweeps[a].name,
            name_b=sweeps[b].name,
            common_folds=True,
            test_share=share,
        )
        for a in range(len(sweeps))
        for b in range(a + 1, len(sweeps))
    ]
    return adjust(found)


def _test_share(sweep: Sweep) -> float:
    """Test films for each training film in a fold; of ten folds nine are trained on where the runs do not say."""
    run = sweep.runs[0]
    counts = ((run.metrics.get("data") or {}).get("counts") or {}).get("train") or {}
    trained_on = sum(of_class["films"] for of_class in counts.values())
    return len(run.rows("test")) / trained_on if trained_on else 1.0 / 9.0


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names; where two are the same, as much of the path as tells them apart."""
    resolved = [folder.expanduser().resolve() for folder in folders]
    for length in range(1, 8):
        names = ["/".join(path.parts[-length:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in resolved]


def _plain(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores with intervals in the flat form of metrics.json."""
    keys = ("sensitivity", "specificity", "f1")
    return {
        "n": scores["n"],
        "accuracy": scores["accuracy"]["value"],
        "accuracy_ci": scores["accuracy"]["ci"],
        "classes": {
            label: {
                "support": numbers["support"],
                **{key: numbers[key]["value"] for key in keys},
                **{f"{key}_ci": numbers[key]["ci"] for key in keys},
            }
            for label, numbers in scores["classes"].items()
        },
    }


if __name__ == "__main__":
    launch(main, "crossval")
