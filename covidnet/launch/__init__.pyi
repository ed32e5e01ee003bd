from .command import compose as compose
from .command import launch as launch
from .loader import config_dir as config_dir

__all__ = ["compose", "config_dir", "launch"]
