from .known_images import KnownImages as KnownImages
from .known_images import known_images as known_images
from .validation import ExternalValidation as ExternalValidation

__all__ = ["ExternalValidation", "KnownImages", "known_images"]
