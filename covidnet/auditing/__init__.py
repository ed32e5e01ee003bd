"""The audit of a data set and of a sweep on it: what a hostile reviewer would find."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
