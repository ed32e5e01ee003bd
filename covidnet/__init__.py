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
"""Environment variables that keep libraries from sending telemetry or looking for updates.

Libraries read them when they are imported, so they are set here, before any import. A value that is set already stays.
"""

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)


def _leave_working_folder() -> None:
    """Import nothing from the folder that ``python -m covidnet.X`` is started in: it may hold data from elsewhere.

    Python puts that folder first, and a ``hydra_plugins/`` or ``omegaconf.py`` in it would be run. A checkout stays.
    """
    # Only while `python -m` looks for its module; who imports covidnet keeps their path.
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:
        return
    if Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
        del sys.path[0]
        # For the processes of a sweep or of several devices.
        os.environ["PYTHONSAFEPATH"] = "1"


_leave_working_folder()
