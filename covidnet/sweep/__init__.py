"""A sweep: its folder, its numbers, its reports and comparisons."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
