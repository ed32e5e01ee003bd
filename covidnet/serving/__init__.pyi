from .answers import ImageAnswer as ImageAnswer
from .answers import Predictor as Predictor
from .facts import ModelFacts as ModelFacts
from .model import ServedModel as ServedModel
from .open_model import open_model as open_model

__all__ = ["ImageAnswer", "ModelFacts", "Predictor", "ServedModel", "open_model"]
