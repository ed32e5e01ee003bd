from .losses import deviation_loss as deviation_loss
from .module import ClassificationModule as ClassificationModule

__all__ = ["ClassificationModule", "deviation_loss"]
