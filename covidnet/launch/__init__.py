"""From a command line to a checked configuration, and where the jobs of a sweep run."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
