"""Stores features of the frozen backbone, so that each is computed once."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
