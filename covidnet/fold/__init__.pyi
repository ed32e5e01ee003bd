from .run import FoldRun as FoldRun
from .setup import FoldSetup as FoldSetup

__all__ = ["FoldRun", "FoldSetup"]
