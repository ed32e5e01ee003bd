from .backbones import Backbone as Backbone
from .backbones import build_backbone as build_backbone
from .classifier import Classifier as Classifier
from .classifier import build_classifier as build_classifier
from .heads import AnomalyHead as AnomalyHead
from .heads import LinearHead as LinearHead
from .heads import MonteCarloHead as MonteCarloHead
from .heads import build_head as build_head
from .inputs import InputSpec as InputSpec
from .registry import register_head as register_head
from .registry import register_network as register_network
from .saliency import saliency as saliency

__all__ = [
    "AnomalyHead",
    "Backbone",
    "Classifier",
    "InputSpec",
    "LinearHead",
    "MonteCarloHead",
    "build_backbone",
    "build_classifier",
    "build_head",
    "register_head",
    "register_network",
    "saliency",
]
