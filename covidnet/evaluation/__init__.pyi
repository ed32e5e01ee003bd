from .calibration import brier_score as brier_score
from .calibration import expected_calibration_error as expected_calibration_error
from .calibration import reliability as reliability
from .comparison import compare_tables as compare_tables
from .comparison import corrected_resampled_t as corrected_resampled_t
from .comparison import delong as delong
from .comparison import holm as holm
from .comparison import mcnemar_by_patient as mcnemar_by_patient
from .comparison import mcnemar_exact as mcnemar_exact
from .intervals import design_effect as design_effect
from .intervals import f1_interval as f1_interval
from .intervals import proportion_interval as proportion_interval
from .intervals import wilson as wilson
from .localisation import heat_share as heat_share
from .localisation import otsu_iou as otsu_iou
from .localisation import pointing as pointing
from .metrics import class_metrics as class_metrics
from .metrics import confusion as confusion
from .metrics import split_metrics as split_metrics
from .predictions import predictions_table as predictions_table
from .predictions import read_predictions as read_predictions
from .predictions import write_predictions as write_predictions
from .ranking import area_estimate as area_estimate
from .ranking import average_precision as average_precision
from .ranking import roc_auc as roc_auc
from .results import Estimate as Estimate
from .results import from_json as from_json
from .results import to_json as to_json
from .scores import SplitScores as SplitScores
from .scores import scored as scored
from .selection import expected_best as expected_best
from .temperature import fit_temperature as fit_temperature
from .temperature import tempered as tempered

__all__ = [
    "Estimate",
    "SplitScores",
    "area_estimate",
    "average_precision",
    "brier_score",
    "class_metrics",
    "compare_tables",
    "confusion",
    "corrected_resampled_t",
    "delong",
    "design_effect",
    "expected_best",
    "expected_calibration_error",
    "f1_interval",
    "fit_temperature",
    "from_json",
    "heat_share",
    "holm",
    "mcnemar_by_patient",
    "mcnemar_exact",
    "otsu_iou",
    "pointing",
    "predictions_table",
    "proportion_interval",
    "read_predictions",
    "reliability",
    "roc_auc",
    "scored",
    "split_metrics",
    "tempered",
    "to_json",
    "wilson",
    "write_predictions",
]
