"""Trained models at work, on images of any source: PyTorch or ONNX Runtime, on a command line or behind a page."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
