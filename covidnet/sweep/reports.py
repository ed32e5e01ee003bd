"""Writing the reports, comparisons and model cards of sweeps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covidnet.base.errors import DataError, SettingError
from covidnet.base.names import real_path
from covidnet.base.trust import check_links
from covidnet.evaluation.bootstrap import RESAMPLES

if TYPE_CHECKING:
    from covidnet.evaluation.comparison import Comparison
    from covidnet.report.summary import SweepAudit, SweepSummary
    from covidnet.sweep.folder import Sweep

log = logging.getLogger(__name__)

# Resamples of a model card, which should be quick.
_CARD_RESAMPLES = 500


def report_sweeps(
    folders: Sequence[Path],
    *,
    names: Sequence[str] = (),
    only: Sequence[str] = (),
    report_dir: Path | None = None,
    selection: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    unseen: str | None = None,
    cache_dir: str | Path | None = None,
    paper: bool | None = None,
    audit: Callable[[Sweep], SweepAudit] | None = None,
) -> list[SweepSummary]:
    """Write the report of the first sweep, compared with the others.

    Args:
        folders: sweep folders; at least one.
        names: their display names, one each or none.
        only: part of the run folders' names, one per sweep, one for all, or none.
        report_dir: the folder of the report; ``report`` in the first sweep's folder if None.
        selection: ``inner``, ``paper``, or None for the setting of the runs.
        resamples: number of bootstrap resamples of patients.
        seed: of the bootstrap and the simulations.
        unseen: ``open`` scores the models on a locked unseen fold.
        cache_dir: where that is recorded; needed only with ``open``.
        paper: whether to show the paper's numbers; None shows them for the paper's own data (kaggle) only.
        audit: says what could be wrong with a sweep, such as `covidnet.auditing.short.audited_sweep`; a report without
            it says that nobody looked.

    Returns:
        The summaries, in the order of the folders. A single sweep over more than the folds has one per group of runs;
        their reports are in subfolders of ``report``, next to a table of methods and seeds. A sweep over the unseen
        fold has none: its groups have one report together, ``nested.html``.

    Raises:
        SettingError: names do not match the folders, or a setting is not allowed.
        DataError: a sweep cannot be reported, or two sweeps have different splits.
        WriteError: the report cannot be written.
    """
    if paper is not None and not isinstance(paper, bool):
        raise SettingError("paper", paper, "true, false or null")
    if unseen not in (None, "open"):
        raise SettingError("unseen", unseen, "open or null")
    from rich.console import Console

    from covidnet.report.sweep.nested import outer_note
    from covidnet.report.sweep.repeats import repeats_note
    from covidnet.report.terminal import BRACKETS, metrics_table
    from covidnet.report.words import count
    from covidnet.report.write import write_report
    from covidnet.sweep.folder import REPORT, chosen_group, groups_of

    target = report_dir or folders[0].expanduser() / REPORT
    check_links(target, None if report_dir else folders[0].expanduser())
    groups = groups_of(folders[0].expanduser(), *only) if len(folders) == 1 and len(only) < 2 else []
    if len(folders) == len(only) == 1 and report_dir is None and folders[0].expanduser().is_dir():
        # A group's place is that in the report of the whole grid; a part of a group never replaces the whole's report.
        group = chosen_group(folders[0].expanduser(), only[0])
        target /= only[0] if group is None else group
    if len(groups) > 1:
        options: dict[str, Any] = {
            "selection": selection,
            "resamples": resamples,
            "seed": seed,
            "unseen": unseen,
            "paper": paper,
        }
        options["audit"] = audit
        return _report_grid(folders[0], groups, target, cache_dir=cache_dir, **options)
    sweeps, summaries = summaries_of(
        folders,
        names=names,
        only=only,
        selection=selection,
        resamples=resamples,
        seed=seed,
        unseen=unseen,
        cache_dir=cache_dir,
    )
    summaries = [replace(one, paper=paper, arguments={**one.arguments, "paper": paper}) for one in summaries]
    if audit is not None:
        summaries[0] = replace(summaries[0], audit=audit(sweeps[0]))
    if len(summaries) == 1:
        whole = folders[0].expanduser()
        group = chosen_group(whole, only[0] if only else "") or ""
        notes = [note for note in (repeats_note(group, groups_of(whole)), outer_note(group)) if note]
        summaries = [replace(summaries[0], notes=[*summaries[0].notes, *notes])]
    comparisons = _comparisons(sweeps)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = "is a file" if isinstance(error, FileExistsError) else f"cannot be created ({error.strerror})"
        raise DataError(f"{target}: {cause}; give another folder with report_dir=DIR") from None
    write_report(summaries[0], target, comparisons=comparisons, others=summaries[1:])
    console = Console(soft_wrap=True, highlight=False)
    for summary in summaries:
        console.print(f"{summary.name}: {count(len(summary.folds), 'fold')}", markup=False, emoji=False)
        console.print(metrics_table(summary.pooled.flat(), "Pooled out-of-fold predictions", classes=summary.classes))
        console.print()
    console.print(BRACKETS)
    for note in summaries[0].notes:
        console.print(note, markup=False, emoji=False)
    console.print(f"Report: {target / 'report.html'}", markup=False, emoji=False)
    return summaries


def _report_grid(folder: Path, groups: Sequence[str], target: Path, **options: Any) -> list[SweepSummary]:
    """A report of each group of a grid in its own folder, and one table of methods and seeds.

    The groups of a sweep over the unseen fold have one report together instead.
    """
    from rich.console import Console

    from covidnet.base.atomic import make_folder, write_text
    from covidnet.report.rendering.html import page_of
    from covidnet.report.sweep.grid import grid_latex, grid_table
    from covidnet.report.sweep.nested import outer_of
    from covidnet.report.sweep.repeats import repeats_document, repeats_table
    from covidnet.report.words import count
    from covidnet.sweep.folder import Sweep, read_sweep

    finished, failed = {}, {}
    for group in groups:
        try:
            finished[group] = read_sweep(folder, only=group)
        except DataError as error:
            failed[group] = error
    if not finished:
        # All name the folder, and most the same cause.
        raise next(iter(failed.values()))
    for group, cause in failed.items():
        log.error("%s: left out: %s", group, cause)
    if options.pop("unseen") == "open":
        # All groups at once, so that this counts as one opening.
        runs = [run for sweep in finished.values() for run in sweep.runs]
        _open([Sweep(folder.expanduser(), folder.name, runs, [])], options["cache_dir"])
    if nested := {group: sweep for group, sweep in finished.items() if outer_of(group)[1]}:
        _report_nested(nested, {group: cause for group, cause in failed.items() if outer_of(group)[1]}, target, options)
        finished = {group: sweep for group, sweep in finished.items() if group not in nested}
    if not finished:
        return []
    summaries: dict[str, SweepSummary] = {}
    for group in finished:
        (summaries[group],) = report_sweeps([folder], only=[group], report_dir=target / group, **options)
    table = grid_table(summaries)
    make_folder(target)
    write_text(target / "grid.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(target / "grid.tex", grid_latex(table))
    repeats = repeats_document(summaries)
    if repeats is not None:
        spreads = repeats_table(summaries)
        write_text(target / "repeats.csv", spreads.to_csv(index=False, lineterminator="\n"))
        write_text(target / "repeats.html", page_of(repeats))
    console = Console(soft_wrap=True, highlight=False)
    for row in table[table["metric"] == "accuracy"].to_dict("records"):
        sd = "" if row["n"] < 2 else f", sd {100 * row['sd']:.1f} points"
        mean = f"{100 * row['mean']:.1f}% (mean of {count(row['n'], 'repeat')}{sd})"
        console.print(f"{row['method']}: accuracy {mean}", markup=False, emoji=False)
    console.print(f"Methods and seeds: {target / 'grid.csv'} and grid.tex", markup=False, emoji=False)
    if repeats is not None:
        for row in spreads[spreads["metric"] == "accuracy"].to_dict("records"):
            parts = [f"{part} {100 * row[f'sd_{part}']:.2f}" for part in ("split", "seed", "images")]
            known = ", ".join(part for part in parts if not part.endswith("nan"))
            console.print(f"{row['method']}: standard deviation in points: {known}", markup=False, emoji=False)
        console.print(f"Repeats: {target / 'repeats.html'}; report the mean, not the best of them", markup=False)
    return list(summaries.values())


def _report_nested(
    sweeps: Mapping[str, Sweep], failed: Mapping[str, Exception], target: Path, options: Mapping[str, Any]
) -> None:
    """One report of the groups that differ by the unseen fold: nested selection."""
    import json

    import pandas as pd
    from rich.console import Console

    from covidnet.base.atomic import make_folder, write_text
    from covidnet.evaluation.nested import compared_estimates
    from covidnet.evaluation.results import to_json
    from covidnet.report.rendering.html import page_of
    from covidnet.report.sweep.nested import ROWS, nested_document, nested_table, outer_of
    from covidnet.report.terminal import BRACKETS, metrics_table
    from covidnet.sweep.nested import nested_study

    console = Console(soft_wrap=True, highlight=False)
    numbers = {name: options[name] for name in ("selection", "resamples", "seed")}
    studies = []
    for name in dict.fromkeys(outer_of(group)[0] for group in sweeps):
        own = {group: sweep for group, sweep in sweeps.items() if outer_of(group)[0] == name}
        lost = {group: cause for group, cause in failed.items() if outer_of(group)[0] == name}
        studies.append(nested_study(name, own, lost, **numbers))
    for study in studies:
        for problem in study.scores.problems:
            log.warning("%s", problem)
    scores, classes = {study.name: study.scores for study in studies}, studies[0].classes
    found = {name: {"estimates": to_json(compared_estimates(one)), **to_json(one)} for name, one in scores.items()}
    make_folder(target)
    write_text(target / "nested.html", page_of(nested_document(scores, classes, *_named(sweeps))))
    write_text(target / "nested.csv", nested_table(scores).to_csv(index=False, lineterminator="\n"))
    write_text(target / "nested.json", json.dumps({"studies": found}, indent=2) + "\n")
    predictions = pd.concat([study.predictions.assign(study=study.name) for study in studies], ignore_index=True)
    write_text(target / "nested_predictions.csv", predictions.to_csv(index=False, lineterminator="\n"))
    for name, one in scores.items():
        title = f"{name or 'Nested selection'}: selected models, pooled outer folds"
        console.print(metrics_table(one.selected.flat(), title, classes=classes))
        for row in compared_estimates(one):
            above = "" if row.optimism is None else f" ({100 * row.optimism:+.1f} points)"
            console.print(f"{ROWS[row.key]}: {100 * (row.accuracy.value or 0):.1f}%{above}", markup=False, emoji=False)
    console.print(BRACKETS)
    for note in dict.fromkeys(note for one in scores.values() for note in one.notes):
        console.print(note, markup=False, emoji=False)
    console.print(f"Report: {target / 'nested.html'}; report the pooled estimate, not an outer fold", markup=False)


def _named(sweeps: Mapping[str, Sweep]) -> tuple[str, str]:
    """The names of the sweep and of its data set."""
    first = next(iter(sweeps.values()))
    return first.folder.absolute().name, str((first.runs[0].settings.get("data") or {}).get("name") or "unnamed")


def summaries_of(
    folders: Sequence[Path],
    *,
    names: Sequence[str] = (),
    only: Sequence[str] = (),
    selection: str | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    unseen: str | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[list[Sweep], list[SweepSummary]]:
    """Read sweeps and compute their numbers; their problems are logged.

    Args:
        folders: as in `report_sweeps`.
        names: as in `report_sweeps`.
        only: as in `report_sweeps`.
        selection: as in `report_sweeps`.
        resamples: as in `report_sweeps`.
        seed: as in `report_sweeps`.
        unseen: as in `report_sweeps`.
        cache_dir: as in `report_sweeps`.

    Returns:
        The sweeps and their summaries.

    Raises:
        SettingError, DataError: as in `report_sweeps`.
    """
    from covidnet.sweep.folder import read_sweep
    from covidnet.sweep.summary import summarise

    if not folders:
        raise SettingError("sweep_dir", "[]", "one or more folders of sweeps")
    if unseen not in (None, "open"):
        raise SettingError("unseen", unseen, "open or null")
    if names and (len(names) != len(folders) or len(set(names)) != len(names)):
        raise SettingError("names", list(names), f"{len(folders)} different names, one for each of sweep_dir")
    if len(only) not in (0, 1, len(folders)):
        raise SettingError("only", list(only), f"one text, or {len(folders)}, one for each of sweep_dir")
    chosen = [only[0]] * len(folders) if len(only) == 1 else list(only) or [""] * len(folders)
    studies = [(real_path(folder.expanduser()), text) for folder, text in zip(folders, chosen, strict=True)]
    if len(set(studies)) != len(studies):
        raise SettingError("sweep_dir", [str(f) for f in folders], "different sweeps", "one of them is given twice")
    sources = list(zip(folders, names or _names(studies), chosen, strict=True))
    sweeps = [read_sweep(*one) for one in sources]
    if unseen == "open":
        opened = _open(sweeps, cache_dir)
        sweeps = [read_sweep(*one) if new else sweep for one, new, sweep in zip(sources, opened, sweeps, strict=True)]
    for sweep in sweeps:
        for problem in sweep.problems:
            log.warning("%s: %s", sweep.name, problem)
    return sweeps, [summarise(sweep, selection=selection, resamples=resamples, seed=seed) for sweep in sweeps]


def _open(sweeps: Sequence[Sweep], cache_dir: str | Path | None) -> list[bool]:
    from covidnet.sweep.unseen_opening import open_unseen

    if cache_dir is None:
        raise SettingError("cache_dir", None, "the folder that the models were trained with")
    return [open_unseen(sweep, real_path(Path(cache_dir).expanduser())) for sweep in sweeps]


def card_of(folder: str | Path, only: str = "") -> str:
    """The model card of a sweep or of a single run.

    Args:
        folder: a sweep folder, a run folder, or the checkpoint of a run.
        only: in a sweep folder, select the runs with this in their names.

    Returns:
        Markdown: the ``report/model_card.md`` of the folder (in ``report/GROUP/`` for a group) if it exists, else a
        card from the saved predictions, with fewer bootstrap resamples than a report. The card states their number.

    Raises:
        SettingError: `only` matches no run folder.
        DataError: the folder does not exist, or has no run.
    """
    from covidnet.report.card.card import model_card
    from covidnet.report.words import CARD_PLAIN
    from covidnet.sweep.folder import REPORT, chosen_group, read_sweep
    from covidnet.sweep.summary import summarise

    path = Path(folder).expanduser()
    if path.is_file():
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    group = chosen_group(path, only) if only and path.is_dir() else ""
    written = path / REPORT / (group or "") / CARD_PLAIN
    if group is not None and written.is_file():
        return written.read_text(encoding="utf-8", errors="replace")
    return model_card(summarise(read_sweep(path, only=only), resamples=_CARD_RESAMPLES))


def _comparisons(sweeps: Sequence[Sweep]) -> list[Comparison]:
    """Every pair of sweeps on their pooled predictions."""
    from covidnet.evaluation.comparison import adjust, compare_tables
    from covidnet.sweep.summary import pooled_predictions

    pooled = [pooled_predictions(sweep.runs) for sweep in sweeps]
    if others := [sweep for sweep in sweeps if sweep.classes.names != sweeps[0].classes.names]:
        both = " and ".join(f"{one.name} ({', '.join(one.classes)})" for one in (sweeps[0], others[0]))
        raise DataError(f"{both}: different classes cannot be compared; give sweeps of the same classes")
    share = max(_test_share(sweep) for sweep in sweeps)
    found = [
        compare_tables(
            pooled[a],
            pooled[b],
            name_a=sweeps[a].name,
            name_b=sweeps[b].name,
            common_folds=True,
            test_share=share,
            classes=sweeps[a].classes,
        )
        for a in range(len(sweeps))
        for b in range(a + 1, len(sweeps))
    ]
    return adjust(found)


def _test_share(sweep: Sweep) -> float:
    """Test images per training image in a fold; 1/9, as in ten folds, if the runs do not record it."""
    run = sweep.runs[0]
    counts = ((run.metrics.get("data") or {}).get("counts") or {}).get("train") or {}
    trained_on = sum(of_class["films"] for of_class in counts.values())
    return len(run.rows("test")) / trained_on if trained_on else 1.0 / 9.0


def _names(studies: Sequence[tuple[Path, str]]) -> list[str]:
    """The folders' names with their selection, and as much of the path as makes them unique."""
    for length in range(1, 8):
        names = [" ".join(filter(None, ("/".join(path.parts[-length:]), text))) for path, text in studies]
        if len(set(names)) == len(names):
            return names
    return [f"{path} {text}".strip() for path, text in studies]
