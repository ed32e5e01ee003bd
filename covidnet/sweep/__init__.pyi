from .folder import Run as Run
from .folder import Sweep as Sweep
from .folder import read_sweep as read_sweep
from .reports import report_sweeps as report_sweeps
from .summary import ensemble_predictions as ensemble_predictions
from .summary import pooled_predictions as pooled_predictions
from .summary import summarise as summarise

__all__ = ["Run", "Sweep", "ensemble_predictions", "pooled_predictions", "read_sweep", "report_sweeps", "summarise"]
