"""A file becomes 8-bit grey, or is refused with its cause."""
