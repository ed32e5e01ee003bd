from .fold_maps import Explanations as Explanations
from .image_maps import ImageMaps as ImageMaps

__all__ = ["Explanations", "ImageMaps"]
