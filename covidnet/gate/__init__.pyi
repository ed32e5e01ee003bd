from .flags import Flag as Flag
from .gate import InputGate as InputGate
from .gate import fixed_rules as fixed_rules

__all__ = ["Flag", "InputGate", "fixed_rules"]
