"""A model card from the checkpoint only."""

from __future__ import annotations

from covidnet.serving.facts import NOTICE, ModelFacts


def facts_card(facts: ModelFacts) -> str:
    """The facts that a checkpoint records about its model, in Markdown.

    Args:
        facts: of the model; missing ones appear as "not available".
    """

    def known(value: object) -> str:
        return "not available" if value in (None, "", {}, ()) else str(value)

    training = facts.training
    rows = [
        ("Network", facts.network),
        ("Initial weights", facts.weights + (", frozen" if facts.frozen else "")),
        ("Models", facts.members),
        ("Test folds", ", ".join(known(fold) for fold in facts.folds)),
        ("Input", f"{facts.image_size} x {facts.image_size} pixels, made square by: {facts.fit}"),
        ("Temperatures", ", ".join("not available" if t is None else f"{t:.3f}" for t in facts.temperatures)),
        *((f"Training: {name.replace('_', ' ')}", known(training.get(name))) for name in _TRAINING),
        *((f"Version: {name}", version) for name, version in facts.versions.items()),
    ]
    notes = [*facts.notes(), *facts.map_notes()]
    lines = [f"# Model card: {facts.title}", "", NOTICE, "", *(f"{note}\n" for note in notes)]
    lines += ["## Facts in the checkpoint", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows]
    return "\n".join([*lines, "", "Scores: not available here; see the sweep's report."]) + "\n"


_TRAINING = ("name", "images", "group", "validation", "manifest_sha256", "split_sha256")
