"""The list of checks, and an audit: the answers of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from covidnet.auditing.acquisition import acquisition
from covidnet.auditing.clinical import clinical
from covidnet.auditing.finding import LEVELS, Answer, Check, Finding
from covidnet.auditing.identity import identity
from covidnet.auditing.labels import labels
from covidnet.auditing.leaks import leaks
from covidnet.auditing.published_tables import published_tables
from covidnet.auditing.reporting import reporting
from covidnet.auditing.same_image import same_image
from covidnet.auditing.shortcuts import shortcuts
from covidnet.auditing.shuffled_labels import shuffled_labels
from covidnet.auditing.stability import stability
from covidnet.auditing.study import NotPossibleError, Study
from covidnet.auditing.subgroups import subgroups
from covidnet.auditing.uncertainty import uncertainty

CHECKS: tuple[Check, ...] = (
    Check("leaks", "Leaks of the split", "Do the files of the sweep keep every rule of the folds?", leaks),
    Check("identity", "Patient identity", "Is each patient one id, and each id one patient?", identity),
    Check("same_image", "The same image again", "Does an image occur more than once, however changed?", same_image),
    Check(
        "acquisition", "Source and acquisition", "Does what is known of the images give the class away?", acquisition
    ),
    Check("shortcuts", "Shortcuts", "Do corners and borders of the images give the class away?", shortcuts),
    Check("labels", "Labels", "Do copies or the models contradict labels?", labels),
    Check(
        "shuffled_labels",
        "Shuffled labels",
        "Would labels that have nothing to do with the images give as high an accuracy?",
        shuffled_labels,
    ),
    Check("subgroups", "Subgroups", "Is the accuracy lower in some group of images?", subgroups),
    Check(
        "stability",
        "Stability",
        "Would another seed, more epochs or more patients give another number?",
        stability,
    ),
    Check(
        "uncertainty",
        "Uncertainty",
        "Do prediction sets hold what they promise, and does confidence say which predictions are wrong?",
        uncertainty,
    ),
    Check("clinical", "Clinical reading", "What do the rates mean where the disease is rare?", clinical),
    Check("published_tables", "Published tables", "Can the printed numbers hold together?", published_tables),
    Check(
        "reporting",
        "Reporting checklists",
        "What can be said of each item of CLAIM 2024, TRIPOD+AI and PROBAST+AI?",
        reporting,
    ),
)
"""The checks in the order of the report. A new one is added here and nowhere else."""


@dataclass(frozen=True)
class Audit:
    """The answers of all checks.

    Args:
        study: what was audited.
        answers: by the name of the check; of those that could run.
        not_possible: why the others could not.
    """

    study: Study
    answers: dict[str, Answer]
    not_possible: dict[str, str]

    @property
    def findings(self) -> list[Finding]:
        """All findings, the most serious first."""
        found = [finding for answer in self.answers.values() for finding in answer.findings]
        return sorted(found, key=lambda finding: list(LEVELS).index(finding.level))

    @property
    def serious(self) -> list[Finding]:
        """The findings that block or weaken a claim."""
        return [finding for finding in self.findings if finding.level != "information"]


def audited(study: Study, checks: Sequence[Check] = CHECKS) -> Audit:
    """Run the checks; one that cannot run says why, and the others run.

    Args:
        study: a data set, and a sweep if there is one.
        checks: some of `CHECKS`.
    """
    answers, not_possible = {}, {}
    for check in checks:
        try:
            answers[check.name] = check.run(study)
        except NotPossibleError as error:
            not_possible[check.name] = str(error)
    return Audit(study, answers, not_possible)
