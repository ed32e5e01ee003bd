"""Networks as plain `torch.nn.Module`s: backbones, heads, weights, heat maps. No Lightning, no data loading."""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
