"""One run: its set-up, its steps, its folder, resuming it, and what its checkpoint needs to be used."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
