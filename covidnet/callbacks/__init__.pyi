from .class_metrics import ClassMetrics as ClassMetrics
from .gradcam_panels import GradCamPanels as GradCamPanels
from .prediction_writer import PredictionWriter as PredictionWriter

__all__ = ["ClassMetrics", "GradCamPanels", "PredictionWriter"]
