"""Prediction with trained models: PyTorch or ONNX Runtime, on the command line or in a web application."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
