"""Heat maps of a fold's images and of any others, and tests of the maps."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
