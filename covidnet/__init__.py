"""covidnet: chest X-ray classification experiments whose numbers can be defended."""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "WANDB_ERROR_REPORTING": "false",
}
"""Environment variables that keep libraries from sending telemetry or checking for updates.

Libraries read them on import, so they are set here, before any other import. Existing values are kept.
"""

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def _leave_working_folder() -> None:
    """Import nothing from the working folder of ``python -m covidnet.X``: it may contain files from elsewhere.

    Python searches that folder first, so it would run a ``hydra_plugins/`` or ``omegaconf.py`` there. A checkout of
    covidnet stays on the path.
    """
    # Only while `python -m` searches for its module; importing covidnet leaves the path unchanged.
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:
        return
    if Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        del sys.path[0]
        # For the processes of a sweep or of several devices.
        os.environ["PYTHONSAFEPATH"] = "1"


_leave_working_folder()
