from .command import compose as compose
from .command import config_dir as config_dir
from .command import launch as launch

__all__ = ["compose", "config_dir", "launch"]
